"""A picture as it has to come out again: its pixels upright in a mode that can be upscaled, its metadata, its file."""

import io
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import ExifTags, Image, ImageCms, PngImagePlugin

from upscale_lit.errors import InputError, WriteError, shown
from upscale_lit.photos import FORMATS, TURNS, deep_grey, opened
from upscale_lit.weights import whole

Info = dict[str | tuple[int, int], Any]  # what Pillow keeps beside the pixels

# What a format can hold. JPEG: the largest side that libjpeg writes; WebP: 14 bits.
MODES = {
    "JPEG": ("L", "RGB"),
    "PNG": ("L", "LA", "RGB", "RGBA", "I;16"),
    "WEBP": ("RGB", "RGBA"),
    "BMP": ("L", "RGB"),
    "TIFF": ("L", "LA", "RGB", "RGBA", "I;16"),
}
LARGEST = {"JPEG": 65500, "WEBP": 16383}  # px
# Bytes for which a JPEG's segment has room: 65535 less its length and the name of what it holds.
LARGEST_EXIF, LARGEST_XMP = 65533, 65504
XMP_TEXT, TIFF_XMP = "XML:com.adobe.xmp", 700  # where a PNG and a TIFF keep it
QUALITY = 95  # of JPEG (without chroma subsampling) and WebP: the loss is under what an upscaler's own errors are

GROUPS = (ExifTags.IFD.Exif, ExifTags.IFD.GPSInfo)
# EXIF tags that describe how a TIFF file stores its pixels, or how they lie: Pillow writes its own.
ABOUT_STORAGE = {
    *range(254, 260), 262, 266, 273, 274, 277, 278, 279, 284, 317, 320, 321, *range(322, 326), 330, 338, 339, 347,
    *range(512, 522), 529, 530, 531, 532, 700, 33723, 34377, 34675,
}  # fmt: skip


def read_picture(path: Path, data: bytes | None = None) -> tuple[Image.Image, list[str]]:
    """A file as `upright` gives it. data: the file's bytes, if they have been read already.

    Raises PhotoError when the file is not a whole picture of one of FORMATS.
    """
    with opened(path, data) as (image, _):
        return upright(image)


def upright(image: Image.Image) -> tuple[Image.Image, list[str]]:
    """(the picture in one of the modes L, LA, RGB, RGBA, I;16, upright; what could not be kept, in sentences).

    I;16 is grey from 0 to 65535. Palettes become what their colours are, CMYK becomes RGB. The result's `info` holds
    what `save_picture` writes again: exif, icc_profile, xmp, dpi, comment, text (of PNG); without the orientation,
    which is applied. Its `format` is that of the file. Raises InputError for modes with 32 bits.
    """
    notes = []
    if image.mode in ("I", "F"):
        raise InputError(f"A picture of mode {image.mode} has no agreed black and white; convert it to 8 or 16 bits.")
    if not image.mode.startswith("I;16") and any("16" in str(part.args) for part in getattr(image, "tile", ())):
        notes.append("its 16 bits for each colour are read as 8")
    if image.format in ("PNG", "WEBP", "TIFF") and getattr(image, "n_frames", 1) > 1:
        notes.append(f"only the first of its {image.n_frames} pictures is read")  # type: ignore[attr-defined]
    image.load()
    exif, orientation = b"", 1
    try:
        orientation = image.getexif().get(ExifTags.Base.Orientation, 1)  # of a TIFF, Pillow has applied it by now
        exif = _to_keep(image.getexif())
    except Exception:  # whatever stands in a damaged header: the picture itself is whole
        notes.append("its EXIF data are damaged and left out")
    info: Info = {name: image.info[name] for name in ("icc_profile", "dpi", "comment", "xmp") if image.info.get(name)}
    info["text"] = {name: text for name, text in getattr(image, "text", {}).items() if name != XMP_TEXT}
    if "xmp" in info:
        info["xmp"] = re.sub(rb"(tiff:Orientation(?:>|=.))[2-8]", rb"\g<1>1", info["xmp"])
    if exif:
        info["exif"] = exif
    if image.mode.startswith("I;16"):
        result = Image.fromarray((deep_grey(image) * 65535).round().astype(np.uint16))
    else:
        result = _plain(image, info, notes)
    if orientation in TURNS:
        result = result.transpose(TURNS[orientation])
    result.info, result.format = info, image.format
    return result, notes


def _to_keep(exif: Image.Exif) -> bytes:
    """The data about the photograph, not those about the file; a thumbnail would no longer be right."""
    kept = Image.Exif()
    for tag, value in exif.items():
        if tag not in ABOUT_STORAGE and tag not in GROUPS:
            kept[tag] = value
    groups = {group: dict(exif.get_ifd(group)) for group in GROUPS}
    if ExifTags.IFD.Interop in groups[ExifTags.IFD.Exif]:  # where there is a place in the file, now its content
        groups[ExifTags.IFD.Exif][ExifTags.IFD.Interop] = exif.get_ifd(ExifTags.IFD.Interop)
    for group, tags in groups.items():
        if tags:
            kept.get_ifd(group).update(tags)
    return kept.tobytes() if kept or any(groups.values()) else b""


def _plain(image: Image.Image, info: Info, notes: list[str]) -> Image.Image:
    """A picture with 8 bits in one of the modes L, LA, RGB, RGBA; takes a profile that no longer fits out of `info`."""
    profile = info.get("icc_profile")
    space = _space(profile)
    if image.mode == "CMYK":
        info.pop("icc_profile", None)
        notes.append("its colours for print (CMYK) become RGB")
        if profile and space == "CMYK":
            try:
                srgb = ImageCms.createProfile("sRGB")
                source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
                converted = ImageCms.profileToProfile(image, source, srgb, outputMode="RGB")
                assert converted is not None  # it is not done in place
                return converted
            except ImageCms.PyCMSError:
                pass  # a damaged profile
        return image.convert("RGB")
    transparent = image.has_transparency_data
    if image.mode in ("1", "L", "LA", "La"):
        result = image.convert("LA" if transparent else "L")
    elif image.mode == "P" and all(r == g == b for r, g, b in _colours(image)):
        result = image.convert("RGBA").convert("LA") if transparent else image.convert("L")
    else:
        result = image.convert("RGBA" if transparent else "RGB")
    if profile and space != ("GRAY" if result.mode in ("L", "LA") else "RGB"):
        del info["icc_profile"]
        notes.append(f"its colour profile is for {space or 'nothing known'} and is left out")
    return result


def _colours(image: Image.Image) -> Iterable[Sequence[int]]:
    """The colours of a palette that are in use."""
    return (colour[:3] for _, colour in image.convert("RGB").getcolors(256) or ())  # type: ignore[index]


def _space(profile: bytes | None) -> str:
    """RGB, GRAY, CMYK ...; an empty word for none, or a damaged one."""
    if not profile:
        return ""
    try:
        return ImageCms.ImageCmsProfile(io.BytesIO(profile)).profile.xcolor_space.strip()
    except (OSError, ImageCms.PyCMSError):
        return ""


def format_of(path: Path) -> str:
    """The format that a file's name asks for. Raises InputError when it is none of FORMATS."""
    suffixes = {suffix: name for name, suffixes in FORMATS.items() for suffix in suffixes if suffix != ".mpo"}
    for suffix, name in suffixes.items():
        if path.name.lower().endswith(suffix):
            return name
    known = " ".join(suffixes)
    raise InputError(
        f"{shown(path)} should be named as a picture; found the ending {path.suffix!r}, known are {known}."
    )


def make_room(path: Path, size: tuple[int, int]) -> None:
    """Make a file's folder, before a picture of (width, height) is computed for it.

    Raises InputError when that fails, or when such a picture cannot be written under this name.
    """
    kind = format_of(path)
    if max(size) > LARGEST.get(kind, max(size)):
        raise InputError(
            f"{shown(path)}: {kind} holds pictures up to {LARGEST[kind]} px a side; this one would have "
            f"{size[0]}x{size[1]}. Write another format, with --ext png."
        )
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"The folder {shown(path.parent)} cannot be made: {error.strerror}.") from error


def save_picture(image: Image.Image, path: Path, quality: int = QUALITY, strip: bool = False) -> list[str]:
    """Write a picture of a mode that `upright` gives, whole or not at all; returns what could not be kept, in words.

    The format is that of the path's name. JPEG has no chroma subsampling; quality, from 1 to 100, is for JPEG and
    WebP. `image.info` is written as far as the format has a place for it, with the new size; strip: nothing of it but
    the colour profile. Raises InputError when the picture cannot be written.
    """
    kind, notes = format_of(path), []
    make_room(path, image.size)
    info = dict(image.info)
    if image.mode == "I;16" and "I;16" not in MODES[kind]:
        image = shallow(image)
        notes.append(f"{kind} has no 16 bits: 8 are written")
    if image.mode in ("LA", "RGBA") and "RGBA" not in MODES[kind]:
        image = on_white(image)
        notes.append(f"{kind} has no transparency: the ground is white")
    if image.mode not in MODES[kind]:
        image = image.convert("RGBA" if image.mode == "LA" else "RGB")  # WebP has no grey
        info.pop("icc_profile", None)
    for bare in (False, True)[strip:]:
        try:
            options = _options(kind, image, info, quality, bare, notes)
            with whole(path) as part:
                image.save(part, kind, **options)
            break
        except WriteError:
            raise
        except Exception as error:  # what encoders raise has no end
            if bare:
                raise InputError(f"{shown(path)} cannot be written: {error}.") from error
            notes.append("its metadata cannot be written and are left out")
    return notes


def shallow(image: Image.Image) -> Image.Image:
    """Grey of 16 bits -> of 8; other pictures as they are."""
    if image.mode != "I;16":
        return image
    return Image.fromarray((np.asarray(image) / np.float32(257)).round().astype(np.uint8))  # 65535 / 255


def on_white(image: Image.Image) -> Image.Image:
    """LA -> L, RGBA -> RGB, over white; other pictures as they are."""
    if image.mode not in ("LA", "RGBA"):
        return image
    ground = Image.new("RGBA", image.size, "white")
    return Image.alpha_composite(ground, image.convert("RGBA")).convert(image.mode[:-1])


def _options(kind: str, image: Image.Image, info: Info, quality: int, strip: bool, notes: list[str]) -> dict[str, Any]:
    """What to pass to Pillow's save."""
    by_format: dict[str, dict[str, Any]] = {
        "JPEG": {"quality": quality, "subsampling": 0},
        "PNG": {"compress_level": 4},  # a third of the time of Pillow's 6, for 3 % more bytes
        "WEBP": {"quality": quality, "exact": True},  # exact: colours under full transparency, too
        "TIFF": {"compression": "tiff_adobe_deflate"},
    }
    options = by_format.get(kind, {})
    # Both named in any case, or Pillow would take them from the picture.
    options |= {"icc_profile": info.get("icc_profile"), "comment": info.get("comment", b"") if not strip else b""}
    if strip:
        return options
    if "dpi" in info:
        options["dpi"] = info["dpi"]
    exif = Image.Exif()
    exif.load(info.get("exif", b""))
    details = exif.get_ifd(ExifTags.IFD.Exif) if ExifTags.IFD.Exif in exif else {}
    for tag, side in ((ExifTags.Base.ExifImageWidth, image.width), (ExifTags.Base.ExifImageHeight, image.height)):
        if tag in details:
            details[tag] = side
    xmp = info.get("xmp", b"")
    if kind == "TIFF":
        if xmp:
            exif[TIFF_XMP] = xmp
        details.pop(ExifTags.IFD.Interop, None)  # Pillow's TIFF writer knows no group in a group
        if set(GROUPS) & set(exif):
            del options["compression"]  # Pillow's compressing writer cannot write groups of tags
        if exif:
            options["exif"] = exif.tobytes()  # the object itself would lose them
    elif kind != "BMP":
        data = exif.tobytes() if info.get("exif") else b""
        if kind == "JPEG" and (len(data) > LARGEST_EXIF or len(xmp) > LARGEST_XMP):
            notes.append("its EXIF or XMP data have no room in a JPEG and are left out")
            data = xmp = b""
        options.update({"exif": data} if data else {}, **({"xmp": xmp} if xmp else {}))
    if kind == "PNG":
        text = options["pnginfo"] = PngImagePlugin.PngInfo()
        for name, value in info.get("text", {}).items():
            text.add_itxt(name, value) if isinstance(value, PngImagePlugin.iTXt) else text.add_text(name, value)
        if options.pop("xmp", b""):
            text.add_itxt(XMP_TEXT, xmp.decode("utf-8", "replace"))
    return options
