"""Trains the pocket models: `python run.py train-pocket --preset nano|small`."""

import argparse
from pathlib import Path


def main(arguments: list[str]) -> int:
    """Train, or go on training, VAE and transformer of a preset, and export them. Returns the exit status."""
    parser = argparse.ArgumentParser(prog="run.py train-pocket", description=__doc__)
    parser.add_argument("--preset", choices=("nano", "small"), default="nano")
    parser.add_argument(
        "--run", type=Path, help="folder of checkpoints and logs; default pocket/runs/<preset>"
    )
    parser.add_argument("--out", type=Path, help="folder of the exported files; default <run>/export")
    parser.add_argument("--device", default=None, help="cpu or cuda; default: cuda where there is one")
    parser.add_argument("--threads", type=int, help="CPU threads; default: all")
    parser.add_argument(
        "--only", choices=("vae", "apart", "dit", "polish", "lit", "export"), help="one part of the training"
    )
    parser.add_argument(
        "--start", type=Path, help="folder of exported files to train on, such as pocket/weights"
    )
    parser.add_argument(
        "--steps",
        type=int,
        help="steps of the transformer, with --only lit of its decoder, in place of the preset's",
    )
    _add_tuning(parser)
    parser.add_argument(
        "--compile", action="store_true", help="torch.compile the transformer's blocks: 1.8x on a CPU"
    )
    parser.add_argument(
        "--processes",
        type=int,
        default=1,
        help="train the transformer in so many processes of one thread: on two cores, two beat one of two",
    )
    chosen = parser.parse_args(arguments)
    from .command import train

    return train(chosen)


def _add_tuning(parser: argparse.ArgumentParser) -> None:
    """Options that tune a finished transformer, or try another training of one."""
    parser.add_argument(
        "--beginnings",
        type=float,
        help="share of those steps on streams' first blocks alone, to tune a finished transformer; default 0",
    )
    parser.add_argument(
        "--sampled",
        type=float,
        help="share of those steps that are graded where the sampler itself leads, to tune a finished "
        "transformer; default 0",
    )
    parser.add_argument(
        "--paced",
        type=float,
        help="share of the blocks whose objects go at another pace, ungraded, so that a past's speed "
        "decides less; default 0",
    )
    parser.add_argument(
        "--speeds",
        type=float,
        nargs=2,
        metavar=("LOW", "HIGH"),
        help="of the objects trained on, sides of the picture per frame; default the world's",
    )
    parser.add_argument(
        "--keep-attention", action="store_true", help="train the transformer's other layers alone"
    )
    parser.add_argument("--rate", type=float, help="times the preset's learning rates; default 1")
    parser.add_argument(
        "--shift", type=float, help="of the noise levels trained on: less is more of little noise; default 8"
    )
