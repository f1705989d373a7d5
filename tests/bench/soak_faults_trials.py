"""The trials of `soak --faults`: a take, faults one after another, and what it came to in the end."""

from __future__ import annotations

import re
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from random import Random

import torch

from ...model_patches.writer.ffmpeg import find_ffmpeg
from .soak_faults_child import ENDED, PATIENCE_SECONDS, WHOLE, Ending, fork, left_alone, wait
from .soak_faults_disk import frames_in, picture_sums, small_disk
from .soak_faults_kinds import BROKEN, AtOperations, Fault, Left, deck
from .soak_faults_takes import Maker, Setup, Take, due, lines, noting, others, setups

MOST_FAULTS = 4  # of one take
SENTENCE = re.compile(r"[A-Z][A-Za-z0-9 ]*: \S")  # where it was, then what happened
INTERRUPTIONS = ("KeyboardInterrupt", "InterruptProcessingException")
NONE = "none"  # kind of the goes that nothing struck
COUNTING_COSTS = 1.3  # times the time of a take whose operations are not counted


@dataclass
class Reference:
    """A take that nothing disturbed."""

    pictures: list[str]  # digests
    shown: list[str]  # of the file's pictures
    left: Left  # what it took


@dataclass
class Tally:
    """What came of the faults of one kind."""

    struck: int = 0
    missed: int = 0  # goes that were over before
    kills: int = 0  # of those that struck: by kill -9
    absorbed: int = 0  # of those that struck: the go came to its end all the same
    resumed: int = 0
    compared: int = 0  # pictures of these goes and of those that went on after them
    other: int = 0  # of them that were not those of the undisturbed take
    lost: int = 0  # frames that were on disk and covered by a snapshot, and were begun before
    hung: int = 0
    raw: int = 0  # ends with an error that is no sentence

    @property
    def bad(self) -> int:
        """Of whatever must not be."""
        return self.other + self.lost + self.hung + self.raw


class Counting(Fault):
    """No fault: operations are counted."""

    @contextmanager
    def inside(self) -> Iterator[None]:
        mode = AtOperations([], lambda: None)
        with mode:
            yield
        self.note.write_text(str(mode.operations))

    def after(self, take: Take, ending: Ending) -> int:
        return 0


@dataclass
class Trials:
    """One part of the soak: takes of one maker, and their faults."""

    maker: Maker
    folder: Path
    seed: int
    tell: Callable[[str], None] = lambda sentence: None  # of what was wrong
    takes: int = 0
    seconds: float = 0.0
    unfinished: int = 0  # takes that did not come to their end whole
    tallies: dict[str, Tally] = field(default_factory=dict)
    references: dict[str, Reference] = field(default_factory=dict)
    disk: Path | None = None  # a small one
    bad: list[Take] = field(default_factory=list)

    def run(self, faults: int, is_over: Callable[[], bool] = lambda: False) -> None:
        """Makes takes until so many faults have struck, or time is over."""
        drawn, cards = Random(f"{self.seed} {self.maker.name}"), []
        began, order = time.perf_counter(), setups()
        # what is slow once in a process is there in each child then
        find_ffmpeg()
        with AtOperations([], lambda: None):
            torch.empty(0)
        drawn.shuffle(order)
        with small_disk(self.folder / "disk") as self.disk:
            while self.struck < faults and not is_over():
                count = min(drawn.randint(1, MOST_FAULTS), faults - self.struck)
                while len(cards) < count:
                    cards += deck(self.maker.kinds, drawn)
                kinds, cards = cards[:count], cards[count:]
                self.trial(order[self.takes % len(order)], kinds, Random(drawn.random()))
                self.seconds = time.perf_counter() - began

    @property
    def struck(self) -> int:
        """Faults so far."""
        return sum(tally.struck for tally in self.tallies.values())

    def trial(self, setup: Setup, kinds: list[str], drawn: Random) -> None:
        """One take: begun, struck again and again, gone on with until it is whole."""
        reference, self.takes = self.reference(setup), self.takes + 1
        take = self.take(setup, f"{self.takes}", on_disk="full disk" in kinds)
        seen = least = 0
        ending, before, damaged = Ending(ENDED, 0.0), "", set[int]()
        for kind in [*kinds, ""]:
            made = [line["frame"] for line in lines(take.pictures)]
            share = max(0.1, 1 - max(made, default=0) / len(reference.pictures))
            fault = self.fault(kind, drawn, reference.left, share, take)
            fault.damaged = damaged
            ending = self.go(take, fault)
            after = fault.after(take, ending)
            absorbed = fault.struck and self.is_whole(take, reference, ending)
            self.count(take, kind, fault, ending, absorbed)
            seen = self.judge(take, reference, kind if absorbed else before or kind, least, seen)
            before, least = kind if fault.struck else before, after
            if self.is_whole(take, reference, ending):
                break
        self.finish(take, reference, ending)

    def count(self, take: Take, kind: str, fault: Fault, ending: Ending, absorbed: bool) -> None:
        """Counts the fault of one go, and how the go ended."""
        tally = self.tallies.setdefault(kind or NONE, Tally())
        tally.struck += bool(kind) and fault.struck
        tally.missed += bool(kind) and not fault.struck
        tally.kills += fault.struck and ending.status < 0
        tally.absorbed += absorbed
        if ending.is_hung:
            tally.hung += 1
            self.say(take, kind, f"the go hung; see {take.beside / 'said.txt'}")
        elif ending.status == ENDED and not self.is_told(ending, fault):
            tally.raw += 1
            self.say(take, kind, f"the go ended with {ending.kind}: {ending.said}")

    def judge(self, take: Take, reference: Reference, before: str, least: int, seen: int) -> int:
        """Compares the pictures of one go, after a fault or of its own; returns how many there are by now.

        least: where the go may begin at the latest. seen: pictures of the goes before.
        """
        tally, made = self.tallies.setdefault(before or NONE, Tally()), lines(take.pictures)
        wrong = others(made[seen:], reference.pictures)
        tally.compared, tally.other = tally.compared + len(made) - seen, tally.other + len(wrong)
        if wrong:
            self.say(take, before, f"{len(wrong)} pictures are others, the first one {min(wrong)}")
        if seen and len(made) > seen:
            first = lines(take.goes)[-1]["first"]
            tally.resumed += 1
            tally.lost += max(0, least - first)
            if first < least:
                self.say(take, before, f"the go begins at picture {first}, and {least} were kept")
        return len(made)

    def is_told(self, ending: Ending, fault: Fault) -> bool:
        """Whether the error that ended a go is the one that was raised on purpose, or a sentence."""
        is_meant = BROKEN in ending.said or ending.kind in INTERRUPTIONS
        return fault.struck and (is_meant or SENTENCE.match(ending.said) is not None)

    def finish(self, take: Take, reference: Reference, ending: Ending) -> None:
        """What the take is in the end; its folder goes if all is well."""
        left_alone(take.folder)
        made = {line["frame"] for line in lines(take.pictures)}
        count, planned = frames_in(take.video) if take.video.exists() else 0, len(reference.pictures)
        wrong = ""
        if ending.status != WHOLE:
            wrong = f"it did not become whole: {ending.kind} {ending.said}"
        elif made != set(range(planned)):
            wrong = f"it made {len(made)} of {planned} pictures"
        elif count != planned:
            wrong = f"its file plays {count} of {planned} pictures"
        elif self.maker.is_exact and picture_sums(take.video) != reference.shown:
            wrong = "its file shows other pictures"
        elif rest := [each.name for each in take.folder.iterdir() if self.is_left_over(take, each)]:
            wrong = f"it left {', '.join(sorted(rest))}"
        if wrong:
            self.unfinished += 1
            self.say(take, "end", wrong)
        if take in self.bad:
            shutil.copytree(take.folder, take.beside / "take")
        else:
            shutil.rmtree(take.beside)
        shutil.rmtree(take.folder)

    @staticmethod
    def is_whole(take: Take, reference: Reference, ending: Ending) -> bool:
        """Whether the go came to the take's end; before a full disk it stops in order, to be gone on with."""
        made = {line["frame"] for line in lines(take.pictures)}
        return ending.status == WHOLE and len(made) == len(reference.pictures)

    @staticmethod
    def is_left_over(take: Take, path: Path) -> bool:
        """Whether a file belongs to no finished take."""
        return path.is_file() and path != take.video and path.suffix != ".lock"

    def go(self, take: Take, fault: Fault) -> Ending:
        """One process that begins the take or goes on with it."""

        def work() -> None:
            step = due(self.maker, take)
            with noting(take), fault.inside():
                step()

        return wait(fork(work, take.beside), take.beside, fault.glance, PATIENCE_SECONDS)

    def fault(self, kind: str, drawn: Random, left: Left, share: float, take: Take) -> Fault:
        """The next fault of a take of which this share is missing."""
        rest = Left(left.seconds * share, max(8, int(left.operations * share)), int(left.fsyncs * share))
        made, _ = self.maker.kinds.get(kind, (Fault, 0))
        disk = self.disk if self.disk and take.folder.is_relative_to(self.disk) else None
        return made(Random(drawn.random()), rest, take.beside / "struck", disk)

    def take(self, setup: Setup, name: str, on_disk: bool = False) -> Take:
        """A new take's folders. on_disk: on the small one, where there is one."""
        takes = self.disk if on_disk and self.disk else self.folder / "takes"
        folder, beside = takes / name, self.folder / "beside" / name
        folder.mkdir(parents=True)
        beside.mkdir(parents=True)
        return Take(setup, folder, beside, self.maker.file)

    def reference(self, setup: Setup) -> Reference:
        """The setup's take without a fault, made when it is first asked for."""
        if setup.name not in self.references:
            self.maker.ready(setup)
            take = self.take(setup, f"reference-{setup.name}")
            note = take.beside / "operations"
            ending = self.go(take, Counting(Random(0), Left(0.0, 0, 0), note))
            if ending.status != WHOLE:
                raise RuntimeError(
                    f"Soak: a take without a fault ended with {ending.kind}: {ending.said}; see "
                    f"{take.beside / 'said.txt'}."
                )
            pictures = [line["is"] for line in lines(take.pictures)]
            seconds = ending.seconds / COUNTING_COSTS
            left = Left(seconds, int(note.read_text()), len(lines(take.fsyncs)))
            self.references[setup.name] = Reference(pictures, picture_sums(take.video), left)
            shutil.rmtree(take.folder)
        return self.references[setup.name]

    def say(self, take: Take, kind: str, what: str) -> None:
        """Tells that something was wrong with a take, which stays."""
        self.bad.append(take)
        self.tell(f"{self.maker.name}, take {self.takes} ({take.setup.name}), {kind or 'no fault'}: {what}")
