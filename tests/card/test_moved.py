"""What a state that leaves the card leaves there, and what saving one allocates on it."""

import pytest
import torch
from rivulet.model_patches.stream.snapshot import load, save
from rivulet.model_patches.stream.step import step
from rivulet.tests.card.tiny import Case, TinyStream, blocks_to_fill
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

aten = torch.ops.aten
CPU = torch.device("cpu")
CASES = [
    Case(),
    Case("int8", "ema", "reward_forcing"),
    Case("latent", "learned", "echo"),
    Case("mla"),
    Case("mla-int8", second=True),
]


@pytest.fixture(params=CASES, ids=str)
def stream(request, triton_card):
    """Returns a stream on a card, and a maker of its state after enough blocks that frames have left."""
    made = TinyStream(triton_card, request.param)

    def after_blocks():
        state = made.start()
        for _ in range(blocks_to_fill(request.param.preset) + 1):
            _, state = step(made.caller, state)
        return state

    return made, after_blocks


def tensors_of(value, seen=None):
    """Yields all tensors of the pack's own values, but for those of modules and of a basis."""
    seen = set() if seen is None else seen
    if id(value) in seen or isinstance(value, torch.nn.Module) or type(value).__name__ == "LayerBasis":
        return
    seen.add(id(value))
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, dict):
        yield from tensors_of(tuple(value.values()), seen)
    elif isinstance(value, list | tuple):
        for each in value:
            yield from tensors_of(each, seen)
    elif type(value).__module__.startswith("rivulet"):
        names = [*getattr(value, "__dict__", ()), *getattr(type(value), "__slots__", ())]
        yield from tensors_of([getattr(value, name) for name in names], seen)


def places(state):
    """Where all that moves lies."""
    held = (state.cache, state.memory, state.tail_BCTHW)
    return {tensor.device for tensor in tensors_of(held)}


def test_a_state_leaves_nothing_on_the_card_and_is_brought_back(stream):
    made, after_blocks = stream
    with made.card:
        state = after_blocks()
        assert places(state) == {made.device}
        away = state.to(CPU)
        assert places(away) == {CPU}
        latents, after = step(made.caller, away)
    assert latents.device == made.device and places(after) == {made.device}


class Allocations(TorchDispatchMode):
    """Notes the most bytes that one operation allocates on a card, those included that order a copy."""

    def __init__(self):
        super().__init__()
        self.most = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        made = [] if function.is_view or not isinstance(result, Tensor) or result is args[0] else [result]
        if function in (aten.copy_.default, aten._to_copy.default):
            source, into = (args[1], args[0]) if function is aten.copy_.default else (args[0], result)
            if source.is_cuda != into.is_cuda:
                # torch lays both sides in order before it copies between devices
                torn = not (source.is_contiguous() and into.is_contiguous())
                made += [side for side in (source, into) if torn]
        self.most = max(self.most, *(side.nbytes for side in made if side.is_cuda), 0)
        return result


def test_a_cache_is_saved_and_loaded_without_a_second_one_on_the_card(stream):
    made, after_blocks = stream
    with made.card:
        state = after_blocks()
        with Allocations() as allocations:
            saved = state.cache.tensors()
        store = state.cache.store
        # a fold is made there layer by layer, before it is written into what is saved
        folded = 0 if state.cache.pending_fold is None else store.exact_kv[0].nbytes
        assert allocations.most <= folded
        assert {tensor.device for tensor in saved.values()} == {CPU} and max(folded, 1) < store.bytes
        with Allocations() as allocations:
            filled = state.cache.slots.filled
            store.load(filled, state.cache.exact.filled, saved)
        assert not allocations.most


@pytest.mark.parametrize("vae", ["wan", "tiny"])
def test_a_take_goes_on_with_its_vae_on_another_card(triton_card, tmp_path, vae):
    made = TinyStream(triton_card, Case(vae=vae, second=True, apart=True))
    with triton_card:
        state = made._run(made.start(), 9, 1)
        save(made.caller, state, tmp_path / "stream.safetensors")
        loaded = load(tmp_path / "stream.safetensors", made.caller)
        assert places(loaded) == {made.device}
        after = made._run(loaded, 9, 1)
    assert after.block == 2
    assert {t.device for t in after.past.layers if isinstance(t, Tensor)} == {made.vae_device}
