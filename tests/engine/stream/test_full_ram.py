"""What a full card leaves in the computer's memory, and what is left out where that is full, too."""

import weakref
from dataclasses import replace

import numpy as np
import pytest
import torch
from rivulet.model_patches.cache.store import Store
from rivulet.model_patches.stream import recovery
from rivulet.model_patches.stream.config import StreamConfig
from rivulet.model_patches.stream.pipeline import run
from rivulet.model_patches.stream.step import init, step
from rivulet.model_patches.vae.decoder import VaeBuffers, VaeDecoder

from .full_runs import full_passes, same, went
from .videos import GEOMETRY, Collected, text

AWAY = torch.device("cpu", 0)
CONFIG = StreamConfig(GEOMETRY, sigmas=(1.0, 0.5), seed=7)


@pytest.fixture(autouse=True)
def away(monkeypatch):
    """Everything lies on the CPU; `cpu:0` is another name of it, so that what leaves the card is moved."""
    monkeypatch.setattr(recovery, "HOST", AWAY)


@pytest.fixture
def start(wan):
    return lambda: init(wan, (text(0),), CONFIG)


def test_a_cache_that_shrank_is_nowhere_any_more_though_its_states_are_held(wide, vae):
    """At the sizes of 14B the old one is gigabytes of the computer's memory."""
    first = run(wide, VaeDecoder(vae), init(wide, (text(0),), CONFIG), [Collected()], blocks=2)
    states = [first, replace(first, cache=first.cache.retain(()))]
    held = [weakref.ref(each) for each in tensors_in(first.cache.store)]
    hook = wide.tree.blocks[1].ffn.register_forward_pre_hook(full_passes(3))
    writer = Collected(first.ledger.written)
    try:
        after = run(wide, VaeDecoder(vae), first, [writer], blocks=2, may_shrink=True)
    finally:
        hook.remove()
    assert after.format.name == "int8" and not [each for each in held if each() is not None]
    for state in states:
        with pytest.raises(RuntimeError, match="is spent: its cache went over to a smaller format"):
            step(wide, state)
    with pytest.raises(RuntimeError, match="is spent"):
        first.cache.tensors()
    assert step(wide, after)[1].block == 5


def tensors_in(store):
    return [*store.buffers.values(), *store.workspace, store._table]


@pytest.mark.parametrize("what", ["the cache", "what the decoder looks back on"])
def test_where_the_computers_memory_is_full_too_a_measure_is_left_out(
    wan, vae, start, monkeypatch, caplog, what
):
    """It holds for every block to come: none of them ends the stream."""
    whole, expected, _, _ = went(wan, vae, start(), blocks=4)
    kind, name = (Store, "move") if what == "the cache" else (VaeBuffers, "on")
    there, asked = getattr(kind, name), []

    def no_room(self, device):
        if device == AWAY:
            asked.append(device)
            raise RuntimeError("[enforce fail at alloc_cpu.cpp:121] DefaultCPUAllocator: can't allocate")
        return there(self, device)

    monkeypatch.setattr(kind, name, no_room)
    in_pass = wan.tree.blocks[1].ffn.register_forward_pre_hook(full_passes(2))
    in_decode = vae.decoder.conv1.register_forward_pre_hook(full_passes(2))
    try:
        frames, after, told, _ = went(wan, vae, start(), blocks=4)
    finally:
        in_pass.remove()
        in_decode.remove()
    assert np.array_equal(frames, whole) and same(after, expected) and len(told) == 4
    assert len(asked) >= 3 and f"{what} stays on the card" in caplog.text
