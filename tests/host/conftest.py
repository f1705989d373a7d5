"""A real ComfyUI checkout in this process, and tiny random Wan files that its own loaders read.

COMFYUI_PATH names the checkout. Without it these tests are skipped; with RIVULET_REQUIRE_COMFYUI=1 they fail.
COMFYUI_FRONT_END names a folder with another front end than the installed one, for the server's page.
COMFYUI_GGUF_PATH names a checkout of the pack ComfyUI-GGUF, for test_gguf alone, which says more.
"""

import json
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from weakref import WeakKeyDictionary

import pytest
import torch
from rivulet.model_patches.arch.wan import WanConfig, WanModel
from rivulet.model_patches.vae.wan import WanVAE
from rivulet.tests.card.faked import card as card
from rivulet.tests.engine.checkpoints.published_files import BY_NAME
from rivulet.tests.host.comfy_server import Server
from rivulet.tests.host.loading import REST
from safetensors.torch import save_file

TEXT_DIM = 64
SIZES = WanConfig(dim=128, ffn_dim=256, num_layers=2, num_heads=2, text_dim=TEXT_DIM)


def _no_host(reason: str) -> None:
    refuse = pytest.fail if os.environ.get("RIVULET_REQUIRE_COMFYUI") == "1" else pytest.skip
    refuse(f"needs a ComfyUI checkout: {reason}; set COMFYUI_PATH to one")


@pytest.fixture(scope="session")
def comfyui() -> Path:
    """Returns the checkout's folder; its packages can be imported from here on."""
    named = os.environ.get("COMFYUI_PATH")
    if not named:
        _no_host("COMFYUI_PATH is not set")
    folder = Path(named)
    if not (folder / "comfy" / "model_patcher.py").is_file():
        _no_host(f"{folder} has no comfy/model_patcher.py")
    sys.path.insert(0, str(folder))
    import comfy.options

    # ComfyUI reads its options from the command line while it is imported
    argv, sys.argv = sys.argv, ["main.py"] if torch.cuda.is_available() else ["main.py", "--cpu"]
    comfy.options.enable_args_parsing()
    import comfy.cli_args

    sys.argv = argv
    # as main.py does: nodes puts comfy/, which has a utils.py, before this package on the path
    import_module("utils.install_util")
    import comfy.sd

    import nodes

    assert Path(nodes.__file__).parent == folder.resolve(), "nodes must be ComfyUI's own"
    return folder


@pytest.fixture(scope="session")
def server(comfyui, tmp_path_factory) -> Iterator[Server]:
    """Returns a running ComfyUI that has this pack and no other."""
    with Server(comfyui, tmp_path_factory.mktemp("comfyui"), *front_end()) as running:
        yield running


def front_end() -> tuple[str, ...]:
    """Returns the options of a server with the page that COMFYUI_FRONT_END names, else the host's own."""
    named = os.environ.get("COMFYUI_FRONT_END")
    return ("--front-end-root", named) if named else ()


@pytest.fixture(scope="session")
def models(comfyui, tmp_path_factory) -> Path:
    """Returns a folder that ComfyUI's loaders look in, with the files plain, causal and vae."""
    import folder_paths

    folder = tmp_path_factory.mktemp("models")
    torch.manual_seed(1)
    dit = _shaken(WanModel(SIZES).state_dict(), 0.05)
    sizes = {"text_dim": SIZES.text_dim, "num_heads": SIZES.num_heads}
    for name, more in (("plain", {}), ("causal", {"causal_ar": True})):
        config = json.dumps({"transformer": {**sizes, **more}})
        save_file(dit, folder / f"{name}.safetensors", {"config": config})
    save_file(_shaken(WanVAE(16).state_dict(), 0.01), folder / "vae.safetensors")
    tiny = _tiny()
    save_file(tiny, folder / "lighttaew2_1.safetensors")
    halves = {name: value.half() for name, value in tiny.items()}
    save_file(halves, folder / "taew2_1.safetensors")
    save_file(halves, folder / "hunyuan.safetensors")
    save_file(_shaken(WanVAE(16, upscale=2).state_dict(), 0.01), folder / "twice.safetensors")
    folder_paths.add_model_folder_path("diffusion_models", str(folder))
    for kind in ("vae", "vae_approx"):
        folder_paths.add_model_folder_path(kind, str(folder))
    return folder


def _tiny() -> dict[str, torch.Tensor]:
    """Random weights under every key of the host's own TAEHV, spread so that signals keep their size."""
    from comfy.taesd.taehv import TAEHV

    shapes = {name: value.shape for name, value in TAEHV(16).state_dict().items()}
    made = {
        name: torch.randn(shape) * (shape[1:].numel() if len(shape) > 1 else 400) ** -0.5
        for name, shape in shapes.items()
    }
    return made | {"decoder.22.bias": torch.full((3,), 0.5)}


def _shaken(tensors: dict[str, torch.Tensor], scale: float) -> dict[str, torch.Tensor]:
    """The tensors with noise on each, so that none is zero or one by its initial values."""
    return {name: (value + scale * torch.randn_like(value)).contiguous() for name, value in tensors.items()}


@contextmanager
def _found(folder: Path, *kinds: str) -> Iterator[None]:
    """Has the host's loaders look in this folder alone, whatever the fixture `folders` tells them."""
    import folder_paths

    known = folder_paths.folder_names_and_paths
    with pytest.MonkeyPatch.context() as patch:
        for kind in kinds:
            patch.setitem(known, kind, ([str(folder)], folder_paths.supported_pt_extensions))
        yield


@pytest.fixture(scope="session")
def load(models):
    """Returns a function that loads `plain` or `causal` through the host's own loader."""
    import nodes

    loaded = {}

    def by_name(name: str):
        if name not in loaded:
            with _found(models, "diffusion_models"):
                (loaded[name],) = nodes.UNETLoader().load_unet(f"{name}.safetensors", "default")
        return loaded[name]

    return by_name


@pytest.fixture(scope="session")
def load_vae(models):
    """Returns a function that loads a file of `models` through the host's own loader."""
    import nodes

    def by_name(name: str):
        with _found(models, "vae", "vae_approx"):
            return nodes.VAELoader().load_vae(f"{name}.safetensors")[0]

    return by_name


@pytest.fixture(scope="session")
def tiny_vae(load_vae):
    """Returns a tiny VAE for Wan 2.1 with random weights."""
    return load_vae("lighttaew2_1")


@pytest.fixture(scope="session")
def vae(load_vae):
    """Returns the tiny VAE through the host's own loader."""
    return load_vae("vae")


@pytest.fixture
def unchecked(comfyui, monkeypatch):
    """Has every VAE pass its self-check anew, and returns those that passed one: layers and kinds."""
    from rivulet.nodes.host import once

    passed = WeakKeyDictionary()
    monkeypatch.setattr(once, "_PASSED", passed)
    return passed


@pytest.fixture(scope="session")
def prompt():
    """Returns a function that makes a CONDITIONING of random text from a seed."""

    def of(seed: int, tokens: int = 12):
        generator = torch.Generator().manual_seed(seed)
        return [[torch.randn(1, tokens, TEXT_DIM, generator=generator), {}]]

    return of


@pytest.fixture(autouse=True)
def inference():
    """Runs every test in inference mode, as the host's worker does."""
    with torch.inference_mode():
        yield


@pytest.fixture
def stream():
    """Returns a function that makes so many blocks: (their latents in the VAE's units, the state after)."""
    from rivulet.model_patches.stream.step import init, rollout
    from rivulet.nodes.host.caller import HostCaller, HostPrompt

    def run(model, positive, negative, config, noise=None, blocks=2, like_host=False, **options):
        caller = HostCaller(model, like_host=like_host)
        state = init(caller, HostPrompt(positive, negative), config, **options)
        made = list(rollout(caller, state, blocks, noise=noise))
        return torch.cat([caller.to_vae(latents) for latents, _ in made], 2), made[-1][1]

    return run


@pytest.fixture
def folders(comfyui, tmp_path, monkeypatch):
    """Returns the models folder of this test."""
    import folder_paths

    for name in ("diffusion_models", "checkpoints", "loras", "vae", "text_encoders"):
        (tmp_path / name).mkdir()
        known = ([str(tmp_path / name)], folder_paths.supported_pt_extensions)
        monkeypatch.setitem(folder_paths.folder_names_and_paths, name, known)
    folder_paths.filename_list_cache.clear()
    return tmp_path


@pytest.fixture
def load_file(folders):
    """Returns a function that runs the node: (MODEL, report)."""
    from rivulet.nodes.load_streaming_model import RivuletLoadModel

    def run(name, **inputs):
        return RivuletLoadModel.execute(name, **{**REST, **inputs}).args

    return run


@pytest.fixture
def written(folders):
    """Returns a function that writes a family's small file: the model it was written from."""

    def write(name, file=None):
        torch.manual_seed(3)
        family = BY_NAME[name]
        with torch.inference_mode(False):
            model = family.model(small=True)
        family.write(folders / "diffusion_models", model, file)
        return model

    return write
