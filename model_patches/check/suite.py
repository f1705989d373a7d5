"""All tests in their order, the most important first, each in its bound of time."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from functools import partial

import torch

from ..attention.sdpa import Attention
from ..vae.decoder import VaeDecoder
from .attention import check_attention
from .clock import Clock, OutOfTimeError, one_thread
from .decoders import DECODERS, check_decoder
from .finding import BROKEN, SKIPPED, Figure, Finding, summary, table
from .kernels import check_triton
from .machine import check_machine, compute_dtype, facts
from .out_of_memory import check_out_of_memory
from .privacy import clean
from .speed import check_speed
from .streams import check_moved_away, check_resume, check_stream
from .subject import Subject, subjects, wan_vae

SECONDS = 180.0  # for all tests
QUICK = ("dense", "mla-int8")  # formats of a quick check, with the first and the last memory
DEFAULT = ("latent", "learned")  # the combined system: format and memory of tests that need one stream


@dataclass(frozen=True, slots=True)
class Check:
    """One test; `run` gives its findings, asks the clock between two pieces of work."""

    name: str
    seconds: float  # its bound
    run: Callable[[Clock], Iterable[Finding]]
    large: bool = False  # has work for more than one thread of the processor


@dataclass(frozen=True, slots=True)
class Report:
    """What the machine is and what was found, in words without names and paths."""

    facts: Mapping[str, Figure]
    findings: Sequence[Finding]
    seconds: float
    quick: bool = False

    @property
    def ok(self) -> bool:
        """Whether nothing is broken."""
        return all(finding.verdict != BROKEN for finding in self.findings)

    @property
    def table(self) -> str:
        """All findings, verdict first."""
        return table(self.findings, self.seconds)

    @property
    def summary(self) -> str:
        """One line."""
        return summary(self.findings, self.seconds)


@dataclass
class Suite:
    """The tests of one device. `tell` hears each finding with its number and the number of tests."""

    device: torch.device
    quick: bool = False
    attentions: Mapping[str, Attention] = field(default_factory=dict)  # a host's
    more: Sequence[Check] = ()  # a host's
    more_facts: Mapping[str, Figure] = field(default_factory=dict)
    seconds: float = SECONDS
    pulse: Callable[[], None] = lambda: None
    tell: Callable[[int, int, Finding], None] = lambda number, count, finding: None
    findings: list[Finding] = field(default_factory=list)  # so far

    def run(self) -> Report:
        """The report; BaseException of the pulse, such as a host's interruption, passes through."""
        self.clock = Clock(self.seconds, self.pulse)
        listed = self.tests()
        for number, test in enumerate(listed, 1):
            for finding in self._findings(test):
                self.findings.append(finding)
                self.tell(number, len(listed), finding)
        return self.report()

    def report(self) -> Report:
        """What there is to say so far."""
        known = {**clean({**facts(self.device), **self.more_facts})}
        return Report(known, tuple(self.findings), self.clock.spent, self.quick)

    def tests(self) -> list[Check]:
        """The list for this device."""
        device, dtype = self.device, compute_dtype(self.device)
        one = next(each for each in subjects(dtype) if (each.kind.name, each.memory) == DEFAULT)
        return [
            Check("Machine", 30, lambda clock: check_machine(device)),
            Check("Triton", 90, lambda clock: check_triton(device, clock)),
            Check(
                "Attention", 15, lambda clock: check_attention(device, dtype, clock, self.attentions), True
            ),
            *(_one(f"Stream {each.name}", 20, check_stream, each, device) for each in self._subjects(dtype)),
            Check("Resume", 30, lambda clock: [_resume(one, device, clock)]),
            *self.more,
            Check("VAE decode", 30, lambda clock: (check_decoder(n, device, dtype, clock) for n in DECODERS)),
            _one("Model moved away", 15, check_moved_away, one, device),
            Check("Card full", 20, lambda clock: check_out_of_memory(one, device, clock)),
            Check("Speed", 30, lambda clock: check_speed(device, dtype, clock), True),
        ]

    def _subjects(self, dtype: torch.dtype) -> list[Subject]:
        every = subjects(dtype)
        return [each for each in every if each.kind.name in QUICK] if self.quick else every

    def _findings(self, test: Check) -> Iterator[Finding]:
        """A test's findings, cleaned; one more where it came to no end."""
        if self.clock.left <= 0:
            yield Finding(test.name, SKIPPED, "no time was left")
            return
        with self.clock.bounded(test.seconds):
            before = self.clock.spent
            try:
                with torch.inference_mode(), nullcontext() if test.large else one_thread():
                    for finding in test.run(self.clock):
                        yield self._cleaned(finding, before)
                        before = self.clock.spent
            except OutOfTimeError as late:
                yield self._cleaned(Finding(test.name, SKIPPED, str(late)), before)
            except Exception as error:
                said = f"{type(error).__name__}: {error}"
                way = "a report with this file helps to mend it"
                yield self._cleaned(Finding(test.name, BROKEN, said, way), before)

    def _cleaned(self, finding: Finding, before: float) -> Finding:
        said, way = (" ".join(clean(text).split()) for text in (finding.said, finding.way_round))
        figures = clean(dict(finding.figures))
        return replace(finding, said=said, way_round=way, figures=figures, seconds=self.clock.spent - before)


def _resume(subject: Subject, device: torch.device, clock: Clock) -> Finding:
    decoder = VaeDecoder(wan_vae(subject.dtype).to(device))
    begin = partial(subject.on, device, subject.dtype)
    return check_resume(f"Resume {subject.name}", begin, decoder, clock)


def _one(
    name: str,
    seconds: float,
    check: Callable[[Subject, torch.device, Clock], Finding],
    subject: Subject,
    device: torch.device,
) -> Check:
    return Check(name, seconds, lambda clock: [check(subject, device, clock)])
