"""Transparent colours and bits per channel: each bit depth of PNG, in files and in images that Pillow opened."""

import io
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from conftest import png_chunk
from PIL import Image

from upscale_lit import Upscaler
from upscale_lit.data.photo import read_photo
from upscale_lit.inference.pictures import read_picture, upright

READ_AS_8 = "its 16 bits for each colour are read as 8"


def png(bits: int, kind: int, row: bytes, *chunks: bytes) -> bytes:
    """Return a PNG of 16x16 px whose rows are equal. bits: per sample. kind: PNG's colour type. row: its samples."""
    header = struct.pack(">IIBBBBB", 16, 16, bits, kind, 0, 0, 0)
    data = zlib.compress((b"\0" + row) * 16)
    return (
        b"\x89PNG\r\n\x1a\n"
        + png_chunk(b"IHDR", header)
        + b"".join(chunks)
        + png_chunk(b"IDAT", data)
        + png_chunk(b"IEND", b"")
    )


def words(*values: int) -> bytes:
    return struct.pack(f">{len(values)}H", *values)


def clear(*values: int) -> bytes:
    return png_chunk(b"tRNS", words(*values))


PALETTE = png_chunk(b"PLTE", bytes([9, 9, 9, 200, 100, 50, 0, 0, 0]))
# For each name: the content of a PNG, and the colour of its right half. The left half is transparent.
CLEAR: dict[str, tuple[bytes, int | tuple[int, int, int]]] = {
    "1 bit": (png(1, 0, b"\xff\0", clear(1)), 0),
    "1 bit, black": (png(1, 0, b"\0\xff", clear(0)), 255),
    "1 bit, more than it holds": (png(1, 0, b"\xff\0", clear(3)), 0),
    "2 bits": (png(2, 0, b"\xff" * 2 + b"\x55" * 2, clear(3)), 85),
    "4 bits": (png(4, 0, b"\xaa" * 4 + b"\x33" * 4, clear(10)), 51),
    "4 bits, more than it holds": (png(4, 0, b"\xaa" * 4 + b"\x33" * 4, clear(0xFFA)), 51),
    "8 bits": (png(8, 0, b"\x20" * 8 + b"\x30" * 8, clear(0x20)), 0x30),
    "8 bits, more than it holds": (png(8, 0, b"\x20" * 8 + b"\x30" * 8, clear(0x520)), 0x30),
    "16 bits": (png(16, 0, words(0x2001) * 8 + words(0x2002) * 8, clear(0x2001)), 0x20),
    "colour": (png(8, 2, b"abc" * 8 + b"abd" * 8, clear(*b"abc")), (97, 98, 100)),
    "colour of 16 bits": (png(16, 2, words(1, 2, 3) * 8 + words(1, 2, 4) * 8, clear(1, 2, 3)), (0, 0, 0)),
    "palette": (png(8, 3, b"\1" * 8 + b"\0" * 8, PALETTE, png_chunk(b"tRNS", b"\xff\0")), (9, 9, 9)),
    "palette of 2 bits": (png(2, 3, b"\xaa\xaa\x55\x55", PALETTE, png_chunk(b"tRNS", b"\xff\xff\0")), (200, 100, 50)),
    "palette, too long": (
        png(8, 3, b"\1" * 8 + b"\0" * 8, PALETTE, png_chunk(b"tRNS", b"\xff\0" + bytes(400))),
        (9, 9, 9),
    ),
}


@pytest.mark.parametrize("name", CLEAR)
def test_a_transparent_colour(tmp_path: Path, name: str) -> None:
    content, colour = CLEAR[name]
    (tmp_path / "a.png").write_bytes(content)
    result, notes = read_picture(tmp_path / "a.png")
    assert notes == ([READ_AS_8] if "16" in name else [])
    assert result.mode == ("RGBA" if isinstance(colour, tuple) else "LA")
    pixels = np.asarray(result.convert("RGBA"))
    assert (pixels[:, :8, 3] == 0).all()
    assert (pixels[:, 8:] == np.append(np.broadcast_to(colour, 3), 255)).all()
    photo = read_photo(tmp_path / "a.png")[1][0]
    assert (photo[:, :8] == 255).all()
    assert (photo[:, 8:] == colour).all()


@pytest.mark.parametrize("name", CLEAR)
def test_a_transparent_colour_in_an_image_that_pillow_opened(name: str) -> None:
    with Image.open(io.BytesIO(CLEAR[name][0])) as image:
        result, notes = upright(image)
    by_8_bits = name == "colour of 16 bits"
    said = ["only 8 of the 16 bits of its transparent colour are compared"] if by_8_bits else []
    assert notes == said + ([READ_AS_8] if "16" in name else [])
    alpha = np.asarray(result.getchannel("A"))
    assert (alpha[:, :8] == 0).all()
    assert (alpha[:, 8:] == (0 if by_8_bits else 255)).all()


def test_16_bits_stay_when_nothing_is_transparent(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(png(16, 0, words(*range(16)), clear(77)))
    result, notes = read_picture(tmp_path / "a.png")
    assert (result.mode, notes) == ("I;16", [])
    assert np.asarray(result)[0].tolist() == list(range(16))


def test_a_transparent_colour_of_16_bits_among_random_ones(tmp_path: Path) -> None:
    """Rows are filtered, as encoders write them, and colours differ in their lower bytes only."""
    values = np.random.default_rng(0).integers(0, 3, (16, 16, 3)).astype(np.uint16) + 0x1200
    raw, previous = b"", np.zeros(96, np.uint8)
    for row in values:
        line = np.frombuffer(row.astype(">u2").tobytes(), np.uint8)
        raw += b"\2" + (line - previous).tobytes()  # filter 2: the difference from the row above
        previous = line
    data = png(16, 2, b"", clear(0x1201, 0x1200, 0x1202))
    start = data.index(b"IDAT") - 4
    (tmp_path / "a.png").write_bytes(data[:start] + png_chunk(b"IDAT", zlib.compress(raw)) + png_chunk(b"IEND", b""))
    alpha = np.asarray(read_picture(tmp_path / "a.png")[0].getchannel("A"))
    expected = (values == (0x1201, 0x1200, 0x1202)).all(-1)
    assert 0 < expected.sum() < 20
    assert np.array_equal(alpha == 0, expected)


def test_upscaled(tmp_path: Path, networks: Path) -> None:
    upscaler = Upscaler.load(networks / "upscaler_64to128.pt")
    with Image.open(io.BytesIO(CLEAR["4 bits"][0])) as image:
        alpha = np.asarray(upscaler(image).getchannel("A"))
    assert (alpha[:, :12] == 0).all()
    assert (alpha[:, 20:] == 255).all()


@pytest.mark.parametrize("size", [(16, 16), (72, 40), (116, 16), (12, 1616)])
@pytest.mark.parametrize("kind", ["BMP", "PNG", "TIFF", "JPEG", "WEBP"])
@pytest.mark.parametrize("mode", ["RGB", "L", "P", "1"])
def test_8_bits_cause_no_note(tmp_path: Path, size: tuple[int, int], kind: str, mode: str) -> None:
    if (kind, mode) in (("JPEG", "P"), ("WEBP", "P"), ("WEBP", "1")):
        pytest.skip("no such mode")
    Image.new("L", size).convert(mode).save(tmp_path / "a", kind)
    assert read_picture(tmp_path / "a")[1] == []
    with Image.open(tmp_path / "a") as image:
        assert upright(image)[1] == []


@pytest.mark.parametrize("samples", [3, 4])
@pytest.mark.parametrize("compression", [None, "zlib"])
def test_16_bit_colour_in_tiff(tmp_path: Path, samples: int, compression: str | None) -> None:
    import tifffile  # a dependency of scikit-image

    values = np.full((20, 30, samples), 0x8080, np.uint16)
    extra = {"extrasamples": ["unassalpha"]} if samples == 4 else {}
    tifffile.imwrite(tmp_path / "a.tif", values, photometric="rgb", compression=compression, **extra)
    result, notes = read_picture(tmp_path / "a.tif")
    assert notes == [READ_AS_8]
    assert result.mode == ("RGBA" if samples == 4 else "RGB")
    with Image.open(tmp_path / "a.tif") as image:
        assert upright(image)[1] == [READ_AS_8]


def test_a_chunk_before_the_header(tmp_path: Path) -> None:
    """The PNG standard forbids a chunk before the header, but Pillow reads such a file."""
    image = Image.new("RGB", (8, 8), (10, 20, 30))
    image.save(tmp_path / "a.png", transparency=(10, 20, 30))
    data = (tmp_path / "a.png").read_bytes()
    (tmp_path / "b.png").write_bytes(data[:8] + png_chunk(b"gAMA", (45455).to_bytes(4)) + data[8:])
    with_alpha, _ = read_picture(tmp_path / "b.png")
    assert with_alpha.mode == "RGBA"
    assert with_alpha.getpixel((0, 0))[3] == 0
