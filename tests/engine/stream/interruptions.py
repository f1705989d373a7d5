"""A block that is interrupted at any call of any layer, and what must be left of its stream then."""

import pytest
import torch
from rivulet.model_patches.stream.step import step


class Interruption(BaseException):
    """Like the host's own, it is no Exception."""


class Tripwire:
    """Hooks on every module of a model; raises at the crossing it is set to, counted over a whole block."""

    def __init__(self, model):
        self.crossings, self.block_crossings, self.trip_at = 0, 0, -1
        for module in model.modules():
            module.register_forward_pre_hook(self.cross)
            module.register_forward_hook(self.cross)

    def cross(self, *_):
        self.crossings += 1
        if self.crossings - 1 == self.trip_at:
            raise Interruption

    def set(self, trip_at):
        self.crossings, self.trip_at = 0, trip_at


def frozen(state):
    """All of a state as values that nothing can change any more."""
    tensors = [*state.cache.tensors().values(), *state.prompt, state.tail_BCTHW]
    if state.under_way_BCTHW is not None:
        tensors.append(state.under_way_BCTHW)
    return (state.block, state.start_frame, state.cache.table), [tensor.clone() for tensor in tensors]


def same(one, other):
    return one[0] == other[0] and all(torch.equal(a, b) for a, b in zip(one[1], other[1], strict=True))


def before_a_block(caller, streams):
    """(caller, the first of two equal streams, its model's tripwire, what its next block must be).

    What it must be comes from the second one, which nothing ever stops.
    """
    wire = Tripwire(caller.tree)
    latents, after = step(caller, streams[1])
    wire.block_crossings = wire.crossings
    return caller, streams[0], wire, (latents, frozen(after))


def check_again(caller, state, expected):
    """The block can be made, and is what it must be."""
    latents, after = step(caller, state)
    assert torch.equal(latents, expected[0]) and same(frozen(after), expected[1])


def check_an_interruption(stopped, place):
    """One in the block of `before_a_block` changes nothing; place: share of its crossings, below 1."""
    caller, state, wire, expected = stopped
    before = frozen(state)
    wire.set(int(place * wire.block_crossings))
    with pytest.raises(Interruption):
        step(caller, state)
    assert same(frozen(state), before)
    wire.set(-1)
    check_again(caller, state, expected)
