"""Checks that a stream runs on the weights of its cache format and of the take it resumes."""

from __future__ import annotations

import logging
from dataclasses import dataclass

from torch import Tensor

from ...model_patches.arch.fingerprint import fingerprint, sketch
from ...model_patches.cache.format import CacheFormat
from ...model_patches.stream.weights import Fingerprint, refuse_other_weights
from .tree import HostTree

log = logging.getLogger(__name__)


@dataclass
class HostWeights:
    """Fingerprints of a model's weights; the layers can be asked only where the host has loaded them."""

    adapted: bool  # the host has put adapters (LoRA) on the model
    fingerprint: Fingerprint | None = None  # as the host runs them; before the first call, the take's
    checked: bool = False
    _expected: tuple[Fingerprint, str] | None = None
    _format: CacheFormat | None = None  # that was checked last

    def expect(self, made_with: Fingerprint, source: str) -> None:
        """Has the next call compare the weights with those that made the file `source`."""
        self._expected, self.checked = (made_with, source), False
        self.fingerprint = made_with  # of a stream that is saved before its first call

    def check(self, tree: HostTree, channels: int, like: Tensor, format: CacheFormat) -> None:
        """Refuses another checkpoint than the format's or the take's, once for each of them.

        The model's layers are asked, in the dtype and on the device of `like`: call it where they are loaded.
        """
        if self.checked and format is self._format:
            return
        weights_LKR = sketch(tree, channels, like.dtype, like.device)
        if warning := format.check_weights(weights_LKR, channels, self.adapted):
            log.warning("Rivulet: %s", warning)
        present = fingerprint(tree, like.shape[1], like.dtype, like.device)
        if self._expected is not None:
            refuse_other_weights(self._expected[0], present, self._expected[1])
        self.fingerprint, self.checked, self._format = present, True, format
