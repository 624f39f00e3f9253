"""Take a PNG file apart (https://www.w3.org/TR/png-3): pixels, metadata, transparency at every depth."""

import io
import struct
import zlib
from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from upscale_lit.data.containers import LABELS, Parts

SIGNATURE = b"\x89PNG\r\n\x1a\n"
Chunk = tuple[bytes, bytes]  # name, content

LIMIT = 2**24  # bytes; the largest size of a profile, and of all compressed texts together, after decompression
# Chunks that define the meaning of colours in addition to a profile, with the smallest length of each chunk.
COLOUR = {b"gAMA": 4, b"cHRM": 32, b"cICP": 4, b"sRGB": 1, b"mDCV": 24, b"cLLI": 8}
ANCILLARY = {**COLOUR, b"iCCP": 0, b"eXIf": 0, b"pHYs": 9}
TEXTS = (b"tEXt", b"zTXt", b"iTXt")
XMP_TEXT, EXIF_TEXT = b"XML:com.adobe.xmp", b"Raw profile type exif"  # ImageMagick writes the second
SRGB_GAMMA = range(45000, 46001)  # 100,000 / 2.2, as different programs round it
SRGB_PRIMARIES = (31270, 32900, 64000, 33000, 30000, 60000, 15000, 6000)
SRGB_CODES = b"\x01\x0d\0\x01"  # cICP: BT.709 primaries, the transfer function of sRGB, RGB, full range


def png(data: bytes) -> Parts:
    """Take a PNG file apart. Pillow gets only the chunks that pixels need: IHDR, PLTE, tRNS, IDAT and IEND.

    `info` of the result has these additional entries:
    "chunks": texts and colour information that can be written to another PNG unchanged.
    "bits": the bits of each channel.
    "key": the transparent colour, if each of three channels has 16 bits (see `key_mask`).
    Raises EOFError if the file has no end.
    """
    if b"IEND\xaeB`\x82" not in data:
        raise EOFError("it has no end")
    bits, kind = 8, 0
    parts = Parts(data, {"chunks": []})
    kept, budget = [SIGNATURE], LIMIT
    frames, before, pixels = 0, 0, False
    for name, body, sound, raw in _chunks(data):
        if name == b"IHDR" and len(body) >= 10:
            bits, kind = body[8:10]
        elif name == b"IDAT":
            pixels = True
        elif name == b"acTL" and sound and not pixels:
            frames = int.from_bytes(body[:4])
        elif name == b"fcTL" and not pixels:
            before = 1
        if name in (b"IHDR", b"IDAT", b"IEND", b"") or (name == b"PLTE" and kind == 3):
            kept.append(raw)
        elif name == b"tRNS" and kind in (0, 2, 3):
            content = _transparency(body, bits, kind) if sound else b""
            if not content:
                parts.lost.append("transparency")
            elif bits == 16 and kind == 2:
                parts.info["key"] = struct.unpack(">HHH", content)
            else:
                kept.append(chunk(name, content))
        elif name in TEXTS:
            budget = _text(parts, name, body, sound, budget)
        elif name in ANCILLARY:
            _ancillary(parts, name, body, sound)
    count = frames + 1 - before if frames else 1  # the first picture may not belong to the animation
    if 1 < count < 2**31:
        parts.notes.append(f"only the first of its {count} pictures is read")
    parts.info["bits"] = bits
    parts.pixels = b"".join(kept)
    return parts


def _chunks(data: bytes) -> Iterator[tuple[bytes, bytes, bool, bytes]]:
    """Yield the name of each chunk, its content, whether its checksum is right, and all of its bytes.

    Bytes at the end that are no chunk have an empty name. If they cannot hold pixels, IEND replaces them.
    """
    position, pixels = len(SIGNATURE), False
    while position < len(data):
        length, name = int.from_bytes(data[position : position + 4]), data[position + 4 : position + 8]
        end = position + 12 + length
        if end > len(data) or not name.isalpha():
            complete = pixels and name != b"IDAT"
            yield (b"IEND", b"", True, chunk(b"IEND", b"")) if complete else (b"", b"", False, data[position:])
            return
        content = data[position + 8 : end - 4]
        pixels = pixels or name == b"IDAT"
        # Decoders ignore the checksums of pixels.
        sound = name == b"IDAT" or zlib.crc32(data[position + 4 : end - 4]) == int.from_bytes(data[end - 4 : end])
        yield name, content, sound, data[position:end]
        if name == b"IEND":
            return
        position = end


def chunk(name: bytes, content: bytes) -> bytes:
    """Return the bytes of a chunk in a file."""
    return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))


def _transparency(body: bytes, bits: int, kind: int) -> bytes:
    """Return the content of tRNS for Pillow, or nothing if it is damaged.

    Pillow compares grey of fewer than 8 bits after it has converted the pixels to 8 bits.
    """
    if kind == 3:
        return body[:256]
    count = 1 if kind == 0 else 3
    if len(body) < 2 * count:
        return b""
    largest = 2**bits - 1  # higher bits are ignored
    values = [value & largest for value in struct.unpack(f">{count}H", body[: 2 * count])]
    if bits < 8:
        values = [value * 255 // largest for value in values]
    return struct.pack(f">{count}H", *values)


def _text(parts: Parts, name: bytes, body: bytes, sound: bool, budget: int) -> int:
    """Keep a text, decompressed. Return the number of bytes that remain for other texts."""
    keyword, _, text = body.partition(b"\0")
    label = LABELS["xmp"] if keyword == XMP_TEXT else f"text {keyword[:79].decode('latin-1')!r}"
    packed, method, language = name == b"zTXt", b"\0", b""
    if name == b"zTXt":
        method, text = text[:1], text[1:]
    elif name == b"iTXt":
        packed, method = text[:1] == b"\1", text[1:2]
        tag, translated, text = [*text[2:].split(b"\0", 2), b"", b""][:3]
        language = b"\0\0" + tag + b"\0" + translated + b"\0"
    content: bytes | None = text
    if packed and sound:
        content, used = inflated(text, budget)
        budget -= used
    if content is None or not (sound and 0 < len(keyword) < 80) or (packed and method != b"\0"):
        parts.lost.append(label)
    elif keyword == XMP_TEXT:
        parts.info["xmp"] = content
    else:
        parts.info["chunks"].append((b"iTXt" if language else b"tEXt", keyword + b"\0" + language + content))
        if keyword == EXIF_TEXT:
            parts.info[EXIF_TEXT.decode()] = content.decode("latin-1")
    return budget


def _ancillary(parts: Parts, name: bytes, body: bytes, sound: bool) -> None:
    info = parts.info
    if name == b"iCCP":
        if "icc_profile" in info:
            return  # a PNG has at most one profile
        profile, used = inflated(body[body.find(b"\0") + 2 :], LIMIT) if sound else (None, 0)
        info["icc_profile"] = profile
        if not profile:
            parts.lost.append(LABELS["icc_profile"] + (f" (over {LIMIT >> 20} MB)" if used > LIMIT else ""))
    elif not sound or len(body) < ANCILLARY[name]:
        parts.lost.append(LABELS["exif"] if name == b"eXIf" else name.decode())
    elif name == b"eXIf":
        info["exif"] = b"Exif\0\0" + body
    elif name == b"pHYs":
        across, down, unit = struct.unpack(">IIB", body[:9])
        if unit == 1:
            info["dpi"] = across * 0.0254, down * 0.0254
        else:
            info["aspect"] = across, down
    elif name not in (known for known, _ in info["chunks"]):
        info["chunks"].append((name, body))


def inflated(data: bytes, limit: int) -> tuple[bytes | None, int]:
    """Decompress data. Return (the content, its size in bytes); None if it is damaged or larger than the limit."""
    stream = zlib.decompressobj()
    try:
        content = stream.decompress(data, limit + 1) if limit > 0 else b""
    except zlib.error:
        return None, min(limit, 1032 * len(data))  # deflate compresses by a factor of 1032 at most
    return (content if stream.eof and len(content) <= limit else None), len(content)


def key_mask(pixels: bytes, key: Sequence[int]) -> NDArray[np.bool_]:
    """Return (H, W): whether each pixel of a PNG with 16 bits in each of three channels has the colour `key`.

    Pillow keeps one byte of each value. The picture is therefore read twice, once for the upper and once for the lower
    bytes.
    """
    values = []
    for order in ("RGB;16B", "RGB;16L"):
        with Image.open(io.BytesIO(pixels), formats=("PNG",)) as image:
            image.tile = [tile._replace(args=order) for tile in image.tile]
            values.append(np.asarray(image))
    deep = values[0] * np.uint16(256) + values[1]
    return (deep == np.array(key, np.uint16)).all(-1)  # type: ignore[no-any-return]


def like_srgb(chunks: Sequence[Chunk]) -> bool:
    """Return whether colour chunks only say that the colours are sRGB, which is the default without chunks."""
    found = dict(chunks)
    if b"mDCV" in found or b"cLLI" in found:
        return False
    if b"cICP" in found:
        return found[b"cICP"][:4] == SRGB_CODES
    if b"sRGB" in found:
        return True
    gamma, primaries = found.get(b"gAMA"), found.get(b"cHRM")
    return (not gamma or int.from_bytes(gamma[:4]) in SRGB_GAMMA) and (
        not primaries or struct.unpack(">8I", primaries[:32]) == SRGB_PRIMARIES
    )
