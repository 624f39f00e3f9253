"""Measure upscalers as the field does: PSNR and SSIM of networks and baselines on sets of pictures."""

import itertools
import json
import math
import statistics
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from rich.console import Console
from rich.progress import track
from torch import Tensor

from upscale_lit import metrics, resample
from upscale_lit.files import whole
from upscale_lit.inference.choose import Way
from upscale_lit.inference.pictures import save_picture
from upscale_lit.inference.sets import Triple, folder_names, image_to_tensor
from upscale_lit.inference.upscaler import Upscaler
from upscale_lit.tables import markdown_table

Method = Callable[[Tensor], Tensor]  # uint8 (1, C, h, w), C = 1 for grey or 3 for RGB -> (1, C, factor * h, factor * w)

COLUMNS = {"psnr_y": metrics.psnr_y, "ssim_y": metrics.ssim_y, "psnr_rgb": metrics.psnr}
CONVENTION = (
    "Y is that of BT.601 (16 to 235), of pictures rounded to 8 bits; {scale} px are shaved off each border; PSNR in "
    "dB; SSIM with a Gaussian window of 11 px, sigma 1.5, inside the picture; of each picture, then the mean. Grey "
    "pictures are measured as they are. {low}"
)


def baselines(scale: int) -> dict[str, Method]:
    """The classical upscalers by name."""
    return {
        "bilinear": lambda low: resample.interpolate(low, scale, "bilinear"),
        "bicubic": lambda low: resample.interpolate(low, scale, "bicubic"),
        "lanczos": lambda low: lanczos(low, scale),
    }


def networks(upscalers: Mapping[Way, Upscaler], ensemble: bool) -> dict[str, Method]:
    """Networks by the short names of their files, or by their paths if two, or a baseline, share a short name.

    ensemble: measure `self_ensemble` of each, and say so in the names.
    """
    names = Counter([*(way.name for way in upscalers), *baselines(2)])
    methods = {way.name if names[way.name] == 1 else str(way): upscaler.tensor for way, upscaler in upscalers.items()}
    if ensemble:
        return {f"{name} (self-ensemble)": self_ensemble(method) for name, method in methods.items()}
    return {**methods}


def lanczos(low: Tensor, factor: int) -> Tensor:
    """Pillow's Lanczos: uint8 (1, C, h, w) -> uint8 (1, C, factor * h, factor * w), C = 1 or 3, on the CPU."""
    image = Image.fromarray(low[0].permute(1, 2, 0).squeeze(-1).numpy())
    image = image.resize((image.width * factor, image.height * factor), Image.Resampling.LANCZOS)
    return image_to_tensor(image)


def self_ensemble(method: Method) -> Method:
    """Average over the eight rotations and reflections of a picture (Lim et al. 2017, EDSR+)."""

    def upscale(low: Tensor) -> Tensor:
        total = torch.zeros(())
        for turns, mirrored in itertools.product(range(4), ([], [3])):
            high = method(torch.rot90(low, turns, (2, 3)).flip(mirrored))
            total = total + torch.rot90(high.flip(mirrored), -turns, (2, 3))
        return total / 8

    return upscale


def score(
    name: str, scale: int, triples: Iterable[Triple], methods: dict[str, Method], save: Path | None = None
) -> list[dict[str, Any]]:
    """A row for each method: set, method, scale, psnr_y, ssim_y, psnr_rgb (means over the pictures), images.

    save: a folder for the upscaled pictures of this set, as method/name.png.
    """
    values: dict[str, list[list[float]]] = {method: [] for method in methods}
    folders = folder_names(list(methods))
    console = Console(stderr=True)
    for stem, low, high in track(triples, name, console=console, transient=True, disable=not sys.stderr.isatty()):
        for method, upscale in methods.items():
            pred = resample.to_uint8(upscale(low))
            values[method].append([measure(pred, high, scale).item() for measure in COLUMNS.values()])
            if save:
                pixels = pred[0].permute(1, 2, 0).squeeze(-1).numpy()
                save_picture(Image.fromarray(pixels), save / folders[method] / f"{stem}.png")
    rows = []
    for method, measured in values.items():
        means = [statistics.fmean(column) for column in zip(*measured, strict=True)] or [math.nan] * len(COLUMNS)
        row = {"set": name, "method": method, "scale": scale, **dict(zip(COLUMNS, means, strict=True))}
        rows.append(row | {"images": len(measured)})
    return rows


def score_table(rows: Sequence[dict[str, Any]], convention: str) -> str:
    """The rows of `score` as a table in Markdown, followed by the convention."""
    heading = "set", "method", "scale", "PSNR on Y", "SSIM on Y", "PSNR on RGB", "images"
    forms = {"psnr_y": ".3f", "ssim_y": ".4f", "psnr_rgb": ".3f"}
    cells = ([format(value, forms.get(name, "")) for name, value in row.items()] for row in rows)
    return f"{markdown_table(heading, cells)}\n\n{convention}"


def write_json(path: Path, rows: Sequence[dict[str, Any]], convention: str) -> None:
    """Write {"convention": ..., "rows": [...]} atomically. Raises WriteError."""
    with whole(path) as part:
        part.write_text(json.dumps({"convention": convention, "rows": list(rows)}, indent=2) + "\n")
