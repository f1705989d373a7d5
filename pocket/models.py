"""The built-in models: loads the pocket world's diffusion transformer and VAE, and the recipe
they were trained for.
"""

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path

import torch
from torch import Tensor, nn

from ..model_patches.arch.wan import WanModel
from ..model_patches.attention.measured import measured_sdpa
from ..model_patches.attention.sdpa import Attention
from ..model_patches.cache.dense import DENSE
from ..model_patches.cache.format import CacheFormat
from ..model_patches.checkpoints.checkpoint import DENSE as DENSE_ATTENTION
from ..model_patches.checkpoints.checkpoint import VIDEO_MLA, Checkpoint, open_checkpoint
from ..model_patches.checkpoints.files import save_tensors
from ..model_patches.checkpoints.limits import read_json, reading
from ..model_patches.geometry import Geometry
from ..model_patches.memory.policy import OFF, MemoryPolicy
from ..model_patches.sampler.schedule import first_sigmas, sigmas
from ..model_patches.stream.config import StreamConfig
from ..model_patches.stream.model_caller import ModelCaller, Texts, texts
from ..model_patches.stream.state import StreamState
from ..model_patches.stream.step import init
from ..model_patches.vae.load import load_vae
from ..model_patches.vae.wan import WanVAE
from . import text
from .held_out import History

WEIGHTS = Path(__file__).parent / "weights"
MAX_FPS = 240
TEXTS = ("preset", "trained", "taught", "latents", "held_out", "held_out_after")  # fields of a recipe
RUNS = Path(__file__).parent / "runs"  # a folder for each training, unless it is told another
DIT_FILE, VAE_FILE = "pocket_dit.safetensors", "pocket_vae.safetensors"
MEMORY_FILE = "pocket_memory.safetensors"  # a LoRA of the transformer and the encoder trained with it
BASIS_FILE = "pocket_basis.safetensors"  # of the transformer's cache
MLA_FILE = "pocket_mla.safetensors"  # the transformer converted to VideoMLA's attention
MLA_MEMORY_FILE = "pocket_mla_memory.safetensors"  # that one, taught to read the memory


@dataclass(frozen=True, slots=True)
class PocketRecipe:
    """How the pocket model is to be run; stored in its file, so that weights and recipe cannot part."""

    size: int  # pixels, width and height it was trained at
    fps: int  # pixel frames per second of its world
    preset: str  # positions, sink and window
    block_frames: int  # latent frames denoised together
    timesteps: tuple[float, ...]  # out of 1000, before the shift
    shift: float
    cfg: float  # guidance
    trained: str  # what the training was: steps, clips, date
    fresh_noise: bool = True  # between calls, or a step along the flow
    first_timesteps: tuple[float, ...] = ()  # of a block that nothing was before; (): timesteps
    taught: str = ""  # fingerprint of the memory that the weights were taught to read, see `load_memory`
    latents: str = ""  # `fingerprint_of_latents` of its VAE; "": not recorded
    held_out: str = ""  # this and the next: see `held_out.History`
    held_out_after: str = ""

    @property
    def sigmas(self) -> tuple[float, ...]:
        """Noise levels of the few steps."""
        return sigmas(self.timesteps, self.shift)

    @property
    def first_sigmas(self) -> tuple[float, ...]:
        """Noise levels of a scene's first block, where it has its own."""
        return first_sigmas(self.first_timesteps, self.shift)

    @property
    def history(self) -> History:
        """Which combinations the weights were trained on."""
        return History(self.held_out, self.held_out_after)

    def config(self, seed: int = 0, geometry: Geometry | None = None) -> StreamConfig:
        """A stream as it is to be run, at the trained size unless another geometry is given."""
        return StreamConfig(
            geometry or Geometry(self.size, self.size),
            self.preset,
            self.block_frames,
            self.sigmas,
            cfg=self.cfg,
            seed=seed,
            fresh_noise=self.fresh_noise,
            first_sigmas=self.first_sigmas,
        )


@dataclass(frozen=True, slots=True)
class Pocket:
    """The built-in models, their recipe, and what turns a prompt into text states."""

    dit: WanModel
    vae: WanVAE
    recipe: PocketRecipe
    encode: Callable[[str], Tensor]  # prompt -> text states [1, L, C]
    no_text: Callable[[], Tensor]  # text states of the empty prompt, for guidance
    attention: Attention = measured_sdpa
    caller: ModelCaller = field(init=False)  # runs the transformer

    def __post_init__(self) -> None:
        object.__setattr__(self, "caller", ModelCaller(self.dit, attention=self.attention))

    def config(self, seed: int = 0, geometry: Geometry | None = None) -> StreamConfig:
        """See `PocketRecipe.config`."""
        return self.recipe.config(seed, geometry)

    def prompt(self, text_BLC: Tensor, config: StreamConfig) -> Texts:
        """A stream's prompt, the empty one as negative where guidance wants one."""
        return texts(text_BLC, self.no_text().expand_as(text_BLC).contiguous() if config.guided else None)

    def begin(
        self,
        text_BLC: Tensor,
        config: StreamConfig,
        reserve_frames: int = 0,
        cache: CacheFormat = DENSE,
        memory: MemoryPolicy = OFF,
    ) -> StreamState:
        """The state before the first block."""
        prompt = self.prompt(text_BLC, config)
        return init(self.caller, prompt, config, reserve_frames=reserve_frames, cache=cache, memory=memory)


def recipe_of(where: str, path: Path, metadata: Mapping[str, str]) -> PocketRecipe | None:
    """The recipe in a file's metadata, if it has one. Raises ValueError, beginning with `where`, for one that
    no stream can be run by."""
    if "recipe" not in metadata:
        return None
    fields = read_json(where, path, metadata, "recipe")
    with reading(where, path, "recipe"):
        timesteps = {name: tuple(fields.get(name, ())) for name in ("timesteps", "first_timesteps")}
        recipe = PocketRecipe(**(fields | timesteps))
        wrong = [name for name in TEXTS if not isinstance(getattr(recipe, name), str)]
        if wrong or not isinstance(recipe.fresh_noise, bool):
            raise TypeError(f"{', '.join(TEXTS)} are texts, fresh_noise is true or false")
        if type(recipe.fps) is not int or not 1 <= recipe.fps <= MAX_FPS:
            raise ValueError(f"fps is {recipe.fps!r}, and must be 1 to {MAX_FPS}")
        recipe.config()  # refuses what no stream has
    return recipe


def recipe_in(caller: str, checkpoint: Checkpoint) -> PocketRecipe:
    """The recipe in a file. Raises ValueError, beginning with `caller`, where it has none."""
    recipe = recipe_of(caller, checkpoint.path, checkpoint.metadata)
    if recipe is None:
        raise ValueError(
            f"{caller}: {checkpoint.path} has no `recipe` in its metadata; give a file that "
            f"`python run.py train-pocket` exported."
        )
    return recipe


def load_pocket(
    folder: Path | None = None, dtype: torch.dtype = torch.float32, dit_file: str = DIT_FILE
) -> Pocket:
    """The built-in models, or those of a training run's export folder; dit_file: one of latents."""
    folder = WEIGHTS if folder is None else folder
    path = folder / dit_file
    kind = DENSE_ATTENTION if dit_file == DIT_FILE else VIDEO_MLA
    checkpoint = open_checkpoint(path, caller="load_pocket", kind=kind)
    recipe = recipe_in("load_pocket", checkpoint)
    dit, vae = checkpoint.load(dtype), load_vae(folder / VAE_FILE, dtype)
    refuse_other_latents("load_pocket", path, recipe, vae)
    return Pocket(dit, vae, recipe, text.encode, text.no_text)


def fingerprint_of_latents(vae: WanVAE) -> str:
    """Of what makes a VAE's latents, as it is stored in half precision: 16 hexadecimal digits.

    The decoder may be trained on without another one.
    """
    return half_digest(vae.encoder, vae.conv1)


def half_digest(*parts: nn.Module) -> str:
    """Of all tensors of these modules, as they are stored in half precision: 16 hexadecimal digits."""
    made = hashlib.sha256()
    for part in parts:
        for name, value in sorted(part.state_dict().items()):
            made.update(name.encode() + value.detach().cpu().half().contiguous().numpy().tobytes())
    return made.hexdigest()[:16]


def refuse_other_latents(caller: str, path: Path, recipe: PocketRecipe, vae: WanVAE) -> None:
    """ValueError, beginning with `caller`, for a model that was trained on latents of another VAE."""
    if recipe.latents and recipe.latents != (found := fingerprint_of_latents(vae)):
        raise ValueError(
            f"{caller}: {path} makes latents of VAE {recipe.latents}, and the VAE beside it is {found}. Give "
            f"the two files that one training exported."
        )


def refuse_other_recipe(
    caller: str, recipe: PocketRecipe, size: int, block_frames: int, positions: str | None = None
) -> None:
    """ValueError, beginning with `caller`, for a model of other pictures, blocks or positions than these."""
    found = {
        "pictures of {} pixels": (recipe.size, size),
        "blocks of {} latent frames": (recipe.block_frames, block_frames),
        "positions {}": (recipe.preset, positions or recipe.preset),
    }
    for what, (has, needs) in found.items():
        if has != needs:
            raise ValueError(
                f"{caller} is a model of {what.format(has)}, and {what.format(needs)} are needed here. Give "
                f"one that was trained with these."
            )


def save_dit(dit: WanModel, recipe: PocketRecipe, folder: Path) -> Path:
    """Write the transformer as half-precision safetensors.

    ComfyUI's own loader reads them as a causal Wan model.
    """
    folder.mkdir(parents=True, exist_ok=True)
    config = {"transformer": {"causal_ar": True, "text_dim": dit.text_dim, "num_heads": dit.num_heads}}
    tensors = {key: value.detach().cpu().half().contiguous() for key, value in dit.state_dict().items()}
    save_tensors(
        tensors, folder / DIT_FILE, {"config": json.dumps(config), "recipe": json.dumps(asdict(recipe))}
    )
    return folder / DIT_FILE


def save_vae(vae: WanVAE, folder: Path) -> Path:
    """Write the VAE as half-precision safetensors under Wan 2.1's names."""
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {key: value.detach().cpu().half().contiguous() for key, value in vae.state_dict().items()}
    save_tensors(tensors, folder / VAE_FILE)
    return folder / VAE_FILE
