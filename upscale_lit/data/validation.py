"""The squares to validate on, and which process measures which of them."""

from collections.abc import Sequence

from torch import Tensor

from upscale_lit.data.pyramid import Pixels
from upscale_lit.data.regions import resized

SIDE_MULTIPLE = 8  # sides of validation squares: they have low twins at 1/2, 1/4 and 1/8


def val_squares(photos: Sequence[Pixels], size: int, at_least: int, factor: int) -> list[Tensor]:
    """The squares to validate on: as large as the photos allow, at most `size` px, always the same.

    photos: uint8 (H, W, 3). Returns uint8 (1, 3, S, S) with S <= size, S a multiple of 8. Each photo gives one square,
    its largest; where that makes fewer than `at_least`, each gives several, regions that go evenly from its whole
    shorter side down to half of it, on a path from corner to corner. Regions larger than `size` are resized to it,
    antialiased; smaller ones stay as they are. Sides leave room for SSIM's window of 11 px if `factor` px are shaved
    off each border.
    """
    smallest = -(-(11 + 2 * factor) // SIDE_MULTIPLE) * SIDE_MULTIPLE
    views = -(-at_least // len(photos))
    squares = []
    for view in range(views):  # views outside, photos inside: the first columns of a grid show different photos
        along = view / (views - 1) if views > 1 else 0.5
        for photo in photos:
            height, width, _ = photo.shape
            side = min(height, width)
            if views > 1:
                side = max(smallest, round(side * (1 - along / 2)))
            target = min(size, side) // SIDE_MULTIPLE * SIDE_MULTIPLE
            side = side if side > size else target
            top, left = round((height - side) * along), round((width - side) * along)
            squares.append(resized(photo[top : top + side, left : left + side], target).contiguous())
    return squares


def share(pairs: int, rank: int, ranks: int, shown: int) -> range:
    """Which validation pairs a process measures: each pair is one process's, and the first one has at least the first
    `shown`, those of the image grids. Where there are too few for that, all measure all: the mean is the same."""
    first = max(shown, -(-pairs // ranks))
    rest = pairs - first
    if ranks == 1 or rest < ranks - 1:
        return range(pairs)
    ends = [0, *(first + rest * others // (ranks - 1) for others in range(ranks))]
    return range(ends[rank], ends[rank + 1])
