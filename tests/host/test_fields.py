"""What is typed into Stream Video's fields in ComfyUI's page is what is sent."""

import os
from pathlib import Path

from rivulet.tests.browser import drive
from rivulet.tests.host.graphs import stream_graph


def test_a_rate_keeps_three_places_and_its_arrows_go_by_one(server, tmp_path):
    rates = ["23.976", "59.94", "24"]
    told = {"url": server.url, "graph": stream_graph("fields"), "vue": False, "rates": rates}
    seen = drive(
        Path(__file__).with_name("fields_page.mjs"),
        **told,
        shots=os.environ.get("RIVULET_SHOTS", str(tmp_path)),
    )
    assert seen["errors"] == [], seen["errors"]
    assert seen["typed"] == [23.976, 59.94, 24] and seen["saved"] == 24
    assert seen["options"]["step2"] == 1 and seen["options"]["precision"] == 3
