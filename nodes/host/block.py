"""One pass while the host samples it: our wrapper in the model, our sampler function, and what both share.

B batch, R batch rows of a call (branch by branch, each of B), C channels, T latent frames, H/W of the latent
grid, L text tokens, E text_dim. Branch 0 is the prompt, branch 1 the negative, as the host counts them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from comfy.patcher_extension import WrappersMP
from comfy.samplers import Sampler
from torch import Tensor

from ...model_patches.arch.parts import embed_time
from ...model_patches.attention.forward import Time, forward, write_past
from ...model_patches.attention.text import TextRows, read_text
from ...model_patches.sampler.denoise import Clean, first_input, refine
from ...model_patches.sampler.rolling import JointClean, by_frame, roll
from ...model_patches.stream.caller import Pass
from ...model_patches.stream.config import StreamConfig
from ...model_patches.stream.model_caller import times_of
from ...model_patches.stream.rolling import apart, times_by_frame
from .past import HostRotated, LayerNamed, host_attention
from .prefetch import fetched
from .tree import HostTree, check_forward
from .weights import HostWeights

KEY = "rivulet"  # of our wrapper, and of the block in transformer_options
# the host's kinds of wrappers that stand between a conditioning and the layers that read its text
BEFORE_TEXT = (
    WrappersMP.PREDICT_NOISE,
    WrappersMP.CALC_COND_BATCH,
    WrappersMP.APPLY_MODEL,
    WrappersMP.DIFFUSION_MODEL,
)
KEEP_TEXT = (KEY, "torch.compile")  # keys of wrappers that do not change it: ours, the host's compiler
PATCHES = ("attn1_patch", "attn2_patch", "double_block")  # what the host's own forward would run


@torch.compiler.disable
def run_model(
    executor: Any,
    x_RCTHW: Tensor,
    timestep_R: Tensor,
    context_RLE: Tensor,
    clip_fea: Tensor | None = None,
    time_dim_concat: Tensor | None = None,
    transformer_options: dict[str, Any] | None = None,
    **extra: Any,
) -> Tensor:
    """The model's flow: the engine's forward over its layers while a pass is run, else its own."""
    options = {} if transformer_options is None else transformer_options
    work: HostPass | None = options.get(KEY)
    if work is None:
        return executor(x_RCTHW, timestep_R, context_RLE, clip_fea, time_dim_concat, options, **extra)
    conditions = {"clip_fea": clip_fea, "time_dim_concat": time_dim_concat, **extra}
    _refuse_extra(conditions, options)

    def host_forward(x: Tensor, timestep: Tensor, text: Tensor) -> Tensor:
        return executor(x, timestep, text, None, None, dict(options))

    return work.flow(executor.class_obj, x_RCTHW, timestep_R, context_RLE, options, host_forward)


class PassSampler(Sampler):
    """The host's sampler of one pass, whose clean latents and drafted keys and values the pass keeps.

    In place of the host's KSAMPLER, which reads the first level from the card, and so waits for it.
    """

    def __init__(self, work: HostPass) -> None:
        self.work = work

    def sample(
        self,
        model_wrap: Any,
        sigmas: Tensor,
        extra_args: dict[str, Any],
        callback: Callable[[int, Tensor, Tensor, int], None] | None,
        noise: Tensor,
        latent_image: Tensor | None = None,
        denoise_mask: Tensor | None = None,
        disable_pbar: bool = False,
    ) -> Tensor:
        """No latent frame, on the CPU: what the host turns into the VAE's units nobody reads.

        noise: of it only shape, dtype and device are used; noise, levels and given latents are the pass's. Of
        the host's sigmas only the number counts.
        """
        work, x = self.work, noise
        assert len(sigmas) == len(work.levels) + 1, (len(sigmas), work.levels)

        def clean(x_BCTHW: Tensor, call: int) -> Tensor:
            sigma_B = x.new_full((len(x),), work.work.sigmas[call])
            work.begin_call(call)
            x0_BCTHW = model_wrap(x_BCTHW, sigma_B, **extra_args)
            work.end_call()
            if callback is not None:
                callback(call - work.first, x0_BCTHW, x_BCTHW, len(work.levels))
            return x0_BCTHW

        def clean_jointly(x_BCTHW: Tensor, calls: tuple[int, ...]) -> Tensor:
            work.begin_joint_call(calls)
            x0_BCTHW = model_wrap(x_BCTHW, x.new_ones(len(x)), **extra_args)
            work.end_call()
            return x0_BCTHW

        work.latents_BCTHW = x0_BCTHW = work.make(clean, clean_jointly, x)
        work.begin_call(None)
        model_wrap(x0_BCTHW, x.new_zeros(len(x)), **extra_args)
        work.end_call()
        return torch.empty((*x.shape[:2], 0, *x.shape[3:]))


@dataclass
class TextCache:
    """Keys and values of the present prompt's texts, made once per way of batching them.

    Made in every call where something in between may change a text, or the weights that read it, from call to
    call: the host's name of a conditioning stays, and to compare texts would be to wait for the card.
    """

    prompt: Any = None
    varies: bool = False  # by what the model or the conditioning carries
    rows_by_texts: dict[tuple[Any, ...], TextRows] = field(default_factory=dict)

    def rows(
        self, tree: HostTree, texts: tuple[Any, ...], text_RLE: Tensor, options: dict[str, Any]
    ) -> TextRows:
        """Of the text that the host brings. texts: what the host calls each branch's conditioning.

        options: the host's transformer_options of the call.
        """
        if self.varies or _has_wrappers(options):
            return read_text(tree, (text_RLE,)).groups[0]
        if texts not in self.rows_by_texts:
            self.rows_by_texts[texts] = read_text(tree, (text_RLE,)).groups[0]
        return self.rows_by_texts[texts]


class HostPass:
    """What the wrapper finds in transformer_options: the pass and how far it is."""

    def __init__(
        self,
        work: Pass,
        config: StreamConfig,
        branches: int,
        texts: TextCache,
        weights: HostWeights,
        like_host: bool,
    ) -> None:
        """branches: that each call runs. like_host: see `HostCaller`."""
        self.work, self.config, self.branches = work, config, branches
        self.texts, self.weights, self.like_host = texts, weights, like_host
        self.first = 0 if work.begin is None else work.begin.call  # call that the block begins with
        self.levels = (work.sigmas or config.sigmas)[self.first :]  # that the host is told of; then 0
        self.call: int | None = None  # that is being run; None: the one at timestep 0, or a joint one
        self.joint_calls: tuple[int, ...] = ()  # of the blocks that are being run together, the oldest first
        self.under_way_BCTHW: Tensor | None = None  # estimates of the blocks behind this one
        self.latents_BCTHW: Tensor | None = None  # in the model's units, once they are clean
        self.last: list[Tensor] = []  # keys and values of the last layer at timestep 0
        self._ran: set[int] = set()  # branches that this call has run
        self._times: list[Time] = []

    def make(self, clean: Clean, clean_jointly: JointClean, x: Tensor) -> Tensor:
        """The block's clean latents in x's dtype and on its device; or those that are there already.

        clean: of one block; clean_jointly: of several that are denoised together. x: of any number of frames.
        """
        work = self.work
        if work.clean_BCTHW is not None:
            return work.clean_BCTHW.to(x)
        assert work.noise is not None
        place, x = (work.noise, work.block, work.start_frame), x[:, :, : work.shape[2]]
        if work.joint is not None:
            made = roll(clean_jointly, work.joint.under_way_BCTHW, work.sigmas, *place, x)
            x0_BCTHW, self.under_way_BCTHW = apart(made, work.shape[2])
            return x0_BCTHW
        x = first_input(work.sigmas, *place, x, work.begin)
        return refine(clean, x, work.sigmas, *place, self.config.fresh_noise, self.first)

    def begin_call(self, call: int | None) -> None:
        """The sampler asks for one flow, over however many calls of the model; None: for the one at 0."""
        self.call, self.joint_calls = call, ()
        self._ran.clear()
        self.work.draft.set_memory(self.work.memory[0 if call == self.first else 1])

    def begin_joint_call(self, calls: tuple[int, ...]) -> None:
        """The sampler asks for the flow of so many blocks at these levels.

        It is told noise level 1 for all of them: the host knows one level a call. See `flow`.
        """
        assert not self.like_host, "the host denoises no blocks together that a stream could be compared with"
        self.call, self.joint_calls = None, calls
        self._ran.clear()

    def end_call(self) -> None:
        """Refuses a call in which a branch did not run: its rows of the cache would hold nothing."""
        missing = set(range(self.branches)) - self._ran
        if missing:
            raise ValueError(
                f"Rivulet: ComfyUI ran no {_names(missing)} conditioning in block {self.work.block}; a "
                f"stream needs one that covers every step. Take away timestep ranges and areas, or connect "
                f"a negative."
            )

    def flow(
        self,
        model: Any,
        x_RCTHW: Tensor,
        timestep_R: Tensor,
        context_RLE: Tensor,
        options: dict[str, Any],
        host_forward: Callable[[Tensor, Tensor, Tensor], Tensor],
    ) -> Tensor:
        """Flow of the rows the host has put together, in the host's order of branches.

        Of blocks that are denoised together, in float32 and times their noise levels: the host takes it off
        its latents as it is.
        """
        requested: list[int] = options["cond_or_uncond"]
        branches = self._claim(requested, x_RCTHW)
        order = sorted(range(len(requested)), key=requested.__getitem__)
        x, timestep, text = (_arrange(rows, order) for rows in (x_RCTHW, timestep_R, context_RLE))
        tree, attention = HostTree(model), host_attention(options)
        if not self.weights.checked:
            check_forward(tree, host_forward, x, text, attention)
        self.weights.check(tree, model.dim, x, self.work.format)
        time = self._time(tree, timestep, x)
        past = self._past(branches, x, options)
        # the host names a conditioning once, when the guider gets it
        names = tuple(options["uuids"][index] for index in order)
        rows = self.texts.rows(tree, names, text, options)
        with fetched(tree.blocks, x.device, options) as tree.blocks:
            if self.call is None and not self.joint_calls:
                self.last += write_past(tree, x, time, rows, past, attention)
                return torch.zeros_like(x_RCTHW)
            flow_RCTHW = forward(tree, x, time, rows, past, attention)
        if self.joint_calls:
            flow_RCTHW = by_frame(self.work.sigmas, self.joint_calls, flow_RCTHW.float()) * flow_RCTHW
        return _arrange(flow_RCTHW, sorted(range(len(order)), key=order.__getitem__))

    def _claim(self, requested: list[int], x_RCTHW: Tensor) -> tuple[int, ...]:
        branches = tuple(sorted(requested))
        twice = {branch for branch in requested if branch in self._ran or requested.count(branch) > 1}
        if twice:
            raise ValueError(
                f"Rivulet: more than one {_names(twice)} conditioning applies to a step; a stream remembers "
                f"one. Encode a single prompt, without Conditioning (Combine) or areas."
            )
        batch, channels, frames, *grid = self.work.shape
        wanted = (len(requested) * batch, channels, frames * max(1, len(self.joint_calls)), *grid)
        if branches[-1] >= self.branches or tuple(x_RCTHW.shape) != wanted:
            raise ValueError(
                f"Rivulet: ComfyUI asks for branches {list(branches)} of latents {list(x_RCTHW.shape)}; the "
                f"stream has {self.branches} and makes {list(wanted)}. Give a text-to-video model, whole "
                f"pictures (no areas), and no other guider."
            )
        self._ran.update(requested)
        return branches

    def _time(self, tree: HostTree, timestep_R: Tensor, x: Tensor) -> Time:
        """Time vectors of the call by the engine's timesteps, which the host has in float32."""
        if self.like_host:
            every_frame = timestep_R[:, None].expand(-1, x.shape[2])
            return embed_time(tree, every_frame, x.dtype, angles=torch.float32)
        if not self._times:
            self._times = times_of(tree, self.work.sigmas, x.dtype, x.device)
        if self.joint_calls:
            return times_by_frame(self._times, self.joint_calls, x.shape[2])
        return self._times[-1 if self.call is None else self.call]

    def _past(self, branches: tuple[int, ...], x: Tensor, options: dict[str, Any]) -> LayerNamed:
        batch, joint = len(x) // len(branches), self.work.joint
        rows = slice(branches[0] * batch, (branches[-1] + 1) * batch)
        if self.joint_calls:
            assert joint is not None
            return LayerNamed(joint.past(x.shape[2], rows), options)
        past = self.work.draft.past(rows)
        return LayerNamed(HostRotated(past) if self.like_host else past, options)


def _has_wrappers(options: dict[str, Any]) -> bool:
    """Whether a wrapper of another node may change the text of a call."""
    wrappers = options.get("wrappers", {})
    return any(
        each and key not in KEEP_TEXT for kind in BEFORE_TEXT for key, each in wrappers.get(kind, {}).items()
    )


def _arrange(rows: Tensor, order: list[int]) -> Tensor:
    if order == sorted(order):
        return rows
    parts = rows.chunk(len(order))
    return torch.cat([parts[index] for index in order])


def _names(branches: set[int]) -> str:
    names = {0: "positive", 1: "negative"}
    return " and ".join(names.get(branch, str(branch)) for branch in sorted(branches))


def _refuse_extra(conditions: dict[str, Any], options: dict[str, Any]) -> None:
    names = [name for name, value in conditions.items() if value is not None]
    if names:
        raise ValueError(
            f"Rivulet: the conditioning brings {', '.join(names)}, which a stream does not use; take away "
            f"image, reference and control conditioning."
        )
    patches = options.get("patches", {})
    patch_names = [name for name in PATCHES if patches.get(name)]
    if patch_names or options.get("patches_replace", {}).get("dit"):
        raise ValueError(
            f"Rivulet: another node patches the model's blocks "
            f"({', '.join(patch_names) or 'patches_replace'}), which a stream would skip. Remove that node."
        )
