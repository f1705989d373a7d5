"""The node that calibrates a small basis for a checkpoint's frames and writes it to a file."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import comfy.model_management as management
import comfy.utils
import folder_paths
import torch
from comfy_api.v0_0_2 import io, ui

from ..model_patches.attention.positions import why_not
from ..model_patches.cache.basis import Basis
from ..model_patches.cache.basis_file import about_model, save_basis
from ..model_patches.cache.calibration.calibrate import Calibration, Goal, calibrate, samples_bytes, split
from ..model_patches.cache.calibration.measure import LayerWeights, layer_weights
from ..model_patches.cache.format import CacheFormat
from ..model_patches.plan.plan import plan_stream
from ..model_patches.plan.verdict import HEADROOM, gigabytes
from ..model_patches.stream.config import StreamConfig
from ..model_patches.stream.step import init, rollout
from .host.caller import HostCaller, HostPrompt
from .host.inputs import height_input, width_input
from .host.recipe import block_input, cfg_input, preset_input, stream_config
from .plan import free_bytes, request_of
from .small_cache import FOLDER, SUFFIX, BasisType

SHARES = 1000  # steps of the progress bar
DEFAULT_RATIO = 8  # against keys and values of two bytes a number
VISIBLE = 0.05  # error of attention from which on pictures are expected to change
WORD = re.compile(r"[\w][\w .()-]*")  # of a file's name: no folder, nothing hidden

EXAMPLE = """a red circle and a blue square on a green ground
a yellow triangle on a blue ground
a cyan square on a red ground
a magenta circle and a green triangle on a yellow ground
a green circle on a magenta ground
a blue triangle and a yellow square on a cyan ground
a red square on a blue ground
a cyan circle and a red triangle on a green ground"""


class RivuletCalibrate(io.ComfyNode):
    """Calibration of a checkpoint."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="RivuletCalibrate",
            display_name="Calibrate Cache",
            category="Rivulet",
            description="Runs a few short streams, learns which directions the model's keys and values "
            "need, and writes a basis for Small Cache. Needed once per checkpoint. The error is measured on "
            "prompts that it did not learn from.",
            search_aliases=["latent cache", "calibration", "kv cache basis", "compress", "less vram"],
            is_output_node=True,
            inputs=[
                io.Model.Input("model", tooltip="The checkpoint you will stream, with its LoRA."),
                io.Clip.Input("clip", tooltip="Encodes the prompts."),
                io.String.Input(
                    "prompts",
                    multiline=True,
                    default=EXAMPLE,
                    tooltip="One prompt per line, at least 2; 8 or more are better. One in four is not "
                    "learned from: it measures the error.",
                ),
                io.String.Input(
                    "name",
                    default="basis",
                    tooltip="Name of the file in models/rivulet; a number is added if it exists.",
                ),
                width_input("Width of the streams, in pixels."),
                height_input("Height of the streams, in pixels."),
                io.Int.Input(
                    "bytes_per_token",
                    default=0,
                    min=0,
                    max=65536,
                    tooltip="Bytes kept per token and layer, on average. 0: an eighth of keys and values in "
                    "half precision, or what error_percent needs.",
                ),
                io.Float.Input(
                    "error_percent",
                    default=0.0,
                    min=0.0,
                    max=100.0,
                    step=0.1,
                    tooltip="Largest error of attention's output, in percent; as few bytes as possible are "
                    "used for it. 0: bytes_per_token decides.",
                ),
                cfg_input(
                    "Guidance strength, no unit, away from the empty prompt. 0: the model's, else 1.",
                    advanced=True,
                ),
                preset_input("Which latent frames a block sees, and at which positions."),
                block_input("Latent frames per block. 0: the model's, else 3."),
                io.Int.Input(
                    "blocks",
                    default=8,
                    min=2,
                    max=64,
                    advanced=True,
                    tooltip="Blocks of each stream; it learns from early and late ones.",
                ),
                io.Int.Input(
                    "seed",
                    default=0,
                    min=0,
                    max=2**31,
                    advanced=True,
                    # the page has that widget for every seed; a template that said nothing was randomized
                    control_after_generate=True,
                    tooltip="Seed of the first stream.",
                ),
            ],
            outputs=[
                BasisType.Output(display_name="basis", tooltip="For Small Cache."),
                io.String.Output(display_name="report", tooltip="Bytes, errors, and where the file is."),
            ],
        )

    @classmethod
    def execute(
        cls,
        model: Any,
        clip: Any,
        prompts: str,
        name: str,
        width: int,
        height: int,
        bytes_per_token: int,
        error_percent: float,
        cfg: float,
        preset: str,
        num_frame_per_block: int,
        blocks: int,
        seed: int,
    ) -> io.NodeOutput:
        """Returns the basis, written to models/rivulet, and what was measured."""
        config = stream_config(model, width, height, preset, num_frame_per_block, cfg, seed=seed)
        if config.rolling:
            raise ValueError(
                f"Calibrate: a basis is learned from blocks that are made one after the other, and this "
                f"checkpoint has {len(config.sigmas)} under way at a time; load it with recipe self_forcing "
                f"for this alone (a basis belongs to the weights), or take format int8."
            )
        goal = goal_of(bytes_per_token, error_percent, model.get_model_object("diffusion_model").dim)
        lines = list(dict.fromkeys(line.strip() for line in prompts.splitlines() if line.strip()))
        split(lines)
        if refusal := why_not(config.positions, config.block_frames, blocks * config.block_frames):
            raise ValueError(refusal)
        path = free_path(name)
        room = room_for(model, config, len(lines), blocks)
        streams = CalibrationRun(model, clip, lines, config, blocks)
        calibration = streams.calibrate(room)
        basis = calibration.basis(calibration.choose(goal), {"checkpoint": path.stem, **streams.about()})
        path.parent.mkdir(parents=True, exist_ok=True)
        save_basis(basis, path)
        text = f"{report(basis, config, path)}\n{room}"
        return io.NodeOutput(basis, text, ui=ui.PreviewText(text))


@dataclass(frozen=True, slots=True)
class CalibrationRun:
    """A MODEL of the host, and the streams it is calibrated on."""

    model: Any
    clip: Any
    prompts: list[str]
    config: StreamConfig
    blocks: int

    def calibrate(self, room: Room | None = None) -> Calibration:
        """Run the streams, with progress; an interruption ends it within a call of the model.

        room: None for that of `room_for`.
        """
        room = room or room_for(self.model, self.config, len(self.prompts), self.blocks)
        texts = [self._encode(prompt) for prompt in self.prompts]
        negative = self._encode("") if self.config.guided else []
        bar = comfy.utils.ProgressBar(SHARES)

        def streams(recording: CacheFormat, index: int) -> Iterator[None]:
            config = replace(self.config, seed=self.config.seed + index)
            caller = HostCaller(self.model)
            state = init(caller, HostPrompt(texts[index], negative), config, cache=recording)
            for _ in rollout(caller, state, self.blocks):
                yield

        def progress(what: str, share: float) -> None:
            management.throw_exception_if_processing_interrupted()
            bar.update_absolute(round(SHARES * share), SHARES)

        places = {"device": room.sums, "sample_device": room.samples}
        return calibrate(streams, self.prompts, self.weights, blocks=self.blocks, **places, report=progress)

    def weights(self, layer: int) -> LayerWeights:
        """The weights of one layer, as the host runs it."""
        dit, device = self._load(), self.model.load_device
        found = layer_weights(dit.blocks[layer], dit.dim, self.config.dtype, device)
        # errors are summed up in float64 where the weights are, and Apple's GPUs have none
        return found.on_cpu() if device.type == "mps" else found

    def about(self) -> dict[str, object]:
        """What identifies these weights in a basis file."""
        dit = self._load()
        return about_model([dit], dit.dim, self.config.dtype, self.model.load_device)

    def _load(self) -> Any:
        management.load_models_gpu([self.model])
        return self.model.get_model_object("diffusion_model")

    def _encode(self, prompt: str) -> Any:
        return self.clip.encode_from_tokens_scheduled(self.clip.tokenize(prompt))


@dataclass(frozen=True, slots=True)
class Room:
    """What a calibration keeps beside its streams, and where."""

    sums_bytes: int  # and bases
    samples_bytes: int
    sums: torch.device
    samples: torch.device

    def __str__(self) -> str:
        """A sentence for the report."""
        places = {torch.device("cpu"): "in RAM"}
        sums, samples = (places.get(device, "on the card") for device in (self.sums, self.samples))
        return (
            f"Beside its streams it keeps {gigabytes(self.sums_bytes)} of sums {sums} and at most "
            f"{gigabytes(self.samples_bytes)} of samples {samples}."
        )


def room_for(model: Any, config: StreamConfig, prompts: int, blocks: int) -> Room:
    """Where a calibration keeps what it learns: on the model's card as far as model and streams leave room
    there and the card knows float64, else in RAM; ValueError where that is too small.

    The host's other models leave the card for it.
    """
    fps = 16.0  # of no picture: nothing is decoded
    seconds = blocks * config.block_frames * config.geometry.time_stride / fps
    request = request_of(model, None, config, fps, seconds)
    plan, shape, device = plan_stream(request), request.cache_shape, model.load_device
    stream_bytes = plan.weights_bytes + plan.cache_bytes + plan.workspace_bytes + plan.text_bytes
    sums = 16 * request.model.dim**2 * shape.layers
    sizes = (config.positions, config.block_frames, len(config.sigmas), config.dtype)
    samples = samples_bytes(shape, *sizes, prompts=prompts, blocks=blocks)
    left, ram = 0.0, torch.device("cpu")
    if device.type == "cuda":
        left = free_bytes(device) - HEADROOM * (stream_bytes + plan.activation_bytes)
    on_card = sums * (left >= sums) + samples * (left >= sums + samples)
    if on_card:
        management.free_memory(on_card, device)
    needed, free = sums + samples - on_card, free_bytes(ram)
    if needed > free:
        raise ValueError(
            f"Calibrate Cache: {gigabytes(needed)} of RAM are needed for sums and samples, "
            f"{gigabytes(free)} are free; give fewer prompts (2 are the least), or a smaller picture."
        )
    return Room(sums, samples, device if left >= sums else ram, device if left >= sums + samples else ram)


def goal_of(bytes_per_token: int, error_percent: float, channels: int) -> Goal:
    """What the widgets ask for; refuses both at once."""
    if bytes_per_token and error_percent:
        raise ValueError(
            f"Calibrate Cache: bytes_per_token is {bytes_per_token} and error_percent is "
            f"{error_percent:g}; only one of the two can decide. Set the other to 0."
        )
    if error_percent:
        return Goal(error=error_percent / 100)
    goal = Goal(token_bytes=bytes_per_token or 4 * channels / DEFAULT_RATIO)
    goal.check()
    return goal


def free_path(name: str) -> Path:
    """Where the basis will lie: in models/rivulet, under a name that is not taken."""
    name = name.strip().removesuffix(SUFFIX)
    if not WORD.fullmatch(name):
        raise ValueError(
            f"Calibrate Cache: name must be a file's name of letters, digits, spaces, dots and dashes, "
            f"without folders, got {name!r}; try basis."
        )
    folder = Path(folder_paths.get_folder_paths(FOLDER)[0])
    names = [name, *(f"{name}_{number}" for number in range(2, 10_000))]
    return next(path for each in names if not (path := folder / f"{each}{SUFFIX}").exists())


def report(basis: Basis, config: StreamConfig, path: Path) -> str:
    """What was measured, in a user's words."""
    about = basis.provenance
    size, errors, error = about["token_bytes"], about["layer_errors"], about["error"]
    heads = max(max(layer) for layer in about["head_errors"])
    dense = 2 * about["channels"] * config.dtype.itemsize
    worst = max(range(len(errors)), key=errors.__getitem__)
    lines = [
        f"{path.name} in models/{FOLDER}: {size:.0f} bytes per token and layer instead of {dense:,}, "
        f"{dense / size:.1f} times smaller.",
        f"Error of attention on {len(about['held_out_prompts'])} held-out prompts: {100 * error:.2g} %; "
        f"worst layer {worst} {100 * errors[worst]:.2g} %, worst head {100 * heads:.2g} %.",
        f"Learned from {len(about['prompts'])} prompts, {about['tokens']:,} tokens a layer.",
    ]
    if error > VISIBLE:
        lines.append(
            f"That is over {100 * VISIBLE:.0f} %: expect pictures to change. Set bytes_per_token higher, or "
            f"use int8."
        )
    return "\n".join(lines)
