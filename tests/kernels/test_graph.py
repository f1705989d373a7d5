"""Operations inside torch.compile: one graph without a break, and the same numbers."""

import torch
from rivulet.kernels.norm_rope import norm_rope
from rivulet.kernels.rebuild import rebuild
from rivulet.kernels.rope import rotate
from rivulet.tests.kernels.rows import table_of
from rivulet.tests.kernels.test_rebuild import CASES, case_of


def compiled(work):
    """Returns the function as a single graph; a break in it is an error."""
    torch._dynamo.reset()
    return torch.compile(work, fullgraph=True, backend="aot_eager")


def test_rotation_and_norm_are_nodes_of_one_graph(impl):
    x, gain = torch.randn(2, 5, 3, 8), torch.randn(24)
    table = table_of(torch.randn(5, 4, dtype=torch.float64))

    def work(x):
        return rotate(x * 2, table, impl) + norm_rope(x, gain, table, impl=impl)

    with torch.no_grad():
        assert torch.equal(compiled(work)(x), work(x))


def test_rebuilt_keys_and_values_are_written_from_a_graph(impl):
    cases = [case_of(**CASES[name]) for name in ("two tiers", "shared key")]
    shapes = [(*case.latents.codes.shape[:2], case.heads, case.width) for case in cases]

    def work(rooms):
        for case, (keys, values) in zip(cases, rooms, strict=True):
            rebuild(case.latents, case.up, table_of(case.angles), keys, values, case.inverse, impl)
        return sum(room.sum() for pair in rooms for room in pair)

    plain, traced = ([[torch.full(shape, torch.nan) for _ in "kv"] for shape in shapes] for _ in range(2))
    with torch.no_grad():
        assert torch.equal(compiled(work)(traced), work(plain))
    for before, after in zip(plain, traced, strict=True):
        assert torch.equal(before[0], after[0]) and torch.equal(before[1], after[1])
