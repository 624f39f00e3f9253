"""Run the commands that need PyTorch: map parsed arguments (see cli.py) to an exit code.

This module imports PyTorch, which takes a second or two. Therefore cli.py imports it only for a command that needs it.
"""

import argparse
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

from upscale_lit import shipped
from upscale_lit.data.listing import skipped
from upscale_lit.data.shards import write_shards
from upscale_lit.errors import InputError
from upscale_lit.files import check_name
from upscale_lit.inference import choose
from upscale_lit.inference.batch import Batch
from upscale_lit.inference.card import check_author, write_card
from upscale_lit.inference.export import export
from upscale_lit.inference.jobs import plan
from upscale_lit.inference.paths import STREAM
from upscale_lit.inference.upscaler import Upscaler
from upscale_lit.pages.page import check_page
from upscale_lit.tables import markdown_table
from upscale_lit.weights import load_weights


def run_upscale(args: argparse.Namespace) -> int:
    inputs = [*args.pictures, *args.input]
    if not inputs:
        raise InputError(
            "Name a picture or a folder to upscale, before -m or after -i: every word after -m counts as weights."
        )
    if STREAM in (*inputs, args.output) and (args.sheet or args.html or args.skip_existing):
        raise InputError(
            "--sheet, --html and --skip-existing must have a file to write, and - is a stream. Leave these options out."
        )
    networks = choose.find(args.model, args.restore_with)
    scale = args.scale or choose.scale_of(networks)
    suffix = f"_x{scale}" if args.suffix is None else args.suffix
    jobs, troubles, others = plan(inputs, args.output, suffix, args.ext, args.recursive, args.sheet, args.html)
    _report(others)
    return 0 if Batch(networks, scale, args).run(jobs, troubles) else 1


def run_app(args: argparse.Namespace) -> int:
    from upscale_lit.inference.app import serve

    # The networks for compressed pictures are not listed: the amount of restoration selects them.
    models = {
        name: choose.find([shipped.folder(name)]) for name in shipped.names() if name not in shipped.ROBUST.values()
    }
    own = {str(path): choose.find([path]) for path in args.model}
    serve({**own, **models}, args.port, args.device, args.fp32, args.open, args.max_megabytes * 2**20)
    return 0


def run_evaluate(args: argparse.Namespace) -> int:
    from upscale_lit.inference import evaluate, sets  # the libraries for metrics take two more seconds
    from upscale_lit.inference.evaluation_page import EvaluationPage

    for path in filter(None, (args.json, args.html)):
        check_name(path)  # fails before the work begins
    if args.html:
        check_page(args.html)
    troubles: list[str] = []
    others: list[Path] = []
    rows, lows = [], []
    if args.compare:
        restoring = args.restore is not None or args.restore_with
        if args.folders or args.model or args.self_ensemble or args.save or args.degrade or restoring:
            raise InputError(
                "--compare scores finished pictures: it takes two folders, -s, --json and --html. Leave out everything "
                "else."
            )
        scale = args.scale or 2
        truth, pictures = args.compare
        unusual, pairs = sets.compared(truth, pictures, scale, troubles, others)
        if unusual:
            print(f"Paired although only the beginnings of the names agree: {', '.join(unusual)}.", file=sys.stderr)
        finished: dict[str, evaluate.Method] = {pictures.resolve().name: lambda picture, lossy: picture}
        page = EvaluationPage(args.html, *finished) if args.html else None
        rows = evaluate.score(truth.resolve().name, scale, pairs, finished, page=page)
    else:
        if not args.folders:
            raise InputError("Name a folder of pictures before -m, or use --compare TRUTH_DIR PICTURES_DIR.")
        networks = choose.find(args.model, args.restore_with)
        scale = args.scale or choose.scale_of(networks)
        options = args.tile, args.device, args.fp32, args.restore
        upscalers = {way: Upscaler.of(way, *options) for way in choose.ways(networks, scale)}
        ours = evaluate.networks(upscalers, args.self_ensemble)
        methods = evaluate.baselines(scale) | ours
        page = EvaluationPage(args.html, next(iter(ours))) if args.html else None
        # Find all pictures first: a missing folder must be reported before anything is computed.
        found = []
        for folder, name in sets.set_names(args.folders).items():
            for number, degrade in enumerate(dict.fromkeys(args.degrade) or [None]):
                reports = ([], []) if number else (troubles, others)  # a set is read again for each degradation
                low, pairs = sets.pairs(folder, scale, args.kernel, *reports)
                label = name if degrade is None else f"{name}, {degrade.word}"
                found.append((label, low, pairs if degrade is None else sets.degraded(pairs, degrade)))
        places = sets.folder_names([label for label, *_ in found], wrong="[/:]" if args.degrade else "/")
        for label, low, pairs in found:
            rows += evaluate.score(label, scale, pairs, methods, args.save and args.save / places[label], page)
            lows.append(low)
    convention = evaluate.CONVENTION.format(scale=scale, low=" ".join(dict.fromkeys(lows))).strip()
    print(evaluate.score_table(rows, convention))
    if args.json:
        evaluate.write_json(args.json, rows, convention)
    if page:
        page.write(evaluate.HEADING, evaluate.score_cells(rows), convention)
    _report(others, troubles)
    return 1 if troubles else 0


def run_export(args: argparse.Namespace) -> int:
    source = choose.only_file(args.weights)
    if args.card:
        check_author(args.author)
        check_name(args.card)
    made = export(source, args.output, args.format, args.plain)
    corners = ", except in the corners," if made.form == "spandrel" else ""
    print(
        f"{' and '.join(map(str, made.paths))}: the output of the written file differs by at most "
        f"{made.difference:.1g}{corners} for values from 0 to 1 ({made.seconds:.1f} s)."
    )
    if args.card:
        name = "-".join(filter(None, [shipped.model_of(source), source.stem]))
        own_layout = made.form != "spandrel"
        write_card(args.card, name, made.model, made.facts, made.paths, args.author, args.license, own_layout)
        print(f"{args.card}: the card for OpenModelDB. Add the addresses of the files and pictures.")
    return 0


def run_models(args: argparse.Namespace) -> int:
    rows = []
    for name in shipped.names():
        for path in shipped.files(name):
            network, facts = load_weights(path)
            parameters = sum(parameter.numel() for parameter in network.parameters())
            figures = [f"{values['psnr_y']:.2f} / {values['ssim_y']:.3f}" for values in facts["figures"].values()]
            rows.append([name, path.stem, f"{facts['factor']}x", f"{parameters:,}", *figures])
    print(markdown_table(["model", "weights", "scale", "parameters", *facts["figures"]], rows))
    cards = f"{shipped.FOLDER}/NAME/README.md"
    print(f"\nPSNR (dB) and SSIM are measured on Y. Select a model with -m NAME. Cards with data and licences: {cards}")
    return 0


def run_shard(args: argparse.Namespace) -> int:
    broken = 0
    for line, troubles in write_shards(args.folder, args.output, args.photos, args.side, args.val_fraction):
        _report(troubles=sorted(map(str, troubles)))
        broken += len(troubles)
        print(line, flush=True)
    return 1 if broken else 0


def _report(others: Sequence[Path] = (), troubles: Iterable[str] = ()) -> None:
    """Print to standard error how many files were skipped because they are no pictures, and each trouble on a line."""
    if others:
        print(f"{skipped(others)}.", file=sys.stderr)
    for trouble in troubles:
        print(trouble, file=sys.stderr)
