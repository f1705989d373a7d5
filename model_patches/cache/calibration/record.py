"""A cache that lets a calibration watch: it wraps the dense one and changes nothing of what a stream makes.

B rows of a call, T tokens of the frames kept, Q tokens that ask, N heads, D head width, C channels of the
model, P rotary pairs of a head. Of every layer's tokens only their running moments are kept; a few blocks are
sampled, with some tokens of each frame, so that errors can be measured later.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from ....kernels.rope import rotate
from ...arch.tree import DiTTree
from ...attention.past import Past
from ...attention.rope import rope_table
from ..basis import refuse_latents_of_its_own
from ..cost import CacheCost
from ..dense import DENSE
from ..format import Call, Draft
from ..shapes import CacheShape, KeysValues
from ..watched import Around
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
    """What has been seen, layer by layer. device: where moments are summed up, in float64."""

    device: torch.device | str = "cpu"
    moments: list[Moments] = field(default_factory=list)
    query_power: list[Tensor] = field(default_factory=list)  # sums over queries of squares, [N, P] float64
    queries: int = 0  # of one layer
    samples: list[tuple[LayerSample, ...]] = field(default_factory=list)  # of streams that are learned from
    held_out: list[tuple[LayerSample, ...]] = field(default_factory=list)  # of those that are not

    def watch(self, sample_blocks: tuple[int, ...], held_out: bool = False) -> Recording:
        """The format of one stream; of a stream that is held out, only the samples are kept."""
        return Recording(self, sample_blocks, held_out)

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


@dataclass(frozen=True, slots=True)
class Recording:
    """The format of a stream that is watched; see `format.CacheFormat`."""

    recorder: Recorder
    sample_blocks: tuple[int, ...]
    held_out: bool
    name: str = "calibration"
    cost: CacheCost = DENSE.cost

    def empty(
        self, model: DiTTree, shape: CacheShape, frames: int, dtype: torch.dtype, device: torch.device
    ) -> RecordingCache:
        """A dense cache with nothing in it; refuses a model that no basis can be calibrated for."""
        refuse_latents_of_its_own(model)
        return RecordingCache(DENSE.empty(model, shape, frames, dtype, device), self, 0, {})

    def restored(
        self,
        model: DiTTree,
        shape: CacheShape,
        table: tuple[int, ...],
        tensors: Mapping[str, Tensor],
        dtype: torch.dtype,
        device: torch.device,
    ) -> RecordingCache:
        """Refuse: what the stream saw before cannot be watched any more."""
        raise ValueError("Calibration: a saved stream cannot be calibrated on; begin a new one.")

    def spec(self) -> dict[str, object]:
        """Its name says all."""
        return {"name": self.name}


@dataclass(frozen=True, slots=True)
class RecordingCache(Around):
    """A dense cache, and some tokens of each of its frames; see `format.Cache`."""

    recording: Recording
    block: int
    kept: Kept

    def begin(self, call: Call) -> RecordingDraft:
        """Room for the block."""
        return RecordingDraft(self, self.inner.begin(call), call)

    def folded(self, pairs: Sequence[tuple[int, int]], share: float) -> RecordingCache:
        """Refuse: what is folded was not one token of the stream."""
        raise ValueError("Calibration: a sink that takes in frames cannot be calibrated on; take memory off.")

    def only(self, kept: tuple[int, ...]) -> RecordingCache:
        """The cache without any frame but these."""
        tokens = {place: x for place, x in self.kept.items() if place[0] in kept}
        return RecordingCache(self.inner.only(kept), self.recording, self.block, tokens)


class RecordingDraft:
    """A block that is watched; see `format.Draft`."""

    def __init__(self, cache: RecordingCache, inner: Draft, call: Call) -> None:
        self.cache, self.inner, self.call = cache, inner, call
        recording, shape = cache.recording, cache.shape
        self.recorder, self.shape = recording.recorder, shape
        self.sampled = cache.block in recording.sample_blocks and bool(call.kept)
        count = min(shape.frame_tokens, TOKENS_PER_FRAME)
        self.picks = torch.linspace(0, shape.frame_tokens - 1, count).round().long()
        self.own: dict[tuple[int, int], list[Tensor]] = {}
        self.asks: dict[tuple[int, int], list[Ask]] = {}  # (first row, layer) -> calls

    def past(self, rows: slice) -> RecordingPast:
        """What the calls of these rows attend to."""
        return RecordingPast(self, self.inner.past(rows), rows)

    def show(self, memory: KeysValues | None) -> None:
        """As the dense draft does."""
        self.inner.show(memory)

    def commit(self, kept: tuple[int, ...]) -> RecordingCache:
        """The cache with this block in it."""
        cache, own = self.cache, {place: tuple(layers) for place, layers in self.own.items()}
        if self.sampled:
            found = self.recorder.held_out if cache.recording.held_out else self.recorder.samples
            found += [self._sample(row) for row in sorted({row for row, _ in self.asks})]
        tokens = {place: x for place, x in {**cache.kept, **own}.items() if place[0] in kept}
        return RecordingCache(self.inner.commit(kept), cache.recording, cache.block + 1, tokens)

    def picked(self, x: Tensor) -> Tensor:
        """The sampled tokens of a call's frames, [B, frames, S, ...]."""
        frames = x.unflatten(1, (len(self.call.own), -1))
        return frames[:, :, self.picks.to(x.device)]

    def _sample(self, row: int) -> tuple[LayerSample, ...]:
        call, device = self.call, self.recorder.device
        table = self.turns(call.ids[: len(call.kept)]).to(device)
        return tuple(
            LayerSample(
                torch.cat([self.cache.kept[frame, row][layer] for frame in call.kept], 1),
                table,
                tuple(self.asks[row, layer]),
            )
            for layer in range(self.shape.layers)
        )

    def turns(self, ids: tuple[int, ...]) -> Tensor:
        """(cos, sin) of the sampled tokens of frames at these ids."""
        shape = self.shape
        table = rope_table(ids, shape.grid_height, shape.grid_width, shape.head_dim)
        return table.unflatten(0, (len(ids), -1))[:, self.picks].flatten(0, 1)


class RecordingPast:
    """A dense past that is watched; see `attention.past.Past`."""

    def __init__(self, draft: RecordingDraft, inner: Past, rows: slice) -> None:
        self.draft, self.inner, self.row = draft, inner, rows.start
        self.layer = 0
        self.brought: tuple[Tensor, Tensor] | None = None  # keys and values of a sampled call

    def write(self, layer: int, x_BLC: Tensor, k_BLND: Tensor, v_BLND: Tensor, *, keep: bool = True) -> None:
        """Note the call's tokens where later blocks are to find them, else what the call brings itself."""
        self.inner.write(layer, x_BLC, k_BLND, v_BLND, keep=keep)
        self.layer, draft = layer, self.draft
        self.brought = (k_BLND, v_BLND) if draft.sampled and not keep else None
        if not keep:
            return
        if not draft.cache.recording.held_out:
            draft.recorder.take_tokens(draft.shape, layer, x_BLC)
        frames = draft.picked(x_BLC).to(draft.recorder.device).unbind(1)
        for frame, x_BSC in zip(draft.call.own, frames, strict=True):
            draft.own.setdefault((frame, self.row), []).append(x_BSC.clone())

    def read(self, layer: int) -> tuple[Tensor, Tensor]:
        """As the dense past does."""
        return self.inner.read(layer)

    def turn(self, q_BLND: Tensor) -> Tensor:
        """As the dense past does; note the queries."""
        turned, draft = self.inner.turn(q_BLND), self.draft
        if not draft.cache.recording.held_out:
            draft.recorder.take_queries(draft.shape, self.layer, q_BLND)
        if self.brought is not None:
            device, call = draft.recorder.device, draft.call
            k, v = (draft.picked(part).flatten(1, 2).to(device) for part in self.brought)
            asked = draft.picked(turned).flatten(1, 2).to(device)
            own = draft.turns(call.ids[len(call.kept) :]).to(device)
            ask = Ask(asked, rotate(k, own), v)
            draft.asks.setdefault((self.row, self.layer), []).append(ask)
        return turned
