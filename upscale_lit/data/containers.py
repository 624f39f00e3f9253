"""Divide picture files into pixels, which Pillow decodes, and metadata, which this package reads.

Pillow refuses a complete picture if one piece of metadata is damaged or too large. Pillow also stores the texts of a
PNG file under the same names as internal values.
"""

import struct
from dataclasses import dataclass, field
from typing import Any

Info = dict[str | tuple[int, int], Any]  # metadata, as in Pillow's `Image.info`
LABELS = {"icc_profile": "colour profile", "exif": "EXIF", "xmp": "XMP"}  # the names in messages


@dataclass
class Parts:
    """The parts of a picture file.

    pixels: the bytes of the file without the metadata that could keep Pillow from decoding it.
    info: the metadata, named as in Pillow's `Image.info`. A PNG file adds "chunks", "bits" and "key" (see png.py).
    lost: the names of the metadata that are damaged or too large, for messages.
    notes: messages about other contents of the file that are not read.
    """

    pixels: bytes
    info: Info = field(default_factory=dict)
    lost: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def webp(data: bytes) -> Parts:
    """Divide a WebP file into pixels and metadata.

    The format is described in https://developers.google.com/speed/webp/docs/riff_container. A file with unknown or
    incomplete chunks of pixels is given to the decoder unchanged, with its metadata.
    Raises EOFError if the pixels end in zeros, as after an incomplete download.
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
            if name == b"VP8X":  # its flags must no longer announce a profile, EXIF or XMP
                body = bytes([body[0] & ~0b101100]) + body[1:] if body else b""
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
    """Divide a BMP file into pixels and the colour profile. Pillow does not read this profile.

    Only the header of version 5 (BITMAPV5HEADER, 124 bytes, from byte 14) has a profile. Its type is "MBED" as a
    little-endian number. The position of the profile is counted from the start of the header.
    """
    parts = Parts(data)
    if len(data) >= 138 and int.from_bytes(data[14:18], "little") >= 124 and data[70:74] == b"DEBM":
        start, size = struct.unpack("<II", data[126:134])
        if 14 + start + size <= len(data):
            parts.info["icc_profile"] = data[14 + start : 14 + start + size]
        else:
            parts.lost.append(LABELS["icc_profile"])
    return parts
