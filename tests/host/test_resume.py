"""A take that ended early goes on in another run as if it had never stopped."""

from contextlib import contextmanager, suppress
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from rivulet.model_patches.geometry import Geometry
from rivulet.model_patches.stream.config import StreamConfig
from rivulet.model_patches.stream.timeline import MODES, Prompt
from rivulet.model_patches.viewers.mailbox import Message
from rivulet.model_patches.writer.parts import frames_of
from rivulet.tests.host.graphs import LONG_SECONDS, stream_graph
from rivulet.tests.host.streams import HostTake, live_stream, prefill_of

CONFIG = StreamConfig(Geometry(32, 48), "pocket", 3, (1.0, 0.5), seed=5)
PICTURES = 64  # six blocks
RECACHE = {3: Prompt(1, "other", "recache")}


class StopError(RuntimeError):
    """What ends a take in these tests."""


@pytest.fixture
def making(load, vae, prompt, tmp_path):
    """Returns a function that makes a take with a model of its own: (take, written pictures, video)."""

    def make(name, changes=None, before=lambda take: None, kept=None, config=CONFIG, given=None, by=vae):
        """kept: the video of an earlier take, which is gone on with."""
        video = kept or tmp_path / f"{name}.mp4"
        live, written = live_stream(video, resume=kept is not None, blocks=6, modes=tuple(MODES))
        take = HostTake(load("plain"), by, live, prompt, config, changes=changes, resume=kept is not None)
        before(take)
        with suppress(StopError):
            take.run(PICTURES, begin=None if given is None else prefill_of(take, given))
        return take, torch.cat(written), video

    return make


def joined(before, second, after):
    """All pictures of a take that was gone on with, before they were encoded."""
    return torch.cat([before[: second.session.writer.start_frame], after])


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
    assert torch.equal(joined(before, second, after), pictures)
    assert second.session.writer.frames_written == len(pictures) == frames_of(path)


def test_a_picture_to_begin_with_is_not_begun_with_again(making):
    given = torch.randn(1, 16, 1, 6, 4, generator=torch.Generator().manual_seed(2))
    whole, pictures, _ = making("whole", given=given)
    _, before, path = making("first", before=stopping_at(2), given=given)
    second, after, _ = making("second", kept=path)
    assert torch.equal(second.tail, whole.tail) and torch.equal(joined(before, second, after), pictures)


def test_a_take_with_a_tiny_vae_goes_on_too_and_not_with_another_vae(
    making, tiny_vae, vae, load, prompt, monkeypatch
):
    from rivulet.nodes.run.going_on import Resume
    from rivulet.nodes.stream import RivuletStream

    _, pictures, _ = making("whole", by=tiny_vae)
    _, before, path = making("first", before=stopping_at(3), by=tiny_vae)
    second, after, _ = making("second", kept=path, by=tiny_vae)
    assert torch.equal(joined(before, second, after), pictures) and pictures.float().std() > 10
    asked = {"width": 32, "height": 48, "seconds": 10.0, "fps": 16.0, "seed": 5, "num_frame_per_block": 3}
    inputs = {"preset": "pocket", "cfg": 1.0, "filename_prefix": "never", "positive": prompt(0)}
    hidden = SimpleNamespace(unique_id="1", prompt=None, extra_pnginfo=None)
    monkeypatch.setattr(RivuletStream, "hidden", hidden)
    with pytest.raises(ValueError, match=r"VAE it was made"):
        RivuletStream.execute(load("plain"), vae, **asked, **inputs, start=Resume(video=path))
    assert frames_of(path) == len(pictures), "nothing was cut"


def test_what_a_take_was_kept_and_remembered_with_is_said_where_the_graph_has_others(
    making, vae, load, prompt, monkeypatch
):
    """As where a take was made by template 01 before that had a memory and a small cache."""
    from rivulet.nodes.memory import RivuletMemory
    from rivulet.nodes.run.going_on import Resume
    from rivulet.nodes.small_cache import CacheChoice
    from rivulet.nodes.stream import RivuletStream

    _, _, path = making("first", before=stopping_at(1))
    asked = {"width": 32, "height": 48, "seconds": 10.0, "fps": 16.0, "seed": 5, "num_frame_per_block": 3}
    inputs = {"preset": "pocket", "cfg": 1.0, "filename_prefix": "never", "positive": prompt(0)}
    hidden = SimpleNamespace(unique_id="1", prompt=None, extra_pnginfo=None)
    monkeypatch.setattr(RivuletStream, "hidden", hidden)

    def refused(words, model=None, **options):
        with pytest.raises(ValueError, match=words):
            RivuletStream.execute(
                model or load("plain"), vae, **{**asked, **inputs, **options}, start=Resume(video=path)
            )

    ema = RivuletMemory.execute(load("plain"), "ema", "none").args[0]
    small = CacheChoice("int8")
    refused(r"cache dense, not int8\. Set format of Small Cache to dense, Stream Video to", cache=small)
    refused(r"memory off, not ema\. Set memory of Evolving Memory to off, Stream Video to", model=ema)
    both = (
        r"preset pocket, not preset reward_forcing; cache dense, not int8; memory off, not ema\. Set format "
    )
    refused(both + "of Small Cache to dense, memory of", model=ema, cache=small, preset="reward_forcing")


def test_another_seed_makes_another_end(making):
    _, pictures, _ = making("whole")
    _, before, path = making("first", before=stopping_at(3))
    second, after, _ = making("second", kept=path, config=replace(CONFIG, seed=6))
    made = joined(before, second, after)
    assert len(made) == len(pictures) and torch.equal(made[:33], pictures[:33])
    assert not torch.equal(made[33:], pictures[33:])


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"geometry": Geometry(64, 48)}, "was made with 32x48 pixels, not 64x48 pixels"),
        ({"preset": "infinity_rope"}, "was made with preset pocket, not preset infinity_rope"),
        ({"block_frames": 1}, "3 latent frames a block, not 1 latent frames"),
        ({"cfg": 3.0}, r"no guidance \(cfg 1\), not guidance \(cfg 3\)"),
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
    same, _, _ = making("same", kept=path, before=stopping_at(3))
    same.path.unlink()  # so that the video goes on after its newest snapshot
    video = path.read_bytes()
    for share in (0.05, 3.0):
        refusal = r"differ .* by [\d.]+ % in self_attn\.v, .* same adapters"
        with moved(load("plain"), share), pytest.raises(ValueError, match=refusal):
            making("other", kept=path)
        assert path.read_bytes() == video
    again, _, _ = making("same again", kept=path)
    assert again.session.writer.start_frame < 33 and frames_of(path) > 60


def test_weights_that_were_refused_are_refused_in_what_that_run_left_too(making, load):
    """It cuts before its first call, and leaves a snapshot of that."""
    _, _, path = making("first", before=stopping_at(2))
    cut = {2: Prompt(1, "other", "cut")}
    with moved(load("plain"), 3.0):
        for name in ("second", "third"):
            with pytest.raises(ValueError, match="differ"):
                making(name, cut, kept=path)


def test_from_a_truncated_snapshot_the_one_before_is_taken(making, caplog):
    whole, pictures, _ = making("whole")
    first, before, path = making("first", before=stopping_at(3))
    first.path.write_bytes(first.path.read_bytes()[:-100])
    second, after, _ = making("second", kept=path)
    assert second.session.writer.start_frame < len(before) and "from an older snapshot" in caplog.text
    assert torch.equal(joined(before, second, after), pictures) and torch.equal(second.tail, whole.tail)


def test_without_a_good_snapshot_it_is_refused_and_nothing_is_changed(making):
    first, _, path = making("first", before=stopping_at(2))
    for snapshot in first.folder.snapshots():
        snapshot.path.write_bytes(snapshot.path.read_bytes()[:-100])
    kept = path.read_bytes()
    with pytest.raises(ValueError, match=r"nothing to go on from .* Start From"):
        making("second", kept=path)
    assert path.read_bytes() == kept


def test_snapshots_that_cannot_be_written_do_not_spoil_the_video(making, monkeypatch):
    from rivulet.model_patches.takes import keeper

    def full(*_):
        raise OSError("No space left on device")

    monkeypatch.setattr(keeper, "write", full)
    made, pictures, path = making("first")
    assert made.folder.snapshots() == [] and len(pictures) == frames_of(path)
    assert "No space left" in made.session.live.notice


def asking_redo(block, frame, **more):
    """A viewer who wants it redone from a frame, before this block."""

    def before(take):
        should_continue = take.session.should_continue

        def asked(rest):
            if take.session.live.block == block:
                take.session.live.ask(Message("me", 1, "redo", frame=frame, **more))
            return should_continue(rest)

        take.session.should_continue = asked

    return before


@pytest.mark.parametrize("frame", [0, 20, 21, 34])
def test_a_redo_as_it_was_gives_the_same_pictures_and_keeps_the_tail(making, frame):
    whole, pictures, _ = making("whole")
    made, before, path = making("redone", before=asking_redo(4, frame))
    second = made.sessions[1]
    after = torch.cat([before[: second.writer.start_frame], *made.later[0]])
    assert torch.equal(after, pictures) and torch.equal(made.tail, whole.tail)
    assert frames_of(path) == len(pictures) and second.live.phase == "ended"
    tail = path.with_name("redone_tail1.mp4")
    assert frames_of(tail) >= len(before) - frame and second.live.take != ""


def test_a_redo_with_another_prompt_or_seed_changes_it_from_there_on_alone(making):
    _, pictures, _ = making("whole")
    for name, more in {"seed": {"seed": 6}, "prompt": {"prompt": "other", "mode": "smooth"}}.items():
        made, before, _ = making(name, before=asking_redo(4, 25, **more))
        after = torch.cat([before[: made.sessions[1].writer.start_frame], *made.later[0]])
        # the block that the frame is in begins with picture 21
        assert torch.equal(after[:21], pictures[:21]) and not torch.equal(after[21:33], pictures[21:33])
    by_script, _, _ = making("by script", {2: Prompt(1, "other", "smooth")})
    assert torch.equal(made.tail, by_script.tail)


def test_the_kept_tail_is_a_take_that_goes_on(making):
    _, pictures, _ = making("whole")
    _, _, path = making("redone", before=asking_redo(5, 25, seed=6))
    tail = path.with_name("redone_tail1.mp4")
    second, after, _ = making("tail", kept=tail)
    begins = second.folder.read_about().first_frame + second.session.writer.start_frame
    assert begins == 57 and torch.equal(after[: len(pictures) - begins], pictures[begins:])


def test_two_runs_do_not_write_one_take(making):
    from rivulet.model_patches.writer.lock import FileLock

    _, _, path = making("first", before=stopping_at(2))
    kept = path.read_bytes()
    with FileLock(path), pytest.raises(ValueError, match="is being written by another run"):
        making("second", kept=path)
    assert path.read_bytes() == kept


def test_an_interrupted_run_is_gone_on_with_in_its_file(server):
    graph = stream_graph("halted", seconds=LONG_SECONDS)
    prompt_id = server.queue(graph)
    server.stream(prompt_id).until(lambda state: state["block"] >= 3)
    server.post("/interrupt", {})
    server.done(prompt_id)
    folder = server.base / "output"
    assert list((folder / "halted_00001_.take").glob("*.safetensors"))
    offered = server.get("/object_info/RivuletResume")[1]["RivuletResume"]["input"]["required"]["snapshot"]
    assert "halted_00001_.mp4" in str(offered)
    made = frames_of(folder / "halted_00001_.mp4")
    rest = stream_graph("halted", seconds=(made + 30) / 16, start=["7", 0])
    rest["7"] = {"class_type": "RivuletResume", "inputs": {"snapshot": "halted_00001_.snapshot.safetensors"}}
    done = server.run(rest)
    assert done["status"]["status_str"] == "success", done["status"]
    known = server.get("/rivulet/streams")[1]["streams"][0]
    assert known["file"] == "halted_00001_.mp4" and known["block"] == known["blocks"]
    assert frames_of(folder / "halted_00001_.mp4") == known["frames"] >= made + 30


@pytest.mark.parametrize(
    ("snapshot", "words"), [("../../x.safetensors", "outside"), ("gone.safetensors", "no take 'gone")]
)
def test_paths_are_checked(comfyui, snapshot, words):
    from rivulet.nodes.resume import RivuletResume

    with pytest.raises(ValueError, match=words):
        RivuletResume.execute(snapshot)
    assert words in RivuletResume.validate_inputs(snapshot)


def test_a_video_that_is_there_already_is_refused(making):
    from rivulet.nodes.run.going_on import Resume

    _, _, path = making("first", before=stopping_at(4))
    with pytest.raises(ValueError, match=r"already has 2.8 s of video and seconds is 1.0"):
        Resume(video=path).read(None, CONFIG, 16.0, 16)
    Resume(video=path, from_second=0.5).read(None, CONFIG, 16.0, 16)


def test_another_number_of_pictures_a_second_is_refused(making):
    from rivulet.nodes.run.going_on import Resume

    _, _, path = making("first", before=stopping_at(1))
    with pytest.raises(ValueError, match=r"was made with 16 pictures a second \(fps\), not 24"):
        Resume(video=path).read(None, CONFIG, 24.0, 999)
