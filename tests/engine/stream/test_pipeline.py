"""The loop around a stream: what its writers get, what is told, and what an interruption leaves."""

import dataclasses
import itertools

import numpy as np
import pytest
import torch
from rivulet.model_patches.geometry import blocks_for
from rivulet.model_patches.stream.config import StreamConfig
from rivulet.model_patches.stream.follow import Follow, encoder_of
from rivulet.model_patches.stream.incoming import Pictures
from rivulet.model_patches.stream.pipeline import Prefill, run, snapshot
from rivulet.model_patches.stream.script import Script
from rivulet.model_patches.stream.snapshot import load
from rivulet.model_patches.stream.step import init, step
from rivulet.model_patches.stream.switch import switch
from rivulet.model_patches.stream.timeline import Prompt
from rivulet.model_patches.stream.watching import Unwatched
from rivulet.model_patches.vae.decoder import VaeDecoder, decode_stream
from rivulet.model_patches.viewers.live import PromptChange
from rivulet.model_patches.viewers.mailbox import Message
from rivulet.model_patches.writer.video import Mp4Writer

from .test_snapshot_journey import Held
from .videos import GEOMETRY, Collected, pictures, text


@pytest.fixture
def start(wan):
    def make(seed=7):
        return init(wan, (text(0),), StreamConfig(GEOMETRY, sigmas=(1.0, 0.5), seed=seed))

    return make


def collected(wan, vae, state, **options):
    writer = Collected(state.ledger.written)
    after = run(wan, VaeDecoder(vae), state, [writer], **options)
    return writer.frames, after


@pytest.fixture
def whole(wan, vae, start):
    """The pictures of four blocks that nothing disturbed."""
    return collected(wan, vae, start(), blocks=4)[0]


def by_hand(wan, vae, state, texts):
    """The same stream without the pipeline: latents of all blocks first, then pictures of the whole."""
    latents = []
    for new in texts:
        if new is not None:
            state = switch(wan, state, (new,), "smooth")
        block, state = step(wan, state)
        latents.append(block)
    return decode_stream(vae, torch.cat(latents, 2))[0].numpy()


def test_every_writer_gets_the_pictures_of_the_whole_stream(wan, vae, start, tmp_path):
    writers = [
        Collected(),
        Collected(),
        Mp4Writer(tmp_path / "take.mp4", width=32, height=16, fps=16),
    ]
    after = run(wan, VaeDecoder(vae), start(), writers, blocks=4)
    assert np.array_equal(writers[0].frames, by_hand(wan, vae, start(), [None] * 4))
    assert [len(chunk) for chunk in writers[0].chunks] == [9, 12, 12, 12]
    assert [writer.frames_written for writer in writers] == [45, 45, 45] == [after.ledger.written] * 3
    assert np.array_equal(writers[1].frames, writers[0].frames)
    assert writers[2].result == tmp_path / "take.mp4"
    assert (after.block, after.start_frame) == (4, 12)


@pytest.mark.parametrize("shows", [Held, VaeDecoder])
def test_a_shot_goes_over_from_pictures_that_are_not_shown(wan, vae, start, shows):
    """The decoder gets the kept latents first; no picture is lost or shown twice, and borders stay."""
    script, made = scripted({2: Prompt(0, "1", "shot")}), []
    writer = Collected()
    after = run(
        wan,
        shows(vae),
        start(),
        [writer],
        blocks=5,
        script=script,
        on_chunk=lambda chunk: made.append(chunk.state.tail_BCTHW[:, :, -3:]),
    )
    scenes = torch.cat(made[:2], 2), torch.cat(made[1:], 2)
    first, second = (decode_stream(vae, latents)[0].numpy() for latents in scenes)
    # in other pieces sums may come in another order, which can tip a level and no more
    off = np.abs(writer.frames.astype(int) - np.concatenate([first, second[9:]]))
    assert off.max() <= 1 and (off > 0).mean() < 1e-3
    assert len(writer.frames) == 9 + 4 * 12 == after.ledger.written
    assert after.start_frame == 3 + 9 and after.given == 3


def test_what_is_told_of_a_block_agrees_with_the_writers(wan, vae, start):
    writer, told = Collected(), []

    def on_chunk(chunk):
        told.append((chunk.block, chunk.first_frame, chunk.end_frame, chunk.state.block))
        assert writer.frames_written == chunk.end_frame == chunk.state.ledger.written
        assert np.array_equal(writer.chunks[-1], chunk.pixels_FHWC.numpy())

    run(wan, VaeDecoder(vae), start(), [writer], blocks=3, on_chunk=on_chunk)
    assert told == [(0, 0, 9, 1), (1, 9, 21, 2), (2, 21, 33, 3)]


def scripted(changes):
    """A script whose prompts name encoded texts by their numbers."""
    return Script((text(0),), "0", changes, lambda words: (text(int(words)),))


def test_a_prompt_of_the_script_holds_from_its_block_on(wan, vae, start, whole):
    script = scripted({2: Prompt(0, "5", "smooth")})
    frames, after = collected(wan, vae, start(), blocks=4, script=script)
    assert np.array_equal(frames, by_hand(wan, vae, start(), [None, None, text(5), None]))
    assert np.array_equal(frames[:21], whole[:21])
    assert not np.array_equal(frames[21:], whole[21:])
    assert after.text == "5"


def test_a_stream_without_end_stops_when_told_and_keeps_everything(wan, vae, start):
    asked = itertools.count()
    frames, after = collected(wan, vae, start(), viewers=Unwatched(lambda: next(asked) == 3))
    assert after.block == 3
    assert np.array_equal(frames, by_hand(wan, vae, start(), [None] * 3))


def test_a_stream_cut_anywhere_goes_on_as_if_it_had_not_been(wan, vae, start, whole):
    for cut in range(5):
        state, parts = start(), []
        for blocks in (cut, 4 - cut):
            if blocks:
                frames, state = collected(wan, vae, state, blocks=blocks)
                parts.append(frames)
        assert np.array_equal(np.concatenate(parts), whole)


def test_a_snapshot_on_disk_resumes_picture_for_picture(wan, vae, start, whole, tmp_path):
    first = Collected()

    def on_chunk(chunk):
        if chunk.block == 1:
            snapshot(wan, chunk.state, [first], tmp_path / "stream.safetensors")

    run(wan, VaeDecoder(vae), start(), [first], blocks=3, on_chunk=on_chunk)
    state = load(tmp_path / "stream.safetensors", wan)
    assert state.ledger.written == 21
    frames, _ = collected(wan, vae, state, blocks=2)
    assert np.array_equal(frames, whole[21:])


def test_a_snapshot_waits_until_the_video_holds_its_frames(wan, vae, start, tmp_path):
    writer = Mp4Writer(tmp_path / "take.mp4", width=32, height=16, fps=16)
    on_disk = []

    def on_chunk(chunk):
        snapshot(wan, chunk.state, [writer], tmp_path / "stream.safetensors")
        on_disk.append(writer.index.frames)

    run(wan, VaeDecoder(vae), start(), [writer], blocks=2, on_chunk=on_chunk)
    assert on_disk == [9, 21]


class Interruption:
    """Raises when it is called for the third time."""

    def __init__(self):
        self.calls = itertools.count()

    def __call__(self, *what):
        if next(self.calls) == 2:
            raise KeyboardInterrupt


class Interrupting(Collected):
    """A writer that asks for an interruption before it writes."""

    def __init__(self, interrupt):
        super().__init__()
        self.interrupt = interrupt

    def write(self, pixels):
        self.interrupt()
        super().write(pixels)


class InterruptingVae:
    """A VAE that asks for an interruption before it decodes."""

    def __init__(self, vae, interrupt):
        self.vae, self.interrupt = vae, interrupt
        self.latent_channels, self.upscale = vae.latent_channels, vae.upscale
        self.encode, self.parameters = vae.encode, vae.parameters

    def decode(self, latents, past=None):
        self.interrupt()
        return self.vae.decode(latents, past)


@pytest.mark.parametrize("place", ["stop", "encode", "keep", "on_chunk", "writer", "decoder"])
def test_an_interruption_anywhere_keeps_what_was_told(wan, vae, start, whole, tmp_path, place):
    """Whatever stops the stream, the last state that was kept goes on to the same pictures."""
    kept, video = [], Mp4Writer(tmp_path / "take.mp4", width=32, height=16, fps=16)
    interrupt = Interruption()

    def keep(state):
        kept.append(state)
        if place == "keep":
            interrupt()

    def encode(words):
        interrupt()
        return (text(0),)

    again = {n: Prompt(0, "0", "smooth") for n in range(4)}
    options = {
        "stop": {"viewers": Unwatched(interrupt)},
        "encode": {"script": Script((text(0),), "0", again, encode)},
        "on_chunk": {"on_chunk": interrupt},
    }.get(place, {})
    writers = [video, Interrupting(interrupt) if place == "writer" else Collected()]
    decoder = VaeDecoder(InterruptingVae(vae, interrupt) if place == "decoder" else vae)
    with pytest.raises(KeyboardInterrupt):
        run(wan, decoder, start(), writers, blocks=4, keep=keep, **options)
    state = kept[-1]
    assert state.block == (3 if place == "on_chunk" else 2)
    assert video.result and video.frames_written >= state.ledger.written
    frames, _ = collected(wan, vae, state, blocks=4 - state.block)
    assert np.array_equal(frames, whole[state.ledger.written :])


def test_two_streams_on_one_model_do_not_meet(wan, vae, start):
    alone = [collected(wan, vae, start(seed), blocks=3)[0] for seed in (1, 2)]
    states, frames = [start(1), start(2)], ([], [])
    for _ in range(3):
        for i in range(2):
            made, states[i] = collected(wan, vae, states[i], blocks=1)
            frames[i].append(made)
    for i in range(2):
        assert np.array_equal(np.concatenate(frames[i]), alone[i])
    assert not np.array_equal(*alone)


def test_a_writer_at_another_frame_is_refused_before_work_starts(wan, vae, start):
    with pytest.raises(ValueError, match="the stream goes on at frame 0, Collected at frame 9; open it with"):
        run(wan, VaeDecoder(vae), start(), [Collected(9)], blocks=1)
    with pytest.raises(ValueError, match=r"blocks must be 0 or more, or none .* got -1"):
        run(wan, VaeDecoder(vae), start(), [], blocks=-1)


@pytest.mark.parametrize(("frames", "blocks"), [(0, 0), (1, 1), (9, 1), (10, 2), (21, 2), (160, 14)])
def test_blocks_for_counts_the_short_first_one(frames, blocks):
    assert blocks_for(GEOMETRY, 3, frames) == blocks
    assert GEOMETRY.pixel_frames(3 * blocks) >= frames


class Watching:
    """Viewers whose wishes are known beforehand, by the block they come before."""

    def __init__(self, wishes):
        self.wishes = wishes
        self.accepted, self.refused, self.prompts, self.blocks, self.plans = [], [], [], [], []

    def should_continue(self, rest):
        return True

    def tell(self, sentence):
        raise AssertionError(sentence)

    def next_prompt(self):
        return self.wishes.get(len(self.blocks))

    def accept(self, message, block, first_frame):
        self.accepted.append((message.prompt, block, first_frame))

    def refuse(self, message, why):
        self.refused.append(str(why))

    def note_prompt(self, told):
        self.prompts.append(told)

    def note_plan(self, blocks):
        self.plans.append(blocks)

    def note_block(self, frames, seconds):
        self.blocks.append(frames)


def wish(prompt, mode):
    return Message("a page", 1, "prompt", prompt, mode)


def test_a_viewers_prompt_holds_from_the_next_block_on_and_is_told(wan, vae, start):
    viewers = Watching({1: wish("5", "smooth"), 2: wish("6", "cut")})
    frames, after = collected(wan, vae, start(), blocks=3, script=scripted({}), viewers=viewers)
    # a cut begins with one picture
    assert viewers.blocks == [9, 12, 9] and len(frames) == 30
    assert viewers.accepted == [("5", 1, 9), ("6", 2, 21)] and set(viewers.plans) == {3}
    assert viewers.prompts == [PromptChange("5", "smooth", 1, 9), PromptChange("6", "cut", 2, 21)]
    assert np.array_equal(frames[:21], by_hand(wan, vae, start(), [None, text(5)]))
    assert after.text == "6"


@pytest.mark.parametrize(
    ("prompt", "mode", "why"),
    [
        ("a dog", "smooth", "invalid literal"),
        ("5", "fade", "there is no switch 'fade'"),
        (" ", "cut", "no text"),
    ],
)
def test_a_prompt_that_cannot_be_is_refused_and_changes_nothing(wan, vae, start, whole, prompt, mode, why):
    viewers = Watching({2: wish(prompt, mode)})
    frames, after = collected(wan, vae, start(), blocks=4, script=scripted({}), viewers=viewers)
    (said,) = viewers.refused
    assert why in said and viewers.accepted == []
    assert np.array_equal(frames, whole) and viewers.prompts == [] and after.text is None


def test_what_viewers_are_told_counts_in_the_file_that_is_there(wan, vae, start):
    _, state = collected(wan, vae, start(), blocks=2)
    state = dataclasses.replace(state, ledger=state.ledger.new_file(state.block))
    viewers, writer = Watching({1: wish("5", "smooth")}), Collected()
    run(wan, VaeDecoder(vae), state, [writer], pictures=40, script=scripted({}), viewers=viewers)
    assert viewers.accepted == [("5", 1, 12)] and len(writer.frames) == 24
    assert viewers.blocks == [12, 12] and set(viewers.plans) == {2}


@pytest.mark.parametrize(("frames", "blocks"), [(0, 0), (1, 1), (9, 1), (10, 2), (33, 3)])
def test_pictures_are_counted_over_the_whole_video(wan, vae, start, frames, blocks):
    _, after = collected(wan, vae, start(), pictures=frames)
    assert after.block == blocks
    _, again = collected(wan, vae, after, pictures=frames)
    assert again.block == blocks


def test_the_script_goes_before_a_viewer_at_the_same_block(wan, vae, start):
    viewers = Watching({2: wish("6", "smooth")})
    script = scripted({2: Prompt(0, "5", "smooth")})
    frames, after = collected(wan, vae, start(), blocks=3, script=script, viewers=viewers)
    assert np.array_equal(frames, by_hand(wan, vae, start(), [None, None, text(6)]))
    assert [told.prompt for told in viewers.prompts] == ["5", "6"] and after.text == "6"


def test_a_followed_block_is_marked_and_one_of_the_prompt_alone_is_not(wan, vae, start):
    video = Pictures(pictures(9))
    follow = Follow(video, encoder_of(vae), start().config, 1.0)
    _, after = collected(wan, vae, start(), follow=follow)
    assert after.followed and after.ledger.limit is None
    _, again = collected(wan, vae, after, blocks=1)
    assert not again.followed


@pytest.mark.parametrize("made", [1, 2, 3])
def test_a_take_that_was_interrupted_while_it_followed_goes_on_by_its_prompt(wan, vae, start, made):
    """The last of its blocks has two pictures of the video it follows, which end it no more."""
    kept, writer = [], Collected()

    class Interrupting(Unwatched):
        def should_continue(self, rest):
            if len(kept) == 1 + made:
                raise KeyboardInterrupt
            return True

    follow = Follow(Pictures(pictures(23)), encoder_of(vae), start().config, 1.0)
    with pytest.raises(KeyboardInterrupt):
        state, viewers = start(), Interrupting()
        run(wan, VaeDecoder(vae), state, [writer], follow=follow, keep=kept.append, viewers=viewers)
    assert len(writer.frames) == (9, 21, 23)[made - 1]
    frames, after = collected(wan, vae, kept[-1], blocks=2)
    assert len(frames) == 24 and after.ledger.written == len(writer.frames) + 24
    assert after.ledger.next_frame(GEOMETRY, after.start_frame) == after.ledger.written


class Full(Collected):
    """A disk with room for a block."""

    def write(self, pixels):
        if self.chunks:
            raise OSError(28, "No space left on device")
        super().write(pixels)


@pytest.mark.parametrize("fails", ["writer", "encoder"])
def test_a_prompt_that_was_asked_for_is_settled_where_the_run_ends_over_it(wan, vae, start, fails):
    """A cut writes what the decoder holds back; a prompt may be interrupted while it is encoded."""
    viewers, script = Watching({1: wish("5", "cut")}), scripted({})
    if fails == "encoder":

        def interrupt(words):
            raise KeyboardInterrupt

        script = dataclasses.replace(script, encode=interrupt)
    writer, error = (Full(), OSError) if fails == "writer" else (Collected(), KeyboardInterrupt)
    with pytest.raises(error):
        run(wan, Held(vae), start(), [writer], blocks=3, script=script, viewers=viewers)
    assert len(viewers.refused) == 1 and not viewers.accepted and viewers.blocks == [1]


def test_the_state_before_the_first_block_is_kept_too_and_one_of_a_later_block_is_not_told_again(
    wan, vae, start
):
    kept = []
    after = run(wan, VaeDecoder(vae), start(), [Collected()], blocks=2, keep=kept.append)
    assert [state.block for state in kept] == [0, 1, 2, 2]
    kept.clear()
    run(wan, VaeDecoder(vae), after, [Collected(21)], blocks=1, keep=kept.append)
    assert [state.block for state in kept] == [3, 3]


def test_what_is_kept_before_the_first_block_has_the_latents_it_begins_with(wan, vae, start, whole):
    kept, writer = [], Collected()
    begin = Prefill(torch.randn(GEOMETRY.latent_shape(2), generator=torch.Generator().manual_seed(3)))
    run(wan, VaeDecoder(vae), start(), [writer], blocks=2, begin=begin, keep=kept.append)
    first = kept[0]
    assert (first.block, first.start_frame, first.ledger.written) == (0, 2, 5)


def test_another_seed_holds_from_its_block_on_and_every_switch_is_told_before_it_is_kept(
    wan, vae, start, whole
):
    told = []
    other = dataclasses.replace(start().config, seed=8)
    script = dataclasses.replace(scripted({1: Prompt(0, "0", "smooth")}), configs={2: other})
    frames, after = collected(
        wan, vae, start(), blocks=4, script=script,
        keep=lambda state: told.append((state.block, state.config.seed)),
        on_prompt=lambda state, prompt: told.append((state.block, prompt.text, prompt.mode)),
    )  # fmt: skip
    assert np.array_equal(frames[:21], whole[:21]) and not np.array_equal(frames[21:33], whole[21:33])
    assert after.config.seed == 8
    assert told == [(0, 7), (1, 7), (1, "0", "smooth"), (1, 7), (2, 7), (3, 8), (4, 8), (4, 8)]
    again, _ = collected(wan, vae, start(), blocks=2)
    rest = Collected(21)
    state = run(wan, VaeDecoder(vae), start(), [Collected()], blocks=2)
    run(wan, VaeDecoder(vae), dataclasses.replace(state, config=other), [rest], blocks=2)
    assert np.array_equal(rest.frames, frames[21:]) and np.array_equal(again, frames[:21])


def test_a_fixed_prompt_comes_in_where_it_is_said_to(wan, vae, start, whole):
    script = Script((text(5),), None, since=2)
    frames, _ = collected(wan, vae, start(), blocks=4, script=script)
    assert np.array_equal(frames, by_hand(wan, vae, start(), [None, None, text(5), None]))
    assert not np.array_equal(frames[21:], whole[21:])
