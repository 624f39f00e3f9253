import io
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import ROOT, picture
from PIL import Image

from upscale_lit import Upscaler, resample
from upscale_lit.errors import InputError
from upscale_lit.inference.choose import find, nearest, scale_of, ways
from upscale_lit.models import Upsampler, upscale
from upscale_lit.weights import load_weights


def names(networks: Path, scale: int, *stages: str) -> list[str]:
    places = [networks / f"upscaler_{stage}.pt" for stage in stages] or [networks]
    return [way.name.replace("upscaler_", "") for way in ways(find(places), scale)]


def test_ways(networks: Path) -> None:
    stages = "64to128", "128to256", "256to512"
    assert names(networks, 2) == list(stages)
    assert names(networks, 4) == ["64to128+128to256", "128to256+256to512"]
    assert names(networks, 8) == ["64to512", "64to128+128to256+256to512"]
    assert names(networks, 8, *reversed(stages)) == ["64to128+128to256+256to512"]  # in any order of arguments
    assert names(networks, 8, "128to256") == ["128to256+128to256+128to256"]
    assert names(networks, 4, "64to128", "256to512") == ["64to128+256to512"]  # in the given order
    assert names(networks, 4, "64to512", "64to128") == ["64to128+64to128"]
    with pytest.raises(InputError, match=r"No network can upscale by 4; got .*64to512\.pt \(8x\)\. Choose"):
        names(networks, 4, "64to512")


@pytest.mark.parametrize(("scale", "side", "name"), [
    (2, 1, "64to128"), (2, 80, "64to128"), (2, 100, "128to256"), (2, 190, "256to512"), (2, 4000, "256to512"),
    (4, 70, "64to128+128to256"), (4, 200, "128to256+256to512"), (8, 2000, "64to512"),
])  # fmt: skip
def test_the_nearest_stage(networks: Path, scale: int, side: int, name: str) -> None:
    way = nearest(ways(find([networks]), scale), side)
    assert way.name.replace("upscaler_", "") == name


def test_a_way_as_text(networks: Path) -> None:
    found = find([networks / "upscaler_64to128.pt"])
    assert str(ways(found, 2)[0]) == f"{networks}/upscaler_64to128.pt"
    assert str(ways(found, 4)[0]) == f"{networks}/upscaler_64to128.pt, 2 times"
    assert str(ways(find([networks]), 4)[0]).startswith("a chain of ")


def test_no_weights(tmp_path: Path) -> None:
    with pytest.raises(
        InputError, match=rf"There is no weights file \(.*\) in {tmp_path}\. Train a network first: upscale-lit train"
    ):
        find([tmp_path])
    with pytest.raises(InputError, match=r"nor a shipped model named '.*missing'; the shipped models are compact"):
        find([tmp_path / "missing"])
    with pytest.raises(InputError, match=r"There is no weights file at .*missing\.pt"):
        find([tmp_path / "missing.pt"])


def test_the_scale_of_files(networks: Path) -> None:
    files = {stage: find([networks / f"upscaler_{stage}.pt"]) for stage in ("64to128", "64to512")}
    assert [scale_of(file) for file in files.values()] == [2, 8]
    assert scale_of(files["64to128"] + files["64to512"]) == 2
    assert Upscaler.load(networks / "upscaler_64to512.pt").factor == 8
    assert Upscaler.load(networks, scale=4).factor == 4


def test_the_result_is_the_output_of_the_network(networks: Path) -> None:
    path = networks / "upscaler_64to128.pt"
    image = picture(50, 37)
    big = Upscaler.load(path, device="cpu")(image)
    model, _ = load_weights(path)
    low = torch.from_numpy(np.array(image)).permute(2, 0, 1)[None]
    with torch.no_grad():
        expected = resample.to_uint8(upscale(model, low, padding=24))[0].permute(1, 2, 0).numpy()
    assert (big.mode, big.size) == ("RGB", (100, 74))
    assert np.abs(np.asarray(big).astype(int) - expected).max() <= 1  # sums may be rounded differently
    with torch.no_grad():
        wrong = resample.to_uint8(resample.interpolate(low, 2, "bilinear"))[0].permute(1, 2, 0).numpy()
    assert np.abs(np.asarray(big).astype(int) - wrong).max() > 10  # bilinear upscaling differs clearly


@pytest.mark.parametrize("mode", ["L", "LA", "RGB", "RGBA", "I;16"])
@pytest.mark.parametrize("size", [(1, 1), (3, 50), (33, 21)])
def test_modes_and_sizes(networks: Path, mode: str, size: tuple[int, int]) -> None:
    if mode == "I;16":
        image = Image.fromarray(np.asarray(picture(*size).convert("L")).astype(np.uint16) * 257)
    else:
        image = picture(*size).convert(mode)
    progress: list[float] = []
    big = Upscaler.load(networks, scale=4, tile=16)(image, progress.append)
    assert (big.mode, big.size) == (mode, (4 * size[0], 4 * size[1]))
    assert progress == sorted(progress)
    assert progress[-1] == 1
    small = np.asarray(big.resize(size, Image.Resampling.BOX) if mode != "I;16" else big, dtype=float)
    if mode == "I;16":
        small = small.reshape(size[1], 4, size[0], 4).mean((1, 3)) / 257
        image = image.point(lambda value: value / 257)
    assert np.abs(small - np.asarray(image, dtype=float)).mean() < 6


def test_16_bits_stay_16_bits(networks: Path) -> None:
    """A ramp that is finer than 8 bits does not become steps."""
    ramp = np.tile(np.linspace(30000, 30400, 64), (40, 1)).astype(np.uint16)
    big = np.asarray(Upscaler.load(networks, scale=2)(Image.fromarray(ramp)))
    assert big.dtype == np.uint16
    middle = big[40, 20:108].astype(int)
    assert len(set(middle.tolist())) > 60  # in 8 bits, this ramp has two levels


@pytest.mark.parametrize("mode", ["LA", "RGBA"])
def test_no_dark_fringes(networks: Path, mode: str) -> None:
    """Black pixels that are fully transparent do not darken the edges of visible areas."""
    image = Image.new(mode, (40, 40), (0,) * len(mode))
    colour = (200,) if mode == "LA" else (220, 180, 160)
    image.paste((*colour, 255), (10, 10, 30, 30))
    image.paste((*colour, 128), (5, 5, 6, 35))
    big = np.asarray(Upscaler.load(networks, scale=2)(image)).astype(int)
    seen = big[..., -1] > 0
    assert np.abs(big[seen][:, :-1] - colour).max() <= 4
    flattened = big[..., :-1] * big[..., -1:] / 255 + 255 * (1 - big[..., -1:] / 255)  # on white ground
    assert flattened.min() > min(colour) - 5
    assert (big[24:56, 24:56, -1] == 255).all()
    assert (big[66:, 66:, -1] == 0).all()


def test_transparent_pictures_stay_transparent(networks: Path) -> None:
    assert np.asarray(Upscaler.load(networks, scale=2)(Image.new("RGBA", (9, 9))))[..., 3].max() == 0


def test_metadata_are_kept(networks: Path) -> None:
    image = picture(20, 30)
    image.info["dpi"] = (300, 300)
    assert Upscaler.load(networks, scale=2)(image).info["dpi"] == (300, 300)


def test_devices(networks: Path) -> None:
    for name in ("nonsense", "cuda:99"):
        with pytest.raises(
            InputError, match=rf"There is no device '{name}' here \(.*\); --device cpu works everywhere"
        ):
            Upscaler.load(networks, device=name)
    upscaler = Upscaler([Upsampler()], device="cpu")
    assert upscaler.dtype != torch.float16


def test_half_precision_is_close(networks: Path) -> None:
    """Half precision is the default on a GPU. The test uses it on the CPU."""
    image = picture(60, 44)
    upscaler = Upscaler.load(networks, scale=2, device="cpu")
    whole = np.asarray(upscaler(image)).astype(int)
    upscaler.dtype = torch.float16
    assert np.abs(np.asarray(upscaler(image)).astype(int) - whole).max() <= 2


@pytest.fixture(scope="module")
def upscaler(networks: Path) -> Upscaler:
    return Upscaler.load(networks, scale=2, device="cpu")


def array(*shape: int) -> np.ndarray[Any, Any]:
    """Return a picture of `shape`, uint8. If it has transparency, its corner is transparent and black."""
    colours = picture(shape[1], shape[0])
    values = np.array(colours.convert("L") if len(shape) == 2 else colours.convert("RGBA"))
    if len(shape) == 3:
        values[:9, :9] = 0
        values = values[..., : shape[2]]
    return values


SHAPES = [(24, 31), (24, 31, 3), (24, 31, 4), (1, 1), (1, 3, 3), (3, 4, 4)]


@pytest.mark.parametrize("shape", SHAPES)
def test_arrays_are_upscaled_as_pictures_are(upscaler: Upscaler, shape: tuple[int, ...]) -> None:
    values = array(*shape)
    parts: list[float] = []
    big = upscaler(values, parts.append)
    assert (big.shape, big.dtype) == ((2 * shape[0], 2 * shape[1], *shape[2:]), np.uint8)
    assert np.array_equal(big, np.asarray(upscaler(Image.fromarray(values))))
    assert parts[-1] == 1
    deep = upscaler(values.astype(np.uint16) * 257)
    assert (deep.shape, deep.dtype) == (big.shape, np.uint16)
    assert np.abs(deep / 257 - big).max() < 0.51  # rounded to 16 bits, not to 8


def test_16_bits_of_colour_stay_16_bits(upscaler: Upscaler) -> None:
    ramp = np.tile(np.linspace(30000, 30400, 64), (40, 1))
    values = np.stack([ramp, ramp[:, ::-1], ramp + 1000, np.full_like(ramp, 65535)], axis=-1).astype(np.uint16)
    for count in (3, 4):
        big = upscaler(values[..., :count])
        assert len(set(big[40, 20:108, 0].tolist())) > 60  # in 8 bits, this ramp has two levels
        assert np.abs(big[40, 20:108, 2] - 1000.0 - big[40, 20:108, 0]).max() < 100
    assert (big[..., 3] == 65535).all()


@pytest.mark.parametrize("shape", SHAPES[:3])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_arrays_in_any_order_of_memory(upscaler: Upscaler, shape: tuple[int, ...], dtype: type) -> None:
    values = array(*shape).astype(dtype) * (257 if dtype == np.uint16 else 1)
    expected = upscaler(values)
    wide = np.zeros((2 * shape[0], 3 * shape[1], *shape[2:]), dtype)
    wide[::2, ::3] = values
    read_only = values.copy()
    read_only.flags.writeable = False
    swapped = values.astype(values.dtype.newbyteorder())
    turned = np.ascontiguousarray(values[::-1, ::-1])[::-1, ::-1]
    for given in (np.asfortranarray(values), wide[::2, ::3], turned, read_only, swapped):
        before = given.copy()
        big = upscaler(given)
        assert np.array_equal(big, expected)
        assert big.dtype == given.dtype
        assert np.array_equal(given, before)  # transparent pixels included


def test_no_dark_fringes_in_arrays(upscaler: Upscaler) -> None:
    for dtype, white in ((np.uint8, 255), (np.uint16, 65535)):
        values = np.zeros((40, 40, 4), dtype)
        values[10:30, 10:30] = (white, white // 2, white // 3, white)
        big = upscaler(values).astype(float)
        seen = big[..., 3] > 0
        assert np.abs(big[seen][:, :3] / white - (1, 1 / 2, 1 / 3)).max() < 0.02
        assert (big[24:56, 24:56, 3] == white).all()
        assert big[66:, 66:, 3].max() == 0


NOT_ACCEPTED: list[tuple[object, str]] = [
    ("a.png", r"got 'a\.png'; PIL\.Image\.open reads a file\."),
    (Path("a.png"), r"got PosixPath\('a\.png'\); PIL\.Image\.open"),
    (b"\x89PNG", r"PIL\.Image\.open reads a file"),
    (None, "got an object of type NoneType"),
    ([[1, 2], [3, 4]], "got an object of type list"),
    (torch.zeros(1, 3, 4, 4), r"got a tensor of float32 with the shape \(1, 3, 4, 4\)"),
    (np.zeros((4, 5, 3), np.float32), r"got an array of float32 with the shape \(4, 5, 3\)"),
    (np.zeros((4, 5), bool), "got an array of bool"),
    (np.zeros((4, 5), np.int16), "got an array of int16"),
    (np.zeros((4, 5, 2), np.uint8), r"\(4, 5, 2\)"),
    (np.zeros((4, 5, 1), np.uint8), r"\(4, 5, 1\)"),
    (np.zeros((3, 4, 5), np.uint8), r"\(3, 4, 5\)"),
    (np.zeros((1, 4, 5, 3), np.uint8), r"\(1, 4, 5, 3\)"),
    (np.zeros(5, np.uint8), r"\(5,\)"),
    (np.zeros((0, 5), np.uint8), r"got an empty array, \(0, 5\)"),
    (np.zeros((5, 0, 3), np.uint16), r"got an empty array, \(5, 0, 3\)"),
    (Image.new("RGB", (0, 5)), "got an empty picture, 0x5 px"),
    (Image.new("L", (5, 0)), "got an empty picture, 5x0 px"),
]


@pytest.mark.parametrize(("given", "message"), NOT_ACCEPTED)
def test_inputs_that_are_not_accepted(upscaler: Upscaler, given: Any, message: str) -> None:
    with pytest.raises(
        InputError, match=r"must be called with a PIL image, or with an array of uint8 or uint16.*" + message
    ):
        upscaler(given)


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "BMP", "closed"])
def test_damage_that_appears_while_a_picture_is_decoded(upscaler: Upscaler, kind: str) -> None:
    buffer = io.BytesIO()
    picture(80, 70).save(buffer, "PNG" if kind == "closed" else kind)
    data = buffer.getvalue()
    image = Image.open(io.BytesIO(data if kind == "closed" else data[: len(data) // 2]))
    if kind == "closed":
        image.close()
    with pytest.raises(InputError, match="The picture cannot be decoded"):
        upscaler(image)


@pytest.mark.parametrize(("settings", "message"), [
    ({"scale": 3}, "scale must be 2, 4 or 8; got 3"),
    ({"scale": "2"}, 'scale must be 2, 4 or 8; got "2"'),
    ({"scale": True}, "scale must be 2, 4 or 8; got true"),
    ({"tile": -1}, "tile must be a whole number of input pixels from 1 upwards, or 0 for automatic; got -1"),
    ({"tile": 1.5}, "got 1.5"),
    ({"tile": None}, "got null"),
    ({"device": None}, "There is no device None here"),
    ({"device": ""}, "There is no device '' here"),
    ({"device": "meta"}, "There is no device 'meta' here"),
])  # fmt: skip
def test_invalid_settings(networks: Path, settings: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        Upscaler.load(networks, **settings)


def test_invalid_paths_and_networks(networks: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(networks))
    assert Upscaler.load("~/upscaler_64to512.pt").factor == 8
    for path in ("", " "):
        with pytest.raises(InputError, match="A path must name a file or a folder"):
            Upscaler.load(path)
    for given in (None, ["a.pt"], 3):
        with pytest.raises(InputError, match="A path must name a file or a folder; got"):
            Upscaler.load(given)  # type: ignore[arg-type]
    for given in ([], None, "abc", Upsampler()):
        with pytest.raises(InputError, match="networks must be a list of nn"):
            Upscaler(given)  # type: ignore[arg-type]


def test_models_are_imported_without_pillow() -> None:
    code = "import sys, upscale_lit.models; print('PIL' in sys.modules, hasattr(upscale_lit, 'nothing'))"
    out = subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=os.environ, capture_output=True, text=True)
    assert out.stdout.split() == ["False", "False"]
