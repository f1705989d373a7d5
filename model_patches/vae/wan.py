"""Wan 2.1's causal video VAE for streaming: layer buffers are passed in, new ones are returned.

B batch, C channels, F pixel frames, T latent frames, H/W of the picture or of the latent grid. Layout and key
names of the published checkpoint (Wan 2.1, arXiv 2503.20314, section 4.1); any width `dim`. The first pixel
frame of a stream is one latent of its own, each following group of four is one more.
"""

from collections.abc import Callable, Sequence
from functools import cache, reduce
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.torch_version import TorchVersion

from ..geometry import LATENT_CHANNELS
from ..transfer import to_device

TIME_STRIDE = 4
SPACE_STRIDE = 8
UPSCALES = {3: 1, 12: 2}  # channels of the decoder's head -> times of SPACE_STRIDE that its pictures measure
# Per-channel statistics of Wan 2.1's latents, as published with the checkpoint.
LATENTS_MEAN = (
    -0.7571,
    -0.7089,
    -0.9113,
    0.1075,
    -0.1745,
    0.9653,
    -0.1517,
    1.5508,
    0.4134,
    -0.0715,
    0.5517,
    -0.3632,
    -0.1922,
    -0.9497,
    0.2503,
    -0.2921,
)
LATENTS_STD = (
    2.8184,
    1.4541,
    2.3275,
    2.6558,
    1.2196,
    1.7708,
    2.6052,
    2.0743,
    3.2687,
    2.1526,
    2.8652,
    1.5579,
    1.6382,
    1.1253,
    2.8251,
    1.9160,
)

LayerBuffers = tuple[Tensor, ...]  # newest frames of each causal layer, in the order of the forward
SpentBuffers = list[Tensor | None]  # the same, given away: each is let go of once its layer has read it


class Tape:
    """Buffers of the causal layers, read and written in the order of the forward."""

    def __init__(self, past: LayerBuffers | SpentBuffers | None) -> None:
        self._old = past
        self._new: list[Tensor] = []

    def read(self, x_BCTHW: Tensor) -> Tensor | None:
        """The next layer's buffer, None at the start of a stream; ValueError for other channels than x."""
        if self._old is None:
            return None
        buffer = self._old[len(self._new)] if len(self._new) < len(self._old) else None
        if buffer is None or buffer.shape[1] != x_BCTHW.shape[1]:
            raise self._foreign_error()
        if isinstance(self._old, list):
            self._old[len(self._new)] = None
        return buffer

    def write(self, frames_BCTHW: Tensor) -> None:
        # clone: a view would keep the whole piece alive
        self._new.append(frames_BCTHW.clone())

    def buffers(self) -> LayerBuffers:
        if self._old is not None and len(self._new) != len(self._old):
            raise self._foreign_error()
        return tuple(self._new)

    def _foreign_error(self) -> ValueError:
        return ValueError(
            f"WanVAE: the past holds {len(self._old or ())} tensors, the layers keep others; "
            f"it is of another VAE or of the other direction, start with past=None."
        )


class CausalConv3d(nn.Conv3d):
    """Convolution over this frame and earlier ones; zeros stand before a stream's first frame."""

    def __init__(
        self, width_in: int, width_out: int, kernel: int | tuple[int, int, int], stride: int = 1
    ) -> None:
        size = (kernel, kernel, kernel) if isinstance(kernel, int) else kernel
        super().__init__(width_in, width_out, size, (stride, 1, 1), (0, size[1] // 2, size[2] // 2))

    def forward(self, input: Tensor) -> Tensor:
        if not _is_better_in_2d(input):
            return super().forward(input)
        clips = [self._sum_of_2d(clip_BCTHW) for clip_BCTHW in input.split(1)]
        return clips[0] if len(clips) == 1 else torch.cat(clips)

    def _sum_of_2d(self, x_BCTHW: Tensor) -> Tensor:
        """The same sum as 2D convolutions, one for each frame of the kernel."""
        frames_TCHW, span = x_BCTHW[0].transpose(0, 1), x_BCTHW.shape[2] - self.kernel_size[0] + 1
        parts = (
            F.conv2d(
                frames_TCHW[k : k + span : self.stride[0]],
                weight,
                None if k else self.bias,
                padding=self.padding[1:],
            )
            for k, weight in enumerate(self.weight.unbind(2))
        )
        return reduce(Tensor.add_, parts).transpose(0, 1)[None]

    def causal(self, x_BCTHW: Tensor, tape: Tape) -> Tensor:
        length = self.kernel_size[0] - 1
        if length == 0:
            return self(x_BCTHW)
        past = tape.read(x_BCTHW)
        if past is None:
            past = x_BCTHW.new_zeros(*x_BCTHW.shape[:2], length, *x_BCTHW.shape[3:])
        x = torch.cat([past, x_BCTHW], 2)
        del past
        tape.write(x[:, :, -length:])
        return self(x)


def _is_better_in_2d(x_BCTHW: Tensor) -> bool:
    """Whether a sum of 2D convolutions is faster, or takes much less memory, than the library's 3D one."""
    if x_BCTHW.is_cpu:
        # torch 2.13 runs one small clip on a CPU through a loop that takes three times as long
        return x_BCTHW.shape[0] == 1 and x_BCTHW[0, ..., 0].numel() <= 20480
    return x_BCTHW.is_cuda and x_BCTHW.itemsize == 2 and wastes_memory(torch.__version__, _cudnn())


def wastes_memory(torch_version: TorchVersion | str, cudnn: int | None) -> bool:
    """Whether 3D convolutions in half precision take many times the memory on cards with these versions.

    cudnn: as torch numbers it, None without. It is fixed in cuDNN 9.15 (pytorch issue 166643).
    """
    affected = TorchVersion(torch_version)
    return cudnn is not None and 91002 <= cudnn < 91500 and affected >= "2.9" and affected < "2.11"


@cache
def _cudnn() -> int | None:
    return None if torch.version.hip else torch.backends.cudnn.version()


class RMSNorm(nn.Module):
    """Channels scaled to length sqrt(C), then by a learned gain."""

    def __init__(self, width: int, axes: int) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.ones(width, *(1,) * axes))

    def forward(self, x: Tensor) -> Tensor:
        if x.dtype in (torch.float16, torch.bfloat16):
            # squares could overflow, and 1e-12 is 0 in float16
            return F.normalize(x, dim=1, eps=1e-4) * (x.shape[1] ** 0.5) * self.gamma
        # the same, in a quarter of the time on a CPU
        return x * (x.square().mean(1, keepdim=True) + 1e-30).rsqrt() * self.gamma


class ResidualBlock(nn.Module):
    """Two causal convolutions beside a shortcut."""

    def __init__(self, width_in: int, width_out: int) -> None:
        super().__init__()
        self.residual = nn.Sequential(
            RMSNorm(width_in, 3),
            nn.SiLU(),
            CausalConv3d(width_in, width_out, 3),
            RMSNorm(width_out, 3),
            nn.SiLU(),
            nn.Identity(),
            CausalConv3d(width_out, width_out, 3),
        )
        self.shortcut = CausalConv3d(width_in, width_out, 1) if width_in != width_out else nn.Identity()

    def forward(self, x: Tensor, tape: Tape) -> Tensor:
        y = x
        for layer in self.residual:
            y = layer.causal(y, tape) if isinstance(layer, CausalConv3d) else layer(y)
        return self.shortcut(x) + y


def per_frame(layer: Callable[[Tensor], Tensor], x_BCTHW: Tensor) -> Tensor:
    """A 2D layer, applied to each frame."""
    B, _, T = x_BCTHW.shape[:3]
    return layer(x_BCTHW.transpose(1, 2).flatten(0, 1)).unflatten(0, (B, T)).transpose(1, 2)


class AttentionBlock(nn.Module):
    """Single-head attention over the positions of one frame."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = RMSNorm(width, 2)
        self.to_qkv = nn.Conv2d(width, 3 * width, 1)
        self.proj = nn.Conv2d(width, width, 1)
        nn.init.zeros_(self.proj.weight)

    def forward(self, x_BCTHW: Tensor, tape: Tape) -> Tensor:
        return x_BCTHW + per_frame(self._attend, x_BCTHW)

    def _attend(self, x_FCHW: Tensor) -> Tensor:
        # fused attention reads channels that lie side by side; for others torch keeps the scores of all
        qkv_FLC = self.to_qkv(self.norm(x_FCHW)).flatten(2).transpose(1, 2).contiguous()
        q, k, v = qkv_FLC[:, None].chunk(3, -1)
        y = F.scaled_dot_product_attention(q, k, v)[:, 0].transpose(1, 2)
        return self.proj(y.unflatten(2, x_FCHW.shape[2:]))


class Downsample(nn.Module):
    """Halves height and width; with `time`, also the frames after the first."""

    def __init__(self, width: int, time: bool) -> None:
        super().__init__()
        self.resample = nn.Sequential(nn.ZeroPad2d((0, 1, 0, 1)), nn.Conv2d(width, width, 3, 2))
        if time:
            self.time_conv = CausalConv3d(width, width, (3, 1, 1), stride=2)
        self.time = time

    def forward(self, x: Tensor, tape: Tape) -> Tensor:
        x = per_frame(self.resample, x)
        if not self.time:
            return x
        past = tape.read(x)
        start = past is None
        x = x if past is None else torch.cat([past, x], 2)
        tape.write(x[:, :, -1:])
        y = self.time_conv(x) if x.shape[2] > 1 else x[:, :, :0]
        return torch.cat([x[:, :, :1], y], 2) if start else y


class Upsample(nn.Module):
    """Doubles height and width at half the channels; with `time`, doubles the frames after the first."""

    def __init__(self, width: int, time: bool) -> None:
        super().__init__()
        self.resample = nn.Sequential(
            nn.Upsample(scale_factor=(2.0, 2.0), mode="nearest-exact"),
            nn.Conv2d(width, width // 2, 3, padding=1),
        )
        if time:
            self.time_conv = CausalConv3d(width, 2 * width, (3, 1, 1))
        self.time = time

    def forward(self, x: Tensor, tape: Tape) -> Tensor:
        return per_frame(self.resample, self._double_frames(x, tape) if self.time else x)

    def _double_frames(self, x: Tensor, tape: Tape) -> Tensor:
        """Doubles the frames; a stream's first one passes alone and does not enter the buffer."""
        past = tape.read(x)
        head = x[:, :, :1] if past is None else x[:, :, :0]
        x = x[:, :, head.shape[2] :]
        if past is None:
            past = x.new_zeros(*x.shape[:2], 2, *x.shape[3:])
        extended = torch.cat([past, x], 2)
        del past
        tape.write(extended[:, :, -2:])
        if not x.shape[2]:
            return head
        pairs = self.time_conv(extended).unflatten(1, (2, x.shape[1]))
        return torch.cat([head, pairs.movedim(1, 3).flatten(2, 3)], 2)


class Coder(nn.Module):
    """Runs layers in order, with the tape for those that have buffers."""

    def run(self, layers: Sequence[nn.Module], x: Tensor, tape: Tape) -> Tensor:
        for layer in layers:
            if isinstance(layer, CausalConv3d):
                x = layer.causal(x, tape)
            elif isinstance(layer, (ResidualBlock, AttentionBlock, Downsample, Upsample)):
                x = layer(x, tape)
            else:
                x = layer(x)
        return x


def _middle(width: int) -> nn.Sequential:
    return nn.Sequential(ResidualBlock(width, width), AttentionBlock(width), ResidualBlock(width, width))


class Encoder(Coder):
    """Pixels to the moments of their latents."""

    def __init__(self, dim: int, width_out: int) -> None:
        super().__init__()
        widths = [dim, dim, 2 * dim, 4 * dim, 4 * dim]
        self.conv1 = CausalConv3d(3, dim, 3)
        layers: list[nn.Module] = []
        for i, (width_in, width) in enumerate(pairwise(widths)):
            layers += [ResidualBlock(width_in, width), ResidualBlock(width, width)]
            if i < 3:
                layers.append(Downsample(width, time=i > 0))
        self.downsamples = nn.Sequential(*layers)
        self.middle = _middle(widths[-1])
        self.head = nn.Sequential(RMSNorm(widths[-1], 3), nn.SiLU(), CausalConv3d(widths[-1], width_out, 3))

    def forward(self, x: Tensor, tape: Tape) -> Tensor:
        return self.run([self.conv1, *self.downsamples, *self.middle, *self.head], x, tape)


class Decoder(Coder):
    """Latents to pixels, `upscale` squared of each colour at every place."""

    def __init__(self, dim: int, width_in: int, upscale: int = 1) -> None:
        super().__init__()
        widths = [4 * dim, 4 * dim, 4 * dim, 2 * dim, dim]
        self.conv1 = CausalConv3d(width_in, widths[0], 3)
        self.middle = _middle(widths[0])
        layers: list[nn.Module] = []
        for i, (before, width) in enumerate(pairwise(widths)):
            halved = before // 2 if i > 0 else before
            layers += [ResidualBlock(halved, width), ResidualBlock(width, width), ResidualBlock(width, width)]
            if i < 3:
                layers.append(Upsample(width, time=i < 2))
        self.upsamples = nn.Sequential(*layers)
        self.head = nn.Sequential(RMSNorm(dim, 3), nn.SiLU(), CausalConv3d(dim, 3 * upscale**2, 3))

    def forward(self, x: Tensor, tape: Tape) -> Tensor:
        return self.run([self.conv1, *self.middle, *self.upsamples, *self.head], x, tape)


class WanVAE(nn.Module):
    """The VAE of Wan 2.1. Latents are in the diffusion model's units: zero mean, unit spread per channel.

    upscale: 2 for a decoder that draws pictures of twice the height and width from the same latents; the
    encoder takes pictures of the usual size.
    """

    def __init__(self, dim: int = 96, latent_channels: int = LATENT_CHANNELS, upscale: int = 1) -> None:
        super().__init__()
        if upscale not in UPSCALES.values():
            raise ValueError(f"WanVAE: upscale must be 1 or 2, got {upscale!r}.")
        self.encoder = Encoder(dim, 2 * latent_channels)
        self.conv1 = CausalConv3d(2 * latent_channels, 2 * latent_channels, 1)
        self.conv2 = CausalConv3d(latent_channels, latent_channels, 1)
        self.decoder = Decoder(dim, latent_channels, upscale)
        self.latent_channels, self.upscale = latent_channels, upscale

    def encode(
        self, pixels_BCFHW: Tensor, past: LayerBuffers | SpentBuffers | None = None
    ) -> tuple[Tensor, LayerBuffers]:
        """(latents [B, 16, T, H/8, W/8], past) of pixels in [-1, 1].

        The first call of a stream takes 1 + 4k frames, later ones 4k.
        """
        frames, first = pixels_BCFHW.shape[2], past is None
        if (frames - first) % TIME_STRIDE or (first and not frames):
            raise ValueError(
                f"WanVAE.encode: got {frames} frames, needs {'1 + ' if first else ''}a multiple of "
                f"{TIME_STRIDE}; buffer frames until their group is full."
            )
        tape = Tape(past)
        return self.normalize(self.conv1(self.encoder(pixels_BCFHW, tape))), tape.buffers()

    def normalize(self, moments_BCTHW: Tensor) -> Tensor:
        """The mean of the encoder's moments [B, 32, T, h, w] in the diffusion model's units."""
        return in_model_units(moments_BCTHW[:, : self.latent_channels])

    def decode(
        self, latents_BCTHW: Tensor, past: LayerBuffers | SpentBuffers | None = None
    ) -> tuple[Tensor, LayerBuffers]:
        """(pixels [B, 3, F, 8 upscale H, 8 upscale W] in about [-1, 1], past).

        T latents give 1 + 4(T - 1) frames on the first call of a stream, 4T on later ones.
        """
        if not latents_BCTHW.shape[2]:
            raise ValueError("WanVAE.decode: got 0 latent frames, needs 1 or more.")
        tape = Tape(past)
        packed_BCFHW = self.decoder(self.conv2(self.denormalize(latents_BCTHW)), tape)
        return unpacked(packed_BCFHW, self.upscale), tape.buffers()

    def denormalize(self, latents_BCTHW: Tensor) -> Tensor:
        """Latents in the VAE's own units, from the diffusion model's."""
        return in_vae_units(latents_BCTHW)


def unpacked(packed_BCFHW: Tensor, upscale: int) -> Tensor:
    """Pictures [B, 3, F, upscale H, upscale W] of a decoder's channels [B, 3 upscale^2, F, H, W].

    A place's channels lie colour by colour, each row by row, as torch's `pixel_shuffle` reads them.
    """
    if upscale == 1:
        return packed_BCFHW
    return F.pixel_shuffle(packed_BCFHW.transpose(1, 2), upscale).transpose(1, 2)


def in_vae_units(latents_BCTHW: Tensor) -> Tensor:
    """Wan 2.1's latents [B, 16, T, H, W] in the VAE's own units, from the diffusion model's."""
    mean, std = _statistics(latents_BCTHW)
    return latents_BCTHW * std + mean


def in_model_units(latents_BCTHW: Tensor) -> Tensor:
    """Wan 2.1's latents [B, 16, T, H, W] in the diffusion model's units, from the VAE's own."""
    mean, std = _statistics(latents_BCTHW)
    return (latents_BCTHW - mean) / std


def _statistics(like: Tensor) -> tuple[Tensor, Tensor]:
    both = torch.tensor((LATENTS_MEAN, LATENTS_STD), dtype=like.dtype).view(2, 1, -1, 1, 1, 1)
    mean, std = to_device(both, like.device)
    return mean, std
