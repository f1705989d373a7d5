"""A plan of a stream whose blocks are denoised together, against one that runs."""

from dataclasses import replace

import pytest
import torch
from rivulet.model_patches.geometry import Geometry
from rivulet.model_patches.plan.cost import CallSizes, cache_write_work, embed_time_work, forward_work
from rivulet.model_patches.plan.plan import plan_stream
from rivulet.model_patches.plan.probe import Device
from rivulet.model_patches.plan.verdict import judge, moved_bytes
from rivulet.model_patches.stream.config import StreamConfig
from rivulet.model_patches.stream.pipeline import run, snapshot
from rivulet.model_patches.stream.step import step
from rivulet.model_patches.vae.decoder import VaeDecoder
from rivulet.model_patches.vae.past import latents_for_past
from rivulet.model_patches.vae.wan import WanVAE
from rivulet.tests.engine.plan.test_plan import REQUEST, SIZES, WAN, started
from rivulet.tests.engine.viewers.live import Watch

LEVELS = (1.0, 0.8, 0.5)
STREAM = StreamConfig(Geometry(64, 48), "rolling_forcing", sigmas=LEVELS, sampler="rolling")
PLANNED = replace(REQUEST, stream=STREAM)


def test_the_peak_of_a_block_is_the_plans():
    """A block also holds its latents, noise and time vectors, which a plan leaves out."""
    sizes = replace(SIZES, dim=768, ffn_dim=3072, num_heads=6, num_layers=1)
    config = replace(STREAM, geometry=Geometry(128, 64))
    caller, state = started(config, sizes)
    for _ in range(8):
        _, state = step(caller, state)
    with Watch() as seen:
        step(caller, state)
    planned = plan_stream(replace(PLANNED, model=sizes, stream=config)).activation_bytes
    assert 0.9 < planned / seen.peak_bytes <= 1.1


def test_a_snapshot_is_as_large_as_planned(tmp_path):
    caller, state = started(STREAM)
    decoder, path = VaeDecoder(WanVAE(4).requires_grad_(False)), tmp_path / "take.safetensors"
    state = run(caller, decoder, state, [], blocks=16)
    snapshot(caller, state, [], path, decoder)
    said = path.read_bytes()
    size, planned = len(said) - 8 - int.from_bytes(said[:8], "little"), plan_stream(PLANNED).snapshot_bytes
    spared = state.tail_BCTHW[:, :, max(latents_for_past(decoder, state.start_frame, 3), 21) :]
    assert size == planned - spared.nbytes
    assert state.under_way_BCTHW.nbytes == 6 * 16 * 6 * 8 * 4


def test_a_block_is_one_call_over_all_blocks_and_one_to_remember():
    tokens, plan = STREAM.geometry.frame_tokens, plan_stream(PLANNED)

    def call(query, attended):
        return CallSizes(1, query * tokens, attended * tokens, 7, torch.float32)

    remember = embed_time_work(SIZES, 4) + cache_write_work(SIZES, call(3, 21))
    assert plan.block == forward_work(SIZES, call(9, 21)) + remember
    growing = sum((forward_work(SIZES, call(n, n)) for n in (3, 6, 9)), embed_time_work(SIZES, 4))
    first = growing + cache_write_work(SIZES, call(3, 3))
    assert plan.first_block.flops > first.flops > plan.first_block.flops - 3 * 7 * (6 + 7 * 48) * 48


def test_weights_that_have_no_room_are_copied_twice_a_block():
    wan = replace(WAN, stream=replace(STREAM, geometry=Geometry(832, 480), dtype=torch.bfloat16))
    card = Device("a card", free_bytes=0, matmul_flops=1e14, bytes_per_second=1e12)
    assert moved_bytes(wan, card) == 2 * plan_stream(wan).weights_bytes


@pytest.mark.parametrize("share", [0.2, 0.6, 0.9])
def test_a_card_that_is_too_small_is_judged_and_no_proposal_cannot_be_run(share):
    wan = replace(WAN, stream=replace(STREAM, geometry=Geometry(832, 480), dtype=torch.bfloat16))
    needed = plan_stream(wan).device_bytes
    card = Device("a card", 1e14, 1e12, free_bytes=round(share * needed))
    judged = judge(wan, card)
    assert judged.lines and "rolling" not in judged.lines[0]
