"""`python run.py calibrate`: learns in which basis a model's cache can be kept small; writes it to a file.

Without arguments it calibrates the built-in model. Another Wan 2.1 checkpoint needs encoded prompts beside
it: a safetensors file whose keys are the prompts and whose tensors [tokens, text_dim], or [1, tokens,
text_dim], are what its text encoder makes of them; the empty prompt is the negative one. Rows of the
trade-off go to stdout as JSON.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

from ..defaults import DEFAULT


def main(arguments: Sequence[str] | None = None) -> int:
    """Calibrate and write the file. Returns the exit status."""
    chosen = parser().parse_args(arguments)
    from .command import calibrate_model

    return calibrate_model(chosen)


def parser() -> argparse.ArgumentParser:
    """The command's options."""
    options = argparse.ArgumentParser(
        prog="run.py calibrate", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    options.add_argument(
        "--model", type=Path, metavar="FILE", help="a causal Wan 2.1 checkpoint; default: built-in"
    )
    options.add_argument("--out", type=Path, default=Path("out/basis.safetensors"), metavar="FILE")
    goal = options.add_mutually_exclusive_group()
    goal.add_argument(
        "--bytes", type=float, metavar="N", help="kept per token and layer, on average; default: an eighth"
    )
    goal.add_argument("--error", type=float, metavar="E", help="of attention's output, for instance 0.02")
    options.add_argument(
        "--memory",
        default=DEFAULT.memory,
        metavar="NAME",
        help="the built-in model's: half of the streams are made with it and with what it changes of the "
        "weights, so that the basis serves both; off: none; default %(default)s",
    )
    options.add_argument("--prompts", type=Path, metavar="FILE", help="one prompt a line")
    options.add_argument("--texts", type=Path, metavar="FILE", help="encoded prompts, with --model")
    options.add_argument("--blocks", type=int, default=8, help="of each stream; default 8")
    options.add_argument("--seed", type=int, default=0)
    options.add_argument("--device", default=None, help="default: cuda where there is one, else cpu")
    options.add_argument("--dtype", default="float32", choices=("float32", "bfloat16", "float16"))
    options.add_argument("--size", default="832x480", metavar="WxH", help="pixels, with --model")
    options.add_argument("--preset", default="infinity_rope", help="which frames a block sees, with --model")
    options.add_argument("--block-frames", type=int, default=3, help="latent frames, with --model")
    options.add_argument("--cfg", type=float, default=1.0, help="guidance, with --model")
    options.add_argument("--no-rows", action="store_true", help="write the file, leave out the other sizes")
    return options
