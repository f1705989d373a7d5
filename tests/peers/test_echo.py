"""Echo-Infinity's memory beside the released code, run as it is: see `echo` for what stands in for what."""

import io
import sys
from contextlib import redirect_stdout
from dataclasses import dataclass, field
from functools import cache, partial
from types import ModuleType, SimpleNamespace

import pytest
import torch
from rivulet.model_patches.arch.wan import WanConfig, WanModel
from rivulet.model_patches.attention.positions import PRESETS, plan
from rivulet.model_patches.cache.format import recache_call
from rivulet.model_patches.checkpoints.checkpoint import open_checkpoint
from rivulet.model_patches.geometry import Geometry
from rivulet.model_patches.memory.coupling import training_of
from rivulet.model_patches.memory.encoder import EncoderConfig, MemoryEncoder
from rivulet.model_patches.memory.learned import LearnedMemory
from rivulet.model_patches.memory.load import load_memory
from rivulet.model_patches.memory.policy import OFF
from rivulet.model_patches.sampler.noise import block_noise
from rivulet.model_patches.sampler.schedule import sigmas
from rivulet.model_patches.stream import model_caller
from rivulet.model_patches.stream.config import StreamConfig
from rivulet.model_patches.stream.step import init, step
from rivulet.model_patches.stream.switch import switch

from ..engine.memory.echo_files import LINEARS
from .echo import (
    CLASSES,
    FRAME,
    GRID,
    HEADS,
    LAYERS,
    MEMORY,
    RUNTIME,
    SIZES,
    VARIANT,
    WIDTH,
    Pipeline,
    fill,
    released,
    text,
    widen,
)
from .families import SHRINK

BLOCKS, SEED = 9, 11  # the first eviction is before block 4, ids stop growing at block 6
GEOMETRY = Geometry(width=16 * GRID[1], height=16 * GRID[0])
STREAMS = [("long", "general"), ("long", "compact"), ("std", "general")]
ROOM = 8  # times what SHRINK leaves of a float32 error: another order of sums


@pytest.fixture(scope="module")
def read(checkout):
    """Returns a reader of the released code."""
    with released(checkout("echo_infinity")) as reader, pytest.MonkeyPatch.context() as patch:
        widen(patch, reader)
        yield reader


def draw(block, call):
    """The stream's own noise, which the released pipeline is given as well."""
    return block_noise(SEED, block, call, GEOMETRY.latent_shape(3))


@dataclass
class Ours:
    """A stream of the engine: what of it can be laid beside a released rollout."""

    latents: list = field(default_factory=list)  # of each block [1, T, C, H, W]
    flows: list = field(default_factory=list)  # of the four noisy calls of each block [1, T, C, H, W]
    states: list = field(default_factory=list)  # of the memory, as the block's later calls saw it


@dataclass
class Theirs(Ours):
    """A released rollout in the same form."""

    @classmethod
    def of(cls, rollout, switches=()):
        """Without the pass in which the window is run again at a switch."""
        made, calls = cls(), iter(zip(rollout.flows, rollout.states, strict=True))
        for clean in rollout.latents.split(3, 1):
            if 3 * len(made.latents) in switches:
                next(calls)
            five = [next(calls) for _ in range(5)]
            made.latents.append(clean)
            made.flows += [flow for flow, _ in five[:4]]
            made.states.append(five[-1][1])
        assert next(calls, None) is None
        return made


@dataclass(frozen=True)
class Peer:
    """The released pipelines of all trainings and classes; each is made once, and runs once per question."""

    read: object
    patch: pytest.MonkeyPatch

    @cache  # noqa: B019 one object for the module
    def pipeline(self, training, kind, dtype):
        return Pipeline(self.read, training, kind, dtype, self.patch)

    @cache  # noqa: B019
    def run(self, training, kind, dtype, switches=()):
        """A rollout; its prints are of no interest."""
        with redirect_stdout(io.StringIO()):
            made = self.pipeline(training, kind, dtype).run(
                draw, BLOCKS, tuple(range(1, 2 + len(switches))), switches
            )
        return Theirs.of(made, switches)

    @cache  # noqa: B019
    def own_error(self, training, kind, dtype):
        """What rounding to dtype costs the released pipeline, beside itself in float64."""
        return far(self.run(training, kind, dtype), self.run(training, kind, torch.float64))


@pytest.fixture(scope="module")
def peer(read):
    """Returns the released pipelines."""
    with pytest.MonkeyPatch.context() as patch:
        yield Peer(read, patch)


def inner(module):
    """(weights of the transformer, of the encoder) in the state of a released model."""
    prefix, weights = "query_memory_encoder.", module.state_dict()
    encoder = {key.removeprefix(prefix): value for key, value in weights.items() if key.startswith(prefix)}
    return {key: value for key, value in weights.items() if not key.startswith(prefix)}, encoder


def ours(patch, pipeline, switches=(), memory=True):
    """The engine's stream of the pipeline's weights; switches: first frames under prompts 2, 3, ..."""
    dtype, made, forward = pipeline.dtype, Ours(), model_caller.forward
    sizes = {key: SIZES[key] for key in ("dim", "ffn_dim", "num_layers", "num_heads", "text_dim", "freq_dim")}
    model = WanModel(WanConfig(**sizes)).to(dtype)
    preset = PRESETS["echo" if pipeline.training == "long" else "echo_std"]
    encoder = MemoryEncoder(EncoderConfig(WIDTH, HEADS, 3, *GRID, normalize_keys=preset.last_id is None))
    for module, weights in zip((model, encoder.to(dtype)), inner(pipeline.model), strict=True):
        module.requires_grad_(False).load_state_dict(weights)
    training = training_of(encoder.config)
    policy = LearnedMemory(encoder, "peer", turned=training.rotated_keys, recaches=training.recache)

    def watched(*inputs):
        made.flows.append(forward(*inputs).transpose(1, 2))
        return made.flows[-1].transpose(1, 2)

    config = StreamConfig(GEOMETRY, preset, seed=SEED, dtype=dtype)
    caller = model_caller.ModelCaller(model)
    state = init(caller, (text(1, dtype),), config, memory=policy if memory else OFF)
    with patch.context() as inside:
        inside.setattr(model_caller, "forward", watched)
        for start in range(0, 3 * BLOCKS, 3):
            if start in switches:
                state = switch(caller, state, (text(2 + switches.index(start), dtype),), "recache")
            clean, state = step(caller, state)
            made.latents.append(clean.transpose(1, 2))
            made.states.append(state.memory.previous)
    return made


def far(one, other):
    """The greatest difference of each list; where one has nothing yet the other must have nothing."""

    def of(a_list, b_list):
        assert [a is None for a in a_list] == [b is None for b in b_list]
        pairs = [(a, b) for a, b in zip(a_list, b_list, strict=True) if a is not None]
        return max((a.double() - b.double()).abs().max().item() for a, b in pairs)

    return {name: of(getattr(one, name), getattr(other, name)) for name in ("latents", "flows", "states")}


def within(bounds, found, share):
    return all(found[name] <= share * bounds[name] for name in bounds)


@pytest.mark.parametrize(("training", "kind"), STREAMS)
def test_every_call_of_a_stream_equals_the_released_pipeline(peer, monkeypatch, training, kind):
    pipeline = peer.pipeline(training, kind, torch.float64)
    theirs = peer.run(training, kind, torch.float64)
    assert [state is None for state in theirs.states] == [block < 4 for block in range(BLOCKS)]
    own, found = peer.own_error(training, kind, torch.float32), far(ours(monkeypatch, pipeline), theirs)
    assert within(own, found, ROOM * SHRINK), (own, found)
    # what would be seen if the memory were left out: nothing before the second call of block 4, then much
    without = ours(monkeypatch, pipeline, memory=False)
    differs = [(a - b).abs().max().item() for a, b in zip(theirs.flows, without.flows, strict=True)]
    assert [found > 1e3 * own["flows"] for found in differs] == [call > 16 for call in range(4 * BLOCKS)]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("training", ["long", "std"])
def test_rounding_costs_no_more_than_it_costs_the_released_pipeline(peer, monkeypatch, training, dtype):
    pipeline, exact = peer.pipeline(training, "general", dtype), peer.run(training, "general", torch.float64)
    own, found = peer.own_error(training, "general", dtype), far(ours(monkeypatch, pipeline), exact)
    assert within(own, found, 2), (own, found)


@pytest.mark.parametrize("switches", [(3,), (15, 21)], ids=str)
@pytest.mark.parametrize(("training", "kind"), STREAMS)
def test_a_recache_equals_the_released_one(peer, monkeypatch, training, kind, switches):
    pipeline = peer.pipeline(training, kind, torch.float64)
    theirs = peer.run(training, kind, torch.float64, switches)
    own = peer.own_error(training, kind, torch.float32)
    found = far(ours(monkeypatch, pipeline, switches), theirs)
    assert within(own, found, ROOM * SHRINK), (own, found)


def hold_sink(pipe):
    """A recache that begins at frame 0 gets the sink it has, as one that begins later does."""
    wide, tokens = [], 3 * FRAME

    def watched(module, inputs, options):
        wide[:] = [options["noisy_image_or_video"].shape[1] > 3 and options["current_start"] == 0]

    def held(module, inputs, output, layer, part):
        if not wide[0]:
            return output
        return torch.cat([pipe.kv_cache1[layer][part][:, :tokens].flatten(2), output[:, tokens:]], 1)

    hooks = [pipe.generator.register_forward_pre_hook(watched, with_kwargs=True)]
    for layer, block in enumerate(pipe.generator.model.blocks):
        own = block.self_attn
        hooks.append(own.norm_k.register_forward_hook(partial(held, layer=layer, part="k")))
        hooks.append(own.v.register_forward_hook(partial(held, layer=layer, part="v")))
    return hooks


def test_a_recache_in_the_first_window_differs_by_the_sink_that_is_shown(peer, monkeypatch):
    """The released pass from frame 0 shows the frames a sink under the new prompt, then puts the old back."""
    pipeline = peer.pipeline("long", "general", torch.float64)
    own = peer.own_error("long", "general", torch.float32)
    made = ours(monkeypatch, pipeline, (12,))
    found = far(made, peer.run("long", "general", torch.float64, (12,)))
    assert found["flows"] > 100 * own["flows"], found
    hooks = hold_sink(pipeline.pipe)
    try:
        with redirect_stdout(io.StringIO()):
            held = Theirs.of(pipeline.run(draw, BLOCKS, (1, 2), (12,)), (12,))
    finally:
        for hook in hooks:
            hook.remove()
    assert within(own, far(made, held), ROOM * SHRINK)


@pytest.mark.parametrize("start", [6, 9])
def test_a_recache_before_there_are_ids_fails_there_and_goes_on_here(peer, monkeypatch, start):
    pipeline = peer.pipeline("long", "general", torch.float64)
    with redirect_stdout(io.StringIO()), pytest.raises(AssertionError, match="memory overlaps sink"):
        pipeline.run(draw, BLOCKS, (1, 2), (start,))
    made = ours(monkeypatch, pipeline, (start,))
    assert all(flow.isfinite().all() for flow in made.flows)


def test_the_ids_are_those_of_the_released_table(read):
    table = read(f"{VARIANT}.causal_model:CausalWanSelfAttention")._compute_relative_positions
    sizes, echo = {"N_S": 3, "pmax": 21, "num_frame_per_block": 3}, PRESETS["echo"]
    for start in range(0, 300, 3):
        local = min(9, start)  # attended frames that are no sink, the block's own included
        for updated in (False, True):
            ids = plan(echo, start, 3, memory_visible=updated)
            shown = updated and start >= 12
            their = table(start, 3, local, 3 * shown, **sizes)
            assert ids.query == tuple(range(their["q_start"], their["q_last"] + 1))
            assert ids.window == (tuple(range(their["local_start"], their["local_end"] + 1)) if local else ())
            assert ids.memory == (tuple(range(their["mem_start"], their["mem_end"] + 1)) if shown else ())
        if start > 3:
            call, again = recache_call(echo, start, 3), min(12, start)
            their = table(start - again, again, again - 3, 3, **sizes)
            assert not their["use_memory"] and call.memory_ids == ()
            assert call.query_ids == tuple(range(their["local_start"], their["local_end"] + 1))
            assert their["q_last"] == call.query_ids[-1]


@pytest.mark.parametrize("normed", [False, True])
def test_the_encoder_equals_the_released_one(read, normed):
    made = read(f"{RUNTIME}.model.query_memory:QueryMemoryEncoder")
    theirs = {
        dtype: fill(made(SimpleNamespace(**MEMORY, normalize_memory_k=normed))).to(dtype)
        for dtype in (torch.float32, torch.float64)
    }
    mine = MemoryEncoder(EncoderConfig(WIDTH, HEADS, 3, *GRID, normalize_keys=normed)).double()
    mine.requires_grad_(False).load_state_dict(theirs[torch.float64].state_dict())
    state = mine.fresh(2)
    for encoder in theirs.values():
        encoder.reset(2)
    assert torch.equal(state, theirs[torch.float64].query_state)
    # one block, the nine frames of a recache, one frame
    for count in (3, 9, 1):
        keys, values = torch.randn(2, 2, count * FRAME, HEADS, 128)
        for dtype, encoder in theirs.items():
            encoder.update(keys.to(dtype), values.to(dtype))
        state = mine.update(state, keys.double(), values.double())
        coarse, fine = ((encoder.query_state, *encoder.get_kv()) for encoder in theirs.values())
        for rough, exact, own in zip(coarse, fine, (state, *mine.read(state)), strict=True):
            error = (rough.double() - exact).abs().max().item()
            assert (own - exact).abs().max().item() <= ROOM * SHRINK * error
            assert exact.abs().max() > 0.1


@pytest.mark.parametrize("wrapped", ["", "_fsdp_wrapped_module."])
@pytest.mark.parametrize("training", ["long", "std"])
def test_a_file_that_the_released_classes_make_is_read_whole(peer, tmp_path, training, wrapped):
    generator = peer.pipeline(training, "general", torch.float32).pipe.generator
    weights = {key.replace("model.", f"model.{wrapped}", 1): v for key, v in generator.state_dict().items()}
    path = tmp_path / "echo_infinity.pt"
    torch.save({"generator": weights, "step": 400}, path)
    model = open_checkpoint(path).load()
    memory = load_memory(path, model, grid=(3, *GRID))
    for module, expected in zip((model, memory.encoder), inner(generator.model), strict=True):
        read = module.state_dict()
        assert read.keys() == expected.keys()
        assert all(torch.equal(read[key], expected[key]) for key in read)
    assert memory.encoder.config.normalize_keys == (training == "std") and memory.names.unused == ()


def test_a_file_of_lora_and_encoder_is_read_whole(peer, tmp_path):
    model = peer.pipeline("long", "general", torch.float32).pipe.generator.model
    weights, encoder = inner(model)
    base, path, lora = tmp_path / "base.pt", tmp_path / "lora.pt", {}
    torch.save({"generator": {f"model.{key}": value for key, value in weights.items()}}, base)
    for layer in targets(peer.read, model):
        out, into = weights[f"{layer}.weight"].shape
        lora[f"base_model.model.{layer}.lora_A.weight"] = torch.randn(4, into)
        lora[f"base_model.model.{layer}.lora_B.weight"] = torch.randn(out, 4)
    stored = {"generator_lora": lora, "query_memory_encoder": model.query_memory_encoder.state_dict()}
    torch.save(stored, path)
    memory = load_memory(path, open_checkpoint(base).load(), grid=(3, *GRID))
    assert memory.encoder.state_dict().keys() == encoder.keys()
    assert memory.coverage == (10 * LAYERS, 10 * LAYERS) and memory.lora.ranks == (4,)


def targets(read, model):
    """The layers that the released code puts a LoRA on."""
    chosen, peft = [], ModuleType("peft")
    peft.LoraConfig, peft.get_peft_model = SimpleNamespace, lambda model, options: chosen.append(options)
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, "peft", peft)
        configure = read(f"{RUNTIME}.utils.lora_utils:configure_lora_for_model")
        patch.setitem(configure.__globals__, "peft", peft)
        configure(model, "generator", {"rank": 4}, False)
    return sorted(chosen[0].target_modules)


def test_the_lora_goes_on_ten_layers_of_each_block(peer):
    model = peer.pipeline("long", "general", torch.float32).model
    expected = {f"blocks.{block}.{layer}" for block in range(LAYERS) for layer in LINEARS}
    assert targets(peer.read, model) == sorted(expected)


def test_names_and_shapes_at_the_published_sizes(read):
    sizes = {"dim": 1536, "ffn_dim": 8960, "num_heads": 12, "num_layers": 30}
    with torch.device("meta"):
        theirs = read(CLASSES["general"])(**sizes, local_attn_size=12, sink_size=3)
        model = WanModel(WanConfig(**sizes))
        for normed in (False, True):
            theirs.setup_memory_encoder({"tokens_per_frame": 30 * 52, "normalize_memory_k": normed})
            encoder = MemoryEncoder(EncoderConfig(1536, 12, 3, 30, 52, normalize_keys=normed))
            for module, expected in zip((model, encoder), inner(theirs), strict=True):
                shapes = {key: value.shape for key, value in module.state_dict().items()}
                assert shapes == {key: value.shape for key, value in expected.items()}


def test_the_noise_levels_are_the_released_ones(peer):
    steps = peer.pipeline("long", "general", torch.float64).pipe.denoising_step_list
    torch.testing.assert_close(steps / 1000, torch.tensor(sigmas(), dtype=torch.float64), rtol=1e-15, atol=0)
