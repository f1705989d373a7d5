"""Roles, merged keys and few bits are what their pages say; left out is what should be, and nothing else."""

import io
import json
from dataclasses import replace
from itertools import chain

import pytest
import torch
from rivulet.model_patches.attention.sdpa import sdpa
from rivulet.model_patches.cache.dense import DENSE
from rivulet.model_patches.cache.shapes import CacheShape
from rivulet.model_patches.stream.model_caller import ModelCaller
from rivulet.model_patches.stream.step import rollout
from rivulet.tests.bench import heads
from rivulet.tests.bench.field_experiments import EXPERIMENTS
from rivulet.tests.bench.field_methods import find_method
from rivulet.tests.bench.heads import Newest, profiled, work
from rivulet.tests.bench.heads_merged import Merged, groups
from rivulet.tests.bench.heads_roles import RoleAttention, Roles
from rivulet.tests.bench.heads_seen import Glance, Looking
from rivulet.tests.bench.records import Rows
from rivulet.tests.bench.small_pocket import small_pocket
from rivulet.tests.bench.smoothed import FEW_BITS, Smoothed, rounded, smoothed

SINK, TOKENS = 3, 4  # of the pocket's positions; of a frame
FRAMES = (0, 1, 2, 12, 10, 11, 9, 7, 8, 13, 14, 6)  # slot by slot; the block's are 12, 13, 14
SEEN = Glance(1, FRAMES, (12, 13, 14), TOKENS)


def tensors(heads=2, memory=0, seed=0):
    """Returns queries, keys and values of a block over FRAMES, and so many memory tokens behind."""
    draw = torch.Generator().manual_seed(seed)
    sizes = (3 * TOKENS, *[len(FRAMES) * TOKENS + memory] * 2)
    return [torch.randn(2, length, heads, 8, generator=draw) for length in sizes]


def only(k, v, frames, memory=0):
    """Returns the keys and values of these frames, and of the memory, found frame by frame."""
    starts = [FRAMES.index(frame) * TOKENS for frame in frames]
    places = [start + token for start in starts for token in range(TOKENS)]
    places += range(len(FRAMES) * TOKENS, len(FRAMES) * TOKENS + memory)
    return k[:, places], v[:, places]


def test_a_stream_that_is_looked_at_is_the_dense_stream_and_its_keys_are_told_right():
    pocket, seen = small_pocket(), []

    def attend(glance, q, k, v):
        seen.append((glance, k))
        return sdpa(q, k, v)

    looking = Looking(attend)
    config = pocket.config()
    made = []
    for caller, cache in ((pocket.caller, DENSE), (ModelCaller(pocket.dit, attention=looking), looking)):
        cache = cache if cache is DENSE else looking.format("looking")
        state = pocket.begin(pocket.encode("a red circle on a green ground"), config, cache=cache)
        made.append([latents for latents, state in rollout(caller, state, 6)])
    assert all(torch.equal(one, other) for one, other in zip(*made, strict=True))
    glance, keys = seen[-1]
    # the last call that reads is layer 0 of the call that is kept: its keys are in the last state's cache
    assert glance.layer == 0 and glance.new == (15, 16, 17) and glance.past == (0, 1, 2, *range(9, 15))
    assert glance.frames != tuple(sorted(glance.frames)), "slots are reused, so that order must be told"
    assert keys.shape[1] == len(glance.frames) * glance.frame_tokens


def test_frames_are_told_by_slot():
    """Every key's place is that of the dense cache's own table."""
    pocket, looking = small_pocket(), Looking(lambda glance, q, k, v: sdpa(q, k, v))
    state = pocket.begin(
        pocket.encode("a red circle on a green ground"), pocket.config(), cache=looking.format("x")
    )
    for _, later in rollout(ModelCaller(pocket.dit, attention=looking), state, 7):
        assert later.cache.watcher.slots.frames == later.cache.table


@pytest.mark.parametrize("memory", [0, 5])
def test_each_head_reads_what_its_role_says(memory):
    q, k, v = tensors(memory=memory)
    roles = Roles((frozenset(), frozenset({1})), 2)
    attention = RoleAttention(roles, SINK, patches=TOKENS)
    out = attention(SEEN, q, k, v)
    static = (0, 1, 2, 11, 12, 13, 14)
    keys, values = only(k, v, static, memory)
    assert torch.allclose(out[:, :, 1], sdpa(q, keys, values)[:, :, 1], atol=1e-6)
    # head 0: of frames 8, 9 and 10 the four tokens least like the one a frame later, row by row
    for row in range(2):
        at = [FRAMES.index(frame) * TOKENS for frame in (8, 9, 10, 11)]
        pairs = [(at[i] + t, at[i + 1] + t) for i in range(3) for t in range(TOKENS)]
        like = [float(torch.cosine_similarity(k[row, a, 0], k[row, b, 0], dim=0)) for a, b in pairs]
        kept = [pairs[i][0] for i in sorted(range(12), key=like.__getitem__)[:TOKENS]]
        more = torch.cat([keys[row], k[row, kept]])[None], torch.cat([values[row], v[row, kept]])[None]
        assert torch.allclose(out[row, :, 0], sdpa(q[row : row + 1], *more)[0, :, 0], atol=1e-6)
    # the same patches in a later layer, and none in the first
    later = attention(replace(SEEN, layer=1), q, k, v)
    assert torch.equal(later, out)
    first = attention(replace(SEEN, layer=0), q, k, v)
    assert torch.allclose(first, sdpa(q, keys, values), atol=1e-6)


def test_before_there_is_a_window_to_choose_from_all_is_read():
    q, k, v = tensors()
    seen = Glance(1, FRAMES[:9], (12, 10, 11), TOKENS)
    k, v = k[:, : 9 * TOKENS], v[:, : 9 * TOKENS]
    roles = Roles((frozenset({0, 1}),) * 2, 2)
    assert torch.equal(RoleAttention(roles, SINK, TOKENS)(seen, q, k, v), sdpa(q, k, v))


@pytest.mark.parametrize("frames", [1, 4])
def test_the_newest_frames_are_read_and_the_sink(frames):
    q, k, v = tensors(memory=3)
    read = (0, 1, 2, *(6, 7, 8, 9, 10, 11)[-frames:], 12, 13, 14)
    assert torch.allclose(Newest(SINK, frames)(SEEN, q, k, v), sdpa(q, *only(k, v, read, 3)), atol=1e-6)


def test_equal_keys_merge_without_an_error_and_other_keys_in_the_right_groups():
    q, k, v = tensors(memory=2)
    for frame in (7, 8):  # what was there a frame earlier, in another order
        here, before = (FRAMES.index(f) * TOKENS for f in (frame, frame - 1))
        k[:, here : here + TOKENS] = k[:, before : before + TOKENS].flip(1)
    exact = Merged(2 / 8, before_rope=False)  # of 9 frames of the past 8 have one before them
    assert torch.allclose(exact(SEEN, q, k, v), sdpa(q, k, v), atol=1e-5)
    assert exact.attended_frames(9, 3) == 10
    wrong = Merged(4 / 8, before_rope=False)(SEEN, q, k, v)
    assert not torch.allclose(wrong, sdpa(q, k, v), atol=1e-2)
    numbers = torch.tensor([[0.0, 5.0], [5.1, 0.1], [9.0, 5.2]]).view(1, 1, 6, 1)
    assert groups(numbers, 2, 0.75).flatten().tolist() == [0, 1, 1, 0, 4, 1]


def test_keys_are_turned_back_to_what_the_cache_has_and_merged_there():
    pocket, seen = small_pocket(), []

    def attend(glance, q, k, v):
        seen.append((glance, q.clone(), k.clone(), v.clone()))
        return sdpa(q, k, v)

    looking = Looking(attend)
    text = pocket.encode("a red circle on a green ground")
    state = pocket.begin(text, pocket.config(), cache=looking.format("x"))
    for _, after in rollout(ModelCaller(pocket.dit, attention=looking), state, 6):
        last = after
    glance, *made = seen[-1]
    q, k, v = (x.clone() for x in made)
    kept = [frame for frame in glance.past if frame in last.cache.frames]
    there, _ = last.cache.keys_values(glance.layer, kept)
    back = glance.turned(k[:, glance.tokens(kept)], kept, back=True)
    assert len(kept) == 6 and torch.allclose(back, there[-len(k) :], atol=1e-5)
    assert torch.allclose(Merged(0.0, True)(glance, q, k, v), sdpa(q, k, v), atol=1e-5)
    # nothing moves: every frame's keys are equal before RoPE, and are read at the newest frame's place
    past, newest, frames = glance.tokens(glance.past), glance.past[-1:], len(glance.past)
    still = back[:, : glance.frame_tokens]
    k[:, past] = glance.turned(still.repeat(1, frames, 1, 1), glance.past)
    rest = glance.tokens(glance.new)
    keys = torch.cat([glance.turned(still, newest), k[:, rest]], 1)
    values = torch.cat([v[:, past].unflatten(1, (frames, -1)).mean(1), v[:, rest]], 1)
    score = torch.einsum("blnd,bmnd->bnlm", q, keys) * q.shape[-1] ** -0.5
    score[..., : glance.frame_tokens] += torch.tensor(float(frames)).log()
    expected = torch.einsum("bnlm,bmnd->blnd", score.softmax(-1), values)
    assert torch.allclose(Merged(1.0, True)(glance, q, k, v), expected, atol=1e-4)


def test_roles_come_from_shares_and_from_published_files(tmp_path):
    found = Roles.of([[0.9, 0.1], [0.8, 0.79]])
    assert found.static == (frozenset({0}), frozenset({0})) and found.static_share == 0.5
    assert found.swapped().static == (frozenset({1}), frozenset({1}))
    # sink 1, one before, the block of 3; in the second layer half of the heads one frame more
    assert found.attended_frames(1, 3) == 5.25
    for given in (found.to_json(), {"layers": found.to_json()}):
        path = tmp_path / "profile.json"
        path.write_text(json.dumps(given))
        assert Roles.read(path) == found
    for wrong, words in (("{}", "is no profile"), ("[]", "names in layers"), ("nope", "is no profile")):
        path.write_text(wrong)
        with pytest.raises(ValueError, match=f"Roles: .*profile.json {words}"):
            Roles.read(path)
    given = [{"static_head": [0], "dynamic_head": [0, 1]}]
    path.write_text(json.dumps(given))
    with pytest.raises(ValueError, match=r"names in layers \[0\] not each of"):
        Roles.read(path)


def test_masses_are_those_of_attention():
    pocket = small_pocket()
    masses = profiled(pocket, streams=1, blocks=6)
    assert len(masses) == 2 and all(
        0 < one.sink < 1 and 0 < one.newest_share < 1 for layer in masses for one in layer
    )
    # with keys of nothing every one of 12 frames has the same mass: 3 of 12, and 4 of the other 9
    for block in pocket.dit.blocks:
        block.self_attn.q.weight.zero_()
        block.self_attn.q.bias.zero_()
    for one in chain.from_iterable(profiled(pocket, streams=1, blocks=6)):
        assert one.sink == pytest.approx(3 / 12) and one.newest_share == pytest.approx(4 / 9)


def test_products_are_counted_over_twelve_frames():
    assert work(12)["products_to_twelve_frames_ratio"] == 1
    assert work(6)["attended_tokens"] == 9360 and 0.6 < work(6)["products_to_twelve_frames_ratio"] < 0.8


def test_the_command_prints_heads_ways_and_windows(tmp_path, monkeypatch):
    monkeypatch.setattr(heads, "load_pocket", lambda folder: small_pocket())
    monkeypatch.setattr(heads, "POCKET_PATCHES", 2)
    monkeypatch.setattr(heads, "FRAME_TOKENS", 40)
    path, out = tmp_path / "profile.json", io.StringIO()
    path.write_text(json.dumps([{"static_head": [0], "dynamic_head": [1]}] * 30))
    chosen = heads.argparse.Namespace(weights=None, quick=True, profiles=[path], out=tmp_path / "own.json")
    heads.run(chosen, Rows("heads", True, out))
    found = [json.loads(row) for row in out.getvalue().splitlines()]
    ways = {row["case"]: row for row in found if row["row"] == "way"}
    assert len([row for row in found if row["row"] == "head"]) == 2
    assert ways["newest_4"]["attention_error"] < ways["newest_1"]["attention_error"]
    assert [row["preset"] for row in found if row["row"] == "window"] == list(heads.WINDOWS)
    (timed,) = [row for row in found if row["row"] == "time"]
    assert timed["roles_to_all_ratio"] > 0 and timed["cpu_roles_to_all_ratio"] > 0
    (profile,) = [row for row in found if row["row"] == "profile"]
    assert profile["attended_tokens"] == pytest.approx(40 * (5 + 29 / 60))
    assert len(Roles.read(tmp_path / "own.json").static) == 2
    out.truncate(0)
    path.write_text(json.dumps([{"static_head": [0], "dynamic_head": [1]}] * 40))
    heads.run(chosen, Rows("heads", True, out))
    (other,) = [
        row for row in map(json.loads, out.getvalue().strip("\0").splitlines()) if row["row"] == "profile"
    ]
    assert other["static_share"] == 0.5 and "a model of 40 layers" in other["why"]
    assert "attended_tokens" not in other


@pytest.mark.parametrize(("bits", "codes"), [(2, 3), (4, 15)])
def test_few_bits_are_few_codes_and_the_nearest_of_them(bits, codes):
    x = torch.linspace(-1, 1, 64)[None, None]
    found = rounded(x, bits, 64)
    assert len(found.unique()) == codes
    step = 1 / (2 ** (bits - 1) - 1)
    assert (found - x).abs().max() <= step / 2 + step / 16  # half a step, and the scale's own rounding
    assert torch.equal(rounded(torch.zeros(1, 1, 64), bits, 64), torch.zeros(1, 1, 64))


def test_a_stage_takes_away_what_tokens_share():
    centres = torch.tensor([[-40.0] * 8, [40.0] * 8])
    x = (centres[torch.arange(12) % 2] + torch.linspace(0, 0.1, 12)[:, None])[None]
    means = smoothed(x, 2)
    assert (x - means).abs().max() < 0.06
    assert torch.allclose(means[:, 0], x[:, ::2].mean(1)) and torch.equal(means[:, 0], means[:, 2])
    tokens = torch.randn(1, 48, 64) + 10 * torch.randn(1, 1, 64)
    plain, stage = ((Smoothed(2, n, 64).kept(tokens) - tokens).square().mean() for n in (0, 1))
    assert stage < plain / 4


def test_bytes_of_few_bits_are_those_of_the_published_sizes():
    shape = CacheShape(30, 1, 1, 1, 12, 128)
    found = {name: made.cost.token_bytes(shape, torch.bfloat16) for name, made in FEW_BITS.items()}
    assert found["bits_4"] == 3072 / 2 + 3072 / 64 and found["bits_2"] == 3072 / 4 + 3072 / 64
    # 256 means of 1536 channels in two bytes for 4680 tokens, and a byte for which
    assert found["smoothed_2"] == round(found["bits_2"] + 2 * (1 + 1536 * 2 * 256 / 4680))


@pytest.mark.parametrize("name", ["roles", "newest_2", "merged_0.5", "smoothed_2+learned"])
def test_experiments_are_methods_of_bench_field(name):
    method = find_method(name)
    choice = method.made()
    assert name.split("+")[0] in EXPERIMENTS and choice.cache.name == name.split("+")[0]
    assert choice.memory.name == ("learned" if "+" in name else "off")
    frames = method.figures(choice).get("attended_frames")
    assert frames == {"roles": 7, "newest_2": 8, "merged_0.5": 8.0}.get(name)
    assert (choice.pocket.caller.attention is choice.pocket.attention) and callable(choice.pocket.attention)
