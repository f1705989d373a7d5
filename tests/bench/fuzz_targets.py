"""The files that a fuzz changes: ours, and checkpoints and LoRAs of others, around one small random model."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from random import Random
from typing import Any

import torch
from torch import Tensor

from ...model_patches.arch.wan import WanConfig, WanModel
from ...model_patches.attention.positions import PRESETS
from ...model_patches.cache import basis_file, latent
from ...model_patches.cache.basis import Basis, LayerBasis, LayerPlan
from ...model_patches.cache.dense import DENSE
from ...model_patches.cache.format import CacheFormat
from ...model_patches.cache.int8 import Int8Format
from ...model_patches.checkpoints.checkpoint import open_checkpoint
from ...model_patches.checkpoints.files import save_tensors
from ...model_patches.checkpoints.lora_file import read_lora
from ...model_patches.checkpoints.sealed import CHECKSUM, EMPTY, seal
from ...model_patches.geometry import Geometry
from ...model_patches.memory.encoder import EncoderConfig, MemoryEncoder
from ...model_patches.memory.policies import find_policy
from ...model_patches.memory.policy import OFF, MemoryPolicy
from ...model_patches.stream.config import StreamConfig
from ...model_patches.stream.model_caller import ModelCaller, texts
from ...model_patches.stream.snapshot import load, read_header, save
from ...model_patches.stream.step import init, step
from ...model_patches.vae.load import load_vae
from ...model_patches.vae.wan import WanVAE
from ...pocket.models import PocketRecipe, recipe_in
from .fuzz_messages import MESSAGES, Case, Target, UnusableError
from .fuzz_mutate import changed_pickle, changed_tensors

DIM, SIZE, LAYERS, TEXT = 64, 32, 2, 16


class Targets:
    """All kinds of inputs, made of one small model of random numbers."""

    def __init__(self, folder: Path) -> None:
        torch.manual_seed(0)
        sizes = WanConfig(DIM, DIM, LAYERS, num_heads=1, text_dim=TEXT, freq_dim=16)
        self.folder, self.dit = folder, WanModel(sizes).eval().requires_grad_(False)
        for parameter in self.dit.parameters():
            parameter.copy_(0.1 * torch.randn(parameter.shape))
        self.caller = ModelCaller(self.dit)
        self.config = StreamConfig(Geometry(SIZE, SIZE), "pocket", 3, (1.0, 0.6), seed=1)
        self.prompt = texts(0.1 * torch.randn(1, 4, TEXT))
        self.formats = (DENSE, Int8Format(32))
        for make in (self._snapshots, self._basis, self._memory, self._checkpoints):
            make()
        for path in folder.glob("*.safetensors"):
            put_in_order(path)

    def all(self) -> dict[str, Target]:
        """By the name of a kind, what makes a case of it and what opens one."""
        return {
            "snapshot": (self._changed("snapshot"), self._open_snapshot),
            "basis": (self._changed("basis"), self._open_basis),
            "memory": (self._changed("memory"), self._open_memory),
            "checkpoint": (self._changed("checkpoint", is_ours=False), self._open_checkpoint),
            **MESSAGES,
        }

    def _begin(
        self, cache: CacheFormat = DENSE, memory: MemoryPolicy = OFF, config: StreamConfig | None = None
    ) -> Any:
        return init(self.caller, self.prompt, config or self.config, cache=cache, memory=memory)

    def _snapshots(self) -> None:
        for index, cache in enumerate(self.formats):
            state = self._begin(cache)
            for _ in range(2):
                _, state = step(self.caller, state)
            save(self.caller, state, self.folder / f"snapshot{index}.safetensors")

    def _basis(self) -> None:
        turn = torch.linalg.qr(torch.randn(DIM, DIM))[0]
        layer = LayerBasis(0.1 * torch.randn(DIM), turn.contiguous(), turn.T.contiguous())
        plan = (LayerPlan("latent", 32, 16), LayerPlan("int8"))
        about = basis_file.about_model([self.dit], DIM, torch.float32, torch.device("cpu"))
        given = Basis((layer, None), plan, 16, {**about, "checkpoint": "x", "error": 0.01})
        basis_file.save_basis(given, self.folder / "basis0.safetensors")

    def _memory(self) -> None:
        config = EncoderConfig(DIM, 1, 3, SIZE // 16, SIZE // 16)
        encoder = MemoryEncoder(config)
        tensors = {
            f"query_memory_encoder.{k}": 0.1 * torch.randn(v.shape) for k, v in encoder.state_dict().items()
        }
        for name in ("q", "v"):
            key = f"generator_lora.base_model.model.blocks.{{}}.self_attn.{name}.lora_{{}}.weight"
            for index in range(LAYERS):
                tensors[key.format(index, "A")] = 0.1 * torch.randn(2, DIM)
                tensors[key.format(index, "B")] = 0.1 * torch.randn(DIM, 2)
        entry = {
            "frames": 3,
            "grid_height": SIZE // 16,
            "grid_width": SIZE // 16,
            "num_heads": 1,
            "alpha": 2.0,
            "rank": 2,
        }
        more = {"preset": "pocket_memory", "trained": "x", "sealed": True}
        path = self.folder / "memory0.safetensors"
        save_tensors(
            tensors,
            path,
            {"memory": json.dumps(entry | more), CHECKSUM: EMPTY},
        )
        seal(path)

    def _checkpoints(self) -> None:
        recipe = PocketRecipe(SIZE, 16, "pocket", 3, (1000.0, 500.0), 5.0, 1.0, "random")
        about = {
            "config": json.dumps({"transformer": {"num_heads": 1}}),
            "recipe": json.dumps(asdict(recipe)),
        }
        weights = dict(self.dit.state_dict())
        save_tensors(weights, self.folder / "checkpoint0.safetensors", about)
        torch.save({"generator_ema": weights, "step": 3}, self.folder / "checkpoint1.pt")
        torch.save(
            {"generator": weights}, self.folder / "checkpoint2.pt", _use_new_zipfile_serialization=False
        )
        key = "base_model.model.blocks.{}.self_attn.q.lora_{}.weight"
        pairs = {
            key.format(i, side): torch.ones(2, DIM) if side == "A" else torch.ones(DIM, 2)
            for i in (0, 1)
            for side in "AB"
        }
        save_tensors(
            pairs,
            self.folder / "checkpoint3_lora.safetensors",
            {"lora_adapter_metadata": '{"t.lora_alpha": 4}'},
        )
        torch.save({"generator_lora": pairs}, self.folder / "checkpoint4_lora.pt")
        save_tensors(WanVAE(4).state_dict(), self.folder / "checkpoint5_vae.safetensors")

    def _changed(self, kind: str, is_ours: bool = True) -> Callable[[Random, Path], Case]:
        bases = [(path, path.read_bytes()) for path in sorted(self.folder.glob(f"{kind}*"))]

        def make(draw: Random, folder: Path) -> Case:
            path, data = draw.choice(bases)
            change = changed_tensors if path.suffix == ".safetensors" else changed_pickle
            while (made := change(draw, data)) == data:
                pass
            target = folder / path.name
            target.write_bytes(made)
            resealed = is_ours and draw.random() < 0.5
            if resealed:
                reseal(target)
                if target.read_bytes() == data:  # the change was one of the checksum
                    return make(draw, folder)
            return Case(target, is_ours, resealed, True)

        return make

    def _open_snapshot(self, path: Path) -> None:
        cache = self.formats[path.name == "snapshot1.safetensors"]
        read_header(path)
        self._make(load(path, self.caller, cache=cache))

    def _open_basis(self, path: Path) -> None:
        basis = basis_file.load_basis(path)
        weights = basis_file.sketch(self.dit, DIM, torch.float32, torch.device("cpu"))
        try:
            basis_file.check_model(basis, weights, DIM)
        except ValueError as error:  # of another model: the name is that of the model, not of the file
            raise ValueError(f"{path.name}: {error}") from error
        self._make(self._begin(latent.KIND.build(self.dit, source=basis)))

    def _open_memory(self, path: Path) -> None:
        kind = find_policy("learned")
        source = kind.load(path, self.dit, "", torch.float32)
        name = kind.preset("pocket", source)
        if name not in PRESETS:
            raise ValueError(f"{path} has an unknown preset.")
        config = StreamConfig(self.config.geometry, name, 3, (1.0, 0.6), seed=1)
        if source.lora is not None:
            source.lora.merge(self.dit)
        self._make(self._begin(memory=kind.build(config, torch.device("cpu"), source, {}), config=config), 5)

    def _make(self, state: Any, blocks: int = 1) -> None:
        """A block from what was accepted: finite, and without an error."""
        try:
            for _ in range(blocks):
                latents, state = step(self.caller, state)
        except Exception as error:
            raise UnusableError(f"{type(error).__name__}: {str(error)[:200]}") from error
        if not bool(latents.isfinite().all()):
            raise UnusableError("latents are not finite")

    def _open_checkpoint(self, path: Path) -> None:
        if "lora" in path.name:
            read_lora("Test", path).lora.why_not(self.dit)
        elif "vae" in path.name:
            load_vae(path)
        else:
            checkpoint = open_checkpoint(path, caller="Test")
            str(checkpoint), checkpoint.metadata_with_sizes()
            if "recipe" in checkpoint.metadata:
                recipe_in("Test", checkpoint)
            checkpoint.load(torch.float32)


def put_in_order(path: Path) -> None:
    """Sorts the header, which the library writes in any order, so that a seed gives the same mutants."""
    data = path.read_bytes()
    length = int.from_bytes(data[:8], "little")
    text = json.dumps(json.loads(data[8 : 8 + length]), separators=(",", ":"), sort_keys=True).encode()
    text += b" " * (-len(text) % 8)
    path.write_bytes(len(text).to_bytes(8, "little") + text + data[8 + length :])
    if CHECKSUM.encode() in text:
        seal(path)


def reseal(path: Path) -> None:
    """Makes a file's checksums anew after its bytes were changed, as far as it has any that can be read."""
    try:
        _reseal_basis(path)
        seal(path)
    except Exception:  # what is left of it has no place for one
        return


def _reseal_basis(path: Path) -> None:
    """A basis has a checksum of its numbers beside the one of the file."""
    data = path.read_bytes()
    length = int.from_bytes(data[:8], "little")
    header: Any = json.loads(data[8 : 8 + length])
    about = json.loads(header["__metadata__"].get("rivulet", "{}"))
    if about.get("kind") != basis_file.KIND:
        return
    tensors: Mapping[str, Tensor] = _tensors(path)
    about["fingerprint"] = basis_file._assembled(about, dict(tensors), "cpu").fingerprint
    header["__metadata__"]["rivulet"] = json.dumps(about)
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    path.write_bytes(len(text).to_bytes(8, "little") + text + data[8 + length :])


def _tensors(path: Path) -> dict[str, Tensor]:
    from safetensors.torch import load_file

    return load_file(path)
