"""A soak on a card that is full now and then: the pictures are those of a stream that nothing disturbed."""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from hashlib import blake2b
from types import TracebackType

from torch import Tensor
from torch.utils._python_dispatch import _disable_current_modes

from ...model_patches.stream.pipeline import Chunk, run
from ...model_patches.stream.watching import Unwatched
from ...model_patches.vae.decoder import VaeDecoder
from ...model_patches.writer.frames import HostFrames
from ...model_patches.writer.protocol import Writer
from ..full_card import FullCard
from .subject import Subject

CALM_OPERATIONS = 5000  # at least between two faults: a block that failed is made before the next one fails
SPREAD_OPERATIONS = 4000


class Beside:
    """A writer whose own work is the computer's: the card is never full in it."""

    def __init__(self, writer: Writer) -> None:
        self.inner = writer

    @property
    def frames_written(self) -> int:
        return self.inner.frames_written

    def __enter__(self) -> Beside:
        self.inner.__enter__()
        return self

    def write(self, frames: HostFrames) -> None:
        with _disable_current_modes():
            self.inner.write(frames)

    def seal(self) -> None:
        self.inner.seal()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.inner.__exit__(kind, error, trace)


@dataclass(frozen=True)
class Noting(Unwatched):
    """Viewers that count what they are told."""

    sentences: list[str] = field(default_factory=list)

    def tell(self, sentence: str) -> None:
        self.sentences.append(sentence)


@dataclass
class Faults:
    """What a disturbed soak met, and whether its pictures are those of the stream that nothing disturbed."""

    operations: int = 0
    raised: int = 0
    told: list[str] = field(default_factory=list)
    digests: list[bytes] = field(default_factory=list)  # of each block's pictures
    blocks_compared: int = 0
    blocks_other: int = 0

    def compare(self, given: Subject) -> None:
        """Makes the same blocks again without a fault."""

        def on_chunk(chunk: Chunk) -> None:
            self.blocks_compared += 1
            self.blocks_other += digest(chunk.pixels_FHWC) != self.digests[chunk.block]

        run(
            given.caller,
            VaeDecoder(given.vae),
            given.start(),
            [],
            blocks=len(self.digests),
            on_chunk=on_chunk,
        )

    def figures(self) -> dict[str, float | str | bool]:
        """Names and values of a row."""
        return {
            "operations_trials": self.operations,
            "full_trials": self.raised,
            "measures_steps": len(self.told),
            "compared_blocks": self.blocks_compared,
            "other_blocks": self.blocks_other,
            "is_undisturbed": bool(self.raised) and not self.blocks_other and self.blocks_compared > 0,
        }


def now_and_then(seed: int) -> FullCard:
    """A card that is full at random operations."""
    drawn = random.Random(seed)
    due = [drawn.randrange(SPREAD_OPERATIONS)]

    def is_full(operation: int) -> bool:
        if operation < due[0]:
            return False
        due[0] = operation + CALM_OPERATIONS + drawn.randrange(SPREAD_OPERATIONS)
        return True

    return FullCard(is_full)


def digest(pixels_FHWC: Tensor) -> bytes:
    """Of a block's pictures."""
    with _disable_current_modes():
        return blake2b(pixels_FHWC.contiguous().numpy().tobytes(), digest_size=16).digest()
