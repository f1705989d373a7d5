"""The picture side of a stream: latents become pictures, and those of them that the video shows go to the
writers.

B batch, C channels, T latent frames, F pixel frames, H/W of the picture or of the latent grid.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ..vae.decoder import StreamDecoder, VaeBuffers
from ..writer.protocol import Writer
from .ledger import FrameLedger
from .recovery import PICTURES, Recovery
from .state import StreamState


@dataclass(frozen=True, slots=True)
class VideoOutput:
    """Decodes a stream's latents for its writers, which are open."""

    decoder: StreamDecoder
    writers: Sequence[Writer]
    recovery: Recovery  # tries again where the card is full; a writer gets each picture once

    def show(
        self, state: StreamState, latents_BCTHW: Tensor, *, last: bool = False
    ) -> tuple[StreamState, Tensor]:
        """(the state after the latents' pictures were written, those pictures, uint8).

        latents: one stream, any T from 0. last: nothing of their scene follows.
        """
        pixels_FHWC, _, past, ledger = self._make(state, latents_BCTHW, last=last)
        self._write(pixels_FHWC)
        return replace(state, past=past, ledger=ledger), pixels_FHWC

    def begin_scene(self, state: StreamState) -> StreamState:
        """The decoder, too, begins anew: the first latent of a scene is one picture, not four."""
        state, _ = self.show(state, state.tail_BCTHW, last=True)
        return replace(state, past=None, ledger=state.ledger.cut())

    def end(self, state: StreamState) -> StreamState:
        """Writes what the decoder has held back; the state can still be gone on with."""
        pixels_FHWC, flushed, _, ledger = self._make(state, state.tail_BCTHW[:, :, :0], last=True)
        self._write(pixels_FHWC)
        return replace(state, ledger=ledger.end(state.config.geometry, state.start_frame, flushed))

    def _make(
        self, state: StreamState, latents_BCTHW: Tensor, *, last: bool
    ) -> tuple[Tensor, int, VaeBuffers | None, FrameLedger]:
        """(pictures for the writers, uint8; how many were decoded; the decoder's past; the ledger)."""

        def make() -> tuple[Tensor, int, VaeBuffers | None, FrameLedger]:
            decoded_FHWC, past = self.decoder.decode(latents_BCTHW, state.past, last=last)
            pixels_FHWC, ledger = state.ledger.show(decoded_FHWC)
            return to_uint8(pixels_FHWC), len(decoded_FHWC), past, ledger

        return self.recovery.attempt(PICTURES, make)

    def _write(self, pixels_FHWC: Tensor) -> None:
        if len(pixels_FHWC):
            for writer in self.writers:
                writer.write(pixels_FHWC)


def to_uint8(pixels_FHWC: Tensor) -> Tensor:
    """Pictures in [0, 1] as levels of 0 to 255 on the CPU; uint8 stays as it is."""
    if pixels_FHWC.dtype == torch.uint8:
        return pixels_FHWC
    return (pixels_FHWC * 255).round().clamp(0, 255).to(torch.uint8).cpu()
