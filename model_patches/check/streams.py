"""A tiny stream on the device against the processor's latents of the same seed, and its resumption.

B batch, C channels, T latent frames, F pixel frames, H/W of the picture or of the latent grid.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from torch import Tensor

from ..cache.dense import DENSE
from ..stream.pipeline import Chunk, run
from ..stream.snapshot import load, save
from ..stream.state import StreamState
from ..stream.step import init
from ..vae.decoder import StreamDecoder, VaeBuffers
from .clock import Clock
from .finding import BROKEN, OK, SLOW, Finding, compared
from .subject import BLOCKS, Start, Subject
from .tolerance import allowed, relative

CPU = torch.device("cpu")
BEFORE = 2  # blocks before a stream is saved; frames leave its window after that
OTHER_FORMAT = "take another cache format in Small Cache"
REPEAT = "CUBLAS_WORKSPACE_CONFIG=:4096:8 in the environment makes products repeatable on cards of NVIDIA"


class Latents:
    """A decoder that shows latents themselves: what a check compares is what the model made."""

    in_pairs, upscale = False, 1

    def decode(
        self, latents_BCTHW: Tensor, past: VaeBuffers | None, *, last: bool = False, exact: bool = False
    ) -> tuple[Tensor, VaeBuffers | None]:
        return torch.zeros(latents_BCTHW.shape[2], 1, 1, 3, dtype=torch.uint8), past

    def refuse_foreign(self, past: VaeBuffers | None) -> None:
        """Nothing is foreign to it."""

    @property
    def forgets_after(self) -> int:
        """Nothing is in its past."""
        return 0

    def fingerprint(self) -> None:
        """It has no weights."""

    def weights(self) -> Iterator[Tensor]:
        """It has none."""
        return iter(())


@dataclass
class Run:
    """One stream that goes on, and all latents it has made."""

    start: Start
    clock: Clock
    decoder: StreamDecoder = field(default_factory=Latents)
    state: StreamState | None = None
    latents: list[Tensor] = field(default_factory=list)  # [B, C, T, H, W], on the CPU
    pixels: list[tuple[int, Tensor]] = field(default_factory=list)  # first frame, [F, H, W, C]

    def go_on(self, blocks: int, keep: Callable[[StreamState], None] = lambda state: None) -> Run:
        """So many more blocks; time is asked for after each."""
        start = self.start
        if self.state is None:
            begin = start.caller, start.prompt, start.config
            self.state = init(*begin, cache=start.cache, memory=start.memory)

        def kept(state: StreamState) -> None:
            self.state = state
            keep(state)

        self.state = run(
            start.caller, self.decoder, self.state, [], blocks=blocks, keep=kept, on_chunk=self._note
        )
        return self

    def _note(self, chunk: Chunk) -> None:
        self.latents.append(chunk.state.tail_BCTHW[:, :, -self.start.config.block_frames :].cpu())
        self.pixels.append((chunk.first_frame, chunk.pixels_FHWC.cpu()))
        self.clock.tick()

    @property
    def whole_BCTHW(self) -> Tensor:
        """Latents of all blocks."""
        return torch.cat(self.latents, 2)


def check_stream(subject: Subject, device: torch.device, clock: Clock) -> Finding:
    """The device's latents against float64, held to what the processor rounds in the same dtype."""
    dtype = subject.dtype
    places = (CPU, torch.float64), (CPU, dtype), (device, dtype)
    starts = [subject.on(*place) for place in places]
    exact = replace(subject.on(*places[0]), cache=DENSE) if subject.kind.rounds else None
    return compare_streams(f"Stream {subject.name}", starts, dtype, clock, OTHER_FORMAT, exact)


def compare_streams(
    name: str,
    starts: Iterable[Start],
    dtype: torch.dtype,
    clock: Clock,
    way: str,
    exact: Start | None = None,
) -> Finding:
    """The third of three streams held to the error of the second, the first being true.

    exact: the true stream in a cache format that loses nothing, where theirs rounds.
    """
    true, rounded, found = (Run(start, clock).go_on(BLOCKS).whole_BCTHW for start in starts)
    figures = {"processor_error": relative(rounded, true)}
    if exact is not None:
        figures["format_error"] = relative(true, Run(exact, clock).go_on(BLOCKS).whole_BCTHW)
    tolerance = allowed(figures["processor_error"], dtype, figures.get("format_error", 0.0))
    what = f"{str(dtype).removeprefix('torch.')}, {BLOCKS} blocks: error against float64"
    return compared(name, relative(found, true), tolerance, what, way, figures)


def check_resume(name: str, begin: Callable[[], Start], decoder: StreamDecoder, clock: Clock) -> Finding:
    """Saved, loaded and gone on with: the same bits as without, pictures included.

    begin: a new stream, the same each time.
    """
    whole, first = Run(begin(), clock, decoder).go_on(BLOCKS), Run(begin(), clock, decoder).go_on(BEFORE)
    assert first.state is not None
    with TemporaryDirectory() as folder:
        path = Path(folder) / "take.safetensors"
        save(first.start.caller, first.state, path, decoder)
        start = begin()
        state = load(path, start.caller, cache=start.cache, memory=start.memory, decoder=decoder)
    rest = replace(first, start=start, state=state).go_on(BLOCKS - BEFORE)
    if problem := _differ(whole, rest):
        if _differ(whole, Run(begin(), clock, decoder).go_on(BLOCKS)):
            said = "a stream made twice has other bits each time, and so has a resumed take"
            return Finding(name, SLOW, said, f"it goes on within rounding; {REPEAT}")
        return Finding(name, BROKEN, f"{problem} differ", "keep a take going, or begin from its video")
    return Finding(name, OK, f"saved after block {BEFORE}, loaded, gone on with: the same bits")


def check_moved_away(subject: Subject, device: torch.device, clock: Clock) -> Finding:
    """Weights that leave the device between two blocks end the stream in words; back again, it goes on."""
    name = "Model moved away"
    whole = Run(subject.on(device, subject.dtype), clock).go_on(BEFORE + 1)
    cut = Run(subject.on(device, subject.dtype), clock).go_on(BEFORE)
    there = {key: value.clone() for key, value in cut.start.model.state_dict().items()}
    cut.start.model.to("meta" if device.type == "cpu" else "cpu")
    try:
        cut.go_on(1)
    except RuntimeError as error:
        said = str(error)
    else:
        return Finding(name, BROKEN, "a block went on without its model", "unload nothing while it runs")
    cut.start.model.load_state_dict(there, assign=True)
    if _differ(whole, cut.go_on(1)):
        return Finding(name, BROKEN, "with the model back the stream has other bits", "make the take anew")
    return Finding(name, OK, f"a block is refused ({said}), and with the model back the stream has its bits")


def _differ(whole: Run, other: Run) -> str:
    """Which of its results differ from those of a stream that made the same blocks in one go, "" for none.

    Pictures that a decoder gave because its stream ended are left out: it gives them again when it goes on.
    """
    pictures_FHWC = torch.cat([pixels for _, pixels in whole.pixels])
    same = {
        "latents": torch.equal(whole.whole_BCTHW, other.whole_BCTHW),
        "pictures": all(
            torch.equal(pictures_FHWC[first : first + len(pixels)], pixels) for first, pixels in other.pixels
        ),
    }
    return " and ".join(name for name, equal in same.items() if not equal)
