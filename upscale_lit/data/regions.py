"""Training examples: random square regions of photos."""

import itertools
import math
from collections.abc import Sequence
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from upscale_lit import resample
from upscale_lit.data.low import LowPictures
from upscale_lit.data.pyramid import Pixels, Pyramid
from upscale_lit.data.randoms import Stream, uniform
from upscale_lit.data.sources import Source

# For each choice of colour channels: 255 for an inverted channel, because v ^ 255 is 255 - v, and 0 for the others.
INVERSIONS = np.array(list(itertools.product((0, 255), repeat=3)), np.uint8)
Batch = Tensor | tuple[Tensor, Tensor]  # high, or (high, degraded downscale) if there is a degradation


class Regions(Dataset[Batch]):
    """A dataset of training examples. Each example is a pure function of the seed and the number of the example.

    Numbers count the examples of all epochs. An example is a `crop` x `crop` square from one level of a photo's
    pyramid, flipped at random along each axis. Such a square shows a region whose side is between region[0] and
    region[1] of the photo's shorter side. Coarser levels, which show more of the photo, are drawn more often, in
    proportion, so that region sizes are uniformly distributed. If no level of a photo fits this range, or if the photo
    has a side under `crop`, a square of another size is resized to `crop` pixels, antialiased.
    In a part of the examples (`low.inverted`), each colour channel is inverted with a probability of one half. Such
    examples have saturated colours, which are rare in photographs.
    """

    def __init__(self, source: Source, low: LowPictures, crop: int, region: tuple[float, float], seed: int) -> None:
        self.source, self.crop, self.region, self.seed, self.inverted = source, crop, region, seed, low.inverted
        self.degraded = low.degraded if low.degradation else None

    def __getitems__(self, numbers: list[int]) -> Batch:
        """Return a complete batch of high pictures, uint8 (N, 3, crop, crop), RGB, on the CPU.

        With a degradation, return (high, degraded downscale); see `LowPictures.degraded`.
        """
        draws = uniform(self.seed, Stream.EXAMPLE, numbers).tolist()
        regions = np.empty((len(numbers), self.crop, self.crop, 3), np.uint8)
        for row, number, draw in zip(regions, numbers, draws, strict=True):
            _, zoom, top, left, mirrored, turned, inverted, channels = draw
            square = self._region(self.source.pyramid(number), zoom, top, left)
            row[:] = square[:: -1 if turned < 0.5 else 1, :: -1 if mirrored < 0.5 else 1]
            if inverted < self.inverted:
                row ^= INVERSIONS[int(channels * len(INVERSIONS))]
        high = torch.from_numpy(regions).permute(0, 3, 1, 2)
        return (high, self.degraded(high, numbers)) if self.degraded else high

    def _region(self, photo: Pyramid, zoom: float, top: float, left: float) -> Pixels:
        """Cut a region out of a photo: uint8 (crop, crop, 3). zoom, top and left are random numbers in [0, 1)."""
        crop, (smallest, largest) = self.crop, self.region
        fitting = _fitting(photo.shapes, crop, self.region)
        if fitting:
            # A square from the fitting level k shows a region of side s * 2^(k/2). With a uniform `zoom` and n fitting
            # levels, side = s * (1 + zoom * (2^(n/2) - 1)) is uniform from s to s * 2^(n/2). The level of a side is
            # k = 2 * log2(side / s), rounded down.
            level = fitting[0] + int(2 * math.log2(1 + zoom * (2 ** (len(fitting) / 2) - 1)))
            size = crop
        else:
            sides = [min(shape) for shape in photo.shapes]
            part = min(1.0, max(crop / sides[0], smallest + (largest - smallest) * zoom))
            level = max((level for level, side in enumerate(sides) if part * side >= crop), default=0)
            size = max(1, round(part * sides[level]))
        image = photo.level(level)
        height, width, _ = image.shape
        y, x = int(top * (height - size + 1)), int(left * (width - size + 1))
        square = image[y : y + size, x : x + size]
        return square if size == crop else resized(square, crop)[0].permute(1, 2, 0).numpy()


@lru_cache(maxsize=4096)
def _fitting(shapes: Sequence[tuple[int, int]], crop: int, region: tuple[float, float]) -> list[int]:
    """Return the levels of which `crop` pixels are a fraction of the shorter side from region[0] to region[1]."""
    return [level for level, shape in enumerate(shapes) if region[0] <= crop / min(shape) <= region[1]]


def resized(square: Pixels, side: int) -> Tensor:
    """Resize a square, bicubic and antialiased: uint8 (S, S, 3) -> uint8 (1, 3, side, side)."""
    return resample.resize(torch.from_numpy(square.copy()).permute(2, 0, 1)[None], side, side)
