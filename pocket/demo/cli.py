"""Command line of the demo."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from ...model_patches.writer.text import text_problem
from ..defaults import DEFAULT, FLAT, LIT, LOOKS, PLAIN
from .prompt import PROMPT

OTHER_VIDEOS = {".avi", ".flv", ".gif", ".m4v", ".mkv", ".mov", ".mpeg", ".mpg", ".webm", ".wmv"}

TOO_LARGE = (
    "a stream of this size takes more memory than the computer has; give a smaller --size, a smaller --cache "
    "(int8, latent), or end what else is running."
)


def main(argv: Sequence[str] | None = None) -> int:
    """Returns the exit status: 0, also after Ctrl+C; 130 after two; 2 where something cannot work."""
    options = parser().parse_args(argv)
    if options.since is not None and options.resume is None:
        parser().error("argument --from: it says where to go on; name the video with --resume")
    from .take import take  # not at module level: --help answers before torch is loaded

    try:
        return take(options)
    except KeyboardInterrupt:
        return 130
    except (ValueError, RuntimeError, FileNotFoundError, MemoryError) as why:
        print(f"demo: {TOO_LARGE if is_too_large(why) else why}", file=sys.stderr)
        return 2


def is_too_large(why: BaseException) -> bool:
    """Whether an error says that the computer has not so much memory; torch has no class for it."""
    return isinstance(why, MemoryError) or "can't allocate memory" in str(why)


def parser() -> argparse.ArgumentParser:
    """Returns the options of `python run.py demo`."""
    options = argparse.ArgumentParser(
        prog="run.py demo",
        description="Streams the built-in model into a page on this machine and an MP4. Type a new prompt "
        "into the page at any time; Ctrl+C or the page's button stops and keeps the file.",
    )
    options.add_argument(
        "--seconds",
        type=seconds,
        default=0.0,
        metavar="N",
        help="length of the video; 0 or 'endless' (the default) goes on until it is stopped",
    )
    options.add_argument("--prompt", type=prompt, default=None, help=f"what to show (default: {PROMPT!r})")
    options.add_argument("--seed", type=int, default=None, help="another number, another video (default 0)")
    options.add_argument(
        "--out",
        type=out,
        default=Path("out"),
        help="a folder, or a new file that ends in .mp4 (default: the folder out)",
    )
    options.add_argument(
        "--size",
        type=size,
        default=None,
        metavar="WxH",
        help="pixels of the stream, such as 64 or 96x64, which soft light doubles (default: as trained)",
    )
    _add_choices(options)
    _add_takes(options)
    _add_long_runs(options)
    options.add_argument("--port", type=int, default=0, help="of the page (default: a free one)")
    options.add_argument("--no-browser", action="store_true", help="do not open the page")
    options.add_argument(
        "--weights",
        type=Path,
        default=None,
        metavar="FOLDER",
        help="another model, as `python run.py train-pocket` exports it",
    )
    return options


def _add_choices(options: argparse.ArgumentParser) -> None:
    """Adds the look, and what is looked up in the tables of caches and memories once torch is loaded."""
    options.add_argument(
        "--look",
        choices=LOOKS,
        default=None,
        help=f"{LIT}: soft light and shadows, twice --size; {FLAT}: flat colours; the stream is the same "
        f"(default: {LIT}, or an earlier video's own; {FLAT} where --weights has no file for the other)",
    )
    for name, says in (
        ("cache", "how the frames of the window are kept"),
        ("memory", "how frames that left the window are remembered"),
    ):
        usual, plain = getattr(DEFAULT, name), getattr(PLAIN, name)
        options.add_argument(
            f"--{name}",
            default=None,
            metavar="NAME",
            help=f"{says}; a name that is none lists them (default: {usual}, or an earlier video's own; "
            f"{plain} where that cannot be)",
        )


def _add_long_runs(options: argparse.ArgumentParser) -> None:
    """Adds what matters to runs of hours."""
    options.add_argument(
        "--stop-on-drift",
        action="store_true",
        help="stop and keep the video when its picture stands still or burns out, instead of a warning",
    )
    for name, unit in (("--part-hours", "hours of video"), ("--part-gigabytes", "gigabytes")):
        options.add_argument(
            name,
            type=limit,
            default=None,
            metavar="N",
            help=f"begin another file after so many {unit}; the parts stay apart (default: one file)",
        )


def _add_takes(options: argparse.ArgumentParser) -> None:
    """Adds what goes on with an earlier video."""
    options.add_argument(
        "--resume",
        default=None,
        metavar="TAKE",
        help="go on with an earlier video in the same file: its path, or its name in the folder of --out; a "
        "name that is none lists them. --seconds counts the whole video; with --prompt or --seed what is "
        "made from here on is another",
    )
    options.add_argument(
        "--from",
        dest="since",
        type=seconds,
        default=None,
        metavar="SECONDS",
        help="with --resume: make it anew from this second on; what was there is kept as a video of its own",
    )
    options.add_argument(
        "--no-snapshots", action="store_true", help="keep nothing to go on from: the video alone is written"
    )


def prompt(text: str) -> str:
    """Returns a prompt that can be written into a file."""
    problem = text_problem(text)
    if problem:
        raise argparse.ArgumentTypeError(f"{text!r} is no prompt: {problem}; type it again")
    return text


def out(text: str) -> Path:
    """Returns where videos go: a folder, or a file that ends in .mp4."""
    path = Path(text)
    if path.suffix.lower() in OTHER_VIDEOS and not path.is_dir():
        raise argparse.ArgumentTypeError(f"{text!r} is no folder, and videos end in .mp4; name it so")
    return path


def seconds(text: str) -> float:
    """Returns a length in seconds; 0 means without end."""
    if text == "endless":
        return 0.0
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value <= 1e8:
        raise argparse.ArgumentTypeError(f"{text!r} is no length; give seconds, such as 10, or 'endless'")
    return value


def limit(text: str) -> float:
    """Returns a number above 0."""
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 < value <= 1e5:
        raise argparse.ArgumentTypeError(f"{text!r} is no limit; give a number above 0, such as 1 or 0.5")
    return value


def size(text: str) -> tuple[int, int]:
    """Returns (width, height) in pixels; one number is both."""
    numbers = text.lower().split("x")
    if len(numbers) > 2 or not all(number.isdecimal() and len(number) < 6 for number in numbers):
        raise argparse.ArgumentTypeError(f"{text!r} is no size; give pixels, such as 64 or 96x64")
    return int(numbers[0]), int(numbers[-1])
