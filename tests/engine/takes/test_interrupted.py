"""Takes that are interrupted at any operation of whoever makes the blocks, and kinds of takes that go on."""

from contextlib import suppress
from dataclasses import replace

import numpy as np
import pytest
import torch
from rivulet.model_patches.cache.int8 import INT8
from rivulet.model_patches.memory.ema import EmaSink
from rivulet.model_patches.stream import pipeline
from rivulet.model_patches.stream.config import StreamConfig
from rivulet.model_patches.stream.pipeline import Prefill
from rivulet.model_patches.stream.script import Script
from rivulet.model_patches.stream.snapshot import load
from rivulet.model_patches.stream.step import init
from rivulet.model_patches.takes import keeper
from rivulet.model_patches.takes.folder import TakeFolder
from rivulet.model_patches.takes.keeper import Policy
from rivulet.model_patches.takes.listing import describe
from rivulet.model_patches.takes.make import make_take
from rivulet.model_patches.vae.decoder import VaeDecoder
from rivulet.model_patches.writer.parts import frames_of
from rivulet.model_patches.writer.video import Mp4Writer

from ..stream.videos import GEOMETRY, text
from .made import CONFIG, EVERY, FPS, Studio, encode, resume, scripted

PLACES = [
    (pipeline, "step"), (keeper, "capture_in_any_case"), (keeper, "append"), (VaeDecoder, "decode"),
    (Mp4Writer, "write"), (Mp4Writer, "seal"), (keeper.Keeper, "keep"), (keeper.Keeper, "on_prompt"),
]  # fmt: skip


class Stopped(BaseException):
    """As ComfyUI's interruption, which is no Exception."""


def interrupt_at(monkeypatch, number, error):
    """Has the so-manieth of those calls raise, once."""
    left = [number]

    def interrupting(call):
        def counted(*args, **options):
            left[0] -= 1
            if left[0] == 0:
                raise error
            return call(*args, **options)

        return counted

    for place, name in PLACES:
        monkeypatch.setattr(place, name, interrupting(getattr(place, name)))


@pytest.mark.parametrize("error", [Stopped("now"), RuntimeError("something broke")], ids=["stop", "error"])
@pytest.mark.parametrize("number", [2, 3, 5, 8, 9, 10, 11, 12, 13, 14, 15, 16, 21, 26])
def test_an_interruption_anywhere_loses_no_block(studio, whole, monkeypatch, number, error):
    with monkeypatch.context() as patched:
        interrupt_at(patched, number, error)
        with suppress(type(error)):
            studio.make(pictures=57)
    video = studio.folder / "take.mp4"
    if isinstance(error, RuntimeError) and frames_of(video) == 57:
        return  # a snapshot could not be made, and the video went on
    made = frames_of(video)
    take = describe(video)
    assert made == 0 or (take.standing == "stopped" and take.can_go_on), take.reason
    assert np.array_equal(studio.frames[:made], whole[:made])
    studio.make(pictures=57, redo=resume())
    assert np.array_equal(studio.frames, whole[:57]) and frames_of(video) == 57
    # what had reached the file was not made again, but for a block whose snapshot could not be taken
    assert studio.shown[-1][0] >= made - 12


def test_a_fixed_prompt_holds_on_and_another_comes_in_where_the_take_goes_on(studio, whole):
    fixed = Script(encode("0"), None)
    studio.make(pictures=45, script=fixed, begin=replace(studio.begin(), text=None))
    for each in TakeFolder(studio.folder / "take.mp4").snapshots()[1:]:
        each.path.unlink()
    studio.make(pictures=57, script=fixed, redo=resume())
    assert studio.shown[1][0] == 0 and np.array_equal(studio.frames, whole[:57])
    studio.make(pictures=69, script=Script(encode("5"), None), redo=resume())
    other = Studio(studio.folder / "other", studio.caller, studio.vae)
    other.make(pictures=69, script=replace(fixed, first=encode("5"), since=5))
    assert np.array_equal(studio.frames[57:], other.frames[57:])
    with pytest.raises(ValueError, match="The prompt is fixed here"):
        studio.make(pictures=80, script=fixed, redo=resume(frame=20, prompt="3"))


def test_guidance_and_levels_may_differ_and_hold_from_where_the_take_goes_on(studio, whole):
    studio.make(pictures=45)
    for each in TakeFolder(studio.folder / "take.mp4").snapshots()[1:]:
        each.path.unlink()
    other = replace(CONFIG, sigmas=(1.0, 0.7), seed=99)
    studio.make(pictures=69, redo=resume(), config=other)
    assert np.array_equal(studio.frames[:45], whole[:45]), (
        "what is made again is as it was, seed and levels too"
    )
    by_hand = Studio(studio.folder / "other", studio.caller, studio.vae)
    by_hand.make(pictures=69, script=replace(scripted(), configs={4: replace(other, seed=7)}))
    assert np.array_equal(studio.frames, by_hand.frames)


@pytest.mark.parametrize("hidden", [0, 5])
def test_a_take_that_began_with_a_picture_or_a_video_is_redone_from_its_first_block(studio, hidden):
    latents = torch.randn(GEOMETRY.latent_shape(2), generator=torch.Generator().manual_seed(3))
    begin = Prefill(latents, hidden)
    studio.make(pictures=41 - hidden, prefill=begin)
    before = studio.frames
    studio.make(pictures=41 - hidden, redo=resume(frame=0))
    assert studio.shown[1][0] == 5 - hidden and np.array_equal(studio.frames, before)
    studio.make(pictures=41 - hidden, redo=resume(frame=20, seed=3))
    kept = studio.shown[2][0]
    assert np.array_equal(studio.frames[:kept], before[:kept])
    assert len(studio.frames) == 41 - hidden and not np.array_equal(studio.frames, before)


MEMORIES = {"int8": (INT8, None), "ema": (None, EmaSink(1))}


@pytest.mark.parametrize("kind", MEMORIES)
def test_other_caches_and_memories_go_on_too(tmp_path, kind):
    from rivulet.model_patches.arch.wan import WanModel
    from rivulet.model_patches.stream.model_caller import ModelCaller
    from rivulet.model_patches.vae.wan import WanVAE

    from ..stream.videos import SIZES, seeded

    cache, memory = MEMORIES[kind]
    kept = {"cache": cache} if cache else {"memory": memory}
    config = StreamConfig(GEOMETRY, "infinity_rope", sigmas=(1.0, 0.5), seed=7)
    sizes = replace(SIZES, dim=64, ffn_dim=64)
    models = ModelCaller(seeded(WanModel(sizes))), seeded(WanVAE(dim=4))

    def make(folder, pictures, redo=None):
        studio = Studio(folder, *models)
        making = replace(
            studio.making(config=config),
            load=lambda path: load(path, studio.caller, config, decoder=VaeDecoder(studio.vae), **kept),
        )
        state = init(studio.caller, (text(0),), config, **kept)
        state = replace(state, ledger=replace(state.ledger, fps=float(FPS)))
        make_take(making, redo or state, pictures=pictures)
        return studio

    whole = make(tmp_path / "whole", 81).frames
    make(tmp_path / "cut", 45)
    rest = make(tmp_path / "cut", 81, resume())
    assert np.array_equal(rest.shown[0][1].frames, whole[45:])
    again = make(tmp_path / "cut", 81, resume(frame=30))
    start, shown = again.shown[0]
    assert np.array_equal(shown.frames, whole[start:])


def test_a_take_without_snapshots_is_a_video_alone(studio, whole):
    made = studio.make(pictures=33, policy=None)
    assert [path.name for path in studio.folder.iterdir()] == ["take.mp4"]
    assert made.session.live.does == frozenset() and np.array_equal(studio.frames, whole[:33])


def test_a_take_that_keeps_few_snapshots_is_redone_from_the_first(studio, whole):
    studio.make(pictures=57, policy=Policy(every_seconds=1e6))
    assert [each.block for each in TakeFolder(studio.folder / "take.mp4").snapshots()] == [0, 5]
    studio.make(pictures=57, redo=resume(frame=40, seed=5), policy=EVERY)
    assert studio.shown[1][0] == 0 and np.array_equal(studio.frames[:33], whole[:33])
    assert not np.array_equal(studio.frames[33:45], whole[33:45])
