from pathlib import Path

import numpy as np
import pytest
from conftest import picture
from PIL import Image

from upscale_lit.errors import InputError
from upscale_lit.photos import find_photos, open_photo, read_photos, sample_photos, split_photos


@pytest.mark.parametrize("suffix", ["jpg", "png", "webp", "bmp", "tiff"])
def test_formats(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"photo.{suffix}"
    image = picture(40, 30)
    image.save(path, **({"lossless": True} if suffix == "webp" else {}))
    pixels = open_photo(path).pixels
    assert pixels.shape == (30, 40, 3)
    assert pixels.dtype == np.uint8
    if suffix != "jpg":
        assert np.array_equal(pixels, np.asarray(image))


def test_modes(tmp_path: Path) -> None:
    grey = Image.fromarray(np.full((8, 8), 51400, np.uint16))
    grey.save(tmp_path / "grey16.png")
    assert (open_photo(tmp_path / "grey16.png").pixels == 200).all()
    clear = Image.new("RGBA", (8, 8), (10, 20, 30, 0))
    clear.save(tmp_path / "clear.png")
    assert (open_photo(tmp_path / "clear.png").pixels == 255).all()
    Image.new("CMYK", (8, 8), (0, 0, 0, 0)).save(tmp_path / "cmyk.jpg")
    assert (open_photo(tmp_path / "cmyk.jpg").pixels > 250).all()


def test_orientation(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by a quarter
    picture(40, 30).save(tmp_path / "turned.jpg", exif=exif)
    assert open_photo(tmp_path / "turned.jpg").pixels.shape == (40, 30, 3)


def test_keep_shrinks_large_photos_only(tmp_path: Path) -> None:
    picture(400, 300).save(tmp_path / "large.jpg")
    assert open_photo(tmp_path / "large.jpg", keep=100).pixels.shape == (100, 133, 3)
    assert open_photo(tmp_path / "large.jpg", keep=300).pixels.shape == (300, 400, 3)


def test_bad_files_are_named(folder: Path) -> None:
    (folder / "text.jpg").write_text("not a picture")
    (folder / "empty.png").touch()
    whole = (folder / "photo 0.png").read_bytes()
    (folder / "cut.png").write_bytes(whole[: len(whole) // 2])
    photos, bad = read_photos(find_photos(folder))
    assert len(photos) == 12
    assert {item.path.name for item in bad} == {"text.jpg", "empty.png", "cut.png"}
    assert all(item.reason for item in bad)


def test_find_says_what_is_missing(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=rf"{tmp_path}/none; found nothing\. .*data.root=DIR"):
        find_photos(tmp_path / "none")
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match=rf"No picture found in {tmp_path}/empty"):
        find_photos(tmp_path / "empty")


def test_split_moves_no_photo_when_others_come(folder: Path) -> None:
    photos, _ = read_photos(find_photos(folder))
    _, val, _ = split_photos(photos, 0.4)
    for seed in range(100, 120):
        picture(64, 64, seed).save(folder / f"new {seed}.png")
    more, _ = read_photos(find_photos(folder))
    _, more_val, _ = split_photos(more, 0.4)
    old = {photo.path for photo in photos}
    assert {photo.path for photo in more_val} & old == {photo.path for photo in val}
    assert len(more_val) > len(val)


@pytest.mark.parametrize(("fraction", "train", "val"), [(1e-9, 11, 1), (1 - 1e-9, 1, 11)])
def test_an_empty_side_gets_the_nearest(folder: Path, fraction: float, train: int, val: int) -> None:
    photos, _ = read_photos(find_photos(folder))
    on_train, on_val, moved = split_photos(photos, fraction)
    assert (len(on_train), len(on_val)) == (train, val)
    assert [moved] == (on_val if val == 1 else on_train)
    hashes = sorted(photo.digest for photo in photos)
    assert moved is not None
    assert moved.digest == (hashes[0] if val == 1 else hashes[-1])


def test_one_photo_is_too_few(tmp_path: Path) -> None:
    for name in ("a.png", "copy of a.png"):
        picture(64, 64).save(tmp_path / name)
    photos, _ = read_photos(find_photos(tmp_path))
    with pytest.raises(InputError, match=r"at least 2 different photos; found 2 readable .*data.val_root"):
        split_photos(photos, 0.1)


def test_sample_is_there_and_apart() -> None:
    train, val = sample_photos()
    assert all(path.is_file() for path in train + val)
    assert {path.name for path in val} == {"chelsea.png", "astronaut.png"}
    assert sum("motorcycle" in path.name for path in train) == 2
