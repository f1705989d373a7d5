"""The engine's own caller: a model that is there, on one device, with its texts' keys and values kept beside
it.

B batch, C channels, T latent frames, H/W of the latent grid, L text tokens, E text_dim, R batch rows of a
call.
"""

from __future__ import annotations

import re
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from itertools import chain, pairwise
from typing import TypeVar

import torch
from torch import Tensor, nn
from torch.nn.functional import pad

from ..arch.fingerprint import fingerprint
from ..arch.parts import embed_time, patchify
from ..arch.tree import DiTTree
from ..attention.forward import Time, forward, write_past
from ..attention.measured import measured_sdpa
from ..attention.past import Past
from ..attention.rope import layout_of
from ..attention.sdpa import Attention
from ..attention.text import TextRows, TextState, read_text
from ..cache.shapes import CacheShape
from ..reason import dtype_name
from ..sampler.denoise import denoise, guide
from ..sampler.rolling import by_frame, roll
from .caller import Joint, Pass, Result
from .card_memory import give_back, is_out_of_memory
from .config import StreamConfig
from .rolling import apart, times_by_frame
from .weights import Fingerprint, refuse_other_weights

Answer = TypeVar("Answer")
Texts = tuple[Tensor, ...]  # [B, L, E] of the prompt and, with guidance, of the negative one
MISMATCH = re.compile(
    r"\bd?type|shapes?\b|\bsizes?\b|channels|same device|expected device|not implemented for", re.IGNORECASE
)
DRIVER = re.compile(
    r"out of memory|\b(CUDA|HIP|XPU|MPS) (backend|driver|error)|CUBLAS|CUDNN|HIPBLAS|MIOPEN", re.IGNORECASE
)
TEXTS_KEPT = 2  # prompts whose keys and values stay; 94 MB each at 1.3B


def texts(text_BLE: Tensor, negative_BLE: Tensor | None = None) -> Texts:
    """The prompt of a `ModelCaller`; negative: needed where the stream is guided, elsewhere not read."""
    return (text_BLE,) if negative_BLE is None else (text_BLE, negative_BLE)


class ModelCaller:
    """Runs a `DiTTree` for streams; its prompts are `Texts`, in the model's dtype and on its device."""

    def __init__(
        self, tree: DiTTree, device: str | torch.device = "cpu", *, attention: Attention = measured_sdpa
    ) -> None:
        """device: where the model's weights lie."""
        self.tree, self.device, self.attention = tree, torch.device(device), attention
        self._known: OrderedDict[tuple[int, ...], TextState] = OrderedDict()
        self._weights: tuple[Sequence[object], Fingerprint] | None = None  # see `fingerprint`

    def shape(self, prompt: Texts, config: StreamConfig) -> CacheShape:
        """Sizes of the cache, asked of the model itself: it reads the text and one empty latent frame.

        A run begins with it, so its weights are looked at anew when their fingerprint is next asked for.
        """
        self._weights = None
        self.check(prompt, config, self.batch(prompt, config))
        geometry = config.geometry
        latents = torch.zeros(geometry.latent_shape(1), dtype=config.dtype, device=self.device)
        _, grid = self._with_words(lambda: patchify(self.tree, latents), config, prompt[0])
        if grid != (1, geometry.grid_height, geometry.grid_width):
            raise ValueError(
                f"Stream: the model makes {grid[1]} x {grid[2]} tokens (rows x columns) of a "
                f"{geometry.width} x {geometry.height} picture, the geometry expects "
                f"{geometry.grid_height} x {geometry.grid_width}; give Geometry the model's patch, "
                f"{self.tree.patch_size[1]}."
            )
        text = self._read(prompt, config)
        heads, head_dim = text.groups[0].kv.shape[-2:]
        rows = text.branches * text.batch
        return CacheShape(len(self.tree.blocks), rows, *grid[1:], heads, head_dim, layout_of(self.tree))

    def batch(self, prompt: Texts, config: StreamConfig) -> int:
        return prompt[0].shape[0]

    def reserve(self, count: int) -> None:
        """Nothing: nobody else uses the device."""

    def is_out_of_memory(self, error: BaseException) -> bool:
        return is_out_of_memory(error)

    def when_unloaded(self, call: Callable[[], None]) -> AbstractContextManager[None]:
        """Never: nobody moves the model."""
        return nullcontext()

    def make_room(self, *, keep_model: bool) -> None:
        """The model stays in any case: there is nobody to bring it back."""
        if not keep_model:
            self._known.clear()
        give_back(self.device)

    def check(self, prompt: Texts, config: StreamConfig, batch: int) -> None:
        _refuse_texts(prompt, config)
        text_BLE = prompt[0]
        if text_BLE.shape[0] != batch or not _is_on(text_BLE, self.device):
            raise ValueError(
                f"Stream: the text is for {text_BLE.shape[0]} streams on {text_BLE.device}, the stream has "
                f"{batch} on {self.device}; encode one text a stream, on its device."
            )
        self._read(prompt, config)

    def blend(self, old: Texts, new: Texts, share: float) -> Texts:
        """A shorter text is filled up with zeros, as Wan pads its text."""
        # only a negative text that is not read can be missing on one side
        pairs = [same_length(one, other) for one, other in zip(old, new, strict=False)]
        return tuple(torch.lerp(one, other, share) for one, other in pairs)

    def dump(self, prompt: Texts) -> Mapping[str, Tensor]:
        return {str(branch): text_BLE.contiguous() for branch, text_BLE in enumerate(prompt)}

    def load(self, parts: Mapping[str, Tensor]) -> Texts:
        return tuple(parts[str(branch)].to(self.device) for branch in range(len(parts)))

    @torch.inference_mode()
    def run(self, work: Pass, prompt: Texts, config: StreamConfig) -> Result:
        """One call of the model per sigma and group of texts, then one at timestep 0."""
        _refuse_moved(self.tree, self.device)
        texts = self._read(prompt, config)
        times = times_of(self.tree, work.sigmas, config.dtype, self.device)
        # one past for all calls of a block: it finds a layer's norm out once
        groups = _groups(texts, work.draft.past)
        x0_BCTHW, under_way_BCTHW = work.clean_BCTHW, None
        if work.joint is not None:
            x0_BCTHW, under_way_BCTHW = apart(
                self._roll(work, work.joint, texts, times, config), work.shape[2]
            )
        elif x0_BCTHW is None:
            x0_BCTHW = self._denoise(work, groups, times, config)
        work.draft.set_memory(work.memory[1])
        last: list[Tensor] = []
        for group, past in groups:
            x_RCTHW = repeat_rows(x0_BCTHW, group, config)
            last += write_past(self.tree, x_RCTHW, times[-1], group, past, self.attention)
        return Result(x0_BCTHW, tuple(last), under_way_BCTHW)

    def _denoise(
        self, work: Pass, groups: list[tuple[TextRows, Past]], times: list[Time], config: StreamConfig
    ) -> Tensor:
        """The block's clean latents."""
        assert work.noise is not None
        first = 0 if work.begin is None else work.begin.call

        def flow(x_BCTHW: Tensor, index: int) -> Tensor:
            work.draft.set_memory(work.memory[1 if index > first else 0])
            return self._flow(x_BCTHW, times[index], groups, config)

        like = self._like(work, config)
        place = (work.noise, work.block, work.start_frame)
        return denoise(flow, work.sigmas, *place, like, config.fresh_noise, work.begin)

    def _roll(
        self, work: Pass, joint: Joint, texts: TextState, times: list[Time], config: StreamConfig
    ) -> Tensor:
        """Clean latents of the block and estimates of those behind it."""
        assert work.noise is not None

        def clean(x_BCTHW: Tensor, calls: tuple[int, ...]) -> Tensor:
            frames = x_BCTHW.shape[2]
            groups = _groups(texts, partial(joint.past, frames))
            flow_BCTHW = self._flow(x_BCTHW, times_by_frame(times, calls, frames), groups, config)
            return x_BCTHW - by_frame(work.sigmas, calls, x_BCTHW) * flow_BCTHW

        place = (work.noise, work.block, work.start_frame)
        return roll(clean, joint.under_way_BCTHW, work.sigmas, *place, self._like(work, config))

    def _like(self, work: Pass, config: StreamConfig) -> Tensor:
        return torch.empty(work.shape, dtype=config.latent_dtype, device=self.device)

    def fingerprint(self, config: StreamConfig) -> Fingerprint:
        """Taken once a run, and again where torch says that a weight was written to or exchanged since."""
        channels = config.geometry.latent_channels
        standing = channels, config.dtype, *_standing(self.tree)
        if self._weights is None or self._weights[0] != standing:
            self._weights = standing, fingerprint(self.tree, channels, config.dtype, self.device)
        return self._weights[1]

    def expect(self, made_with: Fingerprint, source: str, config: StreamConfig) -> None:
        refuse_other_weights(made_with, self.fingerprint(config), source)

    def _read(self, prompt: Texts, config: StreamConfig) -> TextState:
        used = _used(prompt, config)
        key = tuple(id(text_BLE) for text_BLE in used)
        known = self._known.get(key)  # it holds the texts, so no other tensor can have their ids
        if known is None:
            known = self._with_words(lambda: read_text(self.tree, used), config, prompt[0])
            self._known[key] = known
            if len(self._known) > TEXTS_KEPT:
                self._known.popitem(last=False)
        self._known.move_to_end(key)
        return known

    def _flow(
        self, x_BCTHW: Tensor, time: Time, groups: list[tuple[TextRows, Past]], config: StreamConfig
    ) -> Tensor:
        flows: list[Tensor] = []
        for group, past in groups:
            x_RCTHW = repeat_rows(x_BCTHW, group, config)
            flow_RCTHW = forward(self.tree, x_RCTHW, time, group, past, self.attention)
            flows += flow_RCTHW.to(x_BCTHW.dtype).chunk(group.branches)
        if flows[0].shape != x_BCTHW.shape:
            raise ValueError(
                f"Stream: the model turned latents {list(x_BCTHW.shape)} into a flow {list(flows[0].shape)}; "
                f"it must give back as many channels as it takes: use a text-to-video model."
            )
        return guide(flows, config.cfg)

    def _with_words(self, work: Callable[[], Answer], config: StreamConfig, text_BLE: Tensor) -> Answer:
        try:
            return work()
        except RuntimeError as error:
            if not _is_a_mismatch(error):
                raise
            raise ValueError(
                f"Stream: the model's layers refused {dtype_name(config.dtype)} on {text_BLE.device} with "
                f"text_dim {text_BLE.shape[-1]} and {config.geometry.latent_channels} latent channels: "
                f"{error}. Give text and StreamConfig the model's own dtype, device and sizes."
            ) from error


def times_of(tree: DiTTree, sigmas: Sequence[float], dtype: torch.dtype, device: torch.device) -> list[Time]:
    """Time vectors of a call at each level, the one at timestep 0 last; one frame stands for all.

    Timesteps are 1000 sigma in float64. That of 0 is computed by itself, so that it has the same bits
    whatever the calls before it are.
    """
    times: list[Time] = []
    for levels in filter(None, (tuple(sigmas), (0.0,))):
        timesteps = torch.tensor([[1000 * sigma for sigma in levels]], dtype=torch.float64)
        modulation, head = embed_time(tree, timesteps, dtype, device=device)
        times += zip(modulation.split(1, 1), head.split(1, 1), strict=True)
    return times


def repeat_rows(x_BCTHW: Tensor, group: TextRows, config: StreamConfig) -> Tensor:
    """The latents in the model's dtype, once for each branch of the group."""
    x_BCTHW = x_BCTHW.to(config.dtype)
    return x_BCTHW if group.branches == 1 else torch.cat([x_BCTHW] * group.branches)


def same_length(one_BLE: Tensor, other_BLE: Tensor) -> tuple[Tensor, Tensor]:
    """Both texts, the shorter one with zeros behind it."""
    most = max(one_BLE.shape[1], other_BLE.shape[1])
    return pad(one_BLE, (0, 0, 0, most - one_BLE.shape[1])), pad(
        other_BLE, (0, 0, 0, most - other_BLE.shape[1])
    )


def _is_a_mismatch(error: RuntimeError) -> bool:
    """Whether torch refused tensors for their dtype, sizes or device; what a driver says is none of that."""
    # a full or a failed device has a class of its own, on backends that have one
    return type(error) is RuntimeError and bool(MISMATCH.search(str(error)) and not DRIVER.search(str(error)))


def _groups(texts: TextState, past: Callable[[slice], Past]) -> list[tuple[TextRows, Past]]:
    """Each group of branches that run together, and what it attends to."""
    ends = [0]
    for group in texts.groups:
        ends.append(ends[-1] + group.branches * texts.batch)
    rows = [slice(first, last) for first, last in pairwise(ends)]
    return [(group, past(part)) for group, part in zip(texts.groups, rows, strict=True)]


def _used(prompt: Texts, config: StreamConfig) -> Texts:
    """Without guidance the negative text is not read."""
    return prompt[: 2 if config.guided else 1]


def _standing(tree: DiTTree) -> list[tuple[int, int, int]]:
    """What changes with a weight: which tensor it is, where it lies, how often torch has written to it."""
    if not isinstance(tree, nn.Module):
        return []
    weights = chain(tree.parameters(), tree.buffers())
    return [(id(w), w.data_ptr(), 0 if w.is_inference() else w._version) for w in weights]


def _refuse_moved(tree: DiTTree, device: torch.device) -> None:
    """RuntimeError for weights that left the device after the stream had begun."""
    if not isinstance(tree, nn.Module):
        return
    weight = next(tree.parameters(), None)
    if weight is not None and not _is_on(weight, device):
        raise RuntimeError(
            f"Stream: the model's weights are on {weight.device} and the stream is on {device}: they were "
            f"moved away in mid-run. What was made is kept. Load it again onto {device} and go on from there."
        )


def _is_on(tensor: Tensor, device: torch.device) -> bool:
    """Whether it lies there; a device that names no number means any of its kind."""
    return tensor.device.type == device.type and device.index in (None, tensor.device.index)


def _refuse_texts(prompt: Texts, config: StreamConfig) -> None:
    if config.guided and len(prompt) < 2:
        raise ValueError(
            f"Stream: cfg {config.cfg} guides away from a negative text, got none; give one (an encoded "
            f"empty prompt does), or set cfg to 1."
        )
    text = prompt[0]
    for name, other in zip(("text", "negative text"), _used(prompt, config), strict=False):
        if other.ndim != 3 or 0 in other.shape or other.dtype != config.dtype:
            raise ValueError(
                f"Stream: the {name} must be [streams, tokens, text_dim] of {dtype_name(config.dtype)} (the "
                f"config's dtype), got {list(other.shape)} of {dtype_name(other.dtype)}; convert it with "
                f".to()."
            )
        if not other.isfinite().all():
            raise ValueError(f"Stream: the {name} holds NaN or infinite numbers; encode the prompt again.")
        if other.shape[0] != text.shape[0] or other.device != text.device:
            raise ValueError(
                f"Stream: the {name} is for {other.shape[0]} streams on {other.device}, the text for "
                f"{text.shape[0]} on {text.device}; give as many of each, on one device."
            )
