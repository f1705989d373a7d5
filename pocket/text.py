"""Text for the pocket models: a tokenizer that reads phrases of the small world, and their features.

Takes the place of umT5. A phrase such as "red circle" is one token, so that a colour stays with its shape
without a language model; its row in the table says kind, colour and shape in separate channels.
"""

import re

import torch
from torch import Tensor

from .looks import COLOURS, SHAPES
from .world import BAND_NAME

TEXT_DIM = 64
TEXT_TOKENS = 6  # start, up to three objects, ground, band
UNKNOWN_OBJECT = "object"
SCALE = 2.0  # of a feature that is present
_KINDS = ("start", "object", "ground", "band")
_FILLER = {"a", "an", "and", "the", "on", "with", "behind", "in", "front", "of"}
_SHAPE_AT = len(_KINDS) + len(COLOURS)
_GROUND_AT = _SHAPE_AT + len(SHAPES)


def known_words() -> tuple[str, ...]:
    """Every word a prompt may hold."""
    return (*COLOURS, *SHAPES, UNKNOWN_OBJECT, "ground", BAND_NAME, "band", *sorted(_FILLER))


def tokenize(prompt: str) -> list[str]:
    """Phrases of a prompt in order: "red circle", "object", "green ground", "grey band".

    Raises ValueError naming the words that are unknown or stand where no phrase can be made of them.
    """
    words = re.findall(r"[^\W_]+", prompt.lower())
    unknown = [word for word in words if word not in known_words()]
    if unknown:
        raise ValueError(
            f"Prompt: the pocket model does not know {', '.join(map(repr, dict.fromkeys(unknown)))}. "
            f"It knows the colours {', '.join(COLOURS)}; the shapes {', '.join(SHAPES)}; "
            f"'ground' and '{BAND_NAME} band'. Try: a red circle and a blue square on a green ground."
        )
    phrases, words = [], [word for word in words if word not in _FILLER]
    while words:
        size = 1 if words[0] == UNKNOWN_OBJECT else 2
        phrase = " ".join(words[:size])
        if phrase not in TABLE:
            raise ValueError(
                f"Prompt: cannot read {phrase!r} in {prompt!r}; say colour and shape ('red circle'), "
                f"colour and ground ('green ground') or '{BAND_NAME} band'."
            )
        phrases.append(phrase)
        words = words[size:]
    if len(phrases) > TEXT_TOKENS - 1:
        raise ValueError(
            f"Prompt: {len(phrases)} phrases, the pocket model reads at most {TEXT_TOKENS - 1}; "
            f"leave some out."
        )
    if not phrases:
        raise ValueError("Prompt: it is empty. Try: a red circle and a blue square on a green ground.")
    return phrases


def encode(prompt: str) -> Tensor:
    """Text states [1, TEXT_TOKENS, TEXT_DIM], float32; unused places are zero, as Wan pads its text."""
    rows = [TABLE["<start>"], *(TABLE[phrase] for phrase in tokenize(prompt))]
    return torch.nn.functional.pad(torch.stack(rows), (0, 0, 0, TEXT_TOKENS - len(rows)))[None]


def no_text() -> Tensor:
    """Text states of the empty prompt, for guidance."""
    return torch.nn.functional.pad(TABLE["<start>"][None], (0, 0, 0, TEXT_TOKENS - 1))[None]


def _row(kind: str, colour: int | None = None, shape: int | None = None) -> Tensor:
    row = torch.zeros(TEXT_DIM)
    row[_KINDS.index(kind)] = SCALE
    if colour is not None:
        row[(_GROUND_AT if kind == "ground" else len(_KINDS)) + colour] = SCALE
    if shape is not None:
        row[_SHAPE_AT + shape] = SCALE
    return row


def _table() -> dict[str, Tensor]:
    table = {"<start>": _row("start"), UNKNOWN_OBJECT: _row("object"), f"{BAND_NAME} band": _row("band")}
    for c, colour in enumerate(COLOURS):
        table[f"{colour} ground"] = _row("ground", colour=c)
        for s, shape in enumerate(SHAPES):
            table[f"{colour} {shape}"] = _row("object", colour=c, shape=s)
    return table


TABLE = _table()
