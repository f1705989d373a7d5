"""Making a take: session after session, each a run of the loop, until nobody wants to go back in it."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack, nullcontext, suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from ..stream.caller import Caller
from ..stream.config import StreamConfig
from ..stream.follow import Follow
from ..stream.pipeline import Prefill, run
from ..stream.recovery import refuse_full
from ..stream.script import Script
from ..stream.state import StreamState
from ..stream.timeline import Prompt as TimedPrompt
from ..vae.decoder import StreamDecoder
from ..viewers.live import DRIFT, PromptChange
from ..viewers.mailbox import Redo
from ..viewers.session import Session
from ..writer.lock import FileLock, is_locked
from ..writer.parts import frames_of
from ..writer.protocol import OpenWriter, Writer
from ..writer.video import Mp4Writer
from .awake import Awake
from .directed import Directed
from .folder import About, TakeFolder
from .keeper import Keeper, Policy
from .point import find_point
from .refusals import readable, refuse_redo, refuse_short
from .rewind import go_back, revised
from .timeline_file import Event, event_of, with_texts, without_texts
from .watch import Watch


@dataclass(frozen=True, slots=True)
class Offers:
    """What a take lets a session offer to whoever watches; None: it keeps no snapshots."""

    rewind: Callable[[Redo], None] | None = None  # ValueError where that cannot be
    mark: Callable[[], None] | None = None


@dataclass(frozen=True, slots=True)
class Opening:
    """Where a run of a take begins, for whoever opens its writer and its session."""

    start_frame: int = 0  # of the file, which is cut there
    go_on: bool = False  # with a file that is there
    block: int = 0  # the first to be made
    lock: FileLock | None = None  # of the video, held already; None: the writer takes it
    tail: Path | None = None  # the video of what was cut off


@dataclass(frozen=True, slots=True)
class Making:
    """What all runs of a take have in common."""

    caller: Caller
    decoder: StreamDecoder
    folder: TakeFolder
    config: StreamConfig  # as the user has it now
    script: Script  # likewise
    policy: Policy | None  # None: no snapshots
    load: Callable[[Path], StreamState]  # a snapshot; whoever makes the take knows its cache and memory
    open_writer: Callable[[Opening], Mp4Writer]  # not entered
    open_session: Callable[[Mp4Writer, Opening, Offers], Session]  # not entered; it enters the writer
    writers: Callable[[Opening], Sequence[Writer]] = lambda opening: ()  # who gets the pictures, too
    opened: Callable[[Session], None] = lambda session: None  # once the file is open
    stop_on_drift: bool = False  # when the picture stands still or burns out; else that is told
    private: bool = False  # no prompt is written as a text: not into the video, nor beside it
    close: Callable[[Session], None] = lambda session: None  # before the file is closed, whatever ended it


@dataclass(frozen=True, slots=True)
class Start:
    """The beginning of one run."""

    opening: Opening
    state: StreamState
    script: Script
    about: About | None = None  # None: a new take
    events: tuple[Event, ...] = ()  # that happened before, and seeds to come
    first_frame: int = 0  # of the stream, where the file begins


@dataclass(frozen=True, slots=True)
class Made:
    """A take that was made."""

    state: StreamState
    session: Session  # the last one


def make_take(
    making: Making,
    begin: StreamState | Redo,
    *,
    pictures: int | None = None,
    prefill: Prefill | None = None,
    follow: Follow | None = None,
    **options: Any,
) -> Made:
    """The take after its last run; whoever watches may have it go on from an earlier second.

    begin: the first state of a new take, or where a take that is there goes on. pictures: of the whole file;
    None: until it is stopped. prefill, follow: of a new take's first run; they and options: see
    `pipeline.run`. ValueError, and nothing is changed, where it cannot be gone on with so.
    """
    known: Sequence[Event] = ()
    while True:
        if isinstance(begin, StreamState):
            make_way(making.folder)
            start = Start(Opening(), begin, making.script)
        else:
            start = go_on(making, begin, pictures, known)
        with ExitStack() as held:
            if start.opening.lock is not None:
                held.callback(start.opening.lock.release)
            wanted = None if pictures is None else pictures + start.first_frame
            more = {"pictures": wanted, "begin": prefill, "follow": follow, **options}
            state, session, known = _run(making, start, more)
        if session.redo is None:
            return Made(state, session)
        state.cache.free()  # the next run has its own
        begin, prefill, follow = session.redo, None, None


def make_way(folder: TakeFolder) -> None:
    """Removes the folder of a take of this name that was killed before its first picture.

    ValueError where there is another take's folder: its snapshots would be taken for the new one's.
    """
    video = folder.video
    if not folder.path.is_dir() or is_locked(video) or frames_of(video):
        return  # the writer has its own words for these
    if any(each.frame for each in folder.snapshots()):
        raise ValueError(
            f"{folder.path} is there, of an earlier {video.name} that is not: resume that take, and it is "
            f"made again; or delete the folder, or choose another name."
        )
    with suppress(OSError):
        folder.remove()


def go_on(making: Making, redo: Redo, pictures: int | None = None, remembered: Sequence[Event] = ()) -> Start:
    """The beginning of a run that goes on with a take; its lock is held. Errors as `make_take`.

    remembered: what happened in it, by the run before, which knows texts that are not kept on disk.
    """
    folder, script = making.folder, making.script
    lock = FileLock(folder.video)
    try:
        lock.acquire()
    except OSError as why:
        raise ValueError(
            f"Resume: {folder.video.parent} cannot be written ({why.strerror}); make it writable, or begin a "
            f"new video with the end of this one (Start From)."
        ) from why
    try:
        redo = readable(script, redo)
        point = find_point(folder, redo)
        refuse_short(folder, pictures, point)
        known, point = point.events, replace(point, events=with_texts(point.events, remembered))
        point = replace(point, events=revised(point, redo))
        script = point.script(script, making.config)
        with refuse_full(making.caller, "while the take is loaded"):
            state = point.place(making.load(point.snapshot.path))
        kept = replace(point, events=without_texts(point.events, but=known)) if making.private else point
        tail = go_back(folder, kept, redo)
    except BaseException:
        lock.release()
        raise
    opening = Opening(point.start_frame, True, state.block, lock, tail)
    done = state.block + state.steered  # the prompt of the next block is gone over to already
    events = tuple(event for event in point.events if event.block < done or not event.mode)
    return Start(opening, state, script, point.about, events, point.first_frame)


def _run(
    making: Making, start: Start, options: dict[str, Any]
) -> tuple[StreamState, Session, Sequence[Event]]:
    writer, ledger = making.open_writer(start.opening), start.state.ledger
    about = start.about or About(
        ledger.file_frame, float(writer.fps), writer.width, writer.height, begun=time.time()
    )
    keeper = None
    if making.policy is not None:
        video = making.caller, making.decoder, writer, making.folder
        keeper = Keeper(
            *video, about, making.policy, lambda sentence: session.tell(sentence), private=making.private
        )
    directed = Directed(writer, start.events, start.first_frame, private=making.private)
    offers = Offers()
    if keeper is not None:
        told = making.folder, making.script, directed.events, start.first_frame
        offers = Offers(partial(refuse_redo, *told), keeper.mark)
    session = making.open_session(writer, start.opening, offers)
    with session, Awake(f"{making.folder.video.name} is being made") as awake:
        session.on_phase = partial(_each, (awake.follow, directed.on_phase))
        making.opened(session)
        for event in (each for each in start.events if each.prompt):
            at = event.block - ledger.file_block, event.frame - start.first_frame
            session.note_prompt(PromptChange(str(event.prompt), event.mode, *at))
        if start.opening.tail is not None:
            session.tell(f"What was there before is kept as {start.opening.tail.name}.")
        elif making.script.notes:
            session.tell(" ".join(making.script.notes))
        with keeper or nullcontext():
            state = _made(making, start, session, directed, keeper, options)
    return state, session, directed.events


def _each(hear: Sequence[Callable[[str], None]], phase: str) -> None:
    for one in hear:
        one(phase)


def _made(
    making: Making,
    start: Start,
    session: Session,
    directed: Directed,
    keeper: Keeper | None,
    options: dict[str, Any],
) -> StreamState:
    watch = _watch(making, start, session, None if keeper is None else making.folder.watch)

    def on_prompt(state: StreamState, prompt: TimedPrompt) -> None:
        watch.begin_scene()
        directed.on_prompt(event_of(state, prompt.mode))
        if keeper is not None:
            keeper.on_prompt(state, prompt)

    told: dict[str, Any] = {} if keeper is None else {"keep": keeper.keep}
    writers = [OpenWriter(session.writer), watch, *making.writers(start.opening)]
    writers += [] if keeper is None else [keeper.pictures]
    more = options | {"script": start.script, "viewers": session, "on_prompt": on_prompt}
    try:
        state = run(making.caller, making.decoder, start.state, writers, **more, **told)
    finally:
        directed.tell()
        making.close(session)
    if keeper is not None:
        keeper.stopped = session.ending or session.redo is not None
    return state


def _watch(making: Making, start: Start, session: Session, path: Path | None) -> Watch:
    """The drift watch of a run; path: of its file."""

    def told(numbers: dict[str, Any]) -> None:
        session.live.watch = numbers

    return Watch(
        path,
        session.live.fps,
        making.config.geometry.time_stride,
        start_frame=session.writer.start_frame,
        scenes=[event.frame - start.first_frame for event in start.events if event.prompt],
        told=told,
        tell=session.tell,
        stop=partial(session.stop, DRIFT) if making.stop_on_drift else None,
    )
