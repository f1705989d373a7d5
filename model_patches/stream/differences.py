"""What keeps a take from being gone on with under another contract, in the words of whoever set it."""

from __future__ import annotations

from .config import StreamConfig


def contract_differences(made: StreamConfig, asked: StreamConfig) -> list[str]:
    """What of the contract a take was made with differs from that which it is to go on with; [] if nothing.

    Seed, guidance strength and noise levels may differ; whether there is guidance, and how many levels where
    blocks are denoised together, may not.
    """
    had, has = made.geometry, asked.geometry
    facts = [
        ("{} pixels", f"{had.width}x{had.height}", f"{has.width}x{has.height}"),
        ("{} latent channels", had.latent_channels, has.latent_channels),
        ("preset {}", made.positions.name, asked.positions.name),
        ("{} latent frames a block", made.block_frames, asked.block_frames),
        ("{} sampling", made.sampler, asked.sampler),
        ("a model that computes in {}", _dtype(made), _dtype(asked)),
    ]
    if made.rolling and asked.rolling:
        # as many blocks are under way as there are levels
        facts.append(("{} noise levels", len(made.sigmas), len(asked.sigmas)))
    if made.guided != asked.guided:
        facts.append(("{}", _guidance(made), _guidance(asked)))
    said = [f"{words.format(was)}, not {words.format(now)}" for words, was, now in facts if was != now]
    rest = [(had, has), (made.positions, asked.positions), (made.fresh_noise, asked.fresh_noise)]
    if not said and any(was != now for was, now in rest):
        said.append("a model of another kind, whose frames have other places or another noise")
    return said


def _guidance(config: StreamConfig) -> str:
    return f"guidance (cfg {config.cfg:g})" if config.guided else "no guidance (cfg 1)"


def _dtype(config: StreamConfig) -> str:
    return str(config.dtype).removeprefix("torch.")
