"""The demo's page in Chromium, used as a newcomer would."""

import os
import threading
from pathlib import Path

from rivulet.pocket.demo import main, watching
from rivulet.tests.browser import drive, find_chromium
from rivulet.tests.pocket.demo.test_take import connects, free_port
from rivulet.tests.waiting import wait_for


def test_it_is_watched_steered_stopped_played_again_and_another_is_made(tmp_path, monkeypatch):
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
    # and so is a prompt that cannot be shown, of another video
    assert [error for error in seen["errors"] if "410" not in error and "400" not in error] == [], seen
    assert seen["hidden"] == [] and seen["plays"] and seen["playsAgain"], seen
    assert not seen["modeShown"] and seen["saves"].endswith("/video") and seen["opens"] == seen["saves"]
    assert seen["bars"] < 1, "black bars beside the picture"
    assert "Try: a red circle" in seen["refusal"] and seen["refusalIsWhole"] and seen["refusedIsWhole"]
    assert seen["loops"]
    assert seen["reached"].startswith("2. From 0:0") and seen["reached"].endswith("on a blue ground")
    assert seen["tabStops"] == 1, "one key leaves the strip"
    assert seen["caption"] == "a magenta square and a cyan circle on a green ground"
    assert seen["paths"] == [str(tmp_path / f"rivulet-000{number}.mp4") for number in (1, 2)]
    assert all(Path(path).is_file() for path in seen["paths"])
    thread.join(timeout=120)
    assert status == [0]
