"""The command line: upscale-lit, or python -m upscale_lit."""

import argparse
import errno
import os
import sys
import warnings
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from upscale_lit.console import ready_streams
from upscale_lit.data.check import CROPS, check
from upscale_lit.data.photo import RARE, SUFFIXES, limit_pixels
from upscale_lit.errors import InputError, check_number, check_whole, shown
from upscale_lit.inference.paths import path_of, target_of


def _argument(convert: Callable[..., Any], **options: Any) -> Callable[[str], Any]:
    """A type for argparse; unlike other errors, those of `convert` keep their sentence."""

    def parse(word: str) -> Any:
        try:
            return convert(word, **options)
        except InputError as error:
            raise argparse.ArgumentTypeError(str(error)) from error

    return parse


def _number(check_value: Callable[..., None], **limits: float) -> Callable[[str], Any]:
    """A type for argparse: a number within the limits of check_whole or check_number."""

    def convert(word: str) -> int | float | str:
        value: int | float | str = word
        with suppress(ValueError):
            value = int(word) if word.isdecimal() else float(word)
        check_value("The value", value, **limits)
        return value

    return _argument(convert)


def _ending(word: str) -> str:
    return word.lower().lstrip(".")


PATH, TARGET = _argument(path_of), _argument(target_of)
INPUT, OUTPUT = _argument(path_of, stream=True), _argument(target_of, stream=True)
COUNT, PART = _number(check_whole, low=1), _number(check_number, above=0, below=1)
Add = Callable[..., Any]  # add_argument of a command's parser


def main(words: list[str] | None = None) -> int:
    """Return the exit code: 0, 1 if something could not be done, 2 for a wrong command, 130 after Ctrl-C."""
    ready_streams()
    warnings.filterwarnings("ignore", module="PIL")  # what matters in a picture is in the report
    args = parser().parse_args(words)
    limit_pixels(getattr(args, "max_megapixels", 180))
    try:
        code = _run(args)
        sys.stdout.flush()
        return code
    except BrokenPipeError:  # `| head` has read enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except OSError as error:
        if error.errno != errno.ENAMETOOLONG:
            raise
        print(f"error: {shown(Path(str(error.filename)))}: a name in this path is too long.", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("Interrupted; every file written so far is complete.", file=sys.stderr)
        return 130


def parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="upscale-lit", description="Next to training (python train.py --help):")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name, (add_arguments, summary) in COMMANDS.items():
        add_arguments(commands.add_parser(name, help=summary, description=add_arguments.__doc__).add_argument)
    return parser


# Each of these adds a command's arguments; its docstring is what --help shows.


def _upscale(add: Add) -> None:
    """Upscale pictures and folders of them. Exit code 1 if one failed, 2 for a wrong command. Pictures whose results
    would have the same name keep their endings in it: a.jpg_x2.png, a.tif_x2.png."""
    add("pictures", nargs="*", type=INPUT, metavar="INPUT",
        help="files and folders; - reads a picture from standard input")  # fmt: skip
    add("-i", "--input", nargs="+", type=INPUT, default=[], action="extend", metavar="INPUT")
    add("-o", "--output", type=OUTPUT, metavar="PATH",
        help="a file for one input, or a folder; - writes one picture to standard output. Without it: photo_x2.jpg "
        "next to photo.jpg, folder_x2 next to folder, standard output for -")  # fmt: skip
    _networks(add)
    add("--suffix", metavar="TEXT", help="added to the names; _x2, _x4 or _x8 unless given")
    add("--ext", type=_ending, choices=[suffix[1:] for suffix in SUFFIXES if suffix not in RARE],
        help="the format; that of the input unless given")  # fmt: skip
    add("--quality", type=_number(check_whole, low=1, high=100), default=95, metavar="1-100",
        help="of JPEG, which never has its chroma subsampled, and of WebP (95)")  # fmt: skip
    add("--recursive", action="store_true", help="look below folders, too")
    add("--skip-existing", action="store_true", help="leave alone what is there already")
    add("--sheet", action="store_true", help="write bicubic next to ours, too, as photo_x2_sheet.jpg")
    add("--strip", action="store_true", help="leave out metadata, all but the colour profile")


def _evaluate(add: Add) -> None:
    """PSNR and SSIM on folders of pictures, or on benchmarks with HR and LR_bicubic_x2 in them."""
    add("folders", nargs="*", type=PATH, metavar="FOLDER", help="high-resolution pictures")
    add("--compare", nargs=2, type=PATH, metavar=("TRUTH_DIR", "PICTURES_DIR"),
        help="score finished pictures instead; -s says how many border pixels are shaved. Pictures belong together by "
        "their names: the same ones first, then those with a suffix after _, - or . removed (fox2.png and "
        "fox2_SR.png)")  # fmt: skip
    _networks(add)
    add("--kernel", choices=("bicubic", "bilinear"), default="bicubic", help="of low pictures made here")
    add("--self-ensemble", action="store_true", help="mean over the 8 turned and mirrored pictures")
    add("--json", type=TARGET, metavar="FILE", help="write the rows there, too")
    add("--save", type=TARGET, metavar="DIR",
        help="write the upscaled pictures there, as set/method/name.png, or name.jpg.png if names differ in the "
        "ending only")  # fmt: skip


def _export(add: Add) -> None:
    """ONNX takes and gives RGB from 0 to 1, of any size. What was written is read back and compared."""
    add("weights", type=PATH, metavar="WEIGHTS",
        help="a weights file, or a folder or shipped model that holds a single one")  # fmt: skip
    add("-o", "--output", type=TARGET, metavar="PATH",
        help="a file that ends in .onnx or .safetensors, or a folder (WEIGHTS_x2.onnx next to WEIGHTS; of a shipped "
        "model, in the working folder)")  # fmt: skip
    _own_classes(add)
    add("--format", type=_ending, choices=("onnx", "safetensors"), default="onnx",
        help="without -o, or if that is a folder (onnx)")  # fmt: skip


def _check(add: Add) -> None:
    """Decode every picture below a folder; a line for each file in trouble, then counts, sizes and copies. Exit code 1
    if a training would not start. Nothing is written."""
    add("folder", type=PATH)
    add("--stage", choices=CROPS, default="64to128", help="sizes are judged for this stage (64to128)")
    add("--crop", type=COUNT, metavar="PX", help="data.crop, if it is not the stage's")
    add("--val-root", type=PATH, metavar="DIR", help="photos to validate on, as data.val_root=DIR")
    add("--val-fraction", type=PART, default=0.1, metavar="PART", help="data.val_fraction (0.1)")
    _largest(add)


def _models(add: Add) -> None:
    """The trained models that come with the package, for -m NAME and model.weights=NAME."""


def _shard(add: Add) -> None:
    """Write the photos below a folder as tar files that training reads in a stream, from a disk or a server. Broken
    files are named and left out; so are copies and pictures under 32 px. The same command resumes an interrupted one.
    Exit code 1 if files were broken, 2 if nothing could be written."""
    add("folder", type=PATH)
    add("-o", "--output", type=TARGET, required=True, metavar="SHARDS", help="a new folder for them")
    add("--photos", type=COUNT, default=512, metavar="N", help="files for each shard and what is held out (512)")
    add("--side", type=_number(check_whole, low=32), default=1024, metavar="PX",
        help="larger pictures are shrunk to this shorter side, and are JPEG then; others stay as they are. No stage "
        "keeps more than 1024 (1024)")  # fmt: skip
    add("--val-fraction", type=PART, metavar="PART", help="held out for validation (a tenth, or about 256 of many)")
    _largest(add)


COMMANDS: dict[str, tuple[Callable[[Add], None], str]] = {
    "upscale": (_upscale, "make pictures 2, 4 or 8 times as large"),
    "evaluate": (_evaluate, "measure networks next to bilinear, bicubic and Lanczos"),
    "export": (_export, "write weights for other programs: ONNX, safetensors"),
    "check": (_check, "report which pictures of a folder can be trained on, and what is wrong with the others"),
    "models": (_models, "list the trained models that come with the package"),
    "shard": (_shard, "write a folder of photos as tar files, for data=shards"),
}


def _networks(add: Add) -> None:
    add("-s", "--scale", type=int, choices=(2, 4, 8), help="what a single weights file does, or 2, unless given")
    add("-m", "--model", nargs="+", type=PATH, default=[], action="extend", metavar="WEIGHTS",
        help="weights files, a run's folder, outputs/checkpoints, or a shipped model; compact "
        "unless given")  # fmt: skip
    _own_classes(add)
    add("-t", "--tile", type=_number(check_whole, low=0), default=0, metavar="PX", help="in input pixels; 0: automatic")
    add("--device", default="auto", help="auto (a GPU if there is one), cpu, cuda, cuda:1, mps")
    add("--fp32", action="store_true", help="full precision on a GPU, too")
    _largest(add)


def _own_classes(add: Add) -> None:
    add("--network", action="append", default=[], metavar="MODULE.CLASS",
        help="a class of your own that a weights file was trained with (model._target_)")  # fmt: skip


def _largest(add: Add) -> None:
    add("--max-megapixels", type=COUNT, default=180, metavar="MP", help="refuse larger pictures to read (180)")


def _run(args: argparse.Namespace) -> int:
    if args.command == "check":
        lines, enough = check(args.folder, args.val_root, args.stage, args.crop or CROPS[args.stage], args.val_fraction)
        print("\n".join(lines))
        return 0 if enough else 1
    from upscale_lit import commands, models  # PyTorch, too: this takes a second or two

    names = getattr(args, "network", [])
    if names:
        sys.path.insert(0, "")  # a script of this folder, as `python -m` has it
    for name in names:
        models.know(name)
    return int(getattr(commands, f"run_{args.command}")(args))
