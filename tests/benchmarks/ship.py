"""Puts a trained model into the package: python tests/benchmarks/ship.py NAME SWEEP BENCHMARKS

SWEEP is the folder of a sweep over the four stages (`python train.py experiment=NAME data.root=PHOTOS`), BENCHMARKS
holds Set5 and Set14. Each file is measured there at its own scale, alone, whatever the pictures' size; the figures go
into the file and into the model's card.
"""

import argparse
import json
import os
import shlex
import tempfile
from pathlib import Path

import torch

from upscale_lit import models, shipped, weights
from upscale_lit.allocator import keep_freed_memory
from upscale_lit.inference import choose as chains
from upscale_lit.inference import evaluate, export, sets
from upscale_lit.inference.upscaler import Upscaler

SETS = ("Set5", "Set14")
STAGES = (*models.STAGES.values(), "64to512")

CARD = """# {name}

The upscalers that come with upscale_lit: `{model}` networks, {parameters:,} parameters for each doubling of a picture's
size. The fourth file is the first three in a row, fine-tuned together.

PSNR (dB) and SSIM on Y, each file alone, whatever the pictures' size; low pictures by antialiased bicubic downscaling:

| file | scale | steps | training | {sets} |
|---|---|---|---|{rules}|
{rows}

**Command.** `{command}`,
on {machine}; the loss, the rates and all else stand in `conf/experiment/{name}.yaml` and `conf/model/`.

**Data.** 586 photographs, of which 71, chosen by the hashes of the files, were held out. None of them is part of this
project.

- 162 photographs of cats (github.com/maxogden/cats), under a BSD licence.
- 24 landscapes from the wallpaper collections of elementary OS and Pop!_OS, in the public domain.
- 400 photographs of the Berkeley segmentation set BSDS500, train and test parts (Martin et al. 2001, Arbelaez et al.
  2011), for research and education; so whoever wants to sell what these weights make should ask a lawyer, or train on
  other photographs.

**Licence.** That of upscale_lit, MIT, as far as it is ours to give; see the data.

**Limits.** They undo a clean antialiased bicubic downscale, and nothing else: noise and the blocks of a hard JPEG come
out larger, not fewer, and a blurred photograph stays blurred. They were trained for the smallest mean error, so where
the low picture leaves open what was there (fine fur, letters of a few pixels at 8x), they give an average and invent
nothing. At 8x the differences to bicubic are sharper edges, not detail. Not for medical, forensic or other use in which
a pixel is evidence.
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name")
    parser.add_argument("sweep", type=Path)
    parser.add_argument("benchmarks", type=Path)
    parser.add_argument("--machine", default=f"{os.cpu_count()} CPU cores", help="for the card")
    args = parser.parse_args()
    keep_freed_memory()
    runs = {}
    for path in args.sweep.glob("*/metrics.json"):
        told = json.loads(path.read_text())
        runs[told["stage"]] = (path.parent, told)
    folder = shipped.FOLDER / args.name
    folder.mkdir(parents=True, exist_ok=True)
    rows = []
    for stage in STAGES:
        run, told = runs[stage]
        model, facts = weights.load_weights(run / f"upscaler_{stage}.pt")
        scale = facts["factor"]
        way = chains.Way((chains.Network(run, model, stage),))
        figures = {}
        for name in SETS:
            triples = sets.pairs(args.benchmarks / name, scale, "bicubic", [], [])[1]
            (row,) = evaluate.score(name, scale, triples, {stage: Upscaler.of(way, device="cpu").tensor})
            figures[name] = {column: round(row[column], 4) for column in ("psnr_y", "ssim_y")}
        for key in ("sha256", "sweep"):  # of another file, of folders that nobody else has
            facts.pop(key, None)
        with tempfile.TemporaryDirectory() as work:
            source = Path(work, f"upscaler_{stage}.pt")
            weights.save_weights(source, model, {**facts, "figures": figures})
            export.export(source, folder / f"upscaler_{stage}.safetensors")
        cells = [f"{row['psnr_y']:.2f} / {row['ssim_y']:.3f}" for row in figures.values()]
        steps, minutes = f"{told['steps']:,}", f"{told['seconds'] / 60:.0f} min"
        rows.append(f"| `upscaler_{stage}` | {scale}x | {steps} | {minutes} | {' | '.join(cells)} |")
        print(rows[-1], flush=True)
        if stage == STAGES[0]:
            size, kind = sum(parameter.numel() for parameter in model.parameters()), type(model).__name__
    here = "stage=", "data.root=", "hydra", "trainer.enable_progress_bar="  # what others set as they like
    own = [word for word in told["overrides"] if not word.startswith(here)]
    command = shlex.join(["python", "train.py", *own, "data.root=PHOTOS"])
    card = CARD.format(
        name=args.name, model=kind, parameters=size, sets=" | ".join(SETS), rules="|".join("---" for _ in SETS),
        rows="\n".join(rows), command=command, machine=args.machine,
    )  # fmt: skip
    (folder / "README.md").write_text(card)


if __name__ == "__main__":
    with torch.inference_mode():
        main()
