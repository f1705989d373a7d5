"""Triton compiles a kernel anew for arguments of another kind; a stream must not bring any in its middle.

It looks at each pointer (is it a multiple of 16 bytes) and each integer (is it 1, a multiple of 16, does it
fit into 32 bits). Sizes are such that a frame's numbers do not end at a multiple of 16 bytes, as at 720 x 480
with 1350 tokens.
"""

import pytest
import torch
from rivulet.kernels import latent_write, quantize, rebuild, rope
from rivulet.model_patches.arch.mla import MlaModel, MlaSizes
from rivulet.model_patches.arch.rotary import RopeLayout
from rivulet.model_patches.arch.wan import WanConfig, WanModel
from rivulet.model_patches.cache.basis import Basis, LayerBasis, LayerPlan
from rivulet.model_patches.cache.dense import DENSE
from rivulet.model_patches.cache.int8 import Int8Format
from rivulet.model_patches.cache.latent import LatentFormat
from rivulet.model_patches.cache.mla import MlaFormat
from rivulet.model_patches.cache.shapes import NO_EXACT, Exact
from rivulet.model_patches.geometry import Geometry
from rivulet.model_patches.stream.config import StreamConfig
from rivulet.model_patches.stream.model_caller import ModelCaller
from rivulet.model_patches.stream.step import init, rollout

SIZES = WanConfig(dim=256, ffn_dim=32, num_layers=1, num_heads=2, text_dim=8, in_channels=4, out_channels=4)
LATENTS = MlaSizes(64, 64, RopeLayout.truncated(128, 32))


def latent_format(rank, wide, group=32, exact=NO_EXACT):
    one = LayerBasis(torch.zeros(256), torch.eye(256), torch.eye(256))
    return LatentFormat(Basis((one,), (LayerPlan("latent", rank, wide),), group), exact)


FORMATS = {
    "dense": lambda model: DENSE,
    "int8": lambda model: Int8Format(),
    "int8 exact": lambda model: Int8Format(exact=Exact(1, 1)),
    "latent": lambda model: latent_format(192, 64),
    "latent exact": lambda model: latent_format(192, 64, exact=Exact(1, 1)),
    "latent int8": lambda model: latent_format(64, 64),
    "mla": MlaFormat.for_model,
    "mla-int8": lambda model: MlaFormat.for_model(model, int8=True),
}


def kinds(launch):
    """What Triton's launcher looks up compiled code by, argument by argument."""
    from triton._C.libtriton import native_specialize_impl
    from triton.backends.nvidia.compiler import CUDABackend
    from triton.runtime.jit import JITFunction

    kernel = launch.kernel
    if not isinstance(kernel, JITFunction):  # the interpreter's, which looks at no argument
        kernel = JITFunction(kernel.fn, **kernel.kwargs)
    return {
        p.name: native_specialize_impl(
            CUDABackend,
            launch.arguments[p.name],
            False,
            not p.do_not_specialize,
            not p.do_not_specialize_on_alignment,
        )
        for p in kernel.params
        if p.name in launch.arguments
    }


def standins(note):
    """Yields (module, function in the place of its own): each tells of its launch, torch does the work."""
    from rivulet.kernels._triton import latent_write as written
    from rivulet.kernels._triton import norm_rope
    from rivulet.kernels._triton import quantize as quantized
    from rivulet.kernels._triton import rebuild as rebuilt
    from rivulet.kernels._triton import rope as rotated

    def rotate_triton(x, table, out):
        note(norm_rope.launch(x, table, out, norm=False))
        return rope.rotate_reference(x, table, out)

    def rebuild_triton(*given):
        note(rebuilt.launch(*given))
        rebuild.rebuild_reference(*given)

    def latent_write_triton(*given):
        note(written.launch(*given))
        latent_write.latent_write_reference(*given)

    def quantize_triton(x, group, bits, out, scales):
        note(quantized.quantize_launch(*(quantized._three(t) for t in (x, out, scales)), group, bits))
        quantize.quantize_reference(x, group, bits, out, scales)

    def dequantize_triton(codes, scales, group, bits, out):
        note(quantized.dequantize_launch(*(quantized._three(t) for t in (codes, scales, out)), group, bits))
        quantize.dequantize_reference(codes, scales, group, bits, out)

    yield from ((rotated, rotate_triton), (rebuilt, rebuild_triton), (written, latent_write_triton))
    yield from ((quantized, quantize_triton), (quantized, dequantize_triton))


@pytest.fixture
def launched(plain_triton, monkeypatch):
    """Returns the kinds of arguments of every launch, by kernel and constants; torch does the work."""
    seen = {}

    def note(launch):
        constants = tuple(launch.constants.items())
        seen.setdefault((launch.kernel.fn.__name__, constants), []).append(kinds(launch))

    for module, function in standins(note):
        monkeypatch.setattr(module, function.__name__, function)
    for module in (rope, rebuild, latent_write, quantize):
        monkeypatch.setattr(module, "uses_triton", lambda *_, **__: True)
    return seen


@pytest.mark.parametrize("preset", ["infinity_rope", "self_forcing"])
@pytest.mark.parametrize("size", [(80, 48), (96, 80)], ids=["15 tokens", "30 tokens"])
@pytest.mark.parametrize("name", FORMATS)
def test_a_stream_compiles_nothing_in_its_middle(launched, name, size, preset):
    """The window of self_forcing has no end: its buffers are made anew, of other sizes."""
    torch.manual_seed(0)
    model = MlaModel(SIZES, LATENTS) if name.startswith("mla") else WanModel(SIZES)
    model = model.requires_grad_(False).eval()
    config = StreamConfig(Geometry(*size, latent_channels=4), preset, 3, (1.0,))
    caller = ModelCaller(model)
    state = init(caller, (torch.randn(1, 3, 8),), config, cache=FORMATS[name](model))
    *_, (latents, _) = rollout(caller, state, 20 if preset == "infinity_rope" else 7)
    assert latents.isfinite().all() and launched
    for (kernel, _), calls in launched.items():
        several = {
            argument: {call[argument] for call in calls}
            for argument in calls[0]
            if len({call[argument] for call in calls}) > 1
        }
        assert not several, f"{kernel}: {several}"
