"""Keys of a call that is not kept, normed and turned in one pass straight into what is attended to."""

import pytest
import torch
from rivulet.model_patches.arch.mla import MlaModel, MlaSizes
from rivulet.model_patches.arch.rotary import RopeLayout
from rivulet.model_patches.arch.wan import WanConfig, WanModel
from rivulet.model_patches.attention import turning
from rivulet.model_patches.attention.positions import PositionPreset
from rivulet.model_patches.cache.dense import DENSE
from rivulet.model_patches.cache.int8 import Int8Format
from rivulet.model_patches.cache.mla import MlaFormat
from rivulet.model_patches.cache.shapes import Exact
from rivulet.model_patches.geometry import Geometry
from rivulet.model_patches.stream.config import StreamConfig
from rivulet.model_patches.stream.model_caller import ModelCaller
from rivulet.model_patches.stream.step import init, rollout

SIZES = WanConfig(dim=128, ffn_dim=64, num_layers=2, num_heads=2, text_dim=8)
LATENTS = MlaSizes(kv_latent=32, query_latent=64, rope=RopeLayout.truncated(64, 16))
# from the third block on the new frame comes to lie before, between and behind the kept ones
PRESET = PositionPreset("short", 1, 3, last_id=3, trained_frames=4)
CALLS = 2 * 6  # that are not kept
FORMATS = {
    "dense": (DENSE, CALLS),
    "int8": (Int8Format(), CALLS),
    "int8, exact sink": (Int8Format(exact=Exact(sink=1)), CALLS),
    "dense over latents": (DENSE, 0),
    "mla": (MlaFormat(32, 16), 0),
}


def made(model, cache):
    stream = StreamConfig(Geometry(32, 32), PRESET, 1, (1.0, 0.5), dtype=torch.float64)
    text = torch.ones(1, 3, SIZES.text_dim, dtype=torch.float64)
    state = init(ModelCaller(model), (text,), stream, cache=cache)
    return torch.cat([latents for latents, _ in rollout(ModelCaller(model), state, 6)], 2)


@pytest.mark.parametrize("name", FORMATS)
def test_a_stream_is_the_same_whether_its_keys_wait_for_their_norm(name, monkeypatch):
    cache, passes_a_layer = FORMATS[name]
    latents = "latents" in name or name == "mla"
    model = MlaModel(SIZES, LATENTS) if latents else WanModel(SIZES)
    model.requires_grad_(False).double()
    torch.nn.init.normal_(model.head.head.weight)
    for block in model.blocks:
        for norm in (block.self_attn.norm_q, block.self_attn.norm_k):
            if not latents:
                torch.nn.init.normal_(norm.weight)
    plain, into = made(model, cache), []
    run = turning.norm_rope

    def norm_rope(*given, out):
        into.append(out is not None)
        return run(*given, out=out)

    monkeypatch.setattr(turning, "runs_kernel", lambda *_: True)
    monkeypatch.setattr(turning, "norm_rope", norm_rope)
    joined = made(model, cache)
    assert sum(into) == SIZES.num_layers * passes_a_layer
    # in float64 what is left is what eps takes from a gain, 1e-6 / 2 / 256^2, and grows with the layers
    assert (joined - plain).abs().max() <= 1e-8 * plain.abs().max()


def test_keys_that_are_kept_are_normed_before_they_are_stored(monkeypatch):
    model = WanModel(SIZES).requires_grad_(False).double()
    plain = [state.cache.tensors()["kv"] for _, state in _blocks(model)]
    monkeypatch.setattr(turning, "runs_kernel", lambda *_: True)
    for want, (_, state) in zip(plain, _blocks(model), strict=True):
        torch.testing.assert_close(state.cache.tensors()["kv"], want, rtol=0, atol=1e-8 * want.abs().max())


def _blocks(model):
    stream = StreamConfig(Geometry(32, 32), PRESET, 1, (1.0, 0.5), dtype=torch.float64)
    caller, text = ModelCaller(model), torch.ones(1, 3, SIZES.text_dim, dtype=torch.float64)
    return rollout(caller, init(caller, (text,), stream, cache=DENSE), 3)
