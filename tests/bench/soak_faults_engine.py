"""Takes of `soak --faults` made by the engine alone."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import cache, partial
from typing import Any

from ...model_patches.cache.formats import FORMATS
from ...model_patches.cache.shapes import Exact
from ...model_patches.geometry import Geometry
from ...model_patches.stream.script import Script
from ...model_patches.stream.snapshot import load
from ...model_patches.stream.state import StreamState
from ...model_patches.stream.step import init
from ...model_patches.stream.timeline import Prompt
from ...model_patches.takes.folder import TakeFolder
from ...model_patches.takes.keeper import Policy
from ...model_patches.takes.make import Making, Offers, Opening, make_take
from ...model_patches.vae.decoder import VaeDecoder
from ...model_patches.viewers.live import LiveStream
from ...model_patches.viewers.mailbox import Redo
from ...model_patches.viewers.session import Session
from ...model_patches.viewers.streams import Streams
from ...model_patches.writer.encoding import Encoding
from ...model_patches.writer.video import Mp4Writer
from ...pocket.choices import Choice, build, model_for, remembering
from .soak_faults_kinds import KINDS, Kinds
from .soak_faults_takes import EVERY_SECONDS, FPS, HEIGHT, PROMPTS, WIDTH, Setup, Take


@cache
def models(name: str, memory: str, exact: bool) -> Choice:
    """Read once, before the first child."""
    geometry = Geometry(WIDTH, HEIGHT)
    pocket, policy = remembering(model_for(FORMATS[name], memory), memory, geometry=geometry)
    sink = Exact(sink=pocket.config().positions.sink_frames if exact else 0)
    return Choice(pocket, build(FORMATS[name], pocket, exact=sink), policy)


class Engine:
    """The engine alone."""

    name, file = "engine", "take.mp4"
    kinds: Kinds = KINDS
    is_exact = True  # encoded without loss, so that an encoder that starts anew changes nothing

    def ready(self, setup: Setup) -> None:
        """Reads what the setup needs, so that children have it."""
        models(setup.cache, setup.memory, setup.exact)

    def begin(self, take: Take) -> None:
        """Makes the take from its first picture up to its end."""
        making, first = making_of(take)
        make_take(making, first(), pictures=take.setup.pictures)

    def go_on(self, take: Take) -> None:
        """Makes what is missing of it."""
        making, _ = making_of(take)
        make_take(making, Redo(), pictures=take.setup.pictures)


def making_of(take: Take) -> tuple[Making, Callable[[], StreamState]]:
    """What the goes of a take have in common, and what gives its first state."""
    setup, folder = take.setup, TakeFolder(take.video)
    chosen = models(setup.cache, setup.memory, setup.exact)
    pocket, kept = chosen.pocket, {"cache": chosen.cache, "memory": chosen.memory}
    config = pocket.config(setup.seed, Geometry(WIDTH, HEIGHT))
    config = config if setup.guided else replace(config, cfg=1.0)
    decoder = VaeDecoder(pocket.vae)
    script = script_of(setup, lambda text: pocket.prompt(pocket.encode(text), config))

    def begin() -> StreamState:
        state = init(pocket.caller, script.first, config, **kept)
        return replace(state, text=script.text, ledger=replace(state.ledger, fps=FPS))

    making = Making(
        pocket.caller,
        decoder,
        folder,
        config,
        script,
        Policy(every_seconds=EVERY_SECONDS),
        partial(load, caller=pocket.caller, config=config, decoder=decoder, **kept),
        partial(open_writer, folder),
        open_session,
    )
    return making, begin


def script_of(setup: Setup, encode: Callable[[str], Any]) -> Script:
    """The prompts of a setup."""
    changes = zip(sorted(setup.switches.items()), PROMPTS[1:], strict=True)
    timed = {block: Prompt(0, text, mode) for (block, mode), text in changes}
    return Script(encode(PROMPTS[0]), PROMPTS[0], timed, encode)


def open_writer(folder: TakeFolder, opening: Opening) -> Mp4Writer:
    """The file of a go."""
    place = {"start_frame": opening.start_frame, "go_on": opening.go_on, "lock": opening.lock}
    return Mp4Writer(
        folder.video, width=WIDTH, height=HEIGHT, fps=FPS, encoding=Encoding(crf=0), threads=1, **place
    )


def open_session(writer: Mp4Writer, opening: Opening, offers: Offers) -> Session:
    """A go for those who watch it: there are none, unless a fault is one."""
    live = LiveStream(writer, node="soak", prompt_id="", blocks=None, modes=("smooth",))
    return Session(live, Streams(), rewind=offers.rewind, mark=offers.mark)
