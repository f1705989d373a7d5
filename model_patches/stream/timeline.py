"""Prompts over the time of a stream, and the blocks at which they begin; `typed` reads what a user writes."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from itertools import pairwise

from ..geometry import Geometry, blocks_for

MODES = {
    "cut": "forget everything, a hard change of scene",
    "recache": "run the newest frames again under the new prompt",
    "smooth": "change the text alone",
    "blend": "go from one text to the other over some blocks",
    "shot": "another scene, with the newest frames of the last one, or the reference picture, in sight",
}
DEFAULT_MODE = "recache"
NEW_SCENE = ("cut", "shot")  # switches that begin one: the decoder begins anew

NO_LETTERS = "has letters of no script (NUL or half of a pair); remove them or type it again"
SHOWN_LETTERS = 60  # of a text, in a refusal


@dataclass(frozen=True, slots=True)
class Prompt:
    """A text and when it begins; white space in a text counts as one blank."""

    start_ms: int  # milliseconds from the start of the stream
    text: str
    mode: str = DEFAULT_MODE  # how the stream goes over to it, one of MODES; of no meaning for the first

    def __post_init__(self) -> None:
        object.__setattr__(self, "text", " ".join(self.text.split()))
        if not self.text:
            raise ValueError("Prompts: a prompt has no text; say what is to be seen.")
        if reason := why_no_text(self.text):
            raise ValueError(f"Prompts: {quoted(self.text)} {reason}.")
        if self.mode not in MODES:
            raise ValueError(
                f"Prompts: there is no switch {quoted(self.mode)}; there are {', '.join(MODES)}."
            )
        if not isinstance(self.start_ms, int) or self.start_ms < 0:
            raise ValueError(
                f"Prompts: {quoted(self.text)} starts at {self.start_ms!r} ms; a start is a whole number of "
                f"milliseconds, 0 or more."
            )

    @property
    def start_seconds(self) -> float:
        """Seconds from the start of the stream."""
        return self.start_ms / 1000


@dataclass(frozen=True, slots=True)
class Timeline:
    """Prompts in the order of their starts, the first at 0; each holds until the next begins."""

    prompts: tuple[Prompt, ...]

    def __post_init__(self) -> None:
        if not self.prompts or self.prompts[0].start_ms:
            raise ValueError(
                f"Prompts: the first prompt must start at 0, got "
                f"{clock(self.prompts[0].start_ms) if self.prompts else 'none'}."
            )
        for earlier, later in pairwise(self.prompts):
            if later.start_ms <= earlier.start_ms:
                raise ValueError(
                    f"Prompts: {quoted(later.text)} at {clock(later.start_ms)} comes after "
                    f"{quoted(earlier.text)} at {clock(earlier.start_ms)}; starts must rise."
                )


@dataclass(frozen=True, slots=True)
class Change:
    """A prompt and the block from which on it is shown."""

    block: int
    prompt: Prompt


def quoted(text: str) -> str:
    """The text in quotation marks, cut to a readable length."""
    return repr(text if len(text) <= SHOWN_LETTERS else text[:SHOWN_LETTERS] + "...")


def why_no_text(text: str) -> str | None:
    """The end of a sentence about letters that no file and no text encoder takes, else None."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return NO_LETTERS
    return NO_LETTERS if "\0" in text else None


def clock(milliseconds: int) -> str:
    """A time as it is typed: 5s, 1.5s, 1:30s, 1:00:05.250s."""
    seconds, rest = divmod(milliseconds, 1000)
    fraction = f".{rest:03}".rstrip("0") if rest else ""
    minutes, seconds = divmod(seconds, 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours}:{minutes:02}:{seconds:02}{fraction}s"
    return f"{minutes}:{seconds:02}{fraction}s" if minutes else f"{seconds}{fraction}s"


def at_borders(
    timeline: Timeline,
    geometry: Geometry,
    fps: int | Fraction,
    block_frames: int,
    blocks: int | None = None,
    given: int = 0,
    hidden: int = 0,
) -> tuple[tuple[Change, ...], tuple[str, ...]]:
    """(changes in rising order of blocks, sentences about prompts that will not be seen).

    A change falls on the first border at or after its time: the first block before which at least that many
    pictures have been shown. A `cut` begins another scene, whose first latent is one picture and not four, so
    the borders after it lie elsewhere; a `shot` has latents before its first block, which gives as many
    pictures as any other. fps: pictures per second. block_frames: latent frames. blocks: of the planned
    stream without its cuts, None: endless. given: latent frames before the first block.
    hidden: pictures of those that are not in the video, which begins after them.
    """
    scene = _Scene(geometry, block_frames, picture=-hidden, given=given)
    end = None if blocks is None else scene.first_picture(blocks)
    chosen: dict[int, tuple[Prompt, _Scene]] = {}  # with the scene that the prompt would end
    notes: list[str] = []
    for prompt in timeline.prompts:
        block = scene.border(int(-(-prompt.start_ms * fps // 1000)))
        if end is not None and scene.first_picture(block) >= end:
            notes.append(
                f"{quoted(prompt.text)} at {clock(prompt.start_ms)} is not shown: the video ends at "
                f"{clock(int(1000 * end / fps))}; start it earlier or make the video longer."
            )
            continue
        if block in chosen:
            lost, scene = chosen[block]
            notes.append(
                f"{quoted(lost.text)} at {clock(lost.start_ms)} is not shown: {quoted(prompt.text)} at "
                f"{clock(prompt.start_ms)} begins with the same block, {block}; put them further apart."
            )
        chosen[block] = (prompt, scene)
        if prompt.mode == "cut" and block:
            scene = _Scene(geometry, block_frames, block, scene.first_picture(block))
    return tuple(Change(block, prompt) for block, (prompt, _) in chosen.items()), tuple(notes)


@dataclass(frozen=True, slots=True)
class _Scene:
    """What lies between two cuts: where it begins, and so where its blocks do."""

    geometry: Geometry
    block_frames: int
    block: int = 0
    picture: int = 0
    given: int = 0  # latent frames before its first block

    def first_picture(self, block: int) -> int:
        latents = self.given + (block - self.block) * self.block_frames
        return self.picture + self.geometry.pixel_frames(latents)

    def border(self, picture: int) -> int:
        """The first block of this scene before which so many pictures of the stream have been shown."""
        return self.block + blocks_for(
            self.geometry, self.block_frames, max(0, picture - self.picture), self.given
        )
