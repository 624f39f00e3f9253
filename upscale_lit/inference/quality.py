"""Estimate how strongly a picture was compressed, from the header of its file."""

import io
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from PIL import Image, JpegImagePlugin

# Quantisation table of luma in ITU T.81, annex K, table K.1, row by row. libjpeg scales it for each quality.
STANDARD = np.array([
    16, 11, 10, 16, 24, 40, 51, 61, 12, 12, 14, 19, 26, 58, 60, 55, 14, 13, 16, 24, 40, 57, 69, 56,
    14, 17, 22, 29, 51, 87, 80, 62, 18, 22, 37, 56, 68, 109, 103, 77, 24, 35, 55, 64, 81, 104, 113, 92,
    49, 64, 78, 87, 103, 121, 120, 101, 72, 92, 95, 98, 112, 100, 103, 99,
])  # fmt: skip


@dataclass(frozen=True)
class Lossy:
    """How a picture was compressed with loss.

    codec: "JPEG" or "WebP".
    level: the nearest quality of libjpeg, from 1 to 100, for a JPEG; the base quantiser index of VP8, from 0 (the
        finest) to 127, for a WebP. None if the header does not show it.
    """

    codec: str
    level: int | None

    def __str__(self) -> str:
        if self.level is None:
            return f"{self.codec} of unknown quality"
        return f"{self.codec} {'quality' if self.codec == 'JPEG' else 'quantiser'} {self.level}"


def lossy_of(image: Image.Image) -> Lossy | None:
    """Return how the file of a picture was compressed, or None if the file is lossless or the picture has no file.

    image: a picture as Pillow has opened it. For a WebP whose file is closed, which loading the pixels does, the result
    is None. JPEGs inside TIFF files have no known level.
    """
    if isinstance(image, JpegImagePlugin.JpegImageFile):  # JPEG and MPO, also in CMYK
        return Lossy("JPEG", jpeg_quality(getattr(image, "quantization", {})))  # copies of the object lack the tables
    if image.format == "TIFF" and image.info.get("compression") in ("jpeg", "tiff_jpeg", "webp"):
        return Lossy("WebP" if image.info["compression"] == "webp" else "JPEG", None)
    if image.format == "WEBP":
        return _webp(image)
    return None


@lru_cache(maxsize=1)
def libjpeg_tables() -> NDArray[np.int64]:
    """Return libjpeg's luma tables for the qualities from 1 to 100, (100, 64), as its jpeg_quality_scaling does."""
    quality = np.arange(1, 101)[:, None]
    scale = np.where(quality < 50, 5000 // quality, 200 - 2 * quality)
    return ((STANDARD * scale + 50) // 100).clip(1, 255)


def jpeg_quality(tables: Mapping[int, Sequence[int]]) -> int | None:
    """Return the quality of libjpeg whose luma table is nearest to a JPEG's, or None if there is no table of 64 values.

    The estimate is exact for files of libjpeg, which Pillow and most programs use. For other tables it is the quality
    with the least mean difference of logarithms.
    tables: as Pillow's `image.quantization` gives them.
    """
    luma = tables.get(0)
    if luma is None or len(luma) != 64 or min(luma) < 1:
        return None
    differences = np.abs(np.log(libjpeg_tables()) - np.log(np.array(luma))).mean(axis=1)
    return int(differences.argmin()) + 1


def _webp(image: Image.Image) -> Lossy | None:
    """Return how the file of a WebP was compressed, from the first chunk of pixels."""
    file = getattr(image, "fp", None)
    if file is None or file.closed:
        return None
    position = file.tell()
    file.seek(0)
    data = file.read()
    file.seek(position)
    for name, body in _chunks(data, 12):
        if name in (b"VP8 ", b"VP8L"):
            return Lossy("WebP", vp8_quantiser(body)) if name == b"VP8 " else None
    return None


def _chunks(data: bytes, position: int) -> Iterator[tuple[bytes, bytes]]:
    """Yield the chunks of a WebP file, (name, first bytes); the chunks of an animation's frames follow the frame."""
    while position + 8 <= len(data):
        name, length = data[position : position + 4], int.from_bytes(data[position + 4 : position + 8], "little")
        position += 8
        yield name, data[position : position + 512]
        # The header of a frame has 16 bytes, and the frame's own chunks follow it.
        position += 16 if name == b"ANMF" else length + length % 2


def vp8_quantiser(frame: bytes) -> int | None:
    """Return the base quantiser index of a VP8 key frame, from 0 to 127; None if its header is damaged.

    RFC 6386 describes the header in section 9 and its arithmetic coding in section 7. The index is the first number of
    section 9.6, so everything before it is read and skipped.
    """
    if len(frame) < 32 or frame[3:6] != b"\x9d\x01\x2a":
        return None
    bits = _Bits(frame[10:])  # after the frame tag, the start code and the size
    bits.number(2)  # colour space, clamping
    if bits.number(1):  # segments with separate quantisers
        new_map, new_values = bits.number(1), bits.number(1)
        if new_values:
            bits.number(1)
            for size in (*[8] * 4, *[7] * 4):  # quantisers and filter levels, each with a sign
                bits.optional(size)
        if new_map:
            for _ in range(3):
                bits.optional(8)
    bits.number(1 + 6 + 3)  # the loop filter
    if bits.number(1) and bits.number(1):
        for _ in range(8):
            bits.optional(7)
    bits.number(2)  # the number of partitions
    return bits.number(7)


class _Bits:
    """The bits of VP8's arithmetic decoder (RFC 6386, section 7.3), all with an equal probability of 0 and 1."""

    def __init__(self, data: bytes) -> None:
        self.file = io.BytesIO(data)
        self.value = int.from_bytes(self.file.read(2), "big")
        self.range, self.shifted = 255, 0

    def number(self, size: int) -> int:
        """Read an unsigned number of `size` bits."""
        result = 0
        for _ in range(size):
            result = 2 * result + self._bit()
        return result

    def optional(self, size: int) -> None:
        """Skip a number of `size` bits that follows a bit which says whether it is there."""
        if self._bit():
            self.number(size)

    def _bit(self) -> int:
        split = 1 + (self.range - 1) // 2
        bit = int(self.value >= split << 8)
        if bit:
            self.value -= split << 8
            self.range -= split
        else:
            self.range = split
        while self.range < 128:
            self.value, self.range, self.shifted = self.value * 2, self.range * 2, self.shifted + 1
            if self.shifted == 8:
                self.value, self.shifted = self.value | int.from_bytes(self.file.read(1), "big"), 0
        return bit
