"""Takes whose memory folds evicted frames into the sink: what ends them after a fold leaves a snapshot."""

from dataclasses import replace

import numpy as np
import pytest
from rivulet.model_patches.memory.ema import EmaSink
from rivulet.model_patches.stream.config import StreamConfig
from rivulet.model_patches.stream.snapshot import load, read_header
from rivulet.model_patches.stream.step import init
from rivulet.model_patches.takes.keeper import Policy
from rivulet.model_patches.takes.make import make_take
from rivulet.model_patches.vae.decoder import VaeDecoder
from rivulet.model_patches.writer.parts import frames_of
from rivulet.model_patches.writer.video import Mp4Writer

from ..stream.videos import GEOMETRY, text
from .made import FPS, Studio, resume

CONFIG = StreamConfig(GEOMETRY, "reward_forcing", sigmas=(1.0, 0.5), seed=7)
MEMORY = EmaSink(keep=0.9)
PICTURES, FIFTH = 93, 5  # eight blocks; frames are folded from the third on


@pytest.fixture
def make(models, tmp_path):
    """Returns a maker of takes, one in each folder, that keep snapshots only at their begin and end."""

    def make(name, redo=None):
        folder = tmp_path / name
        folder.mkdir(exist_ok=True)
        studio = Studio(folder, *models)

        def read(path):
            return load(path, studio.caller, CONFIG, memory=MEMORY, decoder=VaeDecoder(studio.vae))

        making = replace(studio.making(config=CONFIG, policy=Policy()), load=read)
        state = init(studio.caller, (text(0),), CONFIG, memory=MEMORY)
        state = replace(state, ledger=replace(state.ledger, fps=float(FPS)))
        try:
            make_take(making, redo or state, pictures=PICTURES)
        finally:
            make.studio = studio
        return studio

    return make


def break_at_fifth(monkeypatch, place, name):
    calls, call = [], getattr(place, name)

    def breaking(*args, **options):
        calls.append(args)
        if len(calls) == FIFTH:
            raise RuntimeError("it broke")
        return call(*args, **options)

    monkeypatch.setattr(place, name, breaking)


@pytest.mark.parametrize("place", [(VaeDecoder, "decode"), (Mp4Writer, "write")], ids=["decoder", "writer"])
def test_a_take_that_breaks_after_a_fold_goes_on_bit_for_bit(make, monkeypatch, place):
    whole = make("whole").frames
    with monkeypatch.context() as patched:
        break_at_fifth(patched, *place)
        with pytest.raises(RuntimeError, match="it broke"):
            make("broken")
    broken = make.studio
    newest = sorted((broken.folder / "take.take").glob("*.safetensors"))[-1]
    made = frames_of(broken.folder / "take.mp4")
    assert read_header(newest).block == FIFTH - 1 and read_header(newest).ledger.written == made == 45
    rest = make("broken", resume())
    start, shown = rest.shown[0]
    assert start == made and np.array_equal(shown.frames, whole[made:])
