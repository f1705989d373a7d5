"""Methods that the engine does not have, so that their rows can be measured before anybody builds them.

Each changes a stream of the dense cache and whatever memory it is given.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial

from ...pocket.choices import Choice
from . import rolling_sink
from .heads import MERGED_SHARES, POCKET_PATCHES, Newest, profiled
from .heads_merged import Merged
from .heads_roles import RoleAttention, Roles
from .heads_seen import Attend, Looking
from .smoothed import FEW_BITS, Smoothed

PROFILE_STREAMS, PROFILE_BLOCKS = 2, 6  # that heads' roles are found on


@dataclass(frozen=True)
class Experiment:
    """One method of the bench alone."""

    change: Callable[[Choice], Choice]
    figures: Callable[[Choice], Mapping[str, float]] = field(default=lambda choice: {})  # in `cost`'s place


def attending(make: Callable[[Choice], Attend], name: str, choice: Choice) -> Choice:
    """The same stream with another attention."""
    looking = Looking(make(choice))
    return replace(choice, pocket=replace(choice.pocket, attention=looking), cache=looking.format(name))


def few_bits(made: Smoothed, choice: Choice) -> Choice:
    """The same stream with a cache of so many bits."""
    return replace(choice, cache=made)


def roles(choice: Choice) -> RoleAttention:
    """Attention by roles that are found on this model's heads."""
    return RoleAttention(found_roles(choice), _sink(choice), POCKET_PATCHES)


def found_roles(choice: Choice) -> Roles:
    """Which of this model's heads are static."""
    masses = profiled(choice.pocket, PROFILE_STREAMS, PROFILE_BLOCKS)
    return Roles.of([[one.newest_share for one in layer] for layer in masses])


def newest(frames: int, choice: Choice) -> Newest:
    """Attention to the sink, so many frames before the block, and the block."""
    return Newest(_sink(choice), frames)


def _sink(choice: Choice) -> int:
    return choice.pocket.config().positions.sink_frames


def _roles_frames(choice: Choice) -> Mapping[str, float]:
    config = choice.pocket.config()
    return {"attended_frames": found_roles(choice).attended_frames(_sink(choice), config.block_frames)}


def _newest_frames(frames: int, choice: Choice) -> Mapping[str, float]:
    return {"attended_frames": _sink(choice) + frames + choice.pocket.config().block_frames}


def _merged_frames(merged: Merged, choice: Choice) -> Mapping[str, float]:
    config = choice.pocket.config()
    past = (config.positions.capacity_frames or 0) - config.block_frames
    return {"attended_frames": merged.attended_frames(past, config.block_frames)}


def _merged(share: float) -> Experiment:
    merged = Merged(share, before_rope=True)
    return Experiment(
        partial(attending, lambda choice: merged, f"merged_{share:g}"), partial(_merged_frames, merged)
    )


EXPERIMENTS: dict[str, Experiment] = {
    "roles": Experiment(partial(attending, roles, "roles"), _roles_frames),
    **{
        f"newest_{frames}": Experiment(
            partial(attending, partial(newest, frames), f"newest_{frames}"), partial(_newest_frames, frames)
        )
        for frames in (1, 2, 4)
    },
    **{f"merged_{share:g}": _merged(share) for share in MERGED_SHARES},
    "rolling_sink": Experiment(rolling_sink.placed),
    **{name: Experiment(partial(few_bits, made)) for name, made in FEW_BITS.items()},
}
