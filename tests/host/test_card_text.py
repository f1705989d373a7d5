"""A stream on a card that is not there: when its prompt goes there, and what the card must know."""

from dataclasses import replace

import pytest
import torch
from rivulet.model_patches.geometry import Geometry
from rivulet.model_patches.stream.config import StreamConfig
from rivulet.tests.host.carried import carry
from rivulet.tests.host.streams import HostRun
from rivulet.tests.host.watch import Watch

CONFIG = StreamConfig(Geometry(64, 48), "pocket", 3, (1.0, 0.75, 0.5), cfg=3.0, dtype=torch.bfloat16)


def test_a_prompt_goes_to_the_card_once_and_is_not_compared_there(card, load, prompt, monkeypatch):
    model = carry(card, load("plain"), monkeypatch)
    run = HostRun(model, prompt(0), prompt(1), CONFIG)
    width = prompt(0)[0][0].shape[-1]
    with card, Watch(card) as seen:
        _, state = run.step(run.begin())
        first = seen.copied[width]  # and what the weights are asked
        _, state = run.step(state)
        assert (seen.copied[width], seen.compared) == (first, 0)
        latents, _ = run.step(run.switch(state, prompt(2), "smooth"))
        assert (seen.copied[width], seen.compared) == (first + 2, 0)
    assert latents.device == card.device


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32], ids=str)
def test_a_card_without_float64_or_bfloat16_makes_a_block(card, load, prompt, monkeypatch, dtype):
    """Apple's know no float64, Turing no bfloat16. The first block checks forward and weights, too."""
    import comfy.model_management as management

    # where the host's own forward, which is compared, has its angles made elsewhere
    monkeypatch.setattr(management, "is_device_mps", lambda _: True)
    model = carry(card, load("plain"), monkeypatch, dtype)
    run = HostRun(model, prompt(0), prompt(1), replace(CONFIG, dtype=dtype))
    with card, Watch(card) as seen:
        _, state = run.step(run.begin())
        latents, _ = run.step(state)
    assert latents.device == card.device
    assert seen.made[torch.float64] == seen.made[torch.bfloat16] == set() != seen.made[dtype]


def test_a_model_on_the_second_card_streams_there(card, load, prompt, monkeypatch):
    card.device = torch.device("cuda", 1)
    model = carry(card, load("plain"), monkeypatch)
    run = HostRun(model, prompt(0), prompt(1), CONFIG)
    with card, Watch(card) as seen:
        _, state = run.step(run.begin())
        latents, _ = run.step(run.switch(state, prompt(2), "recache"))
    assert latents.device == card.device
    assert seen.devices == {card.device}
