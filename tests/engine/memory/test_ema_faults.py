"""A sink that takes in frames is part of a block that can be undone: a fault at every operation."""

import threading
from dataclasses import replace

import pytest
import torch
from rivulet.model_patches.arch.mla import MlaModel, MlaSizes
from rivulet.model_patches.arch.rotary import RopeLayout
from rivulet.model_patches.attention.positions import PRESETS
from rivulet.model_patches.cache.dense import DENSE
from rivulet.model_patches.cache.format import call_of
from rivulet.model_patches.cache.int8 import Int8Format
from rivulet.model_patches.cache.latent import LatentFormat
from rivulet.model_patches.cache.mla import MlaFormat
from rivulet.model_patches.cache.shapes import Exact
from rivulet.model_patches.memory.ema import EmaSink
from rivulet.model_patches.memory.policy import evict
from rivulet.model_patches.stream.model_caller import ModelCaller
from rivulet.model_patches.stream.step import init, recache, step
from rivulet.model_patches.stream.switch import switch
from torch.utils._python_dispatch import TorchDispatchMode

from ..conftest import SIZES
from ..formats import GROUP, basis, latent

EMA = EmaSink(keep=0.9)
LAYERS = 2
LATENTS = MlaSizes(6, 10, RopeLayout(4, (1.0, 0.3), (0.7,), (0.9,)))
CASES = {
    "dense": DENSE,
    "int8": Int8Format(GROUP, Exact(sink=3)),
    "latent, newest exact": LatentFormat(basis(*[latent(24, 8)] * LAYERS), Exact(sink=3, newest=3)),
    "mla": MlaFormat(LATENTS.kv_latent, LATENTS.rope.turned),
}


class Fault(BaseException):
    """Like a host's interruption, it is no Exception."""


class Operations(TorchDispatchMode):
    """Counts operations, and raises before or after the one it is set to."""

    def __init__(self, before=-1, after=-1, then=None):
        super().__init__()
        self.count, self.before, self.after, self.then = 0, before, after, then

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        at, self.count = self.count, self.count + 1
        if at == self.before:
            raise Fault
        made = func(*args, **(kwargs or {}))
        if at == self.after:
            if self.then is None:
                raise Fault
            with torch.utils._python_dispatch._disable_current_modes():
                self.then()
        return made


def frozen(state):
    """All of a state that could change, as values."""
    return {name: tensor.clone() for name, tensor in state.cache.tensors().items()}


def same(one, other):
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


@pytest.fixture(autouse=True)
def inference():
    """Runs a test as streams run."""
    with torch.inference_mode():
        yield


@pytest.fixture(params=CASES)
def begin(request, make_model, make_text, config):
    """Returns the tiny model and a maker of streams that fold from their third block on."""
    model, made = make_model(num_layers=LAYERS), CASES[request.param]
    if request.param == "mla":
        model = MlaModel(replace(SIZES, num_layers=LAYERS), LATENTS).requires_grad_(False).eval()
        generator = torch.Generator().manual_seed(3)
        for parameter in model.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.25)
    config = replace(config, preset=PRESETS["reward_forcing"], sigmas=(1.0,))

    def start(blocks):
        state = init(ModelCaller(model), (make_text(),), config, cache=made, memory=EMA)
        for _ in range(blocks):
            _, state = step(ModelCaller(model), state)
        return state

    return model, start


def stream(model, state, blocks):
    """(latents, what the cache holds) after each of so many blocks."""
    made = []
    for _ in range(blocks):
        latents, state = step(ModelCaller(model), state)
        made.append((latents, frozen(state)))
    return made


def failing(at, work):
    """Whether a fault at this operation stopped the work, before it or after it."""
    try:
        with Operations(**{("before", "after")[at % 2]: at}):
            work()
    except Fault:
        return True
    return False


def test_a_fault_at_every_operation_of_a_block_leaves_the_state_before(begin):
    """Every one of them where frames are dense; every third in other formats, whose fold has its own test."""
    model, start = begin
    expected = stream(model, start(4), 3)
    state, at = start(4), 0
    before = frozen(state)
    while failing(at, lambda: step(ModelCaller(model), state)):
        assert same(frozen(state), before), f"operation {at}"
        at += 1 if state.format is DENSE else 3
    assert at > 200  # all of a block
    for (latents, kept), (wanted, held) in zip(stream(model, state, 3), expected, strict=True):
        assert torch.equal(latents, wanted) and same(kept, held)


def test_a_block_that_two_faults_kept_from_opening_goes_on_bit_for_bit(begin):
    """At every operation in turn, block after block: the second fault meets what the first one left."""
    model, start = begin
    state, other, at = start(4), start(4), 0
    stopped = True
    while stopped:
        before, call = frozen(other), open_call(state)
        stopped = failing(at, lambda: state.cache.begin(call))  # noqa: B023
        assert same(frozen(state), before), f"operation {at}"
        failing(at // 2, lambda: state.cache.begin(call))  # noqa: B023
        assert same(frozen(state), before), f"operation {at // 2} after {at}"
        (latents, state), (wanted, other) = step(ModelCaller(model), state), step(ModelCaller(model), other)
        assert torch.equal(latents, wanted), f"operation {at}"
        at += 1
    assert at > 20


def open_call(state):
    return call_of(state.config.positions, state.start_frame, state.config.block_frames)


def test_a_fault_at_every_operation_of_an_eviction_leaves_the_frames(begin):
    _, start = begin
    state = start(4)
    call = open_call(state)
    draft = state.cache.begin(call)
    whole = draft.commit(call.cached + call.new)
    before, kept = dict(whole.tensors()), tuple(frame for frame in whole.frames if frame not in (6, 7, 8))
    before = {name: tensor.clone() for name, tensor in before.items()}
    at = 0
    while failing(at, lambda: evict(EMA, state.memory, whole, kept)):
        assert same(before, whole.tensors())
        at += 1
    evict(EMA, state.memory, whole, kept)
    assert same(before, whole.tensors())


def test_the_state_before_is_readable_until_the_second_block_after_it_opens(begin):
    model, start = begin
    old = start(4)
    before = frozen(old)
    first = step(ModelCaller(model), old)
    assert same(frozen(old), before)
    again = step(ModelCaller(model), old)
    assert torch.equal(first[0], again[0]) and same(frozen(old), before)
    kept = frozen(again[1])
    step(ModelCaller(model), again[1])
    assert same(frozen(again[1]), kept)
    with pytest.raises(RuntimeError, match="is spent"):
        old.cache.tensors()


def test_what_is_read_of_the_sink_is_what_is_saved(begin):
    """Between two blocks, and in the block after."""
    model, start = begin
    state = start(4)
    waiting = [torch.stack(state.cache.keys_values(i, (0, 1, 2, 9))) for i in range(LAYERS)]
    step(ModelCaller(model), state)
    settled = [torch.stack(state.cache.keys_values(i, (0, 1, 2, 9))) for i in range(LAYERS)]
    assert all(torch.equal(a, b) for a, b in zip(waiting, settled, strict=True))


def test_a_thread_that_saves_while_the_next_block_opens_gets_a_whole_sink(begin):
    _, start = begin
    state, before = start(4), frozen(start(4))
    call, got = open_call(state), []

    def save():
        got.append(frozen(state))

    thread = threading.Thread(target=save)

    def meet():
        thread.start()
        thread.join(0.02)  # it may wait for the sink

    again = start(4)
    with Operations() as counted:
        again.cache.begin(call)
    with Operations(after=counted.count // 3, then=meet):
        state.cache.begin(call)
    thread.join()
    assert same(got[0], before)


def test_a_cut_forgets_what_the_sink_was_to_take_in(begin):
    model, start = begin
    state = start(4)
    fresh = replace(state, start_frame=0, cache=state.cache.retain(()), tail_BCTHW=state.tail_BCTHW[:, :, :0])
    new = replace(start(0), block=4)
    for (latents, kept), (wanted, held) in zip(stream(model, fresh, 3), stream(model, new, 3), strict=True):
        assert torch.equal(latents, wanted) and same(kept, held)


def test_a_fault_in_a_block_that_recaches_leaves_the_state_before(begin, make_text):
    """At every 17th operation of the recache and of the block behind it."""
    model, start = begin
    caller = ModelCaller(model)

    def switched():
        return switch(caller, start(4), (make_text(2),), "recache")

    expected = stream(model, switched(), 2)
    state, at = switched(), 0
    before = frozen(state)
    while failing(at, lambda: step(caller, state)):
        assert same(frozen(state), before), at
        at += 17
    assert at > 300
    for (latents, held), (again, holds) in zip(expected, stream(model, state, 2), strict=True):
        assert torch.equal(latents, again) and same(held, holds)


def test_a_recache_takes_no_frame_in_a_second_time(begin, make_text):
    model, start = begin
    state = switch(ModelCaller(model), start(4), (make_text(2),), "recache")
    sink = state.cache.frames
    after = recache(ModelCaller(model), state)
    assert sink == (0, 1, 2) and len(after.cache.frames) > 3
    for layer in range(LAYERS):
        for was, holds in zip(
            state.cache.keys_values(layer, sink), after.cache.keys_values(layer, sink), strict=True
        ):
            assert torch.equal(was, holds)
