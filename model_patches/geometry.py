"""Sizes in pixels, latents and tokens, converted in one place.

B batch, C latent channels, T latent frames, H/W of the latent grid. A latent frame holds `time_stride` pixel
frames, except the first of a stream, which holds one.
"""

from dataclasses import dataclass
from fractions import Fraction

LATENT_CHANNELS = 16  # of Wan 2.1's VAE
# frames per second; half of what a rate of television lies apart from the whole number 1
NEAR_TELEVISION = Fraction(1, 2000)


@dataclass(frozen=True, slots=True)
class Geometry:
    """The picture size of a stream, and the strides of its VAE and model."""

    width: int  # pixels
    height: int  # pixels
    space_stride: int = 8  # pixels per latent, each way
    time_stride: int = 4  # pixel frames per latent frame after the first
    patch: int = 2  # latents per token, each way
    latent_channels: int = LATENT_CHANNELS

    def __post_init__(self) -> None:
        for name in ("space_stride", "time_stride", "patch", "latent_channels"):
            _whole(name, getattr(self, name), least=1)
        step = self.space_stride * self.patch
        for name in ("width", "height"):
            size = _whole(name, getattr(self, name))
            if size < step or size % step:
                raise ValueError(
                    f"Geometry: {name} must be a multiple of {step} pixels, got {size}; "
                    f"nearest is {max(step, (size + step // 2) // step * step)}."
                )

    @property
    def latent_width(self) -> int:
        return self.width // self.space_stride

    @property
    def latent_height(self) -> int:
        return self.height // self.space_stride

    @property
    def grid_width(self) -> int:
        """Tokens per row of a frame."""
        return self.latent_width // self.patch

    @property
    def grid_height(self) -> int:
        """Rows of tokens in a frame."""
        return self.latent_height // self.patch

    @property
    def frame_tokens(self) -> int:
        """Tokens per latent frame."""
        return self.grid_width * self.grid_height

    def picture_size(self, times: int = 1) -> tuple[int, int]:
        """Width and height in pixels of pictures that a VAE draws so many times as large as the stream's."""
        return self.width * times, self.height * times

    def pixel_frames(self, latent_frames: int) -> int:
        """Pixel frames that a stream of so many latent frames decodes to."""
        count = _whole("latent_frames", latent_frames, least=0)
        return 1 + (count - 1) * self.time_stride if count else 0

    def latent_frames(self, pixel_frames: int) -> int:
        """Fewest latent frames whose decoded stream has at least so many pixel frames."""
        count = _whole("pixel_frames", pixel_frames, least=0)
        return 1 - (1 - count) // self.time_stride if count else 0

    def latent_shape(self, latent_frames: int, batch: int = 1) -> tuple[int, int, int, int, int]:
        """Shape [B, C, T, H, W] of so many latent frames."""
        frames = _whole("latent_frames", latent_frames, least=0)
        rows = _whole("batch", batch, least=1)
        return (rows, self.latent_channels, frames, self.latent_height, self.latent_width)


def rate_of(fps: Fraction | float) -> Fraction:
    """The pictures a second that a number means: 23.976, 29.97 and 59.94 are 24000, 30000 and 60000 in 1001.

    Any other is the nearest fraction with a denominator up to 1001.
    """
    television = Fraction(round(fps * 1001 / 1000) * 1000, 1001)
    return television if abs(television - fps) < NEAR_TELEVISION else Fraction(fps).limit_denominator(1001)


def blocks_for(geometry: Geometry, block_frames: int, pixel_frames: int, latents: int = 0) -> int:
    """Fewest blocks that make a stream of so many latents one of so many pixel frames."""
    return max(0, -(-(geometry.latent_frames(pixel_frames) - latents) // block_frames))


def _whole(name: str, value: int, least: int | None = None) -> int:
    """The value, if it is a whole number and not below `least`."""
    if not isinstance(value, int) or isinstance(value, bool):
        raise ValueError(f"Geometry: {name} must be a whole number, got {value!r}.")
    if least is not None and value < least:
        raise ValueError(f"Geometry: {name} must be {least} or more, got {value}.")
    return value
