"""Weights that the host keeps in RAM: a stream has them fetched a layer ahead."""

from types import SimpleNamespace

import pytest
from rivulet.model_patches.geometry import Geometry
from rivulet.model_patches.stream.config import StreamConfig
from rivulet.tests.host.streams import HostRun

CONFIG = StreamConfig(Geometry(32, 48), "pocket", 3, (1.0, 0.5), seed=5)


@pytest.fixture
def seen(load, monkeypatch):
    """Returns what happens in order where the host's weights move: fetches, and the layers that run."""
    import comfy.model_patcher
    from rivulet.nodes.host import prefetch

    events, dit = [], load("plain").model.diffusion_model

    def fetch(queue, device, block):
        events.append("end" if block is None else f"fetch {list(dit.blocks).index(block)}")
        assert queue.pop(0) is None or block is None or block.ffn in list(queue[0])

    host = SimpleNamespace(
        make_prefetch_queue=lambda blocks, device, options: [None, *blocks, None],
        prefetch_queue_pop=fetch,
        cleanup_prefetch_queues=lambda: events.append("clean"),
    )
    monkeypatch.setattr(prefetch, "model_prefetch", host)
    monkeypatch.setattr(comfy.model_patcher.ModelPatcher, "is_dynamic", lambda _: True)
    for index, block in enumerate(dit.blocks):
        for name, layer in (("q", block.self_attn.q), ("k", block.self_attn.k), ("ffn", block.ffn)):
            real = layer.forward
            monkeypatch.setattr(
                layer,
                "forward",
                lambda x, name=f"{name} {index}", real=real: events.append(name) or real(x),
            )
    return events


FIRST = ["fetch 0", "q 0", "k 0", "ffn 0", "fetch 1"]
DENOISE = [*FIRST, "q 1", "k 1", "ffn 1", "end", "clean"]
REMEMBER = [*FIRST, "k 1", "end", "clean"]


def test_each_layer_is_fetched_before_it_runs(seen, load, prompt):
    run = HostRun(load("plain"), prompt(0), prompt(1), CONFIG)
    _, state = run.step(run.begin())
    seen.clear()
    run.step(state)
    assert seen == [*DENOISE, *DENOISE, *REMEMBER]


def test_what_an_interrupted_call_had_fetched_is_let_go(seen, load, prompt, monkeypatch):
    import comfy.model_management as management

    run = HostRun(load("plain"), prompt(0), prompt(1), CONFIG)
    _, state = run.step(run.begin())
    layer, real = run.caller.tree.blocks[1].self_attn.k, run.caller.tree.blocks[1].self_attn.k.forward

    def stopped(x):
        raise management.InterruptProcessingException

    monkeypatch.setattr(layer, "forward", stopped)
    seen.clear()
    with pytest.raises(management.InterruptProcessingException):
        run.step(state)
    assert seen == [*FIRST, "q 1", "clean"]
    monkeypatch.setattr(layer, "forward", real)
    seen.clear()
    run.step(state)
    assert seen == [*DENOISE, *DENOISE, *REMEMBER]
