"""Whether a card decodes a block while it makes the next: where both fit by the plan, and the host agrees."""

from types import SimpleNamespace

import pytest
import torch

CARD = torch.device("cuda", 0)


@pytest.fixture
def begun(load, vae, prompt, card, monkeypatch):
    """Returns (model, vae, state, bytes that both take), both said to be on the card."""
    from rivulet.model_patches.plan.plan import plan_stream
    from rivulet.model_patches.stream.step import init
    from rivulet.nodes.host.caller import HostCaller, HostPrompt
    from rivulet.nodes.host.recipe import stream_config
    from rivulet.nodes.plan import request_of

    model = load("plain")
    config = stream_config(model, 32, 48, "pocket", 3, 1.0, None)
    state = init(HostCaller(model), HostPrompt(prompt(0), None), config)
    monkeypatch.setattr(model, "load_device", CARD)
    monkeypatch.setattr(vae, "device", CARD)
    plan = plan_stream(request_of(model, vae, config, 16.0, 0, state.format))
    assert plan.overlap_bytes == plan.device_bytes + min(plan.activation_bytes, plan.decode_bytes)
    monkeypatch.setattr(torch.cuda, "Stream", lambda device: SimpleNamespace(device=device))
    return model, vae, state, plan.overlap_bytes


def overlaps(given, monkeypatch, free):
    from rivulet.nodes.run import overlap

    model, vae, state, _ = given
    monkeypatch.setattr(overlap, "free_bytes", lambda device: free)
    return overlap.overlap_for(model, vae, state.config, state.format, 16.0)._stream is not None


def test_where_both_fit_they_overlap(begun, monkeypatch):
    needed = begun[3]
    assert overlaps(begun, monkeypatch, round(1.11 * needed))
    assert not overlaps(begun, monkeypatch, round(1.09 * needed))


@pytest.mark.parametrize("place", ["cpu", "cuda:1"])
def test_a_vae_elsewhere_decodes_in_turns(begun, monkeypatch, place):
    monkeypatch.setattr(begun[1], "device", torch.device(place))
    assert not overlaps(begun, monkeypatch, 2**50)


@pytest.mark.parametrize("who", ["model", "vae"])
def test_weights_that_are_fetched_while_it_computes_go_in_turns(begun, monkeypatch, who):
    patcher = begun[0] if who == "model" else begun[1].patcher
    monkeypatch.setattr(patcher, "is_dynamic", lambda: True)
    assert not overlaps(begun, monkeypatch, 2**50)
