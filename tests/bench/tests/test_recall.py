"""What a stream is shown becomes its past, a look ahead leaves it as it was, the judge reads pictures."""

import io
import json
from dataclasses import replace
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
from rivulet.model_patches.stream.switch import switch
from rivulet.pocket import held_out, hiding, world
from rivulet.pocket.hiding import ENCODED, HidingClips
from rivulet.pocket.replay import replay
from rivulet.pocket.train_memory.lessons import FULL, MEMORY, SINK_AND_WINDOW, WINDOW
from rivulet.tests.bench.recall import stories
from rivulet.tests.bench.recall_picture import COLOURS, OTHER, draw, read
from rivulet.tests.bench.recall_verdict import Remembered, figures, judge, sights
from rivulet.tests.bench.recall_walk import Contestant, Stage, lifted
from rivulet.tests.bench.records import Rows


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


def stage(lengths, own=False):
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
    return Stage(pocket, told, lengths, 2, None, own)


@pytest.mark.parametrize("own", [False, True], ids=["shown", "own"])
@pytest.mark.parametrize("policy", ["learned", "ema", "full"])
def test_a_look_behind_the_band_does_not_change_what_comes_after(model, policy, own):
    dit, memory = model
    positions = {"learned": MEMORY, "ema": SINK_AND_WINDOW, "full": FULL}[policy]
    remembering = {"learned": memory, "ema": EmaSink(), "full": OFF}[policy]
    contestant = Contestant(policy, dit, positions, memory=remembering)
    together = stage((1, 3, 6), own)
    found = lifted(together, contestant, together.told, seed=0)
    assert list(found) == [1, 3, 6]
    for length in found:
        alone = stage((length,), own)
        walk = lifted(alone, contestant, alone.told, seed=0)[length]
        assert torch.equal(walk.lifted_BCTHW, found[length].lifted_BCTHW)
        assert torch.equal(walk.hidden_BCTHW, found[length].hidden_BCTHW)
    assert not torch.equal(found[3].lifted_BCTHW, found[6].lifted_BCTHW)


def test_a_past_of_its_own_is_what_the_stream_made_and_a_shown_one_is_the_truth(model):
    dit, memory = model
    contestant = Contestant("learned", dit, MEMORY, memory=memory)
    walks = {}
    for own in (False, True):
        told = stage((3,), own)
        walks[own] = lifted(told, contestant, told.told, seed=0)[3]
    truth = told.told.latents_BCTHW.float()
    assert torch.equal(walks[False].shown_BCTHW, truth[:, :, : 3 * 3])
    assert torch.equal(walks[False].hidden_BCTHW, truth[:, :, 4 * 3 : 6 * 3])
    config = told.pocket.config(0)
    prompts = [told.told.texts_BPLE[:, part] for part in (0, 1, 1, 2, 2, 2)]
    negative, caller = torch.zeros(2, 6, 64), ModelCaller(dit)
    state = init(caller, (prompts[0], negative), replace(config, preset=MEMORY), memory=memory)
    made = []
    for text in prompts:
        latents, state = step(caller, switch(caller, state, (text, negative), "smooth"))
        made.append(latents)
    assert torch.equal(walks[True].shown_BCTHW, torch.cat(made[:3], 2))
    assert torch.equal(walks[True].hidden_BCTHW, torch.cat(made[4:], 2))


@pytest.fixture(scope="module")
def told():
    """Returns rendered stories: their scenes, what was shown, and what each of their sights is."""
    scenes = hiding.sample(6, torch.Generator().manual_seed(1))
    pixels = hiding.render(scenes, 3, 64)
    look = torch.stack([scenes.colour_BN[:, 0], scenes.shape_BN[:, 0], scenes.ground_B], 1)
    return pixels, look, sights(pixels[:, 32], pixels[:, 60], look)


def test_the_judge_reads_colour_and_shape_each_for_itself(told):
    pixels, look, seen = told
    right = judge(pixels[:, -1], seen)
    assert all(each.recalled and each.strict for each in right), right
    assert judge(pixels[:, 40], seen) == [Remembered(False, False)] * 6, "behind the band nothing is seen"
    other = look.clone()
    other[:, 0] = (other[:, 0] + 1) % len(world.COLOURS)
    found = judge(pixels[:, -1], sights(pixels[:, 32], pixels[:, 60], other))
    assert [(each.colour, each.shape) for each in found] == [(False, True)] * 6
    other = look.clone()
    other[:, 1] = (other[:, 1] + 1) % len(world.SHAPES)
    found = judge(pixels[:, -1], sights(pixels[:, 32], pixels[:, 60], other))
    assert [(each.colour, each.shape) for each in found] == [(True, False)] * 6


def test_the_strict_verdict_wants_place_size_and_nothing_else(told):
    """Each change leaves colour and shape of the largest object right; one part of the verdict falls."""
    pixels, _, seen = told
    picture, sight = pixels[:1, -1], seen[0]
    (right,) = judge(picture, [sight])
    assert right.strict
    width = sight.column[1] - sight.column[0]
    beside = replace(sight, column=(1 - width, 1.0) if sight.column[0] < 0.3 else (0.0, width))
    assert judge(picture, [beside]) == [replace(right, placed=False)]
    assert judge(picture, [replace(sight, radius=1.2 * sight.radius)]) == [replace(right, sized=False)]
    assert judge(picture, [replace(sight, radius=float("nan"))]) == [replace(right, sized=False)]
    column = sight.column[0] + width / 2
    far = slice(0, 12) if column > 0.5 else slice(52, 64)
    stranger = picture.clone()
    stranger[:, :8, far] = torch.tensor(world.BAND_COLOUR, dtype=torch.uint8)
    assert judge(stranger, [sight]) == [replace(right, alone=False)]
    elsewhere = replace(
        sight, ground=next(name for name in world.COLOURS if name not in (sight.ground, sight.object[0]))
    )
    assert not judge(picture, [elsewhere])[0].alone


def test_a_past_of_its_own_counts_where_it_told_a_story(told):
    pixels, look, seen = told
    drawn = sights(pixels[:, 32], pixels[:, 60], look, own=True)
    assert drawn == seen
    asked = look.clone()
    asked[:, 0] = (asked[:, 0] + 1) % len(world.COLOURS)
    assert sights(pixels[:, 32], pixels[:, 60], asked, own=True) == drawn, "what it drew counts"
    assert sights(pixels[:, 32], pixels[:, 32], look, own=True) == [None] * 6, "no band came down"
    assert sights(pixels[:, 3], pixels[:, 60], look, own=True) == [None] * 6, "there was no object"


def test_a_shown_past_without_an_object_is_no_strict_recall(told):
    pixels, look, _ = told
    found = judge(pixels[:, -1], sights(pixels[:, 3], pixels[:, 60], look))
    assert all(each.recalled and not each.sized and not each.strict for each in found)


def test_figures_are_shares_that_rows_accept():
    right = Remembered(True, True, True, True, True)
    found = figures(
        [right, replace(right, sized=False), Remembered(True, False), Remembered(False, False), None]
    )
    assert found["recall"] == 0.5 and found["strict_recall"] == 0.25 and found["colour_recall"] == 0.75
    assert found["shape_recall"] == 0.5 and found["trials"] == 4 and found["told_share"] == 0.8
    assert found["strict_standard_error_share"] == pytest.approx((0.25 * 0.75 / 3) ** 0.5)
    assert "strict_standard_error_share" not in figures([right]), "one trial tells nothing of others"
    out = io.StringIO()
    Rows("recall", quick=True, out=out)(
        "recall", policy="ema", mode="own", hidden_windows=1.0, hidden_blocks=3, **found
    )
    assert json.loads(out.getvalue())["policy"] == "ema"
    assert figures([None]) == {"trials": 0, "told_share": 0.0}


def test_stories_in_a_file_are_those_of_the_seed(monkeypatch, tmp_path):
    vae = torch.nn.Module()
    vae.encoder, vae.conv1 = torch.nn.Linear(2, 2), torch.nn.Linear(2, 2)
    pocket = SimpleNamespace(vae=vae, recipe=SimpleNamespace(block_frames=3, size=64))
    monkeypatch.setattr(hiding, "encode_pictures", lambda _, shown: torch.zeros(len(shown), 16, 24, 8, 8))
    file = tmp_path / "stories.pt"
    drawn = stories(pocket, 2, file, seed=1)
    assert torch.equal(stories(pocket, 2, file, seed=1).look_B3, drawn.look_B3)
    with pytest.raises(SystemExit, match="drawn with seed 1; here it is 2"):
        stories(pocket, 2, file, seed=2)
    with pytest.raises(SystemExit, match="holds 2 stories, 3 are asked for"):
        stories(pocket, 3, file, seed=1)
    drawn.save(file, {"held_out": held_out.fingerprint()})
    with pytest.raises(SystemExit, match=r"were drawn without list .* here they are drawn from all comb"):
        stories(pocket, 2, file, seed=1)
    drawn.save(file, {"latents": "0123"})
    with pytest.raises(SystemExit, match="are latents of VAE 0123"):
        stories(pocket, 2, file, seed=1)


def point(policy, blocks, recall):
    return {"row": "recall", "policy": policy, "hidden_blocks": blocks, "hidden_windows": blocks / 3,
            "recall": recall}  # fmt: skip


def test_the_picture_has_a_curve_for_every_policy(tmp_path):
    rows = [point(name, blocks, 0.1 * i) for i, name in enumerate([*COLOURS, "new"]) for blocks in (1, 3, 24)]
    files = [tmp_path / "first.jsonl", tmp_path / "second.jsonl"]
    files[0].write_text("noise\n" + "\n".join(json.dumps(row) for row in [point("ema", 1, 0.9), *rows]))
    own = point("ema", 1, 1.0) | {"mode": "own"}
    files[1].write_text(
        json.dumps(own) + "\n" + json.dumps(point("truth", 3, 0.8)) + "\n" + json.dumps({"row": "machine"})
    )
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
    nothing = {"policy": "ema", "hidden_blocks": 1, "hidden_windows": 1 / 3} | figures([None])
    draw([nothing, *points], tmp_path / "told.png")
    assert (tmp_path / "told.png").read_bytes() == (tmp_path / "new" / "recall.png").read_bytes()
