"""Prompts at one and the same border: what is noted of them makes the same blocks again."""

from dataclasses import replace
from itertools import product

import pytest
import torch
from rivulet.model_patches.stream.step import init, rollout
from rivulet.model_patches.stream.switch import switch
from rivulet.model_patches.stream.timeline import MODES
from rivulet.model_patches.takes.timeline_file import Event, at_border

AFTER = 3  # blocks that are compared


def entered(caller, state, prompts, modes):
    """The state after these, as a run enters them one after the other."""
    for prompt, mode in zip(prompts, modes, strict=True):
        state = replace(switch(caller, state, prompt, mode), steered=True)
    return replace(state, steered=False)


@pytest.mark.parametrize("modes", list(product(MODES, MODES)), ids=lambda modes: "-".join(modes))
def test_what_is_noted_of_a_border_makes_the_same_blocks(caller, make_text, config, modes):
    config = replace(config, preset="pocket", sigmas=(1.0,))
    texts = [(make_text(seed),) for seed in range(4)]

    def begun():
        state = init(caller, texts[0], config)
        # a blend that another prompt began is still going on
        state = list(rollout(caller, state, 4))[-1][1]
        return list(rollout(caller, switch(caller, state, texts[3], "blend"), 1))[-1][1]

    if modes == ("cut", "shot"):  # refused: nothing is there to keep
        with pytest.raises(ValueError, match="a cut has just forgotten it"):
            entered(caller, begun(), texts[1:3], modes)
        return
    done = entered(caller, begun(), texts[1:3], modes)
    note = at_border([Event(5, 0, f"text {seed}", mode, 7) for seed, mode in zip((1, 2), modes, strict=True)])
    again = entered(caller, begun(), texts[2:3], [note.mode])
    assert note.prompt == "text 2"
    for (one, _), (other, _) in zip(rollout(caller, done, AFTER), rollout(caller, again, AFTER), strict=True):
        assert torch.equal(one, other)
