"""What the nodes rely on in ComfyUI, in one table, and the sentence about what an installed version lacks.

What a loaded model must have is in `tree`, what a VAE must have in `vae` and `tiny_vae`.
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from typing import Any

TESTED = "0.33.0"  # the ComfyUI that the tests of these nodes run in
OLDEST = "0.21"  # 0.21.0 was tried, with torch 2.4.1 on a processor

NEEDS: dict[str, tuple[str, ...]] = {
    "comfy.cli_args": ("args.disable_metadata",),
    "comfy.latent_formats": ("Wan21",),
    "comfy.ldm.flux.math": ("apply_rope1",),
    "comfy.ldm.modules.attention": ("optimized_attention",),
    "comfy.ldm.wan.model": ("WanAttentionBlock", "WanModel", "WanSelfAttention.forward"),
    "comfy.model_base": ("BaseModel.get_dtype_inference", "ModelType.FLOW", "WAN21"),
    "comfy.model_management": (
        "InterruptProcessingException",
        "current_loaded_models",
        "extra_reserved_memory",
        "free_memory",
        "get_free_memory",
        "get_torch_device",
        "get_torch_device_name",
        "get_total_memory",
        "intermediate_device",
        "is_device_cpu",
        "is_oom",
        "load_models_gpu",
        "soft_empty_cache",
        "minimum_inference_memory",
        "throw_exception_if_processing_interrupted",
        "unet_offload_device",
        "vae_dtype",
    ),
    "comfy.model_patcher": (
        "ModelPatcher.add_callback_with_key",
        "ModelPatcher.add_object_patch",
        "ModelPatcher.add_patches",
        "ModelPatcher.add_wrapper_with_key",
        "ModelPatcher.clone",
        "ModelPatcher.current_loaded_device",
        "ModelPatcher.get_attachment",
        "ModelPatcher.get_model_object",
        "ModelPatcher.get_nested_additional_models",
        "ModelPatcher.model_patches_models",
        "ModelPatcher.model_size",
        "ModelPatcher.remove_callbacks_with_key",
        "ModelPatcher.remove_wrappers_with_key",
        "ModelPatcher.set_attachments",
    ),
    "comfy.patcher_extension": (
        "CallbacksMP.ON_DETACH",
        "WrappersMP.APPLY_MODEL",
        "WrappersMP.CALC_COND_BATCH",
        "WrappersMP.DIFFUSION_MODEL",
        "WrappersMP.PREDICT_NOISE",
        "WrappersMP.PREPARE_SAMPLING",
    ),
    "comfy.sampler_helpers": ("estimate_memory", "get_additional_models"),
    "comfy.samplers": ("CFGGuider.sample", "CFGGuider.set_cfg", "CFGGuider.set_conds", "Sampler"),
    "comfy.sd": ("VAE", "load_diffusion_model_state_dict"),
    "comfy.supported_models": ("WAN21_T2V.get_model", "models"),
    "comfy.weight_adapter": ("LoRAAdapter",),
    "comfy.utils": ("ProgressBar", "common_upscale", "load_torch_file"),
    "comfy_api.v0_0_2": (
        "ComfyExtension",
        "InputImpl.VideoFromComponents",
        "InputImpl.VideoFromFile",
        "io",
        "ui.PreviewText",
    ),
    "comfy_execution.graph": ("ExecutionBlocker",),
    "comfy_execution.utils": ("get_executing_context",),
    "execution": ("PromptQueue.get_current_queue", "PromptQueue.put"),
    "folder_paths": (
        "add_model_folder_path",
        "get_filename_list",
        "get_folder_paths",
        "get_full_path",
        "get_output_directory",
        "get_save_image_path",
        "get_temp_directory",
        "models_dir",
    ),
    "server": ("PromptServer.send_sync",),
}


def lacking(needs: Mapping[str, tuple[str, ...]] = NEEDS) -> list[str]:
    """Full names of what this ComfyUI does not have."""
    return [f"{module}.{name}" for module, names in needs.items() for name in names if not _has(module, name)]


def version() -> str:
    """The host's version, or `an unknown version`."""
    try:
        return import_module("comfyui_version").__version__
    except (ImportError, AttributeError):
        return "an unknown version"


def why_not_host(needs: Mapping[str, tuple[str, ...]] = NEEDS) -> str | None:
    """A sentence if this ComfyUI lacks something of the table, else None."""
    absent = lacking(needs)
    if not absent:
        return None
    return (
        f"Rivulet: this ComfyUI ({version()}) has no {', '.join(absent)}, so only the node Rivulet Doctor is "
        f"loaded; Rivulet needs ComfyUI {OLDEST} or newer and is tested with {TESTED}. Update ComfyUI, and "
        f"Rivulet if ComfyUI is newer than that."
    )


def _has(module: str, path: str) -> bool:
    try:
        part: Any = import_module(module)
    except ImportError:
        return False
    for name in path.split("."):
        if not hasattr(part, name):
            return False
        part = getattr(part, name)
    return True
