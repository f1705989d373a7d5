"""The transformer's formulas against its layers and against a real forward, operation by operation."""

from dataclasses import replace

import pytest
import torch
from rivulet.kernels import modulate
from rivulet.kernels.norm_rope import norm_rope_reference
from rivulet.kernels.rope import rotate_reference
from rivulet.model_patches.arch import parts
from rivulet.model_patches.arch.parts import embed_time
from rivulet.model_patches.arch.wan import WanConfig, WanModel
from rivulet.model_patches.attention import turning
from rivulet.model_patches.attention.forward import forward, write_past
from rivulet.model_patches.attention.positions import preset
from rivulet.model_patches.attention.text import TextRows, read_text
from rivulet.model_patches.cache import dense
from rivulet.model_patches.cache.core import SlotCache
from rivulet.model_patches.cache.dense import DenseStore
from rivulet.model_patches.cache.format import call_of
from rivulet.model_patches.cache.shapes import CacheShape
from rivulet.model_patches.geometry import Geometry
from rivulet.model_patches.plan import cost
from rivulet.model_patches.plan.cost import CallSizes, Work
from rivulet.model_patches.stream.config import StreamConfig
from rivulet.model_patches.stream.model_caller import ModelCaller
from rivulet.model_patches.stream.step import init, step
from rivulet.tests.engine.viewers.live import Watch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

GEOMETRY = Geometry(96, 64)  # 24 tokens a frame
SMALL = WanConfig(dim=48, ffn_dim=80, num_layers=3, num_heads=2, text_dim=6)
WIDE = WanConfig(dim=64, ffn_dim=1000, num_layers=2, num_heads=4, text_dim=6)
WAN_1_3B = WanConfig(dim=1536, ffn_dim=8960, num_layers=30)
WAN_14B = WanConfig(dim=5120, ffn_dim=13824, num_layers=40)
POCKET = preset("pocket")
TEXT_TOKENS = 7
CALLS = [(forward, cost.forward_work), (write_past, cost.cache_write_work)]


def products(q_BLND, k_BLND, v_BLND):
    """Attention as two matrix products: torch's counter does not know the CPU's fused one."""
    q, k, v = (x.transpose(1, 2) for x in (q_BLND, k_BLND, v_BLND))
    return ((q @ k.transpose(-1, -2)).softmax(-1) @ v).transpose(1, 2)


def made(sizes, dtype):
    torch.manual_seed(0)
    return WanModel(sizes).requires_grad_(False).eval().to(dtype)


def call_with_a_full_window(model, dtype, rows=1):
    """Returns (arguments of a call whose past is full, its sizes); made outside inference mode."""
    sizes = model.config
    shape = CacheShape(
        sizes.num_layers, rows, GEOMETRY.grid_height, GEOMETRY.grid_width, sizes.num_heads, sizes.head_dim
    )
    cache = SlotCache.empty(DenseStore(shape, 12, dtype, torch.device("cpu")))
    for start in (0, 3, 6, 9):
        cache = cache.begin(call_of(POCKET, start, 3)).commit(call_of(POCKET, start + 3, 3).cached)
    past = cache.begin(call_of(POCKET, 12, 3)).past(slice(0, rows))
    text = torch.randn(rows, TEXT_TOKENS, sizes.text_dim).to(dtype)
    kv = read_text(model, (text,)).groups[0].kv
    time = embed_time(model, torch.tensor([[500.0]]), dtype)
    x = torch.randn(GEOMETRY.latent_shape(3, rows)).to(dtype)
    tokens = GEOMETRY.frame_tokens
    call = CallSizes(rows, 3 * tokens, 12 * tokens, TEXT_TOKENS, dtype)
    return (model, x, time, TextRows(rows, kv), past), call


@pytest.mark.parametrize(
    "sizes", [SMALL, WIDE, replace(SMALL, in_channels=36, out_channels=4), WAN_1_3B, WAN_14B]
)
def test_parameters_are_those_of_the_layers(sizes):
    with torch.device("meta"):
        model = WanModel(sizes)
    assert cost.parameters(sizes) == sum(p.numel() for p in model.parameters())


@pytest.mark.parametrize(("call", "work"), CALLS)
@pytest.mark.parametrize("rows", [1, 2])
@pytest.mark.parametrize("sizes", [SMALL, WIDE])
@torch.no_grad()
def test_flops_are_those_that_torch_counts(sizes, rows, call, work):
    given, asked = call_with_a_full_window(made(sizes, torch.float32), torch.float32, rows)
    with FlopCounterMode(display=False) as counted:
        call(*given, products)
    assert work(sizes, asked).flops == counted.get_total_flops()


@torch.no_grad()
def test_the_flops_of_a_block_and_of_the_text_are_those_that_torch_counts():
    caller, config = ModelCaller(made(SMALL, torch.float32), attention=products), StreamConfig(GEOMETRY)
    text = torch.randn(1, TEXT_TOKENS, SMALL.text_dim)
    with FlopCounterMode(display=False) as counted:
        state = init(caller, (text,), config)
    # init also tries the patch embedding on one frame, to learn the model's grid
    one = CallSizes(1, GEOMETRY.frame_tokens, 0, 0, torch.float32)
    trial = cost._patchify(SMALL, one).flops
    assert counted.get_total_flops() == cost.text_work(SMALL, TEXT_TOKENS, torch.float32).flops + trial
    tokens = 3 * GEOMETRY.frame_tokens
    call = CallSizes(1, tokens, tokens, TEXT_TOKENS, torch.float32)
    with FlopCounterMode(display=False) as counted:
        step(caller, state)
    steps = len(config.sigmas)
    expected = cost.embed_time_work(SMALL, steps + 1) + cost.forward_work(SMALL, call) * steps
    assert counted.get_total_flops() == (expected + cost.cache_write_work(SMALL, call)).flops


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("rows", [1, 2])
@pytest.mark.parametrize("sizes", [SMALL, WIDE])
@torch.no_grad()
def test_live_bytes_are_the_peak_of_a_run(sizes, rows, dtype):
    given, asked = call_with_a_full_window(made(sizes, dtype), dtype, rows)
    with Watch() as seen:
        forward(*given)
    assert cost.live_bytes(sizes, asked) == seen.peak_bytes


@pytest.mark.parametrize(("call", "work"), CALLS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@torch.no_grad()
def test_the_bytes_of_the_products_are_those_of_a_run(dtype, call, work):
    given, asked = call_with_a_full_window(made(SMALL, dtype), dtype)
    with Watch() as seen:
        call(*given)
    assert work(SMALL, asked).operand_bytes == seen.operand_bytes


@pytest.mark.parametrize(("call", "work"), CALLS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@torch.no_grad()
def test_the_bytes_of_everything_else_are_those_of_a_run_within_a_fiftieth(dtype, call, work):
    """With one operation a norm, as on a GPU; what a plan leaves out are vectors of a frame."""
    sizes = replace(SMALL, dim=768, num_heads=6)
    model = made(sizes, dtype)
    for block in model.blocks:
        for attention in (block.self_attn, block.cross_attn):
            attention.norm_q = attention.norm_k = nn.LayerNorm(768).to(dtype)
    given, asked = call_with_a_full_window(model, dtype)
    with Watch() as seen:
        call(*given)
    assert work(sizes, asked).pass_bytes == pytest.approx(seen.pass_bytes, rel=0.02)


@torch.library.custom_op("tests::rotate", mutates_args=())
def rotate_in_one_pass(x: torch.Tensor, table: torch.Tensor) -> torch.Tensor:
    return rotate_reference(x, table)


@torch.library.custom_op("tests::norm_rope", mutates_args=())
def norm_and_rotate_in_one_pass(
    x: torch.Tensor, gain: torch.Tensor, table: torch.Tensor, eps: float
) -> torch.Tensor:
    return norm_rope_reference(x, gain, table, eps, None, torch.empty_like(x))


class OneOperation(nn.RMSNorm):
    """Asked for its gain in one operation, as on a GPU."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return nn.functional.layer_norm(x, self.normalized_shape, self.weight)


@torch.library.custom_op("tests::norm", mutates_args=())
def norm_in_one_pass(x: torch.Tensor, shift: torch.Tensor, scale: torch.Tensor, eps: float) -> torch.Tensor:
    return modulate.norm_modulate_reference(x, shift, scale, eps)


@torch.library.custom_op("tests::add_norm", mutates_args=())
def add_and_norm_in_one_pass(
    x: torch.Tensor,
    update: torch.Tensor,
    gate: torch.Tensor | None,
    shift: torch.Tensor,
    scale: torch.Tensor,
    eps: float,
) -> tuple[torch.Tensor, torch.Tensor]:
    return modulate.add_norm_modulate_reference(x, update, gate, shift, scale, eps)


@pytest.fixture
def one_pass_each(monkeypatch):
    """Has each kernel counted as what it is: one operation on its tensors."""
    monkeypatch.setattr(parts, "norm_modulate", norm_in_one_pass)
    monkeypatch.setattr(parts, "add_norm_modulate", add_and_norm_in_one_pass)
    monkeypatch.setattr(turning, "runs_kernel", lambda x, table: True)
    monkeypatch.setattr(turning, "only_scales", lambda *_: True)
    monkeypatch.setattr(turning, "norm_rope", lambda *given, out: norm_and_rotate_in_one_pass(*given))
    # the result of the count is the one that is read; the buffer is left alone
    monkeypatch.setattr(dense, "rotate", lambda x, table, out: rotate_in_one_pass(x, table))


@pytest.mark.parametrize(("call", "work"), CALLS)
@torch.no_grad()
def test_with_kernels_the_bytes_of_everything_else_are_those_of_one_pass_each(one_pass_each, call, work):
    sizes = replace(SMALL, dim=768, num_heads=6)
    model = made(sizes, torch.bfloat16)
    for block in model.blocks:
        for attention in (block.self_attn, block.cross_attn):
            attention.norm_q = attention.norm_k = nn.LayerNorm(768).to(torch.bfloat16)
        for name in ("norm_q", "norm_k"):
            setattr(block.self_attn, name, OneOperation(768, eps=1e-6).to(torch.bfloat16))
    given, asked = call_with_a_full_window(model, torch.bfloat16)
    with Watch() as seen:
        call(*given)
    saved = work(sizes, asked).pass_bytes - work(sizes, replace(asked, kernels=True)).pass_bytes
    assert saved > 0.4 * work(sizes, asked).pass_bytes
    assert work(sizes, replace(asked, kernels=True)).pass_bytes == pytest.approx(seen.pass_bytes, rel=0.02)


def test_work_adds_up_and_takes_the_slower_of_both_bounds():
    work = Work(100, 10, 4) + Work(20, 2, 1) * 2
    assert work == Work(140, 14, 6)
    assert work.seconds(matmul_flops=10, bytes_per_second=2) == 14 + 3
    assert work.seconds(matmul_flops=1000, bytes_per_second=2) == 7 + 3


@pytest.mark.parametrize(
    ("sizes", "picture", "window", "tera"),
    [
        (WAN_1_3B, (832, 480), 6, 20.2),
        (WAN_1_3B, (832, 480), 9, 24.3),
        (WAN_1_3B, (832, 480), 21, 40.4),
        (WAN_1_3B, (1280, 720), 12, 114),
        (WAN_14B, (832, 480), 9, 168),
    ],
)
def test_real_sizes_take_the_work_that_was_counted_elsewhere(sizes, picture, window, tera):
    """TFLOP of one forward of 3 latent frames, counted by hand from the published sizes."""
    tokens = Geometry(*picture).frame_tokens
    call = CallSizes(1, 3 * tokens, window * tokens, 512, torch.bfloat16)
    assert cost.forward_work(sizes, call).flops / 1e12 == pytest.approx(tera, rel=0.005)
