"""The prompt of a stream on a card that is not there: what is copied to it, and when one waits for it."""

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
        state = run.begin()
        for _ in range(2):
            _, state = run.step(state)
        assert (seen.copied[width], seen.compared) == (2, 0)
        latents, _ = run.step(run.switch(state, prompt(2), "smooth"))
        assert (seen.copied[width], seen.compared) == (4, 0)
    assert latents.device == card.device
