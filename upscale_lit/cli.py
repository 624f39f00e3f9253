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
from upscale_lit.inference.degrade import degrade_of
from upscale_lit.inference.paths import path_of, target_of
from upscale_lit.program import run_program


def _argument(convert: Callable[..., Any], **options: Any) -> Callable[[str], Any]:
    """Return a type for argparse that shows the text of an InputError raised by `convert`."""

    def parse(word: str) -> Any:
        try:
            return convert(word, **options)
        except InputError as error:
            raise argparse.ArgumentTypeError(str(error)) from error

    return parse


def _number(check_value: Callable[..., None], **limits: float) -> Callable[[str], Any]:
    """Return a type for argparse: a number within the limits of check_whole or check_number."""

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
Add = Callable[..., Any]  # the method add_argument of a command's parser


def main(words: list[str] | None = None) -> int:
    """Run a command and return its exit code: 0, 1 if something failed, 2 for a wrong command, 130 after Ctrl-C."""
    words = sys.argv[1:] if words is None else words
    if words[:1] == ["train"]:  # Hydra reads the other words, and train.py reports errors itself
        run_program(words[1:])
        return 0
    ready_streams()
    warnings.filterwarnings("ignore", module="PIL")  # the report says what is wrong with a picture
    args = parser().parse_args(words)
    limit_pixels(getattr(args, "max_megapixels", 180))
    try:
        code = _run(args)
        sys.stdout.flush()
        return code
    except BrokenPipeError:  # the reader, such as `| head`, has closed the pipe
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
        print("Interrupted. Every file written so far is complete.", file=sys.stderr)
        return 130


def parser() -> argparse.ArgumentParser:
    """Return the parser of the complete command line."""
    parser = argparse.ArgumentParser(
        prog="upscale-lit", description="Upscale pictures, train and measure networks, and prepare photos."
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name, (add_arguments, summary) in COMMANDS.items():
        add_arguments(commands.add_parser(name, help=summary, description=add_arguments.__doc__).add_argument)
    return parser


# Each of the next functions adds the arguments of a command. The docstring of the function is the text of --help.


def _upscale(add: Add) -> None:
    """Upscale pictures and folders of pictures. If two results would have the same name, their names keep the endings
    of the inputs: a.jpg_x2.png, a.tif_x2.png. The exit code is 1 if a picture failed, 2 for a wrong command."""
    add("pictures", nargs="*", type=INPUT, metavar="INPUT",
        help="picture files and folders; - reads a picture from standard input")  # fmt: skip
    add("-i", "--input", nargs="+", type=INPUT, default=[], action="extend", metavar="INPUT")
    add("-o", "--output", type=OUTPUT, metavar="PATH",
        help="a file for one input, or a folder; - writes one picture to standard output. Default: photo_x2.jpg next "
        "to photo.jpg, folder_x2 next to folder, and standard output for the input -")  # fmt: skip
    _networks(add)
    add("--suffix", metavar="TEXT", help="text added to the file names (_x2, _x4 or _x8)")
    add("--ext", type=_ending, choices=[suffix[1:] for suffix in SUFFIXES if suffix not in RARE],
        help="format of the results (the format of each input)")  # fmt: skip
    add("--quality", type=_number(check_whole, low=1, high=100), default=95, metavar="1-100",
        help="quality of JPEG and WebP files (95); JPEG files are written without chroma subsampling")  # fmt: skip
    add("--recursive", action="store_true", help="also read the pictures in subfolders")
    add("--skip-existing", action="store_true", help="skip inputs whose results, and pages with --html, exist")
    add("--sheet", action="store_true", help="also write bicubic upscaling next to each result, as photo_x2_sheet.jpg")
    add("--html", action="store_true",
        help="also write a page with a slider between bicubic upscaling and the result: photo_x2.html, or index.html "
        "in the folder of the results")  # fmt: skip
    add("--strip", action="store_true", help="leave out all metadata except the colour information")


def _app(add: Add) -> None:
    """Serve a page to this computer only, on which you drop a picture, compare the result, and download it. Uploads and
    results are deleted at the end. The extra `app` is needed."""
    add("-m", "--model", nargs="+", type=PATH, default=[], action="extend", metavar="WEIGHTS",
        help="your weights besides the shipped models: files, a run's folder, or outputs/checkpoints")  # fmt: skip
    _own_classes(add)
    add("--port", type=_number(check_whole, low=1, high=65535), default=7860, metavar="PORT", help="port (7860)")
    add("--open", action="store_true", help="open the page in a browser")
    _device(add)
    add("--max-megabytes", type=COUNT, default=200, metavar="MB", help="refuse larger files (200)")
    _largest(add)


def _train(add: Add) -> None:
    """Train a network, as `python train.py` does in a clone. Hydra reads the words that follow."""


def _evaluate(add: Add) -> None:
    """Measure PSNR and SSIM on folders of pictures, or on benchmarks with the folders HR and LR_bicubic_x2."""
    add("folders", nargs="*", type=PATH, metavar="FOLDER", help="folders of high-resolution pictures")
    add("--compare", nargs=2, type=PATH, metavar=("TRUTH_DIR", "PICTURES_DIR"),
        help="score finished pictures instead of networks; -s is the number of pixels shaved off each border. Pictures "
        "are paired by equal names, or else by names without a suffix after _, - or . (fox2.png and "
        "fox2_SR.png)")  # fmt: skip
    _networks(add)
    add("--kernel", choices=("bicubic", "bilinear"), default="bicubic",
        help="kernel of the low pictures that this command makes (bicubic)")  # fmt: skip
    add("--degrade", nargs="+", type=_argument(degrade_of), default=[], action="extend", metavar="HOW",
        help="degrade the low pictures: jpeg:QUALITY (4:2:0), jpeg:QUALITY:444, webp:QUALITY, noise:SIGMA, several "
        "steps joined by +, or clean; each HOW gives separate rows")  # fmt: skip
    add("--self-ensemble", action="store_true", help="average over the 8 rotations and reflections of each picture")
    add("--json", type=TARGET, metavar="FILE", help="also write the rows of the table to this file")
    add("--html", type=TARGET, metavar="FILE",
        help="also write a page with the table and the pictures, those with the lowest PSNR first")  # fmt: skip
    add("--save", type=TARGET, metavar="DIR",
        help="write the upscaled pictures to this folder, as set/method/name.png, or as name.jpg.png if two names "
        "differ only in the ending")  # fmt: skip


def _export(add: Add) -> None:
    """Write a network for other programs. The written file is read back and compared with the network. It maps RGB from
    0 to 1 to RGB from 0 to 1, for pictures of any size."""
    add("weights", type=PATH, metavar="WEIGHTS",
        help="a weights file, or a folder or shipped model with a single weights file")  # fmt: skip
    add("-o", "--output", type=TARGET, metavar="PATH",
        help="a file that ends in .onnx, .safetensors, .pth or .param, or a folder (WEIGHTS_x2.onnx next to WEIGHTS; "
        "for a shipped model, in the current folder)")  # fmt: skip
    _own_classes(add)
    add("--format", type=_ending, choices=("onnx", "safetensors", "spandrel", "ncnn"),
        help="onnx; safetensors, which -m reads; spandrel for chaiNNer, ComfyUI and others, only for compact networks; "
        "ncnn for Upscayl (the format that fits the ending of -o, otherwise onnx)")  # fmt: skip
    add("--plain", action="store_true",
        help="ONNX without the continuation at the borders, for converters that do not know GatherND")  # fmt: skip
    add("--card", type=TARGET, metavar="FILE.json", help="also write a card for OpenModelDB; needs --author")
    add("--author", metavar="NAME", help="author on the card, the id of a user of OpenModelDB")
    add("--license", metavar="SPDX", help="licence on the card, such as CC-BY-4.0 (none)")


def _check(add: Add) -> None:
    """Check that a folder of photos can be trained on. Every picture is decoded and nothing is written. The report has
    a line for each bad file, then counts, sizes and copies. The exit code is 1 if training would not start."""
    add("folder", type=PATH)
    add("--stage", choices=CROPS, default="64to128", help="judge the sizes of pictures for this stage (64to128)")
    add("--crop", type=COUNT, metavar="PX", help="data.crop, if it differs from the stage's value")
    add("--val-root", type=PATH, metavar="DIR", help="folder of photos to validate on, as data.val_root=DIR")
    add("--val-fraction", type=PART, default=0.1, metavar="PART",
        help="part of the photos to validate on, as data.val_fraction (0.1)")  # fmt: skip
    _largest(add)


def _models(add: Add) -> None:
    """List the trained models that come with the package. To use one: -m NAME, or model.weights=NAME in training."""


def _shard(add: Add) -> None:
    """Write the photos below a folder as tar files, which training reads in a stream from a disk or a server. Broken
    files are reported and left out. Copies and pictures under 32 px are left out, too. To resume an interrupted
    command, run it again. The exit code is 1 if files were broken, 2 if the shards could not be written."""
    add("folder", type=PATH)
    add("-o", "--output", type=TARGET, required=True, metavar="SHARDS", help="a new folder for the tar files")
    add("--photos", type=COUNT, default=512, metavar="N",
        help="number of photos for each pair of tar files, training and validation (512)")  # fmt: skip
    add("--side", type=_number(check_whole, low=32), default=1024, metavar="PX",
        help="larger pictures are shrunk to this shorter side and saved as JPEG; other files are copied unchanged. No "
        "stage uses more than 1024 px (1024)")  # fmt: skip
    add("--val-fraction", type=PART, metavar="PART",
        help="part held out for validation (a tenth, but at most about 256 photos)")  # fmt: skip
    _largest(add)


COMMANDS: dict[str, tuple[Callable[[Add], None], str]] = {
    "upscale": (_upscale, "make pictures 2, 4 or 8 times as large"),
    "app": (_app, "upscale pictures on a page in your browser"),
    "train": (_train, "train a network; upscale-lit train --help lists all options"),
    "evaluate": (_evaluate, "compare networks with bilinear, bicubic and Lanczos"),
    "export": (_export, "write a network for other programs: ONNX, spandrel, ncnn, safetensors"),
    "check": (_check, "report which pictures of a folder are fit for training, and why the others are not"),
    "models": (_models, "list the trained models that come with the package"),
    "shard": (_shard, "write a folder of photos as tar files for data=shards"),
}


def _networks(add: Add) -> None:
    add("-s", "--scale", type=int, choices=(1, 2, 3, 4, 8),
        help="scale (the factor of a single weights file; else 2). Our networks have 2, 4 and 8")  # fmt: skip
    add("-m", "--model", nargs="+", type=PATH, default=[], action="extend", metavar="WEIGHTS",
        help="weights files, a run's folder, outputs/checkpoints, the name of a shipped model, or a file of another "
        "program, such as 4x-Name.pth (compact)")  # fmt: skip
    add("--restore", type=_number(check_number, low=0, high=1), metavar="0-1",
        help="how strongly compression and noise are removed, rounded to tenths (chosen for each picture from the "
        "header of its file; 0 without lossy compression)")  # fmt: skip
    add("--restore-with", nargs="+", type=PATH, default=[], action="extend", metavar="WEIGHTS",
        help="weights of the same architecture and stages that were trained with a degradation (the default shipped "
        "model has such weights)")  # fmt: skip
    _own_classes(add)
    add("-t", "--tile", type=_number(check_whole, low=0), default=0, metavar="PX",
        help="side of a tile in input pixels; 0 is automatic (0)")  # fmt: skip
    _device(add)
    _largest(add)


def _device(add: Add) -> None:
    add("--device", default="auto", help="auto (a GPU if there is one), cpu, cuda, cuda:1 or mps (auto)")
    add("--fp32", action="store_true",
        help="compute in float32, instead of float16 on a GPU, and bfloat16 on a CPU with instructions for "
        "it")  # fmt: skip


def _own_classes(add: Add) -> None:
    add("--network", action="append", default=[], metavar="MODULE.CLASS",
        help="your own network class that a weights file needs (model._target_ of its training)")  # fmt: skip


def _largest(add: Add) -> None:
    add("--max-megapixels", type=COUNT, default=180, metavar="MP", help="refuse to read larger pictures (180)")


def _run(args: argparse.Namespace) -> int:
    if args.command == "check":
        lines, enough = check(args.folder, args.val_root, args.stage, args.crop or CROPS[args.stage], args.val_fraction)
        print("\n".join(lines))
        return 0 if enough else 1
    from upscale_lit import commands, models  # imports PyTorch, which takes a second or two

    names = getattr(args, "network", [])
    if names:
        sys.path.insert(0, "")  # as `python -m` does: find modules in the current folder
    for name in names:
        models.know(name)
    return int(getattr(commands, f"run_{args.command}")(args))
