"""The node that says in which form a stream remembers its frames, and the folder of calibrated bases."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import folder_paths
from comfy_api.v0_0_2 import io

from ..model_patches.cache.basis import Basis
from ..model_patches.cache.format import CacheFormat
from ..model_patches.cache.formats import FORMATS, find_format
from ..model_patches.cache.kind import CacheKind
from ..model_patches.cache.shapes import Exact
from ..model_patches.memory.kind import MemoryKind
from ..model_patches.stream.config import StreamConfig
from ..pocket.models import BASIS_FILE, WEIGHTS
from .host.inputs import GIVES_NOTHING

BasisType = io.Custom("RIVULET_BASIS")
CacheType = io.Custom("RIVULET_CACHE")

FOLDER = "rivulet"  # of models/
SUFFIX = ".safetensors"
POCKET_BASIS = WEIGHTS / BASIS_FILE
NO_FILE, BUILT_IN = "none", "built in (Pocket Model)"
folder_paths.add_model_folder_path(FOLDER, str(Path(folder_paths.models_dir) / FOLDER))


@dataclass(frozen=True, slots=True)
class CacheChoice:
    """What a user chose; the frames that stay exact are known when a stream's positions are."""

    name: str = "dense"  # in the table of formats
    source: Any = None  # what the format is built from beside the model, as it was read
    keep_sink: bool = False
    keep_newest: bool = False

    def format_for(self, config: StreamConfig, dit: Any) -> CacheFormat:
        """The format of a stream of this contract over the host's diffusion_model.

        Raises ValueError for a model that it cannot keep the frames of.
        """
        kind = find_format(self.name)
        if refusal := kind.why_not(dit):
            raise ValueError(refusal)
        exact = Exact(
            config.positions.sink_frames if self.keep_sink else 0,
            config.block_frames if self.keep_newest else 0,
        )
        return kind.build(dit, exact, self.source)


def labels(kinds: Iterable[CacheKind | MemoryKind]) -> str:
    """What each of them does, for a tooltip."""
    return " ".join(f"{kind.name}: {kind.label}." for kind in kinds)


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
            category="Rivulet",
            description="Stores the frames that a stream looks back on in fewer bytes, so that longer "
            "windows and larger pictures fit into graphics memory. Without this node they take their full "
            "size.",
            search_aliases=["latent cache", "kv cache", "quantize cache", "less vram", "compress", "int8"],
            inputs=[
                io.Combo.Input(
                    "format",
                    options=list(FORMATS),
                    default="int8",
                    tooltip="How frames are stored. " + labels(FORMATS.values()),
                ),
                io.Combo.Input(
                    "basis_file",
                    options=[NO_FILE, BUILT_IN, *basis_files()],
                    default=NO_FILE,
                    tooltip=" ".join(
                        f"For {kind.name}: {kind.source.where}." for kind in FORMATS.values() if kind.source
                    ),
                ),
                io.Boolean.Input(
                    "keep_sink_exact",
                    default=False,
                    tooltip="Stores the first frames, which are never forgotten, exactly: 1 to 3 latent "
                    "frames at full size.",
                    advanced=True,
                ),
                io.Boolean.Input(
                    "keep_newest_exact",
                    default=False,
                    tooltip="Stores the newest block exactly too: two blocks of latent frames at full size.",
                    advanced=True,
                ),
                BasisType.Input(
                    "basis", optional=True, tooltip="From Calibrate Cache, instead of basis_file."
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
        source, kind = basis, FORMATS[format]
        if format == CacheChoice().name:
            return io.NodeOutput(CacheChoice())
        if kind.source is not None and basis is None:
            source = kind.source.load(path_of(basis_file))
        return io.NodeOutput(CacheChoice(format, source, keep_sink_exact, keep_newest_exact))

    @classmethod
    def fingerprint_inputs(cls, basis_file: str = NO_FILE, **_: object) -> object:
        """When the chosen file was last written: another file of the same name is read anew."""
        try:
            return (basis_file, path_of(basis_file).stat().st_mtime_ns)
        except (OSError, ValueError):
            return basis_file


def why_not_together(name: str, basis_file: str, exact: bool, basis: Any) -> None:
    """Raises ValueError where the choices contradict each other."""
    kind, chosen = find_format(name, "Small Cache"), basis is not None or basis_file != NO_FILE
    if name == CacheChoice().name:  # as without the node, whatever else is set
        return
    if kind.source is not None and not chosen:
        fileless = next(other for other in FORMATS.values() if other.rounds and not other.needs)
        raise ValueError(
            f"Small Cache: {name} needs {kind.needs}; choose one in basis_file, or connect "
            f"{kind.source.maker}, which makes one ({GIVES_NOTHING}). {fileless.name} needs none."
        )
    if kind.source is None and chosen:
        others = [other.name for other in FORMATS.values() if other.source is not None]
        raise ValueError(
            f"Small Cache: {name} uses no basis, but one is set. Set basis_file to {NO_FILE} and "
            f"disconnect basis, or choose {' or '.join(others)}."
        )
    if basis is not None and basis_file != NO_FILE:
        raise ValueError(
            f"Small Cache: a basis is connected and basis_file is {basis_file!r}; which of the two? Set "
            f"basis_file to {NO_FILE}, or disconnect basis."
        )
    if not kind.rounds and exact:
        others = [other.name for other in FORMATS.values() if other.rounds]
        raise ValueError(
            f"Small Cache: {name} loses nothing, so exact frames change nothing; switch keep_sink_exact and "
            f"keep_newest_exact off, or choose {', '.join(others[:-1])} or {others[-1]}."
        )


def path_of(basis_file: str) -> Path:
    """Where a chosen file lies; refuses what is not below models/rivulet."""
    if basis_file == BUILT_IN:
        return POCKET_BASIS
    parts = Path(basis_file).parts
    if not parts or Path(basis_file).is_absolute() or ".." in parts or not basis_file.endswith(SUFFIX):
        raise ValueError(
            f"Small Cache: basis_file must be a {SUFFIX} file in models/{FOLDER}, got {basis_file!r}; "
            f"choose one from the list."
        )
    path = folder_paths.get_full_path(FOLDER, basis_file)
    if path is None:
        raise ValueError(
            f"Small Cache: there is no {basis_file} in models/{FOLDER}; press R to reload the list, or "
            f"make the file with Calibrate Cache."
        )
    return Path(path)
