"""A linear map of the pocket VAE's latents: how large a thing is in them decides whether it is learnt.

A VAE may say the colour of an object in a direction of its latents that hardly moves, while the ground fills
two others. Decoded, both look right; but the diffusion model is taught by the squared error of latents under
noise, and would learn that colour last or never. So, when training of the encoder ends, its latents are
rotated and scaled: what distinguishes two objects gets most of the variance. The map is linear and is folded
into the two 1x1 convolutions at the latents; the VAE makes the same pictures as before, and the shipped file
has the per-channel statistics Wan 2.1 publishes, so that core's fixed numbers fit it.
"""

from dataclasses import replace
from itertools import combinations

import torch
from torch import Tensor

from ...model_patches.vae.wan import LATENTS_MEAN, LATENTS_STD, WanVAE
from .. import world
from ..half_products import half_products
from .clips import encode_pictures
from .vae_batches import clip_batch

LEAST_VARIANCE = 0.03  # of a direction that may be stretched to full size; the decoder ignores smaller ones
LEAST_SHARE = 0.08  # of the variance of the direction that distinguishes most
ROUNDS = 40


@torch.no_grad()
def sample_latents(vae: WanVAE, size: int, clips: int = 48, frames: int = 33) -> Tensor:
    """Latents of fresh clips [C, cells].

    The first latent of a clip is left out, it is of another kind.
    """
    generator = torch.Generator().manual_seed(99)
    device = next(vae.parameters()).device
    latents = []
    for _ in range(0, clips, 4):
        pixels = clip_batch(4, frames, size, generator).pixels
        with half_products(device):
            latents.append(vae.encode(pixels.to(device))[0].float().cpu()[:, :, 1:])
    return torch.cat(latents).movedim(1, 0).flatten(1)


def standardizing_map(latents_CN: Tensor) -> tuple[Tensor, Tensor]:
    """(offset [C], matrix [C, C]) that give each channel mean 0 and spread 1, each by itself."""
    return latents_CN.mean(1), torch.diag(1 / latents_CN.std(1))


def separating_map(latents_CN: Tensor, scatters_PCC: Tensor) -> tuple[Tensor, Tensor]:
    """(offset [C], matrix [C, C]) under which the differences of the scatters fill the latents.

    latents_CN: latents of common clips. scatters_PCC: for each pair of looks to be distinguished, the scatter
    of their difference, as from `look_scatters`. Directions get variance by how much they distinguish,
    weighed towards the nearest pairs; the sum of variances stays C, shared evenly by the channels.
    """
    covariance = torch.cov(latents_CN.double())
    variances, directions = torch.linalg.eigh(covariance)
    whiten = directions @ torch.diag(variances.clamp_min(LEAST_VARIANCE).rsqrt()) @ directions.T
    channels = len(covariance)
    metric = whiten @ whiten
    for _ in range(ROUNDS):
        distances = (scatters_PCC * metric).sum((1, 2))
        weighed = (scatters_PCC / distances.square()[:, None, None]).sum(0)
        shares, rotation = torch.linalg.eigh(whiten @ weighed @ whiten)
        variance = torch.diag((shares / shares.max()).clamp_min(LEAST_SHARE))
        wanted = whiten @ rotation @ variance @ rotation.T @ whiten
        metric = (metric + wanted * channels / (wanted * covariance).sum()) / 2
    stretch = _root(metric)
    _, axes = torch.linalg.eigh(stretch @ covariance @ stretch)
    matrix = _even_mixture(channels) @ axes.T @ stretch
    spread = (matrix @ covariance @ matrix.T).diagonal().sqrt()
    return latents_CN.mean(1), (matrix / spread[:, None]).float()


def look_scatters(vae: WanVAE, size: int, scenes: int = 24, frames: int = 9) -> Tensor:
    """Scatter [pairs, C, C], float64, of what changes when a lone object alone changes colour or shape.

    Of each pair, over the scenes where neither look is held out of training.
    """
    drawn = world.sample_scenes(
        8 * scenes, torch.Generator().manual_seed(98), band_share=0.0, combinations="seen"
    )
    lone = ((drawn.colour_BN >= 0).sum(1) == 1).nonzero()[:scenes, 0]
    drawn = drawn.select(lone)
    places = world.simulate(drawn, frames)
    there = drawn.colour_BN >= 0

    def latents(**look: Tensor) -> tuple[Tensor, Tensor]:
        looks = replace(drawn, **look)
        seen_B = ~looks.unseen_B()
        pictures = world.render(looks.select(seen_B), places[seen_B], size)
        encoded = encode_pictures(vae, pictures).flatten(2).double()
        return encoded.new_zeros(len(drawn), *encoded.shape[1:]).index_put((seen_B,), encoded), seen_B

    colours = [latents(colour_BN=torch.where(there, c, -1)) for c in range(len(world.COLOURS))]
    shapes = [latents(shape_BN=torch.full_like(drawn.shape_BN, s)) for s in range(len(world.SHAPES))]
    pairs = [pair for looks in (colours, shapes) for pair in combinations(looks, 2)]
    return torch.stack(
        [_scatter(a[a_seen & b_seen], b[a_seen & b_seen]) for (a, a_seen), (b, b_seen) in pairs]
    )


def _scatter(first_BCN: Tensor, second_BCN: Tensor) -> Tensor:
    """Of the difference [C, C], a scene."""
    difference = (first_BCN - second_BCN).movedim(1, 0).flatten(1)
    return difference @ difference.T / len(first_BCN)


@torch.no_grad()
def fold_map(vae: WanVAE, offset_C: Tensor, matrix_CC: Tensor) -> None:
    """Fold z -> matrix (z - offset), z in the diffusion model's units, into the 1x1 convolutions."""
    C = vae.latent_channels
    mean, std = torch.tensor(LATENTS_MEAN).double(), torch.tensor(LATENTS_STD).double()
    to_new = std[:, None] * matrix_CC.double() / std
    to_old = torch.linalg.inv(to_new)
    weight, bias = vae.conv1.weight[:C, :, 0, 0, 0].double(), vae.conv1.bias[:C].double()
    centre = mean + std * offset_C.double()
    vae.conv1.weight[:C] = (to_new @ weight)[..., None, None, None].float()
    vae.conv1.bias[:C] = (to_new @ (bias - centre) + mean).float()
    vae.conv1.weight[C:] = 0
    vae.conv1.bias[C:] = -6.0  # log-variance of a nearly exact posterior
    weight = vae.conv2.weight[:, :, 0, 0, 0].double()
    vae.conv2.bias += (weight @ (centre - to_old @ mean)).float()
    vae.conv2.weight.copy_((weight @ to_old)[..., None, None, None])


def _root(matrix: Tensor) -> Tensor:
    """The symmetric square root of a positive matrix."""
    values, vectors = torch.linalg.eigh(matrix)
    return vectors @ torch.diag(values.sqrt()) @ vectors.T


def _even_mixture(size: int) -> Tensor:
    """An orthogonal matrix of equal magnitudes (Sylvester's), so that every channel gets the same variance.

    `size` must be a power of two.
    """
    matrix = torch.ones(1, 1, dtype=torch.double)
    while len(matrix) < size:
        matrix = torch.cat([torch.cat([matrix, matrix], 1), torch.cat([matrix, -matrix], 1)])
    return matrix / size**0.5
