"""Shipped networks keep the brightness of pictures with the strongest contrast: dithering, stripes, checks, noise."""

from collections.abc import Iterator

import numpy as np
import pytest
import torch
from PIL import Image
from skimage import data

from upscale_lit import Upscaler
from upscale_lit.data.pyramid import Pixels

SIDE = 96


def grey(values: np.ndarray) -> Pixels:
    return np.repeat(values.astype(np.uint8)[..., None], 3, axis=2)


def usual() -> Iterator[tuple[str, Pixels]]:
    """Pictures whose mean must stay within two grey levels."""
    for name, size in (("chelsea", (150, 100)), ("astronaut", (96, 96))):
        photo = Image.fromarray(getattr(data, name)()).resize(size, Image.Resampling.BICUBIC)
        yield name, np.asarray(photo)
        yield f"{name}, dithered", np.asarray(photo.convert("1").convert("RGB"))
        channels = [255 * np.asarray(channel.convert("1")).astype(np.uint8) for channel in photo.split()]
        yield f"{name}, dithered in colour", np.stack(channels, axis=2)
    y, x = np.indices((SIDE, SIDE))
    for name, place in (("rows", y), ("columns", x), ("checks", x + y)):
        yield name, grey(255 * (place % 2))


def others() -> Iterator[tuple[str, Pixels]]:
    """Pictures whose mean may shift by two grey levels more than with bicubic upscaling."""
    y, x = np.indices((SIDE, SIDE))
    for dark, bright in ((0, 128), (128, 255), (64, 192)):
        yield f"columns of {dark} and {bright}", grey(np.where(x % 2, dark, bright))
    for width in (2, 3):
        yield f"columns of {width} px", grey(255 * (x // width % 2))
        yield f"checks of {width} px", grey(255 * ((x // width + y // width) % 2))
    dots = (x % 4 == 0) & (y % 4 == 0)
    yield "dots", grey(255 * dots)
    yield "holes", grey(255 * ~dots)
    random = np.random.default_rng(0)
    for part in (0.2, 0.5, 0.8):
        yield f"black and white noise, {part:.0%} white", grey(255 * (random.random((SIDE, SIDE)) < part))
    yield "noise in colour", random.integers(0, 256, (SIDE, SIDE, 3)).astype(np.uint8)
    yield "red and blue columns", np.where(x[..., None] % 2, [255, 0, 0], [0, 0, 255]).astype(np.uint8)


def shift(low: Pixels, high: Pixels) -> float:
    return float(high.mean() - low.mean())


@pytest.mark.parametrize("scale", [2, 4, 8])
@pytest.mark.parametrize("restore", [0, 1])
def test_the_mean_stays(scale: int, restore: float) -> None:
    upscaler = Upscaler.load(scale=scale, device="cpu", restore=restore)
    shifts = {name: shift(low, upscaler(low)) for name, low in usual()}
    assert {name: moved for name, moved in shifts.items() if abs(moved) > 2} == {}


@pytest.mark.parametrize("scale", [2, 4, 8])
@pytest.mark.parametrize("restore", [0, 1])
def test_the_mean_shifts_little_more_than_with_bicubic(scale: int, restore: float) -> None:
    upscaler = Upscaler.load(scale=scale, device="cpu", restore=restore)
    worse = {}
    for name, low in others():
        size = SIDE * scale, SIDE * scale
        bicubic = np.asarray(Image.fromarray(low).resize(size, Image.Resampling.BICUBIC))
        moved, allowed = abs(shift(low, upscaler(low))), abs(shift(low, bicubic)) + 2
        if moved > allowed:
            worse[name] = (moved, allowed)
    assert worse == {}


def dithered(mode: str) -> Image.Image:
    photo = Image.fromarray(data.chelsea()).resize((75, 50), Image.Resampling.BICUBIC)
    return photo.convert("1").convert(mode)


@pytest.fixture(scope="module")
def upscaler() -> Upscaler:
    return Upscaler.load(scale=8, device="cpu", fp32=True)


def test_in_pictures_and_arrays_of_all_kinds(upscaler: Upscaler) -> None:
    expected = np.asarray(upscaler(dithered("L"))).astype(int)
    assert abs(expected.mean() - np.asarray(dithered("L")).mean()) < 2
    values = np.asarray(dithered("L"))
    assert np.array_equal(upscaler(values), expected)
    deep = upscaler(values.astype(np.uint16) * 257)
    assert abs(deep / 257 - expected).max() < 1
    big = upscaler(values.astype(">u2") * 257)
    assert np.array_equal(big, deep)
    tensor = upscaler.tensor(torch.from_numpy(values.copy())[None, None])
    assert abs(255 * tensor[0, 0].numpy() - expected).max() < 1


@pytest.mark.parametrize("mode", ["LA", "RGBA"])
def test_transparency_stays_as_it_is(upscaler: Upscaler, mode: str) -> None:
    picture = dithered(mode)
    left = Image.new("L", picture.size, 255)
    left.paste(100, (0, 0, 30, 50))
    picture.putalpha(left)
    result, opaque = upscaler(picture), upscaler(dithered(mode[:-1]))
    assert set(np.unique(result.getchannel("A"))) >= {100, 255}
    assert np.array_equal(np.asarray(result.getchannel("A"))[:, 320:], np.full((400, 280), 255))
    assert np.array_equal(np.asarray(result.convert(mode[:-1])), np.asarray(opaque))


def test_the_result_does_not_depend_on_tiles(upscaler: Upscaler) -> None:
    small = Upscaler.load(scale=8, device="cpu", fp32=True, tile=20)
    whole, tiled = (np.asarray(each(dithered("RGB"))).astype(int) for each in (upscaler, small))
    assert abs(whole - tiled).max() <= 1


@pytest.mark.parametrize("size", [(1, 1), (1, 40), (7, 9), (17, 33)])
def test_small_pictures(upscaler: Upscaler, size: tuple[int, int]) -> None:
    stripes = np.broadcast_to((np.arange(size[1]) % 2 * 255).astype(np.uint8), size)
    assert upscaler(stripes).shape == (8 * size[0], 8 * size[1])


def test_photographs_do_not_change(upscaler: Upscaler, monkeypatch: pytest.MonkeyPatch) -> None:
    photo = data.astronaut()[:160, 150:350]
    result = upscaler(photo)
    monkeypatch.setattr("upscale_lit.inference.brightness.LIMIT", 1e9)
    assert np.array_equal(upscaler(photo), result)
