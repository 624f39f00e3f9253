"""Low pictures as people have them: what RealPhoto changes, how often, and that its random choices repeat."""

from typing import Any

import numpy as np
import pytest
import torch
from conftest import picture
from torch import Tensor

from upscale_lit import resample
from upscale_lit.data.compression import jpeg_file, webp_file
from upscale_lit.data.degradations import RealPhoto
from upscale_lit.data.low import LowPictures
from upscale_lit.errors import InputError

PARTS: dict[str, Any] = {
    "clean": 0.5, "jpeg": 0, "quality": [30, 95], "subsampled": 0.5, "other_filter": 0, "noisy": 0, "noise": 10,
    "seed": 1,
}  # fmt: skip


def highs(count: int) -> Tensor:
    pictures = [torch.from_numpy(np.array(picture(32, 32, seed))).permute(2, 0, 1) for seed in range(count)]
    return torch.stack(pictures)


def made(numbers: range, **parts: Any) -> tuple[Tensor, Tensor]:
    """(clean, degraded) low pictures of the same high pictures."""
    high = highs(len(numbers))
    return resample.downscale(high, 2), RealPhoto(**PARTS | parts)(high, 2, "bicubic", numbers)


def changed(clean: Tensor, low: Tensor) -> list[bool]:
    return [not torch.equal(ours, theirs) for ours, theirs in zip(low, clean, strict=True)]


@pytest.mark.parametrize("clean", [0.5, 0.25, 0.75, 0])
def test_a_part_of_every_batch_stays_clean(clean: float) -> None:
    """Each batch has the same fraction of clean examples, and each position of a batch is clean in some batches."""
    found = torch.tensor([changed(*made(range(first, first + 16), clean=clean, jpeg=1)) for first in range(0, 640, 16)])
    assert (found.sum(dim=1) - 16 * (1 - clean)).abs().max() <= 2
    assert (found.float().mean(dim=0) - (1 - clean)).abs().max() < 0.15


@pytest.mark.parametrize("part", ["jpeg", "other_filter", "noisy"])
def test_probabilities(part: str) -> None:
    """Each part has its own random number, so a probability is the fraction of the examples that are changed."""
    for probability in (0, 0.3, 1):
        found = sum(changed(*made(range(400), clean=0, **{part: probability}))) / 400
        assert abs(found - probability) < 0.08


def test_an_example_depends_on_the_seed_and_its_number_alone() -> None:
    parts = {"clean": 0.25, "jpeg": 0.7, "other_filter": 0.4, "noisy": 0.5}
    high = highs(24)
    together = RealPhoto(**PARTS | parts)(high, 2, "bicubic", range(100, 124))
    for index in (0, 7, 23):
        alone = RealPhoto(**PARTS | parts)(high[index : index + 1], 2, "bicubic", [100 + index])
        assert torch.equal(alone[0], together[index])
    other = RealPhoto(**PARTS | parts | {"seed": 2})(high, 2, "bicubic", range(100, 124))
    assert not torch.equal(other, together)


def test_qualities_are_between_the_limits() -> None:
    """Compression at quality 20 leaves a larger error than any at 90 or better."""
    clean, low = made(range(64), clean=0, jpeg=1, quality=[90, 95])
    errors = (low.float() - clean.float()).square().mean(dim=(1, 2, 3))
    files = [jpeg_file(each.permute(1, 2, 0).numpy(), 20, subsampled=False) for each in clean]
    coarse = torch.stack([torch.from_numpy(np.array(file)).permute(2, 0, 1) for file in files])
    worst = (coarse.float() - clean.float()).square().mean(dim=(1, 2, 3))
    assert bool((errors < worst).all())
    assert errors.std() > 0


def test_some_compressed_examples_are_webp() -> None:
    """At one quality, each compressed example is the WebP or the JPEG of its clean picture."""
    clean, low = made(range(200), clean=0, jpeg=1, webp=0.3, subsampled=0, quality=[60, 60])
    files = [(webp_file(pixels, 60), jpeg_file(pixels, 60, False)) for pixels in clean.permute(0, 2, 3, 1).numpy()]
    webp, jpeg = ([np.array(file[kind]) for file in files] for kind in (0, 1))
    found = [np.array_equal(each, other) for each, other in zip(low.permute(0, 2, 3, 1).numpy(), webp, strict=True)]
    others = [np.array_equal(each, other) for each, other in zip(low.permute(0, 2, 3, 1).numpy(), jpeg, strict=True)]
    assert sum(found) + sum(others) == 200
    assert abs(sum(found) / 200 - 0.3) < 0.08


def test_both_chroma_samplings() -> None:
    """At half the resolution, stripes of one pixel in red and blue lose their colours."""
    stripes = np.zeros((16, 16, 3), np.uint8)
    stripes[:, ::2, 0], stripes[:, 1::2, 2] = 255, 255
    full, half = (np.array(jpeg_file(stripes, 95, subsampled)).astype(int) for subsampled in (False, True))
    assert np.abs(full - stripes).mean() < 20 < np.abs(half - stripes).mean()
    grey = np.array(jpeg_file(stripes[..., 0], 90, True))
    assert grey.shape == (16, 16)


@pytest.mark.parametrize("factor", [2, 8])
def test_the_held_out_picture_is_always_degraded(factor: int) -> None:
    high = highs(4)
    low = LowPictures(factor, "bicubic", fixed=RealPhoto(**PARTS | {"clean": 0.9, "jpeg": 1}))
    for number in range(4):
        each = low.degraded_for_validation(high[number : number + 1], number)
        assert torch.equal(each, low.degraded_for_validation(high[number : number + 1], number))
        assert not torch.equal(each, low.clean(high[number : number + 1]))


@pytest.mark.parametrize(
    ("parts", "sentence"),
    [
        ({"jpeg": 1.5}, r"degradation\.jpeg must be a number from 0 and up to 1; got 1\.5\."),
        ({"webp": -0.1}, r"degradation\.webp must be a number from 0 and up to 1; got -0\.1\."),
        ({"clean": 1}, r"degradation\.clean must be a number from 0 and below 1; got 1\."),
        ({"quality": [30, 101]}, r"degradation\.quality must be the lowest and the highest quality, from 1 to 100"),
        ({"quality": 75}, r"degradation\.quality must be .* such as \[30, 95\]; got 75\."),
        ({"quality": [95, 30]}, r"got \[95, 30\]"),
        ({"noise": -1}, r"degradation\.noise must be a number from 0 and up to 255; got -1\."),
        ({"subsampled": "half"}, r'degradation\.subsampled must be a number from 0 and up to 1; got "half"\.'),
    ],
)
def test_impossible_values(parts: dict[str, Any], sentence: str) -> None:
    with pytest.raises(InputError, match=sentence):
        RealPhoto(**PARTS | parts)
