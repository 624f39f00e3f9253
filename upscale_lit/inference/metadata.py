"""Collect the metadata of a picture that Pillow has opened, and write these metadata to another file."""

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

# A segment of a JPEG has 65535 bytes. The length takes 2 of these bytes, and the name of XMP data takes 29 bytes. EXIF
# data as Pillow returns them already include their name.
LARGEST_EXIF, LARGEST_XMP = 65533, 65504
TIFF_XMP = 700  # the tag for XMP data in a TIFF
ORIENTATION, ACROSS, DOWN, UNIT = 274, 282, 283, 296  # EXIF tags; a UNIT of 1 means none, 2 inches, 3 cm

GROUPS = (ExifTags.IFD.Exif, ExifTags.IFD.GPSInfo)
# These EXIF tags are not copied. Most of these tags describe how a TIFF file stores its pixels; Pillow writes new
# values for them. Four tags hold other metadata: XMP (700), IPTC (33723), Photoshop's data (34377) and the ICC profile
# (34675). XMP data and the profile are written from `info`. IPTC and Photoshop's data are not kept.
ABOUT_STORAGE = {
    *range(254, 260), 262, 266, 273, 274, 277, 278, 279, 284, 317, 320, 321, *range(322, 326), 330, 338, 339, 347,
    *range(512, 522), 529, 530, 531, 532, 700, 33723, 34377, 34675,
}  # fmt: skip


def collect(image: Image.Image) -> tuple[Info, Any, list[str]]:
    """Load a picture and collect the metadata that `options` and `finish` write.

    Return the metadata of the upright picture, the EXIF orientation that the caller must apply, and notes about lost
    metadata. The keys of the metadata are exif, icc_profile, xmp, comment, dpi, aspect and chunks. `aspect` is the
    horizontal and the vertical resolution without a unit, if they differ. `chunks` are chunks of a PNG.
    """
    notes: list[str] = []
    info: Info = {}
    exif, orientation = Image.Exif(), 1
    applied = getattr(image, "tag_v2", {}).get(ORIENTATION)  # Pillow applies the orientation of a TIFF in load()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        image.load()
        try:
            exif = image.getexif()
            orientation = exif.get(ORIENTATION, 1)
            turned = any(value in range(5, 9) for value in (orientation, applied))
            info["exif"] = _to_keep(exif, turned)
        except Exception:  # a damaged header can raise any error; the pixels are complete by now
            turned = applied in range(5, 9)
            notes.append("the EXIF data are damaged and left out")
    if info.get("exif") and any(re.search("orrupt|Skipping|Truncated", str(warning.message)) for warning in caught):
        notes.append("a part of the EXIF data is damaged and left out")
    for name in ("icc_profile", "xmp"):
        if isinstance(value := image.info.get(name), bytes):
            info[name] = value
        elif value:
            notes.append(f"the {LABELS[name]} is damaged and left out")
    info["comment"] = image.info.get("comment")
    info |= {name: pair[::-1] if turned else pair for name, pair in _resolution(image, exif).items()}
    chunks = image.info["chunks"] if taken_apart(image) else _chunks(image, notes)
    # ImageMagick writes EXIF data as a text. Here, info["exif"] replaces this text, since the text may still name an
    # orientation that has been applied.
    info["chunks"] = [each for each in chunks if not each[1].startswith(EXIF_TEXT + b"\0")]
    if "xmp" in info:
        info["xmp"] = re.sub(rb"(tiff:Orientation(?:>|=.))[2-8]", rb"\g<1>1", info["xmp"])
    return {name: value for name, value in info.items() if value}, orientation, notes


def taken_apart(image: Image.Image) -> bool:
    """Return whether this package wrote `image.info`: `data.png` when it took a PNG apart, or `collect`.

    In the `info` of other PNG pictures, a text of the file can have any name, such as "gamma".
    """
    return isinstance(image.info.get("chunks"), list)


def _to_keep(exif: Image.Exif, turned: bool) -> bytes:
    """Return the EXIF data about the photograph, without the data about the file.

    The thumbnail is left out, because it shows the picture before upscaling. turned: whether width and height are
    exchanged; if so, the horizontal and the vertical resolution are exchanged, too.
    """
    kept = Image.Exif()
    for tag, value in exif.items():
        if tag in (ACROSS, DOWN) and not _positive((value, value)):
            continue  # libtiff reports such values as bad
        if tag not in ABOUT_STORAGE and tag not in GROUPS and (tag != UNIT or value in (1, 2, 3)):
            kept[{ACROSS: DOWN, DOWN: ACROSS}.get(tag, tag) if turned else tag] = value
    groups = {group: tags for group in GROUPS if (tags := dict(exif.get_ifd(group)))}
    for group, tags in groups.items():
        if ExifTags.IFD.Interop in tags:  # replace a position in the old file by the content there
            tags[ExifTags.IFD.Interop] = exif.get_ifd(ExifTags.IFD.Interop)
        kept.get_ifd(group).update(tags)
    return kept.tobytes() if kept or groups else b""


def _resolution(image: Image.Image, exif: Image.Exif) -> dict[str, tuple[float, float]]:
    """Return the resolution as {"aspect": ...} or {"dpi": ...}, or {} if the resolution is unknown.

    An aspect, which has no unit, is preferred. An aspect also replaces a dpi that is out of range, if pixels are not
    square.
    """
    info = image.info
    dpi = info.get("dpi")
    ratio = info["jfif_density"] if info.get("jfif_unit") == 0 else info.get("aspect")
    if aspect := _aspect(_positive(ratio)):
        return {"aspect": aspect}
    if image.format == "JPEG" and not dpi and "exif" in info:  # as Pillow does for a JPEG without a density
        dpi = _positive([exif.get(ACROSS)] * 2, 2.54 if exif.get(UNIT) == 3 else 1) or (72, 72)
    if (pair := _positive(dpi)) and 0.1 <= min(pair) <= max(pair) <= 1e5:  # no format holds values beyond these limits
        return {"dpi": pair}
    aspect = _aspect(_positive(dpi or info.get("resolution")))
    return {"aspect": aspect} if aspect else {}


def _positive(pair: Any, factor: float = 1) -> tuple[float, float] | None:
    """Return a pair of positive, finite numbers of any type as floats, times `factor`; None for all other values."""
    if isinstance(pair, str | bytes):  # a text of a PNG
        return None
    try:
        across, down = (float(value) * factor for value in pair)
    except (TypeError, ValueError, ArithmeticError):
        return None
    return (across, down) if 0 < across < math.inf and 0 < down < math.inf else None


def _aspect(resolution: tuple[float, float] | None) -> tuple[int, int] | None:
    """Return the ratio of two resolutions as two integers that every format holds; None if pixels are square.

    Both integers are at most 65535. The denominator d is at most 65535 / ratio, so the numerator, about d * ratio, is
    at most 65535 as well.
    """
    if resolution is None:
        return None
    ratio = min(resolution[0] / resolution[1], 65535)
    limit = max(1, min(1000, int(65535 / ratio)))
    across, down = Fraction(ratio).limit_denominator(limit).as_integer_ratio()
    return (across, down) if across and not _equal(across, down) else None


def _equal(one: float, other: float) -> bool:
    """Return whether two resolutions differ by at most 0.5 %, as they do after rounding."""
    return abs(one - other) <= 0.005 * other


def _chunks(image: Image.Image, notes: list[str]) -> list[Chunk]:
    """Return the chunks of a PNG that the caller opened with Pillow; an empty list for other formats.

    Only chunks that Pillow reads can be returned: texts, gAMA, cHRM and sRGB. A note is added for damaged texts.
    """
    if not isinstance(image, PngImagePlugin.PngImageFile):
        return []
    texts, info = PngImagePlugin.PngInfo(), image.info
    try:
        for keyword, text in image.text.items():
            if keyword != XMP_TEXT.decode():
                texts.add_text(keyword, text)
    except (OSError, SyntaxError, ValueError, EOFError, struct.error):  # texts after the pixels, which are complete
        notes.append("the texts are damaged and left out")
    chunks = [(name, content) for name, content, _ in texts.chunks]
    if isinstance(gamma := info.get("gamma"), float):  # a text can also have the name "gamma"
        chunks.append((b"gAMA", struct.pack(">I", round(gamma * 100000))))
    if isinstance(primaries := info.get("chromaticity"), tuple):
        chunks.append((b"cHRM", struct.pack(">8I", *(round(value * 100000) for value in primaries))))
    if isinstance(intent := info.get("srgb"), int):
        chunks.append((b"sRGB", bytes([intent])))
    return chunks


def stripped(info: Info) -> Info:
    """Return only the metadata that define the meaning of the colours."""
    chunks = [each for each in info.get("chunks", []) if each[0] in COLOUR]
    return {"icc_profile": info.get("icc_profile"), "chunks": chunks}


def options(kind: str, size: tuple[int, int], info: Info, notes: list[str]) -> dict[str, Any]:
    """Return the arguments of Pillow's save that write the metadata.

    kind: the format of the file, such as "JPEG". size: the width and height of the result in px. notes: a note is added
    for EXIF or XMP data that a JPEG cannot hold.
    """
    # Without these two arguments, Pillow would write the profile and the comment of the picture.
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
        details.pop(ExifTags.IFD.Interop, None)  # Pillow's TIFF writer cannot write a group in a group
        if set(GROUPS) & set(exif):
            found["compression"] = None  # Pillow's compressing writer cannot write groups of tags
        if exif:
            found["exif"] = exif.tobytes()  # Pillow would lose the groups of an Exif object
    elif kind != "BMP":
        data = exif.tobytes() if info.get("exif") else b""
        if kind == "JPEG" and (len(data) > LARGEST_EXIF or len(xmp) > LARGEST_XMP):
            notes.append("the EXIF or XMP data are too large for a JPEG and are left out")
            data = xmp = b""
        found.update({"exif": data} if data else {}, **({"xmp": xmp} if xmp and kind != "PNG" else {}))
    return found


def _as_aspect(dpi: tuple[float, float] | None) -> tuple[int, int] | None:
    """Return the ratio of a resolution that a JPEG can hold only as a ratio.

    Return None if a JPEG can hold the resolution, if there is no resolution, or if pixels are square. A JPEG holds a
    resolution as two integers of two bytes, and rounding may change their ratio by at most 0.5 %.
    """
    rounded = [round(value) for value in dpi or ()]
    if dpi and all(0 < value <= 65535 for value in rounded) and _equal(rounded[0] * dpi[1], rounded[1] * dpi[0]):
        return None
    return _aspect(dpi)


def finish(kind: str, path: Path, info: Info) -> list[str]:
    """Write the metadata that Pillow does not write into a saved file. Return notes about metadata that are lost.

    kind: the format of the file. Metadata are lost if the format cannot hold them.
    """
    profile = bool(info.get("icc_profile"))
    lost: list[str] = []
    if kind == "PNG":
        # A PNG should not hold both a colour profile and an sRGB chunk.
        new = [each for each in info.get("chunks", []) if not (profile and each[0] == b"sRGB")]
        if "xmp" in info:
            # Five zero bytes: the end of the keyword, no compression (2 bytes), and the ends of two empty texts.
            new.append((b"iTXt", XMP_TEXT + bytes(5) + info["xmp"].decode("utf-8", "replace").encode()))
        if "aspect" in info:
            new.append((b"pHYs", struct.pack(">IIB", *info["aspect"], 0)))
        if new:
            data, start = path.read_bytes(), len(SIGNATURE) + 25  # after IHDR, a chunk of 25 bytes
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
            file.seek(13)  # the unit (0: none) and the density in the JFIF segment, which Pillow writes first
            file.write(struct.pack(">BHH", 0, *aspect))
    elif aspect and kind != "TIFF":
        lost.append("pixel aspect ratio")
    return [f"the written file lacks the {' and '.join(lost)}, which {kind} cannot hold"] if lost else []
