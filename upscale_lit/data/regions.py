"""Training examples: random square regions of photos."""

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

Batch = Tensor | tuple[Tensor, Tensor]  # high pictures; with a degradation also their low ones


class Regions(Dataset[Batch]):
    """High pictures of training examples, each a pure function of (seed, number), flipped at random.

    `number` counts examples over all epochs. A region's side lies between region[0] and region[1] of its photo's
    shorter side. It is a square of `crop` pixels from one level of the photo's pyramid. Coarser levels, which show more
    of the photo, are drawn more often, in proportion, so that sides are evenly distributed. If no level fits the range,
    and from photos with a side under `crop`, a square is resized, antialiased.
    """

    def __init__(self, source: Source, low: LowPictures, crop: int, region: tuple[float, float], seed: int) -> None:
        self.source, self.crop, self.region, self.seed = source, crop, region, seed
        self.degraded = low.degraded if low.degradation else None

    def __getitems__(self, numbers: list[int]) -> Batch:
        """A complete batch: high (N, 3, crop, crop), uint8 RGB; with a degradation also the degraded downscale."""
        draws = uniform(self.seed, Stream.EXAMPLE, numbers).tolist()
        regions = np.empty((len(numbers), self.crop, self.crop, 3), np.uint8)
        for row, number, (_, zoom, top, left, mirrored, turned, *_) in zip(regions, numbers, draws, strict=True):
            square = self._region(self.source.pyramid(number), zoom, top, left)
            row[:] = square[:: -1 if turned < 0.5 else 1, :: -1 if mirrored < 0.5 else 1]
        high = torch.from_numpy(regions).permute(0, 3, 1, 2)
        return (high, self.degraded(high, numbers)) if self.degraded else high

    def _region(self, photo: Pyramid, zoom: float, top: float, left: float) -> Pixels:
        """A photo and three numbers in [0, 1) -> uint8 (crop, crop, 3)."""
        crop, (smallest, largest) = self.crop, self.region
        fitting = _fitting(photo.shapes, crop, self.region)
        if fitting:  # a level shows sqrt(2) times as much as the one before it, along each side
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
    """The levels of a pyramid of which `crop` pixels are a part of the shorter side within the region's range."""
    return [level for level, shape in enumerate(shapes) if region[0] <= crop / min(shape) <= region[1]]


def resized(square: Pixels, side: int) -> Tensor:
    """uint8 (S, S, 3) -> uint8 (1, 3, side, side), bicubic, antialiased."""
    return resample.resize(torch.from_numpy(square.copy()).permute(2, 0, 1)[None], side, side)
