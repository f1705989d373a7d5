"""A stream on a card that is not there: when its prompt goes there, and what the card must know."""

from collections import Counter, defaultdict
from dataclasses import replace

import pytest
import torch
from rivulet.model_patches.geometry import Geometry
from rivulet.model_patches.stream.config import StreamConfig
from rivulet.tests.card.faked import Card
from rivulet.tests.card.watch import FREE_TO_CARD, TO_CARD, WAIT
from rivulet.tests.host.carried import carry
from rivulet.tests.host.streams import HostRun
from torch import Tensor

CONFIG = StreamConfig(Geometry(64, 48), "pocket", 3, (1.0, 0.75, 0.5), cfg=3.0, dtype=torch.bfloat16)


def test_a_prompt_goes_to_the_card_once_and_is_not_compared_there(card, load, prompt, monkeypatch):
    model = carry(card, load("plain"), monkeypatch)
    run = HostRun(model, prompt(0), prompt(1), CONFIG)

    def asked(state):
        """What a block asks for: how often a text is copied, pinned and not, and how often one is read."""
        card.watch.begin("block")
        _, state = run.step(state)
        counts = Counter()
        for (kind, at, what), count in card.watch.sections[-1].counts.items():
            is_text = kind in (TO_CARD, FREE_TO_CARD) and what.endswith("[1, 12, 64]")
            if is_text or (kind == WAIT and at.file == "nodes/host/block.py"):
                counts[kind] += count
        return counts, state

    with card:
        _, state = run.step(run.begin())
        counts, state = asked(state)
        assert counts == {}
        counts, state = asked(run.switch(state, prompt(2), "smooth"))
        assert counts == {FREE_TO_CARD: 2}


@pytest.fixture
def made(monkeypatch):
    """Returns what is made on the card: the devices, and the operations by dtype."""
    found, real = (set(), defaultdict(set)), Card.run

    def run(self, func, *given):
        result = real(self, func, *given)
        if isinstance(result, Tensor) and result.is_cuda:
            found[0].add(result.device)
            found[1][result.dtype].add(str(func))
        return result

    monkeypatch.setattr(Card, "run", run)
    return found


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32], ids=str)
def test_a_card_without_float64_or_bfloat16_makes_a_block(card, load, prompt, monkeypatch, made, dtype):
    """Apple's know no float64, Turing no bfloat16. The first block checks forward and weights, too."""
    import comfy.model_management as management

    # where the host's own forward, which is compared, has its angles made elsewhere
    monkeypatch.setattr(management, "is_device_mps", lambda _: True)
    model = carry(card, load("plain"), monkeypatch, dtype)
    run = HostRun(model, prompt(0), prompt(1), replace(CONFIG, dtype=dtype))
    with card:
        _, state = run.step(run.begin())
        latents, _ = run.step(state)
    assert latents.device == card.device
    assert made[1][torch.float64] == made[1][torch.bfloat16] == set() != made[1][dtype]


def test_a_model_on_the_second_card_streams_there(card, load, prompt, monkeypatch, made):
    model = carry(card, load("plain"), monkeypatch, device=card.other)
    run = HostRun(model, prompt(0), prompt(1), CONFIG)
    with card:
        _, state = run.step(run.begin())
        latents, _ = run.step(run.switch(state, prompt(2), "recache"))
    assert latents.device == card.other
    assert made[0] == {card.other}
