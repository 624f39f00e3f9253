import itertools
import logging
import multiprocessing
from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import data_module, picture
from PIL import Image

from upscale_lit import resample
from upscale_lit.cli import main
from upscale_lit.data.degradations import BlurNoise, gaussian_blur
from upscale_lit.data.low import LowPictures
from upscale_lit.data.module import UpscaleDataModule
from upscale_lit.data.photo import read_photo
from upscale_lit.data.pyramid import Pixels, Pyramid
from upscale_lit.data.randoms import Stream, photo_of, uniform
from upscale_lit.data.regions import Regions
from upscale_lit.data.sources import Plan
from upscale_lit.data.split import position
from upscale_lit.data.validation import val_squares
from upscale_lit.errors import InputError
from upscale_lit.models import Upsampler, upscale


def batches(data: UpscaleDataModule, epoch: int = 0) -> list[torch.Tensor]:
    data.setup("fit")
    loader = data.train_dataloader()
    loader.sampler.set_epoch(epoch)  # type: ignore[attr-defined]
    return [data.on_after_batch_transfer(batch, 0)[1].clone() for batch in loader]


@pytest.mark.filterwarnings("ignore:This DataLoader will create 4 worker processes")  # intended, also with fewer cores
@pytest.mark.parametrize("cache", ["auto", None])
def test_the_same_examples_with_any_number_of_workers(folder: Path, cache: str | None) -> None:
    alone = batches(data_module(folder, cache=cache))
    assert len(alone) == 3
    for workers in (2, 4):
        helped = batches(data_module(folder, cache=cache, num_workers=workers))
        assert all(torch.equal(a, b) for a, b in zip(alone, helped, strict=True))
    assert not torch.equal(alone[0], batches(data_module(folder, cache=cache), epoch=1)[0])
    assert not torch.equal(alone[0], batches(data_module(folder, cache=cache, seed=2))[0])


def test_a_cache_does_not_change_the_examples(folder: Path) -> None:
    with_cache, without = data_module(folder, cache="auto"), data_module(folder)
    assert all(torch.equal(a, b) for a, b in zip(batches(with_cache), batches(without), strict=True))
    assert with_cache.val_digest == without.val_digest


@pytest.mark.slow
def test_workers_start_under_spawn(folder: Path) -> None:
    """macOS and Windows start workers by spawn, which sends each worker all that it needs."""
    alone = batches(data_module(folder, cache="auto"))
    before = multiprocessing.get_start_method()
    multiprocessing.set_start_method("spawn", force=True)
    try:
        helped = batches(data_module(folder, cache="auto", num_workers=2))
    finally:
        multiprocessing.set_start_method(before, force=True)
    assert all(torch.equal(a, b) for a, b in zip(alone, helped, strict=True))


def test_an_example_does_not_depend_on_its_batch() -> None:
    examples = regions(*(picture(150, 100, seed) for seed in range(3)), seed=5)
    together = examples(range(40))
    for number in (0, 17, 39):
        assert torch.equal(examples([number])[0], together[number])
    apart = examples([39, 10**9, 3])
    assert torch.equal(apart[0], together[39])
    assert torch.equal(apart[2], together[3])


class Pictures:
    """A source that returns given pictures."""

    identifier = "pictures"

    def __init__(self, *images: Image.Image) -> None:
        self.photos = [Pyramid.of(np.array(image)) for image in images]

    def open(self, plan: Plan) -> None:
        self.seed = plan.seed

    def __len__(self) -> int:
        return len(self.photos)

    def pyramid(self, number: int) -> Pyramid:
        return self.photos[photo_of(self.seed, number, len(self.photos))]

    def held_out(self) -> list[Pixels]:
        return [photo.level(0) for photo in self.photos]


def regions(
    *images: Image.Image, crop: int = 32, region: tuple[float, float] = (0.0, 1.0), seed: int = 1, inverted: float = 0
) -> Callable[[Iterable[int]], torch.Tensor]:
    """Return a function from example numbers to the high pictures of these examples, (N, 3, crop, crop) uint8."""
    source = Pictures(*images)
    source.open(Plan("64to128", 512, crop, False, 4, 12, 32, seed))
    examples = Regions(source, LowPictures(2, "bicubic", inverted=inverted), crop, region, seed)

    def made(numbers: Iterable[int]) -> torch.Tensor:
        high = examples.__getitems__(list(numbers))
        assert isinstance(high, torch.Tensor)
        return high

    return made


def spans(high: torch.Tensor) -> torch.Tensor:
    """Return the side of each region of RAMP in pixels of RAMP, (N,). Mirrored regions have negative values.

    The grey level of RAMP grows by 1 per column. If a region is resized to `side` pixels, the grey levels of its first
    and last column therefore differ by (side - 1) / side of the region's side.
    """
    side = high.shape[-1]
    return (high[:, 0, side // 2, -1].float() - high[:, 0, side // 2, 0].float()) * side / (side - 1)


RAMP = Image.fromarray(np.broadcast_to(np.arange(256, dtype=np.uint8)[None, :, None], (256, 256, 3)).copy())


def test_regions_cover_the_range() -> None:
    """The sides of regions are evenly distributed from the crop to the shorter side of the photo."""
    found = spans(regions(RAMP)(range(4000)))
    mirrored, found = found < 0, found.abs()
    sizes = [32 * 2 ** (level / 2) for level in range(7)]
    nearest = (found[:, None] - torch.tensor(sizes)).abs().argmin(1)
    shares = torch.bincount(nearest, minlength=7) / len(nearest)
    expected = torch.tensor([2 ** (level / 2) for level in range(7)])
    assert (shares - expected / expected.sum()).abs().max() < 0.03
    assert (found - torch.tensor(sizes)[nearest]).abs().max() < 9
    assert mirrored.float().mean().item() == pytest.approx(0.5, abs=0.03)


def test_colour_channels_are_inverted() -> None:
    """A fraction of the examples has inverted channels, each channel in half of them. The others stay as they are."""
    plain, found = (regions(RAMP, inverted=part)(range(2000)) for part in (0, 0.4))
    inverted = (found == 255 - plain).all(dim=(2, 3))
    assert bool((inverted | (found == plain).all(dim=(2, 3))).all())
    assert (inverted.float().mean(dim=0) - 0.2).abs().max() < 0.03
    assert abs(float(inverted.any(dim=1).float().mean()) - 0.4 * 7 / 8) < 0.03


def test_a_wrong_fraction_of_inverted_examples() -> None:
    with pytest.raises(InputError, match=r"data\.inverted must be a number from 0 and up to 1; got 2\."):
        LowPictures(2, "bicubic", inverted=2)


def test_regions_of_one_size_are_cut_and_resized() -> None:
    """experiment=original sets one size for all regions, which may be between two levels of the pyramid."""
    for part in (0.4, 0.8889):
        high = regions(RAMP, crop=64, region=(part, part))(range(200))
        assert (spans(high).abs() - part * 256).abs().max() < 8
    whole = regions(RAMP, crop=64, region=(1.0, 1.0))(range(8))
    assert all(torch.equal(image, whole[0]) or torch.equal(image, whole[0].flip(-1)) for image in whole)


def test_regions_are_taken_from_everywhere() -> None:
    rows = regions(RAMP, region=(0.125, 0.125))(range(1000))[:, 0, 0]
    lefts = rows[:, [0, -1]].amin(1)
    assert lefts.min() < 5
    assert lefts.max() > 219
    assert lefts.float().mean() == pytest.approx(112, abs=8)


def test_flips() -> None:
    """All four flips are equally frequent. Columns 4 and 5 of the random numbers choose the flip."""
    image = picture(32, 32)
    high = torch.from_numpy(np.array(image)).permute(2, 0, 1)
    ways = {flips: high.flip(flips) for flips in ((), (-1,), (-2,), (-1, -2))}
    made = regions(image)(range(400))
    found = [next(way for way, flipped in ways.items() if torch.equal(each, flipped)) for each in made]
    assert min(Counter(found).values()) > 70
    for way, draws in zip(found, uniform(1, Stream.EXAMPLE, range(400)), strict=True):
        assert ((-1 in way), (-2 in way)) == (draws[4] < 0.5, draws[5] < 0.5)


def test_low_pictures_on_the_device() -> None:
    high = torch.randint(0, 256, (4, 3, 32, 32), dtype=torch.uint8)
    low, same = data_module().on_after_batch_transfer(high, 0)
    assert same is high
    assert torch.equal(low, resample.downscale(high, 2))


def test_random_numbers_depend_on_the_example_number_alone() -> None:
    """The random numbers equal those that one generator draws for all examples in order."""
    whole = np.random.Generator(np.random.Philox(key=[3, 2])).random((200, 8))
    assert np.array_equal(uniform(3, Stream.DEGRADATION, range(200)), whole)
    assert np.array_equal(uniform(3, Stream.DEGRADATION, [150, 7]), whole[[150, 7]])
    first = np.random.Generator(np.random.Philox(key=[3, 0])).random((200, 8))[:, 0]
    assert [photo_of(3, number, 5) for number in range(200)] == (first * 5).astype(int).tolist()


def test_the_smallest_photo_leaves_room_for_ssim() -> None:
    """The window of SSIM fits the smallest photo at 8x, although 8 px are shaved off each border."""
    photos = [np.array(picture(40, 32))]
    assert {square.shape[-1] for square in val_squares(photos, 512, 16, factor=8)} == {32}
    assert {square.shape[-1] for square in val_squares(photos, 128, 16, factor=2)} == {16, 24, 32}


def test_val_squares_are_the_largest(tmp_path: Path) -> None:
    photos = [np.array(picture(w, h)) for w, h in ((300, 200), (90, 83))]
    squares = val_squares(photos, size=128, at_least=1, factor=2)
    assert [square.shape[-1] for square in squares] == [128, 80]
    many = val_squares(photos, size=64, at_least=16, factor=2)
    assert len(many) == 16
    assert {square.shape[-1] for square in many} <= {64, 56, 48, 40}
    assert len({square.numpy().tobytes() for square in many}) == 16


def test_large_photos_take_no_more_memory_in_validation(tmp_path: Path) -> None:
    for part, count in (("train", 1), ("val", 6)):
        (tmp_path / part).mkdir()
        for seed in range(count):
            picture(2400, 1600, count + seed).save(tmp_path / part / f"{seed}.jpg")
    data = data_module(tmp_path / "train", val_root=str(tmp_path / "val"), val_pairs=4, cache="auto")
    data.setup("validate")
    assert [square.shape for square in data.squares] == [(1, 3, 64, 64)] * 4
    assert [len(batch) for batch in data.val_dataloader()] == [1] * 4


def test_the_sample_gives_sixteen_pairs_in_every_stage() -> None:
    for size in (128, 256, 512):
        data = data_module(size=size)
        data.setup("validate")
        assert len(data.squares) == 16
        assert len({square.numpy().tobytes() for square in data.squares}) == 16
        assert data.squares[1].shape[-1] == size  # the photo of the astronaut is large enough


def test_one_log_line_counts_the_photos_that_are_left_out(
    folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (folder / "text.jpg").write_text("not a picture")
    (folder / "empty.jpg").touch()
    (folder / "notes.txt").touch()
    picture(30, 30).save(folder / "small.png")
    (tmp_path / "val").mkdir()
    with Image.open(folder / "photo 0.png") as image:
        image.save(tmp_path / "val" / "copy.bmp")
    picture(30, 31).save(tmp_path / "val" / "small.png")
    with caplog.at_level(logging.INFO):
        data_module(folder, val_root=str(tmp_path / "val")).setup("fit")
    line = caplog.messages[-1]
    assert line.startswith("11 photos to train on, 1 to validate on (16 pairs); left out: 1 ")
    for count in (
        "1 no picture", "1 empty", "1 other file", "1 under data.crop=32 px", "1 also in validation",
        "1 under 32 px in validation",
    ):  # fmt: skip
        assert count in line
    assert line.endswith(f"upscale-lit check {folder} --val-root {tmp_path}/val --stage 32to64 names them")


@pytest.mark.parametrize(("small", "expected"), [("skip", 1), ("enlarge", 2)])
def test_small_photos(tmp_path: Path, caplog: pytest.LogCaptureFixture, small: str, expected: int) -> None:
    caplog.set_level(logging.INFO)
    for name, side in (("large", 64), ("tiny", 20)):
        picture(side, side, side).save(tmp_path / f"{name}.png")
    (tmp_path / "val").mkdir()
    picture(64, 64, 9).save(tmp_path / "val" / "v.png")
    train = tmp_path / "train"
    train.mkdir()
    for name in ("large", "tiny"):
        (tmp_path / f"{name}.png").rename(train / f"{name}.png")
    data = data_module(train, val_root=str(tmp_path / "val"), small=small)
    data.setup("fit")
    assert len(data.source) == expected
    assert (
        "1 under data.crop=32 px" if small == "skip" else "1 photos under data.crop=32 px are enlarged"
    ) in caplog.text
    assert batches(data)[0].shape == (4, 3, 32, 32)


def test_every_photo_too_small(tmp_path: Path) -> None:
    for seed in range(3):
        picture(40, 40, seed).save(tmp_path / f"{seed}.png")
    with pytest.raises(InputError, match=r"data.crop=64 px or more on their shorter side; the largest has 40 px"):
        data_module(tmp_path, crop=64).setup("fit")


def test_every_photo_in_validation_too(folder: Path) -> None:
    with pytest.raises(InputError, match=r"All 12 training pictures are also validation pictures"):
        data_module(folder, val_root=str(folder)).setup("fit")


def test_a_quoted_home_is_expanded(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(folder.parent))
    data = data_module(Path("~/photos"))
    data.setup("fit")
    assert data.squares


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"batch_size": 0}, "data.batch_size must be a whole number from 1 upwards; got 0"),
        ({"batch_size": "many"}, 'data.batch_size must be a whole number from 1 upwards; got "many"'),
        ({"num_workers": -1}, "data.num_workers must be a whole number from 0 to 1024; got -1"),
        ({"crop": 30}, "data.crop must be a multiple of 8 and at most the stage's output size, 64 px; got 30"),
        ({"crop": 128}, "at most the stage's output size, 64 px; got 128"),
        ({"examples_per_epoch": 3}, "data.examples_per_epoch must be at least data.batch_size=4; got 3"),
        ({"region": [0.5, 0.2]}, r"got \[0.5, 0.2\]"),
        ({"kernel": "box"}, 'data.kernel must be one of bicubic, bilinear; got "box"'),
        ({"small": "drop"}, 'data.small must be one of skip, enlarge; got "drop"'),
        ({"val_fraction": 1}, "data.val_fraction must be a number above 0 and below 1; got 1"),
    ],
)
def test_invalid_settings(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        data_module(Path("photos"), **changes)


def lows(data: UpscaleDataModule) -> list[torch.Tensor]:
    data.setup("fit")
    return [data.on_after_batch_transfer(batch, 0)[0].clone() for batch in data.train_dataloader()]


def test_inputs_from_earlier_stages(folder: Path) -> None:
    previous = [Upsampler("random").eval(), Upsampler().eval()]
    data, photos = data_module(folder, previous=previous), data_module(folder)
    data.setup("fit")
    photos.setup("fit")
    for loader in ("train_dataloader", "val_dataloader"):
        low, high = data.on_after_batch_transfer(next(iter(getattr(data, loader)())), 0)
        _, same = photos.on_after_batch_transfer(next(iter(getattr(photos, loader)())), 0)
        assert torch.equal(high, same)
        with torch.no_grad():
            chained = upscale(previous[1], upscale(previous[0], resample.downscale(high, 8)))
        assert torch.equal(low, chained)
        assert not low.requires_grad
    assert data.val_digest != photos.val_digest
    other = data_module(folder, previous=[Upsampler("random"), previous[1]])
    other.setup("fit")
    assert other.val_digest != data.val_digest  # other weights make other inputs, so the pairs differ


def test_augmented_inputs_in_training_only(folder: Path) -> None:
    settings: dict[str, Any] = {"degradation": BlurNoise(0.6, 4.0, seed=1)}
    clean, alone, helped = lows(data_module(folder)), lows(data_module(folder, **settings)), None
    helped = lows(data_module(folder, num_workers=2, **settings))
    assert all(torch.equal(a, b) for a, b in zip(alone, helped, strict=True))
    difference = torch.stack(
        [(a.float() - b.float()).square().mean((1, 2, 3)) for a, b in zip(clean, alone, strict=True)]
    )
    assert difference.min() > 0
    assert len(difference.unique()) == difference.numel()  # the amounts of blur and noise differ between examples
    assert not torch.equal(alone[0], lows(data_module(folder, degradation=BlurNoise(0.6, 4.0, seed=2)))[0])
    data, photos = data_module(folder, **settings), data_module(folder)
    data.setup("fit")
    photos.setup("fit")
    assert data.val_digest == photos.val_digest
    val = data.on_after_batch_transfer(next(iter(data.val_dataloader())), 0)
    assert torch.equal(val[0], resample.downscale(val[1], 2))


def test_blur_noise_is_blur_then_noise() -> None:
    from torchvision.transforms.v2.functional import gaussian_blur as by_torchvision

    low = torch.rand(2, 3, 16, 16)
    nothing, sigmas = torch.zeros(2, 1, 1, 1), torch.tensor([0.5, 0.8]).reshape(2, 1, 1, 1)
    assert torch.equal(gaussian_blur(low, nothing), low)
    blurred = gaussian_blur(low, sigmas)
    for row, sigma in enumerate((0.5, 0.8)):
        expected = by_torchvision(low[row], [3, 3], [sigma, sigma])
        inside = (..., slice(1, -1), slice(1, -1))  # torchvision continues the picture differently
        assert (blurred[row] - expected)[inside].abs().max() < 1e-6
    grey = torch.full((64, 3, 32, 32), 128, dtype=torch.uint8)  # a flat picture, which a blur does not change
    noise = BlurNoise(0.6, 9.0, seed=1)(grey, 2, "bicubic", range(64)).float() - 128
    drawn = torch.from_numpy(uniform(1, Stream.DEGRADATION, range(64))[:, 1] * 9.0)
    assert (noise.std(dim=(1, 2, 3)) - drawn).abs().max() < 0.8


@pytest.mark.parametrize("tinies", [1, 12])
def test_training_and_check_count_the_same_photos(
    tmp_path: Path, tinies: int, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    """By the hashes of the files, only one tiny picture would be held out for validation."""
    seeds = itertools.count()

    def add(width: int, height: int, held_out: bool) -> None:
        path = tmp_path / f"{next(seeds)}.png"
        picture(width, height, int(path.stem)).save(path)
        if (position(read_photo(path)[0]) < 0.1) != held_out:
            path.unlink()
            add(width, height, held_out)

    for _ in range(16):
        add(64, 70, held_out=False)
    for number in range(tinies):
        add(20 + number, 20, held_out=number == 0)
    data = data_module(root=tmp_path, crop=32, val_fraction=0.1)
    with caplog.at_level("INFO"):
        data.setup("fit")
    assert "15 photos to train on, 1 to validate on" in caplog.text
    assert f"left out: {tinies} under 32 px" in caplog.text
    assert main(["check", str(tmp_path), "--crop", "32"]) == 0
    text = capsys.readouterr().out
    assert "15 pictures to train on, 1 to validate on." in text
    assert f"{tinies:7}  have less than 32 px and are always left out" in text
