"""Colour information outside the profile, and pixels that are not square, are kept or named in a note."""

import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from conftest import png_chunk
from PIL import ExifTags, Image
from test_metadata import COLOURS, LEFT_OUT, SRGB, encoded, names, segment, tiff, with_chunks, with_segments

from upscale_lit.inference.pictures import read_picture, save_picture, upright


def colour_png(*chunks: bytes, kind: int = 2) -> bytes:
    image = {0: COLOURS.convert("L"), 2: COLOURS, 3: COLOURS.quantize(16)}[kind]
    return with_chunks(*chunks, image=image)


LINEAR = png_chunk(b"gAMA", struct.pack(">I", 100000))
USUAL = png_chunk(b"gAMA", struct.pack(">I", 45455))
BT709 = png_chunk(b"cHRM", struct.pack(">8I", 31270, 32900, 64000, 33000, 30000, 60000, 15000, 6000))
P3 = png_chunk(b"cHRM", struct.pack(">8I", 31270, 32900, 68000, 32000, 26500, 69000, 15000, 6000))
ICC = png_chunk(b"iCCP", b"p\0\0" + zlib.compress(SRGB))
PQ, SRGB_CODES = png_chunk(b"cICP", b"\x09\x10\0\1"), png_chunk(b"cICP", b"\1\x0d\0\1")
LIGHT = png_chunk(b"cLLI", bytes(8))
COLOUR_CHUNKS: list[tuple[tuple[bytes, ...], str]] = [  # chunks, names of those that a JPEG cannot hold
    ((LINEAR,), "gAMA"),
    ((USUAL,), ""),
    ((USUAL, BT709), ""),
    ((USUAL, P3), "gAMA, cHRM"),
    ((png_chunk(b"sRGB", b"\0"), LINEAR), ""),  # sRGB overrides gAMA
    ((ICC, LINEAR), ""),  # the profile overrides gAMA, and a JPEG keeps the profile
    ((ICC, PQ), "cICP"),  # cICP overrides the profile
    ((SRGB_CODES,), ""),
    ((PQ, LIGHT), "cICP, cLLI"),
]


@pytest.mark.parametrize(("chunks", "lost"), COLOUR_CHUNKS)
def test_colour_information(tmp_path: Path, chunks: tuple[bytes, ...], lost: str) -> None:
    (tmp_path / "a.png").write_bytes(colour_png(*chunks))
    result, notes = read_picture(tmp_path / "a.png")
    for strip in (False, True):
        assert notes + save_picture(result, tmp_path / "b.png", strip=strip) == []
        found = names(tmp_path / "b.png")
        assert all(found[each[4:8]] == each[8:-4] for each in chunks if each is not ICC)
        assert ("iCCP" in str(list(found))) == (ICC in chunks)
    said = [f"the written file lacks the colour information ({lost}), which JPEG cannot hold"] if lost else []
    assert save_picture(result, tmp_path / "b.jpg") == said
    for suffix in ("webp", "tif"):
        assert len(save_picture(result, tmp_path / f"b.{suffix}")) == len(said)


@pytest.mark.parametrize("kind", [0, 3])
def test_colour_information_of_grey_and_palettes(tmp_path: Path, kind: int) -> None:
    (tmp_path / "a.png").write_bytes(colour_png(LINEAR, kind=kind))
    result, _ = read_picture(tmp_path / "a.png")
    save_picture(result, tmp_path / "b.png")
    assert names(tmp_path / "b.png")[b"gAMA"] == struct.pack(">I", 100000)


def test_a_profile_and_srgb_exclude_each_other(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(colour_png(ICC, png_chunk(b"sRGB", b"\0")))
    save_picture(read_picture(tmp_path / "a.png")[0], tmp_path / "b.png")
    assert b"iCCP" in names(tmp_path / "b.png")
    assert b"sRGB" not in names(tmp_path / "b.png")


def test_colour_information_of_an_image_that_pillow_opened(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(colour_png(LINEAR, P3, png_chunk(b"tEXt", b"Title\0a cat")))
    with Image.open(tmp_path / "a.png") as image:
        result, notes = upright(image)
    assert notes + save_picture(result, tmp_path / "b.png") == []
    found = names(tmp_path / "b.png")
    assert [found[name] for name in (b"gAMA", b"cHRM")] == [LINEAR[8:-4], P3[8:-4]]
    assert found[b"tEXt"] == b"Title\0a cat"


def test_a_profile_in_a_bmp(tmp_path: Path) -> None:
    image = encoded(kind="BMP")
    header = struct.pack("<I", 124) + image[18:54] + bytes(16) + b"DEBM" + bytes(48) + struct.pack("<4I", 0, 0, 0, 0)
    pixels, start = image[54:], 14 + 124
    header = header[:112] + struct.pack("<III", 124 + len(pixels), len(SRGB), 0)
    data = b"BM" + struct.pack("<IHHI", start + len(pixels) + len(SRGB), 0, 0, start) + header + pixels
    (tmp_path / "a.bmp").write_bytes(data + SRGB)
    result, notes = read_picture(tmp_path / "a.bmp")
    assert notes == []
    assert np.array_equal(np.asarray(result), np.asarray(COLOURS))
    assert result.info["icc_profile"] == SRGB
    assert save_picture(result, tmp_path / "b.bmp") == [
        "the written file lacks the colour profile, which BMP cannot hold"
    ]
    (tmp_path / "a.bmp").write_bytes(data + SRGB[:100])
    assert read_picture(tmp_path / "a.bmp")[1] == [f"{LEFT_OUT}colour profile"]


def ratio_of(path: Path) -> float:
    """Return the horizontal resolution divided by the vertical resolution, 1.0 if the file has none."""
    with Image.open(path) as image:
        for name in ("jfif_density", "dpi", "aspect", "resolution"):
            if name in image.info:
                return float(image.info[name][0]) / float(image.info[name][1])
    return 1.0


def jfif(unit: int, across: int, down: int) -> bytes:
    return with_segments(segment(0xE0, b"JFIF\0\1\2" + struct.pack(">BHH", unit, across, down) + bytes(2)))


def tiff_of(unit: int, across: int, down: int) -> bytes:
    return tiff(*((tag, 4, 1, struct.pack("<I", value)) for tag, value in ((282, across), (283, down), (296, unit))))


ASPECTS: dict[str, tuple[str, Callable[[], bytes]]] = {
    "PNG, a ratio": ("a.png", lambda: with_chunks(png_chunk(b"pHYs", struct.pack(">IIB", 4, 3, 0)))),
    "PNG, per metre": ("a.png", lambda: with_chunks(png_chunk(b"pHYs", struct.pack(">IIB", 4000, 3000, 1)))),
    "JPEG, a ratio": ("a.jpg", lambda: jfif(0, 4, 3)),
    "JPEG, dpi": ("a.jpg", lambda: jfif(1, 400, 300)),
    "TIFF, a ratio": ("a.tif", lambda: tiff_of(1, 4, 3)),
    "TIFF, dpi": ("a.tif", lambda: tiff_of(2, 4, 3)),
}  # fmt: skip


@pytest.mark.parametrize("name", ASPECTS)
@pytest.mark.parametrize("suffix", ["png", "jpg", "tif", "webp", "bmp"])
def test_pixels_that_are_not_square(tmp_path: Path, name: str, suffix: str) -> None:
    file, content = ASPECTS[name]
    (tmp_path / file).write_bytes(content())
    result, notes = read_picture(tmp_path / file)
    assert notes == []
    notes = save_picture(result, tmp_path / f"b.{suffix}")
    if suffix == "webp" or (suffix == "bmp" and "ratio" in name):
        assert notes == [f"the written file lacks the pixel aspect ratio, which {suffix.upper()} cannot hold"]
    else:
        assert notes == []
        assert ratio_of(tmp_path / f"b.{suffix}") == pytest.approx(4 / 3, rel=0.01)


@pytest.mark.parametrize("suffix", ["png", "jpg", "tif"])
def test_pixels_that_are_not_square_in_a_turned_picture(tmp_path: Path, suffix: str) -> None:
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6
    COLOURS.save(tmp_path / f"a.{suffix}", exif=exif, dpi=(400, 300))
    result, _ = read_picture(tmp_path / f"a.{suffix}")
    assert result.size == (30, 40)
    save_picture(result, tmp_path / f"b.{suffix}")
    assert ratio_of(tmp_path / f"b.{suffix}") == pytest.approx(3 / 4, rel=0.01)


@pytest.mark.parametrize("content", [
    *(with_chunks(png_chunk(b"pHYs", struct.pack(">IIB", *each))) for each in (
        (1, 1, 0), (0, 0, 1), (11811, 11810, 1)
    )),
    with_chunks(USUAL, png_chunk(b"sBIT", b"\5\6\5")),
    encoded(kind="JPEG", dpi=(72, 72)), encoded(kind="TIFF", dpi=(300, 300)), encoded(kind="BMP"),
    encoded(kind="WEBP", exif=Image.Exif()), jfif(0, 1, 1), tiff(),
])  # fmt: skip
def test_a_picture_without_problems_causes_no_note(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a").write_bytes(content)
    result, notes = read_picture(tmp_path / "a")
    assert notes == []
    for suffix in ("png", "jpg", "tif", "webp", "bmp"):
        assert save_picture(result, tmp_path / f"b.{suffix}") == []
