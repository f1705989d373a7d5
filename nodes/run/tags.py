"""What ComfyUI writes into its own videos: the graph, which comes back when one is dropped on its page."""

from __future__ import annotations

import json
import math
from typing import Any

from comfy.cli_args import args


def graph_tags(hidden: Any) -> dict[str, str]:
    """The graph of the run in progress, and what its page sent along, each as JSON that every reader takes.

    hidden: what the host tells the node of it.
    """
    if args.disable_metadata:
        return {}
    # the host notes fingerprints in its nodes, and would take them from there in another run
    nodes = (hidden.prompt or {}).items()
    queued = {id: {name: node[name] for name in node if name != "is_changed"} for id, node in nodes}
    tags = {**(hidden.extra_pnginfo or {}), "prompt": queued or None}
    return {str(name): as_json(value) for name, value in tags.items() if value is not None}


def as_json(value: Any) -> str:
    """The value as JSON: numbers that it has no word for are null, other things are told as text.

    The host sends what it got, and Python reads and writes NaN and Infinity, which browsers refuse.
    """
    return json.dumps(_plain(value), allow_nan=False)


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(name): _plain(each) for name, each in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(each) for each in value]
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return value if value is None or isinstance(value, str | int) else str(value)
