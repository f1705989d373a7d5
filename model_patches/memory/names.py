"""Sorts the names of a file's tensors into encoder, LoRA and others, before any tensor is read.

Echo-Infinity's base file keeps the encoder inside the generator, `generator.model.query_memory_encoder.*`,
its second file beside the LoRA, `query_memory_encoder.*` and `generator_lora.base_model.model.*`. A file of
the encoder alone may have its tensors at the root.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass

from ..checkpoints.files import first_few
from ..checkpoints.nesting import MEMORY, WRAPPERS

SIGNS = ("query_init", "gate_linear.weight")  # of every encoder and of nothing else
LORA = re.compile(r"\.lora_|\.(alpha|dora_scale|diff|diff_[bm])$")
LORA_FOLDER = re.compile(r"(\w+_lora)\.")
GENERATOR = "generator_lora"


@dataclass(frozen=True, slots=True)
class Names:
    """Tensor names of a file, sorted."""

    encoder: Mapping[str, str]  # name in the encoder -> name in the file
    root: str  # prefix of the encoder's names
    lora: Mapping[str, str]  # name in the adapter -> name in the file
    unused: tuple[str, ...]  # other encoders and adapters, not loaded
    others: int  # number of all other tensors


def sort_names(where: str, names: Collection[str]) -> Names:
    """Names of one encoder and of its LoRA if there is one; ValueError, starting with `where`, if ambiguous.

    Of trained weights and their EMA, the encoder is that of the trained weights, as in the official code.
    """
    plain = {name: WRAPPERS.sub("", name) for name in names}
    loras: dict[str, dict[str, str]] = {}
    for name, key in plain.items():
        folder = LORA_FOLDER.match(key)
        if folder or LORA.search(key):
            _put(
                where,
                loras.setdefault(folder[1] if folder else "", {}),
                key[folder.end() :] if folder else key,
                name,
            )
    adapter = GENERATOR if GENERATOR in loras else ""
    of_loras = {name for held in loras.values() for name in held.values()}
    rest = {name: key for name, key in plain.items() if name not in of_loras}
    roots = {key.removesuffix(sign) for key in rest.values() for sign in SIGNS if _ends(key, sign)}
    root = _chosen(where, roots, names, bool(loras))
    encoder: dict[str, str] = {}
    for name, key in rest.items():
        if key.startswith(root):
            _put(where, encoder, key.removeprefix(root), name)
    return Names(
        encoder,
        root,
        loras.get(adapter, {}),
        (*sorted(roots - {root}), *sorted(loras.keys() - {adapter})),
        sum(not key.startswith(tuple(roots)) for key in rest.values()),
    )


def _ends(key: str, sign: str) -> bool:
    return key == sign or key.endswith(f".{sign}")


def _put(where: str, into: dict[str, str], key: str, name: str) -> None:
    if key in into:
        raise ValueError(
            f"{where}: {name} and {into[key]} are one tensor once wrappers are cut off; save one copy alone."
        )
    into[key] = name


def _chosen(where: str, roots: Collection[str], names: Collection[str], has_lora: bool) -> str:
    if not roots:
        raise ValueError(
            f"{where} holds "
            + ("a LoRA without the memory that was trained with it" if has_lora else "no memory encoder")
            + f" ({len(names)} tensors: {first_few(sorted(names)) or 'none'}); give Echo-Infinity's base "
            f"file, its file of LoRA and `query_memory_encoder`, or a memory trained with Rivulet."
        )
    likely = [root for root in roots if not root.partition(".")[0].endswith("ema")] or list(roots)
    # at the root: trained with the LoRA, in the place of the base file's
    likely = [MEMORY] if MEMORY in likely else likely
    if len(likely) > 1:
        raise ValueError(
            f"{where} holds {len(likely)} memory encoders, under {first_few(sorted(likely))}; only one can "
            f"be loaded. Save one alone."
        )
    return likely[0]
