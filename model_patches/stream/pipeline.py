"""The loop around a stream: a block of latents, its pictures, the writers, the viewers' wishes, the next
block.

B batch, C channels, T latent frames, F pixel frames, H/W of the picture or of the latent grid.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path

from torch import Tensor

from ..geometry import blocks_for
from ..sampler.noise import BlockNoise, KeyedNoise
from ..vae.decoder import StreamDecoder
from ..viewers.live import PromptChange
from ..writer.frames import HostFrames
from ..writer.protocol import Writer
from .caller import Caller
from .follow import Follow, Followed
from .ledger import FrameLedger
from .overlap import Overlap
from .pictures import VideoOutput
from .recovery import PASS, PICTURES, PROMPT, Recovery, save_in_any_case
from .script import Script
from .state import StreamState
from .step import prefill, step
from .switch import switch
from .timeline import NEW_SCENE
from .timeline import Prompt as TimedPrompt
from .watching import NOBODY, Viewers


@dataclass(frozen=True, slots=True)
class Prefill:
    """Latents that are there before the first block."""

    latents_BCTHW: Tensor  # in the model's units
    hidden: int = 0  # pixel frames of them that the video does not show
    ending_HWC: Tensor | None = None  # the last given picture, see `FrameLedger.prefill`


@dataclass(frozen=True, slots=True)
class Chunk:
    """One block, told after every writer has taken its frames."""

    block: int  # counted from the start of the stream
    first_frame: int  # pixel frame of the whole video
    frames: HostFrames
    seconds: float  # of work that it took
    state: StreamState  # goes on after this block; all a snapshot needs

    @property
    def end_frame(self) -> int:
        """Pixel frames of the video so far."""
        return self.first_frame + len(self.frames)

    @property
    def pixels_FHWC(self) -> Tensor:
        """The frames, uint8; waits until the card has made them."""
        return self.frames.read()


def run(
    caller: Caller,
    decoder: StreamDecoder,
    state: StreamState,
    writers: Sequence[Writer],
    *,
    blocks: int | None = None,
    pictures: int | None = None,
    script: Script | None = None,
    viewers: Viewers = NOBODY,
    begin: Prefill | None = None,
    follow: Follow | None = None,
    noise: BlockNoise | None = None,
    keep: Callable[[StreamState], None] = lambda state: None,
    on_prompt: Callable[[StreamState, TimedPrompt], None] = lambda state, prompt: None,
    on_chunk: Callable[[Chunk], None] = lambda chunk: None,
    may_shrink: bool = False,
    overlap: Overlap | None = None,
) -> StreamState:
    """The state after the last block, with its frames in the writers, which are opened and closed here.

    blocks: so many more; pictures: until the whole video has so many pixel frames; neither: until viewers say
    stop. Between blocks, and only there: the script's prompt, then a viewer's, takes effect, and `keep` gets
    each state that the stream can go on from, the one before the first block too. on_prompt: is told the
    state under another prompt before `keep` gets it. begin: latents before the first block. follow: an
    incoming video that every block begins with; the stream ends with it. overlap: has a card decode a block
    while the next one is made, unless a video is followed; None: in turns. On an error or an interruption the
    newest state that `keep` got is where the stream stands; it agrees with the writers, which keep what they
    took. Where the card is full, room is made and the work is begun once more, see `recovery`; may_shrink:
    the cache may go over to a smaller format for that. CardFullError where nothing helped.
    """
    if blocks is not None and blocks < 0:
        raise ValueError(
            f"Pipeline: blocks must be 0 or more, or none for a stream without end, got {blocks}."
        )
    _check_positions(writers, state)
    overlap = overlap or Overlap()
    told = keep, on_prompt, on_chunk
    loop = _Loop(caller, decoder, writers, state, script, viewers, noise, told, may_shrink, overlap)
    last = None if blocks is None else state.block + blocks
    with ExitStack() as open_writers:
        open_writers.callback(overlap.finish)
        for writer in writers:
            open_writers.enter_context(writer)
        open_writers.enter_context(caller.when_unloaded(loop.recovery.unloaded))
        loop.begin(begin)
        while not loop.is_over(last, pictures) and viewers.should_continue(loop.recovery.rest):
            if not loop.make_block(follow, last, pictures):
                break
        loop.end()
    return loop.state


def snapshot(
    caller: Caller,
    state: StreamState,
    writers: Iterable[Writer],
    path: str | Path,
    decoder: StreamDecoder | None = None,
) -> None:
    """Saves the stream, once all its frames are on disk. decoder: see `snapshot.capture`."""
    for writer in writers:
        writer.seal()
    save_in_any_case(caller, state, path, decoder)


class _Loop:
    """One run: its state, and what turns it into the next."""

    def __init__(
        self,
        caller: Caller,
        decoder: StreamDecoder,
        writers: Sequence[Writer],
        state: StreamState,
        script: Script | None,
        viewers: Viewers,
        noise: BlockNoise | None,
        told: tuple[
            Callable[[StreamState], None],
            Callable[[StreamState, TimedPrompt], None],
            Callable[[Chunk], None],
        ],
        may_shrink: bool,
        overlap: Overlap,
    ) -> None:
        self.caller, self.state = caller, state
        self.recovery = Recovery(
            caller, lambda: self.state, self._adopt, viewers.tell, may_shrink=may_shrink, overlap=overlap
        )
        self.output = VideoOutput(decoder, writers, self.recovery, overlap)
        # one for all blocks, so that it can draw ahead
        self.script, self.viewers, self.noise = script, viewers, noise or KeyedNoise(state.config.seed)
        self.keep, self.on_prompt, self.on_chunk = told
        self.begun = False  # what is there before the first block is remembered, so that it can be kept
        self.geometry, self.block_frames = state.config.geometry, state.config.block_frames

    @property
    def next_frame(self) -> int:
        """Pixel frame of the whole video that the next block begins with."""
        return self.state.ledger.next_frame(self.geometry, self.state.start_frame)

    def is_over(self, last: int | None, pictures: int | None) -> bool:
        """Whether the block before was the last that was asked for."""
        state = self.state
        return (last is not None and state.block >= last) or (
            pictures is not None and self.next_frame >= pictures
        )

    def begin(self, start: Prefill | None) -> None:
        """Remembers latents that are there, and shows their pictures; a new stream can go on from here."""
        if start is not None:
            self._prefill(start)
        self.begun = True
        if not self.state.block:
            self.keep(self.state)

    def _prefill(self, start: Prefill) -> None:
        state = self.recovery.attempt(PASS, lambda: prefill(self.caller, self.state, start.latents_BCTHW))
        ledger = state.ledger.prefill(start.latents_BCTHW.shape[2], start.hidden, start.ending_HWC)
        self.state, _ = self.output.show(replace(state, ledger=ledger), start.latents_BCTHW)

    def make_block(self, follow: Follow | None, last: int | None, pictures: int | None) -> bool:
        """One more block, unless the video that is followed has ended."""
        started = time.perf_counter()
        self._steer()
        block, first_frame = self.state.block, self.state.ledger.written
        followed = None if follow is None else self._follow(follow)
        if follow is not None and followed is None:
            return False
        begin = None if followed is None else followed.begin
        # no name for the state: what it holds on the card could not leave it
        latents_BCTHW, after = self.recovery.attempt(
            PASS, lambda: step(self.caller, self.state, noise=self.noise, begin=begin)
        )
        ledger = self._limit(followed)
        after = replace(after, ledger=ledger, followed=followed is not None, steered=False)
        self.state, frames = self.output.show(after, latents_BCTHW)
        self.keep(self.state)
        seconds = time.perf_counter() - started
        self.viewers.note_plan(self._planned(last, pictures))
        self.viewers.note_block(len(frames), seconds)
        self.on_chunk(Chunk(block, first_frame, frames, seconds, self.state))
        return True

    def end(self) -> None:
        """Shows what the decoder has held back; the state can still be gone on with."""
        state = self.state
        self.state = self.output.end(state)
        self.keep(self.state)
        self.viewers.note_plan(state.block - state.ledger.file_block)

    def _adopt(self, state: StreamState) -> None:
        """Goes on with a state that is as good as the newest; nobody is to hold that one longer."""
        self.state = state
        if self.begun:
            self.keep(state)

    def _follow(self, follow: Follow) -> Followed | None:
        """What the next block begins with."""
        # the VAE's weights may still be on their way for the block before
        self.output.overlap.finish()
        return self.recovery.attempt(PICTURES, lambda: follow.block(self.state.block, self.state.start_frame))

    def _limit(self, followed: Followed | None) -> FrameLedger:
        """The ledger of a video that ends where the one it follows does, if it follows one."""
        limit = None if followed is None else self.next_frame + followed.pictures
        return replace(self.state.ledger, limit=limit)

    def _planned(self, last: int | None, pictures: int | None) -> int | None:
        """Blocks of the file in the end."""
        state = self.state
        made = state.block - state.ledger.file_block
        if last is not None:
            return made + last - state.block
        if pictures is None:
            return None
        missing = pictures - state.ledger.scene
        return made + blocks_for(self.geometry, self.block_frames, missing, state.start_frame)

    def _steer(self) -> None:
        """The prompt that begins with this block: the timeline's, then a viewer's."""
        if self.script is not None:
            self._follow_script(self.script)
        message = self.viewers.next_prompt()
        if message is None:
            return
        after = None
        try:
            prompt = TimedPrompt(0, message.prompt, message.mode)
            after = self._switched(prompt)
            self._enter(after, prompt)
        except BaseException as why:
            self.viewers.refuse(message, why)
            # a prompt that cannot be read must not end the stream
            if after is None and isinstance(why, Exception):
                return
            raise
        ledger = self.state.ledger
        self.viewers.accept(
            message, self.state.block - ledger.file_block, self.next_frame - ledger.file_frame
        )

    def _follow_script(self, script: Script) -> None:
        """The config and the prompt that begin with this block."""
        state = self.state
        config, due = script.configs.get(state.block), script.due(state.block)
        if config is not None:
            if config.seed != state.config.seed and isinstance(self.noise, KeyedNoise):
                self.noise = KeyedNoise(config.seed)
            self.state = state = replace(state, config=config)
        if due is not None and not state.steered:
            self._enter(self._switched(due), due)
        elif script.since == state.block:
            self.state = switch(self.caller, state, script.first, "smooth", text=script.text)

    def _switched(self, prompt: TimedPrompt) -> StreamState:
        """The state under another prompt; ValueError where it cannot be read or gone over to."""
        assert self.script is not None and self.script.encode is not None
        encode, reference_BCTHW = self.script.encode, self.script.reference_BCTHW

        def switched() -> StreamState:
            encoded, mode, text = encode(prompt.text), prompt.mode, prompt.text
            return switch(self.caller, self.state, encoded, mode, text=text, reference_BCTHW=reference_BCTHW)

        return replace(self.recovery.attempt(PROMPT, switched), steered=True)

    def _enter(self, after: StreamState, prompt: TimedPrompt) -> None:
        """Goes on with the state under another prompt."""
        if self.state.block and prompt.mode in NEW_SCENE:
            after = self.output.begin_scene(after)
        self.state = after
        self.on_prompt(after, prompt)
        self.keep(after)
        block, frame = after.block - after.ledger.file_block, self.next_frame - after.ledger.file_frame
        self.viewers.note_prompt(PromptChange(prompt.text, prompt.mode, block, frame))


def _check_positions(writers: Sequence[Writer], state: StreamState) -> None:
    frames = state.ledger.written - state.ledger.file_frame
    for writer in writers:
        if writer.frames_written != frames:
            raise ValueError(
                f"Pipeline: the stream goes on at frame {frames}, {type(writer).__name__} at frame "
                f"{writer.frames_written}; open it with start_frame={frames}."
            )
