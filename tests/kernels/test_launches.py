"""How many kernels a block launches on a card that is not there: the counts may fall, and must not grow."""

from __future__ import annotations

from collections import Counter

import pytest
import torch
from rivulet.kernels import dispatch
from rivulet.model_patches.arch import parts
from rivulet.model_patches.arch.mla import MlaModel, MlaSizes
from rivulet.model_patches.arch.rotary import RopeLayout
from rivulet.model_patches.arch.wan import WanConfig, WanModel
from rivulet.model_patches.attention.positions import PositionPreset
from rivulet.model_patches.cache.basis import Basis, LayerBasis, LayerPlan
from rivulet.model_patches.cache.dense import DENSE
from rivulet.model_patches.cache.int8 import INT8
from rivulet.model_patches.cache.latent import LatentFormat
from rivulet.model_patches.cache.mla import MlaFormat
from rivulet.model_patches.geometry import Geometry
from rivulet.model_patches.stream.config import StreamConfig
from rivulet.model_patches.stream.model_caller import ModelCaller
from rivulet.model_patches.stream.step import init, step
from rivulet.tests.card.faked import card as card
from torch.utils._python_dispatch import TorchDispatchMode

HALF = torch.bfloat16
SIZES = WanConfig(dim=256, ffn_dim=64, num_layers=3, text_dim=32)
PRESET = PositionPreset("short", 1, 3, last_id=3, trained_frames=4)
# launches of a block (without kernels, with); with kernels and before norms were one with what is around
# them: dense 287, int8 331, latent 348, mla 393, mla-int8 393
CAPS = {
    "dense": (295, 232),
    "int8": (465, 270),
    "latent": (708, 287),
    "mla": (513, 339),
    "mla-int8": (584, 339),
}
# that make a tensor or another view of one, or bring a number to the host; the card runs nothing
SILENT = (
    "device",
    "empty",
    "new_empty",
    "detach",
    "alias",
    "lift_fresh",
    "_unsafe_view",
    "_reshape_alias",
    "resize",
    "is_nonzero",
    "_local_scalar_dense",
)


class Launches(TorchDispatchMode):
    """Counts operations on the card by their names; views and room for results are none."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: Counter[str] = Counter()

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        made = function(*args, **(kwargs or {}))
        name = function.__name__.split(".")[0]
        cuda = [
            x
            for x in torch.utils._pytree.tree_leaves((args, kwargs, made))
            if isinstance(x, torch.Tensor) and x.is_cuda
        ]
        if cuda and not function.is_view and not name.startswith(SILENT):
            self.seen[name] += 1
        return made


def latent(card) -> LatentFormat:
    """Returns a format of half int8, half int4 directions; its basis lies on the card from the start."""
    layer = LayerBasis(card.empty(256), card.empty(256, 256), card.empty(256, 256))
    return LatentFormat(Basis((layer,) * 3, (LayerPlan("latent", 128, 64),) * 3))


FORMATS = {
    "dense": lambda _: DENSE,
    "int8": lambda _: INT8,
    "latent": latent,
    "mla": lambda _: MlaFormat(64, 32),
    "mla-int8": lambda _: MlaFormat(64, 32, int8=True),
}


@pytest.fixture
def launches(card, monkeypatch):
    """Returns a function that counts a block's launches by their names, with Triton's kernels or without."""

    def count(name: str, kernels: bool) -> Counter[str]:
        seen = Launches()
        if kernels:
            from rivulet.kernels._triton._launch import Launch

            monkeypatch.setattr(Launch, "run", lambda launch: seen.seen.update([launch.op]))
            monkeypatch.setattr(dispatch, "triton_support", lambda device: dispatch.Support(True, ""))
            monkeypatch.setattr(dispatch, "_checks", [])
        with torch.device("meta"):
            sizes = MlaSizes(kv_latent=64, query_latent=64, rope=RopeLayout.truncated(128, 32))
            model = MlaModel(SIZES, sizes) if name.startswith("mla") else WanModel(SIZES)
        card.carry(model, HALF)
        text = card.empty(1, 7, 32, dtype=HALF)
        config = StreamConfig(Geometry(64, 48), PRESET, 1, (1.0, 0.5), dtype=HALF)
        caller = ModelCaller(model, card.device)
        with card:
            cache = FORMATS[name](card)
            state = init(caller, (text,), config, cache=cache)
            for _ in range(4):
                _, state = step(caller, state)
            attended = len(card.attended)
            seen.seen.clear()
            with seen:
                step(caller, state)
            seen.seen["attention"] = len(card.attended) - attended
        return seen.seen

    return count


@pytest.mark.parametrize("kernels", [False, True], ids=["torch", "kernels"])
@pytest.mark.parametrize("name", FORMATS)
def test_a_block_launches_no_more_than_it_did(name, kernels, launches):
    """Of three layers: two noise levels and the call at timestep 0, which ends in the last layer."""
    made, cap = sum(launches(name, kernels).values()), CAPS[name][kernels]
    assert made <= cap, "a block launches more: take an operation away, or say in its commit what it buys"
    assert made > 0.97 * cap, "a block launches less: lower the cap to what it is now"


def test_with_kernels_a_layer_is_what_its_table_says(launches):
    """Of dense: each norm and sum of docs/kernels.md is a launch of its own, or part of one."""
    seen, runs, unkept = launches("dense", True), 3 * 3 - 1, 3 * 2
    assert seen["add_norm_modulate"] == 2 * runs and seen["norm_modulate"] == 3
    assert seen["attention"] == 2 * runs
    # the call's own keys lie between those of the past, which are turned on either side
    assert seen["norm_rope"] == runs + unkept and seen["rotate"] == runs + unkept
    assert seen["addcmul"] == seen["layer_norm"] == seen["gelu"] == runs


def test_a_launch_too_many_is_seen(launches, monkeypatch):
    plain = parts.split_heads
    before = sum(launches("dense", False).values())
    monkeypatch.setattr(parts, "split_heads", lambda attention, x: plain(attention, x) * 1)
    assert sum(launches("dense", False).values()) > before
