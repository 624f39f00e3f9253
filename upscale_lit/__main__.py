"""The command line: upscale-lit, or python -m upscale_lit."""

import argparse
import sys
from pathlib import Path

from upscale_lit.check import CROPS, check
from upscale_lit.errors import InputError


def main(words: list[str] | None = None) -> int:
    """Returns the exit code: 0, 1 where nothing could be done, 2 for a wrong command."""
    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]  # names in a script it does not know
    args = _parser().parse_args(words)
    try:
        return int(args.command(args))
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
        "copies. Exit code 1 where nothing can be trained on. Nothing is written.",
    )
    command.add_argument("folder", type=Path)
    command.add_argument("--stage", choices=CROPS, default="64to128", help="sizes are judged for this stage (64to128)")
    command.add_argument("--crop", type=int, help="data.crop, where it is not the stage's own")
    command.add_argument("--val-root", type=Path, metavar="DIR", help="photos to validate on, as data.val_root=DIR")
    command.add_argument("--val-fraction", type=float, default=0.1, help="data.val_fraction (0.1)")
    command.set_defaults(command=_check)
    return parser


def _check(args: argparse.Namespace) -> int:
    crop = args.crop or CROPS[args.stage]
    lines, usable = check(args.folder, args.val_root, args.stage, crop, args.val_fraction)
    print("\n".join(lines))
    return 0 if usable else 1


if __name__ == "__main__":
    sys.exit(main())
