"""Make the tables that compare the models: python tests/benchmarks/quality.py BENCHMARKS PHOTOS NAME=FOLDER [...]

BENCHMARKS is a folder that contains Set5 and Set14. PHOTOS is the folder of photos that the models were trained on. It
must contain a folder named cats. NAME is the name of a shipped model, or of the experiment that makes the weights.
FOLDER contains the model's four weights files, or is the name of a shipped model.

The first tables give PSNR, SSIM, parameters and speed at 2x and at 8x. At 2x, each picture is upscaled by the network
that `upscale-lit upscale` takes for its size. At 8x, the fine-tuned stack upscales. Speed is measured in output
megapixels per second on the CPU. All methods take turns, and a method's speed is the median of its turns.

The last table measures each stage's network on the held-out photos of each folder in PHOTOS, at the sizes of the stage.

`--json FILE` saves the rows of the tables. `--pictures DIR` writes parts of sample photographs at 100 %. Their columns
are bicubic, the first two models and the ground truth.
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
from upscale_lit.inference.sets import Pair, pairs
from upscale_lit.inference.upscaler import Upscaler
from upscale_lit.launch.build import build_data
from upscale_lit.launch.start import Start

TURNS = 7
SIDE = 208  # px, the side of each part of a photograph: four parts are as wide as a page on GitHub
PARTS = {  # for each scale: (photograph, left, top) of each part
    2: [("chelsea", 100, 72), ("astronaut", 112, 296), ("rocket", 432, 200)],
    8: [("chelsea", 96, 72), ("astronaut", 128, 0)],
}
SPEED_SIZES = {2: (1024, 768), 8: (320, 240)}  # (width, height) of the low picture that is timed


def product(networks: list[chains.Network], scale: int) -> Method:
    """Return a method that upscales with the networks that `upscale-lit upscale` takes."""
    ways = chains.ways(networks, scale)
    upscalers = {way: Upscaler.of(way, device="cpu") for way in ways}
    return lambda low, lossy: upscalers[chains.nearest(ways, min(low.shape[-2:]))].tensor(low, lossy)


def held_out(root: Path, stage: str) -> Iterator[Pair]:
    """Return the validation pairs on which train.py measures a stage."""
    factor = 8 if stage == "64to512" else 2
    cfg = composed(f"stage={stage}", "data=folder", f"data.root='{root}'")
    data = build_data(cfg, Start())
    return (Pair(str(number), resample.downscale(high, factor), high) for number, high in enumerate(data.squares))


def speeds(scale: int, methods: dict[str, Callable[[Image.Image], object]]) -> dict[str, float]:
    """Return the output megapixels per second of each method, from a Pillow picture to a picture."""
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
    """Write an image with a row for each part, a column for each method, and a column for the ground truth."""
    rows = []
    for name, left, top in PARTS[scale]:
        high = torch.from_numpy(getattr(pictures, name)()).permute(2, 0, 1)[None]
        high = high[..., : high.shape[-2] // scale * scale, : high.shape[-1] // scale * scale]
        low = resample.downscale(high, scale)
        for picture in (*(method(low, None) for method in methods.values()), high):
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
        scored = [row for name, found in sets.items() for row in score(name, scale, found, methods)]
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
        if args.pictures and scale == 8:
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
