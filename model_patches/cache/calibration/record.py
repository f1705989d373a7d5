"""What a calibration writes down of a stream that it watches.

B rows of a call, T tokens of the frames kept, Q tokens that ask, N heads, D head width, C channels of the
model, P rotary pairs of a head. Of every layer's tokens only their running moments are kept; a few blocks are
sampled, with some tokens of each frame, so that errors can be measured later.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from ....kernels.rope import rotate
from ...arch.tree import DiTTree
from ...attention.rope import rope_table
from ..basis import why_no_basis
from ..format import Call
from ..shapes import CacheShape, MemorySeen
from ..watched import WatchedFormat
from .moments import Moments

TOKENS_PER_FRAME = 96  # most that a sample takes of a frame

Kept = Mapping[
    tuple[int, int], tuple[Tensor, ...]
]  # (frame, first row) -> sampled tokens [B, S, C] per layer


@dataclass(frozen=True, slots=True)
class Ask:
    """One call's queries, and the keys and values that it brings itself; all at their positions."""

    q_BQND: Tensor
    k_BQND: Tensor
    v_BQND: Tensor


@dataclass(frozen=True, slots=True)
class LayerSample:
    """What one layer saw in one block: enough to run its attention again over other keys and values."""

    x_BTC: Tensor  # modulated input of the frames kept from before
    key_table: Tensor  # (cos, sin) of their keys [T, P, 2]
    asks: tuple[Ask, ...]  # call after call


@dataclass
class Recorder:
    """What has been seen, layer by layer. device: where moments are summed up, in float64, and where samples
    are kept, if sample_device names no other place for them."""

    device: torch.device | str = "cpu"
    sample_device: torch.device | str | None = None
    moments: list[Moments] = field(default_factory=list)
    query_power: list[Tensor] = field(default_factory=list)  # sums over queries of squares, [N, P] float64
    queries: int = 0  # of one layer
    samples: list[tuple[LayerSample, ...]] = field(default_factory=list)  # of streams that are learned from
    held_out: list[tuple[LayerSample, ...]] = field(default_factory=list)  # of those that are not

    def __post_init__(self) -> None:
        self.sample_device = self.device if self.sample_device is None else self.sample_device

    def watch(self, sample_blocks: tuple[int, ...], held_out: bool = False) -> WatchedFormat:
        """The format of one stream; of a stream that is held out, only the samples are kept.

        It refuses a model that no basis can be calibrated for.
        """

        def start(model: DiTTree, shape: CacheShape, *_: object) -> Recording:
            if refusal := why_no_basis(model):
                raise ValueError(refusal)
            return Recording(self, sample_blocks, held_out, shape)

        return WatchedFormat(start, "calibration")

    def take_tokens(self, shape: CacheShape, layer: int, x_BLC: Tensor) -> None:
        """Add a clean call's tokens to the layer's moments."""
        if not self.moments:
            width = shape.heads * shape.head_dim
            self.moments = [Moments(width, self.device) for _ in range(shape.layers)]
        self.moments[layer].add(x_BLC.flatten(0, 1))

    def take_queries(self, shape: CacheShape, layer: int, q_BLND: Tensor) -> None:
        """Add the squares of a call's queries, rotary pair by pair."""
        if not self.query_power:
            pairs = torch.zeros(shape.heads, shape.head_dim // 2, dtype=torch.float64, device=self.device)
            self.query_power = [pairs.clone() for _ in range(shape.layers)]
        squares = q_BLND.to(self.device, torch.float32).square().sum((0, 1), dtype=torch.float64)
        self.query_power[layer] += squares.unflatten(-1, (-1, 2)).mean(-1)
        self.queries += q_BLND.shape[0] * q_BLND.shape[1] if layer == 0 else 0


def sample_bytes(shape: CacheShape, cached: int, block_frames: int, calls: int, dtype: torch.dtype) -> int:
    """Bytes of the samples of one block of one stream, all layers and rows together.

    cached: frames it looks back on; none, and it is not sampled. calls: its noise levels. dtype: that of the
    stream.
    """
    tokens, width = min(shape.frame_tokens, TOKENS_PER_FRAME), shape.heads * shape.head_dim
    asks = 3 * calls * block_frames  # queries, keys and values of its own frames
    numbers = shape.layers * (cached + asks) * tokens * width
    table_bytes = cached * tokens * shape.head_dim * torch.float32.itemsize
    return shape.rows * (numbers * dtype.itemsize + table_bytes) if cached else 0


@dataclass(frozen=True, slots=True)
class Recording:
    """What is written down of one stream; see `watched.Watcher`."""

    recorder: Recorder
    sample_blocks: tuple[int, ...]
    held_out: bool
    shape: CacheShape
    block: int = 0  # that is made next
    kept: Kept = field(default_factory=dict)

    def begin(self, call: Call) -> BlockRecording:
        """What writes down the block of this call."""
        return BlockRecording(self, call)

    def fold(self, pairs: Sequence[tuple[int, int]], share: float) -> Recording:
        """Refuse: what is folded was not one token of the stream."""
        raise ValueError("Calibration: a sink that takes in frames cannot be calibrated on; take memory off.")

    def retain(self, frames: tuple[int, ...]) -> Recording:
        """The recording of a stream that has forgotten all but these frames."""
        return replace(self, kept={place: x for place, x in self.kept.items() if place[0] in frames})


class BlockRecording:
    """What is written down of one block; see `watched.BlockWatcher`."""

    def __init__(self, recording: Recording, call: Call) -> None:
        self.recording, self.call = recording, call
        self.recorder, shape = recording.recorder, recording.shape
        self.sampled = recording.block in recording.sample_blocks and bool(call.cached)
        count = min(shape.frame_tokens, TOKENS_PER_FRAME)
        self.picks = torch.linspace(0, shape.frame_tokens - 1, count).round().long()
        self.own: dict[tuple[int, int], list[Tensor]] = {}
        self.asks: dict[tuple[int, int], list[Ask]] = {}  # (first row, layer) -> calls

    def past(self, rows: slice) -> CallRecording:
        """What writes down the calls of these rows."""
        return CallRecording(self, rows.start)

    def set_memory(self, memory: MemorySeen | None) -> None:
        """A memory is no token of the stream: nothing is written down of it."""

    def commit(self, frames: tuple[int, ...]) -> Recording:
        """The recording with this block in it; samples go to the recorder."""
        recording, own = self.recording, {place: tuple(layers) for place, layers in self.own.items()}
        if self.sampled:
            found = self.recorder.held_out if recording.held_out else self.recorder.samples
            found += [self._sample(row) for row in sorted({row for row, _ in self.asks})]
        tokens = {place: x for place, x in {**recording.kept, **own}.items() if place[0] in frames}
        return replace(recording, block=recording.block + 1, kept=tokens)

    def picked(self, x: Tensor) -> Tensor:
        """The sampled tokens of a call's frames, [B, frames, S, ...]."""
        frames = x.unflatten(1, (len(self.call.new), -1))
        return frames[:, :, self.picks.to(x.device)]

    def _sample(self, row: int) -> tuple[LayerSample, ...]:
        call, device = self.call, self.recorder.sample_device
        table = self.turns(call.ids[: len(call.cached)]).to(device)
        return tuple(
            LayerSample(
                torch.cat([self.recording.kept[frame, row][layer] for frame in call.cached], 1),
                table,
                tuple(self.asks[row, layer]),
            )
            for layer in range(self.recording.shape.layers)
        )

    def turns(self, ids: tuple[int, ...]) -> Tensor:
        """(cos, sin) of the sampled tokens of frames at these ids."""
        shape = self.recording.shape
        table = rope_table(ids, shape.grid_height, shape.grid_width, shape.head_dim)
        return table.unflatten(0, (len(ids), -1))[:, self.picks].flatten(0, 1)


class CallRecording:
    """What is written down of the calls of some rows; see `watched.CallWatcher`."""

    def __init__(self, block: BlockRecording, row: int) -> None:
        self.block, self.row = block, row
        self.queries: tuple[Tensor, Tensor] | None = None  # before and after RoPE, until the layer is written

    def write(self, layer: int, x_BLC: Tensor, k_BLND: Tensor, v_BLND: Tensor, keep: bool) -> None:
        """Note the call's tokens where later blocks are to find them, and the layer's queries."""
        block = self.block
        if keep:
            if not block.recording.held_out:
                block.recorder.take_tokens(block.recording.shape, layer, x_BLC)
            frames = block.picked(x_BLC).to(block.recorder.sample_device).unbind(1)
            for frame, x_BSC in zip(block.call.new, frames, strict=True):
                block.own.setdefault((frame, self.row), []).append(x_BSC.clone())
        if self.queries is not None:
            self._ask(layer, *self.queries, None if keep else (k_BLND, v_BLND))
        self.queries = None

    def read(self, layer: int) -> None:
        """The past is put together again from its tokens: nothing is written down of a read."""

    def rotate(self, q_BLND: Tensor, rotated_BLND: Tensor) -> None:
        """Hold the queries until it is known what they are beside."""
        self.queries = q_BLND, rotated_BLND

    def _ask(
        self, layer: int, q_BLND: Tensor, rotated_BLND: Tensor, brought: tuple[Tensor, Tensor] | None
    ) -> None:
        """Note the queries, and in a sampled call what it brings beside them.

        brought: keys and values of a call that is not kept.
        """
        block, recorder = self.block, self.block.recorder
        if not block.recording.held_out:
            recorder.take_queries(block.recording.shape, layer, q_BLND)
        if brought is not None and block.sampled:
            device, call = recorder.sample_device, block.call
            k, v = (block.picked(part).flatten(1, 2).to(device) for part in brought)
            asked = block.picked(rotated_BLND).flatten(1, 2).to(device)
            own = block.turns(call.ids[len(call.cached) :]).to(device)
            ask = Ask(asked, rotate(k, own), v)
            block.asks.setdefault((self.row, layer), []).append(ask)
