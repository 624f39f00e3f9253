"""Read a picture upright and in a mode that can be upscaled, and write a picture with its metadata."""

import contextlib
import io
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageCms, PngImagePlugin, TiffImagePlugin

from upscale_lit.data.containers import Info
from upscale_lit.data.photo import FORMATS, MPO, TURNS, deep_grey, opened, with_alpha
from upscale_lit.data.tiff import choose, rank
from upscale_lit.errors import InputError, shown
from upscale_lit.files import atomic, check_name
from upscale_lit.inference import metadata
from upscale_lit.inference.quality import lossy_of

# The modes and the largest side that each format can hold. libjpeg limits the side of a JPEG. WebP stores a side in 14
# bits.
MODES = {
    "JPEG": ("L", "RGB"),
    "PNG": ("L", "LA", "RGB", "RGBA", "I;16"),
    "WEBP": ("RGB", "RGBA"),
    "BMP": ("L", "RGB"),
    "TIFF": ("L", "LA", "RGB", "RGBA", "I;16"),
}
LARGEST = {"JPEG": 65500, "WEBP": 16383}  # px
BITS_PER_SAMPLE = 258  # the TIFF tag
# Pillow's names for the raw modes of a PNG, with their bits for each channel. Other raw modes have 8 bits, or 1.
PNG_BITS = {"L;2": 2, "L;4": 4, "I;16B": 16, "RGB;16B": 16, "LA;16B": 16, "RGBA;16B": 16}
QUALITY = 95  # of JPEG (without chroma subsampling) and WebP; its loss is smaller than the errors of an upscaler


def read_picture(path: Path, data: bytes | None = None) -> tuple[Image.Image, list[str]]:
    """Read a file and return what `upright` returns: a picture, and sentences on what could not be kept.

    data: the bytes of the file, if they have been read already.
    Raises PhotoError if the file is not a complete picture in one of FORMATS.
    """
    with opened(path, data) as (image, _, notes):
        result, more = upright(image)
        return result, [*notes, *more]


def upright(image: Image.Image) -> tuple[Image.Image, list[str]]:
    """Return a picture upright in mode L, LA, RGB, RGBA or I;16, and sentences on what could not be kept.

    Mode I;16 is grey from 0 to 65535. A palette becomes grey or colour, and CMYK becomes RGB. `info` of the result
    holds the metadata that `save_picture` writes (see `metadata.collect`). The orientation is applied to the pixels,
    and removed from the metadata. `format` of the result is the format of the file. `info["lossy"]` describes how the
    file was compressed (see `quality.lossy_of`).
    If the pixels of a TIFF are not loaded yet, the function selects the first page that is not a smaller copy of
    another.
    Raises InputError for modes with 32 bits.
    """
    notes = _choose_page(image) if isinstance(image, TiffImagePlugin.TiffImageFile) else []
    if image.mode in ("I", "F"):
        raise InputError(
            f"A picture must have 8 or 16 bits; mode {image.mode} defines no black and white. Convert the picture."
        )
    if image.format in ("PNG", "WEBP") and getattr(image, "n_frames", 1) > 1:
        notes.append(f"only the first of its {image.n_frames} pictures is read")  # type: ignore[attr-defined]
    lossy = lossy_of(image)  # before loading, which closes the file
    bits = _bits(image)  # before loading, because Pillow forgets the bits of a PNG when it loads the pixels
    info, orientation, more = metadata.collect(image)
    notes += more
    untouched_png = isinstance(image, PngImagePlugin.PngImageFile) and not metadata.taken_apart(image)
    if untouched_png and "transparency" in image.info:
        image = _with_key(image, bits, notes)
    image = with_alpha(image)
    if bits > 8 and not image.mode.startswith("I;16"):
        notes.append(f"its {bits} bits for each colour are read as 8")
    if image.mode.startswith("I;16"):
        result = Image.fromarray((deep_grey(image) * 65535).round().astype(np.uint16))
    else:
        result = _plain(image, info, notes)
    if orientation in TURNS:
        result = result.transpose(TURNS[orientation])
    result.info, result.format = {**info, "lossy": lossy}, image.format
    return result, notes


def _choose_page(image: TiffImagePlugin.TiffImageFile) -> list[str]:
    """Select the first page of a TIFF that is a picture (see tiff.py). Return notes about the other pages.

    image: a TIFF that the caller has opened with Pillow.
    """
    if image.tell() or not image.tile:  # the caller chose a page, or loaded the pixels and may have changed them
        return []
    ranks: list[int] = []
    while True:
        try:
            image.seek(len(ranks))
        except Exception:  # EOFError after the last page, and any error for a page that Pillow cannot read
            break
        ranks.append(rank(image.tag_v2))
    chosen, notes = choose(ranks)
    image.seek(chosen)
    return notes


def _bits(image: Image.Image) -> int:
    """Return the bits of each channel in the file."""
    if isinstance(image, TiffImagePlugin.TiffImageFile):
        return int(max(image.tag_v2.get(BITS_PER_SAMPLE, (1,))))
    if isinstance(image, PngImagePlugin.PngImageFile) and not metadata.taken_apart(image):
        return PNG_BITS.get(str(image.tile[0].args), 8) if image.tile else 8
    return int(image.info.get("bits", 8)) if metadata.taken_apart(image) else 8  # else "bits" may be a text of the PNG


def _with_key(image: Image.Image, bits: int, notes: list[str]) -> Image.Image:
    """Return a copy of a PNG, whose transparent colour is converted to 8 bits.

    image: a PNG that the caller has opened with Pillow. bits: the bits of each channel in the file.
    """
    key = image.info.get("transparency")
    image = image.copy()
    if image.mode == "L" and isinstance(key, int):
        image.info["transparency"] = key % 2**bits * 255 // (2**bits - 1)
    elif image.mode == "RGB" and isinstance(key, tuple) and (bits > 8 or max(key) > 255):
        image.info["transparency"] = tuple(value >> 8 for value in key)
        notes.append("only 8 of the 16 bits of its transparent colour are compared")
    elif image.mode == "P" and isinstance(key, bytes):
        image.info["transparency"] = key[:256]
    elif isinstance(key, str):  # a text of the PNG may be named "transparency"
        del image.info["transparency"]
    return image


def _plain(image: Image.Image, info: Info, notes: list[str]) -> Image.Image:
    """Convert an 8-bit picture to mode L, LA, RGB or RGBA.

    If the colour profile no longer fits the mode, the profile is removed from `info`.
    """
    profile = info.get("icc_profile")
    space = _space(profile)
    if image.mode == "CMYK":
        info.pop("icc_profile", None)
        notes.append("its print colours (CMYK) are converted to RGB")
        if profile and space == "CMYK":
            with contextlib.suppress(ImageCms.PyCMSError):  # a damaged profile is ignored
                srgb = ImageCms.createProfile("sRGB")
                converted = ImageCms.profileToProfile(image, io.BytesIO(profile), srgb, outputMode="RGB")
                assert converted is not None  # None is returned only for a conversion in place
                return converted
        return image.convert("RGB")
    transparent = image.has_transparency_data
    if image.mode in ("1", "L", "LA", "La"):
        result = image.convert("LA" if transparent else "L")
    elif image.mode == "P" and all(r == g == b for _, (r, g, b) in image.convert("RGB").getcolors(256) or ()):  # type: ignore[misc]
        result = image.convert("RGBA").convert("LA") if transparent else image.convert("L")
    else:
        result = image.convert("RGBA" if transparent else "RGB")
    if profile and space != ("GRAY" if result.mode in ("L", "LA") else "RGB"):
        del info["icc_profile"]
        notes.append(f"its colour profile is for {space or 'an unknown colour space'} and is left out")
    return result


def _space(profile: bytes | None) -> str:
    """Return the colour space of a profile: RGB, GRAY, CMYK and so on, or "" for no profile or a damaged one."""
    try:
        space = ImageCms.ImageCmsProfile(io.BytesIO(profile or b"")).profile.xcolor_space.strip()
    except (OSError, ImageCms.PyCMSError, UnicodeDecodeError):
        return ""
    return space if space.isalnum() else ""


def format_of(path: Path) -> str:
    """Return the format that the name of a file asks for, such as "JPEG".

    Raises InputError if the ending of the name belongs to none of FORMATS.
    """
    suffixes = {suffix: name for name, suffixes in FORMATS.items() for suffix in suffixes if suffix != MPO}
    for suffix, name in suffixes.items():
        if path.name.lower().endswith(suffix):
            return name
    raise InputError(f"The name of {shown(path)} must end in {' '.join(suffixes)}; got the ending {path.suffix!r}.")


def make_room(path: Path, size: tuple[int, int]) -> None:
    """Create the folder of a file before a picture of `size` (width, height) is computed for it.

    Raises InputError if that fails, if the format cannot hold such a picture, or if the name is too long.
    """
    kind = format_of(path)
    if max(size) > LARGEST.get(kind, max(size)):
        raise InputError(
            f"{shown(path)}: a side of a {kind} file must be at most {LARGEST[kind]} px; got {size[0]}x{size[1]} px. "
            "Write another format with --ext png."
        )
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"The folder {shown(path.parent)} cannot be created: {error.strerror}.") from error
    check_name(path)


def save_picture(image: Image.Image, path: Path, quality: int = QUALITY, strip: bool = False) -> list[str]:
    """Write a picture atomically, and return sentences on what could not be kept.

    image: a picture of a mode that `upright` returns. The metadata in its `info` are written as far as the format can
        hold them, with the new size.
    path: its ending sets the format. JPEG is written without chroma subsampling.
    quality: from 1 to 100, for JPEG and WebP.
    strip: whether only the metadata that define the colours are written, such as the colour profile.
    Raises InputError if the picture cannot be written.
    """
    kind, notes = format_of(path), []
    make_room(path, image.size)
    info = dict(image.info)
    if image.mode == "I;16" and "I;16" not in MODES[kind]:
        image = shallow(image)
        notes.append(f"{kind} cannot hold 16 bits; 8 bits are written")
    if image.mode in ("LA", "RGBA") and "RGBA" not in MODES[kind]:
        image = on_white(image)
        notes.append(f"{kind} cannot hold transparency; the background is white")
    if image.mode not in MODES[kind]:
        image = image.convert("RGBA" if image.mode == "LA" else "RGB")
        if info.pop("icc_profile", None):
            notes.append(f"{kind} stores a grey picture as RGB, so the profile for grey is left out")
    with atomic(path) as part:
        for bare in (False, True)[strip:]:
            info = metadata.stripped(info) if bare else info
            try:
                options = _encoding(kind, quality) | metadata.options(kind, image.size, info, notes)
                image.save(part, kind, **options)
                break
            except Exception as error:  # encoders raise many kinds of errors
                if isinstance(error, OSError) and error.errno is not None:  # `atomic` reports errors of the system
                    raise
                if bare:
                    raise InputError(f"{shown(path)} cannot be written: {error}.") from error
                notes.append("its metadata cannot be written and are left out")
        notes += metadata.finish(kind, part, info)
    return notes


def shallow(image: Image.Image) -> Image.Image:
    """Convert 16-bit grey, from 0 to 65535, to 8-bit grey. Return other pictures unchanged."""
    if image.mode != "I;16":
        return image
    return Image.fromarray((np.asarray(image) / np.float32(257)).round().astype(np.uint8))  # 257 = 65535 / 255


def on_white(image: Image.Image) -> Image.Image:
    """Lay a picture of mode LA or RGBA over white, as mode L or RGB. Return other pictures unchanged."""
    if image.mode not in ("LA", "RGBA"):
        return image
    ground = Image.new("RGBA", image.size, "white")
    return Image.alpha_composite(ground, image.convert("RGBA")).convert(image.mode[:-1])


def _encoding(kind: str, quality: int) -> dict[str, Any]:
    """Return Pillow's options for encoding the pixels."""
    by_format: dict[str, dict[str, Any]] = {
        "JPEG": {"quality": quality, "subsampling": 0},
        "PNG": {"compress_level": 4},  # takes a third of the time of Pillow's default, 6, for 3 % more bytes
        "WEBP": {"quality": quality, "exact": True},  # keeps the colours of fully transparent pixels
        "TIFF": {"compression": "tiff_adobe_deflate"},
    }
    return by_format.get(kind, {})
