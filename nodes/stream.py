"""The node that makes a video block by block: sampling, decoding and writing in turns."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import comfy.model_management
import comfy.utils
from comfy_api.v0_0_2 import InputImpl, io
from comfy_execution.graph import ExecutionBlocker
from torch import Tensor

from ..model_patches.attention.positions import why_not
from ..model_patches.cache.dense import DENSE
from ..model_patches.cache.format import CacheFormat
from ..model_patches.geometry import blocks_for, rate_of
from ..model_patches.memory.policy import MemoryPolicy
from ..model_patches.stream.config import StreamConfig
from ..model_patches.stream.pipeline import Chunk
from ..model_patches.stream.recovery import refuse_full
from ..model_patches.stream.state import StreamState
from ..model_patches.takes.keeper import EVERY_SECONDS
from ..model_patches.writer.encoding import DEFAULT_CRF, X264, Encoding
from .host.caller import HostCaller
from .host.decoder import decoder_for
from .host.inputs import GIVES_NOTHING, refuse_nan
from .host.recipe import stream_config, switch_of
from .memory import memory_of
from .run.beginnings import FROM_NOTHING, Beginning
from .run.fingerprint import FINGERPRINTS
from .run.going_on import Resume
from .run.host_picture import begun_with
from .run.making import Order, Run, page_of
from .run.naming import PATTERN, target
from .run.naming import why_not as why_no_name
from .run.next_run import NEXT_RUNS
from .run.overlap import overlap_for
from .run.script import read_script
from .run.session import may_give
from .run.tags import graph_tags
from .run.take import EARLY, PASSING, newest_snapshot_path, policy_of
from .run.take_files import RESUMED, find_take
from .run.yielding import LongRun
from .small_cache import CacheChoice
from .stream_inputs import stream_inputs


class RivuletStream(io.ComfyNode):
    """The streaming sampler."""

    # its video is told to the page also where another node's run alone was asked for
    HAS_INTERMEDIATE_OUTPUT = True

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="RivuletStream",
            display_name="Stream Video",
            category="Rivulet",
            description="Makes a video of any length at constant memory: each block is sampled, decoded and "
            "written to a file that you can watch while it grows.",
            search_aliases=[
                *("video", "text to video", "t2v", "infinite", "endless", "long", "stream", "live"),
                *("long video", "endless video", "self forcing", "causal wan", "live preview"),
                *("文生视频", "无限", "长视频", "直播"),
            ],
            inputs=stream_inputs(),
            outputs=[
                io.Video.Output(display_name="video", tooltip="A file, never frames in memory."),
                io.Image.Output(
                    display_name="last_frame", tooltip="The video's last picture, exactly as it was written."
                ),
                io.Latent.Output(
                    display_name="tail", tooltip="The newest latents, as many as the model looks back on."
                ),
                io.String.Output(
                    display_name="snapshot", tooltip="Path of the newest snapshot; empty if none is kept."
                ),
            ],
            hidden=[io.Hidden.unique_id, io.Hidden.prompt, io.Hidden.extra_pnginfo],
            # it writes its file whether or not another node takes the video
            is_output_node=True,
        )

    @classmethod
    def fingerprint_inputs(cls, **constants: Any) -> str:
        """The same as before only while the host may give the last take again instead of making one."""
        page = page_of(cls.hidden)
        if NEXT_RUNS.find(page.prompt_id, page.node) is not None:
            constants = {**constants, "goes on in": page.prompt_id}
        stamp = FINGERPRINTS.stamp(page.node, constants)
        may_give(page.prompt_id, page.node, FINGERPRINTS.sessions(page.node))
        return stamp

    @classmethod
    def validate_inputs(cls, filename_prefix: str | None = None) -> bool | str:
        """True, or why no video can be named so; what comes over a link is read when it is there."""
        # what is filled in later is a name in any case
        if filename_prefix is None:
            return True
        return why_no_name(PATTERN.sub("x", filename_prefix)) or True

    @classmethod
    def execute(
        cls,
        model: Any,
        vae: Any,
        width: int,
        height: int,
        seconds: float,
        fps: float,
        seed: int,
        preset: str,
        num_frame_per_block: int,
        cfg: float,
        filename_prefix: str,
        positive: Any = None,
        prompts: Any = None,
        negative: Any = None,
        sigmas: Tensor | None = None,
        start: Beginning | None = None,
        snapshot: str = EARLY,
        cache: CacheChoice | None = None,
        shrink_cache: bool = False,
        snapshot_seconds: float = EVERY_SECONDS,
        snapshot_gb: float = 4.0,
        stop_on_drift: bool = False,
        let_others_in: float = 0.0,
        part_hours: float = 0.0,
        part_gigabytes: float = 0.0,
        encoder: str = X264,
        quality: int = DEFAULT_CRF,
        enlarge_small: bool = True,
    ) -> io.NodeOutput:
        """Returns the video as a file, never as frames in memory, its last picture and its newest latents."""
        refuse_nan("Stream Video", locals())
        encoding = Encoding(encoder, quality, enlarge_small)
        config = stream_config(model, width, height, preset, num_frame_per_block, cfg, sigmas, seed)
        fps = float(rate_of(fps))
        pictures = max(1, round(seconds * fps)) if seconds else None
        page = page_of(cls.hidden)
        wish = NEXT_RUNS.take(page.prompt_id, page.node)
        if wish is not None:
            start = Resume(video=find_take("Stream Video", wish.take), wish=wish.redo)
        begin = _told(start, model, cache).read(vae, config, fps, pictures)
        blocks = _blocks(config, pictures, negative, begin)
        script = read_script(positive, prompts, negative, config, fps, blocks, begin, switch_of(model))
        caller = HostCaller(model)
        with refuse_full(caller, "before the first block"):
            kept = _cache_and_memory(model, cache, config)
            decoder = decoder_for(vae, caller.to_vae)
        size = config.geometry.picture_size(decoder.upscale)
        video = _video_of(begin, filename_prefix, cls.hidden, size)
        order = Order(
            caller, decoder, config, *kept, script, fps, blocks, video, graph_tags(cls.hidden), page,
            policy_of(snapshot, snapshot_seconds, snapshot_gb), begin.may_redo,
            LongRun(stop_on_drift, let_others_in, part_hours, part_gigabytes), encoding,
            None if prompts is None else prompts.reference_BHWC,
        )  # fmt: skip
        run = Run(order)
        state = run.make(
            begin, vae, pictures, on_chunk=_progress(blocks), may_shrink=shrink_cache,
            overlap=overlap_for(model, vae, config, kept[0], fps),
        )  # fmt: skip
        FINGERPRINTS.note(page.node, run.files, run.session, whole=(whole := run.as_queued and wish is None))
        if run.lets_others_in():
            return io.NodeOutput(*[ExecutionBlocker(None)] * len(cls.SCHEMA.outputs))
        if whole:
            RESUMED.settle(video)
        if snapshot == EARLY:
            PASSING.add(run.folder)
        return io.NodeOutput(
            InputImpl.VideoFromFile(str(run.result)), run.image_BHWC, _newest(caller, state, config),
            newest_snapshot_path(run.folder), ui=run.shown,
        )  # fmt: skip


def _newest(caller: HostCaller, state: StreamState, config: StreamConfig) -> dict[str, Tensor]:
    """The newest latents, as the host hands them on."""
    newest_BCTHW = caller.to_vae(state.tail_BCTHW[:, :, -config.tail_frames :])
    return {"samples": newest_BCTHW.to(comfy.model_management.intermediate_device())}


def _told(start: Beginning | None, model: Any, cache: CacheChoice | None) -> Beginning:
    """How the stream begins; an earlier take is told the names of this graph's cache and memory."""
    if isinstance(start, Resume):
        return replace(start, kept=((cache or CacheChoice()).name, memory_of(model).name))
    return begun_with(start, model) or FROM_NOTHING


def _video_of(begin: Beginning, prefix: str, hidden: Any, size: tuple[int, int]) -> Path:
    """Where the video lies: a new one, or that of the take that is gone on with."""
    return begin.video if isinstance(begin, Resume) else target(prefix, hidden, *size)


def _progress(blocks: int | None) -> Callable[[Chunk], None]:
    """Tells the host how much of the video is made; without an end there is no share to tell."""
    if blocks is None:
        return lambda chunk: None
    bar = comfy.utils.ProgressBar(blocks)
    return lambda chunk: bar.update_absolute(chunk.block + 1, blocks)


def _blocks(config: StreamConfig, pictures: int | None, negative: Any, begin: Beginning) -> int | None:
    """Blocks of the whole video, None: without end; refused where guidance or positions do not allow it."""
    if config.guided and negative is None:
        raise ValueError(
            f"Stream Video: cfg {config.cfg} guides away from a negative prompt, and none is connected "
            f"({GIVES_NOTHING}); connect one (an empty prompt does), or set cfg to 1."
        )
    blocks = frames = None
    if pictures is not None:
        decoded = pictures + begin.hidden
        blocks = max(1, blocks_for(config.geometry, config.block_frames, decoded, begin.latents))
        frames = begin.latents + blocks * config.block_frames
    if refusal := why_not(config.positions, config.block_frames, frames):
        raise ValueError(refusal)
    return blocks


def _cache_and_memory(
    model: Any, cache: CacheChoice | None, config: StreamConfig
) -> tuple[CacheFormat, MemoryPolicy]:
    """How the stream keeps what it looks back on, and what it remembers of the rest."""
    dit = model.get_model_object("diffusion_model")
    cache_format = DENSE if cache is None else cache.format_for(config, dit)
    return cache_format, memory_of(model).policy_for(config, model.load_device)
