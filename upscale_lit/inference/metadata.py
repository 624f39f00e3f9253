"""A picture's metadata: collected from what Pillow opened, and written to another file."""

import math
import re
import struct
import warnings
from fractions import Fraction
from pathlib import Path
from typing import Any

from PIL import ExifTags, Image, PngImagePlugin

from upscale_lit.data.containers import LABELS, Info
from upscale_lit.data.png import COLOUR, EXIF_TEXT, SIGNATURE, XMP_TEXT, Chunk, chunk, like_srgb

# Bytes for which a JPEG's segment has room: 65535 less its length and the name of what it holds.
LARGEST_EXIF, LARGEST_XMP = 65533, 65504
TIFF_XMP = 700  # the tag that holds it in a TIFF
ORIENTATION, ACROSS, DOWN, UNIT = 274, 282, 283, 296  # EXIF tags; the resolution, and its unit: 2 inch, 3 cm

GROUPS = (ExifTags.IFD.Exif, ExifTags.IFD.GPSInfo)
# EXIF tags that describe how a TIFF file stores its pixels, or how they lie: Pillow writes its own.
ABOUT_STORAGE = {
    *range(254, 260), 262, 266, 273, 274, 277, 278, 279, 284, 317, 320, 321, *range(322, 326), 330, 338, 339, 347,
    *range(512, 522), 529, 530, 531, 532, 700, 33723, 34377, 34675,
}  # fmt: skip


def collect(image: Image.Image) -> tuple[Info, Any, list[str]]:
    """(metadata of the upright picture, the orientation still to apply, what is lost of them, in words).

    Loads the picture. The metadata are those that `options` and `finish` write: exif, icc_profile, xmp, comment, dpi,
    aspect (the resolution across and down without a unit, when they differ), chunks (of a PNG).
    """
    notes: list[str] = []
    info: Info = {}
    exif, orientation = Image.Exif(), 1
    applied = getattr(image, "tag_v2", {}).get(ORIENTATION)  # Pillow applies a TIFF's while it loads
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        image.load()
        try:
            exif = image.getexif()
            orientation = exif.get(ORIENTATION, 1)
            turned = any(value in range(5, 9) for value in (orientation, applied))
            info["exif"] = _to_keep(exif, turned)
        except Exception:  # a damaged header can raise anything; the pixels are complete
            turned = applied in range(5, 9)
            notes.append("its EXIF data are damaged and left out")
    if info.get("exif") and any(re.search("orrupt|Skipping|Truncated", str(warning.message)) for warning in caught):
        notes.append("its EXIF data are damaged, and a part of them is left out")
    for name in ("icc_profile", "xmp"):
        if isinstance(value := image.info.get(name), bytes):
            info[name] = value
        elif value:
            notes.append(f"its {LABELS[name]} is damaged and left out")
    info["comment"] = image.info.get("comment")
    info |= {name: pair[::-1] if turned else pair for name, pair in _resolution(image, exif).items()}
    chunks = image.info["chunks"] if taken_apart(image) else _chunks(image, notes)
    # What ImageMagick wrote as a text is EXIF now, without an orientation that is applied.
    info["chunks"] = [each for each in chunks if not each[1].startswith(EXIF_TEXT + b"\0")]
    if "xmp" in info:
        info["xmp"] = re.sub(rb"(tiff:Orientation(?:>|=.))[2-8]", rb"\g<1>1", info["xmp"])
    return {name: value for name, value in info.items() if value}, orientation, notes


def taken_apart(image: Image.Image) -> bool:
    """Whether its `info` comes from `png`, or from a picture that did; else a text may have any name in it."""
    return isinstance(image.info.get("chunks"), list)


def _to_keep(exif: Image.Exif, turned: bool) -> bytes:
    """The data about the photograph, not those about the file; a thumbnail would no longer be right."""
    kept = Image.Exif()
    for tag, value in exif.items():
        if tag in (ACROSS, DOWN) and not _positive((value, value)):
            continue  # libtiff complains
        if tag not in ABOUT_STORAGE and tag not in GROUPS and (tag != UNIT or value in (1, 2, 3)):
            kept[{ACROSS: DOWN, DOWN: ACROSS}.get(tag, tag) if turned else tag] = value
    groups = {group: tags for group in GROUPS if (tags := dict(exif.get_ifd(group)))}
    for group, tags in groups.items():
        if ExifTags.IFD.Interop in tags:  # a position in the file, replaced by its content
            tags[ExifTags.IFD.Interop] = exif.get_ifd(ExifTags.IFD.Interop)
        kept.get_ifd(group).update(tags)
    return kept.tobytes() if kept or groups else b""


def _resolution(image: Image.Image, exif: Image.Exif) -> dict[str, tuple[float, float]]:
    """aspect, dpi, or nothing."""
    info = image.info
    dpi = info.get("dpi")
    ratio = info["jfif_density"] if info.get("jfif_unit") == 0 else info.get("aspect")
    if aspect := _aspect(_positive(ratio)):
        return {"aspect": aspect}
    if image.format == "JPEG" and not dpi and "exif" in info:  # where Pillow would look
        dpi = _positive([exif.get(ACROSS)] * 2, 2.54 if exif.get(UNIT) == 3 else 1) or (72, 72)
    if (pair := _positive(dpi)) and 0.1 <= min(pair) <= max(pair) <= 1e5:  # beyond, no format would hold it
        return {"dpi": pair}
    aspect = _aspect(_positive(dpi or info.get("resolution")))
    return {"aspect": aspect} if aspect else {}


def _positive(pair: Any, factor: float = 1) -> tuple[float, float] | None:
    """A pair of positive, finite numbers of any type as floats; None for anything else."""
    if isinstance(pair, str | bytes):  # a PNG's text of that name
        return None
    try:
        across, down = (float(value) * factor for value in pair)
    except (TypeError, ValueError, ArithmeticError):
        return None
    return (across, down) if 0 < across < math.inf and 0 < down < math.inf else None


def _aspect(resolution: tuple[float, float] | None) -> tuple[int, int] | None:
    """A resolution across and down in whole numbers that every format holds; None if pixels are square."""
    if resolution is None:
        return None
    ratio = min(resolution[0] / resolution[1], 65535)
    limit = max(1, min(1000, int(65535 / ratio)))  # so that both are at most 65535
    across, down = Fraction(ratio).limit_denominator(limit).as_integer_ratio()
    return (across, down) if across and not _equal(across, down) else None


def _equal(one: float, other: float) -> bool:
    """Whether two resolutions are equal but for rounding."""
    return abs(one - other) <= 0.005 * other


def _chunks(image: Image.Image, notes: list[str]) -> list[Chunk]:
    """Those of a PNG that the caller opened with Pillow, which reads no others."""
    if not isinstance(image, PngImagePlugin.PngImageFile):
        return []
    texts, info = PngImagePlugin.PngInfo(), image.info
    try:
        for keyword, text in image.text.items():
            if keyword != XMP_TEXT.decode():
                texts.add_text(keyword, text)
    except (OSError, SyntaxError, ValueError, EOFError, struct.error):  # after the pixels, which are complete
        notes.append("its texts are damaged and left out")
    chunks = [(name, content) for name, content, _ in texts.chunks]
    if isinstance(gamma := info.get("gamma"), float):  # else a text of that name
        chunks.append((b"gAMA", struct.pack(">I", round(gamma * 100000))))
    if isinstance(primaries := info.get("chromaticity"), tuple):
        chunks.append((b"cHRM", struct.pack(">8I", *(round(value * 100000) for value in primaries))))
    if isinstance(intent := info.get("srgb"), int):
        chunks.append((b"sRGB", bytes([intent])))
    return chunks


def stripped(info: Info) -> Info:
    """No more of the metadata than what the colours mean."""
    chunks = [each for each in info.get("chunks", []) if each[0] in COLOUR]
    return {"icc_profile": info.get("icc_profile"), "chunks": chunks}


def options(kind: str, size: tuple[int, int], info: Info, notes: list[str]) -> dict[str, Any]:
    """What of the metadata to pass to Pillow's save."""
    # Both named in any case, or Pillow would take them from the picture.
    found: dict[str, Any] = {"icc_profile": info.get("icc_profile"), "comment": info.get("comment", b"")}
    if "dpi" in info and not (kind == "JPEG" and _as_aspect(info["dpi"])):
        found["dpi"] = info["dpi"]
    exif = Image.Exif()
    exif.load(info.get("exif", b""))
    details = exif.get_ifd(ExifTags.IFD.Exif) if ExifTags.IFD.Exif in exif else {}
    for tag, side in zip((ExifTags.Base.ExifImageWidth, ExifTags.Base.ExifImageHeight), size, strict=True):
        if tag in details:
            details[tag] = side
    xmp = info.get("xmp", b"")
    if kind == "TIFF":
        if xmp:
            exif[TIFF_XMP] = xmp
        if "aspect" in info:
            (exif[ACROSS], exif[DOWN]), exif[UNIT] = info["aspect"], 1
        details.pop(ExifTags.IFD.Interop, None)  # Pillow's TIFF writer knows no group in a group
        if set(GROUPS) & set(exif):
            found["compression"] = None  # Pillow's compressing writer cannot write groups of tags
        if exif:
            found["exif"] = exif.tobytes()  # the object itself would lose them
    elif kind != "BMP":
        data = exif.tobytes() if info.get("exif") else b""
        if kind == "JPEG" and (len(data) > LARGEST_EXIF or len(xmp) > LARGEST_XMP):
            notes.append("its EXIF or XMP data have no room in a JPEG and are left out")
            data = xmp = b""
        found.update({"exif": data} if data else {}, **({"xmp": xmp} if xmp and kind != "PNG" else {}))
    return found


def _as_aspect(dpi: tuple[float, float] | None) -> tuple[int, int] | None:
    """What a JPEG, which holds a resolution in whole numbers of two bytes, can only hold as a ratio."""
    rounded = [round(value) for value in dpi or ()]
    if dpi and all(0 < value <= 65535 for value in rounded) and _equal(rounded[0] * dpi[1], rounded[1] * dpi[0]):
        return None
    return _aspect(dpi)


def finish(kind: str, path: Path, info: Info) -> list[str]:
    """Write into a saved file what Pillow does not write; returns what the format has no place for, in words."""
    profile = bool(info.get("icc_profile"))
    lost: list[str] = []
    if kind == "PNG":
        # A profile and sRGB exclude each other.
        new = [each for each in info.get("chunks", []) if not (profile and each[0] == b"sRGB")]
        if "xmp" in info:
            new.append((b"iTXt", XMP_TEXT + bytes(5) + info["xmp"].decode("utf-8", "replace").encode()))
        if "aspect" in info:
            new.append((b"pHYs", struct.pack(">IIB", *info["aspect"], 0)))
        if new:
            data, start = path.read_bytes(), len(SIGNATURE) + 25  # behind IHDR
            path.write_bytes(b"".join([data[:start], *(chunk(*each) for each in new), data[start:]]))
        return []
    if kind == "BMP" and profile:
        lost.append(LABELS["icc_profile"])
    colour: list[Chunk] = stripped(info)["chunks"]
    superseded = profile and kind != "BMP" and b"cICP" not in dict(colour)
    if not like_srgb(colour) and not superseded:
        lost.append(f"colour information ({', '.join(name.decode() for name, _ in colour)})")
    aspect = info.get("aspect")
    if kind in ("JPEG", "WEBP"):
        aspect = aspect or (_as_aspect if kind == "JPEG" else _aspect)(info.get("dpi"))
    if aspect and kind == "JPEG":
        with path.open("r+b") as file:
            file.seek(13)  # in JFIF's segment, which Pillow writes first: the unit, none, and the density
            file.write(struct.pack(">BHH", 0, *aspect))
    elif aspect and kind != "TIFF":
        lost.append("pixels that are not square")
    return [f"{kind} has no place for its {' and '.join(lost)}: left out"] if lost else []
