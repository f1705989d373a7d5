"""Which picture of a stream becomes which frame of its video, beside a plain list of all pictures."""

from dataclasses import dataclass, field, replace

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from rivulet.model_patches.stream.config import StreamConfig
from rivulet.model_patches.stream.follow import Follow
from rivulet.model_patches.stream.incoming import Pictures
from rivulet.model_patches.stream.join import FADE_FRAMES
from rivulet.model_patches.stream.ledger import FrameLedger
from rivulet.model_patches.stream.pipeline import Prefill, run
from rivulet.model_patches.stream.script import Script
from rivulet.model_patches.stream.step import init
from rivulet.model_patches.stream.timeline import Prompt
from rivulet.model_patches.vae.decoder import VaeBuffers

from .test_follow import naming
from .videos import GEOMETRY, Collected, pictures, text


def numbered(first, count):
    """Pictures [F, 1, 1, 3] whose levels are their numbers."""
    return torch.arange(first, first + count, dtype=torch.uint8)[:, None, None, None].expand(-1, 1, 1, 3)


def shown(ledger, first, count):
    """(numbers of the pictures that are written, the ledger after them)."""
    pixels_FHWC, ledger = ledger.show(numbered(first, count))
    return pixels_FHWC[:, 0, 0, 0].tolist(), ledger


def test_a_scene_counts_from_where_it_begins():
    ledger = FrameLedger()
    assert [ledger.next_frame(GEOMETRY, latent) for latent in (0, 1, 2, 4)] == [0, 1, 5, 13]
    assert replace(ledger, scene=9).next_frame(GEOMETRY, 2) == 14


def test_latents_from_before_are_the_first_of_their_scene():
    hidden = FrameLedger().prefill(2, hidden=5)
    assert (hidden.prefilled, hidden.hidden, hidden.next_frame(GEOMETRY, 2)) == (2, 5, 0)
    assert FrameLedger().prefill(1).next_frame(GEOMETRY, 1) == 1


def test_hidden_pictures_are_left_out_however_they_come():
    ledger, written = FrameLedger().prefill(2, hidden=5), []
    for first, count in ((0, 3), (3, 0), (3, 4), (7, 4)):
        numbers, ledger = shown(ledger, first, count)
        written += numbers
    assert written == list(range(5, 11)) and (ledger.written, ledger.skip) == (6, 0)


def test_a_limit_is_of_the_whole_video():
    _, ledger = shown(FrameLedger(), 0, 9)
    numbers, ledger = shown(replace(ledger, limit=12), 9, 12)
    assert numbers == [9, 10, 11] and ledger.written == 12
    assert ledger.next_frame(GEOMETRY, 6) == 12
    assert shown(ledger, 21, 4) == ([], replace(ledger, scene=-13))


def test_a_cut_begins_where_the_pictures_end():
    _, ledger = shown(FrameLedger().prefill(1, ending_HWC=numbered(0, 1)[0]), 0, 5)
    assert ledger.lost_HWC is not None
    after = ledger.cut()
    assert (after.scene, after.skip, after.lost_HWC, after.next_frame(GEOMETRY, 1)) == (5, 0, None, 6)


def test_pictures_that_were_flushed_are_not_shown_again():
    numbers, ledger = shown(FrameLedger(), 0, 5)
    flushed, ended = shown(ledger, 5, 4)
    ended = ended.end(GEOMETRY, 3, 4)
    again, after = shown(ended, 5, 8)
    assert numbers + flushed + again == list(range(13)) and after.written == 13
    assert ended.next_frame(GEOMETRY, 3) == ended.written == 9


def test_a_video_that_ends_before_its_first_picture_hides_what_it_hid():
    ledger = FrameLedger().prefill(3, hidden=9)
    _, ledger = shown(ledger, 0, 1)
    flushed, ended = shown(ledger, 1, 4)
    ended = ended.end(GEOMETRY, 3, 4)
    assert flushed == [] and (ended.skip, ended.next_frame(GEOMETRY, 3)) == (8, 0)
    assert shown(ended, 1, 12)[0] == [9, 10, 11, 12]


def test_a_flush_may_begin_hidden_and_end_shown():
    ledger = FrameLedger().prefill(2, hidden=5)
    _, ledger = shown(ledger, 0, 1)
    flushed, ended = shown(ledger, 1, 8)
    ended = ended.end(GEOMETRY, 3, 8)
    assert flushed == [5, 6, 7, 8] and ended.skip == 8
    assert shown(ended, 1, 12)[0] == [9, 10, 11, 12]


def test_what_a_limit_cut_off_was_never_part_of_the_video():
    _, ledger = shown(replace(FrameLedger(), limit=3), 0, 5)
    ended = ledger.end(GEOMETRY, 2, 0)
    assert (ended.written, ended.limit, ended.next_frame(GEOMETRY, 2)) == (3, None, 3)
    assert shown(ended, 5, 4)[0] == [5, 6, 7, 8]


def test_another_file_begins_at_the_frame_and_the_block_it_is_opened_at():
    _, ledger = shown(FrameLedger(), 0, 9)
    after = ledger.new_file(3)
    assert (after.file_frame, after.file_block, after.written) == (9, 3, 9)


@pytest.mark.parametrize("hidden", [0, 5])
@pytest.mark.parametrize("cuts", [(13,), (1, 4, 4, 4), (5, 1, 7)])
def test_what_follows_joins_the_last_given_picture(hidden, cuts):
    """Decoded three levels darker than it was given: so much is put back, less from frame to frame."""
    last = max(hidden - 1, 0)
    ledger = FrameLedger().prefill(2 if hidden else 1, hidden, numbered(100 + last + 3, 1)[0])
    written, first = [], 100
    for count in cuts:
        numbers, ledger = shown(ledger, first, count)
        written, first = written + numbers, first + count
    whole = range(100 + hidden, 113)
    back = [3 * max(0, 1 - frame / FADE_FRAMES) for frame in range(len(whole))]
    assert written == [int(np.rint(level + more)) for level, more in zip(whole, back, strict=True)]
    assert ledger.lost_HWC is None or ledger.written < FADE_FRAMES


class HoldingDecoder:
    """Shows a latent as pictures of its own colours, and keeps the newest ones back while it can."""

    def __init__(self, held):
        self.held = held

    def decode(self, latents_BCTHW, past, *, last=False, exact=False):
        begun = past is not None and int(past.layers[0])
        if past is not None:
            latents_BCTHW = torch.cat([past.pending, latents_BCTHW], 2)
        ready = latents_BCTHW.shape[2] - (0 if last else min(self.held, latents_BCTHW.shape[2]))
        made = [colours(latent, not begun and not t) for t, latent in enumerate(latents_of(latents_BCTHW))]
        empty = torch.empty(0, GEOMETRY.height, GEOMETRY.width, 3, dtype=torch.uint8)
        past = VaeBuffers((torch.tensor(bool(begun or ready)),), latents_BCTHW[:, :, ready:].clone())
        return torch.cat([empty, *made[:ready]]), past

    def refuse_foreign(self, past):
        """Nothing."""

    forgets_after, in_pairs, upscale = None, False, 1

    def fingerprint(self):
        """It has no weights."""

    def weights(self):
        return iter(())


def latents_of(latents_BCTHW):
    return latents_BCTHW.unbind(2)


def colours(latent_BCHW, is_first):
    """The pictures of a latent, one where a scene begins with it, else four, all unlike."""
    levels = (127 * torch.sigmoid(latent_BCHW[0, :3, 0, 0])).to(torch.uint8)
    each = torch.arange(1 if is_first else 4, dtype=torch.uint8)[:, None] + levels
    return each[:, None, None].expand(-1, GEOMETRY.height, GEOMETRY.width, 3)


@dataclass
class PlainVideo:
    """All pictures of a stream in a list."""

    hidden: int
    frames: list = field(default_factory=list)
    begins: bool = True  # a scene, with the next latent

    def add(self, latents_BCTHW, most=None):
        made = []
        for latent_BCHW in latents_of(latents_BCTHW):
            made += list(colours(latent_BCHW, self.begins))
            self.begins = False
        dropped = min(self.hidden, len(made))
        self.hidden -= dropped
        self.frames += made[dropped:][:most]


def latents(frames, seed):
    return torch.randn(GEOMETRY.latent_shape(frames), generator=torch.Generator().manual_seed(seed))


@dataclass
class Telling:
    """Runs a stream part by part, and keeps the plain video beside what its writers got."""

    wan: object
    block_frames: int
    begin: Prefill | None

    def __post_init__(self):
        config = StreamConfig(GEOMETRY, "infinity_rope", self.block_frames, sigmas=(1.0,))
        self.state = init(self.wan, (text(0),), config)
        self.plain = PlainVideo(self.begin.hidden if self.begin else 0)
        if self.begin:
            self.plain.add(self.begin.latents_BCTHW)
        self.video, self.kept = [], []

    def run(self, held, blocks, cuts, new_file, followed=None):
        if new_file:
            self.state = replace(self.state, ledger=self.state.ledger.new_file(self.state.block))
        ledger, left = self.state.ledger, followed
        changes = {self.state.block + cut: Prompt(0, "again", "cut") for cut in cuts}
        writer = Collected(ledger.written - ledger.file_frame)

        def on_chunk(chunk):
            nonlocal left
            if chunk.block in changes and chunk.block:
                self.plain.begins = True
            # all that the block adds to a video, less what an incoming one does not have
            room = GEOMETRY.pixel_frames(self.block_frames) if self.plain.begins else 4 * self.block_frames
            self.plain.add(chunk.state.tail_BCTHW[:, :, -self.block_frames :], left)
            left = None if left is None else max(0, left - room)

        follow = None
        if followed is not None:
            follow = Follow(Pictures(pictures(followed)), naming(), self.state.config, 1.0)
        self.state = run(
            self.wan,
            HoldingDecoder(held),
            self.state,
            [writer],
            blocks=blocks,
            begin=self.begin,
            script=Script(self.state.prompt, "", changes, lambda words: self.state.prompt),
            follow=follow,
            on_chunk=on_chunk,
        )
        # a cut that no block came after, as the video that was followed had ended
        self.begin, self.plain.begins = None, not self.state.start_frame
        self.video += list(writer.frames)

    def check(self):
        assert np.array_equal(np.stack(self.video), torch.stack(self.plain.frames).numpy())
        ledger = self.state.ledger
        assert ledger.written == len(self.video) == ledger.next_frame(GEOMETRY, self.state.start_frame)


BEGINNINGS = {
    "nothing": None,
    "a picture": Prefill(latents(1, 1)),
    "a video": Prefill(latents(3, 2), hidden=9),
    "half a video": Prefill(latents(3, 3), hidden=4),
}
PART = st.tuples(
    st.integers(0, 2),  # latents that the decoder holds back
    st.integers(1, 3),  # blocks
    st.sets(st.integers(0, 2), max_size=2),  # blocks of them before which there is a cut
    st.booleans(),  # into a file of its own
)


@settings(max_examples=200, deadline=None)
@example(
    block_frames=2,
    begin="nothing",
    parts=[(1, 1, set(), False), (0, 1, set(), False)],
    followed=1,  # the decoder is flushed of pictures that the limit cuts off
)
@given(
    block_frames=st.integers(1, 3),
    begin=st.sampled_from(list(BEGINNINGS)),
    parts=st.lists(PART, min_size=1, max_size=4),
    followed=st.none() | st.integers(1, 30),
)
def test_the_video_is_that_of_a_plain_list(wan, block_frames, begin, parts, followed):
    """However a stream is cut into parts; the first one may follow a video of so many pictures."""
    telling = Telling(wan, block_frames, BEGINNINGS[begin])
    for number, part in enumerate(parts):
        telling.run(*part, followed=None if number or telling.begin else followed)
        telling.check()
