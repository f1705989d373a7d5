"""Block-causal teacher forcing: each block is denoised beside the clean blocks the sampler would keep for it.

B clips, S = 1 + K streams (the clean one and K noisy ones), N blocks, L tokens per block, D channels, H
heads, E head width. The context is the sink (block 0) and the last `PAST_BLOCKS` blocks, at the position ids
of the `pocket` preset.
"""

import torch
from torch import Tensor, nn

from ...model_patches.arch.parts import sinusoid
from ...model_patches.arch.wan import WanModel
from ...model_patches.attention.rope import layout_of, rope_table

PAST_BLOCKS = 2


def context_slots(blocks: int, block_frames: int) -> tuple[Tensor, Tensor, Tensor]:
    """For each block: which blocks it sees [N, 1 + PAST], whether they are there, the first id of its slots.

    Slots are the sink, the past blocks from old to new, and the block itself; ids are [N, 1 + PAST + 1] in
    frames.
    """
    source, there, ids = [], [], []
    for i in range(blocks):
        past = [j for j in range(max(1, i - PAST_BLOCKS), i)]
        missing = PAST_BLOCKS - len(past)
        source.append([0] + [0] * missing + past)
        there.append([i > 0] + [False] * missing + [True] * len(past))
        own = (len(past) + (i > 0)) * block_frames
        first = [0] + [0] * missing + [block_frames * (k + 1) for k in range(len(past))] + [own]
        ids.append(first)
    return torch.tensor(source), torch.tensor(there), torch.tensor(ids)


def unfused_attention(q_BHLE: Tensor, k: Tensor, v: Tensor, seen: Tensor | None = None) -> Tensor:
    """Attention written out; on a CPU torch's fused one takes twice to seven times as long at these sizes."""
    scores = (q_BHLE @ k.transpose(-1, -2)) * q_BHLE.shape[-1] ** -0.5
    if seen is not None:
        scores = scores.masked_fill(~seen, float("-inf"))
    return scores.float().softmax(-1).to(v.dtype) @ v if v.dtype == torch.bfloat16 else scores.softmax(-1) @ v


class TeacherForcing(nn.Module):
    """Runs a WanModel's layers over all blocks of a clip at once."""

    def __init__(self, dit: WanModel, blocks: int, block_frames: int, grid: int) -> None:
        super().__init__()
        self.dit, self.block_frames, self.grid = dit, block_frames, grid
        source, there, ids = context_slots(blocks, block_frames)
        tokens = block_frames * grid * grid
        head = dit.dim // dit.num_heads
        device = next(dit.parameters()).device
        table = [
            rope_table(range(int(i), int(i) + block_frames), grid, grid, head, device, layout=layout_of(dit))
            for i in ids.flatten()
        ]
        self.register_buffer("source", source.to(device))
        self.register_buffer("rope", torch.stack(table).unflatten(0, ids.shape))  # [N, slots, L, E/2, 2]
        seen = torch.cat([there, torch.ones(blocks, 1, dtype=torch.bool)], 1).repeat_interleave(tokens, 1)
        self.register_buffer("seen", seen[:, None, None].to(device))  # [N, 1, 1, slots * L]

    def compile_blocks(self) -> None:
        """Let torch.compile fuse what a block does.

        Needs a C++ compiler on a CPU, takes minutes at the first step.
        """
        torch._dynamo.config.cache_size_limit = 64  # a program per clip length, stream count, last block
        self._block = torch.compile(self._block, dynamic=False)

    def forward(
        self,
        clean_BCTHW: Tensor | None,
        noisy_BKCTHW: Tensor,
        sigma_BKN: Tensor,
        texts_BVLC: Tensor,
        text_of_block_BN: Tensor,
    ) -> Tensor:
        """Flow [B, K, C, T, H, W] of the noisy streams; `sigma` is each block's share of noise.

        clean: what the past is made of; None for clips of one block, a stream's first, which has none.
        """
        dit, (B, K, _, T, H, W) = self.dit, noisy_BKCTHW.shape
        N = T // self.block_frames
        streams, sigma = noisy_BKCTHW, sigma_BKN
        if clean_BCTHW is not None:
            streams = torch.cat([clean_BCTHW[:, None], noisy_BKCTHW], 1)
            sigma = torch.cat([torch.zeros_like(sigma_BKN[:, :1]), sigma_BKN], 1)
        elif N > 1:
            raise ValueError(f"Teacher: {N} blocks without a clean stream; only a first block has no past.")
        x = dit.patch_embedding(streams.flatten(0, 1)).flatten(2).transpose(1, 2)
        x = x.unflatten(0, (B, -1)).unflatten(2, (N, -1))
        e = dit.time_embedding(sinusoid(1000 * sigma, dit.freq_dim).to(streams))
        e6 = dit.time_projection(e).unflatten(-1, (6, dit.dim))
        text = dit.text_embedding(texts_BVLC)
        for index, block in enumerate(dit.blocks):
            last = index == len(dit.blocks) - 1
            x = self._block(block, x, e6, text, text_of_block_BN, last and clean_BCTHW is not None)
        shift, scale = (dit.head.modulation + e[:, -K:, :, None]).unbind(3)
        y = dit.head.head(dit.head.norm(x) * (1 + scale[..., None, :]) + shift[..., None, :])
        y = y.unflatten(3, (self.block_frames, self.grid, self.grid)).unflatten(-1, (2, 2, -1))
        return y.permute(0, 1, 8, 2, 3, 4, 6, 5, 7).reshape(B, K, -1, T, H, W)

    def _block(
        self, block: nn.Module, x: Tensor, e6: Tensor, text: Tensor, text_of_block: Tensor, last: bool
    ) -> Tensor:
        m = (block.modulation + e6)[..., None, :].unbind(3)  # six of [B, S, N, 1, D]
        a = block.self_attn
        h = block.norm1(x) * (1 + m[1]) + m[0]
        k, v = self._heads(a.norm_k(a.k(h))), self._heads(a.v(h))
        if last:  # of the clean stream only keys and values are needed
            x, h, m = x[:, 1:], h[:, 1:], [each[:, 1:] for each in m]
        q = self._heads(a.norm_q(a.q(h)))
        x = x + a.o(self._self_attention(q, k, v)) * m[2]
        x = x + self._cross_attention(block, x, text, text_of_block)
        return x + block.ffn(block.norm2(x) * (1 + m[4]) + m[3]) * m[5]

    def _heads(self, x: Tensor) -> Tensor:
        return x.unflatten(-1, (self.dit.num_heads, -1))

    def _self_attention(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Every stream's block looks at the clean past and at itself."""
        (B, S, N), streams = q.shape[:3], k.shape[1]
        rope, source = self.rope[:N].to(q.dtype), self.source[:N]
        q, keys = self._rotate(q, rope[:, -1]), self._rotate(k[:, streams - S :], rope[:, -1])
        values, mask = v[:, streams - S :], None
        if N > 1:  # a first block has no past
            past_k = self._rotate(k[:, 0][:, source], rope[:, :-1]).flatten(
                2, 3
            )  # [B, N, (1 + PAST) L, H, E]
            past_v = v[:, 0][:, source].flatten(2, 3)
            keys = torch.cat([past_k[:, None].expand(-1, S, -1, -1, -1, -1), keys], 3)
            values = torch.cat([past_v[:, None].expand(-1, S, -1, -1, -1, -1), values], 3)
            mask = self.seen[:N].expand(B, S, -1, -1, -1, -1).flatten(0, 2)
        q, keys, values = (t.flatten(0, 2).transpose(1, 2) for t in (q, keys, values))
        y = unfused_attention(q, keys, values, mask)
        return y.transpose(1, 2).flatten(2).unflatten(0, (B, S, N))

    @staticmethod
    def _rotate(x: Tensor, rope: Tensor) -> Tensor:
        """x [..., L, H, E] by rope [..., L, E/2, 2]."""
        cos, sin = rope[..., None, :, :].unbind(-1)
        even, odd = x[..., 0::2], x[..., 1::2]
        return torch.stack([even * cos - odd * sin, even * sin + odd * cos], -1).flatten(-2)

    def _cross_attention(
        self, block: nn.Module, x: Tensor, text_BVLD: Tensor, text_of_block_BN: Tensor
    ) -> Tensor:
        c, (B, S, N, L, D) = block.cross_attn, x.shape
        rows = torch.arange(B, device=x.device)[:, None]
        k, v = self._heads(c.norm_k(c.k(text_BVLD))), self._heads(c.v(text_BVLD))
        k, v = (t[rows, text_of_block_BN].flatten(0, 1).transpose(1, 2) for t in (k, v))  # [B N, H, Ltext, E]
        q = self._heads(c.norm_q(c.q(block.norm3(x))))
        q = q.transpose(1, 2).reshape(B * N, S * L, self.dit.num_heads, -1).transpose(1, 2)
        y = unfused_attention(q, k, v).transpose(1, 2)
        return c.o(y.reshape(B, N, S, L, D).transpose(1, 2))
