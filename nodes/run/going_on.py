"""An earlier take that is gone on with in its own file, from its end or from any second of it."""

from __future__ import annotations

import logging
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ...model_patches.geometry import rate_of
from ...model_patches.stream.config import StreamConfig
from ...model_patches.stream.differences import contract_differences
from ...model_patches.stream.script import Script
from ...model_patches.stream.snapshot import Header
from ...model_patches.stream.timeline import DEFAULT_MODE
from ...model_patches.stream.weights import refuse_other_pictures
from ...model_patches.takes.folder import TakeFolder
from ...model_patches.takes.point import Point, find_point
from ...model_patches.viewers.mailbox import Redo
from ...model_patches.writer.lock import is_locked
from ..host.vae import upscale_of
from .beginnings import Beginning

log = logging.getLogger(__name__)
WHO = "Resume Stream"


@dataclass(frozen=True, slots=True)
class Resume(Beginning):
    """An earlier take to go on with."""

    video: Path = Path()
    wish: Redo | None = None  # of a page; None: the graph says how it goes on
    from_second: float | None = None  # of the video, where the graph has it made again; None: its end
    kept: tuple[str, str] | None = (
        None  # names of the graph's cache and memory; None: compared when it is loaded
    )
    point: Point | None = None  # where it goes on, once it is read

    def read(self, vae: Any, config: StreamConfig, fps: float, pictures: int | None) -> Resume:
        name = self.video.name
        if is_locked(self.video):
            raise ValueError(f"{WHO}: {name} is being written by another run; wait until that has ended.")
        frame = None if self.from_second is None else round(self.from_second * fps)
        point = find_point(TakeFolder(self.video), self.wish or Redo(frame))
        header = point.header
        refuse_other_pictures(header, upscale_of(vae), name)
        _refuse_other(name, header, config, fps, self.kept)
        # one that was cut off after its last block is finished by going on
        is_finished = point.about.ended is not None and self.video.exists()
        if pictures is not None and pictures <= point.made and is_finished:
            raise ValueError(
                f"{WHO}: {name} already has {point.made / fps:.1f} s of video and seconds is "
                f"{pictures / fps:.1f}; seconds counts the whole video, so set it higher."
            )
        for reason in point.passed:
            log.warning("%s: %s goes on from an older snapshot: %s", WHO, name, reason)
        if header.followed:
            log.warning(
                "%s: %s followed a video, which its snapshots do not hold: from here on the prompt alone "
                "says what comes. To follow further, use Start From with mode follow instead, and the video "
                "without its first %.1f s.",
                WHO,
                name,
                point.frame / fps,
            )
        ledger = header.ledger
        return replace(self, latents=ledger.prefilled, hidden=ledger.hidden, blocks=header.block, point=point)

    def redo(self, script: Script, config: StreamConfig) -> Redo:
        """From where the take goes on, and what is another than it was; script, config: the graph's.

        At its end the last prompt holds on, from an earlier second the graph's; the graph's seed in any case.
        """
        if self.wish is not None:
            return self.wish
        point = self.point
        assert point is not None, "it is read first"
        held = [event for event in point.events if event.block <= point.block]
        seed = held[-1].seed if held else point.header.config.seed
        redo = Redo(None if self.from_second is None else point.frame)
        if config.seed != seed:
            redo = replace(redo, seed=config.seed)
        due = [change for block, change in sorted(script.changes.items()) if block <= point.block]
        texts = [event.prompt for event in held if event.prompt is not None]
        if self.from_second is None or not due or due[-1].text in texts[-1:]:
            return redo
        return replace(redo, prompt=due[-1].text, mode=script.switch or DEFAULT_MODE)


def _refuse_other(
    name: str, header: Header, config: StreamConfig, fps: float, kept: tuple[str, str] | None
) -> None:
    said, to_set = contract_differences(header.config, config), []
    now = kept or (header.cache, header.memory)
    if header.cache != now[0]:
        was = f", which was {header.shrunk}; then the card was full" if header.shrunk else ""
        said.append(f"cache {header.cache}{was}, not {now[0]}")
        to_set.append(f"format of Small Cache to {header.cache}")
    if header.memory != now[1]:  # positions that differ come with it
        said.append(f"memory {header.memory}, not {now[1]}")
        to_set.append(f"memory of Evolving Memory to {header.memory}")
    if header.ledger.fps is not None and rate_of(header.ledger.fps) != rate_of(fps):
        said.append(f"{header.ledger.fps:g} pictures a second (fps), not {fps:g}")
    if said:
        to_set.append("Stream Video to what the take was made with, and connect its model")
        raise ValueError(
            f"{WHO}: {name} was made with {'; '.join(said)}. Set {', '.join(to_set)}; or begin a new stream."
        )
