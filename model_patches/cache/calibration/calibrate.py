"""Calibration: streams are run over prompts and watched, then a basis is fitted and chosen.

The streams are given by the caller, as the engine's or as a host's; nothing here knows how a block is made.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import torch

from ...attention.positions import PositionPreset
from ..basis import Basis
from ..cost import latent_layer_bytes
from ..format import CacheFormat, call_of
from ..shapes import CacheShape
from .allocate import Point, mean_bytes, reach, spend
from .fit import Fitted, fit
from .measure import LayerWeights
from .record import Recorder, sample_bytes

GROUP = 32  # channels that share a scale
HELD_OUT_EVERY = 4  # of four prompts one is not learned from and tells the error
SAMPLED_PROMPTS = 4  # of each kind
TOKENS_PER_CHANNEL = 4  # fewer, and the basis fits the prompts and not the model

Streams = Callable[[CacheFormat, int], Iterable[object]]  # format, index of the prompt -> one item a block
Report = Callable[[str, float], None]  # what is being done, share of all that is done


@dataclass(frozen=True, slots=True)
class Goal:
    """What to choose by: bytes per token and layer on average, or the error of attention, a fraction."""

    token_bytes: float | None = None
    error: float | None = None

    def __post_init__(self) -> None:
        given = [value for value in (self.token_bytes, self.error) if value is not None]
        if len(given) != 1 or not given[0] > 0:
            raise ValueError(
                f"Calibration: give either bytes per token and layer or an error, above 0; got bytes "
                f"{self.token_bytes} and error {self.error}."
            )

    def check(self, group: int = GROUP) -> None:
        """Raises ValueError if no basis can be as small, whatever the model."""
        least = latent_layer_bytes(group, 0, group)
        if self.token_bytes is not None and self.token_bytes < least:
            raise ValueError(
                f"Calibration: {self.token_bytes:g} bytes per token and layer were asked for, and the "
                f"smallest basis takes {least}; give at least that many, 128 or more for a model of 1.3B."
            )


@dataclass(frozen=True, slots=True)
class Calibration:
    """What was learned of a model; a basis is chosen from it as often as wanted."""

    fitted: Fitted
    learned: tuple[str, ...]  # prompts
    held_out: tuple[str, ...]
    tokens: int  # per layer, that the basis was learned from
    blocks: int  # of each stream

    def choose(self, goal: Goal) -> list[Point]:
        """Rank and split of every layer."""
        if goal.token_bytes is not None:
            return spend(self.fitted.curves, goal.token_bytes)
        assert goal.error is not None
        return reach(self.fitted.curves, goal.error)

    def basis(self, points: Sequence[Point], about: Mapping[str, object]) -> Basis:
        """The basis of these points; where it comes from and its errors on held-out prompts go with it.

        about: more to keep with it, such as the checkpoint's name and sketch.
        """
        errors = self.fitted.errors(points)
        return self.fitted.basis(
            points,
            {
                **about,
                "prompts": list(self.learned),
                "held_out_prompts": list(self.held_out),
                "tokens": self.tokens,
                "blocks": self.blocks,
                "token_bytes": mean_bytes(points),
                "error": overall(error.total for error in errors),
                "layer_errors": [_short(error.total) for error in errors],
                "head_errors": [[_short(head) for head in error.heads] for error in errors],
            },
        )


def calibrate(
    streams: Streams,
    prompts: Sequence[str],
    weights: Callable[[int], LayerWeights],
    *,
    blocks: int,
    group: int = GROUP,
    device: torch.device | str = "cpu",
    sample_device: torch.device | str | None = None,
    report: Report = lambda _what, _share: None,
) -> Calibration:
    """Run one stream of `blocks` blocks per prompt, and fit a basis to what the layers saw, early and late.

    streams: makes the blocks of one stream in the format it is given. weights: of a layer. device: where sums
    are kept, in float64, 8 * C * C bytes a layer. sample_device: where samples of a few streams are kept, see
    `samples_bytes`; None: with the sums. report may raise to stop.
    """
    learned, held_out = split(prompts)
    if blocks < 2:
        raise ValueError(f"Calibration: a stream of {blocks} blocks looks back on nothing; give 2 or more.")
    recorder = Recorder(device, sample_device)
    total = len(prompts) * blocks
    done = 0
    for index in range(len(prompts)):
        kind = held_out if index in held_out else learned
        sampled = _sampled_blocks(blocks) if kind.index(index) < SAMPLED_PROMPTS else ()
        for _ in streams(recorder.watch(sampled, index in held_out), index):
            done += 1
            report(f"prompt {index + 1} of {len(prompts)}", 0.9 * done / total)
    tokens, channels = recorder.moments[0].tokens, len(recorder.moments[0].mean_C)
    if tokens < TOKENS_PER_CHANNEL * channels:
        raise ValueError(
            f"Calibration: {tokens} tokens were seen, a model of {channels} channels needs "
            f"{TOKENS_PER_CHANNEL * channels} or more; give more prompts, more blocks or a larger picture."
        )
    layers = len(recorder.moments)
    fitted = fit(
        recorder,
        weights,
        group,
        lambda layer: report(f"layer {layer + 1} of {layers}", 0.9 + 0.1 * (layer + 1) / layers),
    )
    names = [tuple(prompts[index] for index in kind) for kind in (learned, held_out)]
    return Calibration(fitted, names[0], names[1], tokens, blocks)


def samples_bytes(
    shape: CacheShape,
    preset: PositionPreset,
    block_frames: int,
    calls: int,
    dtype: torch.dtype,
    *,
    prompts: int,
    blocks: int,
) -> int:
    """Most bytes of samples that a calibration keeps, with the tokens of the stream that is being run.

    shape: of the streams' caches. calls: noise levels of a block. Arguments as in `calibrate`.
    """
    counts = [len(call_of(preset, block * block_frames, block_frames).cached) for block in range(blocks)]
    sampled = [
        sample_bytes(shape, counts[block], block_frames, calls, dtype)
        for block in set(_sampled_blocks(blocks))
    ]
    streams = sum(min(len(kind), SAMPLED_PROMPTS) for kind in split(range(prompts)))
    # its frames and its last block's, without a call's queries, keys and values
    running = sample_bytes(shape, max(counts) + block_frames, block_frames, 0, dtype)
    return streams * sum(sampled) + running


def _sampled_blocks(blocks: int) -> tuple[int, ...]:
    """Early and late ones of a stream."""
    return blocks // 2, blocks - 1


def split(prompts: Sequence[object]) -> tuple[list[int], list[int]]:
    """(indices of the prompts to learn from, of those that tell the error)."""
    if len(prompts) < 2:
        raise ValueError(
            f"Calibration: got {len(prompts)} prompts; give two or more (8 and up are better), since one of "
            f"four is kept aside to measure the error."
        )
    held_out = list(range(HELD_OUT_EVERY - 1, len(prompts), HELD_OUT_EVERY)) or [len(prompts) - 1]
    return [index for index in range(len(prompts)) if index not in held_out], held_out


def overall(errors: Iterable[float]) -> float:
    """Root mean square."""
    squares = [error**2 for error in errors]
    return _short((sum(squares) / len(squares)) ** 0.5)


def _short(error: float) -> float:
    return float(f"{error:.4g}")
