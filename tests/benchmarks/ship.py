"""Put a trained model into the package: python tests/benchmarks/ship.py NAME SWEEP BENCHMARKS

SWEEP is a folder with the folders of the runs (`python train.py experiment=NAME data.root=PHOTOS`). BENCHMARKS contains
the folders Set5 and Set14. The program measures each weights file alone on all pictures of these sets, at the scale of
the file's network. The program writes the figures into the weights file and into the model's card.

Without a run of 256to512, the network of 128to256 is published for this stage as well. Both stages see the same
examples. Any other run than that of 64to128 may be missing, with its file and its row.
"""

import argparse
import json
import os
import shlex
import tempfile
import textwrap
from pathlib import Path

import torch

from upscale_lit import models, shipped, weights
from upscale_lit.allocator import keep_freed_memory
from upscale_lit.inference import choose as chains
from upscale_lit.inference import evaluate, export, sets
from upscale_lit.inference.degrade import degrade_of
from upscale_lit.inference.upscaler import Upscaler

SETS = ("Set5", "Set14")
STAGES = (*models.STAGES.values(), "64to512")
SAME = {"256to512": "128to256"}
# The weights files record this restriction, and the cards of exported files repeat it.
RESTRICTION = (
    "400 of the 586 training photographs come from the Berkeley segmentation set BSDS500, which is for research and "
    "education."
)

CARD = """# {name}

These upscalers come with upscale_lit. They are `{model}` networks with {parameters:,} parameters for each doubling of a
picture's size. {stack}

{purpose}The table gives PSNR (dB) and SSIM on Y. Each file was measured alone on all pictures of a set, whatever their
size. The low pictures were made by antialiased bicubic downscaling{worse}.

| file | scale | steps | training | {sets} |
|---|---|---|---|{rules}|
{rows}

**Command.** The networks were trained on {machine} with:

```sh
{commands}
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

**Limits.** {limits}

The networks were trained for the smallest mean error. If the low picture does not show a detail, such as fine fur or
letters of a few pixels at 8x, the networks give an average and invent nothing. At 8x they give sharper edges than
bicubic, but no more detail.

Do not use the networks for medical, forensic or other purposes in which a pixel is evidence.
"""

CLEAN = {
    "stack": "The fourth file is a stack of the first three networks, which was fine-tuned as one network.",
    "purpose": "",
    "worse": "",
    "limits": """The networks undo a clean antialiased bicubic downscale, and nothing else. They enlarge noise and the
blocks of a strongly compressed JPEG together with the picture. A blurred photograph stays blurred.""",
}
ROBUST = {
    "stack": "The fourth file is a stack of three such networks.",
    "purpose": """Each file was fine-tuned from the same file of `{start}`, with `degradation={degradation}`.
`upscale-lit upscale` interpolates between both sets; see `--restore`.

""",
    "worse": ", and then saved as JPEG of quality 75 if the column says so",
    "limits": """On clean pictures the networks are a little worse than `{start}`. They remove fine texture that looks
like noise. They know only what the degradation does, within its ranges. A blurred photograph stays blurred.""",
}


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
        trained_as = stage if stage in runs else SAME.get(stage)
        if trained_as not in runs:
            continue
        run, result = runs[trained_as]
        model, facts = weights.load_weights(run / f"upscaler_{trained_as}.pt")
        facts["stage"] = stage
        scale = facts["factor"]
        way = chains.Way((chains.Network(run, model, stage),))
        robust = result["degradation"] != "none"
        kinds = ("clean", "jpeg:75") if robust else ("clean",)
        columns = {f"{name}, {kind}".removesuffix(", clean"): (name, kind) for kind in kinds for name in SETS}
        measured = {}
        for column, (name, kind) in columns.items():
            pairs = sets.degraded(sets.pairs(args.benchmarks / name, scale, "bicubic", [], [])[1], degrade_of(kind))
            (row,) = evaluate.score(name, scale, pairs, {stage: Upscaler.of(way, device="cpu").tensor})
            measured[column] = {key: round(row[key], 4) for key in ("psnr_y", "ssim_y")}
        figures = {name: measured[name] for name in SETS}
        # The exported file has a different sha256, and other users do not have the sweep's folder.
        for key in ("sha256", "sweep"):
            facts.pop(key, None)
        with tempfile.TemporaryDirectory() as work:
            source = Path(work, f"upscaler_{stage}.pt")
            weights.save_weights(source, model, {**facts, "figures": figures, "restriction": RESTRICTION})
            export.export(source, folder / f"upscaler_{stage}.safetensors")
        cells = [f"{row['psnr_y']:.2f} / {row['ssim_y']:.3f}" for row in measured.values()]
        training = f"{result['steps']:,} | {result['seconds'] / 60:.0f} min"
        if trained_as != stage:
            training = f"as {trained_as} | "
        rows.append(f"| `upscaler_{stage}` | {scale}x | {training} | {' | '.join(cells)} |")
        print(rows[-1], flush=True)
        if stage == STAGES[0]:
            size, model_name = sum(parameter.numel() for parameter in model.parameters()), type(model).__name__
    # Users choose these themselves.
    here = "stage=", "data.root=", "hydra", "checkpoints_dir=", "trainer.enable_progress_bar=", "stage.checkpoints."
    given: dict[tuple[str, ...], list[str]] = {}
    for stage, (_, result) in sorted(runs.items(), key=lambda run: STAGES.index(run[0])):
        given.setdefault(tuple(word for word in result["overrides"] if not word.startswith(here)), []).append(stage)
    commands = "\n".join(
        shlex.join(["python", "train.py", *own, f"stage={','.join(stages)}", "data.root=PHOTOS"])
        for own, stages in given.items()
    )
    start = Path(runs[STAGES[0]][1]["weights"]["path"]).parent.name if robust else ""
    own_words = {"start": start, "degradation": result["degradation"]}
    texts = {key: text.format(**own_words) for key, text in (ROBUST if robust else CLEAN).items()}
    card = CARD.format(
        name=args.name, model=model_name, parameters=size, sets=" | ".join(columns),
        rules="|".join("---" for _ in columns), rows="\n".join(rows), commands=commands, machine=args.machine, **texts,
    )  # fmt: skip
    paragraphs = (text if text[0] in "#|-`" else textwrap.fill(text, 120) for text in card.strip().split("\n\n"))
    (folder / "README.md").write_text("\n\n".join(paragraphs) + "\n")


if __name__ == "__main__":
    with torch.inference_mode():
        main()
