"""Texts that change on their way to the model, though the host's name of the conditioning stays."""

from types import SimpleNamespace

import pytest
import torch
from rivulet.model_patches.geometry import Geometry
from rivulet.model_patches.stream.config import StreamConfig
from rivulet.tests.host.loading import make_blocks
from rivulet.tests.host.streams import HostRun

CONFIG = StreamConfig(Geometry(32, 48), "pocket", 3, (1.0, 0.5), seed=5)
CALLS = 3  # of the model in a block: two noise levels and timestep 0
KEY = "diffusion_model.blocks.1.cross_attn.k.weight"


def outer(model, kind, change):
    """A clone of the MODEL with something of another node around its calls."""
    from comfy.patcher_extension import WrappersMP

    clone = model.clone()
    if kind == "function":

        def function(apply_model, given):
            more = given["c"] | {"c_crossattn": change(given["c"]["c_crossattn"])}
            return apply_model(given["input"], given["timestep"], **more)

        clone.set_model_unet_function_wrapper(function)
    elif kind == "apply_model":

        def around(executor, x, t, c_concat=None, c_crossattn=None, *more, **named):
            return executor(x, t, c_concat, change(c_crossattn), *more, **named)

        clone.add_wrapper_with_key(WrappersMP.APPLY_MODEL, "other", around)
    elif kind == "diffusion_model":

        def inside(executor, x, timestep, context, *more, **named):
            return executor(x, timestep, change(context), *more, **named)

        clone.add_wrapper_with_key(WrappersMP.DIFFUSION_MODEL, "other", inside)
    else:

        def batch(executor, model, conds, x, timestep, options):
            return executor(model, [changed(side) for side in conds], x, timestep, options)

        def changed(side):
            parts = []
            for each in side or []:
                cond = each["model_conds"]["c_crossattn"]
                text = {"c_crossattn": cond._copy_with(change(cond.cond))}
                parts.append(each | {"model_conds": each["model_conds"] | text})
            return parts or side

        clone.add_wrapper_with_key(WrappersMP.CALC_COND_BATCH, "other", batch)
    return clone


@pytest.fixture
def reads(monkeypatch):
    """Returns a list that grows with every text of which keys and values are made."""
    from rivulet.nodes.host import block

    made, real = [], block.read_text
    monkeypatch.setattr(block, "read_text", lambda tree, raw: made.append(raw[0].clone()) or real(tree, raw))
    return made


@pytest.mark.parametrize("kind", ["function", "apply_model", "diffusion_model", "calc_cond_batch"])
def test_a_text_that_is_changed_on_its_way_is_read_anew(load, prompt, reads, kind):
    first, later, now = prompt(0), prompt(7), SimpleNamespace(text=None)
    model = outer(load("plain"), kind, lambda text: text if now.text is None else now.text.to(text))
    run = HostRun(model, first, prompt(1), CONFIG)
    begin, state = make_blocks(run, run.begin(), 2)
    now.text = later[0][0]
    end, _ = make_blocks(run, state, 2)
    assert len(reads) == 4 * CALLS
    plain = HostRun(load("plain"), first, prompt(1), CONFIG)
    reads.clear()
    expected, state = make_blocks(plain, plain.begin(), 2)
    assert torch.equal(begin, expected) and len(reads) == 1
    assert torch.equal(end, make_blocks(plain, plain.switch(state, later, "smooth"), 2)[0])


def hooked(shape):
    """A hook that weakens a layer's keys of the text from the second noise level on."""
    import comfy.hooks

    hook = comfy.hooks.WeightHook(strength_model=1.0, strength_clip=0.0)
    hook.weights = {KEY: ("diff", (torch.ones(shape) * 0.3,))}
    hook.need_weight_init = False
    frames = comfy.hooks.HookKeyframeGroup()
    frames.add(comfy.hooks.HookKeyframe(1.0, start_percent=0.0))
    frames.add(comfy.hooks.HookKeyframe(0.0, start_percent=0.1))
    hook.hook_keyframe = frames
    group = comfy.hooks.HookGroup()
    group.add(hook)
    return group


def test_the_layers_that_read_a_text_may_change_by_the_hosts_hooks(load, prompt, monkeypatch):
    from rivulet.nodes.host import block

    model, made, real = load("plain"), [], block.read_text

    def watched(tree, raw):
        made.append(tree.blocks[1].cross_attn.k.weight.clone())
        return real(tree, raw)

    monkeypatch.setattr(block, "read_text", watched)
    weight = model.get_model_object("diffusion_model").blocks[1].cross_attn.k.weight.clone()
    text = [[prompt(0)[0][0], {"hooks": hooked(weight.shape)}]]
    run = HostRun(model, text, prompt(1), CONFIG)
    run.step(run.begin())
    changed = [not torch.equal(each, weight) for each in made]
    assert changed == [True, False, False]


def test_what_the_hosts_compiler_puts_around_a_model_costs_no_reading(load, prompt, reads):
    from comfy.patcher_extension import WrappersMP

    model = load("plain").clone()
    model.add_wrapper_with_key(WrappersMP.APPLY_MODEL, "torch.compile", lambda go, *a, **more: go(*a, **more))
    run = HostRun(model, prompt(0), prompt(1), CONFIG)
    make_blocks(run, run.begin(), 2)
    assert len(reads) == 1
