"""The memory in a host stream: the engine's own numbers, its LoRA through the host, and what is refused."""

import json
from dataclasses import replace

import pytest
import torch
from rivulet.model_patches.checkpoints.checkpoint import open_checkpoint
from rivulet.model_patches.geometry import Geometry
from rivulet.model_patches.memory.encoder import EncoderConfig, MemoryEncoder
from rivulet.model_patches.memory.policies import POLICIES
from rivulet.model_patches.stream.config import StreamConfig
from rivulet.model_patches.stream.model_caller import ModelCaller, texts
from rivulet.model_patches.stream.snapshot import load as load_take
from rivulet.model_patches.stream.snapshot import save
from rivulet.model_patches.stream.step import init, recache, rollout, step
from rivulet.model_patches.stream.switch import switch
from rivulet.model_patches.stream.timeline import MODES
from rivulet.tests.host.loading import make_blocks
from rivulet.tests.host.streams import HostRun
from rivulet.tests.host.test_cache_nodes import Clip
from safetensors.torch import save_file

BUILT_IN = "built in (Pocket Model)"
FILELESS = [kind.name for kind in POLICIES.values() if not kind.files]
CONFIG = StreamConfig(Geometry(32, 48), "pocket_memory", 3, (1.0, 0.5), seed=5)
LAYERS = [
    f"blocks.{i}.{name}"
    for i in range(2)
    for name in (
        *(f"{where}_attn.{part}" for where in ("self", "cross") for part in "qkvo"),
        "ffn.0",
        "ffn.2",
    )
]


@pytest.fixture(scope="session")
def memory_file(models):
    """Returns a file of a random encoder and LoRA for the tiny model, where the node looks for it."""
    generator = torch.Generator().manual_seed(8)
    encoder = MemoryEncoder(EncoderConfig(128, 2, 3, 3, 2))
    tensors = {
        f"query_memory_encoder.{name}": torch.randn(value.shape, generator=generator) * 0.1
        for name, value in encoder.state_dict().items()
    }
    for layer in LAYERS:
        wide = {"ffn.0": (128, 256), "ffn.2": (256, 128)}.get(layer.split(".", 2)[2], (128, 128))
        base = f"generator_lora.base_model.model.{layer}"
        tensors[f"{base}.lora_A.weight"] = torch.randn(4, wide[0], generator=generator) * 0.1
        tensors[f"{base}.lora_B.weight"] = torch.randn(wide[1], 4, generator=generator) * 0.1
    about = {"frames": 3, "grid_height": 3, "grid_width": 2, "num_heads": 2, "rank": 4, "alpha": 4}
    path = models / "memory.safetensors"
    save_file(tensors, path, {"memory": json.dumps(about | {"preset": "pocket_memory"})})
    return path


@pytest.fixture
def remembering(load, memory_file):
    """Returns a function that gives the plain checkpoint a memory through the node."""
    from rivulet.nodes.memory import RivuletMemory

    def remember(memory="learned", file="diffusion_models/memory.safetensors", from_start=False, keep=0.9):
        options = {"from_start": from_start, "ema_keep": keep}
        return RivuletMemory.execute(load("plain"), memory, file, **options).args[0]

    return remember


@pytest.fixture
def run(prompt):
    """Returns a function that streams a MODEL as Stream Video does: (latents, state, its `HostRun`)."""
    from rivulet.nodes.memory import memory_of

    def blocks(model, config=CONFIG, count=6, **options):
        policy = memory_of(model).policy_for(config, model.load_device)
        made = HostRun(model, prompt(0), prompt(1), config, memory=policy, **options)
        return *make_blocks(made, made.begin(), count), made

    return blocks


def close(a, b):
    # the same sums in another order, through two layers and eight calls a block
    return (a - b).abs().max() <= 2e-4 * b.abs().max()


@pytest.mark.parametrize("cfg", [1.0, 2.0])
def test_the_host_streams_what_the_engine_streams(models, memory_file, remembering, run, prompt, cfg):
    from rivulet.model_patches.memory.load import load_memory
    from rivulet.nodes.memory import memory_of

    config = replace(CONFIG, cfg=cfg)
    model = remembering()
    got, state, _ = run(model, config)
    dit = open_checkpoint(models / "plain.safetensors").load(torch.float32)
    file = load_memory(memory_file, dit)
    policy = memory_of(model).policy_for(config, torch.device("cpu"))
    own = ModelCaller(file.lora.merge(dit))
    negative = prompt(1)[0][0] if cfg != 1 else None
    begun = init(own, texts(prompt(0)[0][0], negative), config, memory=policy)
    made = list(rollout(own, begun, 6))
    assert close(got, model.model.process_latent_out(torch.cat([latents for latents, _ in made], 2)))
    assert close(state.memory.current, made[-1][1].memory.current)
    plain, _, _ = run(remembering("off", "none"), config)
    assert not close(plain[:, :, :3], got[:, :, :3])  # the LoRA is on


def test_the_users_attention_is_that_of_the_memorys_encoder(run, remembering):
    counts = []
    for memory in (("learned",), ("off", "none")):
        model, seen = remembering(*memory), []

        def override(function, *args, seen=seen, **kwargs):
            seen.append(args[0].shape)
            return function(*args, **kwargs)

        model.model_options["transformer_options"]["optimized_attention_override"] = override
        run(model, count=6)
        counts.append(len(seen))
    # three updates in six blocks, in two layers each
    assert counts[0] - counts[1] == 6


def test_without_a_lora_only_blocks_after_the_first_eviction_differ(load, stream, prompt, remembering):
    from rivulet.nodes.memory import memory_of

    policy = memory_of(remembering()).policy_for(CONFIG, torch.device("cpu"))
    parts = []
    for memory in ({}, {"memory": policy}):
        latents, _ = stream(load("plain"), prompt(0), prompt(1), CONFIG, blocks=6, **memory)
        parts.append(latents)
    assert torch.equal(parts[0][:, :, :12], parts[1][:, :, :12])
    assert not torch.equal(parts[0][:, :, 12:15], parts[1][:, :, 12:15])


def test_the_model_that_came_in_stays_as_it_was(load, run, remembering):
    before, _, _ = run(load("plain"), count=1)
    remembering()
    after, _, _ = run(load("plain"), count=1)
    assert torch.equal(before, after)


@pytest.mark.parametrize("memory", ["learned", "ema"])
@pytest.mark.parametrize("mode", MODES)
def test_a_take_goes_on_bit_for_bit_after_a_switch(run, remembering, prompt, tmp_path, memory, mode):
    from rivulet.nodes.memory import memory_of

    model = remembering() if memory == "learned" else remembering("ema", "none")
    _, state, made = run(model, count=5)
    _, state = made.step(made.switch(state, prompt(3), mode))
    save(made.caller, state, tmp_path / "take.safetensors")
    policy = memory_of(model).policy_for(CONFIG, model.load_device)
    again = HostRun(model, prompt(3), prompt(1), CONFIG, memory=policy)
    back = load_take(tmp_path / "take.safetensors", again.caller, CONFIG, **again.options)
    for _ in range(4):
        latents, state = made.step(state)
        others, back = again.step(back)
        assert torch.equal(latents, others)


@pytest.mark.parametrize("memory", ["learned", "ema"])
def test_what_fails_after_a_block_leaves_a_take_that_is_saved_and_goes_on(run, remembering, tmp_path, memory):
    """As where a decoder or a writer raises: the block is made, and the state before it is kept."""
    from rivulet.nodes.memory import memory_of

    model = remembering() if memory == "learned" else remembering("ema", "none")
    _, state, made = run(model, count=5)
    lost, _ = made.step(state)
    save(made.caller, state, tmp_path / "take.safetensors")
    policy = memory_of(model).policy_for(CONFIG, model.load_device)
    resumed = HostRun(model, made.prompt.positive, made.prompt.negative, CONFIG, memory=policy)
    back = load_take(tmp_path / "take.safetensors", resumed.caller, CONFIG, **resumed.options)
    latents, _ = resumed.step(back)
    again, _ = made.step(state)
    assert torch.equal(lost, latents) and torch.equal(lost, again)


@pytest.mark.parametrize("goes_on", [False, True])
def test_a_recache_of_the_host_is_that_of_the_engine(load, models, remembering, prompt, goes_on):
    from rivulet.model_patches.memory.learned import LearnedMemory
    from rivulet.nodes.memory import memory_of

    config = replace(CONFIG, preset="echo_std" if goes_on else "pocket_memory")
    encoder = memory_of(remembering()).source.encoder
    policy = LearnedMemory(encoder, "the same", turned=goes_on, recaches=not goes_on)
    host = HostRun(load("plain"), prompt(0), prompt(1), config, memory=policy)
    caller = ModelCaller(open_checkpoint(models / "plain.safetensors").load(torch.float32))
    state, own = host.begin(), init(caller, texts(prompt(0)[0][0]), config, memory=policy)
    for block in range(7):
        if block == 5:
            state = host.switch(state, prompt(3), "recache")
            own = recache(caller, switch(caller, own, texts(prompt(3)[0][0]), "recache"))
            assert close(state.memory.previous, own.memory.previous)
        latents, state = host.step(state)
        made, own = step(caller, own)
        assert close(latents, host.caller.to_vae(made))
        assert block < 3 or close(state.memory.current, own.memory.current)


def test_a_take_is_gone_on_with_by_the_memory_it_was_made_with(run, remembering, load, prompt, tmp_path):
    _, state, made = run(remembering(), count=1)
    save(made.caller, state, tmp_path / "take.safetensors")
    other = HostRun(load("plain"), prompt(0), prompt(1), CONFIG)
    with pytest.raises(ValueError, match=r"was made with memory learned, not off\."):
        load_take(tmp_path / "take.safetensors", other.caller, CONFIG)


def test_another_picture_size_gets_a_resampled_memory(run, remembering):
    latents, state, _ = run(remembering(), replace(CONFIG, geometry=Geometry(48, 48)))
    assert latents.isfinite().all() and state.memory.current.shape == (1, 3 * 3 * 3, 128)


def test_the_node_brings_the_positions_the_memory_needs(load, remembering):
    from rivulet.nodes.host import recipe

    assert recipe.recipe_of(remembering()).preset == "pocket_memory"
    assert recipe.recipe_of(load("plain")).preset == "infinity_rope"
    assert recipe.recipe_of(remembering("ema", "none")).preset == "infinity_rope"


@pytest.mark.parametrize(
    ("choice", "sentence"),
    [
        (
            ("learned", "none"),
            rf"learned needs the file of a memory trained .* needs none: {' or '.join(FILELESS)}",
        ),
        (("ema", "diffusion_models/memory.safetensors"), "ema uses no file, but memory_file is set"),
        (("vague", "none"), f"there is no 'vague'; choose one of {', '.join(POLICIES)}"),
        (("learned", "diffusion_models/none.safetensors"), "must be a file of models/rivulet"),
        (("learned", "diffusion_models/../../secret.pt"), "must be a file of models/rivulet"),
        (("learned", "diffusion_models/plain.safetensors"), "no memory encoder|encoder"),
    ],
)
def test_bad_choices_are_refused(remembering, choice, sentence):
    with pytest.raises(ValueError, match=sentence):
        remembering(*choice)


def test_off_is_as_without_the_node_whatever_file_is_chosen(remembering):
    from rivulet.nodes.memory import MemoryChoice, memory_of

    model = remembering("off")
    assert memory_of(model).source is None and memory_of(model).name == MemoryChoice().name
    assert not model.patches


def test_positions_the_memory_was_not_trained_with_are_refused(remembering, run):
    with pytest.raises(ValueError, match=r"preset infinity_rope has no ids for a memory; take preset"):
        run(remembering(), replace(CONFIG, preset="infinity_rope"))


def test_the_calibrated_cache_and_the_memory_together(remembering, run, tmp_path, monkeypatch):
    """Calibrate Cache sees the weights with the memory's LoRA, the encoder keys made again from latents."""
    import folder_paths
    from rivulet.nodes.calibrate import RivuletCalibrate
    from rivulet.nodes.small_cache import FOLDER, CacheChoice

    monkeypatch.setitem(folder_paths.folder_names_and_paths, FOLDER, ([str(tmp_path)], set()))
    model, plain = remembering(), remembering("off", "none")
    how = {"prompts": "one\ntwo\nthree\nfour", "name": "both", "width": 32, "height": 48, "blocks": 10}
    how |= {"bytes_per_token": 256, "error_percent": 0.0, "cfg": 1.0, "preset": "pocket_memory"}
    basis, _ = RivuletCalibrate.execute(model, Clip(), **how, num_frame_per_block=3, seed=0).args
    form = CacheChoice("latent", basis).format_for(CONFIG, model.get_model_object("diffusion_model"))
    exact, wanted, _ = run(model)
    latents, state, _ = run(model, cache=form)
    forgetful, _, _ = run(plain)
    assert state.format.name == "latent" and state.cache.shape.memory_tokens == 18
    assert 0 < (latents - exact).norm() < 0.1 * (forgetful - exact).norm()
    tokens, exact_tokens = state.memory.current, wanted.memory.current
    assert 0 < (tokens - exact_tokens).norm() < 0.1 * exact_tokens.norm()


def test_the_converted_pocket_model_streams_from_its_latents_with_the_memory_it_was_taught(comfyui, stream):
    """As in the engine: weights, latents, memory and positions are those of the built-in files."""
    from rivulet.model_patches.cache.mla import MlaFormat
    from rivulet.model_patches.memory.learned import LearnedMemory
    from rivulet.model_patches.memory.load import load_memory
    from rivulet.nodes.host import recipe
    from rivulet.nodes.memory import RivuletMemory, memory_of
    from rivulet.nodes.pocket_model import RivuletPocketModel
    from rivulet.pocket.models import MEMORY_FILE, MLA_MEMORY_FILE, WEIGHTS, load_pocket

    pocket = load_pocket(dit_file=MLA_MEMORY_FILE)
    file = load_memory(WEIGHTS / MEMORY_FILE, pocket.dit, torch.float32, model_memory=pocket.recipe.taught)
    config = replace(pocket.config(seed=4), preset="pocket_memory", sigmas=(1.0, 0.6), first_sigmas=())
    text, policy = (
        pocket.encode("a red circle on a green ground"),
        LearnedMemory(file.encoder, file.fingerprint),
    )
    form = MlaFormat.for_model(pocket.dit)
    caller = ModelCaller(pocket.dit)
    begun = init(caller, texts(text, pocket.no_text()), config, cache=form, memory=policy)
    own = list(rollout(caller, begun, 6))
    model, clip, _ = RivuletPocketModel.execute("VideoMLA's, for Evolving Memory").args
    model = RivuletMemory.execute(model, "learned", BUILT_IN).args[0]
    assert recipe.recipe_of(model).preset == "pocket_memory" and not model.patches
    said = [clip.encode_from_tokens_scheduled(t) for t in ("a red circle on a green ground", "")]
    memory = memory_of(model).policy_for(config, model.load_device)
    got, state = stream(model, *said, config, blocks=6, cache=form, memory=memory)
    wanted = model.model.process_latent_out(torch.cat([latents for latents, _ in own], 2))
    assert close(got, wanted) and close(state.memory.current, own[-1][1].memory.current)


def test_a_model_of_latents_that_was_taught_no_memory_or_another_is_refused_one(comfyui):
    from rivulet.nodes.host import recipe
    from rivulet.nodes.memory import RivuletMemory
    from rivulet.nodes.pocket_model import RivuletPocketModel

    model = RivuletPocketModel.execute("VideoMLA's, for Evolving Memory").args[0]
    recipe.set_recipe(model, replace(recipe.recipe_of(model), taught="0123456789abcdef0"))
    with pytest.raises(ValueError, match="the model was trained with 0123456789abcdef; take the memory"):
        RivuletMemory.execute(model, "learned", BUILT_IN)
    model = RivuletPocketModel.execute("VideoMLA's").args[0]
    with pytest.raises(ValueError, match="has VideoMLA's latents and was not trained to read a memory"):
        RivuletMemory.execute(model, "learned", BUILT_IN)


def test_the_built_in_memory_goes_with_the_built_in_model(comfyui):
    from rivulet.nodes.host import recipe
    from rivulet.nodes.memory import RivuletMemory, memory_of
    from rivulet.nodes.pocket_model import RivuletPocketModel

    model = RivuletMemory.execute(RivuletPocketModel.execute().args[0], "learned", BUILT_IN).args[0]
    assert recipe.recipe_of(model).preset == "pocket_memory" and memory_of(model).source.coverage == (40, 40)


def test_nan_in_the_memory_alone_is_refused_and_the_stream_goes_on_from_before(run, remembering):
    """The block is finite, what the encoder makes of the frames it pushes out is not."""
    model = remembering()
    _, expected, _ = run(model, count=4)  # the fourth block is the first that pushes frames out
    _, state, made = run(model, count=3)
    hook = state.policy.encoder.patcher.model.gate_linear.register_forward_hook(
        lambda *call: call[2] * float("nan")
    )
    with pytest.raises(RuntimeError, match=r"block 3 .* came out with NaN or infinite numbers in float32"):
        made.step(state)
    hook.remove()
    assert state.block == 3 and not state.memory.tensors()
    after = made.step(state)[1]
    assert torch.equal(after.memory.current, expected.memory.current)
