"""One stream in the making: a block is sampled, decoded and written, then viewers are heard.

C channels, T latent frames, F pixel frames, H/W of the picture or of the latent grid.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import comfy.utils
import torch
from torch import Tensor

from ...model_patches.stream.follow import Follow
from ...model_patches.stream.join import FADE_FRAMES, joined, lost
from ...model_patches.stream.pipeline import blocks_for
from ...model_patches.stream.timeline import Prompt
from ...model_patches.viewers.live import Told
from ...model_patches.viewers.mailbox import Message
from ...model_patches.viewers.session import Session
from ..host.decoder import StreamDecoder
from ..host.stream import HostState, HostStream
from ..host.vae import HostVaePast
from ..start_from import keep
from .kept import ENDING, Kept, save, settled
from .script import Script
from .switch import before_recache, switched

log = logging.getLogger(__name__)

EARLY, ALWAYS, NEVER = "when it ends early", "always", "never"
WHEN = {
    EARLY: "if it is stopped, interrupted or fails",
    ALWAYS: "also at its planned end",
    NEVER: "not at all",
}


class Take:
    """Makes the blocks of one stream; sampling and decoding take turns: the host may move either out.

    Pictures are counted over the whole video; where an earlier take is gone on with, the file holds those
    after it.
    """

    def __init__(self, stream: HostStream, decoder: StreamDecoder, script: Script, session: Session) -> None:
        self.stream, self.decoder, self.script, self.session = stream, decoder, script, session
        self.last = torch.empty(0)  # the newest picture [1, H, W, 3] in [0, 1]
        self.kept: Kept | None = None  # what another run goes on from
        self._past: HostVaePast | None = None
        self._scene = 0  # pixel frame at which it began: the stream's start, or the last cut
        self._earlier = (0, 0)  # blocks and pixel frames of the take that is gone on with
        self._skipped = 0  # pictures to come that the earlier take's file already holds
        self._prompt = script.prompt
        self._given = self._hidden = 0  # latents before the first block, and pictures of them not shown
        self._ending_HWC: Tensor | None = None  # the last picture of a video that is gone on from
        self._lost_HWC: Tensor | None = None  # what the VAE lost of it
        self._follows = False  # blocks begin with an incoming video
        self._most: int | None = None  # pictures of the whole video, where an incoming one has ended

    def run(
        self,
        pictures: int,
        given_BCTHW: Tensor | None = None,
        kept: Kept | None = None,
        *,
        hidden: int = 0,
        ending_HWC: Tensor | None = None,
        follow: Follow | None = None,
    ) -> Tensor:
        """The newest latents [1, C, T, H, W] after so many pictures, or fewer where a viewer says stop.

        given: latents to begin with; their pictures are the first, after the `hidden` ones. ending: the last
        given picture, in [0, 1], where the latents are of pictures; what is shown follows on it without a
        step, and where it is the video's first it is shown as it is. kept: an earlier take to go on with.
        follow: an incoming video that blocks begin with; where it ends the take ends.
        """
        self._follows = follow is not None
        if kept is None:
            self._given = 0 if given_BCTHW is None else given_BCTHW.shape[2]
            self._hidden = self._skipped = hidden
            self._scene, self._ending_HWC = -hidden, ending_HWC
            state = self._begun(pictures, given_BCTHW)
        else:
            state = self._taken_up(kept)
        progress = comfy.utils.ProgressBar(self._left(state, pictures))
        while self._first_frame(state) < pictures and self.session.goes_on():
            began = time.perf_counter()
            state = self._steered(state)
            begin = None
            if follow is not None:
                followed = follow.block(state.block, state.start_frame)
                if followed is None:
                    break
                begin, self._most = followed.begin, self._first_frame(state) + followed.pictures
            latents_BCTHW, state = self.stream.step(state, begin)
            frames = self._show(latents_BCTHW)
            self._keep(state)
            made = state.block - self._earlier[0]
            self.session.live.blocks = made + self._left(state, pictures)
            self.session.note_block(frames, time.perf_counter() - began)
            progress.update_absolute(made, self.session.live.blocks)
        self._show(state.tail_BCTHW[:, :, :0], last=True)
        self.session.live.blocks = state.block - self._earlier[0]
        if self._most is not None:
            # what was cut off the last block of a followed video was never part of this one
            self._scene += self._most - self._first_frame(state)
        if self.kept is not None:
            # the decoder's past is that of before: with a pair to come, the last latent is not the last
            self.kept = replace(self.kept, scene=self._scene, frames=self._written())
        return state.tail_BCTHW

    def _begun(self, pictures: int, given_BCTHW: Tensor | None) -> HostState:
        config = self.stream.config
        planned = blocks_for(config.geometry, config.block_frames, pictures + self._hidden, self._given)
        state = self.stream.begin(self._given + planned * config.block_frames)
        if given_BCTHW is not None:
            state = keep(self.stream, state, given_BCTHW)
            self._show(given_BCTHW)
        return state

    def _taken_up(self, kept: Kept) -> HostState:
        geometry, state = self.stream.config.geometry, kept.state
        self._past, self._scene, self._given = kept.past, kept.scene, kept.given
        self._hidden, self._lost_HWC = kept.hidden, kept.lost_HWC
        self._earlier = (state.block, kept.frames)
        self.kept = kept
        held = 0 if kept.past is None or kept.past.held_BCTHW is None else kept.past.held_BCTHW.shape[2]
        self._skipped = max(0, kept.frames - kept.scene - geometry.pixel_frames(state.start_frame - held))
        return settled(kept, self.stream)

    def _left(self, state: HostState, pictures: int) -> int:
        """Blocks until the video has so many pictures."""
        config = self.stream.config
        return blocks_for(config.geometry, config.block_frames, pictures - self._scene, state.start_frame)

    def _show(self, latents_BCTHW: Tensor, *, last: bool = False) -> int:
        """Writes the pictures of these latents; returns how many there are."""
        pixels_FHWC, self._past = self.decoder.decode(latents_BCTHW, self._past, last=last)
        skipped = min(self._skipped, len(pixels_FHWC))
        if self._ending_HWC is not None and skipped == self._skipped:
            # the last one that is not shown, or the first, is the given one as the VAE has it
            decoded_HWC = pixels_FHWC[max(0, skipped - 1)]
            self._lost_HWC, self._ending_HWC = lost(self._ending_HWC, decoded_HWC), None
        self._skipped, pixels_FHWC = self._skipped - skipped, pixels_FHWC[skipped:]
        if self._most is not None:
            pixels_FHWC = pixels_FHWC[: max(0, self._most - self._written())]
        if self._lost_HWC is not None:
            pixels_FHWC = joined(pixels_FHWC, self._lost_HWC, self._written())
        if len(pixels_FHWC):
            self.session.writer.write((pixels_FHWC * 255).round().clamp(0, 255).to(torch.uint8).cpu())
            self.last = pixels_FHWC[-1:].clone()
        return len(pixels_FHWC)

    def _keep(self, state: HostState, *, recaches: bool = False) -> None:
        made = self._scene, self._written(), self._prompt, self._given, recaches
        lost_HWC = self._lost_HWC if self._written() < FADE_FRAMES else None
        self.kept = Kept(state, self._past, *made, self._hidden, lost_HWC, self._follows)

    def _written(self) -> int:
        """Pixel frames of the whole video that are written."""
        return self._earlier[1] + self.session.writer.frames_written

    def _steered(self, state: HostState) -> HostState:
        """The state under the prompt that begins with this block: the timeline's, then a viewer's."""
        due = self.script.due(state.block)
        if due is not None:
            state = self._switched(state, due)
        message = self.session.wish()
        return state if message is None else self._obeyed(state, message)

    def _obeyed(self, state: HostState, message: Message) -> HostState:
        block = state.block - self._earlier[0]
        try:
            # a prompt that cannot be read must not end the stream
            self.script.encode(message.prompt)
        except Exception as why:
            self.session.refuse(message, why)
            return state
        state = self._switched(state, Prompt(0, message.prompt, message.mode))
        first_frame = self._first_frame(state) - self._earlier[1]
        self.session.live.mailbox.settle(message, "done", block=block, first_frame=first_frame)
        return state

    def _switched(self, state: HostState, prompt: Prompt) -> HostState:
        conditioning, self._prompt = self.script.encode(prompt.text), prompt.text
        if prompt.mode == "recache" and state.block:
            # an interruption in the middle leaves only what is not run again
            self._keep(before_recache(self.stream, state), recaches=True)
        state = switched(self.stream, state, conditioning, prompt.mode)
        if state.block and not state.start_frame:
            self._begin_scene(state)
        if state.block:
            self._keep(state)
        first_frame = self._first_frame(state) - self._earlier[1]
        told = Told(prompt.text, prompt.mode, state.block - self._earlier[0], first_frame)
        self.session.live.note_prompt(told)
        return state

    def _begin_scene(self, state: HostState) -> None:
        """The decoder, too, begins anew: the first latent of a scene is one picture, not four."""
        self._show(state.tail_BCTHW, last=True)
        self._scene, self._past, self._lost_HWC = self._written(), None, None

    def _first_frame(self, state: HostState) -> int:
        """The first pixel frame of the next block."""
        return self._scene + self.stream.config.geometry.pixel_frames(state.start_frame)


@contextmanager
def saving(take: Take, when: str) -> Iterator[Path]:
    """Gives the path at which the take is saved when it is over, if it ends as `when` says, one of WHEN.

    What fails here is logged: the video is whole without it.
    """
    video = take.session.writer.path
    path, early = video.with_name(video.stem + ENDING), True
    try:
        yield path
        early = take.session.stopping
    finally:
        if take.kept is not None and (when == ALWAYS or (when == EARLY and early)):
            try:
                save(take.kept, take.stream, path)
                log.info("Stream Video: %s goes on with Resume Stream.", path.name)
            except (OSError, RuntimeError) as why:
                log.warning("Stream Video: the take cannot be gone on with later: %s", why)
