"""What a stream is shown becomes its past, a look ahead leaves it as it was, the judge reads pictures."""

import io
import json
from types import SimpleNamespace

import pytest
import torch
from PIL import Image
from rivulet.model_patches.arch.wan import WanConfig, WanModel
from rivulet.model_patches.geometry import Geometry
from rivulet.model_patches.memory.ema import EmaSink
from rivulet.model_patches.memory.encoder import EncoderConfig, MemoryEncoder
from rivulet.model_patches.memory.learned import LearnedMemory
from rivulet.model_patches.memory.policy import OFF
from rivulet.model_patches.stream.config import StreamConfig
from rivulet.model_patches.stream.model_caller import ModelCaller
from rivulet.model_patches.stream.step import init, step
from rivulet.pocket import hiding, world
from rivulet.pocket.hiding import ENCODED, HidingClips
from rivulet.pocket.train_memory.lessons import FULL, MEMORY, SINK_AND_WINDOW, WINDOW
from rivulet.tests.bench.recall import Contestant, Stage, figures, judge, lifted
from rivulet.tests.bench.recall_picture import COLOURS, OTHER, draw, read
from rivulet.tests.bench.records import Rows
from rivulet.tests.bench.replay import replay


@pytest.fixture(scope="module")
def model():
    """Returns a small random model and a memory for it."""
    torch.manual_seed(3)
    dit = WanModel(WanConfig(dim=24, ffn_dim=32, num_layers=2, num_heads=2, text_dim=64))
    encoder = MemoryEncoder(EncoderConfig(24, 2, 3, 2, 2))
    for parameter in (*dit.parameters(), *encoder.parameters()):
        torch.nn.init.normal_(parameter, std=0.2)
    return dit.requires_grad_(False), LearnedMemory(encoder.requires_grad_(False), "tiny")


@pytest.mark.parametrize("positions", [MEMORY, SINK_AND_WINDOW, WINDOW, FULL])
def test_a_block_that_is_shown_leaves_what_the_same_block_made_would(model, positions):
    dit, memory = model
    config = StreamConfig(Geometry(32, 32), positions, sigmas=(1.0, 0.5), cfg=2.0)
    text, policy, caller = torch.randn(2, 6, 64), memory if positions.memory_frames else OFF, ModelCaller(dit)
    states = [init(caller, (text, -text), config, memory=policy) for _ in range(2)]
    for _ in range(6):
        latents, made = step(caller, states[0])
        states = [made, replay(caller, states[1], latents)]
        assert states[0].start_frame == states[1].start_frame and states[0].block == states[1].block
        assert states[0].cache.table == states[1].cache.table
        for of in ("cache", "memory"):
            kept, shown = (getattr(state, of).tensors() for state in states)
            assert kept.keys() == shown.keys()
            assert all(torch.equal(kept[name], shown[name]) for name in kept), of


def stage(lengths):
    """Returns a stage for two stories of noise."""
    generator = torch.Generator().manual_seed(4)
    latents = torch.randn(2, 16, 3 * sum(ENCODED), 4, 4, generator=generator).half()
    told = HidingClips(
        latents, torch.randn(2, 4, 6, 64, generator=generator), torch.zeros(2, 3, dtype=torch.int64)
    )
    config = StreamConfig(Geometry(32, 32), "pocket", sigmas=(1.0, 0.5), cfg=2.0)
    pocket = SimpleNamespace(
        recipe=SimpleNamespace(block_frames=3),
        config=lambda seed: config,
        no_text=lambda: torch.zeros(1, 6, 64),
    )
    return Stage(pocket, told, lengths, 2, None)


@pytest.mark.parametrize("policy", ["learned", "ema", "full"])
def test_a_look_behind_the_band_does_not_change_what_comes_after(model, policy):
    dit, memory = model
    positions = {"learned": MEMORY, "ema": SINK_AND_WINDOW, "full": FULL}[policy]
    remembering = {"learned": memory, "ema": EmaSink(), "full": OFF}[policy]
    contestant = Contestant(policy, dit, positions, memory=remembering)
    together = stage((1, 3, 6))
    found = lifted(together, contestant, together.told, seed=0)
    assert list(found) == [1, 3, 6]
    for length in found:
        alone = stage((length,))
        assert torch.equal(lifted(alone, contestant, alone.told, seed=0)[length], found[length])
    assert not torch.equal(found[3], found[6])


def test_the_judge_reads_colour_and_shape_each_for_itself():
    scenes = hiding.sample(4, torch.Generator().manual_seed(1))
    pixels = hiding.render(scenes, 3, 64)
    look = torch.stack([scenes.colour_BN[:, 0], scenes.shape_BN[:, 0], scenes.ground_B], 1)
    assert judge(pixels[:, -1], look) == [(True, True)] * 4
    assert judge(pixels[:, 40], look) == [(False, False)] * 4, "behind the band there is nothing to see"
    other = look.clone()
    other[:, 0] = (other[:, 0] + 1) % len(world.COLOURS)
    assert judge(pixels[:, -1], other) == [(False, True)] * 4
    other = look.clone()
    other[:, 1] = (other[:, 1] + 1) % len(world.SHAPES)
    assert judge(pixels[:, -1], other) == [(True, False)] * 4


def test_figures_are_shares_that_rows_accept():
    found = figures([(True, True), (True, False), (False, True), (False, False)])
    assert found == {"recall": 0.25, "colour_recall": 0.5, "shape_recall": 0.5, "trials": 4}
    out = io.StringIO()
    Rows("recall", quick=True, out=out)("recall", policy="ema", hidden_windows=1.0, hidden_blocks=3, **found)
    assert json.loads(out.getvalue())["policy"] == "ema"


def point(policy, blocks, recall):
    return {"row": "recall", "policy": policy, "hidden_blocks": blocks, "hidden_windows": blocks / 3,
            "recall": recall}  # fmt: skip


def test_the_picture_has_a_curve_for_every_policy(tmp_path):
    rows = [point(name, blocks, 0.1 * i) for i, name in enumerate([*COLOURS, "new"]) for blocks in (1, 3, 24)]
    files = [tmp_path / "first.jsonl", tmp_path / "second.jsonl"]
    files[0].write_text("noise\n" + "\n".join(json.dumps(row) for row in [point("ema", 1, 0.9), *rows]))
    files[1].write_text(json.dumps(point("truth", 3, 0.8)) + "\n" + json.dumps({"row": "machine"}))
    points = read(files)
    assert len(points) == len(rows) + 1
    assert next(p for p in points if (p["policy"], p["hidden_blocks"]) == ("ema", 1))["recall"] < 0.9
    draw(points, tmp_path / "new" / "recall.png")
    picture = Image.open(tmp_path / "new" / "recall.png")
    assert picture.size == (960, 600)
    seen = {colour for _, colour in picture.getcolors(1 << 20)}
    assert {*COLOURS.values(), OTHER} <= seen
    with pytest.raises(ValueError, match="no policy has a point"):
        draw([point("truth", 3, 0.8)], tmp_path / "none.png")
