import math

import pytest
import torch
from rivulet.model_patches.arch.effective import effective_gain
from rivulet.model_patches.arch.parts import (
    cross_attention,
    embed_time,
    gate,
    head_forward,
    modulate,
    patchify,
    project_kv,
    project_qkv,
    residual_block,
    sinusoid,
    unpatchify,
)
from rivulet.model_patches.attention.sdpa import sdpa


def run_block(block, x, modulation, keys, values, attend=sdpa):
    """Returns a block's tokens with attention over themselves and the text's keys and values."""
    return residual_block(
        block,
        x,
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


def test_one_vector_for_all_frames_is_the_same_vector_for_each(model):
    text = torch.randn(1, 4, 24)
    block, x = model.blocks[0], torch.randn(1, 6, 24)
    keys, values = project_kv(block.cross_attn, text)
    modulation, time = embed_time(model, torch.tensor([[250.0]]))

    def run(modulation, time):
        out = run_block(block, x, modulation, keys, values)
        return head_forward(model, out, time)

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
    modulation, time = embed_time(model, torch.tensor([[900.0, 20.0, 0.0]]))
    text = model.text_embedding(torch.randn(1, 3, 6))
    for block in model.blocks:
        keys, values = project_kv(block.cross_attn, text)
        x = run_block(block, x, modulation, keys, values)
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
        out = run_block(block, tokens, modulation, keys, values, attend)
        seen[model] = [*made, keys, values, out, head_forward(model, out, time)]
    assert all(torch.equal(one, other) for one, other in zip(seen[ours], seen[theirs], strict=True))
    # norm3 has parameters too: what it gives goes into a projection alone
    assert {type(each) for each in seen[theirs]} == {torch.Tensor}
