"""Our forward beside diffusers' WanTransformer3DModel with the same random weights.

diffusers takes the sinusoid of a timestep in float32, which at 1000 is wrong in the fifth digit. Wan itself
takes it in float64, and so does the comparison.
"""

import logging
import math

import pytest
import torch
from rivulet.model_patches.arch.wan import WanConfig, WanModel
from rivulet.model_patches.attention.forward import forward_bidirectional
from rivulet.model_patches.checkpoints._diffusers_keys import is_diffusers, wan_key
from rivulet.model_patches.checkpoints.checkpoint import open_checkpoint
from safetensors.torch import save_file

transformer_wan = pytest.importorskip("diffusers.models.transformers.transformer_wan")
logging.getLogger("diffusers.models.modeling_utils").setLevel(logging.ERROR)


class Sinusoid(torch.nn.Module):
    """Stands in for diffusers' `timesteps_proj`; angles in float64, one number at a time."""

    def forward(self, timesteps):
        rows = [
            [trig(t / 10000 ** (i / 128)) for trig in (math.cos, math.sin) for i in range(128)]
            for t in timesteps.tolist()
        ]
        return torch.tensor(rows)


@pytest.fixture(scope="module")
def pair():
    torch.manual_seed(3)
    sizes = {"ffn_dim": 80, "num_layers": 3, "text_dim": 12}
    theirs = transformer_wan.WanTransformer3DModel(
        num_attention_heads=2, attention_head_dim=28, in_channels=5, out_channels=7, **sizes
    ).eval()
    theirs.condition_embedder.timesteps_proj = Sinusoid()
    for parameter in theirs.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    assert is_diffusers(theirs.state_dict())
    ours = WanModel(WanConfig(dim=56, num_heads=2, in_channels=5, out_channels=7, **sizes)).eval()
    ours.load_state_dict({wan_key(key): value for key, value in theirs.state_dict().items()})
    return theirs, ours


INPUTS = {
    "one timestep": ((2, 5, 3, 6, 10), torch.tensor([[700.0], [31.0]])),
    "one frame": ((1, 5, 1, 2, 4), torch.tensor([[1000.0]])),
    "a timestep per frame": ((2, 5, 3, 4, 6), torch.tensor([[0.0, 937.5, 625.0], [1000.0, 0.0, 1.0]])),
}


@pytest.mark.parametrize("case", INPUTS)
@torch.inference_mode()
def test_one_bidirectional_forward_agrees(pair, case):
    theirs, ours = pair
    shape, timesteps = INPUTS[case]
    x, text = torch.randn(shape), torch.randn(shape[0], 9, 12)
    tokens = shape[3] * shape[4] // 4
    per_token = timesteps[:, 0] if timesteps.shape[1] == 1 else timesteps.repeat_interleave(tokens, 1)

    def run_theirs(dtype):
        flow = theirs.to(dtype)(x.to(dtype), per_token, text.to(dtype), return_dict=False)[0]
        theirs.float()
        return flow

    exact = run_theirs(torch.float64)
    rounding = torch.finfo(torch.float32).eps * exact.abs().max()
    budget = 2 * ((run_theirs(torch.float32) - exact).abs().max() + rounding)
    got = forward_bidirectional(ours, x, timesteps, text)
    assert got.dtype == torch.float32 and got.shape == exact.shape
    assert (got - exact).abs().max() <= budget


def test_a_file_with_diffusers_names_is_read_as_one_with_wans(tmp_path):
    sizes = {"ffn_dim": 80, "num_layers": 2, "text_dim": 12}
    torch.manual_seed(3)
    theirs = transformer_wan.WanTransformer3DModel(
        num_attention_heads=2, attention_head_dim=128, in_channels=16, out_channels=16, **sizes
    )
    state = {key: value.detach() for key, value in theirs.state_dict().items()}
    save_file(state, tmp_path / "model.safetensors")
    found = open_checkpoint(tmp_path / "model.safetensors")
    assert "diffusers' names read as Wan's" in str(found)
    assert found.tensors.keys() == WanModel(WanConfig(dim=256, **sizes)).state_dict().keys()
    assert torch.equal(found.tensors["blocks.1.cross_attn.o.weight"], theirs.blocks[1].attn2.to_out[0].weight)
    extra = {"condition_embedder.image_embedder.norm1.weight": torch.zeros(4)}
    save_file(state | extra, tmp_path / "model.safetensors")
    with pytest.raises(ValueError, match=r"is an image-to-video model \(img_emb.norm1.weight\)"):
        open_checkpoint(tmp_path / "model.safetensors")
