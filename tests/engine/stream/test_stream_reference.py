"""The stream beside a second implementation that keeps no cache at all.

The reference runs the whole past again for every call, in float64 and with matrices taken straight from the
state dict: all frames so far in one sequence, the past ones clean at timestep 0, each block seeing only what
the preset lets it see, at the positions it sees it at.
"""

from dataclasses import dataclass, replace

import pytest
import torch
import torch.nn.functional as F
from rivulet.model_patches.attention.positions import PRESETS, plan
from rivulet.model_patches.sampler.noise import block_noise
from rivulet.model_patches.stream.model_caller import ModelCaller
from rivulet.model_patches.stream.step import init, step
from rivulet.model_patches.stream.switch import switch


def linear(weights, name, x):
    return x @ weights[f"{name}.weight"].T + weights[f"{name}.bias"]


def rms(weights, name, x):
    return x / (x.pow(2).mean(-1, keepdim=True) + 1e-6).sqrt() * weights[f"{name}.weight"]


def layer_norm(x):
    centred = x - x.mean(-1, keepdim=True)
    return centred / (centred.pow(2).mean(-1, keepdim=True) + 1e-6).sqrt()


def turns(ids, rows, columns, width):
    """Complex factors [frames*rows*columns, width/2] of tokens in frame, row, column order."""
    pairs = width // 2
    side = pairs // 3

    def axis(places, count):
        return torch.tensor(
            [[place * 10000 ** (-i / count) for i in range(count)] for place in places], dtype=torch.float64
        )

    grid = (len(ids), rows, columns)
    parts = [
        axis(ids, pairs - 2 * side)[:, None, None],
        axis(range(rows), side)[None, :, None],
        axis(range(columns), side)[None, None],
    ]
    angles = torch.cat([part.expand(*grid, -1) for part in parts], -1).flatten(0, 2)
    return torch.polar(torch.ones_like(angles), angles)


def turn(x_LND, factors):
    as_complex = torch.view_as_complex(x_LND.unflatten(-1, (-1, 2)).contiguous())
    return torch.view_as_real(as_complex * factors[:, None]).flatten(-2)


def softmax_attention(q_LND, k_LND, v_LND):
    scores = torch.einsum("qnd,knd->nqk", q_LND, k_LND) / q_LND.shape[-1] ** 0.5
    return torch.einsum("nqk,knd->qnd", scores.softmax(-1), v_LND)


@dataclass
class Block:
    """What one block of the sequence is and sees."""

    frames: list[int]
    seen: list[int]
    ids: tuple[int, ...]  # of `seen`
    query_ids: tuple[int, ...]
    text: torch.Tensor  # [L, E]


class Reference:
    """Wan's forward over a whole sequence of blocks, one stream, one text each."""

    def __init__(self, weights, heads, layers, geometry):
        self.weights = {key: value.double() for key, value in weights.items()}
        self.heads, self.layers, self.geometry = heads, layers, geometry

    def flow(self, latents_CTHW, timesteps, blocks):
        """Flow of every frame; timesteps has one number a frame."""
        w, g = self.weights, self.geometry
        patches = latents_CTHW.unfold(2, 2, 2).unfold(3, 2, 2)  # C T h w 2 2
        x = patches.permute(1, 2, 3, 0, 4, 5).flatten(3).flatten(0, 2)
        x = x @ w["patch_embedding.weight"].flatten(1).T + w["patch_embedding.bias"]
        # an angle of 1000 rounds to 1e-13 in float64: written as Wan writes it, both round alike
        angles = timesteps[:, None] * 10000 ** -(torch.arange(128).double() / 128)
        wave = torch.cat([angles.cos(), angles.sin()], -1)
        e = linear(w, "time_embedding.2", F.silu(linear(w, "time_embedding.0", wave)))
        six = linear(w, "time_projection.1", F.silu(e)).unflatten(-1, (6, -1))
        per_token = torch.arange(len(timesteps)).repeat_interleave(g.frame_tokens)
        for layer in range(self.layers):
            x = self.block(f"blocks.{layer}", x, six[per_token], blocks)
        m = w["head.modulation"][0] + e[per_token][:, None]
        x = linear(w, "head.head", layer_norm(x) * (1 + m[:, 1]) + m[:, 0])
        x = x.reshape(len(timesteps), g.grid_height, g.grid_width, 2, 2, -1)
        return x.permute(5, 0, 1, 3, 2, 4).reshape(-1, len(timesteps), *latents_CTHW.shape[2:])

    def block(self, name, x, six, blocks):
        w = self.weights
        m = (w[f"{name}.modulation"] + six).unbind(1)
        x = x + self.own(f"{name}.self_attn", layer_norm(x) * (1 + m[1]) + m[0], blocks) * m[2]
        n3 = layer_norm(x) * w[f"{name}.norm3.weight"] + w[f"{name}.norm3.bias"]
        x = x + self.cross(f"{name}.cross_attn", n3, blocks)
        h = linear(w, f"{name}.ffn.0", layer_norm(x) * (1 + m[4]) + m[3])
        return x + linear(w, f"{name}.ffn.2", F.gelu(h, approximate="tanh")) * m[5]

    def heads_of(self, x):
        return x.unflatten(-1, (self.heads, -1))

    def own(self, name, x, blocks):
        w, g = self.weights, self.geometry
        q, k = (self.heads_of(rms(w, f"{name}.norm_{a}", linear(w, f"{name}.{a}", x))) for a in "qk")
        v = self.heads_of(linear(w, f"{name}.v", x))
        grid = (g.grid_height, g.grid_width, q.shape[-1])
        out = []
        for block in blocks:
            mine, seen = (
                torch.cat([torch.arange(g.frame_tokens) + f * g.frame_tokens for f in frames])
                for frames in (block.frames, block.seen)
            )
            keys, queries = turns(block.ids, *grid), turns(block.query_ids, *grid)
            out.append(softmax_attention(turn(q[mine], queries), turn(k[seen], keys), v[seen]))
        return linear(w, f"{name}.o", torch.cat(out).flatten(1))

    def cross(self, name, x, blocks):
        w = self.weights
        q = self.heads_of(rms(w, f"{name}.norm_q", linear(w, f"{name}.q", x)))
        out, start = [], 0
        for block in blocks:
            stop = start + len(block.frames) * self.geometry.frame_tokens
            text = linear(w, "text_embedding.0", block.text.double())
            text = linear(w, "text_embedding.2", F.gelu(text, approximate="tanh"))
            k = self.heads_of(rms(w, f"{name}.norm_k", linear(w, f"{name}.k", text)))
            out.append(softmax_attention(q[start:stop], k, self.heads_of(linear(w, f"{name}.v", text))))
            start = stop
        return linear(w, f"{name}.o", torch.cat(out).flatten(1))


def seen_by(preset, start, count, text):
    end = start + count
    sink = list(range(min(preset.sink_frames, end)))
    rest = list(range(len(sink), end))
    window = rest if preset.window_frames is None else rest[-preset.window_frames :]
    p = plan(preset, start, count)
    return Block(list(range(start, end)), sink + window, p.sink + p.window, p.query, text)


def sample(reference, config, row, texts, negative):
    """Latents of all blocks of one row of the batch, block i with texts[i]."""
    g, count = config.geometry, config.block_frames
    made = torch.zeros(g.latent_channels, 0, g.latent_height, g.latent_width, dtype=torch.float64)
    branches = [texts] if negative is None else [texts, [negative] * len(texts)]
    for block in range(len(texts)):

        def fresh(call, block=block):
            shape = g.latent_shape(count, row + 1)
            return block_noise(config.seed, block, call, shape, dtype=torch.float64)[row]

        levels = config.sigmas if block else config.first_sigmas or config.sigmas
        x = levels[0] * fresh(0)
        for call, sigma in enumerate(levels):
            times = torch.tensor([0.0] * made.shape[1] + [1000 * sigma] * count, dtype=torch.float64)
            flows = []
            for branch in branches:
                blocks = [seen_by(config.preset, i * count, count, branch[i]) for i in range(block + 1)]
                flows.append(reference.flow(torch.cat([made, x], 1), times, blocks)[:, -count:])
            v = flows[0] if negative is None else flows[1] + config.cfg * (flows[0] - flows[1])
            x0 = x - sigma * v
            if call + 1 < len(levels):
                x = (1 - levels[call + 1]) * x0 + levels[call + 1] * fresh(call + 1)
        made = torch.cat([made, x0], 1)
    return made


BATCH = 2
CASES = {
    "whole past, absolute ids": ("self_forcing", 3, 4, 1.0, None),
    "whole past, block of one": ("self_forcing", 1, 5, 1.0, None),
    "window and sink, absolute ids": ("longlive", 3, 6, 1.0, None),
    "window and sink, bounded ids": ("infinity_rope", 3, 5, 1.0, None),
    "sink longer than the block": ("reward_forcing", 2, 7, 1.0, None),
    "window of single frames": ("videomla_7", 1, 9, 1.0, None),
    "sink far before the window": ("echo", 3, 6, 1.0, None),
    "guided": ("infinity_rope", 3, 4, 2.5, 5),
    "guided by a shorter negative": ("infinity_rope", 3, 4, 2.5, 2),
}


def stream(make_model, make_text, config, texts, negative_tokens):
    """Latents of as many blocks as there are texts, by number."""

    def prompt(number):
        text = make_text(number, 5, BATCH, config.dtype)
        return (text, make_text(9, negative_tokens, BATCH, config.dtype)) if negative_tokens else (text,)

    caller = ModelCaller(make_model(config.dtype))
    state, parts = init(caller, prompt(texts[0]), config), []
    for i, number in enumerate(texts):
        if i and number != texts[i - 1]:
            state = switch(caller, state, prompt(number), "smooth")
        latents, state = step(caller, state)
        parts.append(latents)
    return torch.cat(parts, 2)


@pytest.mark.parametrize("case", CASES)
def test_a_stream_equals_the_whole_past_run_again(make_model, make_text, config, case):
    preset, block_frames, blocks, cfg, negative_tokens = CASES[case]
    config = replace(config, preset=PRESETS[preset], block_frames=block_frames, cfg=cfg, sigmas=(1.0, 0.7))
    if case == "guided":
        config = replace(config, first_sigmas=(1.0, 0.8, 0.3))
    texts = [1, 1, *[2] * (blocks - 2)]
    errors = {}
    reference, row = Reference(make_model().state_dict(), 2, 3, config.geometry), BATCH - 1
    negative = make_text(9, negative_tokens, BATCH)[row] if negative_tokens else None
    exact = sample(reference, config, row, [make_text(n, 5, BATCH)[row] for n in texts], negative)
    for dtype in (torch.float32, torch.float64):
        got = stream(make_model, make_text, replace(config, dtype=dtype), texts, negative_tokens)
        assert got.dtype == dtype
        errors[dtype] = (got[row] - exact).abs().max().item()
    # the same maths: the error is rounding alone and shrinks with it
    shrink = torch.finfo(torch.float64).eps / torch.finfo(torch.float32).eps
    assert 0 < errors[torch.float64] <= 8 * shrink * errors[torch.float32], errors
    assert errors[torch.float32] < 1e-3 * exact.abs().max()
