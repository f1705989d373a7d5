"""The bytes of a format against those that the cache allocates."""

import pytest
import torch
from rivulet.model_patches.arch.wan import WanConfig, WanModel
from rivulet.model_patches.cache.basis import Basis, LayerBasis, LayerPlan
from rivulet.model_patches.cache.cost import DENSE_COST
from rivulet.model_patches.cache.dense import DenseStore
from rivulet.model_patches.cache.int8 import INT8
from rivulet.model_patches.cache.latent import LatentFormat
from rivulet.model_patches.cache.shapes import CacheShape

META = torch.device("meta")
WAN = CacheShape(layers=30, rows=1, grid_height=30, grid_width=52, heads=12, head_dim=128)

SHAPES = [CacheShape(3, 1, 2, 3, 2, 12), CacheShape(2, 2, 4, 5, 3, 8), CacheShape(30, 1, 1, 2, 12, 128)]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("shape", SHAPES)
def test_dense_bytes_are_the_allocated_ones(shape, dtype):
    store = DenseStore(shape, 7, dtype, torch.device("cpu"))
    assert DENSE_COST.allocated_bytes(shape, 7, dtype) == store.kv.nbytes == store.bytes
    assert DENSE_COST.workspace_bytes(shape, 7, dtype) == store.workspace_bytes


@pytest.mark.parametrize(("frames", "gigabytes"), [(21, 6.04), (7, 2.01), (6, 1.73)])
def test_the_published_totals_of_the_dense_cache_are_allocated(frames, gigabytes):
    """Wan 1.3B at 832 x 480: 6.04 GB for 21 latent frames (VideoMLA, arXiv 2605.30351)."""
    store = DenseStore(WAN, frames, torch.bfloat16, META)
    assert round(store.bytes / 1e9, 2) == gigabytes
    assert store.bytes == DENSE_COST.allocated_bytes(WAN, frames, torch.bfloat16)


def wan_latents(rank, wide):
    layer = LayerBasis(torch.zeros(1536), torch.zeros(1536, rank), torch.zeros(rank, 1536))
    return LatentFormat(Basis((layer,) * 30, (LayerPlan("latent", rank, wide),) * 30, group=64))


@pytest.mark.parametrize(
    ("made", "bytes_a_token"),
    [
        (INT8, 2 * (1536 + 24 * 2)),
        (wan_latents(768, 256), 256 + 512 // 2 + 12 * 2 + 2),
        (wan_latents(1536, 1536), 1536 + 24 * 2 + 2),
    ],
)
def test_lossy_formats_allocate_what_they_say_at_true_sizes(made, bytes_a_token):
    with torch.device(META):
        model = WanModel(WanConfig(dim=1536, ffn_dim=8960, num_layers=30))
    cache = made.empty(model, WAN, 21, torch.bfloat16, META)
    assert made.cost.token_bytes(WAN, torch.bfloat16) == bytes_a_token
    assert cache.bytes == 21 * 1560 * 30 * bytes_a_token == made.cost.allocated_bytes(WAN, 21, torch.bfloat16)
    assert cache.store.workspace_bytes == made.cost.workspace_bytes(WAN, 21, torch.bfloat16)


def test_wan_keeps_the_published_bytes_of_a_token():
    """6144 a layer: VideoMLA (arXiv 2605.30351) counts 2 * 12 * 128 scalars."""
    assert DENSE_COST.token_bytes(SHAPES[2], torch.bfloat16) == 6144
