"""The node that says in which form a stream remembers its frames, and the folder of calibrated bases."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import folder_paths
from comfy_api.v0_0_2 import io

from ..model_patches.cache.basis import Basis
from ..model_patches.cache.basis_file import load_basis
from ..model_patches.cache.dense import DENSE
from ..model_patches.cache.format import CacheFormat
from ..model_patches.cache.int8 import Int8Format
from ..model_patches.cache.latent import LatentFormat
from ..model_patches.cache.mla import MlaFormat
from ..model_patches.cache.shapes import Exact
from ..model_patches.stream.state import StreamConfig
from ..pocket.models import WEIGHTS

BasisType = io.Custom("RIVULET_BASIS")
CacheType = io.Custom("RIVULET_CACHE")

FOLDER = "rivulet"  # of models/
SUFFIX = ".safetensors"
POCKET_BASIS = WEIGHTS / "pocket_basis.safetensors"
NO_FILE, BUILT_IN = "none", "built in (Pocket Model)"
FORMATS = {
    "dense": "keys and values as they are",
    "int8": "in eight bits, half of that, for every checkpoint",
    "latent": "in a calibrated basis, 4 to 14 times smaller, for the checkpoint it was calibrated for",
    "mla": "VideoMLA's own latents, for VideoMLA checkpoints alone",
    "mla-int8": "the same in eight bits",
}

folder_paths.add_model_folder_path(FOLDER, str(Path(folder_paths.models_dir) / FOLDER))


@dataclass(frozen=True, slots=True)
class CacheChoice:
    """What a user chose; the frames that stay exact are known when a stream's positions are."""

    name: str  # one of FORMATS
    basis: Basis | None = None  # of latent
    keep_sink: bool = False
    keep_newest: bool = False

    def format_for(self, config: StreamConfig, dit: Any) -> CacheFormat:
        """The format of a stream of this contract over the host's diffusion_model.

        Raises ValueError for a model that has no latents of its own where those are to be kept.
        """
        exact = Exact(
            config.positions.sink_frames if self.keep_sink else 0,
            config.block_frames if self.keep_newest else 0,
        )
        if self.name == "latent":
            assert self.basis is not None
            return LatentFormat(self.basis, exact)
        if self.name.startswith("mla"):
            return MlaFormat.of(dit, self.name == "mla-int8", exact)
        return Int8Format(exact=exact) if self.name == "int8" else DENSE


def basis_files() -> list[str]:
    """What can be chosen: files of models/rivulet, below it too."""
    return [name for name in folder_paths.get_filename_list(FOLDER) if name.endswith(SUFFIX)]


class RivuletLatentCache(io.ComfyNode):
    """The form of the cache."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="RivuletLatentCache",
            display_name="Small Cache",
            category="rivulet",
            description="Keeps the frames that a stream looks back on in fewer bytes, so that longer windows "
            "and larger pictures fit into graphics memory. Without this node they are kept as they are.",
            search_aliases=["latent cache", "kv cache", "quantize cache", "less vram", "compress", "int8"],
            inputs=[
                io.Combo.Input(
                    "format",
                    options=list(FORMATS),
                    default="int8",
                    tooltip="How frames are kept. " + " ".join(f"{n}: {t}." for n, t in FORMATS.items()),
                ),
                io.Combo.Input(
                    "basis_file",
                    options=[NO_FILE, BUILT_IN, *basis_files()],
                    default=NO_FILE,
                    tooltip="For latent: what Calibrate Cache wrote into models/rivulet for this checkpoint.",
                ),
                io.Boolean.Input(
                    "keep_sink_exact",
                    default=False,
                    tooltip="Keeps the first frames, which are never forgotten, as they are: 1 to 3 latent "
                    "frames at full size.",
                    advanced=True,
                ),
                io.Boolean.Input(
                    "keep_newest_exact",
                    default=False,
                    tooltip="Keeps the newest block as it is too: two blocks of latent frames at full size.",
                    advanced=True,
                ),
                BasisType.Input(
                    "basis", optional=True, tooltip="From Calibrate Cache, in place of basis_file."
                ),
            ],
            outputs=[CacheType.Output(display_name="cache", tooltip="For Stream Video and Plan Stream.")],
        )

    @classmethod
    def execute(
        cls,
        format: str,
        basis_file: str,
        keep_sink_exact: bool,
        keep_newest_exact: bool,
        basis: Basis | None = None,
    ) -> io.NodeOutput:
        """Returns the choice, its basis read."""
        why_not_together(format, basis_file, keep_sink_exact or keep_newest_exact, basis)
        if basis is None and basis_file != NO_FILE:
            basis = load_basis(path_of(basis_file))
        return io.NodeOutput(CacheChoice(format, basis, keep_sink_exact, keep_newest_exact))

    @classmethod
    def fingerprint_inputs(cls, basis_file: str = NO_FILE, **_: object) -> object:
        """When the chosen file was last written: another file of the same name is read anew."""
        try:
            return (basis_file, path_of(basis_file).stat().st_mtime_ns)
        except (OSError, ValueError):
            return basis_file


def why_not_together(name: str, basis_file: str, exact: bool, basis: Basis | None) -> None:
    """Raises ValueError where the choices contradict each other."""
    if name not in FORMATS:
        raise ValueError(f"Small Cache: there is no format {name!r}; there are {', '.join(FORMATS)}.")
    chosen = basis is not None or basis_file != NO_FILE
    if name == "latent" and not chosen:
        raise ValueError(
            "Small Cache: latent needs a basis of this checkpoint; choose one in basis_file, or connect "
            "Calibrate Cache, which makes one. int8 needs none."
        )
    if name != "latent" and chosen:
        raise ValueError(
            f"Small Cache: {name} uses no basis, and one is given; set basis_file to {NO_FILE} and take the "
            f"connection away, or choose latent."
        )
    if basis is not None and basis_file != NO_FILE:
        raise ValueError(
            f"Small Cache: a basis is connected and basis_file is {basis_file!r}; which of the two? Set "
            f"basis_file to {NO_FILE}, or take the connection away."
        )
    if name in ("dense", "mla") and exact:
        raise ValueError(
            f"Small Cache: {name} loses nothing that exact frames could keep; switch keep_sink_exact and "
            f"keep_newest_exact off, or choose int8, latent or mla-int8."
        )


def path_of(basis_file: str) -> Path:
    """Where a chosen file lies; refuses what is not below models/rivulet."""
    if basis_file == BUILT_IN:
        return POCKET_BASIS
    parts = Path(basis_file).parts
    if not parts or Path(basis_file).is_absolute() or ".." in parts or not basis_file.endswith(SUFFIX):
        raise ValueError(
            f"Small Cache: basis_file must be a {SUFFIX} file in models/{FOLDER}, got {basis_file!r}; "
            f"choose one of the list."
        )
    found = folder_paths.get_full_path(FOLDER, basis_file)
    if found is None:
        raise ValueError(
            f"Small Cache: there is no {basis_file} in models/{FOLDER}; press R to read the list anew, or "
            f"make the file with Calibrate Cache."
        )
    return Path(found)
