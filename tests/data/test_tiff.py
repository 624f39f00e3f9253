"""The choice of the page that is read from a TIFF with several pages."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile  # a dependency of scikit-image
from conftest import Run, picture
from PIL import Image

from upscale_lit.cli import main
from upscale_lit.data.photo import read_photo
from upscale_lit.inference.pictures import read_picture, upright

PAGE = np.asarray(picture(64, 48))
OTHER = PAGE[::-1]
SMALL = PAGE[::4, ::4]
MASK = np.zeros((48, 64), bool)
REDUCED, OF_MANY, MASKING = {"subfiletype": 1}, {"subfiletype": 2}, {"subfiletype": 4}
OLD = {"extratags": [(255, 3, 1, 2, True)]}
LATER = "the pages before it are smaller copies or masks"

PAGES: dict[str, tuple[list[tuple[Any, dict[str, Any]]], Any, list[str]]] = {  # pages, page that is read, notes
    "copy first": ([(SMALL, REDUCED), (PAGE, {})], PAGE, [f"page 2 of 2 is read: {LATER}"]),
    "copy first, old tag": ([(SMALL, OLD), (PAGE, {})], PAGE, [f"page 2 of 2 is read: {LATER}"]),
    "copy of a mask first": ([(MASK, {"subfiletype": 5}), (PAGE, {})], PAGE, [f"page 2 of 2 is read: {LATER}"]),
    "mask first": ([(MASK, MASKING), (PAGE, {})], PAGE, [f"page 2 of 2 is read: {LATER}"]),
    "mask by its colours": (
        [(MASK, {"photometric": 4}), (SMALL, REDUCED), (PAGE, {})], PAGE, [f"page 3 of 3 is read: {LATER}"]
    ),
    "copies after": ([(PAGE, {}), (SMALL, REDUCED), (MASK, MASKING)], PAGE, []),
    "two pictures": ([(PAGE, OF_MANY), (OTHER, OF_MANY)], PAGE, ["only the first of its 2 pictures is read"]),
    "two pictures and copies": (
        [(SMALL, REDUCED), (PAGE, {}), (SMALL, REDUCED), (OTHER, {})], PAGE,
        [f"page 2 of 4 is read: {LATER}", "only the first of its 2 pictures is read"],
    ),
    "a mask and copies alone": (
        [(MASK, MASKING), (PAGE, REDUCED), (SMALL, REDUCED)], PAGE, [f"page 2 of 3 is read: {LATER}"]
    ),
    "copies alone": ([(PAGE, REDUCED), (SMALL, REDUCED)], PAGE, []),
    "one page": ([(PAGE, {})], PAGE, []),
}  # fmt: skip


def write(path: Path, name: str, **options: Any) -> None:
    with tifffile.TiffWriter(path, **options) as file:
        for values, tags in PAGES[name][0]:
            colours = {"photometric": "rgb"} if values.ndim == 3 else {}
            file.write(values, **(colours | tags), metadata=None)


@pytest.mark.parametrize("name", PAGES)
@pytest.mark.parametrize("options", [{}, {"bigtiff": True}, {"byteorder": ">"}])
def test_pages(tmp_path: Path, name: str, options: dict[str, Any]) -> None:
    _, expected, notes = PAGES[name]
    write(tmp_path / "a.tif", name, **options)
    result, said = read_picture(tmp_path / "a.tif")
    assert said == notes
    assert np.array_equal(np.asarray(result), expected)
    photo, levels = read_photo(tmp_path / "a.tif")
    assert np.array_equal(levels[0], expected)
    assert (photo.width, photo.height) == (64, 48)


@pytest.mark.parametrize("name", [name for name in PAGES if "mask" not in name])
def test_pages_of_an_image_that_pillow_opened(tmp_path: Path, name: str) -> None:
    _, expected, notes = PAGES[name]
    write(tmp_path / "a.tif", name)
    with Image.open(tmp_path / "a.tif") as image:
        result, said = upright(image)
    assert said == notes
    assert np.array_equal(np.asarray(result), expected)


def test_the_page_that_the_caller_chose(tmp_path: Path) -> None:
    write(tmp_path / "a.tif", "copy first")
    with Image.open(tmp_path / "a.tif") as image:
        assert upright(image)[0].size == (64, 48)
    with Image.open(tmp_path / "a.tif") as image:
        image.paste("green", (0, 0, *image.size))  # a changed picture is not read from the file again
        changed = np.asarray(image)
        assert np.array_equal(np.asarray(upright(image)[0]), changed)
        assert np.array_equal(np.asarray(image), changed)
    write(tmp_path / "a.tif", "copies after")
    with Image.open(tmp_path / "a.tif") as image:
        image.seek(1)
        assert upright(image)[0].size == (16, 12)


def test_directories_in_a_circle(tmp_path: Path) -> None:
    write(tmp_path / "a.tif", "copies alone")
    data = bytearray((tmp_path / "a.tif").read_bytes())
    first = int.from_bytes(data[4:8], "little")
    count = int.from_bytes(data[first : first + 2], "little")
    data[first + 2 + 12 * count :][:4] = data[4:8]
    (tmp_path / "a.tif").write_bytes(data[: first + 2 + 12 * count] + data[4:8] + data[first + 6 + 12 * count :])
    assert np.array_equal(np.asarray(read_picture(tmp_path / "a.tif")[0]), PAGE)


def test_check_and_training(
    tmp_path: Path, run: Callable[..., Run], capsys: pytest.CaptureFixture[str], networks: Path
) -> None:
    folder = tmp_path / "photos"
    folder.mkdir()
    for seed in range(3):
        page = np.asarray(picture(100, 90, seed))
        with tifffile.TiffWriter(folder / f"{seed}.tif") as file:
            file.write(page[::8, ::8], photometric="rgb", subfiletype=1, metadata=None)
            file.write(page, photometric="rgb", metadata=None)
    assert main(["check", str(folder), "--crop", "64", "--val-fraction", "0.4"]) == 0
    assert run("data=folder", f"data.root={folder}", "data.val_fraction=0.4").code == 0
    capsys.readouterr()
    out = tmp_path / "out"
    assert main(["upscale", str(folder), "-o", str(out), "-m", str(networks / "upscaler_64to128.pt")]) == 0
    assert f"0.tif: page 2 of 2 is read: {LATER}." in capsys.readouterr().err
    with Image.open(out / "0_x2.tif") as image:
        assert image.size == (200, 180)
