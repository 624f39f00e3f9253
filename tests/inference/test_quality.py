"""How strongly a picture was compressed, from the header of its file."""

import copy
import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import picture
from PIL import Image

from upscale_lit.inference.pictures import read_picture, upright
from upscale_lit.inference.quality import Lossy, jpeg_quality, lossy_of, vp8_quantiser


def tables(**options: object) -> dict[int, list[int]]:
    file = io.BytesIO()
    picture(16, 16).save(file, "JPEG", **options)  # type: ignore[arg-type]
    image = Image.open(file)
    return dict(image.quantization)  # type: ignore[attr-defined]


def saved(kind: str, image: Image.Image | None = None, **options: Any) -> Image.Image:
    file = io.BytesIO()
    (image or picture(40, 30)).save(file, kind, **options)
    return Image.open(file)


def test_every_quality_of_pillow() -> None:
    for quality in range(1, 101):
        for subsampling in (0, 2):
            assert jpeg_quality(tables(quality=quality, subsampling=subsampling)) == quality


def test_tables_of_another_encoder() -> None:
    """Coarser tables get a lower quality, whatever their shape."""
    presets = [jpeg_quality(tables(quality=name)) for name in ("web_low", "web_medium", "web_high", "web_maximum")]
    assert presets == [43, 69, 87, 99]
    assert [jpeg_quality({0: [value] * 64}) for value in (32, 16, 8, 4)] == [72, 85, 92, 96]


@pytest.mark.parametrize("broken", [{}, {1: [1] * 64}, {0: [1] * 63}, {0: [0] * 64}])
def test_missing_tables(broken: dict[int, list[int]]) -> None:
    assert jpeg_quality(broken) is None


def test_grey_pictures() -> None:
    file = io.BytesIO()
    Image.fromarray(np.zeros((16, 16), np.uint8)).save(file, "JPEG", quality=63)
    assert jpeg_quality(Image.open(file).quantization) == 63  # type: ignore[attr-defined]


@pytest.mark.parametrize("mode", ["L", "RGB", "CMYK"])
def test_modes_of_a_jpeg(mode: str) -> None:
    assert lossy_of(saved("JPEG", picture(40, 30).convert(mode), quality=70)) == Lossy("JPEG", 70)


def test_a_photo_of_a_phone() -> None:
    """An MPO holds several JPEGs. The first of them is read."""
    file = saved("MPO", save_all=True, append_images=[picture(40, 30, seed=1)], quality=70)
    assert file.format == "MPO"
    assert lossy_of(file) == Lossy("JPEG", 70)


WEBP = {5: 102, 20: 78, 40: 59, 60: 45, 75: 36, 80: 27, 90: 12, 95: 6, 100: 0}  # the quantiser of each quality


@pytest.mark.parametrize(("quality", "quantiser"), WEBP.items())
def test_webp(quality: int, quantiser: int) -> None:
    """The index stands in the first chunk, after the header of an extended file, or in the first frame."""
    transparent = picture(40, 30).convert("RGBA")
    transparent.putpixel((1, 1), (1, 2, 3, 4))
    files = [
        saved("WEBP", quality=quality), saved("WEBP", quality=quality, method=0),
        saved("WEBP", quality=quality, exif=Image.Exif().tobytes()), saved("WEBP", transparent, quality=quality),
        saved("WEBP", quality=quality, save_all=True, append_images=[picture(40, 30, seed=1)]),
    ]  # fmt: skip
    for file in files:
        lossy = lossy_of(file)
        assert lossy is not None
        assert lossy.level == pytest.approx(quantiser, abs=1)  # the encoder adapts it a little to the picture
        file.load()  # reading the header leaves the file where it was


def test_damaged_webp() -> None:
    assert vp8_quantiser(b"") is None
    assert vp8_quantiser(bytes(100)) is None


def test_pictures_without_their_file(tmp_path: Path) -> None:
    """A closed file no longer shows the header of a WebP, and a copy of a JPEG has no tables. Both are still read."""
    picture(40, 30).save(tmp_path / "a.webp", quality=50)
    with open(tmp_path / "a.webp", "rb") as file:
        image = Image.open(file)
    assert lossy_of(image) is None
    assert upright(image)[0].size == (40, 30)
    assert lossy_of(copy.deepcopy(saved("JPEG", quality=50))) == Lossy("JPEG", None)
    assert lossy_of(saved("JPEG", quality=50).copy()) is None


def test_lossless_pictures() -> None:
    loaded = saved("WEBP", quality=50)
    loaded.load()
    files = [saved("PNG"), saved("TIFF"), saved("BMP"), saved("WEBP", lossless=True), loaded, picture(9, 9)]
    assert [lossy_of(file) for file in files] == [None] * len(files)


def test_a_jpeg_in_a_tiff() -> None:
    assert lossy_of(saved("TIFF", compression="jpeg")) == Lossy("JPEG", None)
    assert str(Lossy("JPEG", None)) == "JPEG of unknown quality"


@pytest.mark.parametrize(("name", "lossy"), [
    ("a.jpg", Lossy("JPEG", 90)), ("a.webp", Lossy("WebP", 12)), ("a.png", None), ("a.tif", None),
])  # fmt: skip
def test_files(tmp_path: Path, name: str, lossy: Lossy | None) -> None:
    options = {} if lossy is None else {"quality": 90}
    picture(40, 30).save(tmp_path / name, **options)  # type: ignore[arg-type]
    assert read_picture(tmp_path / name)[0].info["lossy"] == lossy
