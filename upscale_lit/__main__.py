"""The command line: upscale-lit, or python -m upscale_lit."""

import argparse
import os
import sys
import warnings
from pathlib import Path

from upscale_lit.check import CROPS, check
from upscale_lit.errors import InputError


def main(words: list[str] | None = None) -> int:
    """Returns the exit code: 0, 1 where nothing could be done, 2 for a wrong command."""
    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]  # names in a script it does not know
    warnings.filterwarnings("ignore", module="PIL")  # what matters in a picture is in the report
    args = _parser().parse_args(words)
    try:
        code = int(args.command(args))
        sys.stdout.flush()
        return code
    except BrokenPipeError:  # `| head` has read enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="upscale-lit", description="Beside training (python train.py --help):")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    command = commands.add_parser(
        "check",
        help="tell which pictures of a folder can be trained on, and what is wrong with the others",
        description="Decode every picture below a folder; a line for each file in trouble, then counts, sizes and "
        "copies. Exit code 1 where a training would not start. Nothing is written.",
    )
    command.add_argument("folder", type=Path)
    command.add_argument("--stage", choices=CROPS, default="64to128", help="sizes are judged for this stage (64to128)")
    command.add_argument("--crop", type=_side, metavar="PX", help="data.crop, where it is not the stage's own")
    command.add_argument("--val-root", type=Path, metavar="DIR", help="photos to validate on, as data.val_root=DIR")
    command.add_argument("--val-fraction", type=_part, default=0.1, metavar="PART", help="data.val_fraction (0.1)")
    command.set_defaults(command=_check)
    return parser


def _side(word: str) -> int:
    if not word.isdecimal() or int(word) == 0:
        raise argparse.ArgumentTypeError(f"a side is a whole number of pixels from 1 upwards; found {word!r}")
    return int(word)


def _part(word: str) -> float:
    try:
        part = float(word)
    except ValueError:
        part = 0.0
    if not 0 < part < 1:
        raise argparse.ArgumentTypeError(f"a part lies between 0 and 1; found {word!r}")
    return part


def _check(args: argparse.Namespace) -> int:
    crop = args.crop or CROPS[args.stage]
    lines, enough = check(args.folder, args.val_root, args.stage, crop, args.val_fraction)
    print("\n".join(lines))
    return 0 if enough else 1


if __name__ == "__main__":
    sys.exit(main())
