"""Save and load a basis as one safetensors file with its provenance, and check it against a model.

C channels of the model, R rank.
"""

from __future__ import annotations

import json
import math
import reprlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..arch.fingerprint import ADAPTED, KEPT_OTHERWISE, SAME, difference, read_back, sketch, written
from ..arch.tree import DiTTree
from ..checkpoints.files import MAX_REASON, first_few, open_tensors, shapes_in, write_whole
from ..checkpoints.sealed import refuse_changed
from ..reason import reason_of
from .basis import Basis, LayerBasis, LayerPlan

KIND, VERSION = "rivulet basis", 1
PARTS = ("mu_C", "down_CR", "up_RC")
AGAIN = "Calibrate the model again (Calibrate Cache, or python run.py calibrate)"


def save_basis(basis: Basis, path: str | Path) -> None:
    """Write the basis; the file has its final name only once it is complete."""
    tensors = {
        f"layers.{index}.{part}": getattr(layer, part)
        for index, layer in enumerate(basis.layers)
        if layer is not None
        for part in PARTS
    }
    about = {
        "kind": KIND,
        "version": VERSION,
        "group": basis.group,
        "plan": [asdict(plan) for plan in basis.plan],
        "fingerprint": basis.fingerprint,
        "provenance": dict(basis.provenance),
        "sealed": True,  # files of earlier releases have no checksum of all their bytes
    }
    write_whole("save_basis", Path(path), tensors, about, "the basis")


def load_basis(path: str | Path, device: str | torch.device = "cpu") -> Basis:
    """The basis of a file; ValueError if incomplete, no basis, or changed since it was written."""
    path = Path(path)
    wanted = "a basis: calibrate the model first (Calibrate Cache, or python run.py calibrate)"
    with open_tensors("load_basis", path, wanted, f"{AGAIN}.") as file:
        is_sealed = refuse_changed("load_basis", path, f"{AGAIN}.")
        about = _about(path, file.metadata() or {})
        if about.get("sealed") and not is_sealed:
            raise ValueError(
                f"load_basis: {path} has lost its checksum, and may be altered elsewhere too. {AGAIN}."
            )
        tensors = {name: file.get_tensor(name) for name in shapes_in(file)}
    try:
        basis = _assembled(about, tensors, device)
        unchanged = basis.fingerprint == about["fingerprint"]
    except (ArithmeticError, AttributeError, LookupError, RuntimeError, TypeError, ValueError) as error:
        raise ValueError(
            f"load_basis: {path} is damaged ({_words(error)}). {AGAIN}, or copy the file again."
        ) from error
    if not unchanged:
        raise ValueError(
            f"load_basis: the numbers in {path} have changed since it was written. {AGAIN}, or copy it again."
        )
    return basis


def about_model(
    models: Sequence[DiTTree], channels: int, dtype: torch.dtype, device: torch.device
) -> dict[str, object]:
    """The provenance of the calibrated weights, as JSON values; see `arch.fingerprint.sketch`.

    models: the checkpoint, and what it was watched as besides, such as with an adapter.
    """
    first, *others = (written(sketch(each, channels, dtype, device)) for each in models)
    return {"sketch": first, "channels": channels, **({"other_sketches": others} if others else {})}


def check_model(basis: Basis, weights_LKR: Tensor, channels: int, adapted: bool = False) -> str:
    """'' if the basis is of the model with this sketch, a warning if that is adapted or quantised.

    Raises ValueError for another model. channels: the model's width. adapted: the model has adapters (LoRA),
    which may change its weights more than quantisation does. Whatever this returns, the cache derives its
    projections from the current weights for every stream.
    """
    check_sizes(basis, len(weights_LKR), channels)
    about, name = basis.provenance, _name(basis)
    if "sketch" not in about:
        raise ValueError(
            f"Latent cache: the basis is of {name} and has no fingerprint of its weights, so that no model "
            f"can be told to be the one. {AGAIN}."
        )
    distance = min(difference(each, weights_LKR) for each in _sketches(about))
    if not distance <= (ADAPTED if adapted else KEPT_OTHERWISE):
        raise ValueError(
            f"Latent cache: the basis is of {name}, whose weights differ from this model's by "
            f"{100 * distance:.0f} %: it is another checkpoint. Choose the basis of this one. {AGAIN} if "
            f"there is none."
        )
    if distance <= SAME:
        return ""
    why = "an adapter (LoRA)" if adapted else "quantisation or a merged adapter"
    return (
        f"The model's weights differ by {100 * distance:.1f} % from those of {name}, for which the basis was "
        f"calibrated: {why}. Keys and values are derived from the weights as they are now; the error of "
        f"attention may be larger than the {100 * _number(about):.2g} % that were measured."
    )


def check_sizes(basis: Basis, layers: int, channels: int) -> None:
    """Raises ValueError for a model with other sizes than the basis."""
    needed = (len(basis.plan), basis.provenance.get("channels"))
    if needed != (layers, channels):
        raise ValueError(
            f"Latent cache: the basis is of {_name(basis)}, {needed[0]} layers of {needed[1]} channels; the "
            f"model has {layers} of {channels}. Choose the basis of this one. {AGAIN} if there is none."
        )


def _sketches(about: Mapping[str, Any]) -> list[Tensor]:
    """Of all weights that the basis was calibrated on; none where it has no fingerprint."""
    if "sketch" not in about:
        return []
    return [read_back(each) for each in (about["sketch"], *about.get("other_sketches", ()))]


def _name(basis: Basis) -> object:
    return basis.provenance.get("checkpoint", "another model")


def _about(path: Path, metadata: Mapping[str, str]) -> dict[str, Any]:
    try:
        about = json.loads(metadata.get("rivulet", "{}"))
        kind, version = about.get("kind", "no basis"), about.get("version", "?")
    except (ValueError, AttributeError, RecursionError):
        kind, version, about = "no basis", "?", {}
    if (kind, version) != (KIND, VERSION):
        raise ValueError(
            f"load_basis: {path} holds {reprlib.repr(kind)} in version {str(version)[:20]}, needs {KIND!r} "
            f"in version {VERSION}; choose a file that a calibration wrote. {AGAIN} if there is none."
        )
    return about


def _assembled(about: Mapping[str, Any], tensors: dict[str, Tensor], device: str | torch.device) -> Basis:
    plan = tuple(LayerPlan(**layer) for layer in about["plan"])
    counts = [about["group"], *(count for layer in plan for count in (layer.rank, layer.wide))]
    if not all(type(count) is int for count in counts):
        raise TypeError("group, rank and wide are whole numbers")
    if odd := [name for name, tensor in tensors.items() if tensor.dtype != torch.float32]:
        raise TypeError(f"{first_few(odd)} are not of float32")
    _check_provenance(about["provenance"])
    layers = tuple(
        LayerBasis(*(tensors.pop(f"layers.{index}.{part}").to(device) for part in PARTS))
        if layer.kind == "latent"
        else None
        for index, layer in enumerate(plan)
    )
    if tensors:
        raise ValueError(f"it has {len(tensors)} tensors of no layer")
    return Basis(layers, plan, about["group"], about["provenance"])


def _check_provenance(about: Mapping[str, Any]) -> None:
    """TypeError or ValueError unless it says what `check_model` compares, in the types that it has."""
    if not isinstance(about, dict) or type(about.get("channels", 1)) is not int:
        raise TypeError("its provenance has no whole number of channels")
    if not all(bool(each.isfinite().all()) for each in _sketches(about)):
        raise ValueError("its fingerprint has numbers without an end")
    error = about.get("error", 0.0)
    if isinstance(error, bool) or not isinstance(error, (int, float)) or not 0 <= error < math.inf:
        raise TypeError("its error is no number of 0 or more")
    if not isinstance(about.get("checkpoint", ""), str):
        raise TypeError("the name of its checkpoint is no text")


def _words(error: Exception) -> str:
    return reason_of(error)[:MAX_REASON]


def _number(about: Mapping[str, object]) -> float:
    error = about.get("error")
    return float(error) if isinstance(error, (int, float)) else float("nan")
