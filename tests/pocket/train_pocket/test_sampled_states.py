"""Grading where the sampler leads: the walk is the engine's own, what is wanted there leads to the truth."""

from dataclasses import dataclass

import pytest
import torch
from rivulet.model_patches.arch.wan import WanConfig, WanModel
from rivulet.model_patches.geometry import Geometry
from rivulet.model_patches.stream.config import StreamConfig
from rivulet.model_patches.stream.model_caller import ModelCaller
from rivulet.model_patches.stream.step import init, step
from rivulet.pocket.replay import replay
from rivulet.pocket.text import TEXT_DIM, encode
from rivulet.pocket.train_pocket import sampled_states
from rivulet.pocket.train_pocket.sampled_states import SampledWalk, beside, grade, own_past
from rivulet.pocket.train_pocket.teacher_forcing import TeacherForcing

BLOCK_FRAMES, BLOCKS, LEVELS = 3, 3, (1.0, 0.9, 0.7, 0.4)
CPU = torch.device("cpu")


@dataclass(frozen=True)
class Given:
    """A clip's noise, block by block."""

    clip: torch.Tensor

    def draw(self, block, step, start_frame, like_BCTHW):
        return self.clip[:, :, start_frame : start_frame + BLOCK_FRAMES]


def in_float32(teacher):
    """The teacher without autocast's bfloat16: what is compared is the walk, not the rounding."""

    def flow(*arguments):
        with torch.autocast("cpu", enabled=False):
            return teacher(*arguments)

    return flow


@torch.inference_mode()
def test_every_block_is_made_as_the_engine_makes_it_behind_the_same_past(monkeypatch):
    monkeypatch.setattr(sampled_states, "AGAIN_SHARE", 0.0)
    dit = WanModel(WanConfig(24, 32, 2, num_heads=2, text_dim=TEXT_DIM))
    torch.nn.init.normal_(dit.head.head.weight, std=0.2)
    past = torch.randn(1, 16, BLOCKS * BLOCK_FRAMES, 8, 8)
    text = encode("a red circle on a green ground")
    walk = SampledWalk(
        in_float32(TeacherForcing(dit, BLOCKS, BLOCK_FRAMES, grid=4)), LEVELS, BLOCK_FRAMES, CPU
    )
    told, shown = text[:, None].expand(-1, 2, -1, -1), torch.zeros(1, BLOCKS, dtype=torch.long)
    states, made = walk(past, told, shown, torch.Generator().manual_seed(3))
    noise = torch.randn(past.shape, generator=torch.Generator().manual_seed(3))
    assert len(states) == len(LEVELS) and torch.equal(states[0], noise)
    config = StreamConfig(Geometry(64, 64), "pocket", BLOCK_FRAMES, LEVELS, fresh_noise=False)
    caller = ModelCaller(dit)
    state = init(caller, (text,), config)
    for block in range(BLOCKS):
        frames = slice(block * BLOCK_FRAMES, (block + 1) * BLOCK_FRAMES)
        latents, _ = step(caller, state, noise=Given(noise))
        # four calls of two layers, in float32: each call's error is carried to the end
        bound = 2**9 * torch.finfo(torch.float32).eps * latents.abs().max().item()
        assert (made[:, :, frames] - latents).abs().max().item() < bound
        state = replay(caller, state, past[:, :, frames])


def test_from_a_graded_state_the_wanted_flow_leads_to_the_truth():
    generator = torch.Generator().manual_seed(0)
    clean, *states = torch.randn(5, 4, 16, BLOCKS * BLOCK_FRAMES, 2, 2).double()
    graded = grade(states, LEVELS, clean, BLOCK_FRAMES, generator)
    sigma = graded.sigma_BN.repeat_interleave(BLOCK_FRAMES, 1)[:, None, :, None, None]
    torch.testing.assert_close(graded.noisy - sigma * graded.wanted, clean)
    assert set(graded.sigma_BN.flatten().tolist()) <= {torch.tensor(level).item() for level in LEVELS[1:]}
    for block in range(BLOCKS):  # the state is that of the level it is graded at
        frames = slice(block * BLOCK_FRAMES, (block + 1) * BLOCK_FRAMES)
        for clip in range(4):
            call = LEVELS.index(pytest.approx(graded.sigma_BN[clip, block].item()))
            assert torch.equal(graded.noisy[clip, :, frames], states[call][clip, :, frames])
    assert not graded.weight[:, :, :BLOCK_FRAMES].any() and graded.weight[:, :, BLOCK_FRAMES:].all()


def test_the_last_copy_alone_gives_way_to_the_graded_states():
    clean, *states = torch.randn(5, 2, 16, BLOCKS * BLOCK_FRAMES, 2, 2)
    graded = grade(states, LEVELS, clean, BLOCK_FRAMES, torch.Generator().manual_seed(0))
    noisy, wanted = torch.randn(2, 2, 2, *clean.shape[1:])
    sigma = torch.rand(2, 2, BLOCKS)
    both = beside(noisy, wanted, sigma, graded)
    assert torch.equal(both[0][:, 0], noisy[:, 0]) and torch.equal(both[0][:, 1], graded.noisy)
    assert torch.equal(both[1][:, 1], graded.wanted) and torch.equal(both[2][:, 1], graded.sigma_BN)
    assert both[3][:, 0].unique().tolist() == [1.0] and torch.equal(both[3][:, 1], graded.weight)


def test_a_first_block_of_the_past_stays_as_it_was_given():
    given, made = (
        torch.zeros(64, 1, BLOCKS * BLOCK_FRAMES, 1, 1),
        torch.ones(64, 1, BLOCKS * BLOCK_FRAMES, 1, 1),
    )
    past = own_past(given, made, BLOCK_FRAMES, torch.Generator().manual_seed(0))
    assert not past[:, :, :BLOCK_FRAMES].any()
    share = past[:, :, BLOCK_FRAMES:].mean().item()
    assert 0.5 < share < 0.9
    assert all(len(block.unique()) == 1 for clip in past for block in clip[0].split(BLOCK_FRAMES))
