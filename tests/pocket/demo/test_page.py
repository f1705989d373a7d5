"""The demo's page in Chromium, used as a newcomer would."""

import os
import threading
from pathlib import Path

from rivulet.pocket.demo import main, watching
from rivulet.tests.browser import drive, find_chromium
from rivulet.tests.pocket.demo.test_take import connects, free_port
from rivulet.tests.waiting import wait_for


def test_it_is_watched_steered_stopped_and_played_again(tmp_path, monkeypatch):
    find_chromium()  # before a stream begins that only the page would end
    monkeypatch.setattr(watching, "LINGER_SECONDS", 20)
    port, status = free_port(), []
    options = ["--no-browser", "--out", str(tmp_path), "--port", str(port), "--seed", "3"]
    thread = threading.Thread(target=lambda: status.append(main(options)), daemon=True)
    thread.start()
    wait_for(lambda: connects(port))
    shots = os.environ.get("RIVULET_SHOTS", str(tmp_path))
    page = Path(__file__).with_name("page.mjs")
    seen = drive(page, url=f"http://127.0.0.1:{port}/", prompt="a cyan square on a red ground", shots=shots)
    # a page that waits for a segment when the stream ends is told that none will come, which browsers log
    assert [error for error in seen["errors"] if "410" not in error] == [], seen
    assert seen["hidden"] == [] and seen["plays"] and seen["playsAgain"], seen
    assert not seen["modeShown"] and not seen["examplesAfter"] and seen["saves"].endswith("/video")
    thread.join(timeout=120)
    assert status == [0]
