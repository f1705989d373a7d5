"""One block while the host samples it: our wrapper in the model, our sampler function, and what both share.

B batch, R batch rows of a call (branch by branch, each of B), C channels, T latent frames, H/W of the latent
grid, L text tokens, E text_dim. Branch 0 is the prompt, branch 1 the negative, as the host counts them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ...model_patches.arch.parts import embed_time
from ...model_patches.attention.forward import Time, forward, remember
from ...model_patches.attention.text import TextRows, read_text
from ...model_patches.cache.format import Draft, KeysValues
from ...model_patches.sampler.denoise import refine
from .past import HostTurned, LayerNamed, host_attention
from .tree import HostTree, check_forward

if TYPE_CHECKING:
    from .stream import HostStream

KEY = "rivulet"  # of our wrapper, and of the block in transformer_options
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
    """The model's flow: the engine's forward over its layers while a block is being made, else its own."""
    options = {} if transformer_options is None else transformer_options
    making = options.get(KEY)
    if making is None:
        return executor(x_RCTHW, timestep_R, context_RLE, clip_fea, time_dim_concat, options, **extra)
    given = {"clip_fea": clip_fea, "time_dim_concat": time_dim_concat, **extra}
    _refuse_extra(given, options)

    def own(x: Tensor, timestep: Tensor, text: Tensor) -> Tensor:
        return executor(x, timestep, text, None, None, dict(options))

    return making.flow(executor.class_obj, x_RCTHW, timestep_R, context_RLE, options, own)


def sample_block(
    model: Any,
    x: Tensor,
    sigmas: Tensor,
    extra_args: dict[str, Any] | None = None,
    callback: Callable[[dict[str, Any]], None] | None = None,
    disable: bool | None = None,
    *,
    making: BlockInMaking,
) -> Tensor:
    """The host's sampler function of one block: its clean latents; keys and values go to the draft."""
    ones = x.new_ones(x.shape[0])

    def clean(x_BCTHW: Tensor, call: int) -> Tensor:
        making.begin_call()
        sigma = sigmas[call - making.first]
        x0_BCTHW = model(x_BCTHW, sigma * ones, **(extra_args or {}))
        making.end_call()
        if callback is not None:
            callback(
                {
                    "x": x_BCTHW,
                    "i": call - making.first,
                    "sigma": sigma,
                    "sigma_hat": sigma,
                    "denoised": x0_BCTHW,
                }
            )
        return x0_BCTHW

    stream, first = making.stream, making.first
    levels = [*stream.config.sigmas[:first], *sigmas[:-1].tolist()]
    places = making.block, making.start_frame
    x0_BCTHW = refine(clean, x, levels, stream.noise, *places, stream.config.fresh_noise, first)
    making.remembers = True
    making.begin_call()
    model(x0_BCTHW, sigmas[-1] * ones, **(extra_args or {}))
    making.end_call()
    return x0_BCTHW


class BlockInMaking:
    """What the wrapper finds in transformer_options: a block's draft, dropped unless the block is done."""

    def __init__(
        self,
        stream: HostStream,
        draft: Draft,
        block: int,
        start_frame: int,
        frames: int,
        memories: tuple[KeysValues | None, KeysValues | None] = (None, None),
    ) -> None:
        """frames: latent frames of the draft, from start_frame on.

        memories: what the first call and what the later ones attend to besides.
        """
        self.stream, self.draft, self.block, self.start_frame = stream, draft, block, start_frame
        self.frames, self.memories = frames, memories
        self.calls = 0
        self.first = 0  # call that the block begins with; the sampler gets the levels from there on
        self.remembers = False  # whether the call leaves keys and values and nothing else
        self.seen: set[int] = set()  # branches that this call has run
        self.kept: list[Tensor] = []

    def begin_call(self) -> None:
        """The sampler asks for one flow, over however many calls of the model."""
        self.seen.clear()
        self.draft.show(self.memories[1 if self.calls or self.remembers else 0])
        self.calls += 1

    def end_call(self) -> None:
        """Refuses a call in which a branch did not run: its rows of the cache would hold nothing."""
        missing = set(range(self.stream.branches)) - self.seen
        if missing:
            raise ValueError(
                f"Rivulet: ComfyUI ran no {_names(missing)} conditioning in block {self.block}; a "
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
        own: Callable[[Tensor, Tensor, Tensor], Tensor],
    ) -> Tensor:
        """Flow of the rows the host has put together, in the host's order of branches."""
        given: list[int] = options["cond_or_uncond"]
        branches = self._claim(given, x_RCTHW)
        order = sorted(range(len(given)), key=given.__getitem__)
        x, timestep, text = (_arranged(rows, order) for rows in (x_RCTHW, timestep_R, context_RLE))
        tree, attention = HostTree(model), host_attention(options)
        if not self.stream.weights.checked:
            check_forward(tree, own, x, text, attention)
            self.stream.weights.check(tree, model.dim, x, self.stream.format)
        time = self._time(tree, timestep, x)
        past = self._past(branches, options)
        rows = self._text(tree, branches, text)
        if self.remembers:
            self.kept += remember(tree, x, time, rows, past, attention)
            return torch.zeros_like(x_RCTHW)
        back = sorted(range(len(order)), key=order.__getitem__)
        return _arranged(forward(tree, x, time, rows, past, attention), back)

    def refuse_nan(self, *made: Tensor) -> None:
        """Raises RuntimeError if the block came out with numbers that would spoil every later one."""
        if not all(bool(tensor.isfinite().all()) for tensor in made):
            raise RuntimeError(
                f"Rivulet: block {self.block} came out with NaN or infinite numbers in "
                f"{self.stream.config.dtype}; nothing of it was kept. Try a cfg nearer to 1, another seed, "
                f"or ComfyUI's --force-fp32 or --bf16-unet."
            )

    def _claim(self, given: list[int], x_RCTHW: Tensor) -> tuple[int, ...]:
        stream = self.stream
        branches = tuple(sorted(given))
        twice = {branch for branch in given if branch in self.seen or given.count(branch) > 1}
        if twice:
            raise ValueError(
                f"Rivulet: more than one {_names(twice)} conditioning applies to a step; a stream remembers "
                f"one. Encode a single prompt, without Conditioning (Combine) or areas."
            )
        wanted = stream.config.geometry.latent_shape(self.frames, len(given) * stream.batch)
        if branches[-1] >= stream.branches or tuple(x_RCTHW.shape) != wanted:
            raise ValueError(
                f"Rivulet: ComfyUI asks for branches {list(branches)} of latents {list(x_RCTHW.shape)}; the "
                f"stream has {stream.branches} and makes {list(wanted)}. Give a text-to-video model, whole "
                f"pictures (no areas), and no other guider."
            )
        self.seen.update(given)
        return branches

    def _time(self, tree: HostTree, timestep_R: Tensor, x: Tensor) -> Time:
        if not self.stream.like_host:
            return embed_time(tree, timestep_R[:, None], x.dtype)
        every_frame = timestep_R[:, None].expand(-1, x.shape[2])
        return embed_time(tree, every_frame, x.dtype, angles=torch.float32)

    def _past(self, branches: tuple[int, ...], options: dict[str, Any]) -> LayerNamed:
        batch = self.stream.batch
        past = self.draft.past(slice(branches[0] * batch, (branches[-1] + 1) * batch))
        return LayerNamed(HostTurned(past) if self.stream.like_host else past, options)

    def _text(self, tree: HostTree, branches: tuple[int, ...], text_RLE: Tensor) -> TextRows:
        """Keys and values of the prompt, made once per text and per way of batching it."""
        known = self.stream.texts.get(branches)
        if known is None or not torch.equal(known[0], text_RLE):
            known = (text_RLE.clone(), read_text(tree, (text_RLE,)).groups[0])
            self.stream.texts[branches] = known
        return known[1]


def _arranged(rows: Tensor, order: list[int]) -> Tensor:
    if order == sorted(order):
        return rows
    parts = rows.chunk(len(order))
    return torch.cat([parts[index] for index in order])


def _names(branches: set[int]) -> str:
    known = {0: "positive", 1: "negative"}
    return " and ".join(known.get(branch, str(branch)) for branch in sorted(branches))


def _refuse_extra(given: dict[str, Any], options: dict[str, Any]) -> None:
    names = [name for name, value in given.items() if value is not None]
    if names:
        raise ValueError(
            f"Rivulet: the conditioning brings {', '.join(names)}, which a stream does not use; take away "
            f"image, reference and control conditioning."
        )
    patches = options.get("patches", {})
    found = [name for name in PATCHES if patches.get(name)]
    if found or options.get("patches_replace", {}).get("dit"):
        raise ValueError(
            f"Rivulet: another node patches the model's blocks ({', '.join(found) or 'patches_replace'}), "
            f"which a stream would pass over; take that node away."
        )
