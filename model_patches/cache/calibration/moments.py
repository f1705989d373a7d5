"""Running mean and covariance of tokens, in float64: what a calibration keeps of all it has seen.

L tokens, C channels.
"""

from __future__ import annotations

import torch
from torch import Tensor


class Moments:
    """Mean and covariance of the tokens added so far; 8 * C * C bytes, however many they are."""

    def __init__(self, channels: int, device: torch.device | str = "cpu") -> None:
        self.tokens = 0
        self._shift_C: Tensor | None = None
        self._sum_C = torch.zeros(channels, dtype=torch.float64, device=device)
        self._outer_CC = torch.zeros(channels, channels, dtype=torch.float64, device=device)

    def add(self, x_LC: Tensor) -> None:
        """Take in tokens, on any device and in any floating dtype.

        Refuses NaN and infinite numbers.
        """
        x_LC = x_LC.to(self._sum_C)
        if not bool(x_LC.isfinite().all()):
            raise ValueError(
                "Calibration: the model's activations hold NaN or infinite numbers; run it in float32 or "
                "bfloat16, or take another seed."
            )
        if self._shift_C is None:
            # near the mean, so that squares of a large mean do not drown the covariance
            self._shift_C = x_LC.mean(0)
        x_LC = x_LC - self._shift_C
        self.tokens += len(x_LC)
        self._sum_C += x_LC.sum(0)
        self._outer_CC.addmm_(x_LC.T, x_LC)

    @property
    def mean_C(self) -> Tensor:
        """Mean of all tokens, float64 [C]."""
        assert self._shift_C is not None, "nothing was added"
        return self._shift_C + self._sum_C / self.tokens

    @property
    def covariance_CC(self) -> Tensor:
        """Covariance of all tokens, float64 [C, C]."""
        off = self._sum_C / self.tokens
        return self._outer_CC / self.tokens - torch.outer(off, off)
