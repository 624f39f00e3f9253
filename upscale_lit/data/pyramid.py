"""Pyramids: a photo at several sizes, each smaller than the previous size by the square root of 2."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from PIL import Image

Pixels = NDArray[np.uint8]  # (H, W, 3), RGB

SMALLEST_LEVEL = 32  # px, the shortest side in a pyramid; no stage trains on smaller regions


@dataclass(frozen=True)
class Pyramid:
    """A photo at several sizes.

    shapes: (height, width) of each level, the largest first.
    level: a function from the number of a level to its pixels, uint8 (H, W, 3), RGB.
    """

    shapes: Sequence[tuple[int, int]]
    level: Callable[[int], Pixels]

    @classmethod
    def of(cls, picture: Pixels) -> "Pyramid":
        """Return the pyramid of a picture, uint8 (H, W, 3), RGB."""
        return cls.of_levels(pyramid_levels(Image.fromarray(picture)))

    @classmethod
    def of_levels(cls, levels: Sequence[Pixels]) -> "Pyramid":
        """Return the pyramid of levels that `pyramid_levels` has made."""
        return cls(tuple(level.shape[:2] for level in levels), levels.__getitem__)


def pyramid_levels(picture: Image.Image) -> list[Pixels]:
    """Return a picture and its smaller levels, antialiased (see `pyramid_shapes`)."""
    images = [picture]
    for height, width in pyramid_shapes(picture.height, picture.width)[1:]:
        # Each level is made from the level of twice its size. Sizes are exact halves, and errors add up more slowly.
        images.append(images[-2:][0].resize((width, height), Image.Resampling.BICUBIC))
    return [np.array(image) for image in images]


@lru_cache(maxsize=4096)  # every example asks for these shapes
def pyramid_shapes(height: int, width: int) -> tuple[tuple[int, int], ...]:
    """Return (height, width) of a picture and of its smaller levels, as long as no side is under SMALLEST_LEVEL."""
    shapes = [(height, width)]
    level = round(height / math.sqrt(2)), round(width / math.sqrt(2))
    while min(level) >= SMALLEST_LEVEL:
        shapes.append(level)
        level = shapes[-2][0] // 2, shapes[-2][1] // 2
    return tuple(shapes)
