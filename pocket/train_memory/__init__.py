"""Trains the evolving memory: `python run.py train-memory`.

For the pocket model along stories of hiding. For another checkpoint (`--dit`) along encoded videos
(`--clips`) or along what it streams itself from encoded prompts (`--texts`); `--plan` says what that needs.
"""

import argparse
from pathlib import Path


def main(arguments: list[str]) -> int:
    """Train, or go on training, and export. Returns the exit status."""
    parser = argparse.ArgumentParser(prog="run.py train-memory", description=__doc__)
    parser.add_argument(
        "--dit", type=Path, help="model the memory is for, dense or converted; default: the pocket model"
    )
    parser.add_argument("--encoder", type=Path, help="memory file to start from, as this command exports it")
    parser.add_argument("--run", type=Path, help="folder of checkpoints and logs; default pocket/runs/memory")
    parser.add_argument("--out", type=Path, help="folder of the exported files; default <run>/export")
    parser.add_argument(
        "--rank",
        type=int,
        help="of the model's low-rank changes; default that of --encoder, else 24, a checkpoint's 256",
    )
    parser.add_argument(
        "--batch", type=int, help="clips side by side, of each process; default 8, a checkpoint's 1"
    )
    parser.add_argument("--steps", type=int, help="lessons; default the recipe's")
    parser.add_argument("--minutes", type=float, help="end in time, whatever the steps")
    parser.add_argument("--stories", type=int, default=384, help="stories of hiding that are drawn first")
    _add_lessons(parser)
    parser.add_argument("--threads", type=int, help="CPU threads; default: all")
    parser.add_argument("--processes", type=int, default=1, help="of one CPU thread each")
    parser.add_argument("--only", choices=("train", "export"), help="one part; default both")
    _add_checkpoint(parser)
    chosen = parser.parse_args(arguments)
    from .command import train

    return train(chosen)


def _add_lessons(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--full",
        type=float,
        default=0.0,
        metavar="SHARE",
        help="of the lessons with a cache that keeps every frame, the memory's upper bound; default 0",
    )
    parser.add_argument("--rate", type=float, default=1.0, help="times the recipe's learning rates")
    _add_keeping(parser)
    _add_going_on(parser)


def _add_keeping(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--ordinary",
        type=float,
        metavar="SHARE",
        help="of the lessons on ordinary clips, on which the model is to stay as it was; default 0.35, of a "
        "converted model's 0.3",
    )
    parser.add_argument(
        "--beginnings",
        type=float,
        default=0.0,
        metavar="SHARE",
        help="of the lessons on streams' first blocks alone, which are to stay as well; default 0",
    )
    parser.add_argument(
        "--sampled",
        type=float,
        default=0.0,
        metavar="SHARE",
        help="of the lessons on ordinary clips and first blocks, graded where the model's own sampler leads; "
        "default 0",
    )
    parser.add_argument(
        "--streamed",
        type=int,
        default=0,
        metavar="COUNT",
        help="so many streams of the unchanged model as the ordinary clips, in place of rendered ones; wants "
        "--sampled 1; default 0",
    )
    parser.add_argument(
        "--kept-weight",
        type=float,
        default=1.0,
        metavar="TIMES",
        help="so much more weigh lessons in which the model is to stay as it was; default 1",
    )


def _add_going_on(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--start",
        type=Path,
        help="a converted model that was taught a memory by this command: go on from its attentions",
    )
    parser.add_argument(
        "--teacher",
        type=Path,
        metavar="FOLDER",
        help="weights whose dense model, with its memory's changes, says what is wanted along stories, in "
        "place of the clips: what a memory can do is kept while it changes the model less",
    )
    parser.add_argument(
        "--spare",
        type=float,
        default=0.0,
        metavar="WEIGHT",
        help="before the lessons, lessen what the changes of --encoder do to ordinary streams, which weigh "
        "so much beside stories: 0.3 did well; default 0",
    )
    parser.add_argument(
        "--keep-encoder",
        action="store_true",
        help="leave the memory of --encoder as it is and train the changes of the dense model alone",
    )
    parser.add_argument(
        "--go-back",
        type=float,
        default=0.0,
        metavar="SHARE",
        help="of the way from the trained changes back to those of --encoder, at the export (WiSE-FT); "
        "default 0",
    )


def _add_checkpoint(parser: argparse.ArgumentParser) -> None:
    other = parser.add_argument_group("another checkpoint")
    other.add_argument(
        "--clips",
        type=Path,
        help="safetensors with `latents` [clips, channels, frames, height, width] in the model's units, and "
        "`texts` [clips, tokens, text_dim]",
    )
    other.add_argument(
        "--texts",
        type=Path,
        help="safetensors with `texts` [prompts, tokens, text_dim]: it streams its clips",
    )
    other.add_argument("--blocks", type=int, default=20, help="of a clip that is streamed")
    other.add_argument("--size", type=int, nargs=2, metavar=("WIDTH", "HEIGHT"), help="pixels of such a clip")
    other.add_argument("--positions", choices=("echo", "pocket_memory"), default="echo")
    other.add_argument("--nest", help="which copy of the weights in a .pt file, such as generator_ema")
    other.add_argument("--device", help="cpu or cuda; default: cuda where there is one")
    other.add_argument("--plan", action="store_true", help="print what memory it needs, and stop")
