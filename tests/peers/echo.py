"""Runs Echo-Infinity's released inference code (arXiv 2606.04527) as it is, on a CPU and at small sizes.

Nothing of it lies here. It is read from `$RIVULET_PEERS/echo_infinity/worldfoundry`, as the repository
OpenEnvision/WorldFoundry carries it; what stands in for the rest of that project is written out below.
"""

import ast
import importlib
import importlib.abc
import importlib.machinery
import sys
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib.util import find_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest
import torch
from torch.nn.functional import scaled_dot_product_attention

from .standins import Literals

FRAME, LAYERS, HEADS = 6, 3, 2  # tokens of a latent frame, layers, heads of 128 channels
GRID = (3, 2)  # rows and columns of those tokens
WIDTH, TEXT = 128 * HEADS, (5, 6)  # channels; text tokens and their channels
SIZES = {
    "text_len": TEXT[0],
    "in_dim": 16,
    "dim": WIDTH,
    "ffn_dim": 96,
    "freq_dim": 32,
    "text_dim": TEXT[1],
    "out_dim": 16,
    "num_heads": HEADS,
    "num_layers": LAYERS,
}
MEMORY = {"enabled": True, "tokens_per_frame": FRAME, "hidden_dim": WIDTH, "num_heads": HEADS}

VARIANT = "worldfoundry.base_models.diffusion_model.video.wan.variants.echo_infinity.wan.modules"
RUNTIME = "worldfoundry.synthesis.visual_generation.echo_infinity.echo_infinity_runtime"
CLASSES = {  # the general class that the shipped settings take, and the compact one for inference
    "general": f"{VARIANT}.causal_model:CausalWanModel",
    "compact": f"{VARIANT}.causal_model_infinity_memory:CausalWanModelInfinityMemory",
}
# numbers that are written into the code for one size: file name -> what each becomes
WRITTEN = {
    "causal_inference.py": {1560: FRAME, 30: LAYERS, 12: HEADS},
    "": {1560: FRAME},
}


def attention(q, k, v, **options):
    """All to all in the dtype that is given, [B, L, N, D]."""
    assert not any(value is not None for value in options.values()), options
    return scaled_dot_product_attention(*(x.transpose(1, 2) for x in (q, k, v))).transpose(1, 2)


def stand_ins():
    """What the files read here import and either never call on this path, or call for attention alone."""
    names = {
        "worldfoundry.core.attention.varlen": {"attention": attention, "flash_attention": attention},
        "worldfoundry.core.vram": dict.fromkeys(
            ("gpu", "get_cuda_free_memory_gb", "move_model_to_device_with_memory_preservation")
        ),
        f"{VARIANT}.t5": {"umt5_xxl": None},
        f"{VARIANT}.tokenizers": {"HuggingfaceTokenizer": None},
        f"{VARIANT}.vae": {"_video_vae": None},
        **({} if find_spec("einops") else {"einops": {"repeat": None}}),
    }
    modules = {name: ModuleType(name) for name in names}
    for name, module in modules.items():
        vars(module).update(names[name])
    return modules


class Loader(importlib.machinery.SourceFileLoader):
    """Source files, with the sizes of `WRITTEN`; nothing is written beside them."""

    def get_code(self, fullname):
        numbers = WRITTEN.get(Path(self.path).name, WRITTEN[""])
        tree = Literals(numbers).visit(ast.parse(Path(self.path).read_text(encoding="utf-8")))
        return compile(tree, self.path, "exec")


class Finder(importlib.abc.MetaPathFinder):
    """Modules of the released code below one folder; packages are bare, their `__init__` is not run."""

    def __init__(self, root):
        self.root = root

    def find_spec(self, fullname, path=None, target=None):
        if fullname.split(".")[0] != "worldfoundry":
            return None
        place = self.root.joinpath(*fullname.split("."))
        if place.with_suffix(".py").is_file():
            file = str(place.with_suffix(".py"))
            return spec_from_file_location(fullname, file, loader=Loader(fullname, file))
        made = importlib.machinery.ModuleSpec(fullname, None, is_package=True)
        made.submodule_search_locations = [str(place)]
        return made


@contextmanager
def released(root):
    """Gives a reader of `module:name` of the released code; afterwards none of it is loaded."""
    finder, stood = Finder(root), stand_ins()
    sys.meta_path.insert(0, finder)
    sys.modules.update(stood)

    def read(path):
        module, _, name = path.partition(":")
        return getattr(importlib.import_module(module), name)

    try:
        yield read
    finally:
        sys.meta_path.remove(finder)
        for name in [n for n in sys.modules if n in stood or n.split(".")[0] == "worldfoundry"]:
            del sys.modules[name]


def widen(patch, read):
    """Two roundings that only show beside float64: norms in float32, and the state reset to bfloat16.

    Both follow the model's dtype instead; for bfloat16 weights nothing changes.
    """
    norm = read(f"{VARIANT}.model:WanRMSNorm")
    encoder = read(f"{RUNTIME}.model.query_memory:QueryMemoryEncoder")
    reset = encoder.reset

    def forward(self, x):
        wide = x.to(torch.promote_types(x.dtype, torch.float32))
        return self._norm(wide).type_as(x) * self.weight

    def begun(self, batch_size=1, device=None, dtype=None):
        reset(self, batch_size, device, self.query_init.dtype)

    patch.setattr(norm, "forward", forward)
    patch.setattr(encoder, "reset", begun)


@torch.no_grad()
def fill(module, seed=1):
    """Weights large enough for every path to matter, the same for the same seed whatever the dtype."""
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in sorted(module.named_parameters()):
        drawn = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
        drawn = drawn if name.endswith("query_init") else drawn / max(1, parameter[0].numel()) ** 0.5
        if parameter.ndim == 1:
            drawn = 0.25 * drawn + ("norm" in name and "bias" not in name)
        # float32 and float64 models are to be the same model
        parameter.copy_(drawn.float())
    return module.requires_grad_(False).eval()


class Texts(torch.nn.Module):
    """Encoded prompts by their numbers."""

    def __init__(self, dtype):
        super().__init__()
        self.dtype = dtype

    def forward(self, text_prompts):
        return {"prompt_embeds": torch.cat([text(int(prompt), self.dtype) for prompt in text_prompts])}


class NoVae(torch.nn.Module):
    """Latents come out as they are."""

    def decode_to_pixel(self, latents, use_cache=False):
        return latents

    decode_to_pixel_chunk = decode_to_pixel


def text(number, dtype):
    """One encoded prompt [1, L, E]."""
    generator = torch.Generator().manual_seed(100 + number)
    return torch.randn(1, *TEXT, generator=generator).to(dtype)


@dataclass
class Rollout:
    """What a run of the released pipeline gave, call by call: clean passes and recaches are calls, too."""

    latents: torch.Tensor | None = None  # [1, F, C, H, W]
    flows: list = field(default_factory=list)  # [1, T, C, H, W]
    states: list = field(default_factory=list)  # of the memory after the call; None before the first update


@dataclass
class Pipeline:
    """The released pipeline over a small model."""

    read: object
    training: str  # std or long
    kind: str  # one of CLASSES
    dtype: torch.dtype
    patch: pytest.MonkeyPatch

    def __post_init__(self):
        made, bounded = self.read(CLASSES[self.kind]), self.training == "long"
        load = classmethod(lambda cls, root, **options: cls(**SIZES, **options).to(self.dtype))
        self.patch.setattr(made, "from_pretrained", load)
        options = {"model_root": ".", "local_attn_size": 12, "sink_size": 3, "timestep_shift": 5.0}
        options |= {"relative_rope": True, "relative_rope_pmax": 21} if bounded else {}
        options |= {"use_infinite_attention": True} if self.kind == "compact" else {}
        with default_dtype(torch.promote_types(self.dtype, torch.float32)):  # of the scheduler's table
            wrapper = self.read(f"{RUNTIME}.utils.wan_wrapper:WanDiffusionWrapper")(is_causal=True, **options)
            memory = MEMORY | ({"memory_recache": True} if bounded else {"normalize_memory_k": True})
            args = SimpleNamespace(
                model_kwargs=SimpleNamespace(**options),
                memory_kwargs=memory,
                denoising_step_list=[1000, 750, 500, 250],
                warp_denoising_step=True,
                num_frame_per_block=3,
                context_noise=0,
                global_sink=True,
            )
            kind = self.read(
                f"{RUNTIME}.pipeline.interactive_causal_inference:InteractiveCausalInferencePipeline"
            )
            made = kind(args, "cpu", generator=wrapper, text_encoder=Texts(self.dtype), vae=NoVae())
        self.pipe, self.model = fill(made.to(self.dtype)), made.generator.model

    @torch.no_grad()
    def run(self, draw, blocks, prompts=(1,), switches=()):
        """A stream of so many blocks of 3 latent frames.

        draw: noise [1, C, T, H, W] before a call, by the numbers of block and call. prompts: their numbers;
        each but the first holds from the block at one of `switches`, latent frames, on.
        """
        record, scheduler, encoder = Rollout(), self.pipe.scheduler, self.model.query_memory_encoder
        add_noise, between = scheduler.add_noise, iter((b, c) for b in range(blocks) for c in (1, 2, 3))

        def noised(clean, drawn, timestep):
            return add_noise(clean, draw(*next(between))[0].transpose(0, 1).to(drawn), timestep)

        def called(module, inputs, outputs):
            record.flows.append(outputs[0])
            record.states.append(encoder.query_state if encoder.has_history else None)

        hook = self.pipe.generator.register_forward_hook(called)
        scheduler.add_noise = noised
        try:
            noise = torch.cat([draw(block, 0) for block in range(blocks)], 2).transpose(1, 2)
            _, record.latents = self.pipe.inference(
                noise.to(self.dtype),
                text_prompts_list=[[str(prompt)] for prompt in prompts],
                switch_frame_indices=list(switches),
                return_latents=True,
            )
        finally:
            hook.remove()
            scheduler.add_noise = add_noise
        return record


@contextmanager
def default_dtype(dtype):
    """Makes new tensors in this dtype."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)
