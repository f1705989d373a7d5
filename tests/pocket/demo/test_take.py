import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
from pathlib import Path

import pytest
import torch
from rivulet.model_patches.stream import pipeline
from rivulet.model_patches.viewers.live import LiveStream
from rivulet.model_patches.writer.movie import frame_count
from rivulet.model_patches.writer.parts import part_path
from rivulet.model_patches.writer.video import Mp4Writer
from rivulet.pocket.demo import main, watching
from rivulet.pocket.demo import take as take_module
from rivulet.pocket.demo.cli import out, parser
from rivulet.pocket.demo.files import next_path, video_path
from rivulet.pocket.models import DIT_FILE
from rivulet.tests.waiting import wait_for
from safetensors import safe_open
from safetensors.torch import save_file

posix = pytest.mark.skipif(os.name != "posix", reason="needs POSIX signals")


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def test_a_take_of_a_length_is_written_and_measured(weights, tmp_path, capsys):
    options = ["--weights", str(weights), "--seconds", "2", "--no-browser", "--out", str(tmp_path)]
    assert main(options) == 0
    said = capsys.readouterr()
    printed = said.out.splitlines()
    names = [line.split(":")[0] for line in printed]
    assert names == ["frames per second", "first chunk", "peak memory", "video"]
    assert f'--resume "{tmp_path / "rivulet-0001.mp4"}"' in said.err
    # 2 s are 32 frames: blocks of 9, 12 and 12
    assert frame_count(tmp_path / "rivulet-0001.mp4") == 33
    assert "33 frames, 2.1 s" in printed[-1] and "rivulet-0001.mp4" in printed[-1]
    assert sorted(os.listdir(tmp_path)) == ["rivulet-0001.mp4", "rivulet-0001.take"]


def test_the_same_seed_gives_the_same_file_and_another_size_another(weights, tmp_path):
    def film(name, *more):
        path = tmp_path / name
        base = ["--weights", str(weights), "--seconds", "0.5", "--no-browser", "--out", str(path)]
        assert main([*base, *more]) == 0
        return path.read_bytes()

    first = film("a.mp4", "--seed", "5", "--size", "32x16")
    assert first == film("b.mp4", "--seed", "5", "--size", "32x16")
    assert first != film("c.mp4", "--seed", "6", "--size", "32x16")
    assert first != film("d.mp4", "--seed", "5", "--size", "16")


@pytest.fixture
def running(weights, tmp_path, connect):
    """Returns what starts an endless take on a thread: (client, function that gives its exit status)."""

    def start(*more):
        port, status = free_port(), []
        options = ["--weights", str(weights), "--no-browser", "--out", str(tmp_path), "--port", str(port)]
        thread = threading.Thread(target=lambda: status.append(main([*options, *more])), daemon=True)
        thread.start()
        wait_for(lambda: connects(port))

        def finished():
            thread.join(timeout=60)
            return status[0]

        return connect(port), finished

    return start


def connects(port):
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def test_an_endless_take_is_steered_and_stopped_from_the_page(running, tmp_path, monkeypatch):
    monkeypatch.setattr(watching, "LINGER_SECONDS", 0.5)
    client, finished = running()
    client.wait(lambda state: state["block"] >= 1)
    client.wish(1, "prompt", prompt="a cyan square", mode="smooth")
    told = client.wait(lambda state: state["prompt_count"] == 2)["prompts"][-1]
    assert told["prompt"] == "a cyan square" and told["first_frame"] == 12 * told["block"] - 3
    client.wish(2, "pause")
    paused = client.wait(lambda state: state["phase"] == "paused")
    client.wish(3, "resume")
    client.wait(lambda state: state["frames"] > paused["frames"] + 12)
    client.wish(4, "stop")
    ended = client.wait(lambda state: state["phase"] == "ended")
    assert ended["video"]
    assert (
        len(client.ask("GET", client.stream("/video"))[2]) == (tmp_path / "rivulet-0001.mp4").stat().st_size
    )
    assert finished() == 0
    assert frame_count(tmp_path / "rivulet-0001.mp4") == ended["frames"]


def test_a_stream_that_breaks_keeps_its_pictures_and_says_why(running, tmp_path, monkeypatch, capsys):
    step = pipeline.step

    def break_at_the_third(model, state, **options):
        if state.block == 2:
            raise RuntimeError("Stream: block 2 came out with NaN.")
        return step(model, state, **options)

    monkeypatch.setattr(pipeline, "step", break_at_the_third)
    _, finished = running()
    assert finished() == 2
    assert frame_count(tmp_path / "rivulet-0001.mp4") == 21
    captured = capsys.readouterr()
    assert "demo: Stream: block 2 came out with NaN." in captured.err
    assert "21 frames" in captured.out


def test_what_is_interrupted_inside_a_block_is_kept_too(weights, tmp_path, monkeypatch):
    step = pipeline.step

    def interrupt_the_second(model, state, **options):
        if state.block == 1:
            raise KeyboardInterrupt
        return step(model, state, **options)

    monkeypatch.setattr(pipeline, "step", interrupt_the_second)
    options = ["--weights", str(weights), "--no-browser", "--out", str(tmp_path)]
    assert main(options) == 130
    assert frame_count(tmp_path / "rivulet-0001.mp4") == 9


@posix
@pytest.mark.parametrize("first", [signal.SIGINT, signal.SIGTERM], ids=lambda number: number.name)
def test_the_first_ctrl_c_waits_for_the_block_and_the_second_does_not(feed, capfd, first):
    before = signal.getsignal(signal.SIGINT)  # a shell's background job has it ignored
    with watching.CtrlC() as ctrl_c:
        ctrl_c.watch(feed.session)
        signal.raise_signal(first)
        assert feed.session.stopping and ctrl_c.pressed
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
    assert "stopping after this block" in capfd.readouterr().err
    assert signal.getsignal(signal.SIGINT) is before


CHILD = """
import importlib.util, sys
spec = importlib.util.spec_from_file_location("rivulet", sys.argv[1] + "/__init__.py",
                                              submodule_search_locations=[sys.argv[1]])
sys.modules["rivulet"] = importlib.util.module_from_spec(spec)
spec.loader.exec_module(sys.modules["rivulet"])
from rivulet.pocket.demo import main
sys.exit(main(sys.argv[2:]))
"""


@posix
def test_ctrl_c_keeps_the_video(root, weights, tmp_path, connect):
    port = free_port()
    command = [sys.executable, "-c", CHILD, str(root), "--weights", str(weights), "--no-browser"]
    command += ["--out", str(tmp_path), "--port", str(port)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as child:
        wait_for(lambda: connects(port))
        made = connect(port).wait(lambda state: state["block"] >= 2)["frames"]
        child.send_signal(signal.SIGINT)
        printed = child.communicate(timeout=60)[0]
    assert child.returncode == 0
    assert "rivulet-0001.mp4" in printed
    assert frame_count(tmp_path / "rivulet-0001.mp4") >= made
    assert sorted(os.listdir(tmp_path)) == ["rivulet-0001.mp4", "rivulet-0001.take"]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--size", "60"], "width must be a multiple of 16 pixels, got 60; nearest is 64"),
        (["--prompt", "a purple dog"], "does not know 'purple', 'dog'"),
        (["--weights", "nowhere"], "no file at nowhere"),
        (["--cache", "fp8"], "there is no format 'fp8'; choose one of dense, int8, latent, mla, mla-int8."),
        (["--memory", "all"], "there is no 'all'; choose one of learned, ema, memrope, off."),
        (["--cache", "mla"], "is no VideoMLA attention"),
        (["--cache", "latent"], "pocket_basis.safetensors"),
        (
            ["--memory", "learned"],
            "learned needs the file of a memory trained with this checkpoint, and there is none at",
        ),
        (["--out", "file/take.mp4"], "cannot write into file"),
        (["--out", "there.mp4"], "there.mp4 exists already"),
        (["--port", "70000"], "port 70000 cannot be opened"),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else "",
)
def test_what_cannot_work_is_told_before_work_starts(weights, tmp_path, monkeypatch, capsys, options, words):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").write_text("")
    (tmp_path / "there.mp4").write_text("")
    assert main(["--weights", str(weights), "--no-browser", "--seconds", "1", *options]) == 2
    assert words in capsys.readouterr().err
    assert (tmp_path / "there.mp4").read_text() == ""


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--out", "x.avi"], "'x.avi' is no folder, and videos end in .mp4"),
        (["--out", "a/X.MOV"], "'a/X.MOV' is no folder"),
        (["--prompt", "a red \udcff circle"], "its letter 7 is no letter of any script"),
        (["--seconds", "long"], "'long' is no length"),
        (["--size", "64x"], "'64x' is no size"),
    ],
)
def test_an_argument_that_cannot_be_leaves_nothing(tmp_path, monkeypatch, capsys, options, words):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit, match="2"):
        main(["--no-browser", "--seconds", "1", *options])
    assert words in capsys.readouterr().err
    assert os.listdir(tmp_path) == []


def test_a_folder_may_have_any_name(tmp_path):
    (tmp_path / "films.mov").mkdir()
    assert out(str(tmp_path / "films.mov")) == tmp_path / "films.mov"
    assert out("v1.2") == Path("v1.2")


def test_a_name_that_a_killed_run_left_without_a_frame_can_be_had(weights, tmp_path):
    video = tmp_path / "x.mp4"
    part_path(video, 1).write_bytes(b"")
    assert main(["--weights", str(weights), "--no-browser", "--seconds", "0.5", "--out", str(video)]) == 0
    assert sorted(os.listdir(tmp_path)) == ["x.mp4", "x.take"]


def test_a_size_without_room_is_told_in_words(weights, tmp_path, monkeypatch, capsys):
    """Torch says a place in its own source, and how many bytes."""
    monkeypatch.setattr(take_module, "first_state", lambda *_: torch.empty(1 << 62, dtype=torch.uint8))
    options = ["--weights", str(weights), "--no-browser", "--seconds", "1", "--out", str(tmp_path / "x.mp4")]
    assert main(options) == 2
    told = capsys.readouterr().err
    assert (
        "takes more memory than the computer has; give a smaller --size" in told and "alloc_cpu" not in told
    )


def test_a_recipe_that_cannot_be_used_is_told_in_words(weights, tmp_path, capsys):
    shutil.copytree(weights, tmp_path / "weights")
    path = tmp_path / "weights" / DIT_FILE
    with safe_open(path, "pt") as file:
        about, tensors = file.metadata(), {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
    save_file(tensors, path, {**about, "recipe": '{"size": "a"}'})
    assert (
        main(["--weights", str(path.parent), "--no-browser", "--seconds", "1", "--out", str(tmp_path)]) == 2
    )
    told = capsys.readouterr().err
    assert "the metadata entry `recipe` of" in told and "write the file again" in told


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("seconds", "0", 0),
        ("seconds", "endless", 0),
        ("seconds", "2.5", 2.5),
        ("size", "64", (64, 64)),
        ("size", "96x64", (96, 64)),
        ("size", "96X64", (96, 64)),
        ("part-hours", "0.5", 0.5),
        ("part-gigabytes", "4", 4.0),
    ],
)
def test_options_are_read(name, value, expected):
    assert getattr(parser().parse_args([f"--{name}", value]), name.replace("-", "_")) == expected


@pytest.mark.parametrize(
    "option",
    [
        "--seconds=-1",
        "--seconds=nan",
        "--seconds=long",
        "--size=x",
        "--size=64x64x64",
        "--size=-64",
        "--seed=x",
        "--part-hours=0",
        "--part-gigabytes=nan",
        "--part-gigabytes=much",
    ],
)
def test_options_that_make_no_sense_are_refused(option, capsys):
    with pytest.raises(SystemExit) as stop:
        main([option])
    assert stop.value.code == 2
    assert "error: argument" in capsys.readouterr().err


def test_the_line_says_how_long_it_takes_and_until_when(tmp_path, monkeypatch):
    live = LiveStream(
        Mp4Writer(tmp_path / "t.mp4", width=32, height=32, fps=16), node="", prompt_id="", blocks=40
    )
    monkeypatch.setattr(take_module.time, "time", lambda: 0.0)
    monkeypatch.setenv("TZ", "UTC")
    assert take_module.line(live) == "block 0, 0.0 s, 0.0 frames/s"
    live.note_block(12, 90.0)
    assert take_module.line(live).endswith("frames/s, 0:58:30 left, done at 00:58")
    live.blocks = None
    assert "left" not in take_module.line(live)


@pytest.mark.skipif(sys.platform in ("win32", "darwin"), reason="has a screen always")
def test_without_a_screen_no_browser_is_opened(weights, tmp_path, monkeypatch):
    opened = []
    monkeypatch.setattr(watching.webbrowser, "open", lambda url: opened.append(url))
    options = ["--weights", str(weights), "--seconds", "0.5", "--out", str(tmp_path)]
    for name in ("DISPLAY", "WAYLAND_DISPLAY"):
        monkeypatch.delenv(name, raising=False)
    assert main(options) == 0
    assert opened == []
    monkeypatch.setenv("DISPLAY", ":0")
    assert main(options) == 0
    assert [url.split(":")[:2] for url in opened] == [["http", "//127.0.0.1"]]


def test_a_new_video_takes_the_next_free_name(tmp_path):
    assert video_path(tmp_path / "mine.mp4") == tmp_path / "mine.mp4"
    for name in ("rivulet-0001.mp4", "rivulet-0002.part1.mp4"):
        (tmp_path / name).write_text("")
    assert video_path(tmp_path) == tmp_path / "rivulet-0003.mp4"
    assert video_path(tmp_path / "new") == tmp_path / "new" / "rivulet-0001.mp4"


def test_another_video_lies_beside_the_one_before(tmp_path):
    for name in ("rivulet-0001.mp4", "rivulet-0002.part1.mp4", "film-2.take", "a[1].mp4"):
        (tmp_path / name).write_text("")
    for before, after in (
        ("rivulet-0001.mp4", "rivulet-0003.mp4"),
        ("rivulet-9999.mp4", "rivulet-10000.mp4"),
        ("mine.mp4", "mine-2.mp4"),
        ("film.mp4", "film-3.mp4"),
        ("film-2.mp4", "film-3.mp4"),
        ("a[1].mp4", "a[1]-2.mp4"),
    ):
        assert next_path(tmp_path / before) == tmp_path / after


def test_the_page_has_another_video_made_after_the_end(running, tmp_path, monkeypatch):
    monkeypatch.setattr(watching, "LINGER_SECONDS", 5)
    client, finished = running("--seed", "3")
    client.wait(lambda state: state["block"] >= 1)
    asked = {"prompt": "a cyan square"}
    assert client.post("/another", asked)[0] == 409
    client.wish(1, "stop")
    first = client.wait(lambda state: state["phase"] == "ended")
    status, told = client.post("/another", {"prompt": "a purple dog"})
    assert status == 400 and "does not know 'purple', 'dog'" in told["error"]
    for nothing in ({"prompt": " "}, {"prompt": 3}, {}, []):
        assert client.post("/another", nothing)[0] == 400
    assert client.post("/another", asked) == (202, {})
    client.wait(lambda state: state["session"] != first["session"] and state["block"] >= 1)
    client.wish(1, "stop")
    second = client.wait(lambda state: state["phase"] == "ended" and state["session"] != first["session"])
    assert second["prompts"][0]["prompt"] == "a cyan square"
    monkeypatch.setattr(watching, "LINGER_SECONDS", 0.1)
    assert finished() == 0
    assert [Path(each["path"]).name for each in (first, second)] == ["rivulet-0001.mp4", "rivulet-0002.mp4"]
    assert frame_count(tmp_path / "rivulet-0002.mp4") == second["frames"]
