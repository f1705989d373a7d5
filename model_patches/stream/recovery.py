"""What a run does when the card is full: it makes room, one measure after another, and tries once more each.

A measure that brought a kind of work through holds for it to the end of the run. States are values, so work
that failed is begun again from where it began; nothing of it is in the cache or in the file.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

import torch

from ..cache.format import CacheFormat
from ..cache.shrink import shrink, smaller
from ..vae.decoder import StreamDecoder
from .caller import Caller
from .card_memory import CardFullError, forget, usage
from .overlap import Overlap
from .snapshot import Captured, capture, write
from .state import StreamState

log = logging.getLogger(__name__)
T = TypeVar("T")
HOST = torch.device("cpu")
MAX_SAID = 200  # letters of torch's own words in ours
LESS = (
    "A take needs less with a smaller picture, a smaller cache, a preset with a shorter window, or a tiny VAE"
)


@dataclass(frozen=True, slots=True)
class Work:
    """A kind of work on the card; what it does not need can leave the card while it lasts."""

    name: str
    needs_model: bool
    rest: str  # what else leaves the card, where other models are not enough


PASS = Work("the model's pass", True, "what the decoder looks back on stays in the computer's memory")
PICTURES = Work("the VAE", False, "the cache goes to the computer's memory while the VAE works")
PROMPT = Work("the text encoder", False, "the cache goes to the computer's memory while a text is read")

OTHERS_LEAVE, REST_LEAVES, CACHE_SHRINKS = 1, 2, 3  # measures, in their order


class Recovery:
    """The measures of one run."""

    def __init__(
        self,
        caller: Caller,
        now: Callable[[], StreamState],
        adopt: Callable[[StreamState], None],
        tell: Callable[[str], None],
        *,
        may_shrink: bool = False,
        overlap: Overlap | None = None,
    ) -> None:
        """now: the run's state. adopt: goes on with an equal one. tell: a sentence for whoever watches.

        may_shrink: the user allows that the cache goes over to a smaller format. overlap: ends where the card
        is full, and with it the work of two at once.
        """
        self._caller, self._now, self._adopt, self._tell = caller, now, adopt, tell
        self._may_shrink, self._overlap = may_shrink, overlap or Overlap()
        self._in_force: dict[Work, int] = {}  # the last measure that holds
        self._in_pass = False

    def attempt(self, work: Work, run: Callable[[], T]) -> T:
        """What `run` gives, which asks `now` for the state and may be called again.

        CardFullError where no measure helped. Other errors pass through.
        """
        tried: list[str] = []
        while True:
            try:
                self._make_room(work)
                self._in_pass = work is PASS
                return run()
            except Exception as error:
                if not self._caller.is_out_of_memory(error):
                    raise
                said = str(error)
                forget(error)
            finally:
                self._in_pass = False
            # outside of the handler, which would hold the failed work's tensors
            self._take_measure(work, said, tried)

    def rest(self) -> None:
        """A pause: everything that can leaves the card, and comes back with what needs it next."""
        self._spill_if_possible()
        self._past_leaves_if_possible()
        self._caller.make_room(keep_model=False)

    def unloaded(self) -> None:
        """The host has moved the model away: the cache goes, too, unless a pass is under way."""
        if not self._in_pass:
            self._spill_if_possible()

    def _spill_if_possible(self) -> None:
        try:
            self._now().cache.move(HOST)
        except RuntimeError as why:  # the computer's own memory is full, too
            log.warning("Stream: the cache stays on the card: %s", why)

    def _past_leaves_if_possible(self) -> None:
        try:
            self._past_leaves()
        except RuntimeError as why:
            log.warning("Stream: what the decoder looks back on stays on the card: %s", why)

    def _make_room(self, work: Work) -> None:
        """Puts the measures into effect that hold for this work."""
        level = self._in_force.get(work, 0)
        if level >= OTHERS_LEAVE:
            self._caller.make_room(keep_model=work.needs_model)
        if level >= REST_LEAVES:
            if work is not PICTURES:
                self._past_leaves_if_possible()
            if work is not PASS:
                self._spill_if_possible()
        if level >= CACHE_SHRINKS:
            self._shrink()

    def _take_measure(self, work: Work, said: str, tried: list[str]) -> None:
        """Has the next measure hold, or those that hold once more; CardFullError after the last."""
        self._overlap.end()
        level = self._in_force.get(work, 0)
        if level < self._last(work):
            level += 1
            self._in_force[work] = level
            tried.append(self._words(work, level))
            self._say(
                f"the card was full in block {self._now().block} ({work.name}); {tried[-1]} from here on."
            )
        elif not tried:
            tried.append("everything that is no longer used was given back once more")
            self._caller.make_room(keep_model=work.needs_model)
        else:
            self._give_up(work, said, tried)

    def _give_up(self, work: Work, said: str, tried: list[str]) -> None:
        state = self._now()
        numbers = usage(self._caller.device)
        could = self._smaller() is not None and not self._may_shrink
        self.rest()  # so that what is kept can be saved
        raise CardFullError(
            f"Stream: the card is full in block {state.block} ({work.name}): {_first_words(said)}"
            f"{numbers and f' ({numbers})'}. Tried, one after another: {'; '.join(tried)}. The video up to "
            f"this block is whole. {LESS}{'; or allow the cache to shrink' if could else ''}. If another "
            f"program uses the card, close it and resume this take."
        )

    def _last(self, work: Work) -> int:
        """The last measure that there is for this work."""
        can_shrink = work is PASS and self._may_shrink and self._smaller() is not None
        return CACHE_SHRINKS if can_shrink else REST_LEAVES

    def _words(self, work: Work, level: int) -> str:
        if level == CACHE_SHRINKS:
            target = self._smaller()
            return f"the cache is {target.name if target else ''} instead of {self._now().format.name}"
        return "all models that are not needed leave the card" if level == OTHERS_LEAVE else work.rest

    def _past_leaves(self) -> None:
        self._overlap.finish()
        state = self._now()
        if state.past is not None and (past := state.past.on(HOST)) is not state.past:
            self._adopt(replace(state, past=past))

    def _smaller(self) -> CacheFormat | None:
        """The format that the cache can become; none that the memory cannot work with."""
        state, tree = self._now(), self._caller.tree
        positions = state.config.positions
        for sink in sorted({0, positions.sink_frames}):
            target = smaller(state.format, tree, sink)
            if target and state.policy.why_not(state.cache.shape, positions, target.cost) is None:
                return target
        return None

    def _shrink(self) -> None:
        state, target = self._now(), self._smaller()
        if target is None:  # it is small already
            return
        self._spill_if_possible()
        made = shrink(state.cache, target, self._caller.tree, state.config.dtype, self._caller.device)
        shrunk = f"{state.format.name} until block {state.block}"
        self._adopt(replace(state, cache=made, format=target, shrunk=shrunk))
        state.cache.free()  # whoever called the run may hold its first state to the end

    def _say(self, sentence: str) -> None:
        log.warning("Stream: %s", sentence)
        self._tell(sentence)


def capture_in_any_case(caller: Caller, state: StreamState, decoder: StreamDecoder | None) -> Captured:
    """`snapshot.capture`; where the card is full, once more with everything in the computer's memory."""
    try:
        return capture(caller, state, decoder)
    except Exception as error:
        if not caller.is_out_of_memory(error):
            raise
        forget(error)
    state.cache.move(HOST)
    caller.make_room(keep_model=False)
    return capture(caller, state, decoder)


def save_in_any_case(
    caller: Caller, state: StreamState, path: str | Path, decoder: StreamDecoder | None = None
) -> None:
    """`capture_in_any_case`, written to a file."""
    write(capture_in_any_case(caller, state, decoder), path)


def _first_words(said: str) -> str:
    """Of what torch said, the first two sentences."""
    return ". ".join(said.split("\n")[0].split(". ")[:2])[:MAX_SAID].rstrip(". ")


@contextmanager
def refuse_full(caller: Caller, when: str) -> Iterator[None]:
    """CardFullError with a sentence where the card is full before there is a stream to go on with."""
    said = ""
    try:
        yield
    except Exception as error:
        if not caller.is_out_of_memory(error):
            raise
        said = str(error)
        forget(error)
    if said:
        caller.make_room(keep_model=False)
        numbers = usage(caller.device)
        raise CardFullError(
            f"Stream: the card is full {when}: {_first_words(said)}{numbers and f' ({numbers})'}. Nothing "
            f"was made. {LESS}; Plan Stream says what a stream will need."
        )
