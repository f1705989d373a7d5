"""What a stream inside ComfyUI honours, and what it refuses."""

from dataclasses import replace

import pytest
import torch
from rivulet.model_patches.geometry import Geometry
from rivulet.model_patches.stream.config import StreamConfig
from rivulet.model_patches.stream.model_caller import ModelCaller, texts
from rivulet.model_patches.stream.step import init, rollout
from rivulet.tests.host.loading import make_blocks
from rivulet.tests.host.streams import HostRun

CONFIG = StreamConfig(Geometry(32, 48), "pocket", 3, (1.0, 0.5), seed=5)
GUIDED = replace(CONFIG, cfg=2.5)
FREE_FOR_ONE_ROW, FREE_FOR_ALL = 0, 2**40


@pytest.fixture
def begun(load, prompt):
    """Returns a function that starts a stream on the plain checkpoint."""

    def of(config=CONFIG, model=None, positive=None, negative=None, **options):
        run = HostRun(model or load("plain"), positive or prompt(0), negative or prompt(1), config, **options)
        return run, run.begin()

    return of


def close(a, b):
    return torch.allclose(a, b, rtol=0, atol=1e-4 * b.abs().max().item())


def test_it_is_the_engines_own_stream(load, prompt, models, begun):
    from rivulet.model_patches.checkpoints.checkpoint import open_checkpoint

    caller = ModelCaller(open_checkpoint(models / "plain.safetensors").load(torch.float32))
    begin = init(caller, texts(prompt(0)[0][0], prompt(1)[0][0]), GUIDED)
    own = list(rollout(caller, begin, 5))
    state = own[-1][1]
    host, after = make_blocks(*begun(GUIDED), 5)
    raw = load("plain").model.process_latent_out(torch.cat([latents for latents, _ in own], 2))
    assert close(host, raw)
    assert after.cache.frames == state.cache.frames and after.start_frame == state.start_frame == 15


@pytest.mark.parametrize("free", [FREE_FOR_ONE_ROW, FREE_FOR_ALL], ids=["separate calls", "one batch"])
def test_guidance_is_the_same_in_one_batch_and_in_separate_calls(begun, monkeypatch, free):
    import comfy.model_patcher

    plain, _ = make_blocks(*begun(GUIDED), 2)
    calls = []
    from rivulet.nodes.host.block import HostPass

    real = HostPass.flow

    def spy(self, model, x, timestep, context, options, own):
        calls.append(tuple(options["cond_or_uncond"]))
        return real(self, model, x, timestep, context, options, own)

    monkeypatch.setattr(HostPass, "flow", spy)
    monkeypatch.setattr(comfy.model_patcher.ModelPatcher, "get_free_memory", lambda self, device: free)
    got, _ = make_blocks(*begun(GUIDED), 2)
    assert set(calls) == ({(1, 0)} if free else {(0,), (1,)})
    assert close(got, plain)


def test_the_users_attention_is_called_in_every_layer(load, prompt, stream):
    model, layers = load("plain").clone(), []

    def override(function, *args, transformer_options, **kwargs):
        layers.append(transformer_options.get("block_index"))
        return function(*args, transformer_options=transformer_options, **kwargs)

    usual, _ = stream(load("plain"), prompt(0), prompt(1), CONFIG)
    model.model_options["transformer_options"]["optimized_attention_override"] = override
    got, _ = stream(model, prompt(0), prompt(1), CONFIG)
    assert torch.equal(got, usual)
    # per block: two flows of two layers with two attentions each, and one layer to remember
    assert layers.count(0) >= 2 * (2 * 2 + 2) and layers.count(1) >= 2 * 2 * 2


def test_a_lora_under_the_stream_counts(load, prompt, stream):
    model = load("plain").clone()
    name = "diffusion_model.blocks.1.self_attn.v.weight"
    model.add_patches({name: ("diff", (torch.ones(128, 128) * 0.01,))}, 1.0)
    usual, _ = stream(load("plain"), prompt(0), prompt(1), CONFIG)
    patched, _ = stream(model, prompt(0), prompt(1), CONFIG)
    again, _ = stream(load("plain"), prompt(0), prompt(1), CONFIG)
    assert not close(patched, usual) and torch.equal(again, usual)


def test_a_compiled_model_streams_as_it_does_uncompiled(load, prompt, stream):
    from comfy_api.torch_helpers import set_torch_compile_wrapper

    model = load("plain").clone()
    # the backend changes no arithmetic: what is tested is that the node's wrapper lets ours through
    set_torch_compile_wrapper(model, backend="eager")
    compiled, _ = stream(model, prompt(0), prompt(1), GUIDED)
    usual, _ = stream(load("plain"), prompt(0), prompt(1), GUIDED)
    assert torch.equal(compiled, usual)


@pytest.mark.parametrize("call", [1, 2, 3], ids=["first step", "second step", "while remembering"])
def test_an_interruption_in_a_layer_rolls_the_block_back(begun, monkeypatch, call):
    import comfy.model_management as management

    made, state = begun()
    whole, _ = make_blocks(made, state, 3)
    made, state = begun()
    _, state = make_blocks(made, state, 1)
    layer, seen = made.caller.tree.blocks[1].self_attn.k, []
    real = layer.forward

    def stopped(x):
        seen.append(1)
        if len(seen) == call:
            raise management.InterruptProcessingException
        return real(x)

    monkeypatch.setattr(layer, "forward", stopped)
    with pytest.raises(management.InterruptProcessingException):
        made.step(state)
    monkeypatch.undo()
    assert "rivulet" not in made.caller.model.model_options["transformer_options"]
    rest, state = make_blocks(made, state, 2)
    assert torch.equal(rest, whole[:, :, 3:]) and state.block == 3


def test_a_shorter_take_begins_a_longer_one(begun):
    assert torch.equal(make_blocks(*begun(), 1)[0], make_blocks(*begun(), 2)[0][:, :, :3])


def test_a_new_prompt_changes_the_blocks_after_it(begun, prompt):
    usual, _ = make_blocks(*begun(), 2)
    made, state = begun()
    first, state = make_blocks(made, state, 1)
    second, _ = make_blocks(made, made.switch(state, prompt(9), "smooth"), 1)
    assert torch.equal(first, usual[:, :, :3]) and not close(second, usual[:, :, 3:])


def test_each_text_of_a_prompt_is_read_once_and_used_in_its_steps(begun, prompt, monkeypatch):
    from rivulet.nodes.host import block

    first, later = prompt(0), prompt(9)
    ranges = ({"start_percent": 0.0, "end_percent": 0.2}, {"start_percent": 0.2, "end_percent": 1.0})
    parts = [[text[0][0], more] for text, more in zip((first, later), ranges, strict=True)]
    read, real = [], block.read_text
    monkeypatch.setattr(block, "read_text", lambda tree, raw: read.append(raw[0].clone()) or real(tree, raw))
    got, _ = make_blocks(*begun(positive=parts), 2)
    assert len(read) == 2
    assert torch.equal(read[0], first[0][0]) and torch.equal(read[1], later[0][0])
    monkeypatch.undo()
    alone = [make_blocks(*begun(positive=text), 2)[0] for text in (first, later)]
    assert not any(close(got, other) for other in alone)


def test_the_model_is_left_as_it_was(load, prompt, stream):
    model = load("plain")
    before = dict(model.model_options["transformer_options"]) if model.model_options else {}
    stream(model, prompt(0), prompt(1), CONFIG)
    assert model.model_options.get("transformer_options", {}) == before and not model.wrappers


def test_a_model_without_what_it_needs_is_refused(load):
    from rivulet.nodes.host.tree import why_not

    class Lumina:
        patch_size, blocks = (1, 2, 2), ()

    assert "is a Lumina, which has no freq_dim" in why_not(Lumina())
    model = load("plain").model.diffusion_model
    assert why_not(model) is None
    model.ref_conv = torch.nn.Identity()
    try:
        assert "a model with a reference picture" in why_not(model)
    finally:
        model.ref_conv = None


def test_a_changed_forward_is_found_before_the_first_block(load, begun, monkeypatch):
    made, state = begun()
    head = made.caller.tree.head
    monkeypatch.setattr(head, "forward", lambda x, e: type(head).forward(head, x, e) * 1.5)
    with pytest.raises(RuntimeError, match="its forward and the model's own differ"):
        made.step(state)


def test_two_conditionings_on_one_side_are_refused(begun, prompt):
    made, state = begun(positive=prompt(0) + prompt(2))
    with pytest.raises(ValueError, match="more than one positive conditioning applies"):
        made.step(state)


def test_a_conditioning_that_does_not_cover_every_step_is_refused(begun, prompt):
    ((text, _),) = prompt(0)
    made, state = begun(positive=[[text, {"start_percent": 0.0, "end_percent": 0.3}]])
    with pytest.raises(ValueError, match="ran no positive conditioning in block 0"):
        made.step(state)


def test_block_patches_of_other_packs_are_refused(load, begun):
    model = load("plain").clone()
    model.set_model_patch(lambda arguments: arguments, "double_block")
    made, state = begun(model=model)
    with pytest.raises(ValueError, match=r"patches the model's blocks \(double_block\)"):
        made.step(state)


def test_nan_is_refused_and_nothing_is_kept(begun, prompt):
    whole, _ = make_blocks(*begun(), 2)
    made, state = begun()
    _, state = made.step(state)
    spoilt = made.switch(state, [[prompt(0)[0][0] * float("nan"), {}]], "smooth")
    with pytest.raises(RuntimeError, match=r"block 1 \(latent frames 3 to 5\) came out with NaN"):
        made.step(spoilt)
    latents, after = made.step(state)
    assert torch.equal(latents, whole[:, :, 3:]) and after.block == 2


def test_another_dtype_than_the_hosts_is_refused(begun):
    with pytest.raises(ValueError, match=r"ComfyUI runs this model in torch\.float32"):
        begun(replace(CONFIG, dtype=torch.bfloat16))


@pytest.mark.parametrize("weights", ["fp8_e4m3fn", "bfloat16"])
def test_weights_in_another_dtype_than_the_arithmetic(models, prompt, stream, weights):
    import comfy.sd
    from rivulet.nodes.host.caller import dtype_of

    import nodes

    if weights == "bfloat16":
        path = str(models / "plain.safetensors")
        model = comfy.sd.load_diffusion_model(path, model_options={"dtype": torch.bfloat16})
    else:
        (model,) = nodes.UNETLoader().load_unet("plain.safetensors", weights)
    config = replace(GUIDED, dtype=dtype_of(model))
    got, state = stream(model, prompt(0), prompt(1), config)
    assert state.cache.store.kv.dtype == config.dtype and got.isfinite().all() and got.std() > 0.1
    assert model.model.diffusion_model.blocks[0].ffn[0].weight.dtype == getattr(
        torch, weights, torch.float8_e4m3fn
    )


def test_the_pocket_model_streams_as_it_does_alone(comfyui, stream):
    from rivulet.nodes.host.recipe import FROM_MODEL, stream_config
    from rivulet.nodes.pocket_model import RivuletPocketModel
    from rivulet.pocket.models import load_pocket

    pocket = load_pocket()
    config = pocket.config(seed=4)
    state = pocket.begin(pocket.encode("a red circle on a green ground"), config)
    own = [latents for latents, _ in rollout(ModelCaller(pocket.dit), state, 3)]
    model, clip, _ = RivuletPocketModel.execute().result
    asked = stream_config(model, 64, 64, FROM_MODEL, 0, 0.0, seed=4)
    assert asked.first_sigmas == config.first_sigmas and len(asked.levels(0)) > len(asked.sigmas)
    assert not stream_config(model, 64, 64, FROM_MODEL, 0, 0.0, torch.tensor([1.0, 0.5, 0.0])).first_sigmas
    texts = (
        clip.encode_from_tokens_scheduled(clip.tokenize(said))
        for said in ("a red circle on a green ground", "")
    )
    got, _ = stream(model, *texts, config, blocks=3)
    assert close(got, model.model.process_latent_out(torch.cat(own, 2)))
