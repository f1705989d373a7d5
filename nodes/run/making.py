"""How Stream Video makes a take: its files, its sessions with pages, its snapshots."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

from comfy.cli_args import args
from comfy_api.v0_0_2 import InputImpl
from comfy_execution.utils import get_executing_context
from torch import Tensor

from ...model_patches.cache.format import CacheFormat
from ...model_patches.geometry import rate_of
from ...model_patches.memory.policy import MemoryPolicy
from ...model_patches.stream.config import StreamConfig
from ...model_patches.stream.incoming import EXACT, Fitted
from ...model_patches.stream.pipeline import Chunk
from ...model_patches.stream.recovery import refuse_full
from ...model_patches.stream.script import Script
from ...model_patches.stream.snapshot import load
from ...model_patches.stream.state import StreamState
from ...model_patches.stream.switch import modes_for
from ...model_patches.takes.folder import TakeFolder
from ...model_patches.takes.keeper import Policy
from ...model_patches.takes.make import Making, Offers, Opening, make_take
from ...model_patches.takes.picture import NewestPicture
from ...model_patches.vae.decoder import StreamDecoder
from ...model_patches.viewers.live import LiveStream
from ...model_patches.viewers.session import Session
from ...model_patches.writer.encoding import USUAL, Encoding
from ...model_patches.writer.ffmpeg import find_ffmpeg
from ...model_patches.writer.sound import Sound
from ...model_patches.writer.video import Mp4Writer
from ..host.caller import HostCaller
from ..host.incoming import open_source
from .beginnings import Beginning
from .going_on import Resume
from .next_run import NextRun
from .owners import workflow_of
from .reference import reference_latents
from .session import client_of_run, session_of
from .shelf import SHELF
from .take import PASSING
from .take_files import address_of, name_of, view_of
from .yielding import LongRun, Turn, can_yield, queue_again

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Page:
    """Who queued a run, and which node of which graph makes it."""

    node: str
    prompt_id: str = ""
    client: str | None = None  # None: no page did
    workflow: str = ""


def page_of(hidden: Any) -> Page:
    """Who queued the run in progress; hidden: what the host tells the node of it."""
    context = get_executing_context()
    prompt_id = context.prompt_id if context else ""
    return Page(str(hidden.unique_id), prompt_id, client_of_run(), workflow_of(hidden.extra_pnginfo))


@dataclass(frozen=True, slots=True)
class Order:
    """What a take is to be."""

    caller: HostCaller
    decoder: StreamDecoder
    config: StreamConfig
    cache: CacheFormat
    memory: MemoryPolicy
    script: Script
    fps: float
    blocks: int | None  # of the whole stream, as planned; None: until it is stopped
    video: Path
    metadata: dict[str, str]
    page: Page
    policy: Policy | None  # of snapshots; None: none are kept
    may_redo: bool = True
    long_run: LongRun = field(default_factory=LongRun)
    encoding: Encoding = USUAL
    reference_BHWC: Tensor | None = None  # a picture that every shot keeps; None: the last scene's frames

    def with_reference(self, vae: Any) -> Order:
        """The order whose script has that picture, encoded."""
        if self.reference_BHWC is None:
            return self
        with refuse_full(self.caller, "while the reference picture is encoded"):
            kept_BCTHW = reference_latents(self.caller, vae, self.reference_BHWC, self.config)
        return replace(self, script=replace(self.script, reference_BCTHW=kept_BCTHW))

    @property
    def size(self) -> tuple[int, int]:
        """Width and height of the video's pictures in pixels."""
        return self.config.geometry.picture_size(self.decoder.upscale)

    def refuse_encoding(self) -> None:
        """ValueError where this machine cannot code the file so; before a model is loaded."""
        self.encoding.coding(*self.size).check(find_ffmpeg(), *self.size, rate_of(self.fps))


class Run:
    """The sessions of one take; `live` and `pictures` are those of the newest."""

    def __init__(self, order: Order) -> None:
        self.order = order
        self.live: LiveStream | None = None
        self.pictures = NewestPicture()
        self._session: Session | None = None
        self._turn = Turn(order.long_run.let_others_in)
        self._redone = False
        self._sound: Sound | None = None  # of a new take; one that is gone on with keeps its own

    @property
    def folder(self) -> TakeFolder:
        """What lies beside the video."""
        return TakeFolder(self.order.video)

    def _making(self) -> Making:
        order = self.order
        return Making(
            order.caller,
            order.decoder,
            self.folder,
            order.config,
            order.script,
            order.policy,
            load=self._load,
            open_writer=self._open_writer,
            open_session=self._open_session,
            writers=self._writers,
            stop_on_drift=order.long_run.stop_on_drift,
            private=args.disable_metadata,
        )

    def make(
        self,
        begin: Beginning,
        vae: Any,
        pictures: int | None,
        on_chunk: Callable[[Chunk], None] = lambda chunk: None,
        **options: Any,
    ) -> StreamState:
        """The state after the take's last block.

        begin: read. pictures: of the whole video, None: until it is stopped. on_chunk, options: see
        `pipeline.run`.
        """
        order = self.order = self.order.with_reference(vae)
        caller = order.caller
        config, script = order.config, order.script
        more = {**options, "pictures": pictures, "on_chunk": partial(self._on_chunk, on_chunk)}
        PASSING.remove(but=self.folder)
        if isinstance(begin, Resume):
            return make_take(self._making(), begin.redo(script, config), **more).state
        order.refuse_encoding()
        frames = begin.latents + (order.blocks or 1) * config.block_frames
        with refuse_full(caller, "before the first block"):
            state = begin.state(caller, script, config, order.cache, order.memory, frames)
        state = replace(state, ledger=replace(state.ledger, fps=order.fps))
        with begin.sound() as self._sound, begin.follow(caller, vae, config, order.fps) as follow:
            with refuse_full(caller, "while what the stream begins with is encoded"):
                prefill = begin.prefill(caller, vae)
            return make_take(self._making(), state, prefill=prefill, follow=follow, **more).state

    @property
    def as_queued(self) -> bool:
        """Whether no viewer ended it or changed what it shows."""
        return self.live is not None and self.live.as_queued and not self._redone

    def lets_others_in(self) -> bool:
        """Whether it ended for that; then its job waits behind theirs, to go on with the take."""
        if self.live is None or not self.live.goes_on:
            return False
        page = self.order.page
        queue_again(page.prompt_id, page.node, NextRun(name_of(self.order.video)))
        log.info("Stream Video: others come in; %s goes on behind them.", self.order.video.name)
        return True

    @property
    def session(self) -> str:
        """The id of its newest session, for viewers."""
        assert self.live is not None
        return self.live.session

    @property
    def result(self) -> Path:
        """The finished video."""
        assert self.live is not None and self.live.writer.result is not None
        return self.live.writer.result

    @property
    def files(self) -> list[Path]:
        """The finished video, or its parts where they stay apart."""
        assert self.live is not None
        return self.live.writer.files

    @property
    def shown(self) -> dict[str, Any]:
        """What the host shows and keeps in its history, as of a video that its own node saved."""
        return {"images": [view_of(path) for path in self.files], "animated": (True,)}

    @property
    def image_BHWC(self) -> Tensor:
        """The video's last picture [1, H, W, 3] in [0, 1]."""
        last_HWC = self.pictures.last_HWC
        if last_HWC is None:  # it was whole already, and no block was made
            with open_source(InputImpl.VideoFromFile(str(self.result)), self.order.fps) as incoming:
                last_HWC = Fitted(incoming, *self.order.size, EXACT).newest(1)[0]
        return last_HWC[None] / 255

    def _load(self, path: Path) -> StreamState:
        order = self.order
        state = load(path, order.caller, cache=order.cache, memory=order.memory, decoder=order.decoder)
        order.decoder.refuse_foreign(state.past)
        return state

    def _open_writer(self, opening: Opening) -> Mp4Writer:
        order = self.order
        width, height = order.size
        return Mp4Writer(
            order.video,
            width=width,
            height=height,
            fps=order.fps,
            start_frame=opening.start_frame,
            go_on=opening.go_on,
            lock=opening.lock,
            metadata=order.metadata,
            encoding=order.encoding,
            sound=None if opening.go_on else self._sound,
            part_hours=order.long_run.part_hours or None,
            part_gigabytes=order.long_run.part_gigabytes or None,
        )

    def _writers(self, opening: Opening) -> list[NewestPicture]:
        self.pictures = NewestPicture(opening.start_frame)
        return [self.pictures]

    def _open_session(self, writer: Mp4Writer, opening: Opening, offers: Offers) -> Session:
        order = self.order
        self._redone = self.live is not None
        self.live = LiveStream(
            writer,
            node=order.page.node,
            prompt_id=order.page.prompt_id,
            client=order.page.client,
            workflow=order.page.workflow,
            blocks=order.blocks,
            block=opening.block,
            modes=modes_for(order.config) if order.script.steerable else (),
            switch=order.script.switch,
            take="" if order.policy is None else SHELF.id_of(order.video),
            address=address_of,
        )
        if not order.may_redo:
            offers = replace(offers, rewind=None)
        yields = order.policy is not None and order.may_redo and can_yield(order.page.prompt_id)
        self._session = session_of(self.live, order.caller.device, offers, yields=yields)
        return self._session

    def _on_chunk(self, told: Callable[[Chunk], None], chunk: Chunk) -> None:
        told(chunk)
        if self._turn.over and self._session is not None and "yield" in self._session.live.does:
            self._session.yielding = True
