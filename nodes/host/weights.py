"""Whether a stream runs on the weights its basis is of, and on those of the take it goes on from."""

from __future__ import annotations

import logging
from dataclasses import dataclass

from torch import Tensor

from ...model_patches.arch.fingerprint import ADAPTED, SAME, difference, sketch
from ...model_patches.arch.tree import DiTTree
from ...model_patches.cache.format import CacheFormat

log = logging.getLogger(__name__)


@dataclass
class HostWeights:
    """A sketch of a stream's weights, see `arch.sketch`: the earlier take's, then as the host runs them."""

    adapted: bool  # the host has put adapters (LoRA) on the model
    take: str | None = None  # file of the take that is gone on from
    sketch_LKR: Tensor | None = None
    checked: bool = False

    def check(self, tree: DiTTree, channels: int, like: Tensor, format: CacheFormat) -> None:
        """Refuses another checkpoint; logs where the weights are not just those they were.

        The model's layers are asked, in the dtype and on the device of `like`: call it where they are loaded.
        """
        weights_LKR = sketch(tree, channels, like.dtype, like.device)
        if said := format.check_weights(weights_LKR, channels, self.adapted):
            log.warning("Rivulet: %s", said)
        if self.take is not None and self.sketch_LKR is not None:
            self._compare(self.take, difference(self.sketch_LKR, weights_LKR))
        self.sketch_LKR, self.checked = weights_LKR, True

    def _compare(self, take: str, apart: float) -> None:
        if not apart <= ADAPTED:
            raise ValueError(
                f"Resume Stream: the take in {take} was made with another checkpoint: its weights differ "
                f"from this model's by {100 * apart:.0f} %. Load that checkpoint, or begin a new stream."
            )
        if apart > SAME:
            log.warning(
                "Resume Stream: the weights differ by %.1f %% from those that the take in %s was made with: "
                "another adapter (LoRA), another training, or weights kept otherwise. The blocks from here "
                "on are made with these.",
                100 * apart,
                take,
            )
