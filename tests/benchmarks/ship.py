"""Put a trained model into the package: python tests/benchmarks/ship.py NAME SWEEP BENCHMARKS

SWEEP is the folder of a sweep over the four stages (`python train.py experiment=NAME data.root=PHOTOS`). BENCHMARKS
contains the folders Set5 and Set14. The program measures each weights file alone on all pictures of these sets, at the
scale of the file's network. The program writes the figures into the weights file and into the model's card.
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

These upscalers come with upscale_lit. They are `{model}` networks with {parameters:,} parameters for each doubling of a
picture's size. The fourth file is a stack of the first three networks, which was fine-tuned as one network.

The table gives PSNR (dB) and SSIM on Y. Each file was measured alone on all pictures of a set, whatever their size. The
low pictures were made by antialiased bicubic downscaling.

| file | scale | steps | training | {sets} |
|---|---|---|---|{rules}|
{rows}

**Command.** This command trained the networks, on {machine}:

```sh
{command}
```

The file `conf/experiment/{name}.yaml`, with the files of `conf/` that it selects, contains the loss, the learning rate
and the other settings.

**Data.** The data are 586 photographs. The hashes of the files decided which 71 of them were held out for validation.
The networks were trained on the other 515. None of the photographs is part of this project.

- 162 photographs of cats come from github.com/maxogden/cats, under a BSD licence.
- 24 landscapes come from the wallpaper collections of elementary OS and Pop!_OS. They are in the public domain.
- 400 photographs come from the train and test parts of the Berkeley segmentation set BSDS500 (Martin et al. 2001,
  Arbelaez et al. 2011). This set is for research and education. If you want to sell pictures that these networks make,
  ask a lawyer, or train on other photographs.

**Licence.** The weights have the MIT licence of upscale_lit, as far as its authors can grant it for networks trained on
this data.

**Limits.** The networks undo a clean antialiased bicubic downscale, and nothing else. They enlarge noise and the blocks
of a strongly compressed JPEG together with the picture. A blurred photograph stays blurred.

The networks were trained for the smallest mean error. If the low picture does not show a detail, such as fine fur or
letters of a few pixels at 8x, the networks give an average and invent nothing. At 8x they give sharper edges than
bicubic, but no more detail.

Do not use the networks for medical, forensic or other purposes in which a pixel is evidence.
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name")
    parser.add_argument("sweep", type=Path)
    parser.add_argument("benchmarks", type=Path)
    parser.add_argument("--machine", default=f"{os.cpu_count()} CPU cores", help="the training machine, for the card")
    args = parser.parse_args()
    keep_freed_memory()
    runs = {}
    for path in args.sweep.glob("*/metrics.json"):
        result = json.loads(path.read_text())
        runs[result["stage"]] = (path.parent, result)
    folder = shipped.FOLDER / args.name
    folder.mkdir(parents=True, exist_ok=True)
    rows = []
    for stage in STAGES:
        run, result = runs[stage]
        model, facts = weights.load_weights(run / f"upscaler_{stage}.pt")
        scale = facts["factor"]
        way = chains.Way((chains.Network(run, model, stage),))
        figures = {}
        for name in SETS:
            triples = sets.pairs(args.benchmarks / name, scale, "bicubic", [], [])[1]
            (row,) = evaluate.score(name, scale, triples, {stage: Upscaler.of(way, device="cpu").tensor})
            figures[name] = {column: round(row[column], 4) for column in ("psnr_y", "ssim_y")}
        # The exported file has a different sha256, and other users do not have the sweep's folder.
        for key in ("sha256", "sweep"):
            facts.pop(key, None)
        with tempfile.TemporaryDirectory() as work:
            source = Path(work, f"upscaler_{stage}.pt")
            weights.save_weights(source, model, {**facts, "figures": figures})
            export.export(source, folder / f"upscaler_{stage}.safetensors")
        cells = [f"{row['psnr_y']:.2f} / {row['ssim_y']:.3f}" for row in figures.values()]
        steps, minutes = f"{result['steps']:,}", f"{result['seconds'] / 60:.0f} min"
        rows.append(f"| `upscaler_{stage}` | {scale}x | {steps} | {minutes} | {' | '.join(cells)} |")
        print(rows[-1], flush=True)
        if stage == STAGES[0]:
            size, kind = sum(parameter.numel() for parameter in model.parameters()), type(model).__name__
    here = "stage=", "data.root=", "hydra", "trainer.enable_progress_bar="  # Users choose these themselves.
    own = [word for word in result["overrides"] if not word.startswith(here)]
    command = shlex.join(["python", "train.py", *own, "data.root=PHOTOS"])
    card = CARD.format(
        name=args.name, model=kind, parameters=size, sets=" | ".join(SETS), rules="|".join("---" for _ in SETS),
        rows="\n".join(rows), command=command, machine=args.machine,
    )  # fmt: skip
    (folder / "README.md").write_text(card)


if __name__ == "__main__":
    with torch.inference_mode():
        main()
