"""The command line: upscale-lit, or python -m upscale_lit."""

import argparse
import errno
import os
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table

from upscale_lit import shipped
from upscale_lit.console import ready_streams
from upscale_lit.data.check import CROPS, check
from upscale_lit.data.photo import FORMATS, limit_pixels
from upscale_lit.data.sources import skipped
from upscale_lit.errors import InputError, shown
from upscale_lit.files import check_name
from upscale_lit.inference.paths import STREAM, path_of, special


def main(words: list[str] | None = None) -> int:
    """Returns the exit code: 0, 1 where something or all could not be done, 2 for a wrong command, 130 after Ctrl-C."""
    ready_streams()
    warnings.filterwarnings("ignore", module="PIL")  # what matters in a picture is in the report
    args = _parser().parse_args(words)
    limit_pixels(getattr(args, "max_megapixels", 180))
    try:
        _know(getattr(args, "network", []))
        code = int(args.command(args))
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
        print("Interrupted; every file written so far is whole.", file=sys.stderr)
        return 130


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="upscale-lit", description="Beside training (python train.py --help):")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    _add_upscale(commands)
    _add_evaluate(commands)
    _add_export(commands)
    _add_check(commands)
    _add_models(commands)
    _add_shard(commands)
    return parser


def _add_upscale(commands: Any) -> None:
    command = commands.add_parser(
        "upscale",
        help="make pictures 2, 4 or 8 times as large",
        description="Upscale pictures and folders of them. Exit code 1 if one failed, 2 for a wrong command. "
        "Pictures whose results would have the same name keep their endings in it: a.jpg_x2.png, a.tif_x2.png.",
    )
    command.add_argument(
        "pictures", nargs="*", type=_stream_or_path, metavar="INPUT",
        help="files and folders; - reads a picture from standard input",
    )  # fmt: skip
    command.add_argument("-i", "--input", nargs="+", type=_stream_or_path, default=[], action="extend", metavar="INPUT")
    command.add_argument(
        "-o", "--output", type=_stream_or_target, metavar="PATH",
        help="a file for one input, or a folder; - writes one picture to standard output. Without it: photo_x2.jpg "
        "next to photo.jpg, folder_x2 next to folder, standard output for -",
    )  # fmt: skip
    _add_networks(command)
    command.add_argument("--suffix", metavar="TEXT", help="added to the names; _x2, _x4 or _x8 unless given")
    command.add_argument(
        "--ext", type=_ending,
        choices=[suffix[1:] for suffixes in FORMATS.values() for suffix in suffixes[:2]],
        help="the format; that of the input unless given",
    )  # fmt: skip
    command.add_argument(
        "--quality", type=_whole(1, 100), default=95, metavar="1-100", help="of JPEG, which never has its chroma "
        "subsampled, and of WebP (95)",
    )  # fmt: skip
    command.add_argument("--recursive", action="store_true", help="look below folders, too")
    command.add_argument("--skip-existing", action="store_true", help="leave alone what is there already")
    command.add_argument("--sheet", action="store_true", help="write bicubic beside ours, too, as photo_x2_sheet.jpg")
    command.add_argument("--strip", action="store_true", help="leave out metadata, all but the colour profile")
    command.set_defaults(command=_upscale)


def _add_evaluate(commands: Any) -> None:
    command = commands.add_parser(
        "evaluate",
        help="measure networks beside bilinear, bicubic and Lanczos",
        description="PSNR and SSIM on folders of pictures, or on benchmarks with HR and LR_bicubic_x2 in them.",
    )
    command.add_argument("folders", nargs="*", type=_path, metavar="FOLDER", help="high-resolution pictures")
    command.add_argument(
        "--compare", nargs=2, type=_path, metavar=("TRUTH_DIR", "PICTURES_DIR"),
        help="score finished pictures instead; -s says how many border pixels are shaved. Pictures belong together by "
        "their names: the same ones first, then those with a suffix after _, - or . removed (fox2.png and fox2_SR.png)",
    )  # fmt: skip
    _add_networks(command)
    command.add_argument(
        "--kernel", choices=("bicubic", "bilinear"), default="bicubic", help="of low pictures made here"
    )
    command.add_argument("--self-ensemble", action="store_true", help="mean over the 8 turned and mirrored pictures")
    command.add_argument("--json", type=_target, metavar="FILE", help="write the rows there, too")
    command.add_argument(
        "--save", type=_target, metavar="DIR",
        help="write the upscaled pictures there, as set/method/name.png, or name.jpg.png if names differ in the "
        "ending only",
    )  # fmt: skip
    command.set_defaults(command=_evaluate)


def _add_export(commands: Any) -> None:
    command = commands.add_parser(
        "export",
        help="write weights for other programs: ONNX, safetensors",
        description="ONNX takes and gives RGB from 0 to 1, of any size. What was written is read back and compared.",
    )
    command.add_argument(
        "weights", type=_path, metavar="WEIGHTS",
        help="a weights file, or a folder or shipped model that holds a single one",
    )  # fmt: skip
    command.add_argument(
        "-o", "--output", type=_target, metavar="PATH",
        help="a file that ends in .onnx or .safetensors, or a folder (WEIGHTS_x2.onnx next to WEIGHTS; of a shipped "
        "model, in the working folder)",
    )  # fmt: skip
    _add_class(command)
    command.add_argument(
        "--format", type=_ending, choices=("onnx", "safetensors"), default="onnx",
        help="without -o, or if that is a folder (onnx)",
    )  # fmt: skip
    command.set_defaults(command=_export)


def _add_check(commands: Any) -> None:
    command = commands.add_parser(
        "check",
        help="tell which pictures of a folder can be trained on, and what is wrong with the others",
        description="Decode every picture below a folder; a line for each file in trouble, then counts, sizes and "
        "copies. Exit code 1 where a training would not start. Nothing is written.",
    )
    command.add_argument("folder", type=_path)
    command.add_argument("--stage", choices=CROPS, default="64to128", help="sizes are judged for this stage (64to128)")
    command.add_argument("--crop", type=_whole(1), metavar="PX", help="data.crop, where it is not the stage's own")
    command.add_argument("--val-root", type=_path, metavar="DIR", help="photos to validate on, as data.val_root=DIR")
    command.add_argument("--val-fraction", type=_part, default=0.1, metavar="PART", help="data.val_fraction (0.1)")
    _add_limit(command)
    command.set_defaults(command=_check)


def _add_models(commands: Any) -> None:
    command = commands.add_parser(
        "models",
        help="list the trained models that come with the package",
        description="The trained models that come with the package, for -m NAME and model.weights=NAME.",
    )
    command.set_defaults(command=_models)


def _add_shard(commands: Any) -> None:
    command = commands.add_parser(
        "shard",
        help="write a folder of photos as tar files, for data=shards",
        description="Write the photos below a folder as tar files that training reads in a stream, from a disk or a "
        "server. Broken files are named and left out; so are copies and pictures under 32 px. The same command resumes "
        "an interrupted one. Exit code 1 where files were broken, 2 where nothing came of it.",
    )
    command.add_argument("folder", type=_path)
    command.add_argument("-o", "--output", type=_target, required=True, metavar="SHARDS", help="a new folder for them")
    command.add_argument(
        "--photos", type=_whole(1), default=512, metavar="N", help="files for each shard and what is held out (512)"
    )
    command.add_argument(
        "--side", type=_whole(32), default=1024, metavar="PX",
        help="larger pictures are shrunk to so much on their shorter side, and are JPEG then; others stay as they are. "
        "No stage keeps more than 1024 (1024)",
    )  # fmt: skip
    command.add_argument(
        "--val-fraction", type=_part, metavar="PART", help="held out for validation (a tenth, or about 256 of many)"
    )
    _add_limit(command)
    command.set_defaults(command=_shard)


def _add_networks(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "-s", "--scale", type=int, choices=(2, 4, 8), help="what a single weights file does, or 2, unless given"
    )
    command.add_argument(
        "-m", "--model", nargs="+", type=_path, default=[], action="extend", metavar="WEIGHTS",
        help="weights files, a run's folder, outputs/checkpoints, or a shipped model; compact unless given",
    )  # fmt: skip
    _add_class(command)
    command.add_argument("-t", "--tile", type=_whole(0), default=0, metavar="PX", help="in input pixels; 0: automatic")
    command.add_argument("--device", default="auto", help="auto (a GPU where there is one), cpu, cuda, cuda:1, mps")
    command.add_argument("--fp32", action="store_true", help="full precision on a GPU, too")
    _add_limit(command)


def _add_class(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--network", action="append", default=[], metavar="MODULE.CLASS",
        help="a class of your own that a weights file was trained with (model._target_)",
    )  # fmt: skip


def _add_limit(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--max-megapixels", type=_whole(1), default=180, metavar="MP", help="refuse larger pictures to read (180)"
    )


def _path(word: str, stream: bool = False) -> Path:
    """A type for argparse: a path, see `path_of`."""
    try:
        return path_of(word, stream)
    except InputError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def _stream_or_path(word: str) -> Path:
    return _path(word, stream=True)


def _target(word: str, stream: bool = False) -> Path:
    """A path to write to: what is neither a file nor a folder, such as a pipe, would be replaced by a file."""
    path = _path(word, stream)
    if path != STREAM and (what := special(path)):
        raise argparse.ArgumentTypeError(
            f"A path to write to must be that of a file or a folder; {shown(path)} is {what}."
        )
    return path


def _stream_or_target(word: str) -> Path:
    return _target(word, stream=True)


def _ending(word: str) -> str:
    return word.lower().lstrip(".")


def _whole(smallest: int, largest: int | None = None) -> Callable[[str], int]:
    """A type for argparse: a whole number within limits."""

    def parse(word: str) -> int:
        if not word.isdecimal() or int(word) < smallest or (largest is not None and int(word) > largest):
            limits = f"from {smallest} to {largest}" if largest is not None else f"from {smallest} upwards"
            raise argparse.ArgumentTypeError(f"it is a whole number {limits}; found {word!r}")
        return int(word)

    return parse


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


# What follows imports PyTorch, which takes a second or two, only when it is needed.


def _know(names: list[str]) -> None:
    if names:
        from upscale_lit import models

        sys.path.insert(0, "")  # a script of this folder, as `python -m` has it
        for name in names:
            models.know(name)


def _upscale(args: argparse.Namespace) -> int:
    from upscale_lit.allocator import keep_freed_memory
    from upscale_lit.inference import batch, jobs
    from upscale_lit.inference import choose as chains

    keep_freed_memory()
    inputs = [*args.pictures, *args.input]
    if not inputs:
        raise InputError(
            "Name a picture or a folder to upscale, before -m or behind -i: all words behind -m are taken for weights."
        )
    if STREAM in (*inputs, args.output) and (args.sheet or args.skip_existing):
        raise InputError(
            "--sheet and --skip-existing must have a file to write; - stands for a stream. Leave them out."
        )
    networks = chains.find(args.model)
    scale = args.scale or chains.scale_of(networks)
    settings = batch.Settings(
        scale, args.tile, args.device, args.fp32, args.quality, args.strip, args.sheet, args.skip_existing
    )
    suffix = f"_x{scale}" if args.suffix is None else args.suffix
    planned, troubles, others = jobs.plan(inputs, args.output, suffix, args.ext, args.recursive, args.sheet)
    if others:
        print(f"{skipped(others)}.", file=sys.stderr)
    return 0 if batch.Batch(networks, settings).run(planned, troubles) else 1


def _evaluate(args: argparse.Namespace) -> int:
    from upscale_lit.allocator import keep_freed_memory
    from upscale_lit.inference import choose as chains
    from upscale_lit.inference import evaluate
    from upscale_lit.inference.upscaler import Upscaler

    keep_freed_memory()
    if args.json:
        check_name(args.json)  # before the work
    troubles: list[str] = []
    others: list[Path] = []
    rows, lows = [], []
    if args.compare:
        if args.folders or args.model or args.self_ensemble or args.save:
            raise InputError("--compare scores finished pictures: it takes two folders, -s and --json, nothing else.")
        scale = args.scale or 2
        truth, pictures = args.compare
        unusual, triples = evaluate.compared(truth, pictures, scale, troubles, others)
        if unusual:
            print(f"Compared by the beginnings of their names: {', '.join(unusual)}.", file=sys.stderr)
        rows = evaluate.score(truth.resolve().name, scale, triples, {pictures.resolve().name: lambda picture: picture})
    else:
        if not args.folders:
            raise InputError("Name a folder of pictures, before -m, or --compare TRUTH_DIR PICTURES_DIR.")
        networks = chains.find(args.model)
        scale = args.scale or chains.scale_of(networks)
        upscalers = {way: Upscaler.of(way, args.tile, args.device, args.fp32) for way in chains.ways(networks, scale)}
        methods = evaluate.baselines(scale) | evaluate.networks(upscalers, args.self_ensemble)
        names = evaluate.set_names(args.folders)
        places = evaluate.folder_names(list(names.values()), wrong="/")
        sets = {
            name: evaluate.pairs(folder, scale, args.kernel, troubles, others) for folder, name in names.items()
        }  # all of them, before anything is computed
        for name, (low, triples) in sets.items():
            rows += evaluate.score(name, scale, triples, methods, args.save and args.save / places[name])
            lows.append(low)
    convention = evaluate.CONVENTION.format(scale=scale, low=" ".join(dict.fromkeys(lows))).strip()
    print(evaluate.table(rows, convention))
    if args.json:
        evaluate.write_json(args.json, rows, convention)
    if others:
        print(f"{skipped(others)}.", file=sys.stderr)
    for trouble in troubles:
        print(trouble, file=sys.stderr)
    return 1 if troubles else 0


def _export(args: argparse.Namespace) -> int:
    from upscale_lit.inference import choose as chains
    from upscale_lit.inference.export import export

    target, difference = export(chains.only_file(args.weights), args.output, f".{args.format}")
    print(f"{target}: read back, it differs from ours by {difference:.1g} at most, for values from 0 to 1.")
    return 0


def _shard(args: argparse.Namespace) -> int:
    from upscale_lit.data.shards import write_shards

    broken = 0
    for line, troubles in write_shards(args.folder, args.output, args.photos, args.side, args.val_fraction):
        for trouble in sorted(map(str, troubles)):
            print(trouble, file=sys.stderr)
        broken += len(troubles)
        print(line, flush=True)
    return 1 if broken else 0


def _models(args: argparse.Namespace) -> int:
    from upscale_lit.weights import load_weights

    rows = []
    for name in shipped.names():
        for path in shipped.files(name):
            network, facts = load_weights(path)
            parameters = sum(parameter.numel() for parameter in network.parameters())
            figures = [f"{values['psnr_y']:.2f} / {values['ssim_y']:.3f}" for values in facts["figures"].values()]
            rows.append([name, path.stem, f"{facts['factor']}x", f"{parameters:,}", *figures])
    table = Table("model", "weights", "scale", "parameters", *facts["figures"], box=box.MARKDOWN)
    for row in rows:
        table.add_row(*row)
    Console(width=max(Console().width, 100)).print(table)
    print(f"PSNR (dB) and SSIM on Y. -m NAME takes one; cards, with data and licences: {shipped.FOLDER}/NAME/README.md")
    return 0
