"""Measure the PSNR and SSIM of networks and baselines on sets of pictures, by the convention of published papers."""

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
from upscale_lit.files import atomic
from upscale_lit.inference.choose import Way
from upscale_lit.inference.evaluation_page import EvaluationPage, image_of
from upscale_lit.inference.pictures import save_picture
from upscale_lit.inference.quality import Lossy
from upscale_lit.inference.sets import Pair, folder_names, image_to_tensor
from upscale_lit.inference.upscaler import Upscaler
from upscale_lit.tables import markdown_table

# A method maps a uint8 tensor (1, C, h, w) to a tensor (1, C, factor * h, factor * w) on the CPU. The result is uint8,
# or float from 0 to 1. C is 1 for grey and 3 for RGB. The second argument describes how the picture was compressed.
Method = Callable[[Tensor, Lossy | None], Tensor]

COLUMNS = {"psnr_y": metrics.psnr_y, "ssim_y": metrics.ssim_y, "psnr_rgb": metrics.psnr}
HEADING = ("set", "method", "scale", "PSNR on Y", "SSIM on Y", "PSNR on RGB", "images")
CONVENTION = (
    "Pictures are rounded to 8 bits, and {scale} px are shaved off each border. Y is the luma of BT.601, from 16 to "
    "235. Grey pictures are measured without conversion. PSNR is in dB. SSIM has a Gaussian window of 11 px with "
    "sigma 1.5, and every window is inside the picture. Each value is the mean over all pictures. {low}"
)


def baselines(scale: int) -> dict[str, Method]:
    """Return a dict from the names bilinear, bicubic and Lanczos to functions that upscale by `scale`."""
    return {
        "bilinear": lambda low, lossy: resample.interpolate(low, scale, "bilinear"),
        "bicubic": lambda low, lossy: resample.interpolate(low, scale, "bicubic"),
        "lanczos": lambda low, lossy: lanczos(low, scale),
    }


def networks(upscalers: Mapping[Way, Upscaler], ensemble: bool) -> dict[str, Method]:
    """Return a dict from the name of each network to a function that upscales with it.

    The name of a way is the short name of its weights files. If another way or a baseline has the same short name, the
    paths of the weights files are the name.
    ensemble: return the `self_ensemble` of each method, and append "(self-ensemble)" to each name.
    """
    names = Counter([*(way.name for way in upscalers), *baselines(2)])
    methods = {way.name if names[way.name] == 1 else str(way): upscaler.tensor for way, upscaler in upscalers.items()}
    if ensemble:
        return {f"{name} (self-ensemble)": self_ensemble(method) for name, method in methods.items()}
    return {**methods}


def lanczos(low: Tensor, factor: int) -> Tensor:
    """Upscale a picture by `factor` with Pillow's Lanczos filter.

    uint8 (1, C, h, w) -> uint8 (1, C, factor * h, factor * w), both on the CPU. C is 1 or 3.
    """
    image = Image.fromarray(low[0].permute(1, 2, 0).squeeze(-1).numpy())
    image = image.resize((image.width * factor, image.height * factor), Image.Resampling.LANCZOS)
    return image_to_tensor(image)


def self_ensemble(method: Method) -> Method:
    """Return a method that averages the results for the eight rotations and reflections of a picture.

    Each result is rotated and reflected back before the mean is computed. Lim et al. (2017) introduced this
    self-ensemble with EDSR+. method: must return float pixels.
    """

    def upscale(low: Tensor, lossy: Lossy | None) -> Tensor:
        total = torch.zeros(())
        for turns, mirrored in itertools.product(range(4), ([], [3])):
            high = method(torch.rot90(low, turns, (2, 3)).flip(mirrored), lossy)
            total = total + torch.rot90(high.flip(mirrored), -turns, (2, 3))
        return total / 8

    return upscale


def score(
    name: str,
    scale: int,
    pairs: Iterable[Pair],
    methods: dict[str, Method],
    save: Path | None = None,
    page: EvaluationPage | None = None,
) -> list[dict[str, Any]]:
    """Measure all methods on a set of pictures, and return one row for each method.

    A row is a dict with the keys set, method, scale, psnr_y, ssim_y, psnr_rgb and images. PSNR and SSIM are means over
    the pictures, or NaN for a set without pictures. `images` is the number of pictures.
    name: the name of the set.
    save: a folder for the upscaled pictures of this set. The pictures are named METHOD/NAME.png.
    page: receives the pictures of this set.
    """
    values: dict[str, list[list[float]]] = {method: [] for method in methods}
    folders = folder_names(list(methods))
    console = Console(stderr=True)
    for stem, low, high, lossy in track(pairs, name, console=console, transient=True, disable=not sys.stderr.isatty()):
        preds = {}
        for method, upscale in methods.items():
            pred = resample.to_uint8(upscale(low, lossy))
            values[method].append([measure(pred, high, scale).item() for measure in COLUMNS.values()])
            if save:
                save_picture(image_of(pred), save / folders[method] / f"{stem}.png")
            if page:
                preds[method] = pred
        if page:
            page.add(name, Pair(stem, low, high, lossy), preds, {method: values[method][-1] for method in preds})
    rows = []
    for method, measured in values.items():
        means = [statistics.fmean(column) for column in zip(*measured, strict=True)] or [math.nan] * len(COLUMNS)
        row = {"set": name, "method": method, "scale": scale, **dict(zip(COLUMNS, means, strict=True))}
        rows.append(row | {"images": len(measured)})
    return rows


def score_table(rows: Sequence[dict[str, Any]], convention: str) -> str:
    """Return the rows of `score` as a table in Markdown, followed by the convention."""
    return f"{markdown_table(HEADING, score_cells(rows))}\n\n{convention}"


def score_cells(rows: Sequence[dict[str, Any]]) -> list[list[str]]:
    """Return the rows of `score` as texts, in the columns of HEADING."""
    forms = {"psnr_y": ".3f", "ssim_y": ".4f", "psnr_rgb": ".3f"}
    return [[format(value, forms.get(name, "")) for name, value in row.items()] for row in rows]


def write_json(path: Path, rows: Sequence[dict[str, Any]], convention: str) -> None:
    """Write {"convention": ..., "rows": [...]} to a JSON file, atomically.

    Raises WriteError if the file cannot be written.
    """
    with atomic(path) as part:
        part.write_text(json.dumps({"convention": convention, "rows": list(rows)}, indent=2) + "\n")
