"""A plan's figures: against a stream that runs, and against sums done by hand."""

from dataclasses import replace

import pytest
import torch
from rivulet.model_patches.arch.wan import WanConfig, WanModel
from rivulet.model_patches.attention.text import read_text
from rivulet.model_patches.cache.cost import DENSE_COST
from rivulet.model_patches.geometry import Geometry
from rivulet.model_patches.memory.cost import FREE
from rivulet.model_patches.memory.encoder import EncoderConfig, MemoryEncoder
from rivulet.model_patches.memory.learned import cost_of
from rivulet.model_patches.plan.cost import Work
from rivulet.model_patches.plan.plan import Plan, Request, plan_stream
from rivulet.model_patches.plan.probe import Device
from rivulet.model_patches.sampler.schedule import PUBLISHED_TIMESTEPS, sigmas
from rivulet.model_patches.stream.config import StreamConfig
from rivulet.model_patches.stream.model_caller import ModelCaller, texts
from rivulet.model_patches.stream.pipeline import run, snapshot
from rivulet.model_patches.stream.step import init, step
from rivulet.model_patches.vae.cost import WanCost
from rivulet.model_patches.vae.decoder import VaeDecoder
from rivulet.model_patches.vae.past import KEPT_LATENTS, latents_for_past
from rivulet.model_patches.vae.wan import WanVAE
from rivulet.tests.engine.viewers.live import Watch

SIZES = WanConfig(dim=48, ffn_dim=80, num_layers=3, num_heads=2, text_dim=6)
STREAM = StreamConfig(Geometry(64, 48), "infinity_rope")
REQUEST = Request(SIZES, STREAM, fps=16, text_tokens=7, decoder=WanCost(4), vae_dtype=torch.float32)
WAN = Request(
    WanConfig(dim=1536, ffn_dim=8960, num_layers=30),
    StreamConfig(Geometry(832, 480), "videomla_7", dtype=torch.bfloat16),
    fps=16,
)


def started(config, sizes=SIZES):
    """Returns a caller of a model and its stream's state."""
    torch.manual_seed(0)
    caller = ModelCaller(WanModel(sizes).requires_grad_(False).eval())
    text = torch.randn(1, 7, sizes.text_dim)
    return caller, init(caller, texts(text, text * 0.5 if config.guided else None), config)


@pytest.mark.parametrize("cfg", [1.0, 2.0])
def test_what_stays_is_what_a_stream_holds(cfg):
    config = replace(STREAM, cfg=cfg)
    plan = plan_stream(replace(REQUEST, stream=config))
    caller, state = started(config)
    assert plan.weights_bytes == sum(p.nbytes for p in caller.tree.parameters())
    assert plan.cache_bytes == state.cache.bytes
    held = [*state.prompt, *(group.kv for group in read_text(caller.tree, state.prompt).groups)]
    assert plan.text_bytes == sum(tensor.nbytes for tensor in held)


def test_a_preset_that_keeps_everything_needs_the_length_and_gets_its_room():
    config = replace(STREAM, preset="self_forcing")
    with pytest.raises(ValueError, match=r"keeps every frame.*give a length, or take preset infinity_rope"):
        replace(REQUEST, stream=config)
    request = replace(REQUEST, stream=config, seconds=1.5)
    # 24 pictures are 7 latent frames, so 3 blocks of 3
    assert request.cache_frames == 9
    assert plan_stream(request).cache_bytes == DENSE_COST.allocated_bytes(
        request.cache_shape, 9, torch.float32
    )


def test_the_peak_of_a_block_is_the_plans_within_a_tenth():
    """A block also holds its latents, noise and time vectors, which a plan leaves out."""
    sizes = replace(SIZES, dim=768, ffn_dim=3072, num_heads=6, num_layers=1)
    config = replace(STREAM, geometry=Geometry(128, 64), sigmas=(1.0,))
    caller, state = started(config, sizes)
    for _ in range(2):
        _, state = step(caller, state)
    with Watch() as seen:
        step(caller, state)
    planned = plan_stream(replace(REQUEST, model=sizes, stream=config)).activation_bytes
    assert 0.9 < planned / seen.peak_bytes <= 1


@pytest.mark.parametrize(("name", "seconds"), [("infinity_rope", None), ("self_forcing", 2.0)])
def test_a_snapshot_is_as_large_as_planned(tmp_path, name, seconds):
    """A full window and all latents that are kept; and all 9 latent frames of 2 s."""
    config = replace(STREAM, preset=name, sigmas=(1.0,))
    caller, state = started(config)
    torch.manual_seed(0)
    vae = WanVAE(4).requires_grad_(False)
    decoder, path = VaeDecoder(vae), tmp_path / "take.safetensors"
    state = run(caller, decoder, state, [], blocks=3 if seconds else 16)
    request = replace(REQUEST, stream=config, seconds=seconds)
    snapshot(caller, state, [], path, decoder)
    said = path.read_bytes()
    size, planned = len(said) - 8 - int.from_bytes(said[:8], "little"), plan_stream(request).snapshot_bytes
    # of the newest latents, as many are stored as this block needs, at most all that are kept
    spared = state.tail_BCTHW[:, :, latents_for_past(decoder, state.start_frame, 3) :]
    assert size == planned - spared.nbytes
    assert spared.shape[2] == (0 if seconds else KEPT_LATENTS - 42)


def test_a_block_is_one_call_a_step_and_one_to_remember():
    calls = [sigmas(PUBLISHED_TIMESTEPS[:n]) for n in (1, 2, 3)]
    plans = [plan_stream(replace(REQUEST, stream=replace(STREAM, sigmas=levels))) for levels in calls]
    one, two, three = (plan.block.flops for plan in plans)
    assert two - one == three - two > 0
    assert plans[0].block.flops > plans[0].first_block.flops - 2 * 7 * (6 + 7 * 48) * 48


def test_real_sizes_give_the_published_sums():
    """VideoMLA (arXiv 2605.30351): 7 dense frames of Wan 1.3B at 832x480 take 2.01 GB."""
    plan = plan_stream(WAN)
    assert round(plan.cache_bytes / 1e9, 2) == 2.01
    assert round(plan.weights_bytes / 1e9, 2) == 2.84
    assert plan.chunk_bytes == 12 * 832 * 480 * 3 and plan.chunk_seconds == 0.75
    assert plan.video_bytes_per_hour == 832 * 480 * 16 * 3600 // 80


def test_sums_are_sums():
    plan = Plan(
        1, 2, 4, 8, 16, 0, 32, 64, 128, 256, 512, 7200, Work(10, 0, 0), Work(30, 0, 0), Work(0, 0, 8), 3
    )
    device = Device("card", matmul_flops=5, bytes_per_second=4)
    assert plan.resident_bytes == 63 and replace(plan, memory_bytes=7).resident_bytes == 70
    assert plan.device_bytes == 63 + 128
    assert replace(plan, activation_bytes=500).device_bytes == 63 + 500
    assert plan.ram_bytes == 6 * 512 + 256
    assert plan.disk_bytes(seconds=60) == 2 * 120 + 2 * 256
    assert plan.seconds_per_chunk(device) == 2 + 2
    assert plan.seconds_to_first_chunk(device) == 6 + 2


def test_blocks_longer_than_a_piece_are_decoded_in_pieces():
    longer = replace(STREAM, preset="pocket", block_frames=6)
    whole = plan_stream(replace(REQUEST, stream=longer))
    four = plan_stream(replace(REQUEST, stream=replace(longer, block_frames=4)))
    two = plan_stream(replace(REQUEST, stream=replace(longer, block_frames=2)))
    assert whole.decode == four.decode + two.decode
    assert whole.decode_bytes == four.decode_bytes > two.decode_bytes


@pytest.mark.parametrize(
    ("field", "value", "words"),
    [
        ("fps", 0, "fps must be above 0, got 0"),
        ("bits_per_pixel", -1.0, "bits_per_pixel must be above 0"),
        ("seconds", 0.0, "seconds must be above 0, or None"),
        ("seconds", float("inf"), "seconds must be above 0, or None"),
    ],
)
def test_what_cannot_be_is_refused(field, value, words):
    with pytest.raises(ValueError, match=words):
        replace(REQUEST, **{field: value})


def test_weights_and_pieces_as_a_host_keeps_them():
    kept = plan_stream(replace(WAN, weights_bytes=5, piece_latents=2))
    usual = plan_stream(WAN)
    assert kept.weights_bytes == 5 and kept.decode.flops == usual.decode.flops
    # three latents in pieces of two and one: the weights are read twice, the peak is that of two
    assert kept.decode.operand_bytes > usual.decode.operand_bytes and kept.decode_bytes < usual.decode_bytes


def test_a_memory_is_planned_as_it_is_held():
    """Encoder, both states, and the keys and values that a block makes of each."""
    grid = STREAM.geometry.grid_height, STREAM.geometry.grid_width
    sizes = EncoderConfig(SIZES.dim, SIZES.num_heads, 3, *grid)
    config = replace(STREAM, preset="pocket_memory")
    with_memory, without = (
        plan_stream(replace(REQUEST, stream=config, memory=memory)) for memory in (cost_of(sizes), FREE)
    )
    encoder = MemoryEncoder(sizes)
    state = encoder.fresh(1)
    kept = 2 * (state.nbytes + sum(part.nbytes for part in encoder.read(state)))
    held = sum(parameter.nbytes for parameter in encoder.parameters()) + kept
    assert with_memory.memory_bytes == held and without.memory_bytes == 0
    room = with_memory.workspace_bytes - without.workspace_bytes
    tokens = config.positions.capacity_frames * STREAM.geometry.frame_tokens
    # behind the frames, and the dense format copies its values beside a memory
    assert room == (2 * sizes.tokens + tokens) * SIZES.dim * 4
    assert with_memory.snapshot_bytes - without.snapshot_bytes == 2 * state.nbytes
    assert with_memory.block.flops > without.block.flops
