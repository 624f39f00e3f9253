"""Photographs on disk: find them, open one safely, split them for good, read many at once."""

import hashlib
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from upscale_lit.errors import InputError

FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "TIFF")
SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff")

# The colour photographs inside scikit-image's wheel. chelsea is a cat. The motorcycle pair is one scene seen twice.
SAMPLE_TRAIN = (
    "coffee.png",
    "hubble_deep_field.jpg",
    "ihc.png",
    "motorcycle_left.png",
    "motorcycle_right.png",
    "retina.jpg",
    "rocket.jpg",
)
SAMPLE_VAL = ("chelsea.png", "astronaut.png")


@dataclass(frozen=True, eq=False)
class Photo:
    """A picture in memory: `pixels` is (H, W, 3), uint8, RGB; `digest` is the SHA-256 of the file's bytes."""

    path: Path
    digest: str
    pixels: NDArray[np.uint8]


@dataclass(frozen=True)
class Unreadable:
    """A file that gave no picture, and why."""

    path: Path
    reason: str


def open_photo(path: Path, keep: int | None = None) -> Photo:
    """Decode one file: upright by its EXIF orientation, RGB, 8 bits, transparency laid over white.

    A picture whose shorter side exceeds `keep` pixels is shrunk to it, antialiased.
    Raises OSError, ValueError, SyntaxError or Pillow's DecompressionBombError when the file is not a whole picture of
    one of FORMATS.
    """
    with open(path, "rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
        file.seek(0)
        with Image.open(file, formats=FORMATS) as image:
            if keep and min(image.size) > keep:
                image.draft("RGB", (keep, keep))  # JPEG decodes at a fraction of its size, not under what is asked for
            image.load()
            upright = _rgb(ImageOps.exif_transpose(image))
    if keep and min(upright.size) > keep:
        scale = keep / min(upright.size)
        size = (max(keep, round(upright.width * scale)), max(keep, round(upright.height * scale)))
        upright = upright.resize(size, Image.Resampling.BICUBIC, reducing_gap=3.0)
    return Photo(path, digest, np.array(upright))


def _rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I") or image.mode == "F":  # 16-bit grey, which convert("RGB") would clip at 255
        grey = np.asarray(image, dtype=np.float64)
        return Image.fromarray((grey / 257.0).clip(0, 255).round().astype(np.uint8)).convert("RGB")
    if image.has_transparency_data:
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, "white")
        return Image.alpha_composite(white, image).convert("RGB")
    return image.convert("RGB")


def find_photos(root: Path) -> list[Path]:
    """All files below a folder whose names end like a picture's, sorted; hidden ones and linked folders are passed by.

    Raises InputError when the folder is missing or holds none.
    """
    if not root.is_dir():
        found = "a file" if root.exists() else "nothing"
        raise InputError(f"There should be a folder of photos at {root}; found {found}. Name one with data.root=DIR.")
    paths = [
        Path(folder, name)
        for folder, _, names in os.walk(root)
        for name in names
        if name.lower().endswith(SUFFIXES) and not name.startswith(".")
    ]
    if not paths:
        raise InputError(
            f"No picture found in {root} or its subfolders: looked for files ending in {' '.join(SUFFIXES)}. "
            "Name a folder of photos with data.root=DIR."
        )
    return sorted(paths)


def sample_photos() -> tuple[list[Path], list[Path]]:
    """The sample photographs: (training, validation)."""
    import skimage  # only here: who trains on a folder does not wait for it

    folder = Path(skimage.__file__).parent / "data"
    return [folder / name for name in SAMPLE_TRAIN], [folder / name for name in SAMPLE_VAL]


def read_photos(paths: Sequence[Path], keep: int | None = None) -> tuple[list[Photo], list[Unreadable]]:
    """Decode many files on all cores, in their order: (the pictures, the files that gave none)."""

    def read(path: Path) -> Photo | Unreadable:
        try:
            return open_photo(path, keep)
        except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
            return Unreadable(path, str(error) or type(error).__name__)

    with ThreadPoolExecutor(os.cpu_count()) as pool:  # Pillow decodes without holding Python's lock
        results = list(pool.map(read, paths))
    return (
        [result for result in results if isinstance(result, Photo)],
        [result for result in results if isinstance(result, Unreadable)],
    )


def split_photos(photos: Sequence[Photo], val_fraction: float) -> tuple[list[Photo], list[Photo], Photo | None]:
    """(training, validation, moved): each photo goes by the hash of its own bytes, whatever else is in the folder.

    So a photo stays on its side when others come or go, in every stage, and copies of a file stay together. Where a
    side would be empty, the photo whose hash lies nearest to the other side moves there and is returned as `moved`.
    Raises InputError when there are fewer than two different photos.
    """

    def position(photo: Photo) -> float:
        return int(photo.digest[:13], 16) / 16**13  # 52 bits: exact in a float, [0, 1)

    if len({photo.digest for photo in photos}) < 2:
        raise InputError(
            f"Training and validation need at least 2 different photos; found {len(photos)} readable "
            f"({', '.join(str(photo.path) for photo in photos[:3])}). Add photos, or name others to validate on with "
            "data.val_root=DIR."
        )
    border = val_fraction
    moved = None
    nearest, farthest = min(photos, key=position), max(photos, key=position)
    if position(nearest) >= border:
        moved, border = nearest, float(np.nextafter(position(nearest), 1))
    elif position(farthest) < border:
        moved, border = farthest, position(farthest)
    train = [photo for photo in photos if position(photo) >= border]
    val = [photo for photo in photos if position(photo) < border]
    return train, val, moved
