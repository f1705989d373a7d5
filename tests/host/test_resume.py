"""A take that ended early goes on in another run as if it had never stopped."""

from contextlib import contextmanager, suppress
from dataclasses import replace

import pytest
import torch
from rivulet.model_patches.geometry import Geometry
from rivulet.model_patches.stream.config import StreamConfig
from rivulet.model_patches.stream.timeline import MODES, Prompt
from rivulet.model_patches.viewers.mailbox import Message
from rivulet.tests.host.graphs import LONG_SECONDS, stream_graph
from rivulet.tests.host.streams import HostTake, prefill_of

CONFIG = StreamConfig(Geometry(32, 48), "pocket", 3, (1.0, 0.5), seed=5)
PICTURES = 64  # six blocks
RECACHE = {3: Prompt(1, "other", "recache")}


class StopError(RuntimeError):
    """What ends a take in these tests."""


@pytest.fixture
def recorded(tmp_path):
    """Returns a function that gives a live stream and the list of pictures that will be written in it."""
    from rivulet.model_patches.viewers.live import LiveStream
    from rivulet.model_patches.writer.video import Mp4Writer

    def record(name):
        writer = Mp4Writer(tmp_path / f"{name}.mp4", width=32, height=48, fps=16, threads=1)
        written, write = [], writer.write
        writer.write = lambda frames: (written.append(frames.read()), write(frames))
        live = LiveStream(writer, node="1", prompt_id="p", blocks=6, modes=tuple(MODES))
        return live, written

    return record


@pytest.fixture
def making(load, vae, prompt, recorded):
    """Returns a function that makes a take with a model of its own: (take, written pictures, snapshot)."""

    def make(name, changes=None, before=lambda take: None, kept=None, config=CONFIG, given=None, by=vae):
        live, written = recorded(name)
        take = HostTake(load("plain"), by, live, prompt, config, changes=changes, resume=kept)
        before(take)
        with suppress(StopError):
            take.run(PICTURES, begin=None if given is None else prefill_of(take, given))
        return take, torch.cat(written), take.path

    return make


def stopping_at(block):
    """A viewer who says stop before this block."""

    def before(take):
        should_continue = take.session.should_continue

        def asked(rest):
            if take.session.live.block == block:
                take.session.live.ask(Message("me", 1, "stop"))
            return should_continue(rest)

        take.session.should_continue = asked

    return before


def breaking(part, name, call):
    """An error out of the so-manieth call of a method of the take's caller or decoder."""

    def before(take):
        owner = getattr(take, part)
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
        blocks = take.caller.tree.blocks
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
    "in a recache": (breaking("caller", "run", 4), RECACHE),
    "after a recache": (breaking("caller", "run", 5), RECACHE),
    "after a cut": (breaking("caller", "run", 5), {3: Prompt(1, "other", "cut")}),
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
    from rivulet.nodes.run.beginnings import Resume
    from rivulet.nodes.stream import RivuletStream

    _, pictures, _ = making("whole", by=tiny_vae)
    _, before, path = making("first", before=stopping_at(3), by=tiny_vae)
    _, after, _ = making("second", kept=path, by=tiny_vae)
    assert torch.equal(torch.cat([before, after]), pictures) and pictures.float().std() > 10
    asked = {"width": 32, "height": 48, "seconds": 10.0, "fps": 16.0, "seed": 5, "num_frame_per_block": 3}
    inputs = {"preset": "pocket", "cfg": 1.0, "filename_prefix": "never", "positive": prompt(0)}
    with pytest.raises(ValueError, match=r"decoded with another kind of VAE .* connect the VAE it was made"):
        RivuletStream.execute(load("plain"), vae, **asked, **inputs, start=Resume.from_snapshot(path))


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
        ({"block_frames": 1}, "block frames 3, not 1"),
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


def test_other_weights_are_refused(making, load):
    _, _, path = making("first", before=stopping_at(2))
    making("same", kept=path)
    for share in (0.05, 3.0):
        refusal = r"take in first\S* .* differ .* by [\d.]+ % in self_attn\.v, .* same adapters"
        with moved(load("plain"), share), pytest.raises(ValueError, match=refusal):
            making("other", kept=path)
    making("same again", kept=path)


def test_weights_that_were_refused_are_refused_in_what_that_run_left_too(making, load, tmp_path):
    """It cut before its first call, and so left a snapshot of its own."""
    _, _, path = making("first", before=stopping_at(2))
    cut = {2: Prompt(1, "other", "cut")}
    with moved(load("plain"), 3.0):
        for name in ("second", "third"):
            with pytest.raises(ValueError, match="differ"):
                making(name, cut, kept=path)
            path = tmp_path / f"{name}.snapshot.safetensors"


def test_a_truncated_snapshot_is_refused(making):
    _, _, path = making("first", before=stopping_at(1))
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(ValueError, match="Copy it again, or take an older one"):
        making("second", kept=path)


def test_a_snapshot_that_cannot_be_written_does_not_spoil_the_video(making, monkeypatch):
    from rivulet.nodes.run import take

    def full(*_):
        raise OSError("No space left on device")

    monkeypatch.setattr(take, "save_in_any_case", full)
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


def test_a_video_that_is_there_already_is_refused(making):
    from rivulet.nodes.run.beginnings import Resume

    _, _, path = making("first", before=stopping_at(4))
    with pytest.raises(ValueError, match=r"already has 2.8 s of video and seconds is 1.0"):
        Resume.from_snapshot(path).read(None, CONFIG, 16.0, 16)


def test_another_number_of_pictures_a_second_is_refused(load, vae, prompt, tmp_path, monkeypatch):
    from types import SimpleNamespace

    import folder_paths
    from rivulet.nodes.run.beginnings import Resume
    from rivulet.nodes.stream import RivuletStream

    monkeypatch.setattr(folder_paths, "get_output_directory", lambda: str(tmp_path))
    hidden = SimpleNamespace(unique_id="1", prompt=None, extra_pnginfo=None)
    monkeypatch.setattr(RivuletStream, "hidden", hidden)
    asked = {"width": 32, "height": 48, "seconds": 0.5, "fps": 16.0, "seed": 5, "num_frame_per_block": 3}
    inputs = {"preset": "pocket", "cfg": 1.0, "filename_prefix": "take", "positive": prompt(0)}
    made = RivuletStream.execute(load("plain"), vae, **asked, **inputs, snapshot="always").args
    start = Resume.from_snapshot(tmp_path / made[3])
    with pytest.raises(ValueError, match=r"plays at 16 pictures a second, and fps is 24; set fps to 16"):
        RivuletStream.execute(
            load("plain"), vae, **{**asked, "seconds": 9.0, "fps": 24.0}, **inputs, start=start
        )
