"""How good upscaling is, in the field's terms: tables for folders of pictures and for benchmarks."""

import itertools
import json
import math
import os
import re
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from rich.console import Console
from rich.progress import track
from torch import Tensor

from upscale_lit import metrics, resample
from upscale_lit.data.photo import SUFFIXES, PhotoError
from upscale_lit.data.sources import list_photos, skipped
from upscale_lit.errors import InputError, shown
from upscale_lit.files import whole
from upscale_lit.inference.choose import Way
from upscale_lit.inference.pairing import TRUTH, match_finished, match_low
from upscale_lit.inference.pictures import on_white, read_picture, save_picture, shallow
from upscale_lit.inference.upscaler import Upscaler

Method = Callable[[Tensor], Tensor]  # uint8 (1, C, h, w), C = 1 for grey or 3 for RGB -> (1, C, factor * h, factor * w)
Triple = tuple[str, Tensor, Tensor]  # a picture's name, low or pred, high

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
    """Networks by the short names of their files, or by their paths when two, or a baseline, have the same.

    ensemble: measure `self_ensemble` of each; the names say so.
    """
    names = Counter([*(way.name for way in upscalers), *baselines(2)])
    methods: dict[str, Method] = {}
    for way, upscaler in upscalers.items():
        name = way.name if names[way.name] == 1 else str(way)
        if ensemble:
            methods[f"{name} (self-ensemble)"] = self_ensemble(upscaler.tensor)
        else:
            methods[name] = upscaler.tensor
    return methods


def lanczos(low: Tensor, factor: int) -> Tensor:
    """Pillow's, with three lobes: uint8 (1, C, h, w) -> uint8 (1, C, factor * h, factor * w), C = 1 or 3."""
    image = Image.fromarray(low[0].permute(1, 2, 0).squeeze(-1).numpy())
    image = image.resize((image.width * factor, image.height * factor), Image.Resampling.LANCZOS)
    return _tensor(image)


def self_ensemble(method: Method) -> Method:
    """The mean over the eight turned and mirrored pictures, turned back (Lim et al. 2017, EDSR+)."""

    def upscale(low: Tensor) -> Tensor:
        total = torch.zeros(())
        for turns in range(4):
            for mirrored in (False, True):
                view = torch.rot90(low, turns, (2, 3))
                high = method(view.flip(3) if mirrored else view)
                total = total + torch.rot90(high.flip(3) if mirrored else high, -turns, (2, 3))
        return total / 8

    return upscale


def set_names(folders: Sequence[Path]) -> dict[Path, str]:
    """Folders, each once, with the names of their sets: the folder's own, after those above it if others share it."""
    given: dict[Path, Path] = {}
    for folder in folders:
        given.setdefault(Path(os.path.realpath(folder)), folder)
    names = {}
    for real, folder in given.items():
        others, length = [other.parts for other in given if other != real], 1
        while any(other[-length:] == real.parts[-length:] for other in others):
            length += 1
        names[folder] = str(Path(*real.parts[-length:]))
    return names


def pairs(
    folder: Path, scale: int, kernel: str, troubles: list[str], others: list[Path] | None = None
) -> tuple[str, Iterator[Triple]]:
    """(a sentence on a set's low pictures, (name, low, high) of each picture).

    A folder of high pictures, or one with HR and LR_bicubic_x2 (for scale 2) in it; if there is no such folder of low
    ones, they are made by `resample.downscale`. high is cropped to multiples of the scale. A name is the file's
    without its ending, or with it when two pictures would have the same. Files that cannot be used become sentences in
    `troubles`; those that are no pictures by their names are added to `others`. Raises InputError when a folder is
    missing or holds no picture.
    """
    high_folder = folder / "HR" if os.path.isdir(folder / "HR") else folder
    places = (folder / f"LR_bicubic_x{scale}", folder / "LR_bicubic" / f"X{scale}")
    low_folder = next((place for place in places if os.path.isdir(place)), None)
    paths = _pictures(high_folder, others)
    stems = Counter(path.stem.casefold() for path in paths)
    names = {path: path.stem if max(stems.values()) == 1 else path.name for path in paths}
    twins, unclear = match_low(paths, _pictures(low_folder, others), scale) if low_folder else ({}, {})

    def triples() -> Iterator[Triple]:
        for path in paths:
            try:
                high = _read(path)
                if low_folder is None:
                    height, width = (side // scale * scale for side in high.shape[-2:])
                    high = high[..., :height, :width]
                    _refuse_small(path, high, scale)
                    low = resample.downscale(high, scale, kernel)
                else:
                    if path in unclear:
                        raise InputError(_unclear(path, low_folder, unclear[path]))
                    if path not in twins:
                        raise InputError(
                            f"{shown(path)}: {low_folder} holds no picture of this name; add or remove it."
                        )
                    low, high = _same_kind(_read(twins[path]), high)
                    high = _cropped(path, high, [side * scale for side in low.shape[-2:]], scale)
                    _refuse_small(path, high, scale)
            except InputError as error:
                troubles.append(str(error))
                continue
            yield names[path], low, high

    made = f"Low pictures: antialiased {kernel} downscaling"
    return f"Low pictures: {low_folder.relative_to(folder)}." if low_folder else f"{made}.", triples()


def compared(
    truth: Path, pictures: Path, scale: int, troubles: list[str], others: list[Path] | None = None
) -> tuple[list[str], Iterator[Triple]]:
    """(pairs whose names differ by an unusual suffix; (name, picture, truth) of finished pictures and what they should
    be), by `pairing`. Both may lie in one folder, with _HR or _GT in the names of the truths.

    Files that cannot be used become sentences in `troubles`; those that are no pictures by their names are added to
    `others`. Raises InputError when a folder is missing or holds nothing that belongs together.
    """
    truths = _pictures(truth, others)
    if os.path.realpath(truth) == os.path.realpath(pictures):
        truths = [path for path in truths if TRUTH.search(path.stem)] or truths
        found = [path for path in _pictures(truth) if path not in truths]
    else:
        found = _pictures(pictures, others)
    matches, unusual, unclear = match_finished(truths, found, scale)
    missing = [_unclear(path, pictures, unclear.get(path, [])) for path in truths if path not in matches]
    if not matches:
        raise InputError(
            f"No picture in {pictures} belongs to one in {truth}; their names should agree, but for a suffix such as "
            f"_SR, -x2 or .out. {missing[0]}"
        )
    troubles += missing

    def triples() -> Iterator[Triple]:
        for path, made in matches.items():
            try:
                picture, high = _same_kind(_read(made), _read(path))
                high = _cropped(path, high, picture.shape[-2:], scale)
                _refuse_small(path, high, scale)
            except InputError as error:
                troubles.append(str(error))
                continue
            yield path.stem, picture, high

    return [f"{shown(path)} with {shown(matches[path])}" for path in unusual], triples()


def _unclear(path: Path, folder: Path, candidates: Sequence[Path]) -> str:
    names = ", ".join(shown(Path(other.name)) for other in candidates) or "none"
    shared = ", which may also belong to another one" if len(candidates) == 1 else ""
    return f"{shown(path)}: {folder} should hold one picture of it; found {names}{shared}."


def score(
    name: str, scale: int, triples: Iterator[Triple], methods: dict[str, Method], save: Path | None = None
) -> list[dict[str, Any]]:
    """A row for each method: set, method, scale, psnr_y, ssim_y, psnr_rgb (means over the pictures), images.

    save: a folder for the upscaled pictures of this set, as method/name.png.
    """
    values: dict[str, list[list[float]]] = {method: [] for method in methods}
    folders = folder_names(list(methods))
    for stem, low, high in track(
        triples, name, console=Console(stderr=True), transient=True, disable=not sys.stderr.isatty()
    ):
        for method, upscale in methods.items():
            pred = resample.to_uint8(upscale(low))
            values[method].append([measure(pred, high, scale).item() for measure in COLUMNS.values()])
            if save:
                pixels = pred[0].permute(1, 2, 0).squeeze(-1).numpy()
                save_picture(Image.fromarray(pixels), save / folders[method] / f"{stem}.png")
    rows = []
    for method, measured in values.items():
        count = len(measured)
        means = [sum(column) / count for column in zip(*measured, strict=True)] if count else [math.nan] * len(COLUMNS)
        rows.append(
            {"set": name, "method": method, "scale": scale, **dict(zip(COLUMNS, means, strict=True)), "images": count}
        )
    return rows


def folder_names(names: Sequence[str], wrong: str = r"[^\w.+() -]|^\.+") -> dict[str, str]:
    """A name of a folder for each name, none of them twice, by letter case either; `wrong` becomes _."""
    folders: dict[str, str] = {}
    for name in names:
        plain = re.sub(wrong, "_", name)
        taken = {folder.casefold() for folder in folders.values()}
        numbered = (plain if number == 1 else f"{plain} ({number})" for number in itertools.count(1))
        folders[name] = next(folder for folder in numbered if folder.casefold() not in taken)
    return folders


def table(rows: Sequence[dict[str, Any]], convention: str) -> str:
    """The rows in Markdown, the convention under them."""
    lines = [
        "| set | method | scale | PSNR on Y | SSIM on Y | PSNR on RGB | images |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        lines.append(
            f"| {row['set']} | {row['method']} | {row['scale']} | {row['psnr_y']:.3f} | {row['ssim_y']:.4f} "
            f"| {row['psnr_rgb']:.3f} | {row['images']} |"
        )
    return "\n".join([*lines, "", convention])


def write_json(path: Path, rows: Sequence[dict[str, Any]], convention: str) -> None:
    """{"convention": ..., "rows": [...]}, whole or not at all. Raises WriteError."""
    with whole(path) as part:
        part.write_text(json.dumps({"convention": convention, "rows": list(rows)}, indent=2) + "\n")


def _pictures(folder: Path, others: list[Path] | None = None) -> list[Path]:
    """The pictures in a folder; adds its other files to `others`."""
    if not os.path.isdir(folder):
        raise InputError(f"There should be a folder of pictures at {shown(folder)}; found none.")
    paths, files = list_photos(folder)
    if not paths:
        rest = f" {skipped(files)}." if files else ""
        raise InputError(f"There should be pictures ({' '.join(SUFFIXES)}) in {shown(folder)}; found none.{rest}")
    if others is not None:
        others += files
    return paths


def _read(path: Path) -> Tensor:
    """uint8 (1, 1, H, W) for grey, (1, 3, H, W) otherwise; transparency over white."""
    return _tensor(shallow(on_white(read_picture(path)[0])))


def _tensor(image: Image.Image) -> Tensor:
    values = np.array(image).reshape(image.height, image.width, -1)
    return torch.from_numpy(values).permute(2, 0, 1)[None]


def _same_kind(low: Tensor, high: Tensor) -> tuple[Tensor, Tensor]:
    """Grey counts as grey where the truth is grey, whatever the other one was saved as."""
    if high.shape[1] == 1 and low.shape[1] == 3:
        low = low.float().mean(dim=1, keepdim=True).round().byte()
    return low.expand(-1, high.shape[1], -1, -1), high


def _cropped(path: Path, high: Tensor, size: Sequence[int], scale: int) -> Tensor:
    """The truth, cropped to what its other picture shows: less than `scale` pixels a side may be missing there."""
    height, width = size
    spare = high.shape[-2] - height, high.shape[-1] - width
    if not all(0 <= side < scale for side in spare):
        raise PhotoError(
            path, "size", f"its size is {high.shape[-1]}x{high.shape[-2]}; its twin asks for {width}x{height}",
            "check the scale, -s, and that the two belong together",
        )  # fmt: skip
    return high[..., :height, :width]


def _refuse_small(path: Path, high: Tensor, scale: int) -> None:
    if min(high.shape[-2:]) < metrics.WINDOW + 2 * scale:
        raise PhotoError(
            path, "size", f"it is too small to measure with its {high.shape[-1]}x{high.shape[-2]} px",
            f"take pictures of at least {metrics.WINDOW + 3 * scale} px a side",
        )  # fmt: skip
