"""The learned memory in a stream, beside a second implementation that keeps no cache and no state."""

from dataclasses import dataclass, replace

import pytest
import torch
import torch.nn.functional as F
from rivulet.model_patches.attention.positions import PRESETS, plan
from rivulet.model_patches.cache.shapes import CacheShape
from rivulet.model_patches.memory.learned import MemoryTokens
from rivulet.model_patches.sampler.noise import block_noise
from rivulet.model_patches.stream.model_caller import ModelCaller
from rivulet.model_patches.stream.snapshot import load, save
from rivulet.model_patches.stream.step import init, rollout, step

from ..formats import FORMATS, LOSSY
from ..stream.test_stream_reference import (
    Block,
    Reference,
    linear,
    rms,
    seen_by,
    softmax_attention,
    turn,
    turns,
)
from .memories import learned

BLOCKS = 8
ECHO = PRESETS["echo"]


@pytest.fixture
def echo(config):
    """Returns a contract with Echo's positions and two calls a block."""
    return replace(config, preset=ECHO, sigmas=(1.0, 0.7))


def updated(w, state, keys, values, heads=2):
    """The published update (models' float64 weights w), token by token where it attends."""
    s = state
    for i in range(2):
        q = rms(w, f"layers.{i}.norm_q", linear(w, f"layers.{i}.q", rms(w, f"layers.{i}.norm1", s)))
        looked = softmax_attention(q.unflatten(-1, (heads, -1)), keys, values).flatten(1)
        s = s + linear(w, f"layers.{i}.o", looked)
        h = F.gelu(linear(w, f"layers.{i}.ffn.0", rms(w, f"layers.{i}.norm2", s)), approximate="tanh")
        s = s + linear(w, f"layers.{i}.ffn.2", h)
    p = F.gelu(linear(w, "connector_proj.0", s), approximate="tanh")
    p = rms(w, "connector_proj.3", linear(w, "connector_proj.2", p))
    gate = torch.sigmoid(linear(w, "gate_linear", torch.cat([state, p], -1)))
    return gate * state + (1 - gate) * p


@dataclass
class Remembering(Block):
    """A block that attends to memory tokens [M, C], or to None."""

    tokens: torch.Tensor | None = None
    memory_ids: tuple[int, ...] = ()


class RememberingReference(Reference):
    """The reference with memory tokens; keeps the last layer's keys before RoPE and values."""

    def __init__(self, weights, encoder, geometry):
        super().__init__(weights, 2, 3, geometry)
        self.encoder = {name: value.double() for name, value in encoder.state_dict().items()}

    def own(self, name, x, blocks):
        w, g, e = self.weights, self.geometry, self.encoder
        q, k = (self.heads_of(rms(w, f"{name}.norm_{a}", linear(w, f"{name}.{a}", x))) for a in "qk")
        v = self.heads_of(linear(w, f"{name}.v", x))
        self.last = k, v
        grid = (g.grid_height, g.grid_width, q.shape[-1])
        out = []
        for block in blocks:
            mine, seen = (self.tokens_of(frames) for frames in (block.frames, block.seen))
            keys, values = turn(k[seen], turns(block.ids, *grid)), v[seen]
            if block.tokens is not None:
                remembered = self.heads_of(linear(e, "to_k", block.tokens))
                keys = torch.cat([keys, turn(remembered, turns(block.memory_ids, *grid))])
                values = torch.cat([values, self.heads_of(linear(e, "to_v", block.tokens))])
            out.append(softmax_attention(turn(q[mine], turns(block.query_ids, *grid)), keys, values))
        return linear(w, f"{name}.o", torch.cat(out).flatten(1))

    def tokens_of(self, frames):
        size = self.geometry.frame_tokens
        return torch.cat([torch.arange(size) + f * size for f in frames])


def sample(reference, config, text, blocks):
    """Latents of one stream; the whole past runs again for every call, the memory from its first update."""
    g, count = config.geometry, config.block_frames
    made = torch.zeros(g.latent_channels, 0, g.latent_height, g.latent_width, dtype=torch.float64)
    past, state = [], None  # clean blocks with what each saw, the newest state
    for block in range(blocks):
        start, before = block * count, state
        if before is not None or start >= 12:
            gone = list(range(start - 9, start - 6))  # block at 12 pushes 3..5 out
            zeros = torch.zeros(start, dtype=torch.float64)
            reference.flow(made, zeros, past)
            keys, values = (room[reference.tokens_of(gone)] for room in reference.last)
            begun = reference.encoder["query_init"][0] if state is None else state
            state = updated(reference.encoder, begun, keys, values)
        ids = plan(ECHO, start, count, memory_visible=True).memory
        for call, sigma in enumerate(config.sigmas):
            noise = block_noise(config.seed, block, call, g.latent_shape(count), dtype=torch.float64)[0]
            x = noise if call == 0 else (1 - sigma) * x0 + sigma * noise  # noqa: F821 made by the call before
            shown = before if call == 0 else state
            now = Remembering(**vars(seen_by(ECHO, start, count, text)), tokens=shown, memory_ids=ids)
            times = torch.tensor([0.0] * start + [1000 * sigma] * count, dtype=torch.float64)
            v = reference.flow(torch.cat([made, x], 1), times, [*past, now])[:, -count:]
            x0 = x - sigma * v
        made = torch.cat([made, x0], 1)
        past.append(Remembering(**vars(seen_by(ECHO, start, count, text)), tokens=state, memory_ids=ids))
    return made


def test_a_stream_equals_the_whole_past_run_again_with_every_update(make_model, make_text, echo):
    policy = learned()
    reference = RememberingReference(make_model().state_dict(), policy.encoder, echo.geometry)
    exact = sample(reference, echo, make_text(1)[0], BLOCKS)
    errors = {}
    for dtype in (torch.float32, torch.float64):
        config, caller = replace(echo, dtype=dtype), ModelCaller(make_model(dtype))
        state = init(caller, (make_text(1, dtype=dtype),), config, memory=learned(dtype))
        got = torch.cat([latents for latents, _ in rollout(caller, state, BLOCKS)], 2)[0]
        errors[dtype] = (got - exact).abs().max().item()
    # the same maths: the error is rounding alone and shrinks with it
    shrink = torch.finfo(torch.float64).eps / torch.finfo(torch.float32).eps
    assert 0 < errors[torch.float64] <= 8 * shrink * errors[torch.float32], errors
    assert errors[torch.float32] < 1e-3 * exact.abs().max()


def shown_memories(monkeypatch, caller, state, blocks):
    """Per block, for each call (the clean one last): the tokens that were read, by number of update."""
    from rivulet.model_patches.cache.core import SlotDraft

    seen, keep = [], SlotDraft.set_memory

    def set_memory(self, memory):
        keep(self, memory)
        seen[-1].append(None if memory is None else memory[0][0, 0, 0, 0].item())

    monkeypatch.setattr(SlotDraft, "set_memory", set_memory)
    states = []
    for _ in range(blocks):
        seen.append([])
        _, state = step(caller, state)
        states.append(state)
    return seen, states


def test_the_first_call_sees_the_memory_before_the_update(monkeypatch, caller, make_text, echo):
    policy = learned()
    seen, states = shown_memories(monkeypatch, caller, init(caller, (make_text(),), echo, memory=policy), 7)
    key = [
        s.memory.current is not None and policy.encoder.read(s.memory.current)[0][0, 0, 0, 0].item()
        for s in states
    ]
    assert seen[:4] == [[None] * 3] * 4  # blocks at 0, 3, 6, 9
    assert seen[4] == [None, key[3], key[3]]  # at 12: from the second call on
    assert seen[5] == [key[3], key[4], key[4]] and seen[6] == [key[4], key[5], key[5]]
    assert len({key[3], key[4], key[5]}) == 3


def test_from_the_start_the_first_call_with_ids_sees_the_initial_state(monkeypatch, caller, make_text, echo):
    policy = learned(from_start=True)
    seen, _ = shown_memories(monkeypatch, caller, init(caller, (make_text(),), echo, memory=policy), 5)
    initial = policy.encoder.read(policy.encoder.query_init)[0][0, 0, 0, 0].item()
    assert seen[:4] == [[None] * 3] * 4 and seen[4][0] == initial != seen[4][1]


def test_one_update_a_block_from_the_clean_pass_of_the_last_layer(monkeypatch, caller, make_text, echo):
    policy, taken = learned(), []
    update = type(policy.encoder).update

    def watched(self, state, keys, values, *rest):
        taken.append((keys.clone(), values.clone()))
        return update(self, state, keys, values, *rest)

    monkeypatch.setattr(type(policy.encoder), "update", watched)
    state, clean = init(caller, (make_text(),), echo, memory=policy), {}
    for block in range(7):
        _, state = step(caller, state)
        kv = state.cache.keys_values(2, tuple(range(3 * block, 3 * block + 3)))
        clean[block] = kv
        assert len(taken) == max(0, block - 2)  # block 3 (frames 9..11) is the first that pushes out
    for number, (keys, values) in enumerate(taken):
        assert torch.equal(keys, clean[number + 1][0]) and torch.equal(values, clean[number + 1][1])


@pytest.mark.parametrize("made", FORMATS.values(), ids=FORMATS)
def test_a_stream_with_memory_goes_on_bit_for_bit_from_a_file(caller, make_text, echo, tmp_path, made):
    for blocks in (3, 5):  # before the first update, and after
        state = init(caller, (make_text(),), echo, cache=made, memory=learned())
        for _ in range(blocks):
            _, state = step(caller, state)
        save(caller, state, tmp_path / "stream.safetensors")
        back = load(tmp_path / "stream.safetensors", caller, echo, cache=made, memory=learned())
        for _ in range(3):
            latents, state = step(caller, state)
            again, back = step(caller, back)
            assert torch.equal(latents, again)


def test_a_file_is_taken_up_with_the_memory_it_was_made_with(caller, make_text, echo, tmp_path):
    _, state = step(caller, init(caller, (make_text(),), echo, memory=learned()))
    save(caller, state, tmp_path / "stream.safetensors")
    with pytest.raises(
        ValueError, match=r"memory learned, not off\. Set the memory to learned\. Give it the"
    ):
        load(tmp_path / "stream.safetensors", caller, echo)
    with pytest.raises(ValueError, match="encoder seed 3, not seed 4"):
        load(tmp_path / "stream.safetensors", caller, echo, memory=learned(seed=4))


@pytest.mark.parametrize("made", LOSSY.values(), ids=LOSSY)
def test_with_every_format_the_memory_reads_what_the_format_gives_back(caller, make_text, echo, made):
    state = init(caller, (make_text(),), echo, cache=made, memory=learned())
    plain = init(caller, (make_text(),), echo, cache=made)
    for block in range(6):
        latents, state = step(caller, state)
        without, plain = step(caller, plain)
        assert torch.equal(latents, without) == (block < 4)


def test_two_streams_and_guidance_keep_their_memories_apart(caller, make_text, echo):
    config = replace(echo, cfg=2.0)
    both = init(caller, (make_text(batch=2), make_text(9, batch=2)), config, memory=learned())
    got = torch.cat([latents for latents, _ in rollout(caller, both, 6)], 2)
    rows = torch.arange(2)
    for row in rows:
        text, negative = make_text(batch=2)[row : row + 1], make_text(9, batch=2)[row : row + 1]
        state, parts = init(caller, (text, negative), config, memory=learned()), []
        noise = _RowNoise(config.seed, int(row))
        for _ in range(6):
            latents, state = step(caller, state, noise=noise)
            parts.append(latents)
        torch.testing.assert_close(torch.cat(parts, 2)[0], got[row], rtol=0, atol=2e-4)


class _RowNoise:
    """One row of the noise of a batch of two."""

    def __init__(self, seed, row):
        self.seed, self.row = seed, row

    def draw(self, block, call, start_frame, like):
        whole = block_noise(self.seed, block, call, (2, *like.shape[1:]))
        return whole[self.row : self.row + 1].to(like)


def test_memory_is_refused_where_it_does_not_fit(caller, make_text, echo, config):
    from .memories import encoder

    with pytest.raises(ValueError, match="stands for 3 latent frames, and position preset infinity_rope has"):
        init(caller, (make_text(),), config, memory=learned())
    wide = replace(learned(), encoder=encoder(dim=48))
    with pytest.raises(ValueError, match=r"trained for a model of width 48 in 2 heads, this one has 24"):
        init(caller, (make_text(),), echo, memory=wide)
    other = replace(learned(), encoder=encoder(grid_height=3))
    with pytest.raises(ValueError, match=r"frames of 3 x 3 tokens .* have 2 x 3"):
        init(caller, (make_text(),), echo, memory=other)


def test_keys_are_turned_at_their_places_where_the_preset_says_so(caller, make_text, echo):
    shape = CacheShape(3, 1, 2, 3, 2, 12)
    state = init(caller, (make_text(),), echo, memory=learned())
    for _ in range(3):
        _, state = step(caller, state)
    frames = (3, 4, 5)
    plain = learned().recached(MemoryTokens(), state.cache, frames).current
    turned = learned(turned=True)
    keys, values = state.cache.keys_values(2, frames)
    factors = turns(frames, 2, 3, shape.head_dim)
    keys = turn(keys[0].double(), factors)[None].float()
    expected = turned.encoder.update(turned.encoder.query_init, keys, values)
    torch.testing.assert_close(
        turned.recached(MemoryTokens(), state.cache, frames).current, expected, rtol=0, atol=2e-6
    )
    assert (plain - expected).abs().max() > 1e-5


def test_a_block_that_fails_leaves_the_memory_as_it_was(model, caller, make_text, echo):
    state = init(caller, (make_text(),), echo, memory=learned())
    for _ in range(5):
        _, state = step(caller, state)

    def broken(q, k, v):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        step(ModelCaller(model, attention=broken), state)
    again, _ = step(caller, state)
    fresh = init(caller, (make_text(),), echo, memory=learned())
    assert torch.equal(again, list(rollout(caller, fresh, 6))[-1][0])
