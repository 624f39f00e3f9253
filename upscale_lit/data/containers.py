"""Picture files taken apart: the pixels for Pillow, the metadata for us, so that no metadata cost a picture.

Pillow refuses a picture for one damaged or oversized piece of metadata, and mixes up a PNG's texts with its own notes.
"""

import struct
from dataclasses import dataclass, field
from typing import Any

Info = dict[str | tuple[int, int], Any]  # what Pillow keeps next to the pixels
LABELS = {"icc_profile": "colour profile", "exif": "EXIF", "xmp": "XMP"}  # for users


@dataclass
class Parts:
    """A picture file.

    pixels: its bytes without the metadata that could keep Pillow from decoding it. info: those metadata, named as in
    Pillow's `Image.info`; also "chunks", "bits" and "key" of a PNG (see png.py). lost: the names of metadata that are
    damaged or too large. notes: what else is not read, in words.
    """

    pixels: bytes
    info: Info = field(default_factory=dict)
    lost: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def webp(data: bytes) -> Parts:
    """https://developers.google.com/speed/webp/docs/riff_container

    A file whose chunks do not follow each other to its end is left to the decoder, as it would be without us. Raises
    EOFError when the pixels end in zeros.
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
                body = bytes([body[0] & ~0b101100]) + body[1:] if body else b""  # no profile, EXIF, XMP
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
    """The profile inside a BMP of version 5, which Pillow does not read."""
    parts = Parts(data)
    if len(data) >= 138 and int.from_bytes(data[14:18], "little") >= 124 and data[70:74] == b"DEBM":
        start, size = struct.unpack("<II", data[126:134])
        if 14 + start + size <= len(data):
            parts.info["icc_profile"] = data[14 + start : 14 + start + size]
        else:
            parts.lost.append(LABELS["icc_profile"])
    return parts
