"""A few numbers that tell one decoder's weights from another's.

R rows of signs.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor
from torch.nn.functional import pad

from ..arch.fingerprint import ROWS, signs
from ..transfer import to_device

FOLD = 4096  # weights lie over each other in rows of so many before they are summed up under signs


@torch.no_grad()
def fingerprint(weights: Iterable[Tensor]) -> Tensor:
    """Numbers of every tensor of weights, float32 [tensors, 1, 4] on the CPU, wherever they lie.

    As `arch.fingerprint.sketch` for a model's layers: sums under fixed signs keep distances. A VAE's weights
    are plain numbers in every host, so they are read, not probed.
    """
    signs_NR, sums = signs(ROWS, FOLD).T, []
    for weight in weights:
        flat_N = weight.detach().flatten().double()
        rows_MN = pad(flat_N, (0, -len(flat_N) % FOLD)).view(-1, FOLD)
        sums.append(rows_MN.sum(0) @ to_device(signs_NR, weight.device))
    return torch.stack(sums).float().cpu()[:, None]
