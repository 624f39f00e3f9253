"""Compare six ways to train a cascade: python tests/benchmarks/gap.py PHOTOS OUT SET [SET ...] [overrides]

Each way is an "arm". The program trains each arm by multiruns of experiment=gap, and then measures all arms.

PHOTOS is a folder with one subfolder for each kind of photos. OUT is the folder for the runs. SET is a folder of
pictures, as for `upscale-lit evaluate`. Overrides such as seed=1,2,3 or model=upsampler apply to all arms.
`--arms photos,joint` trains and measures only these arms.

In every arm each network trains for the same number of steps, and the stack is fine-tuned for the same number of steps.
If the program is called again, it resumes interrupted runs, and only measures finished runs.

    photos      each stage learns to upscale downscaled photos
    augmented   the later stages learn to upscale photos with a little blur and noise
    previous    the later stages learn to upscale the outputs of the earlier stages
    joint       the three networks train together from the start, with a loss at each level
    end         the three networks train together from the start, with a loss at the last level only
    one         one 8x network trains, which takes as many multiplications as the stack

The program prints three kinds of tables. The first compares every stage with bicubic. The second gives 8x results on Y
before and after fine-tuning, as the mean over the seeds and half their range, with the minutes of the fastest seed. The
third gives the error level by level.

`--pictures DIR` writes gap.png, which shows parts of two sample photographs at 100 %. Each photograph has a row before
and a row after fine-tuning. The columns are bicubic, the arms and the ground truth.
"""

import argparse
import json
import statistics
import subprocess
import sys
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from quality import held_out
from skimage import data as pictures
from torch import Tensor, nn
from torchvision.utils import make_grid, save_image

from upscale_lit import metrics, resample
from upscale_lit.allocator import keep_freed_memory
from upscale_lit.inference.evaluate import Method, baselines, score
from upscale_lit.inference.sets import pairs
from upscale_lit.inference.upscaler import Upscaler
from upscale_lit.launch.start import load_stages
from upscale_lit.models import STAGES, Upsampler8x, upscale
from upscale_lit.weights import load_weights

ROOT = Path(__file__).parents[2]
ARMS = ("photos", "augmented", "previous", "joint", "end", "one")
LATER = "stage=128to256,256to512,64to512"
AT_ONCE = "stage=64to512_at_once"
ONE = ("model=compact_8x", "stage.level_weights=null")
VIEWS = {"chelsea": (132, 88), "astronaut": (160, 40)}  # the left and top of the part that is shown
PUBLISHED = {"LapSRN": {"Set5": 26.15, "Set14": 24.35}}  # Lai et al. 2017, 2018: PSNR on Y
SIDE = 120  # px, the side of each part: eight parts are as wide as a page on GitHub


def sweeps(arm: str, out: Path) -> list[list[str]]:
    """Return the overrides of the multiruns that train an arm. A multirun loads weights of earlier multiruns."""
    if arm == "photos":
        return [["stage=64to128,128to256,256to512,64to512"]]
    # The first stage learns from photos in these arms too, so they share the first stage of `photos`.
    if arm in ("augmented", "previous"):
        first = f"stage.checkpoints.upsample_64={out}/photos/64to128_${{seed}}/upscaler_64to128.pt"
        if arm == "previous":
            return [[LATER, "stage.inputs=previous", first]]
        return [["stage=128to256,256to512", "degradation=blur_noise", first], ["stage=64to512", first]]
    begun = f"model.weights={out}/{arm}/64to512_at_once_${{seed}}/upscaler_64to512.pt"
    own = {"joint": [], "end": ["stage.level_weights=null"], "one": list(ONE)}[arm]
    return [[AT_ONCE, *own], ["stage=64to512", begun, *(ONE[:1] if arm == "one" else [])]]


def train(arms: Sequence[str], photos: Path, out: Path, overrides: Sequence[str]) -> None:
    for arm in arms:
        for sweep in sweeps(arm, out):
            own = [f"data.root={photos}", f"hydra.sweep.dir={out / arm}"]
            begun = ["ckpt_path=last"] if (out / arm / "multirun.yaml").exists() else []
            words = ["experiment=gap", *own, *begun, *overrides, *sweep]
            subprocess.run([sys.executable, str(ROOT / "train.py"), *words], check=True)


class Trained:
    """One arm with one seed: its networks before and after fine-tuning, its run folders and its training minutes."""

    def __init__(self, out: Path, arm: str, seed: str) -> None:
        first = "photos" if arm in ("augmented", "previous") else arm
        stages = {name: out / arm / f"{stage}_{seed}" for name, stage in STAGES.items()}
        stages["upsample_64"] = out / first / f"64to128_{seed}"
        at_once, tuned = out / arm / f"64to512_at_once_{seed}", out / arm / f"64to512_{seed}"
        self.runs = [at_once] if at_once.exists() else list(stages.values())
        if at_once.exists():
            self.chained, _ = load_weights(at_once / "upscaler_64to512.pt")
        else:
            files = {name: stages[name] / f"upscaler_{stage}.pt" for name, stage in STAGES.items()}
            self.chained = Upsampler8x(**load_stages(files).stages).eval()
        self.tuned, _ = load_weights(tuned / "upscaler_64to512.pt")
        results = [json.loads((run / "metrics.json").read_text()) for run in (*self.runs, tuned)]
        self.minutes = [sum(result["seconds"] for result in results[:-1]) / 60, results[-1]["seconds"] / 60]


def seeds_of(out: Path, arm: str) -> list[str]:
    return sorted(path.parent.name.rpartition("_")[2] for path in (out / arm).glob("64to512_[0-9]*/metrics.json"))


def method(model: nn.Module) -> Method:
    return Upscaler([model], device="cpu").tensor


def summary(values: Sequence[float], form: str) -> str:
    """Return the mean of the values and half their range, as text in the given number format."""
    spread = f" ± {(max(values) - min(values)) / 2:{form.lstrip('+')}}" if len(values) > 1 else ""
    return f"{statistics.mean(values):{form}}{spread}"


def row(*cells: str) -> str:
    return f"| {' | '.join(cells)} |"


def heading(*cells: str) -> str:
    return f"\n{row(*cells)}\n|{'---|' * len(cells)}"


def luma_psnr(pred: Tensor, high: Tensor, shave: int) -> float:
    return float(metrics.psnr_y(pred, high, shave))


@torch.inference_mode()
def stage_gains(trained: Trained, kinds: Sequence[Path]) -> dict[str, list[float]]:
    """Return how many dB each 2x network gains over bicubic on the held-out pairs of its stage.

    Each later stage has two gains: first with downscaled photos as input, then with the outputs of the earlier stages.
    """
    gains: dict[str, list[float]] = {}
    before: list[nn.Module] = []
    for model, stage in zip(trained.chained.stages, STAGES.values(), strict=True):  # type: ignore[arg-type]
        found: dict[str, list[float]] = {"photos": [], "stack": []}
        for kind in kinds:
            for _, low, high in held_out(kind, stage):
                fed = {"photos": low}
                shrunk = 2 ** (1 + len(before))
                if before and not (high.shape[-1] % shrunk or high.shape[-2] % shrunk):
                    fed["stack"] = resample.downscale(high, shrunk)
                    for network in before:
                        fed["stack"] = upscale(network, fed["stack"])
                for name, image in fed.items():
                    own = luma_psnr(upscale(model, image), high, 2)
                    found[name].append(own - luma_psnr(resample.interpolate(image, 2), high, 2))
        gains[stage] = [statistics.mean(values) for values in found.values() if values]
        before.append(model)
    return gains


@torch.inference_mode()
def levels(steps: Sequence[Callable[[Tensor], Tensor]], highs: Sequence[Tensor]) -> list[float]:
    """Return five mean PSNRs on Y of a cascade with three 2x steps.

    The first three are the PSNRs at 128, 256 and 512 px, from an input of 64 px. The last two are PSNRs at 512 px, from
    true pictures of 128 px and of 256 px.
    """
    found: list[list[float]] = [[] for _ in range(5)]
    for high in highs:
        image: Tensor = resample.downscale(high, 8)
        for number, step in enumerate(steps):
            image = step(image)
            shrunk = 4 >> number
            found[number].append(
                luma_psnr(image, resample.downscale(high, shrunk) if shrunk > 1 else high, 8 // shrunk)
            )
        for begin in (1, 2):
            image = resample.downscale(high, 8 >> begin)
            for step in steps[begin:]:
                image = step(image)
            found[2 + begin].append(luma_psnr(image, high, 8))
    return [statistics.mean(values) for values in found]


def write_picture(path: Path, trained: dict[str, Trained]) -> None:
    cells = []
    for name, (left, top) in VIEWS.items():
        high = torch.from_numpy(getattr(pictures, name)()).permute(2, 0, 1)[None]
        high = high[..., : high.shape[-2] // 8 * 8, : high.shape[-1] // 8 * 8]
        low = resample.downscale(high, 8)
        for tuned in (False, True):
            images = [method(each.tuned if tuned else each.chained)(low) for each in trained.values()]
            for image in (resample.interpolate(low, 8), *images, high):
                cells.append(resample.to_float(resample.to_uint8(image))[..., top : top + SIDE, left : left + SIDE])
    save_image(make_grid(torch.cat(cells), nrow=len(trained) + 2, padding=4, pad_value=1.0), path)


def measure(arms: Sequence[str], photos: Path, out: Path, sets: Sequence[Path], pictures: Path | None) -> None:
    kinds = sorted(path for path in photos.iterdir() if path.is_dir())
    everything = {arm: {seed: Trained(out, arm, seed) for seed in seeds_of(out, arm)} for arm in arms}

    print("Gain of each stage over bicubic on held-out photos, PSNR on Y (dB): input from photos / from earlier stages")
    print(heading("arm", *STAGES.values()))
    for arm, by_seed in everything.items():
        if arm != "one":
            gains = [stage_gains(trained, kinds) for trained in by_seed.values()]
            cells = []
            for stage in STAGES.values():
                cells.append(
                    " / ".join(summary(fed, "+.3f") for fed in zip(*(gain[stage] for gain in gains), strict=True))
                )
            print(row(arm, *cells), flush=True)

    rows: list[dict[str, Any]] = []
    methods = baselines(8)
    for arm, by_seed in everything.items():
        for seed, trained in by_seed.items():
            methods |= {f"{arm} chained {seed}": method(trained.chained), f"{arm} tuned {seed}": method(trained.tuned)}
    for folder in sets:
        rows += score(folder.name, 8, pairs(folder, 8, "bicubic", [], [])[1], methods)
    for kind in kinds:
        rows += score(f"{kind.name}, held out", 8, held_out(kind, "64to512"), methods)
    names = list(dict.fromkeys(found["set"] for found in rows))

    def cells(*wanted: str) -> list[str]:
        texts = []
        for name in names:
            own = [found for found in rows if found["set"] == name and found["method"] in wanted]
            psnr, ssim = (
                summary([found[key] for found in own], form) for key, form in (("psnr_y", ".2f"), ("ssim_y", ".4f"))
            )
            texts.append(f"{psnr} / {ssim}")
        return texts

    for state in ("chained", "tuned"):
        print(f"\n8x, {state}: PSNR (dB) / SSIM on Y, minutes of training")
        print(heading("", *names, "minutes"))
        for name in baselines(8):
            print(row(name, *cells(name), ""))
        for name, figures in PUBLISHED.items():
            print(row(f"{name}, published", *(f"{figures[each]:.2f}" if each in figures else "" for each in names), ""))
        for arm, by_seed in everything.items():
            minutes = [
                trained.minutes[0] if state == "chained" else sum(trained.minutes) for trained in by_seed.values()
            ]
            print(row(arm, *cells(*(f"{arm} {state} {seed}" for seed in by_seed)), f"{min(minutes):.1f}"))

    highs = [high for kind in kinds for _, _, high in held_out(kind, "64to512")]
    columns = ("at 128", "at 256", "at 512", "at 512 from true 128", "at 512 from true 256")
    print("\nThe error level by level on held-out photos, from 64 px: PSNR on Y (dB)")
    print(heading("", *columns))
    print(row("bicubic", *(f"{value:.2f}" for value in levels([partial(resample.interpolate, factor=2)] * 3, highs))))
    for state in ("chained", "tuned"):
        for arm, by_seed in everything.items():
            if arm != "one":
                found = [
                    levels([partial(upscale, stage) for stage in getattr(trained, state).stages], highs)
                    for trained in by_seed.values()
                ]
                print(
                    row(f"{arm}, {state}", *(summary(values, ".2f") for values in zip(*found, strict=True))), flush=True
                )

    if pictures:
        pictures.mkdir(parents=True, exist_ok=True)
        write_picture(pictures / "gap.png", {arm: next(iter(by_seed.values())) for arm, by_seed in everything.items()})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("photos", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("words", nargs="+", metavar="SET | override")
    parser.add_argument("--arms", default=",".join(ARMS))
    parser.add_argument("--pictures", type=Path)
    args = parser.parse_intermixed_args()
    overrides = [word for word in args.words if "=" in word]
    sets = [Path(word) for word in args.words if "=" not in word]
    arms, photos, out = args.arms.split(","), args.photos.absolute(), args.out.absolute()
    train(arms, photos, out, overrides)
    keep_freed_memory()
    measure(arms, photos, out, sets, args.pictures)


if __name__ == "__main__":
    main()
