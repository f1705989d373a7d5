"""Trains the pocket diffusion transformer: block-causal teacher forcing, then on contexts it predicts itself.

Two things keep a long rollout from falling apart. The context is damaged on purpose (noise, offsets, and in
the second phase the model's own predictions in place of the truth), while the target stays exact. And in most
clips the prompt changes at a block or the context has another look, so that looks must be read from the
text and only places and motion from the context.
"""

from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from ...model_patches.arch.wan import WanModel
from ...model_patches.geometry import Geometry
from ...model_patches.vae.wan import WanVAE
from .. import text, world
from ..half_products import half_products
from ..muon import Muon
from .checkpointing import Run, WeightAverage, learning_rate
from .clips import FIRST_BATCH, PairedClips, draw_clips, made_of
from .distributed import average_gradients, processes, rank
from .pool import draw_pool
from .record import PhaseRecord
from .sampled_states import SampledWalk, beside, grade, own_past
from .teacher_forcing import TeacherForcing

# kinds of clips: a stream's first block alone ("first"), short and long ones
BATCHES = {"first": FIRST_BATCH, "short": 2, "long": 1}  # so many times the batch
MORE_BEGINNINGS = 4  # are drawn where short clips are: they are a fifth as long


@dataclass(frozen=True, slots=True)
class PocketTraining:
    """Sizes, lengths and rates of one training of the transformer."""

    size: int = 64  # pixels
    blocks: int = 8  # per long clip
    short_blocks: int = 4  # per short clip: the shortest in which a window is full
    block_frames: int = 3
    streams: int = 2  # noisy copies per clean clip
    batch: int = 8  # long clips; twice as many short ones, eight times as many beginnings
    steps: int = 3000
    predicted_context_from: float = 0.75  # share of the steps after which the model predicts contexts
    long_from: float = 0.9  # share of the steps after which clips are long: the sink lies far back
    beginnings: float = 0.0  # share of the steps on streams' first blocks alone, each of another scene
    first_clips: int = 256
    more_clips: int = 32  # short ones; half as many long ones, four times as many beginnings
    more_every: int = 60  # steps
    most_clips: int = 4000
    matrix_rate: float = 1.5e-2  # Muon
    other_rate: float = 1e-3  # AdamW
    text_rate: float = 4e-3  # AdamW, text embedding: Wan starts it so small that text would be learnt last
    # an object fills hundreds of latent numbers: it is decided at sigma 0.9 and above
    shift: float = 8.0
    no_text_share: float = 0.06
    # share of the steps whose contexts, and half of whose graded states, are what the sampler itself comes to
    sampled: float = 0.0
    levels: tuple[float, ...] = ()  # the sampler's noise levels, without the final 0; needed where sampled
    paced: float = 0.0  # share of the blocks at another pace than the world's, ungraded: see `paces`
    speeds: tuple[float, float] = world.SPEED  # of the objects trained on, sides of the picture per frame
    keep_attention: bool = False  # leave the self-attentions as they are


def optimizers(dit: WanModel, recipe: PocketTraining) -> list[torch.optim.Optimizer]:
    """Muon for the matrices of the blocks, AdamW for the rest."""
    named = dict(dit.named_parameters())
    matrices = {n for n, p in named.items() if n.startswith("blocks") and p.ndim == 2}
    words = {n for n in named if n.startswith("text_embedding")}
    adamw = [
        {"params": [p for n, p in named.items() if n not in matrices | words], "peak": recipe.other_rate},
        {"params": [named[n] for n in sorted(words)], "peak": recipe.text_rate},
    ]
    muon = [{"params": [named[n] for n in sorted(matrices)], "peak": recipe.matrix_rate}]
    return [
        Muon(muon, lr=recipe.matrix_rate, momentum=0.95, weight_decay=0.01),
        torch.optim.AdamW(adamw, lr=recipe.other_rate, betas=(0.9, 0.98), weight_decay=0.0),
    ]


def enlarge_text(dit: WanModel) -> None:
    """Start the text embedding at the size of the tokens it is read beside, not at Wan's 0.02."""
    for layer in (dit.text_embedding[0], dit.text_embedding[2]):
        nn.init.normal_(layer.weight, std=0.1)


def draw_sigma(shape: tuple[int, ...], recipe: PocketTraining, generator: torch.Generator) -> Tensor:
    """Shares of noise: shifted uniform, a sixth of them exactly 1, where every block starts."""
    u = torch.rand(shape, generator=generator)
    sigma = recipe.shift * u / (1 + (recipe.shift - 1) * u)
    return torch.where(torch.rand(shape, generator=generator) < 1 / 6, 1.0, sigma).clamp_min(0.02)


def damage(clean_BCTHW: Tensor, block_frames: int, generator: torch.Generator) -> Tensor:
    """A context as a long rollout would have it.

    Noise, and an offset and gain per channel that stay for a block.
    """
    B, C, T = clean_BCTHW.shape[:3]

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator)

    strength = torch.rand(B, 1, 1, 1, 1, generator=generator) * (
        torch.rand(B, 1, 1, 1, 1, generator=generator) < 0.7
    )
    per_block = (B, C, T // block_frames, 1, 1)
    gain = (1 + 0.15 * strength * normal(*per_block)).repeat_interleave(block_frames, 2)
    offset = (0.25 * strength * normal(*per_block)).repeat_interleave(block_frames, 2)
    return clean_BCTHW * gain + offset + 0.2 * strength * normal(*clean_BCTHW.shape)


def graded_weight(graded_BT: Tensor) -> Tensor:
    """Weight of each latent frame's error [B, 1, 1, T, 1, 1]: 0 where it isn't graded, 1 on average."""
    weight = graded_BT.float() / graded_BT.float().mean().clamp_min(1e-6)
    return weight[:, None, None, :, None, None]


def mix(clean: Tensor, noise: Tensor, sigma_BKN: Tensor, block_frames: int) -> Tensor:
    """(1 - sigma) clean + sigma noise, block by block; clean and noise [B, K, C, T, H, W]."""
    sigma = sigma_BKN.repeat_interleave(block_frames, 2)[:, :, None, :, None, None]
    return (1 - sigma) * clean + sigma * noise


class Trainer:
    """One training of one model: data, optimisers, averaged weights and the step."""

    def __init__(
        self,
        dit: WanModel,
        vae: WanVAE,
        recipe: PocketTraining,
        folder: Path,
        seed: int = 7,
        start: str | None = None,
    ) -> None:
        """start: digest of the file that `dit` was, None where it is new."""
        self.dit, self.vae, self.recipe = dit, vae, recipe
        if recipe.keep_attention:
            for block in dit.blocks:
                block.self_attn.requires_grad_(False)
        self.device = next(dit.parameters()).device
        grid = Geometry(recipe.size, recipe.size).grid_width
        self.teacher = TeacherForcing(dit, recipe.blocks, recipe.block_frames, grid)
        self.optimizers = optimizers(dit, recipe)
        self.average = WeightAverage(dit, 0.998)
        parts = {"dit": dit, "average": self.average, "muon": self.optimizers[0], "adamw": self.optimizers[1]}
        self.run = Run(folder, "dit", parts, writes=rank() == 0, phase=self._record(start))
        self.generator = torch.Generator().manual_seed(seed + self.run.step + (rank() << 32))
        self.folder = folder
        self.pools: dict[str, PairedClips] = {}  # by kind, drawn when first asked for

    def _record(self, start: str | None) -> PhaseRecord:
        """What may not change while it is trained; a batch is divided among processes."""
        about = asdict(self.recipe) | {"model": asdict(self.dit.config), "start": start}
        steps = about.pop("steps")
        about |= {name: processes() * about[name] for name in ("batch", "more_clips")}
        return PhaseRecord(about | made_of(self.vae), {"steps": steps})

    def pool(self, kind: str) -> PairedClips:
        """The clips of one kind, read from the folder or drawn when first asked for."""
        if kind not in self.pools:
            path = self._path(kind)
            if path.exists():
                self.pools[kind] = PairedClips.load(path, made_of(self.vae))
            else:
                count = self.recipe.first_clips * (MORE_BEGINNINGS if kind == "first" else 1)
                self._store(kind, self._new_clips(count, kind))
        return self.pools[kind]

    def _path(self, kind: str) -> Path:
        return self.folder / f"clips_{kind}{rank() or ''}.pt"

    def _store(self, kind: str, clips: PairedClips) -> None:
        self.pools[kind] = clips
        clips.save(self._path(kind), made_of(self.vae))

    def _refresh(self, kind: str) -> None:
        """Add new clips of the kind in use."""
        more = {"first": MORE_BEGINNINGS * self.recipe.more_clips, "long": self.recipe.more_clips // 2}
        new = self._new_clips(more.get(kind, self.recipe.more_clips), kind)
        self._store(kind, self.pool(kind).concat(new, self.recipe.most_clips))

    def _blocks(self, kind: str) -> int:
        return {"first": 1, "short": self.recipe.short_blocks, "long": self.recipe.blocks}[kind]

    def _new_clips(self, count: int, kind: str) -> PairedClips:
        sizes = (self._blocks(kind), self.recipe.block_frames, self.recipe.size)
        told = {"paced": self.recipe.paced, "speeds": self.recipe.speeds}
        return draw_pool(
            lambda rows: draw_clips(self.vae, rows, *sizes, self.generator, **told), count, "clips"
        )

    def train(self) -> None:
        """Train to the recipe's last step."""
        recipe = self.recipe
        while self.run.step < recipe.steps:
            share = self.run.step / recipe.steps
            kind = self._kind(share)
            if self.run.step % recipe.more_every == recipe.more_every - 1:
                self._refresh(kind)
            for optimizer in self.optimizers:
                for group in optimizer.param_groups:
                    group["lr"] = learning_rate(share, group["peak"])
            figures = self.step(kind, predicted_context=share >= recipe.predicted_context_from)
            self.average.update(self.dit, self.run.step)
            self.run.tick(every=25, **figures)
        self.run.save()

    def _kind(self, share: float) -> str:
        """What the next step is on."""
        beginnings = self.recipe.beginnings
        if beginnings and float(torch.rand((), generator=self.generator)) < beginnings:
            return "first"
        return "long" if share >= self.recipe.long_from else "short"

    def step(self, kind: str, predicted_context: bool) -> dict[str, float]:
        """One step on a random batch; the loss of the flow, all blocks and the first alone."""
        recipe, generator, blocks = self.recipe, self.generator, self._blocks(kind)
        pool, batch = self.pool(kind), recipe.batch * BATCHES[kind]
        clips = pool.select(torch.randint(len(pool), (batch,), generator=generator))
        shown_BN, past_BN = clips.draw_looks(blocks, generator)
        clean = clips.with_looks(shown_BN, recipe.block_frames)
        past = clips.with_looks(past_BN, recipe.block_frames)
        silent = torch.rand(batch, generator=generator) < recipe.no_text_share
        texts = torch.where(silent[:, None, None, None], text.no_text()[0], clips.texts_BVLC).to(self.device)
        of_block = shown_BN.to(self.device)
        context = None if kind == "first" else damage(past, recipe.block_frames, generator).to(self.device)
        sampled = kind != "first" and float(torch.rand((), generator=generator)) < recipe.sampled
        target = clean[:, None].expand(-1, recipe.streams, -1, -1, -1, -1)
        noise = torch.randn(target.shape, generator=generator)
        sigma = draw_sigma((batch, recipe.streams, of_block.shape[1]), recipe, generator)
        noisy, wanted = mix(target, noise, sigma, recipe.block_frames), noise - target
        weight = graded_weight(clips.graded_BT)
        if sampled and context is not None:
            walk = SampledWalk(self.teacher, recipe.levels, recipe.block_frames, self.device)
            states, made = walk(context, texts, of_block, generator)
            context = own_past(context, made, recipe.block_frames, generator)
            graded = grade(states, recipe.levels, clean, recipe.block_frames, generator)
            noisy, wanted, sigma, beside_weight = beside(noisy, wanted, sigma, graded)
            weight = weight * beside_weight
        elif predicted_context and context is not None:
            context = self._predict_context(clean, context, texts, of_block)
        with half_products(self.device):
            flow = self.teacher(context, noisy.to(self.device), sigma.to(self.device), texts, of_block)
        error = (flow.float() - wanted.to(self.device)).square() * weight.to(self.device)
        loss = error.mean()
        self._update(loss)
        return {
            "loss": float(loss.detach()),
            "first_block": float(error.detach()[:, :, :, : recipe.block_frames].mean()),
            "rate": self.optimizers[0].param_groups[0]["lr"],
        }

    def _update(self, loss: Tensor) -> None:
        for optimizer in self.optimizers:
            optimizer.zero_grad()
        loss.backward()
        average_gradients(self.dit)
        nn.utils.clip_grad_norm_(self.dit.parameters(), 1.0)
        for optimizer in self.optimizers:
            optimizer.step()

    @torch.no_grad()
    def _predict_context(self, clean: Tensor, context: Tensor, texts: Tensor, of_block: Tensor) -> Tensor:
        """Three quarters of the blocks replaced by what the model makes of them from noise, in two calls."""
        recipe, generator = self.recipe, self.generator
        predicted = clean
        for low, high in ((0.9, 1.0), (0.6, 0.9)):
            sigma = low + (high - low) * torch.rand(len(clean), 1, of_block.shape[1], generator=generator)
            noise = torch.randn(clean[:, None].shape, generator=generator)
            noisy = mix(predicted[:, None], noise, sigma, recipe.block_frames)
            with half_products(self.device):
                flow = self.teacher(context, noisy.to(self.device), sigma.to(self.device), texts, of_block)
            removed = mix(torch.zeros_like(noisy), flow.float().cpu(), sigma, recipe.block_frames)
            predicted = (noisy - removed)[:, 0]
        keep = torch.rand(len(clean), 1, of_block.shape[1], 1, 1, generator=generator) < 0.25
        keep = keep.repeat_interleave(recipe.block_frames, 2).to(self.device)
        return torch.where(keep, context, predicted.to(self.device))
