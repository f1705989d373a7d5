"""VideoMLA inside the host: its Wan model with latent self-attention, made of the host's own layers.

B batch, L tokens, D head width. The host's loader makes this class where the metadata of a state dict says
so, see `mla_metadata`; offload, casting and LoRA then work as for every model of the host.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

import comfy.supported_models
import torch
from comfy.ldm.wan.model import WanAttentionBlock, WanModel, WanSelfAttention
from comfy.model_base import WAN21, BaseModel, ModelType
from torch import Tensor, nn

from ...model_patches.arch.mla import MlaAttention, MlaSizes
from ...model_patches.arch.rotary import RopeLayout

ELSEWHERE = ("causal_ar", "rope_layout")  # of a file: another class of the host's, and in MlaSizes by now
KIND = "rivulet_video_mla"  # key of a state dict's metadata that no other loader has a meaning for


class HostMlaAttention(MlaAttention):
    """VideoMLA's layers with the host's own forward, which asks them for whole heads."""

    def __init__(self, dim: int, num_heads: int, *rest: Any, **factory: Any) -> None:
        super().__init__(dim, num_heads, *rest, **factory)
        self.head_dim = dim // num_heads

    forward = WanSelfAttention.forward


class LayoutEmbedder(nn.Module):
    """Stands in for the host's table of angles: pairs of a layout, those that stand still first."""

    def __init__(self, layout: RopeLayout) -> None:
        super().__init__()
        self.layout = layout

    def forward(self, ids_BLA: Tensor) -> Tensor:
        """Rotation matrices [B, 1, L, D/2, 2, 2] of places on the axes time, row and column."""
        layout = self.layout
        rates = (layout.time, layout.row, layout.column)
        places = ids_BLA.cpu().double()  # not every device knows float64
        turned = [
            places[..., axis, None] * torch.tensor(each, dtype=torch.float64)
            for axis, each in enumerate(rates)
        ]
        still = places.new_zeros(*places.shape[:2], layout.still // 2)
        angles = torch.cat([still, *turned], -1)
        cos, sin = angles.cos().float(), angles.sin().float()
        turns = torch.stack([cos, -sin, sin, cos], -1).unflatten(-1, (2, 2))[:, None]
        return turns.to(ids_BLA.device)


class HostMlaModel(WanModel):
    """The host's Wan model, its self-attentions replaced."""

    def __init__(self, *, video_mla: Mapping[str, Any], **config: Any) -> None:
        sizes = sizes_of(video_mla)

        def block(*arguments: Any, operation_settings: Mapping[str, Any], **named: Any) -> WanAttentionBlock:
            attention_block = WanAttentionBlock(*arguments, operation_settings=operation_settings, **named)
            factory = {name: operation_settings[name] for name in ("device", "dtype")}
            dense = attention_block.self_attn
            attention_block.self_attn = HostMlaAttention(
                dense.dim, dense.num_heads, sizes, dense.eps, operation_settings["operations"], **factory
            )
            return attention_block

        super().__init__(wan_attn_block_class=block, **config)
        self.rope_layout = sizes.rope
        self.rope_embedder = LayoutEmbedder(sizes.rope)


class HostVideoMla(WAN21):
    """The host's wrapper of a diffusion model, around ours."""

    def __init__(self, model_config: Any, device: torch.device | None = None) -> None:
        # past WAN21, which names its own diffusion model
        BaseModel.__init__(self, model_config, ModelType.FLOW, device=device, unet_model=HostMlaModel)
        self.image_to_video = False


class VideoMlaConfig(comfy.supported_models.WAN21_T2V):
    """What the host's detection looks for; its other settings are those of Wan 2.1 text to video."""

    unet_config = {**comfy.supported_models.WAN21_T2V.unet_config, KIND: True}  # noqa: RUF012

    def __init__(self, unet_config: dict[str, Any]) -> None:
        super().__init__(unet_config)
        self.unet_config.pop(KIND)

    def get_model(
        self, state_dict: Mapping[str, Tensor], prefix: str = "", device: torch.device | None = None
    ) -> HostVideoMla:
        """The model, its weights still to be loaded."""
        return HostVideoMla(self, device)


def mla_metadata(metadata: Mapping[str, str], sizes: MlaSizes) -> dict[str, str]:
    """The metadata with what makes the host's loader take this class; registers it with the host, once."""
    known = comfy.supported_models.models
    if VideoMlaConfig not in known:
        known.insert(0, VideoMlaConfig)  # before the class that fits all of Wan's text-to-video models
    config = json.loads(metadata.get("config", "{}"))
    sizes_in_file = config.get("transformer", {}).items()
    rest = {key: value for key, value in sizes_in_file if key not in ELSEWHERE}
    mla_sizes = asdict(sizes) | {"biases": sorted(sizes.biases)}
    transformer = {**rest, KIND: True, "video_mla": mla_sizes}
    return {**metadata, "config": json.dumps({"transformer": transformer})}


def sizes_of(mla_sizes: Mapping[str, Any]) -> MlaSizes:
    """The sizes that `mla_metadata` wrote."""
    rope = RopeLayout(**{name: mla_sizes["rope"][name] for name in ("still", "time", "row", "column")})
    return MlaSizes(mla_sizes["kv_latent"], mla_sizes["query_latent"], rope, frozenset(mla_sizes["biases"]))
