"""The picture side of a stream: latents become pictures, and those of them that the video shows go to the
writers.

B batch, C channels, T latent frames, F pixel frames, H/W of the picture or of the latent grid.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from ..vae.decoder import StreamDecoder, VaeBuffers, to_levels
from ..writer.frames import HostFrames
from ..writer.protocol import Writer
from .ledger import FrameLedger
from .overlap import Overlap
from .recovery import PICTURES, Recovery
from .state import StreamState


@dataclass(frozen=True, slots=True)
class VideoOutput:
    """Decodes a stream's latents for its writers, which are open.

    On a card all of it is asked for at once and nobody waits: the writers wait for the pictures where they
    need them. What fails leaves the state that was given as it is.
    """

    decoder: StreamDecoder
    writers: Sequence[Writer]
    recovery: Recovery  # tries again where the card is full; a writer gets each picture once
    overlap: Overlap = field(default_factory=Overlap)

    def show(
        self, state: StreamState, latents_BCTHW: Tensor, *, last: bool = False
    ) -> tuple[StreamState, HostFrames]:
        """(the state after the latents' pictures were written, those pictures).

        latents: one stream, any T from 0. last: nothing of their scene follows.
        """
        frames, _, past, ledger = self._make(state, latents_BCTHW, last=last)
        self._write(frames)
        return replace(state, past=past, ledger=ledger), frames

    def begin_scene(self, state: StreamState) -> StreamState:
        """The decoder, too, begins anew: the first latent of a scene is one picture, not four.

        What a shot keeps is decoded, so that its pictures go over into the new ones as they did in training.
        """
        state, _ = self.show(state, state.tail_BCTHW[:, :, :0], last=True)
        hidden = state.config.geometry.pixel_frames(state.start_frame)
        state = replace(state, past=None, ledger=state.ledger.cut(hidden))
        return self.show(state, state.tail_BCTHW)[0] if hidden else state

    def end(self, state: StreamState) -> StreamState:
        """Writes what the decoder has held back; the state can still be gone on with."""
        frames, flushed, _, ledger = self._make(state, state.tail_BCTHW[:, :, :0], last=True)
        self._write(frames)
        return replace(state, ledger=ledger.end(state.config.geometry, state.start_frame, flushed))

    def _make(
        self, state: StreamState, latents_BCTHW: Tensor, *, last: bool
    ) -> tuple[HostFrames, int, VaeBuffers | None, FrameLedger]:
        """(pictures for the writers; how many were decoded; the decoder's past; the ledger)."""

        def make() -> tuple[HostFrames, int, VaeBuffers | None, FrameLedger]:
            exact = state.ledger.adds
            with self.overlap.beside(self._used(state, latents_BCTHW)):
                decoded_FHWC, past = self.decoder.decode(latents_BCTHW, state.past, last=last, exact=exact)
                pixels_FHWC, ledger = state.ledger.show(decoded_FHWC)
                if pixels_FHWC.dtype != torch.uint8:
                    pixels_FHWC = to_levels(pixels_FHWC)
                return HostFrames(pixels_FHWC), len(decoded_FHWC), past, ledger

        return self.recovery.attempt(PICTURES, make)

    def _used(self, state: StreamState, latents_BCTHW: Tensor) -> Iterator[Tensor]:
        """What decoding reads: the weights, too, which a host may take off the card meanwhile."""
        yield latents_BCTHW
        yield from self.decoder.weights()
        past = state.past or VaeBuffers(())
        held = (*past.layers, past.pending, state.ledger.ending_HWC, state.ledger.lost_HWC)
        yield from (each for each in held if isinstance(each, Tensor))

    def _write(self, frames: HostFrames) -> None:
        if len(frames):
            for writer in self.writers:
                writer.write(frames)
