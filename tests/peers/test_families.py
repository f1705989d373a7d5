"""Every call of the engine beside the same call of a family's released inference code, block after block."""

import pytest
import torch
from rivulet.tests.peers import ours, peer
from rivulet.tests.peers.peer import MODELS, Peer

CHUNKWISE = ("configs/default_config.yaml", "configs/causal_forcing_dmd_chunkwise.yaml")
FRAMEWISE = ("configs/default_config.yaml", "configs/causal_forcing_dmd_framewise.yaml")
LONGLIVE = ("configs/default_config.yaml", "configs/longlive_inference.yaml")
INFINITE = ("configs/default_config.yaml", "configs/longlive_inference_infinity.yaml")
REWARD = ("configs/default_config.yaml", "configs/reward_forcing.yaml")
CAUSVID = "causvid.models.wan"
PEERS = (
    Peer("self_forcing", "self_forcing", 7, positions="self_forcing"),
    Peer("causal_forcing", "causal_forcing", 7, positions="self_forcing", configs=CHUNKWISE),
    Peer("causal_forcing", "causal_forcing_framewise", 8, positions="self_forcing", configs=FRAMEWISE),
    Peer("reward_forcing", "reward_forcing", 7, configs=REWARD),
    Peer("infinity_rope", "infinity_rope", 6),
    Peer("infinity_rope", "infinity_rope", 6, prompt="one[2.25s] | two", words=("one", "one", "one", "two")),
    Peer("longlive", "longlive", 7, positions="longlive", configs=LONGLIVE),
    Peer("longlive", "longlive", 7, configs=INFINITE, models=(*MODELS, "wan.modules.causal_model_infinity")),
    Peer(
        *("causvid", "causvid", 7, "self_forcing", ("configs/wan_causal_dmd.yaml",)),
        pipeline="causvid.models.wan.causal_inference:InferencePipeline",
        models=(f"{CAUSVID}.wan_base.modules.model", f"{CAUSVID}.causal_model"),
        bare=(f"{CAUSVID}.wan_base", f"{CAUSVID}.wan_base.modules"),
        absent=(
            *("einops", "transformers", "transformers.models.t5.modeling_t5", "causvid.models.sdxl.sdxl_wrapper"),
            *(f"{CAUSVID}.wan_base.modules.{name}" for name in ("t5", "tokenizers", "vae")),
            "causvid.bidirectional_trajectory_pipeline",
        ),
        rounds=True,
    ),
)
SHRINK = torch.finfo(torch.float64).eps / torch.finfo(torch.float32).eps


@pytest.fixture(scope="module", params=PEERS, ids=lambda each: f"{each.name}, {each.preset}")
def runs(request, checkout, tmp_path_factory):
    """Returns the peer, and by dtype (what the released code made, what the engine made)."""
    each, made = request.param, {}
    for dtype in (torch.float64, torch.float32):
        folder = tmp_path_factory.mktemp(each.name)
        levels = ours.recipes_levels(each.recipe)
        theirs = peer.run(each, checkout(each.name), folder / "theirs", dtype, len(levels.sigmas))
        levels = ours.released_levels(theirs) if each.rounds else levels
        made[dtype] = theirs, ours.run(each, folder, dtype, levels, each.preset)
    return each, made


def pairs(theirs, made):
    """(what, theirs, ours) of every call that makes a block and of every block."""
    calls = len(made.x) // len(made.blocks)
    making = [index for index in range(len(theirs["x"])) if index % (calls + 1) < calls]
    yield "latents", theirs["x"][making], made.x
    yield "flow", theirs["flow"][making], made.flow
    yield "block", theirs["x0"][making][calls - 1 :: calls], torch.stack(made.blocks)


def test_every_call_is_that_of_the_released_code(runs):
    each, made = runs
    exact = made[torch.float64]
    for (what, theirs64, ours64), (_, theirs32, ours32) in zip(
        pairs(*exact), pairs(*made[torch.float32]), strict=True
    ):
        assert theirs64.dtype == ours64.dtype == torch.float64 and theirs32.dtype == ours32.dtype == torch.float32
        assert theirs64.std() > 0.5, what
        own = (theirs32 - theirs64).abs().max()
        print(each.name, what, "f64", (ours64 - theirs64).abs().max().item(), "ours32", (ours32 - theirs64).abs().max().item(), "theirs32", own.item(), "max", theirs64.abs().max().item())
        # the same arithmetic: what is left is rounding, and shrinks with it
        assert (ours64 - theirs64).abs().max() <= 8 * SHRINK * own, what
        assert (ours32 - theirs64).abs().max() <= 2 * own, what
