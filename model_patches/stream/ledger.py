"""Which pixel frame of the video a latent becomes: prefilled and hidden frames, scenes, earlier files, a
limit.

F pixel frames, H/W pixels.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from torch import Tensor

from ..geometry import Geometry
from .join import FADE_FRAMES, blend_frames, missing_detail


@dataclass(frozen=True, slots=True)
class FrameLedger:
    """Counts of pixel frames, all over the whole video, which may lie in several files; never changed in
    place.

    A scene begins at frame 0 and after every cut: there the decoder begins anew, and its first latent is one
    picture. Latents that were there before the first block belong to the first scene.
    """

    scene: int = 0  # frame at which the scene begins; below 0 where its first pictures are not shown
    written: int = 0  # frames given to writers
    skip: int = 0  # decoded pictures to come that are not shown, or were shown before
    prefilled: int = 0  # latent frames before the first block
    hidden: int = 0  # pictures of those that the video does not show
    file_frame: int = 0  # frame at which the present file begins
    file_block: int = 0  # block at which it begins
    limit: int | None = None  # frames that the video has at most
    fps: float | None = None  # frames a second when it plays; None: not said
    ending_HWC: Tensor | None = None  # the last given picture, until the decoder's version of it is there
    lost_HWC: Tensor | None = None  # what the VAE lost of it, see `join`; put back into the first frames

    def prefill(self, latents: int, hidden: int = 0, ending_HWC: Tensor | None = None) -> FrameLedger:
        """The ledger of a video before whose first block so many latents are there.

        hidden: their pictures that the video does not show. ending: the last of their pictures as it was
        given, uint8 or in [0, 1], which what follows joins without a step; where it is the video's first, it
        is shown as it is.
        """
        return replace(
            self, scene=-hidden, skip=hidden, prefilled=latents, hidden=hidden, ending_HWC=ending_HWC
        )

    def next_frame(self, geometry: Geometry, start_frame: int) -> int:
        """The frame of the video that the latent at `start_frame` of the scene begins with."""
        return self.scene + geometry.pixel_frames(start_frame)

    @property
    def given(self) -> int:
        """Latents of the present scene that were there before its first block."""
        return 0 if self.scene > 0 else self.prefilled

    @property
    def adds(self) -> bool:
        """Whether `show` adds something to the next pictures, which are better not rounded before."""
        return self.ending_HWC is not None or self.lost_HWC is not None

    def show(self, pixels_FHWC: Tensor) -> tuple[Tensor, FrameLedger]:
        """(the pictures to be written of those that were decoded, uint8 or in [0, 1]; the ledger after
        them).
        """
        skipped = min(self.skip, len(pixels_FHWC))
        ending, missing = self.ending_HWC, self.lost_HWC
        if ending is not None and len(pixels_FHWC) and skipped == self.skip:
            # the last picture that is not shown, or else the first, is the given one as the VAE has it
            missing, ending = missing_detail(ending, pixels_FHWC[max(0, skipped - 1)]), None
        pixels_FHWC = pixels_FHWC[skipped:]
        count = len(pixels_FHWC)
        if self.limit is not None:
            pixels_FHWC = pixels_FHWC[: max(0, self.limit - self.written)]
        if missing is not None:
            pixels_FHWC = blend_frames(pixels_FHWC, missing, self.written)
        written = self.written + len(pixels_FHWC)
        fades = written < FADE_FRAMES
        after = replace(
            self,
            scene=self.scene - (count - len(pixels_FHWC)),  # what a limit cuts off is no part of the video
            written=written,
            skip=self.skip - skipped,
            ending_HWC=ending,
            lost_HWC=missing if fades else None,
        )
        return pixels_FHWC, after

    def cut(self, hidden: int = 0) -> FrameLedger:
        """The ledger at the beginning of another scene, once all pictures of the one before are written.

        hidden: pictures of latents that a shot keeps, which are decoded next and not shown.
        """
        return replace(self, scene=self.written - hidden, skip=hidden, ending_HWC=None, lost_HWC=None)

    def end(self, geometry: Geometry, start_frame: int, flushed: int) -> FrameLedger:
        """The ledger of a video that has come to its end and may be gone on with.

        flushed: pictures that the decoder gave because nothing follows; it gives them again if something
        does. What a limit cut off was never part of the video.
        """
        if self.skip:
            return replace(self, skip=self.skip + flushed, limit=None)
        return replace(
            self, scene=self.written - geometry.pixel_frames(start_frame), skip=flushed, limit=None
        )

    def new_file(self, block: int) -> FrameLedger:
        """The ledger of a video that goes on in another file with this block."""
        return replace(self, file_frame=self.written, file_block=block)
