"""A take that ended early goes on in another run as if it had never stopped."""

import re
from contextlib import contextmanager, suppress
from dataclasses import replace

import pytest
import torch
from rivulet.model_patches.geometry import Geometry
from rivulet.model_patches.stream.state import StreamConfig
from rivulet.model_patches.stream.timeline import Prompt
from rivulet.model_patches.viewers.mailbox import Message
from rivulet.tests.host.graphs import LONG_SECONDS, stream_graph

CONFIG = StreamConfig(Geometry(32, 48), "pocket", 3, (1.0, 0.5), seed=5)
PICTURES = 64  # six blocks
RECACHE = {3: Prompt(1, "other", "recache")}


class StopError(RuntimeError):
    """What ends a take in these tests."""


def header_of(path):
    """Returns the snapshot as Resume Stream hands it on."""
    from rivulet.model_patches.stream.state_file import about_of
    from rivulet.nodes.resume import Resume
    from rivulet.nodes.run.kept import KIND, VERSION

    about = about_of(path, KIND, VERSION)
    return Resume(path, *(about[name] for name in ("block", "frames", "given", "prompt")))


@pytest.fixture
def recorded(tmp_path):
    """Returns a function that gives a session and the list of pictures that will be written in it."""
    from rivulet.model_patches.viewers.live import LiveStream
    from rivulet.model_patches.writer.video import Mp4Writer
    from rivulet.nodes.run.session import session_of
    from rivulet.nodes.run.switch import SWITCHES

    def record(name):
        writer = Mp4Writer(tmp_path / f"{name}.mp4", width=32, height=48, fps=16, threads=1)
        written, write = [], writer.write
        writer.write = lambda frames: (written.append(frames), write(frames))
        live = LiveStream(writer, node="1", prompt_id="p", blocks=6, modes=SWITCHES)
        return session_of(live, torch.device("cpu")), written

    return record


@pytest.fixture
def making(load, vae, prompt, recorded):
    """Returns a function that makes a take with a model of its own: (take, written pictures, snapshot)."""
    from rivulet.nodes.host.decoder import decoder_for
    from rivulet.nodes.host.stream import HostStream
    from rivulet.nodes.run.kept import taken_up
    from rivulet.nodes.run.script import Script
    from rivulet.nodes.run.take import ALWAYS, Take, saving

    class Prompts:
        def conditioning(self, text):
            return prompt(len(text))

    def make(name, changes=None, before=lambda take: None, kept=None, config=CONFIG, given=None, by=vae):
        script, begin = Script(prompt(0), changes or {}, Prompts()), {}
        if kept is not None:
            about = header_of(kept)
            script = script.taken_up(about.block, about.prompt)
        session, written = recorded(name)
        with session, suppress(StopError):
            stream = HostStream(load("plain"), script.first, prompt(1), config)
            take = Take(stream, decoder_for(by), script, session)
            before(take)
            if kept is not None:
                begin = {"kept": taken_up(kept, stream)}
            with saving(take, ALWAYS) as path:
                take.tail = take.run(PICTURES, given, **begin)
        return take, torch.cat(written), path

    return make


def stopping_at(block):
    """A viewer who says stop before this block."""

    def before(take):
        goes_on = take.session.goes_on

        def asked():
            if take.session.live.block == block:
                take.session.live.ask(Message("me", 1, "stop"))
            return goes_on()

        take.session.goes_on = asked

    return before


def breaking(part, name, call):
    """An error out of the so-manieth call of a method of the take's stream, decoder or itself."""

    def before(take):
        owner = take if part == "take" else getattr(take, part)
        usual, count = getattr(owner, name), [0]

        def broken(*args, **named):
            count[0] += 1
            if count[0] == call:
                raise StopError
            return usual(*args, **named)

        setattr(owner, name, broken)

    return before


def inside(call):
    """An error out of the attention of a layer, somewhere in a block."""

    def before(take):
        blocks = take.stream.model.get_model_object("diffusion_model").blocks
        count = [0]

        def hook(*_):
            count[0] += 1
            if count[0] == call:
                raise StopError

        blocks[1].self_attn.o.register_forward_pre_hook(hook)

    return before


ENDS = {
    "stopped": (stopping_at(3), None),
    "stopped at an even latent": (stopping_at(2), None),
    "inside a layer": (inside(8), None),
    "decoding": (breaking("decoder", "decode", 4), None),
    "in a recache": (breaking("stream", "sample", 4), RECACHE),
    "after a recache": (breaking("stream", "sample", 5), RECACHE),
    "after a cut": (breaking("stream", "sample", 5), {3: Prompt(1, "other", "cut")}),
    "with another prompt": (stopping_at(4), {1: Prompt(1, "other", "smooth")}),
}


@pytest.mark.parametrize("case", ENDS)
def test_it_goes_on_as_if_it_had_never_stopped(making, case):
    ends, changes = ENDS[case]
    whole, pictures, _ = making("whole", changes)
    _, before, path = making("first", changes, ends)
    assert len(before) < len(pictures) and torch.equal(before, pictures[: len(before)])
    second, after, _ = making("second", changes, kept=path)
    assert torch.equal(second.tail, whole.tail)
    assert torch.equal(torch.cat([before, after]), pictures)
    assert len(after) == second.session.writer.frames_written


def test_a_picture_to_begin_with_is_not_begun_with_again(making):
    given = torch.randn(1, 16, 1, 6, 4, generator=torch.Generator().manual_seed(2))
    whole, pictures, _ = making("whole", given=given)
    _, before, path = making("first", before=stopping_at(2), given=given)
    second, after, _ = making("second", kept=path)
    assert torch.equal(second.tail, whole.tail) and torch.equal(torch.cat([before, after]), pictures)


def test_a_take_with_a_tiny_vae_goes_on_too_and_not_with_another_vae(making, tiny_vae, vae, load, prompt):
    from rivulet.nodes.stream import RivuletStream

    _, pictures, _ = making("whole", by=tiny_vae)
    _, before, path = making("first", before=stopping_at(3), by=tiny_vae)
    _, after, _ = making("second", kept=path, by=tiny_vae)
    assert torch.equal(torch.cat([before, after]), pictures) and pictures.float().std() > 10
    asked = {"width": 32, "height": 48, "seconds": 10.0, "fps": 16.0, "seed": 5, "num_frame_per_block": 3}
    inputs = {"preset": "pocket", "cfg": 1.0, "filename_prefix": "never", "positive": prompt(0)}
    with pytest.raises(ValueError, match=r"decoded with another kind of VAE .* connect the VAE it was made"):
        RivuletStream.execute(load("plain"), vae, **asked, **inputs, start=header_of(path))


def test_another_seed_makes_another_end(making):
    _, pictures, _ = making("whole")
    _, before, path = making("first", before=stopping_at(3))
    _, after, _ = making("second", kept=path, config=replace(CONFIG, seed=6))
    assert len(before) + len(after) == len(pictures)
    # the latent that waited for its pair was made with the first seed
    assert not torch.equal(after, pictures[len(before) :])


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"geometry": Geometry(64, 48)}, "was made with geometry"),
        ({"preset": "infinity_rope"}, "was made with preset"),
        ({"block_frames": 1}, "block_frames 3, not 1"),
        ({"cfg": 3.0}, "rows 1, not 2"),
    ],
    ids=["size", "preset", "block", "guidance"],
)
def test_another_stream_is_refused(making, change, words):
    _, _, path = making("first", before=stopping_at(1))
    with pytest.raises(ValueError, match=words):
        making("second", kept=path, config=replace(CONFIG, **change))


@contextmanager
def moved(model, share):
    """The model, for the time being with value weights of self-attention moved by a share of their size."""
    generator = torch.Generator().manual_seed(1)
    weights = [block.self_attn.v.weight for block in model.get_model_object("diffusion_model").blocks]
    before = [weight.detach().clone() for weight in weights]
    for weight in weights:
        noise = torch.randn(weight.shape, generator=generator).to(weight)
        weight.data += share * weight.norm() / noise.norm() * noise
    try:
        yield
    finally:
        for weight, was in zip(weights, before, strict=True):
            weight.data.copy_(was)


def test_other_weights_are_told_and_another_checkpoint_is_refused(making, load, caplog):
    _, _, path = making("first", before=stopping_at(2))
    making("same", kept=path)
    assert "differ" not in caplog.text
    with moved(load("plain"), 0.3):
        _, after, again = making("adapted", before=stopping_at(2), kept=path)
        told = r"differ by 1\d\.\d % from those that the take in first\S* was made with: another adapter"
        assert re.search(told, caplog.text) and len(after)
        caplog.clear()
        _, after, _ = making("third", kept=again)
        assert "differ" not in caplog.text and len(after)
    with (
        moved(load("plain"), 3.0),
        pytest.raises(ValueError, match=r"take in first.* another checkpoint.* differ .* by \d+ %"),
    ):
        making("other", kept=path)


def test_a_take_of_a_release_without_a_sketch_goes_on(making):
    from rivulet.model_patches.stream.state_file import read, write
    from rivulet.nodes.run.kept import KIND, VERSION

    whole, _, _ = making("whole")
    _, _, path = making("first", before=stopping_at(2))
    about, tensors = read(path, KIND, VERSION)
    del about["weights"]
    write(path, KIND, VERSION, about, tensors)
    second, _, _ = making("second", kept=path)
    assert torch.equal(second.tail, whole.tail)


def test_a_truncated_snapshot_is_refused(making):
    _, _, path = making("first", before=stopping_at(1))
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(ValueError, match="Copy it again, or take an older one"):
        making("second", kept=path)


def test_a_snapshot_that_cannot_be_written_does_not_spoil_the_video(making, monkeypatch):
    from rivulet.nodes.run import take

    def full(*_):
        raise OSError("No space left on device")

    monkeypatch.setattr(take, "save", full)
    made, pictures, path = making("first")
    assert not path.exists() and len(pictures) == made.session.writer.frames_written


def test_an_interrupted_run_is_gone_on_with(server):
    graph = stream_graph("halted", seconds=LONG_SECONDS)
    prompt_id = server.queue(graph)
    server.stream(prompt_id).until(lambda state: state["block"] >= 3)
    server.post("/interrupt", {})
    server.done(prompt_id)
    folder = server.base / "output"
    assert (folder / "halted_00001_.snapshot.safetensors").is_file() and (
        folder / "halted_00001_.mp4"
    ).is_file()
    offered = server.get("/object_info/RivuletResume")[1]["RivuletResume"]["input"]["required"]["snapshot"]
    assert "halted_00001_.snapshot.safetensors" in str(offered)
    made = server.stream(prompt_id).state()["frames"]
    seconds = (made + 30) / 16
    rest = stream_graph("halted", seconds=seconds, start=["7", 0])
    rest["7"] = {
        "class_type": "RivuletResume",
        "inputs": {"snapshot": "halted_00001_.snapshot.safetensors"},
    }
    done = server.run(rest)
    assert done["status"]["status_str"] == "success", done["status"]
    known = server.get("/rivulet/streams")[1]["streams"][0]
    assert (
        known["frames"] >= 30 and known["file"] == "halted_00002_.mp4" and known["block"] == known["blocks"]
    )


@pytest.mark.parametrize(
    ("snapshot", "words"), [("../../x.safetensors", "outside"), ("gone.safetensors", "no gone")]
)
def test_paths_are_checked(comfyui, snapshot, words):
    from rivulet.nodes.resume import RivuletResume

    with pytest.raises(ValueError, match=words):
        RivuletResume.execute(snapshot)


def test_a_video_that_is_there_already_is_refused(comfyui, tmp_path):
    from rivulet.nodes.resume import Resume

    with pytest.raises(ValueError, match=r"already has 10.0 s of video and seconds is 5.0"):
        Resume(tmp_path / "take", 5, 160, 0, None).check(80, 16.0)
