"""What a snapshot says of the weights, which are not looked at for each of them."""

import pytest
import torch
from rivulet.model_patches.arch.fingerprint import fingerprint
from rivulet.model_patches.stream import model_caller
from rivulet.model_patches.stream.model_caller import ModelCaller
from rivulet.model_patches.stream.snapshot import load, save
from rivulet.model_patches.stream.step import init, step


def test_the_weights_are_looked_at_once_a_run(make_model, make_text, config, tmp_path, monkeypatch):
    looked = []

    def look(*given):
        looked.append(given)
        return fingerprint(*given)

    monkeypatch.setattr(model_caller, "fingerprint", look)
    caller, path = ModelCaller(make_model()), tmp_path / "stream.safetensors"
    state = init(caller, (make_text(),), config)
    for _ in range(3):
        save(caller, state, path)
        _, state = step(caller, state)
    assert len(looked) == 1
    state = load(path, caller)
    save(caller, state, path)
    assert len(looked) == 2
    save(caller, init(caller, (make_text(),), config), path)
    assert len(looked) == 3


def write_to(weight):
    weight.mul_(2)


def exchange(weight):
    weight.data = weight * 2


def write_unseen(weight):
    weight.data.mul_(2)


@pytest.mark.parametrize("change", [write_to, exchange, write_unseen])
def test_weights_that_change_under_a_run_are_noticed_when_it_is_gone_on_with(
    change, make_model, make_text, config, tmp_path
):
    """torch does not count what is written past it; then the weights are compared with those of the begin."""
    caller, path = ModelCaller(make_model()), tmp_path / "stream.safetensors"
    state = init(caller, (make_text(),), config)
    save(caller, state, path)
    with torch.no_grad():
        change(caller.tree.blocks[0].ffn[0].weight)
    with pytest.raises(ValueError, match=r"differ from this model's by .* in ffn"):
        load(path, caller)
    state = init(caller, (make_text(),), config)
    save(caller, state, path)
    with torch.no_grad():
        change(caller.tree.blocks[0].ffn[0].weight)
    _, state = step(caller, state)
    save(caller, state, path)
    other = make_model()
    other.load_state_dict(caller.tree.state_dict())
    if change is write_unseen:
        with pytest.raises(ValueError, match=r"differ from this model's by .* in ffn"):
            load(path, ModelCaller(other))
    else:
        load(path, ModelCaller(other))
        with pytest.raises(ValueError, match=r"differ from this model's by .* in ffn"):
            load(path, ModelCaller(make_model()))
