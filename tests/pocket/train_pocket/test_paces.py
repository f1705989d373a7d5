"""Clips whose blocks have paces of their own, and a training that grades those of the world's speed alone."""

from dataclasses import replace

import pytest
import torch
from rivulet.model_patches.arch.wan import WanConfig, WanModel
from rivulet.pocket import world
from rivulet.pocket.text import TEXT_DIM
from rivulet.pocket.train_pocket.clips import PairedClips, draw_clips
from rivulet.pocket.train_pocket.dit import PocketTraining, Trainer, graded_weight
from rivulet.pocket.train_pocket.paces import PACES, at_paces, draw_paces, frames_needed

BLOCK, BLOCKS = 3, 4
FRAMES = 1 + 4 * (BLOCK * BLOCKS - 1)
TINY = PocketTraining(size=32, blocks=5, batch=1, steps=2, long_from=1.0, first_clips=2, more_clips=2)


def tiny() -> WanModel:
    torch.manual_seed(0)
    dit = WanModel(WanConfig(24, 32, 1, num_heads=2, text_dim=TEXT_DIM))
    torch.nn.init.normal_(dit.head.head.weight, std=0.2)
    return dit


def test_at_the_worlds_pace_a_flight_is_the_worlds():
    scenes = world.sample_scenes(6, torch.Generator().manual_seed(0))
    long = world.simulate(scenes, frames_needed(FRAMES))
    assert torch.equal(at_paces(long, torch.ones(6, BLOCKS), BLOCK), long[:, :FRAMES])


def test_each_block_moves_at_its_own_pace():
    """A straight flight through the middle, so that no wall is met: 0.01 a frame, 43 frames at most."""
    speed = torch.tensor([0.01, 0.0])
    long = (0.1 + speed * torch.arange(frames_needed(FRAMES))[:, None])[None, :, None]
    pace = torch.tensor([[1.0, 0.3, PACES[1], 1.0]])
    steps = at_paces(long, pace, BLOCK).diff(dim=1)[0, :, 0, 0] / speed[0]
    expected = torch.cat([torch.full((8,), 1.0), *(torch.full((12,), float(p)) for p in pace[0, 1:])])
    torch.testing.assert_close(steps, expected, rtol=0, atol=1e-4)


def test_the_fastest_clip_has_enough_of_its_flight():
    long = torch.arange(frames_needed(FRAMES), dtype=torch.float32)[None, :, None, None].expand(-1, -1, 1, 2)
    last = at_paces(long, torch.full((1, BLOCKS), PACES[1]), BLOCK)[0, -1, 0, 0]
    assert float(last) == pytest.approx((FRAMES - 1) * PACES[1], abs=1e-3)


def test_so_many_blocks_have_another_pace_and_none_leaves_the_range():
    pace = draw_paces(2000, BLOCKS, 0.4, torch.Generator().manual_seed(1))
    others = pace[pace != 1]
    assert len(others) / pace.numel() == pytest.approx(0.4, abs=3 * (0.24 / pace.numel()) ** 0.5)
    assert PACES[0] <= float(others.min()) and float(others.max()) <= PACES[1]


def test_blocks_of_another_pace_are_not_graded(vae):
    drawn = draw_clips(vae, 8, BLOCKS, BLOCK, 32, torch.Generator().manual_seed(2), paced=0.5)
    graded = drawn.graded_BT.unflatten(1, (BLOCKS, BLOCK))
    assert (graded == graded[..., :1]).all() and 0 < float(graded.float().mean()) < 1
    weight = graded_weight(drawn.graded_BT)
    assert float(weight.mean()) == pytest.approx(1) and (weight[:, 0, 0, :, 0, 0] == 0).equal(
        ~drawn.graded_BT
    )
    plain = draw_clips(vae, 2, BLOCKS, BLOCK, 32, torch.Generator().manual_seed(2))
    assert plain.graded_BT.all() and (graded_weight(plain.graded_BT) == 1).all()


def test_what_is_not_graded_changes_no_weight(tmp_path, vae):
    moved = {}
    for name, damage in (("as drawn", 0.0), ("ungraded blocks elsewhere", 3.0)):
        trainer = Trainer(tiny(), vae, replace(TINY, no_text_share=0.0), tmp_path / name.replace(" ", "_"))
        clips = draw_clips(vae, 2, BLOCKS, BLOCK, 32, torch.Generator().manual_seed(3))
        clips.graded_BT[:, -BLOCK:] = False  # the last block, which is nobody's past
        clips.latents_BVCTHW[:, :, :, -BLOCK:] += damage
        trainer.pools["short"] = clips
        moved[name] = trainer.step("short", predicted_context=False)["loss"]
    assert moved["as drawn"] == pytest.approx(moved["ungraded blocks elsewhere"], rel=1e-5)


def test_a_pool_of_before_there_were_paces_is_all_graded(tmp_path, vae):
    drawn = draw_clips(vae, 2, BLOCKS, BLOCK, 32, torch.Generator().manual_seed(4))
    torch.save({"held_out": "", "tensors": drawn.tensors()[:3]}, tmp_path / "old.pt")
    old = PairedClips.load(tmp_path / "old.pt")
    assert old.graded_BT.shape == drawn.graded_BT.shape and old.graded_BT.all()
    assert len(old.concat(drawn, 4)) == 4 and len(old.select(torch.tensor([1])).graded_BT) == 1


def test_objects_have_the_speeds_that_are_asked_for():
    scenes = world.sample_scenes(50, torch.Generator().manual_seed(5), speeds=(0.02, 0.021))
    speed = scenes.velocity_BN2.norm(dim=-1)
    assert float(speed.min()) >= 0.02 - 1e-6 and float(speed.max()) <= 0.021 + 1e-6
    usual = world.sample_scenes(50, torch.Generator().manual_seed(5))
    assert torch.equal(usual.place_BN2, scenes.place_BN2), "other speeds moved where objects begin"


def test_kept_attentions_stay_while_other_layers_are_trained(tmp_path, vae):
    dit = tiny()
    before = {name: value.clone() for name, value in dit.state_dict().items()}
    Trainer(dit, vae, replace(TINY, keep_attention=True, paced=0.5), tmp_path).train()
    moved = {name for name, value in dit.state_dict().items() if not torch.equal(value, before[name])}
    assert not any(".self_attn." in name for name in moved)
    assert any(".ffn." in name for name in moved) and any(".cross_attn." in name for name in moved)
