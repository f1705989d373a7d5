"""Runs on a card that is full at chosen operations, and what is compared of them."""

import torch
from rivulet.model_patches.stream.pipeline import run
from rivulet.model_patches.stream.recovery import Recovery
from rivulet.model_patches.stream.watching import Unwatched
from rivulet.model_patches.vae.decoder import VaeDecoder, to_tensors
from rivulet.tests.full_card import SAID, FullCard
from torch.utils._python_dispatch import _disable_current_modes

from .videos import Collected


class Unharmed(Collected):
    """A writer, whose work is the computer's and not the card's."""

    def write(self, pixels):
        with _disable_current_modes():
            super().write(pixels)


class Told(Unwatched):
    """Viewers that note what they are told."""

    sentences: list[str]

    def __init__(self, *more):
        super().__init__(*more)
        object.__setattr__(self, "sentences", [])

    def tell(self, sentence):
        self.sentences.append(sentence)


class Now:
    """Where a run stands, for a recovery without a run."""

    def __init__(self, caller, state, **options):
        self.state, self.sentences = state, []
        self.recovery = Recovery(caller, lambda: self.state, self.adopt, self.sentences.append, **options)

    def adopt(self, state):
        self.state = state


def numbers(state):
    """All of a state that can be compared."""
    parts = state.cache.tensors() | {f"memory.{n}": t for n, t in state.memory.tensors().items()}
    parts |= {f"past.{n}": t for n, t in to_tensors(state.past).items()} | {"tail": state.tail_BCTHW}
    counts = (state.block, state.start_frame, state.cache.table, state.blend, state.must_recache)
    return (counts, state.ledger), {name: part.clone() for name, part in parts.items()}


def same(one, other):
    assert one[0] == other[0] and one[1].keys() == other[1].keys()
    return all(torch.equal(part, other[1][name]) for name, part in one[1].items())


def at(number):
    return FullCard(lambda operation: operation == number)


def operations(work):
    """How many operations it has, when nothing is made for the first time any more."""
    work()
    with FullCard(lambda _: False) as card:
        work()
    return card.operations


def went(wan, vae, state, is_full=lambda _: False, **options):
    """(pictures, numbers of the state after it, what was told, operations that failed) of a run."""
    writer, viewers = Unharmed(state.ledger.written), Told()
    with FullCard(is_full) as card:
        after = run(wan, VaeDecoder(vae), state, [writer], viewers=viewers, **options)
    return writer.frames, numbers(after), viewers.sentences, card.raised


def full_passes(count):
    """A hook of a layer that finds no room so many times."""
    left = [count]

    def fail(module, args):
        if left[0]:
            left[0] -= 1
            raise torch.OutOfMemoryError(SAID)

    return fail
