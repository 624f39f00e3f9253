"""The squares of photos that validation uses, and how the processes of a run divide them."""

from collections.abc import Sequence

from torch import Tensor

from upscale_lit.data.pyramid import Pixels
from upscale_lit.data.regions import resized

SIDE_MULTIPLE = 8  # px; a validation square can then be downscaled exactly to 1/2, 1/4 and 1/8


def val_squares(photos: Sequence[Pixels], size: int, at_least: int, factor: int) -> list[Tensor]:
    """Cut the validation squares from photos. The same photos always give the same squares.

    photos: RGB photos, uint8 (H, W, 3), 0 to 255.
    size: the largest side of a square in px, a multiple of 8.
    at_least: the smallest number of squares. Each photo gives the same number of squares.
    factor: the number of px that the metrics cut off at each border.

    Returns squares of uint8 (1, 3, S, S), RGB, on the CPU. S is at most `size` and a multiple of 8.

    If each photo gives one square, this square is the largest one, in the photo's centre.
    If each photo gives several, their sides fall evenly from the photo's shorter side to half of it. Their positions
    move evenly from the top left corner to the bottom right corner.
    A region that is larger than `size` is resized to `size`, bicubic and antialiased. A smaller region is not resized.
    Squares of large enough photos have room for SSIM's window of 11 px after the metrics cut off the borders.
    """
    # -(-a // b) is a / b rounded up.
    smallest = -(-(11 + 2 * factor) // SIDE_MULTIPLE) * SIDE_MULTIPLE
    views = -(-at_least // len(photos))
    squares = []
    # The loop over photos is the inner one. The first columns of an image grid then show different photos.
    for view in range(views):
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
    """Return the numbers of the validation pairs that a process measures.

    pairs: the number of validation pairs.
    rank, ranks: the number of this process, from 0, and the number of processes.
    shown: the number of pairs in the image grids.

    Each pair belongs to one process. Process 0 draws the image grids and therefore measures the first `shown` pairs.
    If the remaining pairs do not suffice for one pair per other process, every process measures all pairs. The mean
    over the processes is the same then.
    """
    first = max(shown, -(-pairs // ranks))
    rest = pairs - first
    if ranks == 1 or rest < ranks - 1:
        return range(pairs)
    ends = [0, *(first + rest * others // (ranks - 1) for others in range(ranks))]
    return range(ends[rank], ends[rank + 1])
