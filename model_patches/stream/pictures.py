"""The picture side of a stream: latents become pictures, and those of them that the video shows go to the
writers.

B batch, C channels, T latent frames, F pixel frames, H/W of the picture or of the latent grid.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ..vae.decoder import StreamDecoder
from ..writer.protocol import Writer
from .ledger import FrameLedger
from .state import StreamState


@dataclass(frozen=True, slots=True)
class VideoOutput:
    """Decodes a stream's latents for its writers, which are open."""

    decoder: StreamDecoder
    writers: Sequence[Writer]

    def show(
        self, state: StreamState, latents_BCTHW: Tensor, *, last: bool = False
    ) -> tuple[StreamState, Tensor]:
        """(the state after the latents' pictures were written, those pictures, uint8).

        latents: one stream, any T from 0. last: nothing of their scene follows.
        """
        pixels_FHWC, past = self.decoder.decode(latents_BCTHW, state.past, last=last)
        pixels_FHWC, ledger = self._write(pixels_FHWC, state.ledger)
        return replace(state, past=past, ledger=ledger), pixels_FHWC

    def begin_scene(self, state: StreamState) -> StreamState:
        """The decoder, too, begins anew: the first latent of a scene is one picture, not four."""
        state, _ = self.show(state, state.tail_BCTHW, last=True)
        return replace(state, past=None, ledger=state.ledger.cut())

    def end(self, state: StreamState) -> StreamState:
        """Writes what the decoder has held back; the state can still be gone on with."""
        flushed_FHWC, _ = self.decoder.decode(state.tail_BCTHW[:, :, :0], state.past, last=True)
        _, ledger = self._write(flushed_FHWC, state.ledger)
        ledger = ledger.end(state.config.geometry, state.start_frame, len(flushed_FHWC))
        return replace(state, ledger=ledger)

    def _write(self, pixels_FHWC: Tensor, ledger: FrameLedger) -> tuple[Tensor, FrameLedger]:
        """(those of the decoded pictures that the writers got, uint8; the ledger after them)."""
        pixels_FHWC, ledger = ledger.show(pixels_FHWC)
        pixels_FHWC = to_uint8(pixels_FHWC)
        if len(pixels_FHWC):
            for writer in self.writers:
                writer.write(pixels_FHWC)
        return pixels_FHWC, ledger


def to_uint8(pixels_FHWC: Tensor) -> Tensor:
    """Pictures in [0, 1] as levels of 0 to 255 on the CPU; uint8 stays as it is."""
    if pixels_FHWC.dtype == torch.uint8:
        return pixels_FHWC
    return (pixels_FHWC * 255).round().clamp(0, 255).to(torch.uint8).cpu()
