"""Open a photo safely, or raise an error that says what is wrong with the file and what can be done."""

import hashlib
import os
import re
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError
from PIL.Image import Transpose

from upscale_lit.data.containers import Parts, bmp, webp
from upscale_lit.data.jpeg import jpeg
from upscale_lit.data.png import key_mask, png
from upscale_lit.data.pyramid import Pixels, pyramid_levels
from upscale_lit.data.tiff import tiff
from upscale_lit.errors import InputError, shown

# Each format with the endings of file names, the usual ending first.
FORMATS = {
    "JPEG": (".jpg", ".jpeg", ".jfif", ".jpe", ".mpo"),
    "PNG": (".png",),
    "WEBP": (".webp",),
    "BMP": (".bmp",),
    "TIFF": (".tif", ".tiff"),
}
SUFFIXES = tuple(suffix for suffixes in FORMATS.values() for suffix in suffixes)
RARE = (".jfif", ".jpe", ".mpo")  # endings that are read, but that --ext does not offer
# The ending of files with two JPEG pictures, which some phones write. Such files are never written here.
MPO = ".mpo"
# The first bytes of files in these formats. A file with other first bytes is not opened.
BEGINNINGS = re.compile(rb"\xff\xd8\xff|\x89PNG\r\n\x1a\n|RIFF....WEBP|BM|II\*\0|MM\0\*|II\+\0|MM\0\+", re.DOTALL)
# The transpositions for the EXIF orientations 2 to 8.
TURNS = {
    2: Transpose.FLIP_LEFT_RIGHT, 3: Transpose.ROTATE_180, 4: Transpose.FLIP_TOP_BOTTOM, 5: Transpose.TRANSPOSE,
    6: Transpose.ROTATE_270, 7: Transpose.TRANSVERSE, 8: Transpose.ROTATE_90,
}  # fmt: skip
COPY = "copy it again from its source"


@dataclass(frozen=True)
class Photo:
    """A file that holds a picture.

    digest: SHA-256 of the file's bytes. picture: SHA-256 of the pixels that are kept.
    width, height: the size of the upright picture in the file.
    kept: (height, width) of the picture that is kept. offset: the place of its pixels (see cache.py).
    """

    path: Path
    digest: str
    picture: str
    format: str
    width: int
    height: int
    kept: tuple[int, int]
    offset: int = 0

    @property
    def side(self) -> int:
        """The shorter side of the file's picture, in pixels."""
        return min(self.width, self.height)


class PhotoError(InputError):
    """An error for a file or folder that gives no picture: a line with its path, the problem and a remedy.

    kind: a word or two by which errors are counted. lasting: whether the error stays until the file changes.
    """

    def __init__(self, path: Path, kind: str, what: str, remedy: str, lasting: bool = True) -> None:
        super().__init__(f"{shown(path)}: {what}; {remedy}.")
        self.path, self.kind, self.what, self.remedy, self.lasting = path, kind, what, remedy, lasting


def limit_pixels(megapixels: float) -> None:
    """Make this process refuse pictures with more pixels. A tiny file can declare more pixels than memory can hold."""
    Image.MAX_IMAGE_PIXELS = int(megapixels * 1e6 / 2)  # Pillow refuses a picture with more than twice this number


@contextmanager
def opened(path: Path, data: bytes | None = None) -> Iterator[tuple[Image.Image, bytes, list[str]]]:
    """Open a file, and yield the picture with its header read, the file's bytes, and notes on what is not read.

    The picture is decoded inside the `with` block. Its `info` holds the metadata (see `Parts`).
    data: the bytes of the file, if they have been read already.
    Raises PhotoError if the file is not a complete picture in one of FORMATS, also for errors inside the block.
    """
    try:
        if data is None and not stat.S_ISREG(os.stat(path).st_mode):  # opening a pipe would block
            raise PhotoError(path, "no file", "this is not an ordinary file", "remove it", lasting=False)
        with BytesIO(data) if data is not None else open(path, "rb") as file:
            begin = file.read(12)
            if not begin:
                raise PhotoError(path, "empty", "the file is empty", COPY)
            if not BEGINNINGS.match(begin):
                what = f"its content must be one of {', '.join(FORMATS)}; it begins with {begin[:8]!r}"
                raise PhotoError(path, "no picture", what, "save it in one of these formats, or remove it")
            data = begin + file.read()
        parts = take_apart(data)
        if lost := parts.lost:
            names = [*lost[:9], f"{len(lost) - 9} more"] if len(lost) > 10 else lost
            parts.notes.append(f"metadata that are damaged or too large are left out: {', '.join(names)}")
        with Image.open(BytesIO(parts.pixels), formats=tuple(FORMATS)) as image:
            if image.mode in ("I", "F"):
                what = "its pixels have 32 bits, without a standard for black and white"
                raise PhotoError(path, "32 bits", what, "save it with 8 or 16 bits")
            if key := parts.info.pop("key", None):
                parts.info["clear"] = key_mask(parts.pixels, key)
            image.info.update(parts.info)
            yield image, data, parts.notes
    except PhotoError:
        raise
    except MemoryError as error:
        what = "the memory of this machine is too small for it"
        raise PhotoError(path, "too many pixels", what, "save it smaller", lasting=False) from error
    except Image.DecompressionBombError as error:
        way_out = "save it smaller, or raise the limit: data.max_megapixels, --max-megapixels"
        raise PhotoError(path, "too many pixels", str(error).rstrip("."), way_out, lasting=False) from error
    except UnidentifiedImageError as error:
        what = "its header is damaged, or its kind is not supported"
        raise PhotoError(path, "damaged", what, f"{COPY}, or save it as PNG") from error
    except Exception as error:  # decoders raise many kinds of errors on damaged files: SyntaxError, struct.error, ...
        if isinstance(error, OSError) and error.errno is not None:
            raise unreadable(path, error) from error
        reason = " ".join(str(error).split()) or type(error).__name__
        cut = isinstance(error, EOFError) or "truncated" in reason.lower()
        what = f"the picture is incomplete ({reason})" if cut else f"it cannot be decoded ({reason})"
        raise PhotoError(path, "truncated" if cut else "damaged", what, COPY) from error


def read_photo(path: Path, keep: int | None = None) -> tuple[Photo, list[Pixels]]:
    """Decode a file, and return its facts and its pyramid: upright, RGB, 8 bits, with transparency laid over white.

    keep: a picture with a longer shorter side is shrunk to this number of pixels, antialiased. None keeps the size.
    Raises PhotoError if the file is not a complete picture in one of FORMATS.
    """
    data, kind, (width, height), levels = _decoded(path, keep, None)
    digest = hashlib.sha256(data).hexdigest()
    picture = hashlib.sha256(str(levels[0].shape).encode() + levels[0].tobytes()).hexdigest()
    return Photo(path, digest, picture, kind, width, height, levels[0].shape[:2]), levels


def decode_photo(name: str, data: bytes, keep: int) -> tuple[int, list[Pixels]]:
    """Decode the bytes of a file as `read_photo` does. Return the shorter side of the picture and its pyramid."""
    _, _, size, levels = _decoded(Path(name), keep, data)
    return min(size), levels


def _decoded(path: Path, keep: int | None, data: bytes | None) -> tuple[bytes, str, tuple[int, int], list[Pixels]]:
    """Return the file's bytes, its format, (width, height), and the pyramid of the picture that is kept."""
    with opened(path, data) as (image, content, _):
        kind, (width, height) = image.format or "", image.size
        if keep and min(image.size) > keep:
            image.draft("RGB", (keep, keep))  # decodes a JPEG at a fraction of its size, but not below `keep`
        image.load()
        orientation = _orientation(image)
        upright = _rgb(image)
        if orientation > 1:
            upright = upright.transpose(TURNS[orientation])
        if orientation >= 5:  # rotated by 90 degrees
            width, height = height, width
        if keep and min(upright.size) > keep:
            scale = keep / min(upright.size)
            size = (max(keep, round(upright.width * scale)), max(keep, round(upright.height * scale)))
            upright = upright.resize(size, Image.Resampling.BICUBIC, reducing_gap=3.0)
        return content, kind, (width, height), pyramid_levels(upright)


def _orientation(image: Image.Image) -> int:
    try:
        value = image.getexif().get(0x0112, 1)
    except Exception:  # a damaged header raises many kinds of errors, but the pixels may be complete
        return 1
    return value if value in TURNS else 1


def deep_grey(image: Image.Image) -> NDArray[np.float32]:
    """Convert a picture of a mode I;16... to (H, W), from 0 (black) to 1 (white), for any bits and for negatives."""
    tags = getattr(image, "tag_v2", {})  # only a TIFF has tags
    white = 4095 if tags.get(258) == (12,) else 65535
    grey = (np.asarray(image) / np.float32(white)).clip(0, 1)
    return 1 - grey if tags.get(262) == 0 else grey  # 0 marks a negative


def take_apart(data: bytes) -> Parts:
    """Take a file apart by its format, which its first bytes show.

    Raises EOFError if pixels are missing and a decoder would paint over them without an error. Decoders do so if zeros
    or an end marker follow an incomplete copy. In a BMP and in a TIFF without compression, missing pixels look the same
    as black pixels.
    """
    for begin, split in ((b"\xff\xd8", jpeg), (b"\x89PNG", png), (b"RIFF", webp), (b"BM", bmp)):
        if data.startswith(begin):
            return split(data)
    return tiff(data)


def with_alpha(image: Image.Image) -> Image.Image:
    """Convert a loaded picture whose transparent colour has more than 8 bits to LA or RGBA.

    Other pictures are returned unchanged, and so is grey of 16 bits if no pixel has the transparent colour.
    """
    clear = image.info.get("clear")
    if image.mode.startswith("I;16") and isinstance(image.info.get("transparency"), int):
        clear = np.asarray(image) == image.info["transparency"]
        if clear.any():
            image = Image.fromarray((deep_grey(image) * 255).round().astype(np.uint8))
    if not isinstance(clear, np.ndarray) or image.mode.startswith("I;16"):  # "clear" may be a text of the file
        return image
    image = image.copy()
    image.putalpha(Image.fromarray(np.where(clear, 0, 255).astype(np.uint8)))
    return image


def _rgb(image: Image.Image) -> Image.Image:
    image = with_alpha(image)
    if image.mode.startswith("I;16"):  # convert("RGB") would clip it at 255
        image = Image.fromarray((deep_grey(image) * 255).round().astype(np.uint8))
    elif image.has_transparency_data:
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image.convert("RGBA"))
    return image.convert("RGB")


def unreadable(path: Path, error: OSError) -> PhotoError:
    """Return an error with the system's reason for a file or a folder that cannot be read. The reason may pass."""
    reason = (error.strerror or str(error)).lower()
    if isinstance(error, PermissionError):
        return PhotoError(path, "no permission", f"it may not be read ({reason})", "change its permissions", False)
    if os.path.islink(path):  # unlike Path.is_symlink, this works for a name that is too long
        return PhotoError(path, "link", f"the link leads to no file ({reason})", "remove or fix the link", False)
    return PhotoError(path, "unreadable", f"it cannot be read ({reason})", "check the disk and the path", False)
