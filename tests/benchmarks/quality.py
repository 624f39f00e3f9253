"""The README's table of models: python tests/benchmarks/quality.py BENCHMARKS PHOTOS NAME=FOLDER [NAME=FOLDER ...]

BENCHMARKS holds Set5 and Set14; PHOTOS is what was trained on, of which the held-out part is measured: a table for
each folder in it, at each stage's sizes, and cats from 64 to 512 px. NAME is a shipped model's, or that of the
experiment that makes its weights; FOLDER holds the four files, or is the name of a shipped model again. Of a model's 2x
networks each picture gets the one that `upscale-lit upscale` takes; 8x is the fine-tuned stack. Speed: output
megapixels per second on the CPU, the median of turns that all methods take in turn. `--json FILE` keeps the rows;
`--pictures DIR` writes parts of sample photographs there, pixel by pixel: a column each for bicubic, the first two
models, the truth.
"""

import argparse
import json
import statistics
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from composed import composed
from PIL import Image
from skimage import data as pictures
from torchvision.utils import make_grid, save_image

from upscale_lit import resample, shipped
from upscale_lit.allocator import keep_freed_memory
from upscale_lit.data.check import CROPS
from upscale_lit.inference import choose as chains
from upscale_lit.inference.evaluate import Method, baselines, score
from upscale_lit.inference.sets import Triple, pairs
from upscale_lit.inference.upscaler import Upscaler
from upscale_lit.launch.build import build_data
from upscale_lit.launch.start import Start

TURNS = 7
SIDE = 208  # of the parts of sample photographs: four of them are as wide as a page on GitHub
PARTS = {  # by scale: photograph, left, top
    2: [("chelsea", 100, 72), ("astronaut", 112, 296), ("rocket", 432, 200)],
    8: [("chelsea", 96, 72), ("astronaut", 128, 0)],
}
SPEED_SIZES = {2: (1024, 768), 8: (320, 240)}  # low pictures whose upscaling is timed


def product(networks: list[chains.Network], scale: int) -> Method:
    """What `upscale-lit upscale` does."""
    ways = chains.ways(networks, scale)
    upscalers = {way: Upscaler.of(way, device="cpu") for way in ways}
    return lambda low: upscalers[chains.nearest(ways, min(low.shape[-2:]))].tensor(low)


def held_out(root: Path, stage: str) -> Iterator[Triple]:
    """The validation pairs of a stage, as train.py measures on them."""
    factor = 8 if stage == "64to512" else 2
    cfg = composed(f"stage={stage}", "data=folder", f"data.root='{root}'")
    data = build_data(cfg, Start())
    return ((str(number), resample.downscale(high, factor), high) for number, high in enumerate(data.squares))


def speeds(scale: int, methods: dict[str, Callable[[Image.Image], object]]) -> dict[str, float]:
    """Output megapixels per second, from picture to picture."""
    width, height = SPEED_SIZES[scale]
    low = Image.fromarray(pictures.astronaut()).resize((width, height))
    seconds: dict[str, list[float]] = {name: [] for name in methods}
    for turn in range(TURNS + 1):
        for name, method in methods.items():
            begin = time.perf_counter()
            method(low)
            if turn:
                seconds[name].append(time.perf_counter() - begin)
    return {name: width * height * scale**2 / 1e6 / statistics.median(times) for name, times in seconds.items()}


def classical(scale: int, kernel: Image.Resampling) -> Callable[[Image.Image], object]:
    return lambda image: image.resize((image.width * scale, image.height * scale), kernel)


def columns(scale: int, methods: dict[str, Method], path: Path) -> None:
    """A row for each part, a column for each method, and the truth."""
    rows = []
    for name, left, top in PARTS[scale]:
        high = torch.from_numpy(getattr(pictures, name)()).permute(2, 0, 1)[None]
        high = high[..., : high.shape[-2] // scale * scale, : high.shape[-1] // scale * scale]
        low = resample.downscale(high, scale)
        for picture in (*(method(low) for method in methods.values()), high):
            rows.append(resample.to_float(picture)[..., top : top + SIDE, left : left + SIDE])
    save_image(make_grid(torch.cat(rows), nrow=len(methods) + 1, padding=4, pad_value=1.0), path)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("benchmarks", type=Path)
    parser.add_argument("photos", type=Path)
    parser.add_argument("models", nargs="+", metavar="NAME=FOLDER")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--pictures", type=Path)
    args = parser.parse_args()
    keep_freed_memory()
    models = {name: chains.find([Path(folder)]) for name, _, folder in (word.partition("=") for word in args.models)}
    rows = []
    for scale in (2, 8):
        methods = baselines(scale) | {name: product(networks, scale) for name, networks in models.items()}
        sets = {name: pairs(args.benchmarks / name, scale, "bicubic", [], [])[1] for name in ("Set5", "Set14")}
        if scale == 8:
            sets["cats, held out"] = held_out(args.photos / "cats", "64to512")
        run: dict[str, Callable[[Image.Image], object]] = {
            kernel.name.lower(): classical(scale, kernel)
            for kernel in (Image.Resampling.BILINEAR, Image.Resampling.BICUBIC, Image.Resampling.LANCZOS)
        }
        run |= {name: Upscaler.of(chains.ways(networks, scale)[0], device="cpu") for name, networks in models.items()}
        fast = speeds(scale, run)
        scored = [row for name, triples in sets.items() for row in score(name, scale, triples, methods)]
        heading = [f"{name}, {scale}x" for name in sets]
        print(f"\n| | {' | '.join(heading)} | parameters | MP/s |\n|---|{'---|' * (len(sets) + 2)}")
        for method in methods:
            own = {row["set"]: row for row in scored if row["method"] == method}
            cells = [f"{own[s]['psnr_y']:.2f} / {own[s]['ssim_y']:.3f} / {own[s]['psnr_rgb']:.2f}" for s in sets]
            count, label = "", method
            if method in models:
                label += "" if method in shipped.names() else f" (`experiment={method}`)"
                way = chains.ways(models[method], scale)[0]
                count = f"{sum(p.numel() for net in way.networks for p in net.model.parameters()):,}"
            print(f"| {label} | {' | '.join(cells)} | {count} | {fast[method]:.1f} |", flush=True)
            rows += [{**row, "megapixels_per_second": fast[method]} for row in own.values()]
        if args.pictures:
            shown = {name: methods[name] for name in ("bicubic", *list(models)[:2])}
            columns(scale, shown, args.pictures / f"models_x{scale}.png")

    print("\nHeld-out photos, PSNR on Y (dB):")
    print(f"\n| photos | stage | pairs | bicubic | Lanczos | {' | '.join(models)} |\n|---|{'---|' * (4 + len(models))}")
    for root in sorted(path for path in args.photos.iterdir() if path.is_dir()):
        for stage in CROPS:
            scale = 8 if stage == "64to512" else 2
            methods = {name: method for name, method in baselines(scale).items() if name != "bilinear"}
            for name, networks in models.items():
                (own_network,) = [network for network in networks if network.stage == stage]
                methods[name] = Upscaler.of(chains.Way((own_network,)), device="cpu").tensor
            found = score(f"{root.name} {stage}", scale, held_out(root, stage), methods)
            cells = [f"{row['psnr_y']:.2f}" for row in found]
            print(f"| {root.name} | {stage} | {found[0]['images']} | {' | '.join(cells)} |", flush=True)
            rows += found
    if args.json:
        args.json.write_text(json.dumps(rows, indent=2) + "\n")


if __name__ == "__main__":
    with torch.inference_mode():
        main()
