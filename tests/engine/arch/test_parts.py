import math

import pytest
import torch
from rivulet.kernels.modulate import gate, modulate
from rivulet.model_patches.arch import parts
from rivulet.model_patches.arch.effective import effective_gain
from rivulet.model_patches.arch.parts import (
    Residual,
    cross_attention,
    embed_time,
    head_forward,
    patchify,
    project_kv,
    project_qkv,
    residual_block,
    sinusoid,
    unpatchify,
)
from rivulet.model_patches.attention.sdpa import sdpa


def run_block(block, residual, modulation, keys, values, attend=sdpa):
    """Adds a block with attention over the tokens themselves and the text's keys and values."""
    residual_block(
        block,
        residual,
        modulation,
        lambda h: block.self_attn.o(attend(*project_qkv(block.self_attn, h)).flatten(2)),
        lambda h: cross_attention(block.cross_attn, h, lambda q: sdpa(q, keys, values)),
    )


def test_the_sinusoid_is_cosines_then_sines_from_fast_to_slow():
    got = sinusoid(torch.tensor([[1000.0, 0.0], [937.5, 3.0]]), 6)
    angles = [937.5 * 10000 ** (-i / 3) for i in range(3)]
    assert got.dtype == torch.float64 and got.shape == (2, 2, 6)
    expected = [math.cos(a) for a in angles] + [math.sin(a) for a in angles]
    # one rounding of an angle of up to 1000
    assert got[1, 0].tolist() == pytest.approx(expected, abs=1000 * 2.0**-52)
    assert got[0, 1].tolist() == [1, 1, 1, 0, 0, 0]


def test_time_vectors_are_per_frame(model):
    modulation, head = embed_time(model, torch.tensor([[500.0, 0.0, 500.0]]))
    assert modulation.shape == (1, 3, 6, 24) and head.shape == (1, 3, 24)
    assert torch.equal(modulation[:, 0], modulation[:, 2])
    assert not torch.allclose(modulation[:, 0], modulation[:, 1])


def test_unpatchify_puts_back_what_a_patch_was_made_of(model):
    x = torch.arange(2 * 3 * 2 * 4 * 6.0).reshape(2, 3, 2, 4, 6)
    tokens = x.unfold(3, 2, 2).unfold(4, 2, 2).permute(0, 2, 3, 4, 5, 6, 1).reshape(2, 12, 12)
    assert torch.equal(unpatchify(model, tokens, (2, 2, 3)), x)


def test_tokens_come_in_frame_row_column_order(model):
    x = torch.zeros(1, 4, 2, 4, 6)
    quiet, grid = patchify(model, x)
    assert grid == (2, 2, 3)
    x[:, :, 1, 2:4, 4:6] = 1
    changed = (patchify(model, x)[0] != quiet).any(-1)[0].nonzero().flatten()
    assert changed.tolist() == [1 * 6 + 1 * 3 + 2]


def test_modulation_and_gate_act_frame_by_frame():
    x, update = torch.randn(2, 6, 4), torch.randn(2, 6, 4)
    shift, scale = torch.randn(2, 3, 4), torch.randn(2, 3, 4)
    wide = [vector.repeat_interleave(2, 1) for vector in (shift, scale)]
    torch.testing.assert_close(modulate(x, shift, scale), x * (1 + wide[1]) + wide[0])
    torch.testing.assert_close(gate(x, update, shift), x + update * wide[0])
    torch.testing.assert_close(modulate(x, shift[:1, :1], scale[:1, :1]), x * (1 + scale[0, 0]) + shift[0, 0])


class Halved(torch.nn.LayerNorm):
    def forward(self, x):
        return super().forward(x) / 2


class Widened(torch.nn.LayerNorm):
    """As Wan's own: it does nothing else, in float32."""

    def forward(self, x):
        return super().forward(x.float()).type_as(x)


def changed_norms():
    """Yields (how, a norm that has to be called, what it gives of x)."""
    affine = torch.nn.LayerNorm(8)
    torch.nn.init.normal_(affine.weight)
    yield "weights", affine, affine
    replaced = torch.nn.LayerNorm(8, elementwise_affine=False)
    replaced.forward = lambda x: x / 2
    yield "forward", replaced, lambda x: x / 2
    hooked = torch.nn.LayerNorm(8, elementwise_affine=False)
    hooked.register_forward_hook(lambda module, given, result: result * 3)
    yield "hook", hooked, lambda x: torch.nn.functional.layer_norm(x, (8,)) * 3
    before = torch.nn.LayerNorm(8, elementwise_affine=False)
    before.register_forward_pre_hook(lambda module, given: (given[0] + torch.arange(8.0),))
    yield "hook before", before, lambda x: torch.nn.functional.layer_norm(x + torch.arange(8.0), (8,))
    weighted = torch.nn.LayerNorm(8, elementwise_affine=False)
    weighted.weight = torch.nn.Parameter(torch.arange(1.0, 9.0), requires_grad=False)
    yield "weight of its own", weighted, lambda x: torch.nn.functional.layer_norm(x, (8,), weighted.weight)
    yield "class", Halved(8, elementwise_affine=False), lambda x: torch.nn.functional.layer_norm(x, (8,)) / 2
    yield "other", torch.nn.RMSNorm(8), torch.nn.RMSNorm(8)
    yield "function", lambda x: x + 1, lambda x: x + 1


@pytest.mark.parametrize("norm", list(changed_norms()), ids=lambda each: each[0])
@pytest.mark.parametrize("adds", ["nothing", "an update", "a gated update"])
def test_a_norm_that_is_more_than_a_plain_one_is_called(norm, adds):
    _, layer, meant = norm
    x, update, (factor, shift, scale) = torch.randn(1, 6, 8), torch.randn(1, 6, 8), torch.randn(3, 1, 3, 8)
    gated = factor if adds == "a gated update" else None
    total = x if adds == "nothing" else x + update if gated is None else gate(x, update, gated)
    residual = Residual(x)
    if adds != "nothing":
        residual.add(update, gated)
    assert torch.equal(residual.normed(layer, shift, scale), modulate(meant(total), shift, scale))
    assert torch.equal(residual.tokens(), total)


def test_a_plain_norm_is_one_operation_with_what_is_around_it(model, monkeypatch):
    ran = []
    for name in ("norm_modulate", "add_norm_modulate"):
        plain = getattr(parts, name)
        monkeypatch.setattr(parts, name, lambda *a, plain=plain, name=name: ran.append(name) or plain(*a))
    modulation, time = embed_time(model, torch.tensor([[900.0, 20.0]]))
    keys, values = project_kv(model.blocks[0].cross_attn, torch.randn(1, 3, 24))
    residual = Residual(torch.randn(1, 6, 24))
    monkeypatch.setattr(model.blocks[0], "norm2", Widened(24, model.blocks[0].norm2.eps, False))
    for block in (model.blocks[0], model.blocks[0]):
        run_block(block, residual, modulation, keys, values)
    head_forward(model, residual, time)
    assert ran == ["norm_modulate", *["add_norm_modulate"] * 4]


def test_what_is_added_is_added_once_and_in_order():
    x, first, second, factor = *torch.randn(3, 1, 6, 8), torch.randn(1, 2, 8)
    residual = Residual(x)
    residual.add(first, factor)
    residual.add(second)
    want = gate(x, first, factor) + second
    assert torch.equal(residual.tokens(), want) and torch.equal(residual.tokens(), want)


def test_one_vector_for_all_frames_is_the_same_vector_for_each(model):
    text = torch.randn(1, 4, 24)
    block, x = model.blocks[0], torch.randn(1, 6, 24)
    keys, values = project_kv(block.cross_attn, text)
    modulation, time = embed_time(model, torch.tensor([[250.0]]))

    def run(modulation, time):
        residual = Residual(x)
        run_block(block, residual, modulation, keys, values)
        return head_forward(model, residual, time)

    each = run(modulation.expand(1, 3, -1, -1), time.expand(1, 3, -1))
    torch.testing.assert_close(run(modulation, time), each)


def test_queries_and_keys_are_normed_over_the_full_width(model):
    attention = model.blocks[1].self_attn
    q, k, v = project_qkv(attention, torch.randn(2, 6, 24))
    assert q.shape == k.shape == v.shape == (2, 6, 2, 12)
    for heads, norm in ((q, attention.norm_q), (k, attention.norm_k)):
        rms = (heads.flatten(2) / norm.weight).pow(2).mean(-1)
        torch.testing.assert_close(rms, torch.ones(2, 6))  # over all heads, not one


def test_training_can_go_through_the_parts(make_model):
    model = make_model().requires_grad_(True)
    x, grid = patchify(model, torch.randn(1, 4, 3, 4, 6))
    x = Residual(x)
    modulation, time = embed_time(model, torch.tensor([[900.0, 20.0, 0.0]]))
    text = model.text_embedding(torch.randn(1, 3, 6))
    for block in model.blocks:
        keys, values = project_kv(block.cross_attn, text)
        run_block(block, x, modulation, keys, values)
    unpatchify(model, head_forward(model, x, time), grid).square().mean().backward()
    assert all(parameter.grad.abs().sum() > 0 for parameter in model.parameters())


def test_a_bare_forward_says_what_to_call(model):
    with pytest.raises(RuntimeError, match=r"run it with .*\.attention\.forward\.bidirectional or .*step"):
        model(torch.zeros(1))


class Foreign(torch.Tensor):
    """A parameter's class that torch hands on to all that is made with it, and that copies nothing."""

    def detach(self):
        return self

    def clone(self, **_):
        return self


def test_a_parameters_own_class_goes_no_further_than_its_use(make_model):
    """As in a model that a pack for GGUF files has loaded."""
    ours, theirs = make_model(), make_model()
    for layer in theirs.modules():
        for name, value in list(layer._parameters.items()):
            if value is not None and not isinstance(layer, torch.nn.Linear):
                layer._parameters[name] = torch.nn.Parameter(Foreign(value.data), requires_grad=False)
    assert type(theirs.blocks[0].modulation + 1) is Foreign
    x, text, seen = torch.randn(1, 4, 2, 4, 6), torch.randn(1, 3, 6), {}
    for model in (ours, theirs):
        tokens, _ = patchify(model, x)
        modulation, time = embed_time(model, torch.tensor([[900.0, 20.0]]))
        block, made = (
            model.blocks[0],
            [tokens, effective_gain(model.blocks[0].self_attn.norm_k, 24, x.dtype, x.device)],
        )

        def attend(q, k, v, made=made):
            made += [q, k, v]
            return sdpa(q, k, v)

        keys, values = project_kv(block.cross_attn, model.text_embedding(text))
        residual = Residual(tokens)
        run_block(block, residual, modulation, keys, values, attend)
        seen[model] = [*made, keys, values, residual.tokens(), head_forward(model, residual, time)]
    assert all(torch.equal(one, other) for one, other in zip(seen[ours], seen[theirs], strict=True))
    # norm3 has parameters too: what it gives goes into a projection alone
    assert {type(each) for each in seen[theirs]} == {torch.Tensor}
