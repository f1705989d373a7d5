"""The training forward and the streaming forward are the same function of the same context."""

import pytest
import torch
from rivulet.model_patches.arch.parts import embed_time
from rivulet.model_patches.arch.wan import WanConfig, WanModel
from rivulet.model_patches.attention.forward import forward, write_past
from rivulet.model_patches.attention.sdpa import sdpa
from rivulet.model_patches.attention.text import read_text
from rivulet.model_patches.cache.format import call_of
from rivulet.model_patches.geometry import Geometry
from rivulet.model_patches.stream.config import StreamConfig
from rivulet.model_patches.stream.model_caller import ModelCaller
from rivulet.model_patches.stream.step import init
from rivulet.pocket.text import TEXT_DIM, encode
from rivulet.pocket.train_pocket.teacher_forcing import TeacherForcing

BLOCKS, BLOCK_FRAMES = 6, 3  # one more than the sink, the window and the block that first evicts


def streamed_flow(dit: WanModel, clean, noisy, sigma_N, text) -> torch.Tensor:
    """Flow of every block, the blocks before it taken from the clean latents, by the engine."""
    config = StreamConfig(Geometry(64, 64), "pocket", BLOCK_FRAMES, dtype=torch.float64)
    state = init(ModelCaller(dit), (text,), config)
    (group,) = read_text(dit, state.prompt).groups
    cache, flows = state.cache, []

    def time(sigma: float):
        modulation, head = embed_time(dit, torch.tensor([[1000 * sigma]], dtype=torch.float64), torch.float64)
        return modulation, head

    for i in range(BLOCKS):
        frames = slice(i * BLOCK_FRAMES, (i + 1) * BLOCK_FRAMES)
        draft = cache.begin(call_of(state.config.positions, frames.start, BLOCK_FRAMES))
        past = draft.past(slice(0, 1))
        flows.append(forward(dit, noisy[:, :, frames], time(float(sigma_N[i])), group, past, sdpa))
        write_past(dit, clean[:, :, frames], time(0.0), group, past, sdpa)
        cache = draft.commit(call_of(state.config.positions, frames.stop, BLOCK_FRAMES).cached)
    return torch.cat(flows, 2)


@torch.inference_mode()
def test_teacher_forcing_sees_what_the_stream_sees():
    dit = WanModel(WanConfig(24, 32, 2, num_heads=2, text_dim=TEXT_DIM)).double()
    torch.nn.init.normal_(dit.head.head.weight, std=0.2)
    clean, noisy = torch.randn(2, 1, 16, BLOCKS * BLOCK_FRAMES, 8, 8, dtype=torch.float64)
    sigma_N = torch.rand(BLOCKS, dtype=torch.float64)
    text = encode("a red circle and a blue square on a green ground").double()
    teacher = TeacherForcing(dit, BLOCKS, BLOCK_FRAMES, grid=4)
    taught = teacher(
        clean,
        noisy[:, None],
        sigma_N[None, None],
        text[:, None].expand(-1, 2, -1, -1),
        torch.zeros(1, BLOCKS, dtype=torch.long),
    )[:, 0]
    streamed = streamed_flow(dit, clean, noisy, sigma_N, text)
    # timestep embeddings and rotary tables are rounded to float32 in both; everything else is float64
    bound = 64 * torch.finfo(torch.float32).eps * streamed.abs().max().item()
    assert (taught - streamed).abs().max().item() < bound


@torch.inference_mode()
def test_a_first_block_alone_is_what_it_is_before_others():
    dit = WanModel(WanConfig(24, 32, 2, num_heads=2, text_dim=TEXT_DIM)).double()
    torch.nn.init.normal_(dit.head.head.weight, std=0.2)
    clean, noisy = torch.randn(2, 3, 16, 2 * BLOCK_FRAMES, 8, 8, dtype=torch.float64)
    text = encode("a red circle and a blue square on a green ground").double()[:, None].expand(3, 2, -1, -1)
    sigma = torch.rand(3, 1, 2, dtype=torch.float64)
    teacher, shown = TeacherForcing(dit, BLOCKS, BLOCK_FRAMES, grid=4), torch.zeros(3, 2, dtype=torch.long)
    whole = teacher(clean, noisy[:, None], sigma, text, shown)[:, :, :, :BLOCK_FRAMES]
    alone = teacher(None, noisy[:, None, :, :BLOCK_FRAMES], sigma[..., :1], text, shown[:, :1])
    assert (alone - whole).abs().max().item() < 64 * torch.finfo(torch.float64).eps * whole.abs().max().item()
    with pytest.raises(ValueError, match="2 blocks without a clean stream"):
        teacher(None, noisy[:, None], sigma, text, shown)
