"""What stands in, inside the process of `released.py`, for what a small CPU run cannot have.

Sizes, devices, the source of noise and the kernel of attention; the arithmetic between them stays theirs.
docs/families.md lists every one of them.
"""

from __future__ import annotations

import ast
import importlib
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from importlib.machinery import ModuleSpec, PathFinder, SourceFileLoader
from pathlib import Path
from types import CodeType, ModuleType

import torch
import torch.nn.functional as F
from torch import Tensor

FRAME_TOKENS = 1560  # which their code writes as a number, and multiples of it
MULTIPLES = (1, 2, 3, 21)


class Literals(ast.NodeTransformer):
    """Numbers and words that are written into the code become others."""

    def __init__(self, others: Mapping[int | str, int | str]) -> None:
        self.others = others

    def visit_Constant(self, node: ast.Constant) -> ast.Constant:
        if type(node.value) in (int, str) and node.value in self.others:
            return ast.copy_location(ast.Constant(self.others[node.value]), node)
        return node


def small_on_a_cpu(frame_tokens: int) -> dict[int | str, int | str]:
    """Numbers of tokens of a 832 x 480 picture become those of a small one, and "cuda" becomes "cpu"."""
    return {"cuda": "cpu"} | {FRAME_TOKENS * times: frame_tokens * times for times in MULTIPLES}


class Checkout(SourceFileLoader):
    """Reads a module of the checkout, nothing but `Literals` changed; leaves no bytecode behind."""

    frame_tokens = FRAME_TOKENS

    def get_code(self, fullname: str) -> CodeType:
        path = self.get_filename(fullname)
        tree = Literals(small_on_a_cpu(self.frame_tokens)).visit(ast.parse(self.get_data(path)))
        return compile(ast.fix_missing_locations(tree), path, "exec")


class Absent(ModuleType):
    """A package that is not needed for the forward; whatever is taken from it fails when it is used."""

    __path__: Sequence[str] = ()

    def __getattr__(self, name: str) -> Callable[..., object]:
        if name.startswith("__"):
            raise AttributeError(name)

        def used(*_: object, **__: object) -> object:
            raise RuntimeError(f"{self.__name__}.{name} is absent and was called")

        return used


class Web(ModuleType):
    """A package that a server is declared with; everything in it is a class that takes anything."""

    __path__: Sequence[str] = ()

    def __getattr__(self, name: str) -> type:
        if name.startswith("__"):
            raise AttributeError(name)
        return Declared


class Declared:
    """An application, a field or a base class; its methods are decorators that leave functions alone."""

    def __init__(self, *_: object, **__: object) -> None:
        pass

    def __getattr__(self, name: str) -> Callable[..., Callable[[object], object]]:
        return lambda *_, **__: lambda function: function


def allow(*packages: str) -> None:
    """These packages are there, and do nothing."""
    for name in packages:
        sys.modules[name] = Web(name)


class Finder:
    """Finds modules in the checkout, packages without their `__init__` where `bare` names them."""

    def __init__(self, folder: Path, bare: Iterable[str]) -> None:
        self.folder, self.bare = folder, frozenset(bare)

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        inside = self.folder.joinpath(*name.split("."))
        if name in self.bare or (inside.is_dir() and not (inside / "__init__.py").exists()):
            spec = ModuleSpec(name, None, is_package=True)
            spec.submodule_search_locations = [str(inside)]
            return spec
        spec = PathFinder.find_spec(name, path or [str(self.folder)])
        if spec is None or not spec.origin or not Path(spec.origin).is_relative_to(self.folder):
            return None
        spec.loader = Checkout(name, spec.origin)
        return spec


def see_checkout(folder: Path, frame_tokens: int, bare: Iterable[str], absent: Sequence[str]) -> None:
    """From here on imports find the checkout first."""
    importlib.import_module("diffusers.models.modeling_utils")  # asks what is installed, so before `absent`
    Checkout.frame_tokens = frame_tokens
    for name in absent:
        sys.modules[name] = Absent(name)
        package, _, own = name.rpartition(".")
        if package in absent:
            setattr(sys.modules[package], own, sys.modules[name])
    sys.meta_path.insert(0, Finder(folder, bare))


def stand_in(folder: Path) -> None:
    """Every module of the checkout that has been imported finds what stands in under the name it knows."""
    named = {
        "attention": attention,
        "flash_attention": attention,
        "FLASH_ATTN_2_AVAILABLE": True,  # or Krea's model writes its own, which rounds to bfloat16
        "WanTextEncoder": Text,
        "WanVAEWrapper": Pictures,
        "get_text_encoder_wrapper": lambda model_name: Text,
        "get_vae_wrapper": lambda model_name: Pictures,
    }
    for module in list(sys.modules.values()):
        if str(getattr(module, "__file__", None)).startswith(str(folder)):
            for name in named.keys() & vars(module).keys():
                setattr(module, name, named[name])


def attention(q: Tensor, k: Tensor, v: Tensor, k_lens: Tensor | None = None, **_: object) -> Tensor:
    """Unmasked attention [B, L, N, D] in the dtype it is given; theirs is flash attention in bfloat16."""
    assert k_lens is None, "a padding mask, which their inference does not use"
    return F.scaled_dot_product_attention(*(x.transpose(1, 2) for x in (q, k, v))).transpose(1, 2)


def without_a_gpu() -> None:
    """No CUDA and no compiler."""
    torch.cuda.current_device = lambda: "cpu"
    torch.compile = lambda function=None, **_: function


def in_float64() -> None:
    """What asks for float32 by name gets float64, so that a whole run is in it."""
    torch.set_default_dtype(torch.float64)
    torch.Tensor.float = torch.Tensor.double


class Text:
    """Encoded prompts by their words."""

    known: dict[str, Tensor]

    def __init__(self, *_: object, **__: object) -> None:
        pass

    def __call__(self, text_prompts: Sequence[str]) -> dict[str, Tensor]:
        return {"prompt_embeds": torch.cat([self.known[words] for words in text_prompts])}


class Pictures:
    """A VAE that gives back latents."""

    def __init__(self, *_: object, **__: object) -> None:
        pass

    def decode_to_pixel(self, latents: Tensor, use_cache: bool = False, **_: object) -> Tensor:
        return latents

    decode_to_pixel_chunk = decode_to_pixel


class Options(dict):
    """What OmegaConf makes of a mapping, as far as a pipeline asks for it."""

    def __getattr__(self, name: str) -> object:
        if name not in self:
            raise AttributeError(name)
        value = self[name]
        return Options(value) if isinstance(value, dict) else value
