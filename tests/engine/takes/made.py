"""Takes of a tiny model in a folder, made by the loop that the demo and ComfyUI use."""

from dataclasses import replace
from pathlib import Path

import numpy as np
from rivulet.model_patches.arch.wan import WanModel
from rivulet.model_patches.stream.config import StreamConfig
from rivulet.model_patches.stream.model_caller import ModelCaller
from rivulet.model_patches.stream.script import Script
from rivulet.model_patches.stream.snapshot import load
from rivulet.model_patches.stream.step import init
from rivulet.model_patches.stream.timeline import MODES, Prompt
from rivulet.model_patches.takes.folder import TakeFolder
from rivulet.model_patches.takes.keeper import Policy
from rivulet.model_patches.takes.make import Making, make_take
from rivulet.model_patches.vae.decoder import VaeDecoder
from rivulet.model_patches.vae.wan import WanVAE
from rivulet.model_patches.viewers.live import LiveStream
from rivulet.model_patches.viewers.mailbox import Redo
from rivulet.model_patches.viewers.session import Session
from rivulet.model_patches.viewers.streams import Streams
from rivulet.model_patches.writer.video import Mp4Writer

from ..stream.videos import GEOMETRY, SIZES, Collected, seeded, text

FPS = 16
CONFIG = StreamConfig(GEOMETRY, sigmas=(1.0, 0.5), seed=7)
EVERY = Policy(every_seconds=0.0)  # a snapshot after every block


def encode(words: str):
    """Prompts are numbers."""
    return (text(int(words)),)


def scripted(changes=None, first="0") -> Script:
    return Script(encode(first), first, {0: Prompt(0, first, "smooth"), **(changes or {})}, encode, "smooth")


class Studio:
    """A model, and the takes that are made with it in one folder. `shown` has the pictures of each run."""

    def __init__(self, folder: Path, caller=None, vae=None):
        self.folder = folder
        self.caller = caller or ModelCaller(seeded(WanModel(SIZES)))
        self.vae = vae or seeded(WanVAE(dim=4))
        self.shown: list[tuple[int, Collected]] = []  # first frame of the file, pictures
        self.sessions: list[Session] = []
        self.watch = lambda session: None  # may change a session before it runs

    def making(
        self, name="take.mp4", *, script=None, policy=EVERY, config=CONFIG, writer=Collected
    ) -> Making:
        folder = TakeFolder(self.folder / name)

        def open_writer(opening):
            width, height = (side * self.vae.upscale for side in (GEOMETRY.width, GEOMETRY.height))
            return Mp4Writer(
                folder.video, width=width, height=height, fps=FPS, threads=1,
                start_frame=opening.start_frame, go_on=opening.go_on, lock=opening.lock,
            )  # fmt: skip

        def open_session(writer, opening, offers):
            named = {"node": "1", "prompt_id": "", "modes": tuple(MODES), "switch": "smooth"}
            live = LiveStream(writer, blocks=None, block=opening.block, **named)
            session = Session(live, Streams(), rewind=offers.rewind, mark=offers.mark)
            self.sessions.append(session)
            self.watch(session)
            return session

        def writers(opening):
            self.shown.append((opening.start_frame, writer(opening.start_frame)))
            return [self.shown[-1][1]]

        return Making(
            self.caller, VaeDecoder(self.vae), folder, config, script or scripted(), policy,
            load=lambda path: load(path, self.caller, config, decoder=VaeDecoder(self.vae)),
            open_writer=open_writer, open_session=open_session, writers=writers,
        )  # fmt: skip

    def begin(self, config=CONFIG, first="0"):
        state = init(self.caller, encode(first), config)
        return replace(state, text=first, ledger=replace(state.ledger, fps=float(FPS)))

    def make(self, name="take.mp4", *, pictures=None, redo=None, begin=None, prefill=None, **making):
        """A take, or with a redo one that goes on; what was made."""
        made = self.making(name, **making)
        first = redo if redo is not None else begin or self.begin()
        return make_take(made, first, pictures=pictures, prefill=prefill)

    @property
    def frames(self) -> np.ndarray:
        """The pictures that whoever watches the file sees: those of later runs in place of earlier ones."""
        whole = np.empty((0, GEOMETRY.height, GEOMETRY.width, 3), np.uint8)
        for start, each in self.shown:
            whole = np.concatenate([whole[:start], each.frames])
        return whole


def resume(**more) -> Redo:
    """A redo; without anything: go on from the end."""
    return Redo(**more)
