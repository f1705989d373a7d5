"""Cache formats for the tiny model of conftest: 3 layers of width 24, in groups of 8."""

import torch
from rivulet.model_patches.cache.basis import Basis, LayerBasis, LayerPlan
from rivulet.model_patches.cache.dense import DENSE
from rivulet.model_patches.cache.int8 import Int8Format
from rivulet.model_patches.cache.latent import LatentFormat
from rivulet.model_patches.cache.shapes import Exact

GROUP, WIDTH = 8, 24


def layer_basis(layer, width=WIDTH):
    """Directions of very different length, as whitening makes them."""
    generator = torch.Generator().manual_seed(70 + layer)
    turn = torch.linalg.qr(torch.randn(width, width, dtype=torch.float64, generator=generator))[0]
    lengths = torch.logspace(0.5, -0.5, width, dtype=torch.float64)
    mean = 0.3 * torch.randn(width, dtype=torch.float64, generator=generator)
    return LayerBasis(mean.float(), (turn / lengths).float(), (turn * lengths).T.contiguous().float())


def basis(*plan, width=WIDTH, group=GROUP):
    layers = tuple(layer_basis(i, width) if p.kind == "latent" else None for i, p in enumerate(plan))
    return Basis(layers, plan, group)


def latent(rank, wide):
    return LayerPlan("latent", rank, wide)


FORMATS = {
    "dense": DENSE,
    "int8": Int8Format(GROUP),
    "int8_exact": Int8Format(GROUP, Exact(sink=1, newest=1)),
    "latent": LatentFormat(basis(latent(24, 24), latent(24, 8), latent(16, 0))),
    "latent_mixed_exact": LatentFormat(
        basis(latent(16, 8), LayerPlan("int8"), LayerPlan("dense")), Exact(sink=1, newest=1)
    ),
}
LOSSY = {name: made for name, made in FORMATS.items() if name != "dense"}
