"""Converts a dense causal Wan checkpoint to VideoMLA's attention: `python run.py convert-mla`."""

import argparse
from pathlib import Path


def main(arguments: list[str]) -> int:
    """Convert, or go on converting, and export. Returns the exit status."""
    parser = argparse.ArgumentParser(prog="run.py convert-mla", description=__doc__)
    parser.add_argument("--preset", choices=("pocket", "wan"), default="pocket")
    parser.add_argument(
        "--dense", type=Path, help="dense checkpoint, .safetensors or .pt; default: the pocket model's"
    )
    parser.add_argument(
        "--clips", type=Path, help="pool of clips of a pocket training; default: drawn into the run's folder"
    )
    parser.add_argument(
        "--texts",
        type=Path,
        help="safetensors with `texts` [prompts, tokens, text_dim]: clips are what the model streams",
    )
    parser.add_argument("--run", type=Path, help="folder of checkpoints and logs; default pocket/runs/mla")
    parser.add_argument("--out", type=Path, help="folder of the exported file; default <run>/export")
    parser.add_argument("--nest", help="which copy of the weights in a .pt file, such as generator_ema")
    parser.add_argument("--latent", type=int, help="channels of the kept latent; default the preset's")
    parser.add_argument("--turned", type=int, help="channels of the rotary key; default the preset's")
    parser.add_argument("--query-latent", type=int, help="channels of the query latent")
    parser.add_argument("--size", type=int, nargs=2, metavar=("WIDTH", "HEIGHT"), help="pixels")
    parser.add_argument("--batch", type=int, help="clips side by side, of each process")
    _add_training(parser)
    parser.add_argument("--device", help="cpu or cuda; default: cuda where there is one")
    parser.add_argument("--processes", type=int, default=1, help="of one CPU thread each")
    parser.add_argument("--plan", action="store_true", help="print what memory it needs, and stop")
    chosen = parser.parse_args(arguments)
    from .command import convert

    return convert(chosen)


def _add_training(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--local-steps", type=int, help="steps of the first phase, layer by layer")
    parser.add_argument("--flow-steps", type=int, help="steps of the second phase, on the flow")
    parser.add_argument(
        "--sampled-steps",
        type=int,
        help="steps of the third phase, where its own sampler leads; default the preset's, 0: none",
    )
    parser.add_argument("--minutes", type=float, help="end all phases in time; 0: by steps alone")
    parser.add_argument(
        "--whole",
        action=argparse.BooleanOptionalAction,
        help="train all layers in the second phase, or the attentions alone; default the preset's",
    )
    parser.add_argument(
        "--own",
        type=float,
        metavar="SHARE",
        help="of the rollouts in the second half of the second phase, along what the converted model streams "
        "itself; default the preset's, 0: none",
    )
    parser.add_argument(
        "--beginnings",
        type=float,
        metavar="SHARE",
        help="of the rollouts of the second phase, along streams' first blocks alone; default the preset's",
    )
    parser.add_argument(
        "--shift", type=float, help="of the noise levels along clips: less is more of little noise; default 8"
    )
    parser.add_argument("--half", action="store_true", help="bfloat16 products, as the wan preset has them")
    parser.add_argument("--offload", action="store_true", help="keep what gradients need in RAM")
