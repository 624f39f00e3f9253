"""Picture files taken apart: the pixels for Pillow, the metadata for us, so that no metadata cost a picture.

Pillow refuses a picture for one damaged or oversized piece of metadata, and mixes up a PNG's texts with its own notes.
"""

import struct
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

Info = dict[str | tuple[int, int], Any]  # what Pillow keeps next to the pixels


class Parts(NamedTuple):
    """A picture file.

    pixels: its bytes without the metadata that could keep Pillow from decoding it. info: those metadata, named as in
    Pillow's `Image.info`; also "chunks", "bits" and "key" of a PNG (see png.py). lost: the names of metadata that are
    damaged or too large. notes: what else is not read, in words.
    """

    pixels: bytes
    info: Info
    lost: list[str]
    notes: list[str]


def webp(data: bytes) -> Parts:
    """https://developers.google.com/speed/webp/docs/riff_container. Raises EOFError when the pixels end in zeros."""
    names = {b"ICCP": "icc_profile", b"EXIF": "exif", b"XMP ": "xmp"}
    info: Info = {}
    lost: list[str] = []
    kept: list[bytes] = []
    for name, body, complete in _riff(data):
        if name in names:
            if complete:
                info[names[name]] = body
            else:
                lost.append(LABELS[names[name]])
            continue
        if name == b"VP8X" and body:
            body = bytes([body[0] & ~0b101100]) + body[1:]  # no profile, EXIF, XMP
        if name in (b"VP8X", b"ANIM", b"ALPH", b"VP8 ", b"VP8L", b"ANMF"):
            padded = body + bytes(len(body) % 2)
            # What was cut stays cut: the decoder compares this length with what follows.
            kept.append(name + struct.pack("<I", len(body) if complete else len(data)) + padded)
    if kept and kept[-1].endswith(bytes(64)):
        raise EOFError("it ends in zeros")
    size = 4 + sum(map(len, kept))
    return Parts(b"RIFF" + struct.pack("<I", size) + b"WEBP" + b"".join(kept), info, lost, [])


def _riff(data: bytes) -> Iterator[tuple[bytes, bytes, bool]]:
    """(name, body, whether all of it is there) of each chunk, up to what is no chunk."""
    position = 12
    while position + 8 <= len(data):
        name, length = data[position : position + 4], int.from_bytes(data[position + 4 : position + 8], "little")
        if not all(32 <= letter < 127 for letter in name):
            break
        end = position + 8 + length
        yield name, data[position + 8 : end], end <= len(data)
        position = end + length % 2


def bmp(data: bytes) -> Parts:
    """The profile inside a BMP of version 5, which Pillow does not read."""
    info: Info = {}
    lost: list[str] = []
    if len(data) >= 138 and int.from_bytes(data[14:18], "little") >= 124 and data[70:74] == b"DEBM":
        start, size = struct.unpack("<II", data[126:134])
        info["icc_profile"] = data[14 + start : 14 + start + size]
        if len(info["icc_profile"]) < size:
            lost.append(LABELS["icc_profile"])
            del info["icc_profile"]
    return Parts(data, info, lost, [])


LABELS = {"icc_profile": "colour profile", "exif": "EXIF", "xmp": "XMP"}
Splitter = Callable[[bytes], Parts]
