"""Take picture files apart: pixels for Pillow, and metadata that this package reads.

Pillow refuses a complete picture if one piece of metadata is damaged or too large. It also stores the texts of a PNG
under the same names as its internal values.
"""

import struct
from dataclasses import dataclass, field
from typing import Any

Info = dict[str | tuple[int, int], Any]  # metadata, as in Pillow's `Image.info`
LABELS = {"icc_profile": "colour profile", "exif": "EXIF", "xmp": "XMP"}  # the words in messages


@dataclass
class Parts:
    """The parts of a picture file.

    pixels: the bytes of the file without the metadata that could keep Pillow from decoding it.
    info: these metadata, named as in Pillow's `Image.info`; for a PNG also "chunks", "bits" and "key" (see png.py).
    lost: the names of metadata that are damaged or too large.
    notes: sentences on other contents that are not read.
    """

    pixels: bytes
    info: Info = field(default_factory=dict)
    lost: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def webp(data: bytes) -> Parts:
    """Take a WebP file apart (https://developers.google.com/speed/webp/docs/riff_container).

    A file whose chunks do not follow each other up to its end is given to the decoder unchanged. Raises EOFError if the
    pixels end in zeros, as in an incomplete download.
    """
    metadata = {b"ICCP": "icc_profile", b"EXIF": "exif", b"XMP ": "xmp"}
    parts = Parts(data)
    kept: list[bytes] = []
    position, stop = 12, 8 + int.from_bytes(data[4:8], "little")
    while position < min(stop, len(data)):
        name, length = data[position : position + 4], int.from_bytes(data[position + 4 : position + 8], "little")
        end = position + 8 + length
        body = data[position + 8 : end]
        if name in metadata:
            if end <= len(data):
                parts.info[metadata[name]] = body
            else:
                parts.lost.append(LABELS[metadata[name]])
        elif name in (b"VP8X", b"ANIM", b"ALPH", b"VP8 ", b"VP8L", b"ANMF") and end <= len(data):
            if name == b"VP8X":
                body = (
                    bytes([body[0] & ~0b101100]) + body[1:] if body else b""
                )  # clears the flags of profile, EXIF and XMP
            kept.append(name + struct.pack("<I", length) + body + bytes(length % 2))
        else:
            kept.clear()
            break
        position = end + length % 2
    if data.endswith(bytes(64)) and (not kept or kept[-1].endswith(bytes(64))):
        raise EOFError("it ends in zeros")
    if not kept:
        return Parts(data)
    parts.pixels = b"RIFF" + struct.pack("<I", 4 + sum(map(len, kept))) + b"WEBP" + b"".join(kept)
    return parts


def bmp(data: bytes) -> Parts:
    """Take a BMP file apart: read the colour profile of version 5, which Pillow does not read."""
    parts = Parts(data)
    if len(data) >= 138 and int.from_bytes(data[14:18], "little") >= 124 and data[70:74] == b"DEBM":
        start, size = struct.unpack("<II", data[126:134])
        if 14 + start + size <= len(data):
            parts.info["icc_profile"] = data[14 + start : 14 + start + size]
        else:
            parts.lost.append(LABELS["icc_profile"])
    return parts
