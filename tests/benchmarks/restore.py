"""Measure the shipped networks on compressed and noisy pictures: python tests/benchmarks/restore.py BENCHMARKS PHOTOS

BENCHMARKS is a folder that contains Set5 and Set14. PHOTOS is the folder of photos that the models were trained on; the
held-out photos of each of its subfolders are measured, shrunk to a shorter side of 512 px.

The low pictures are degraded as `upscale-lit evaluate --degrade` does it. A table for each scale gives PSNR on Y for
bicubic / Lanczos / the clean set / the robust set / the automatic choice. Its last columns compare the automatic choice
with the better of the clean set and Lanczos, and with the best fixed amount, in the set where it compares worst.

The last table gives the best fixed amount of each degradation on the held-out photos, from which the rows in
upscale_lit/inference/restore.py follow. `--json FILE` saves the means of all amounts. `--picture FILE` only draws parts
of sample photographs at 100 %. Each was halved and saved as JPEG of quality 60. The columns are the input (enlarged
without interpolation), bicubic, the clean set, the robust set and the ground truth.
"""

import argparse
import json
import statistics
import time
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import torch
from skimage import data
from torchvision.utils import make_grid, save_image

from upscale_lit import metrics, resample
from upscale_lit.allocator import keep_freed_memory
from upscale_lit.data.listing import list_photos
from upscale_lit.data.photo import PhotoError, read_photo
from upscale_lit.data.split import split_photos
from upscale_lit.inference import choose as chains
from upscale_lit.inference.degrade import degrade_of
from upscale_lit.inference.evaluate import baselines
from upscale_lit.inference.sets import Pair, degraded, pairs
from upscale_lit.inference.upscaler import Upscaler

KINDS = [
    "clean", "jpeg:95", "jpeg:90", "jpeg:75", "jpeg:60", "jpeg:50", "jpeg:30", "jpeg:75:444", "webp:95", "webp:80",
    "webp:60", "webp:40", "noise:3", "noise:10", "jpeg:40+jpeg:95",
]  # fmt: skip
SIDE = 512  # px
COLUMNS = ("bicubic", "lanczos", "clean", "robust", "automatic")
PARTS = [("chelsea", 110, 72), ("astronaut", 112, 0), ("rocket", 250, 240)]  # (photograph, left, top) of each part
PART = 160  # px, the side of each part
Means = dict[tuple[int, str, str], dict[str, float]]  # by scale, degradation and set, by method


def held_out(folder: Path, count: int) -> list[torch.Tensor]:
    """Return up to `count` held-out photos of a folder: uint8 (1, 3, SIDE, SIDE), or smaller."""
    photos, levels = [], {}
    for path in list_photos(folder)[0]:
        try:
            photo, (level, *_) = read_photo(path, keep=SIDE)
        except PhotoError:
            continue
        photos.append(photo)
        levels[photo.digest] = level
    chosen = split_photos(photos, 0.1)[1][:count]
    return [torch.from_numpy(levels[photo.digest][:SIDE, :SIDE].copy()).permute(2, 0, 1)[None] for photo in chosen]


def made_pairs(photos: list[torch.Tensor], scale: int) -> Iterator[Pair]:
    for number, photo in enumerate(photos):
        high = photo[..., : photo.shape[-2] // 8 * 8, : photo.shape[-1] // 8 * 8]
        yield Pair(str(number), resample.downscale(high, scale), high)


def measure(found: Iterator[Pair], scale: int, ways: dict[chains.Way, list[Upscaler]]) -> dict[str, float]:
    """Return the mean PSNR on Y of each baseline, of each amount ("0.3") and of the automatic choice."""
    values: dict[str, list[float]] = defaultdict(list)
    chosen = Upscaler.of(next(iter(ways)), device="cpu")
    for pair in found:
        methods = {name: method(pair.low, None) for name, method in baselines(scale).items() if name in COLUMNS}
        fixed = ways[chains.nearest(list(ways), min(pair.low.shape[-2:]))]
        methods |= {f"{upscaler.restore:g}": upscaler.tensor(pair.low) for upscaler in fixed}
        for name, pred in methods.items():
            values[name].append(float(metrics.psnr_y(resample.to_uint8(pred), pair.high, scale)))
        values["automatic"].append(values[f"{chosen.amount(pair.lossy):g}"][-1])
    means = {name: statistics.fmean(column) for name, column in values.items()}
    return means | {"clean": means["0"], "robust": means["1"]}


def table(means: Means, scale: int, kinds: list[str], sets: list[str]) -> str:
    lines = [f"| {scale}x | {' | '.join(sets)} | next to the better of clean and Lanczos | next to the best amount |"]
    lines += [f"|---|{'---|' * (len(sets) + 2)}"]
    for kind in kinds:
        rows = [means[scale, kind, name] for name in sets]
        cells = [" / ".join(f"{row[column]:.2f}" for column in COLUMNS) for row in rows]
        better = min(row["automatic"] - max(row["clean"], row["lanczos"]) for row in rows)
        best = min(row["automatic"] - max(row[name] for name in row if name[0].isdigit()) for row in rows)
        lines.append(f"| {kind} | {' | '.join(cells)} | {better:+.2f} | {best:+.2f} |")
    return "\n".join(lines)


def best_amounts(means: Means, kind: str, sets: list[str], scales: list[int]) -> str:
    """Return a row with the amount of the highest mean PSNR over the sets, for each scale."""
    cells = []
    for scale in scales:
        rows = [means[scale, kind, name] for name in sets]
        amounts = [name for name in rows[0] if name[0].isdigit()]
        cells.append(max(amounts, key=lambda amount: statistics.fmean(row[amount] for row in rows)))
    return f"| {kind} | {' | '.join(cells)} |"


def draw(networks: list[chains.Network], path: Path) -> None:
    """Write an image with a row for each part of a photograph."""
    way = chains.nearest(chains.ways(networks, 2), 256)
    clean, robust = (Upscaler.of(way, device="cpu", restore=amount) for amount in (0, 1))
    methods = [
        lambda low: low.repeat_interleave(2, -2).repeat_interleave(2, -1),
        lambda low: resample.interpolate(low, 2, "bicubic"),
        clean.tensor,
        robust.tensor,
    ]
    cells = []
    for name, left, top in PARTS:
        high = torch.from_numpy(getattr(data, name)()).permute(2, 0, 1)[None]
        high = high[..., : high.shape[-2] // 2 * 2, : high.shape[-1] // 2 * 2]
        (pair,) = degraded(iter([Pair(name, resample.downscale(high, 2), high)]), degrade_of("jpeg:60"))
        for picture in (*(method(pair.low) for method in methods), high):
            cells.append(resample.to_float(picture)[..., top : top + PART, left : left + PART])
    save_image(make_grid(torch.cat(cells), nrow=len(methods) + 1, padding=4, pad_value=1.0), path)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("benchmarks", type=Path, nargs="?")
    parser.add_argument("photos", type=Path, nargs="?")
    parser.add_argument("--model", type=Path, nargs="+", default=[], help="weights (the default shipped model)")
    parser.add_argument("--restore-with", type=Path, nargs="+", default=[])
    parser.add_argument("--scales", type=int, nargs="+", default=[2, 4, 8])
    parser.add_argument("--degrade", nargs="+", default=KINDS)
    parser.add_argument("--photos-per-folder", type=int, default=8)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--picture", type=Path)
    args = parser.parse_args()
    keep_freed_memory()
    networks = chains.find(args.model, args.restore_with)
    if args.picture:
        draw(networks, args.picture)
        return
    if args.photos is None:
        parser.error("Name the folders BENCHMARKS and PHOTOS.")
    folders = sorted(path for path in args.photos.iterdir() if path.is_dir())
    photos = {path.name: held_out(path, args.photos_per_folder) for path in folders}
    sets = ["Set5", "Set14", *photos]
    means: Means = {}
    for scale in args.scales:
        amounts = [number / 10 for number in range(11)]
        ways = {
            way: [Upscaler.of(way, device="cpu", restore=amount) for amount in amounts]
            for way in chains.ways(networks, scale)
        }
        begin = time.monotonic()
        for kind in args.degrade:
            for name in sets:
                found = (
                    made_pairs(photos[name], scale)
                    if name in photos
                    else pairs(args.benchmarks / name, scale, "bicubic", [], [])[1]
                )
                means[scale, kind, name] = measure(degraded(found, degrade_of(kind)), scale, ways)
        print(table(means, scale, args.degrade, sets), f"\n\n{time.monotonic() - begin:.0f} s\n", flush=True)
    print(f"| best amount | {' | '.join(f'{scale}x' for scale in args.scales)} |\n|---|{'---|' * len(args.scales)}")
    for kind in args.degrade:
        print(best_amounts(means, kind, list(photos), args.scales))
    if args.json:
        rows = [{"scale": s, "degradation": kind, "set": name, **means[s, kind, name]} for s, kind, name in means]
        args.json.write_text(json.dumps(rows, indent=2) + "\n")


if __name__ == "__main__":
    with torch.inference_mode():
        main()
