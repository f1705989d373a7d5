"""Which patches a dynamic head reads: the bench's choice beside Forcing-KV's released function.

The function alone is taken out of its module, whose imports want a card.
"""

import ast
from types import SimpleNamespace

import pytest
import torch
from rivulet.tests.bench.heads_roles import RoleAttention, Roles
from rivulet.tests.bench.heads_seen import Glance

TOKENS, PATCHES, HEADS = 12, 6, 3
FRAMES, NEW = (0, 3, 4, 5, 6, 7, 8, 9, 10, 11), (9, 10, 11)  # a sink of one, a window of six, a block
DYNAMIC = [0, 2]


class CausalWanSelfAttention:
    """Holds what the released function shares between layers."""


@pytest.fixture(scope="module")
def compress(checkout):
    """Returns the released function."""
    path = checkout("forcing_kv") / "wan" / "modules" / "causal_model_forcingkv.py"
    module = ast.parse(path.read_text(encoding="utf-8"))
    wanted = {"dynamic_compression", "_fill_cache_from_chunk_indices_"}
    functions = [
        node for node in ast.walk(module) if isinstance(node, ast.FunctionDef) and node.name in wanted
    ]
    given = {
        "torch": torch,
        "F": torch.nn.functional,
        CausalWanSelfAttention.__name__: CausalWanSelfAttention,
    }
    exec(compile(ast.Module(functions, []), str(path), "exec"), given)
    return given["dynamic_compression"]


@pytest.mark.parametrize("seed", range(20))
def test_the_same_patches_are_read(compress, seed):
    draw = torch.Generator().manual_seed(seed)
    keys = torch.randn(1, len(FRAMES) * TOKENS, HEADS, 8, generator=draw, dtype=torch.float64)
    seen = Glance(1, FRAMES, NEW, TOKENS)
    roles = Roles((frozenset(), frozenset(range(HEADS)) - set(DYNAMIC)), HEADS)
    attention = RoleAttention(roles, 1, PATCHES)
    attention(seen, keys[:, -3 * TOKENS :], keys, keys)
    assert attention.chosen_BL is not None
    ours = keys[:, attention.chosen_BL[0]][:, :, DYNAMIC]

    def of(*frames):
        return keys[:, seen.tokens(frames)][:, :, DYNAMIC]

    # theirs is asked when frames 6 to 8 are written, with the one frame that it kept before them
    made = [torch.zeros(1, TOKENS, len(DYNAMIC), 8, dtype=torch.float64) for _ in range(2)]
    this = SimpleNamespace(args=SimpleNamespace(sim_retention_ratio=0.33), patch_dynamic_score=None)
    old, new = [of(5)] * 2, [of(6, 7, 8)] * 2
    assert compress(this, 1, *old, *new, PATCHES, TOKENS, TOKENS, 1, *made) == TOKENS
    assert torch.equal(ours, made[0])
