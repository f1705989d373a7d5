"""The check inside a ComfyUI: what is asked of its server, and what of its failures is said."""

import json
import sys

import pytest
from rivulet.model_patches.check import in_comfyui

SERVER = """
import http.server, json, pathlib, sys
base, port, mode = pathlib.Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
if mode == "dies":
    sys.exit("no such option")
print("Rivulet check [1/1] 0.1 s  ok       fine: it is", flush=True)
class Answer(http.server.BaseHTTPRequestHandler):
    def say(self, value):
        self.send_response(400 if value is None else 200)
        self.end_headers()
        self.wfile.write(json.dumps(value).encode())
    def do_GET(self):
        verdict = "broken" if mode == "broken" else "ok"
        if self.path == "/history/7":
            (base / "output" / "rivulet").mkdir(parents=True, exist_ok=True)
            if mode != "stopped":
                found = {"findings": [{"verdict": verdict}], "how": Answer.how}
                (base / "output" / "rivulet" / "check_00001_.json").write_text(json.dumps(found))
            state = "error" if mode == "stopped" else "success"
            self.say({"7": {"status": {"status_str": state}, "outputs": {"1": {"text": ["the report"]}}}})
        else:
            self.say({"system": {}})
    def do_POST(self):
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        Answer.how = asked["prompt"]["1"]["inputs"]["check_card"]
        self.say(None if mode == "refuses" else {"prompt_id": "7"})
    def log_message(self, *_):
        pass
http.server.HTTPServer(("127.0.0.1", port), Answer).serve_forever()
"""


@pytest.fixture
def check(tmp_path):
    def run(mode, target=None):
        def start(base, port):
            return [sys.executable, "-c", SERVER, str(base), str(port), mode]

        return in_comfyui.check_in_comfyui(start, tmp_path, "quick", target)

    return run


@pytest.mark.parametrize(("mode", "status"), [("fine", 0), ("broken", 1)])
def test_the_doctors_report_is_printed_and_its_file_kept(check, mode, status, tmp_path, capsys):
    target = tmp_path / "found.json"
    assert check(mode, target) == status
    out, err = capsys.readouterr()
    assert out.startswith("the report\nwritten to found.json") and "Rivulet check [1/1]" in err
    assert json.loads(target.read_text())["how"] == "quick"


@pytest.mark.parametrize(
    ("mode", "words"),
    [
        ("dies", r"did not come up \(ended with 1\). Its last lines:\nno such option"),
        ("refuses", "did not take the Doctor node"),
        ("stopped", "stopped in the check"),
    ],
)
def test_a_comfyui_that_fails_is_said_with_its_last_lines(check, mode, words):
    with pytest.raises(in_comfyui.FailedError, match=words):
        check(mode)
