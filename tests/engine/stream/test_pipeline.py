import dataclasses
import itertools

import numpy as np
import pytest
import torch
from rivulet.model_patches.arch.wan import WanConfig, WanModel
from rivulet.model_patches.geometry import Geometry
from rivulet.model_patches.stream.pipeline import blocks_for, decoder_past, frames_made, run, snapshot
from rivulet.model_patches.stream.step import StreamConfig, init, load, set_text, step
from rivulet.model_patches.vae.decoder import decode_stream
from rivulet.model_patches.vae.wan import WanVAE
from rivulet.model_patches.writer.video import Mp4Writer

GEOMETRY = Geometry(32, 16)
TEXT_DIM = 8


def seeded(module):
    """Every parameter random: one left at zero would hide a mistake."""
    generator = torch.Generator().manual_seed(1)
    for value in module.parameters():
        value.data = torch.randn(value.shape, generator=generator) / max(1, value[0].numel()) ** 0.5
    return module.requires_grad_(False).eval()


@pytest.fixture(scope="module")
def dit():
    sizes = WanConfig(dim=24, ffn_dim=32, num_layers=2, num_heads=1, text_dim=TEXT_DIM, freq_dim=16)
    return seeded(WanModel(sizes))


@pytest.fixture(scope="module")
def vae():
    return seeded(WanVAE(dim=4))


def text(number):
    return torch.randn(1, 3, TEXT_DIM, generator=torch.Generator().manual_seed(number))


@pytest.fixture(scope="module")
def start(dit):
    def make(seed=7):
        return init(dit, text(0), StreamConfig(GEOMETRY, sigmas=(1.0, 0.5), seed=seed))

    return make


class Collected:
    """A writer that keeps the frames in memory."""

    def __init__(self, start_frame=0):
        self.chunks, self.frames_written = [], start_frame

    def __enter__(self):
        return self

    def write(self, pixels):
        self.chunks.append(pixels.numpy().copy())
        self.frames_written += len(pixels)

    def seal(self):
        pass

    def __exit__(self, *error):
        pass

    @property
    def frames(self):
        return np.concatenate(self.chunks)


def collected(dit, vae, state, **options):
    writer = Collected(frames_made(state))
    after = run(dit, vae, state, [writer], **options)
    return writer.frames, after


@pytest.fixture(scope="module")
def whole(dit, vae, start):
    """The pictures of four blocks that nothing disturbed."""
    return collected(dit, vae, start(), blocks=4)[0]


def by_hand(dit, vae, state, texts):
    """The same stream without the pipeline: latents of all blocks first, then pictures of the whole."""
    latents = []
    for new in texts:
        if new is not None:
            state = set_text(dit, state, new)
        block, state = step(dit, state)
        latents.append(block)
    return decode_stream(vae, torch.cat(latents, 2))[0].numpy()


def test_every_writer_gets_the_pictures_of_the_whole_stream(dit, vae, start, tmp_path):
    writers = [
        Collected(),
        Collected(),
        Mp4Writer(tmp_path / "take.mp4", width=32, height=16, fps=16),
    ]
    after = run(dit, vae, start(), writers, blocks=4)
    assert np.array_equal(writers[0].frames, by_hand(dit, vae, start(), [None] * 4))
    assert [len(chunk) for chunk in writers[0].chunks] == [9, 12, 12, 12]
    assert [writer.frames_written for writer in writers] == [45, 45, 45] == [frames_made(after)] * 3
    assert np.array_equal(writers[1].frames, writers[0].frames)
    assert writers[2].result == tmp_path / "take.mp4"
    assert (after.block, after.start_frame) == (4, 12)


def test_what_is_told_of_a_block_agrees_with_the_writers(dit, vae, start):
    writer, told = Collected(), []

    def on_chunk(chunk):
        told.append((chunk.block, chunk.first_frame, chunk.end_frame, chunk.state.block))
        assert writer.frames_written == chunk.end_frame == frames_made(chunk.state)
        assert np.array_equal(writer.chunks[-1], chunk.pixels_FHWC.numpy())

    run(dit, vae, start(), [writer], blocks=3, on_chunk=on_chunk)
    assert told == [(0, 0, 9, 1), (1, 9, 21, 2), (2, 21, 33, 3)]


def test_a_new_text_holds_from_the_block_it_is_given_for(dit, vae, start, whole):
    asked = []

    def new_text(block):
        asked.append(block)
        return text(5) if block == 2 else None

    frames, _ = collected(dit, vae, start(), blocks=4, new_text=new_text)
    assert asked == [0, 1, 2, 3]
    assert np.array_equal(frames, by_hand(dit, vae, start(), [None, None, text(5), None]))
    assert np.array_equal(frames[:21], whole[:21])
    assert not np.array_equal(frames[21:], whole[21:])


def test_a_stream_without_end_stops_when_told_and_keeps_everything(dit, vae, start):
    asked = itertools.count()
    frames, after = collected(dit, vae, start(), stop=lambda: next(asked) == 3)
    assert after.block == 3
    assert np.array_equal(frames, by_hand(dit, vae, start(), [None] * 3))


def test_a_stream_cut_anywhere_goes_on_as_if_it_had_not_been(dit, vae, start, whole):
    for cut in range(5):
        state, parts = start(), []
        for blocks in (cut, 4 - cut):
            if blocks:
                frames, state = collected(dit, vae, state, blocks=blocks)
                parts.append(frames)
        assert np.array_equal(np.concatenate(parts), whole)


def test_a_snapshot_on_disk_resumes_picture_for_picture(dit, vae, start, whole, tmp_path):
    first = Collected()

    def on_chunk(chunk):
        if chunk.block == 1:
            snapshot(dit, chunk.state, [first], tmp_path / "stream.safetensors")

    run(dit, vae, start(), [first], blocks=3, on_chunk=on_chunk)
    state = load(tmp_path / "stream.safetensors", dit)
    assert frames_made(state) == 21
    frames, _ = collected(dit, vae, state, blocks=2)
    assert np.array_equal(frames, whole[21:])


def test_a_snapshot_waits_until_the_video_holds_its_frames(dit, vae, start, tmp_path):
    writer = Mp4Writer(tmp_path / "take.mp4", width=32, height=16, fps=16)
    on_disk = []

    def on_chunk(chunk):
        snapshot(dit, chunk.state, [writer], tmp_path / "stream.safetensors")
        on_disk.append(writer.index.frames)

    run(dit, vae, start(), [writer], blocks=2, on_chunk=on_chunk)
    assert on_disk == [9, 21]


@pytest.mark.parametrize("place", ["stop", "new_text", "on_chunk", "writer", "decoder"])
def test_an_interruption_anywhere_keeps_what_was_told(dit, vae, start, whole, tmp_path, place):
    """Whatever stops the stream, the last state told goes on to the same pictures."""
    kept, video = [], Mp4Writer(tmp_path / "take.mp4", width=32, height=16, fps=16)
    calls = itertools.count()

    def interrupt(*what):
        if next(calls) == 2:
            raise KeyboardInterrupt

    class Interrupting(Collected):
        def write(self, pixels):
            interrupt()
            super().write(pixels)

    class InterruptingVae:
        latent_channels, encode, parameters = vae.latent_channels, vae.encode, vae.parameters

        def decode(self, latents, past=None):
            interrupt()
            return vae.decode(latents, past)

    def told(chunk):
        kept.append(chunk.state)
        if place == "on_chunk":
            interrupt()

    options = {place: interrupt} if place in ("stop", "new_text") else {}
    writers = [video, Interrupting() if place == "writer" else Collected()]
    with pytest.raises(KeyboardInterrupt):
        decoder = InterruptingVae() if place == "decoder" else vae
        run(dit, decoder, start(), writers, blocks=4, on_chunk=told, **options)
    state = kept[-1]
    assert state.block == (3 if place == "on_chunk" else 2)
    assert video.result and video.frames_written >= frames_made(state)
    frames, _ = collected(dit, vae, state, blocks=4 - state.block)
    assert np.array_equal(frames, whole[frames_made(state) :])


def test_two_streams_on_one_model_do_not_meet(dit, vae, start):
    alone = [collected(dit, vae, start(seed), blocks=3)[0] for seed in (1, 2)]
    states, frames = [start(1), start(2)], ([], [])
    for _ in range(3):
        for i in range(2):
            made, states[i] = collected(dit, vae, states[i], blocks=1)
            frames[i].append(made)
    for i in range(2):
        assert np.array_equal(np.concatenate(frames[i]), alone[i])
    assert not np.array_equal(*alone)


def test_what_else_goes_with_a_stream_stays_in_it(dit, vae, start):
    state = dataclasses.replace(start(), extras={"cursor": torch.tensor(4)})
    _, after = collected(dit, vae, state, blocks=1)
    assert int(after.extras["cursor"]) == 4
    assert decoder_past(state) is None and decoder_past(after) is not None


def test_a_writer_at_another_frame_is_refused_before_work_starts(dit, vae, start):
    with pytest.raises(ValueError, match="the stream goes on at frame 0, Collected at frame 9; open it with"):
        run(dit, vae, start(), [Collected(9)], blocks=1)
    with pytest.raises(ValueError, match=r"blocks must be 0 or more, or None .* got -1"):
        run(dit, vae, start(), [], blocks=-1)


@pytest.mark.parametrize(("frames", "blocks"), [(0, 0), (1, 1), (9, 1), (10, 2), (21, 2), (160, 14)])
def test_blocks_for_counts_the_short_first_one(frames, blocks):
    assert blocks_for(GEOMETRY, 3, frames) == blocks
    assert GEOMETRY.pixel_frames(3 * blocks) >= frames
