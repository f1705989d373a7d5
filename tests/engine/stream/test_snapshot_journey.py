"""A stream saved wherever it stands, and gone on with down to its pictures."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from rivulet.model_patches.stream.config import StreamConfig
from rivulet.model_patches.stream.pipeline import run
from rivulet.model_patches.stream.script import Script
from rivulet.model_patches.stream.snapshot import load, read_header, save
from rivulet.model_patches.stream.start import from_video
from rivulet.model_patches.stream.step import init
from rivulet.model_patches.stream.timeline import Prompt
from rivulet.model_patches.vae.decoder import VaeBuffers, VaeDecoder
from safetensors.torch import load_file

from ..formats import LOSSY
from .videos import GEOMETRY, Collected, pictures, text

NO_LAYERS = (None,)  # of a past before the first latent was decoded


class Held(VaeDecoder):
    """Holds the two newest latents back, as a host's decoder may, and does not say how far it looks back."""

    forgets_after = None

    def decode(self, latents_BCTHW, past, *, last=False, exact=False):
        if past is not None:
            latents_BCTHW = torch.cat([past.pending, latents_BCTHW], 2)
            past = None if past.layers == NO_LAYERS else VaeBuffers(past.layers)
        ready = latents_BCTHW.shape[2] if last else max(0, latents_BCTHW.shape[2] - 2)
        pixels, past = super().decode(latents_BCTHW[:, :, :ready], past)
        return pixels, VaeBuffers(past.layers if past else NO_LAYERS, latents_BCTHW[:, :, ready:].clone())


JOURNEY = {
    1: Prompt(0, "1", "blend"),
    3: Prompt(0, "2", "recache"),
    4: Prompt(0, "3", "smooth"),
    6: Prompt(0, "4", "cut"),
    7: Prompt(0, "5", "blend"),
    8: Prompt(0, "6", "shot"),  # after two frames of its scene: the first is kept twice
}


@pytest.mark.parametrize("shows", [Held, VaeDecoder], ids=["past stored", "past made again"])
def test_a_save_in_the_middle_of_everything_goes_on_bit_for_bit(wan, vae, tmp_path, shows):
    """Single frames after a video, while what was lost of it fades, under a prompt after the other."""

    def encode(words):
        return text(int(words)), text(99)

    config = StreamConfig(GEOMETRY, "echo", 1, sigmas=(1.0, 0.5), cfg=2.0, seed=7)
    script, decoder, blocks = Script(encode("0"), "0", JOURNEY, encode), shows(vae), 11
    kept, writer = [], Collected()

    def keep(state):
        kept.append((state, tmp_path / f"{len(kept)}.safetensors"))
        save(wan, *kept[-1], decoder)

    state = init(wan, script.first, config, cache=LOSSY["int8"])
    begin = from_video(vae, pictures(5), GEOMETRY)
    run(wan, decoder, state, [writer], blocks=blocks, script=script, begin=begin, keep=keep)
    whole = writer.frames
    states = [state for state, _ in kept]
    # what was there before, blocks, switches, and the end once more
    assert len(states) == 1 + blocks + len(JOURNEY) + 1
    assert {s.blend is not None for s in states} == {s.must_recache for s in states} == {True, False}
    # until the decoder gives its version of the last given picture
    assert any(s.ledger.ending_HWC is not None for s in states) == (shows is Held)
    assert any(s.ledger.lost_HWC is not None for s in states)
    stored = any(name.startswith("past") for _, path in kept for name in load_file(path))
    assert stored == (shows is Held)
    for _, path in kept:
        header, rest = read_header(path), Collected(0)
        again = script.resume(header.block, header.text)
        state = load(path, wan, config, cache=LOSSY["int8"], decoder=decoder)
        state = replace(state, prompt=again.first, text=again.text, ledger=state.ledger.new_file(state.block))
        run(wan, decoder, state, [rest], blocks=blocks - state.block, script=again)
        assert np.array_equal(rest.frames, whole[header.ledger.written :]), path.name
