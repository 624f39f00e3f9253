"""Find the pictures to measure: folders of high pictures, public benchmarks, and finished pictures to compare."""

import itertools
import os
import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from upscale_lit import metrics, resample
from upscale_lit.data.listing import list_photos, skipped
from upscale_lit.data.photo import SUFFIXES, PhotoError
from upscale_lit.errors import InputError, shown
from upscale_lit.inference.degrade import Degrade
from upscale_lit.inference.pairing import TRUTH, match_finished, match_low
from upscale_lit.inference.pictures import on_white, read_picture, shallow
from upscale_lit.inference.quality import Lossy

Read = Callable[[Path], tuple[Tensor, Tensor, Lossy | None]]


class Pair(NamedTuple):
    """A picture to measure. name: of the picture. low: the low or the finished picture. high: the truth.

    Both are uint8, (1, C, h, w), with C = 1 for grey and 3 for RGB. lossy: how the file of `low` was compressed.
    """

    name: str
    low: Tensor
    high: Tensor
    lossy: Lossy | None = None


def set_names(folders: Sequence[Path]) -> dict[Path, str]:
    """Return each folder once, with the name that its set of pictures has in a table.

    A set has the name of its folder. If several folders have the same name, the names of their parents come before it.
    """
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


def pairs(folder: Path, scale: int, kernel: str, troubles: list[str], others: list[Path]) -> tuple[str, Iterator[Pair]]:
    """Return a sentence that describes the low pictures of a set, and an iterator over its pairs.

    The sides of `high` are `scale` times those of `low`.
    folder: a folder of high pictures, or a benchmark with the folders HR and LR_bicubic_x2 or LR_bicubic/X2 (for scale
        2). Without a folder of low pictures, `resample.downscale` makes low pictures from the high pictures, which are
        first cropped to multiples of the scale.
    kernel: the kernel of this downscale.
    troubles: receives a sentence for each file that cannot be used.
    others: receives the files whose names do not end like those of pictures.
    A picture has the name of its file without the ending. If two files of a set have the same name without the ending,
    all names of the set keep the ending.
    Raises InputError if a folder is missing or holds no picture.
    """
    high_folder = folder / "HR" if os.path.isdir(folder / "HR") else folder
    places = (folder / f"LR_bicubic_x{scale}", folder / "LR_bicubic" / f"X{scale}")
    low_folder = next((place for place in places if os.path.isdir(place)), None)
    paths = _pictures(high_folder, others)
    stems = Counter(path.stem.casefold() for path in paths)
    names = {path: path.stem if max(stems.values()) == 1 else path.name for path in paths}
    low_paths, unclear = match_low(paths, _pictures(low_folder, others), scale) if low_folder else ({}, {})

    def low_and_high(path: Path) -> tuple[Tensor, Tensor, Lossy | None]:
        high, _ = _read(path)
        if low_folder is None:
            high = _cropped(path, high, [side // scale * scale for side in high.shape[-2:]], scale)
            return resample.downscale(high, scale, kernel), high, None
        if path in unclear:
            raise InputError(_unclear(path, low_folder, unclear[path]))
        if path not in low_paths:
            raise InputError(
                f"{shown(path)}: {low_folder} holds no low picture of this name. Add one, or remove the high picture."
            )
        low, lossy = _read(low_paths[path])
        low, high = _same_kind(low, high)
        return low, _cropped(path, high, [side * scale for side in low.shape[-2:]], scale), lossy

    low_pictures = low_folder.relative_to(folder) if low_folder else f"antialiased {kernel} downscaling"
    return f"Low pictures: {low_pictures}.", _pairs(names, low_and_high, troubles)


def degraded(found: Iterator[Pair], degrade: Degrade) -> Iterator[Pair]:
    """Yield the pairs with degraded low pictures."""
    for pair in found:
        pixels, lossy = degrade(pair.low[0].permute(1, 2, 0).squeeze(-1).numpy(), pair.name)
        lossy = lossy if degrade.steps else pair.lossy
        yield pair._replace(low=image_to_tensor(Image.fromarray(pixels)), lossy=lossy)


def compared(
    truth: Path, pictures: Path, scale: int, troubles: list[str], others: list[Path]
) -> tuple[list[str], Iterator[Pair]]:
    """Return the pairs whose names differ by an unusual suffix, and an iterator over all pairs.

    truth, pictures: the folders of the truths and of the finished pictures; pairing.py matches them. Both may be the
        same folder if the names of the truths end in _HR or _GT.
    troubles: receives a sentence for each file that cannot be used.
    others: receives the files whose names do not end like those of pictures.
    Raises InputError if a folder is missing or no picture belongs to a truth.
    """
    together = os.path.realpath(truth) == os.path.realpath(pictures)
    truths, found = _pictures(truth, others), _pictures(truth if together else pictures, others)
    if together:
        truths = [path for path in truths if TRUTH.search(path.stem)] or truths
        found = [path for path in found if path not in truths]
    matches, unusual, unclear = match_finished(truths, found, scale)
    missing = [_unclear(path, pictures, unclear.get(path, [])) for path in truths if path not in matches]
    if not matches:
        raise InputError(
            f"No picture in {pictures} belongs to a picture in {truth}; their names must be equal, except for a suffix "
            f"such as _SR, -x2 or .out. {missing[0]}"
        )
    troubles += missing

    def made_and_truth(path: Path) -> tuple[Tensor, Tensor, None]:
        made, high = _same_kind(_read(matches[path])[0], _read(path)[0])
        return made, _cropped(path, high, made.shape[-2:], scale), None

    names = {path: path.stem for path in matches}
    unusual_pairs = [f"{shown(path)} with {shown(matches[path])}" for path in unusual]
    return unusual_pairs, _pairs(names, made_and_truth, troubles)


def _pairs(names: Mapping[Path, str], read: Read, troubles: list[str]) -> Iterator[Pair]:
    """Yield the pictures with their names, read one at a time. Files that cannot be used are added to `troubles`."""
    for path, name in names.items():
        try:
            pair = Pair(name, *read(path))
        except InputError as error:
            troubles.append(str(error))
        else:
            yield pair


def _unclear(path: Path, folder: Path, candidates: Sequence[Path]) -> str:
    names = ", ".join(shown(Path(other.name)) for other in candidates) or "none"
    shared = ", which may also belong to another picture" if len(candidates) == 1 else ""
    return f"{shown(path)}: {folder} must hold one picture that belongs to this file; got {names}{shared}."


def folder_names(names: Sequence[str], wrong: str = r"[^\w.+() -]|^\.+") -> dict[str, str]:
    """Return a folder name for each name. No two folder names are equal, even if letter case is ignored.

    wrong: the pattern of characters that become _.
    """
    folders: dict[str, str] = {}
    for name in names:
        plain = re.sub(wrong, "_", name)
        taken = {folder.casefold() for folder in folders.values()}
        numbered = (plain if number == 1 else f"{plain} ({number})" for number in itertools.count(1))
        folders[name] = next(folder for folder in numbered if folder.casefold() not in taken)
    return folders


def _pictures(folder: Path, others: list[Path]) -> list[Path]:
    """Return the pictures in a folder, and add its other files to `others`."""
    if not os.path.isdir(folder):
        raise InputError(f"There is no folder of pictures at {shown(folder)}. Check the path.")
    paths, files = list_photos(folder)
    if not paths:
        rest = f" {skipped(files)}." if files else ""
        raise InputError(f"{shown(folder)} must hold pictures ({' '.join(SUFFIXES)}); got none.{rest}")
    others += files
    return paths


def _read(path: Path) -> tuple[Tensor, Lossy | None]:
    """Return a picture as uint8, (1, 1, H, W) for grey and (1, 3, H, W) otherwise, and how it was compressed.

    Transparency is laid over white.
    """
    picture, _ = read_picture(path)
    return image_to_tensor(shallow(on_white(picture))), picture.info["lossy"]


def image_to_tensor(image: Image.Image) -> Tensor:
    """Convert a picture of mode L or RGB to uint8, (1, C, H, W), on the CPU, with C = 1 or 3."""
    values = np.array(image).reshape(image.height, image.width, -1)
    return torch.from_numpy(values).permute(2, 0, 1)[None]


def _same_kind(low: Tensor, high: Tensor) -> tuple[Tensor, Tensor]:
    """Return a picture with the channels of its truth, and the truth, both uint8 (1, C, h, w).

    If the truth is grey and the picture is RGB, the picture becomes the mean of its channels. If the truth is RGB and
    the picture is grey, the grey channel is repeated.
    """
    if high.shape[1] == 1 and low.shape[1] == 3:
        low = low.float().mean(dim=1, keepdim=True).round().byte()
    return low.expand(-1, high.shape[1], -1, -1), high


def _cropped(path: Path, high: Tensor, size: Sequence[int], scale: int) -> Tensor:
    """Return the truth, cropped to `size`, which may be smaller by less than `scale` pixels a side.

    Raises PhotoError if the sizes differ by more, or if the result is too small to measure.
    """
    height, width = size
    if not all(0 <= there - asked < scale for there, asked in zip(high.shape[-2:], size, strict=True)):
        found = (
            f"its size is {high.shape[-1]}x{high.shape[-2]}, but the other picture of the pair needs {width}x{height}"
        )
        raise PhotoError(path, "size", found, "check the scale (-s), and check that both pictures belong together")
    if min(size) < metrics.WINDOW + 2 * scale:
        found = f"with {width}x{height} px it is too small to measure"
        raise PhotoError(path, "size", found, f"use pictures of at least {metrics.WINDOW + 3 * scale} px per side")
    return high[..., :height, :width]
