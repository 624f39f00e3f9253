"""Keep the brightness of the input where a network changes it.

Networks that have seen photographs alone make dithered pictures, fine stripes and checks too bright or too dark: such
patterns have a contrast that photographs hardly ever show.
"""

from collections.abc import Callable, Iterator
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from upscale_lit import resample

Array = NDArray[Any]
Map = NDArray[np.float64]  # a value for each cell and colour, (rows of cells, columns of cells, C)

CELL = 16  # low pixels, the approximate side of the cells whose means are compared
LIMIT = 2.0  # grey levels of 255 by which the mean of a cell may differ
AROUND = 4  # low pixels around a band of cells, more than a bicubic kernel reaches


def keep_brightness(
    low: Array, factor: int, read: Callable[[int, int], Array], write: Callable[[int, Array], None]
) -> None:
    """Change the upscaled picture in cells whose mean differs from that of the low picture by more than LIMIT.

    First, the difference is subtracted, and the values are clamped. Black and white pixels often cannot move. Where a
    difference d above LIMIT remains, (LIMIT / d) ** 2 of the result is kept, and bicubic upscaling has the rest. What
    is left of the shift is then LIMIT ** 2 / d, less than LIMIT. Between the centres of cells both are interpolated.

    low: (h, w, C), uint8 or uint16, or float in [0, 1]. C is 1 for grey, 2 for grey and alpha, 3 for RGB, and 4 for RGB
        and alpha. Alpha stays as it is.
    read: (top, bottom) -> these rows of the upscaled picture, (bottom - top, factor * w, C), of the type of `low`.
    write: (top, rows) writes rows that `read` returned, after their change.
    """
    white = 1 if low.dtype.kind == "f" else np.iinfo(low.dtype).max
    limit = LIMIT * white / 255
    colours = slice(0, 3 if low.shape[-1] > 2 else 1)
    low = low[..., colours]
    rows, columns = _edges(low.shape[0]), _edges(low.shape[1])
    means = np.stack([_means(low[top:bottom], columns) for top, bottom in pairwise(rows)])

    def shifts() -> Map:
        bands = (read(factor * top, factor * bottom)[..., colours] for top, bottom in pairwise(rows))
        return np.stack([_means(band, factor * columns) for band in bands]) - means

    def change(amounts: Map, by: Callable[[Array, int, int], Array | float]) -> None:
        """Add amounts * by(band, top, bottom) to each band that has an amount; top and bottom are in low pixels."""
        for top, bottom, amount in _bands(amounts, rows, columns, factor):
            high = read(factor * top, factor * bottom)
            band = high[..., colours]
            mixed = (band + amount * by(band, top, bottom)).clip(0, white)
            high[..., colours] = mixed if white == 1 else mixed.round()
            write(factor * top, high)

    shift = shifts()
    if np.abs(shift).max() <= limit:
        return
    from scipy import ndimage  # takes 0.1 s, which other pictures do not need

    change(np.where(np.abs(shift) > limit, shift, 0), lambda band, top, bottom: -1.0)
    rest = np.abs(shifts()).max(axis=-1, keepdims=True)
    replaced = 1 - (limit / np.maximum(rest, limit)) ** 2
    replaced = ndimage.maximum_filter(replaced, (3, 3, 1), mode="nearest")  # a cell keeps its part up to its edges
    change(replaced, lambda band, top, bottom: _bicubic(low, top, bottom, factor, white) - band)


def _bands(
    amounts: Map, rows: NDArray[np.int64], columns: NDArray[np.int64], factor: int
) -> Iterator[tuple[int, int, Array]]:
    """Yield each row of cells with an amount in it or next to it: (top, bottom, amounts of its pixels).

    top, bottom: in low pixels. The amounts of the pixels, (factor * (bottom - top), factor * w, C), are interpolated
    between the centres of the cells.
    """
    from scipy import ndimage

    down, across = _places(rows, factor), _places(columns, factor)
    for number, (top, bottom) in enumerate(pairwise(rows)):
        if amounts[max(number - 1, 0) : number + 2].any():
            places = np.meshgrid(down[factor * top : factor * bottom], across, indexing="ij")
            layers = np.moveaxis(amounts, -1, 0)
            yield top, bottom, np.stack([ndimage.map_coordinates(layer, places, order=1) for layer in layers], axis=-1)


def _edges(size: int) -> NDArray[np.int64]:
    """Return the edges of the cells along an axis with `size` low pixels, from 0 to `size`."""
    count = max(1, round(size / CELL))
    return np.arange(count + 1) * size // count


def _places(edges: NDArray[np.int64], factor: int) -> NDArray[np.float64]:
    """Return the place of each high pixel along an axis, counted in cells: 0 at the centre of the first cell."""
    centres = factor * (edges[:-1] + edges[1:]) / 2
    return np.interp(np.arange(factor * edges[-1]) + 0.5, centres, np.arange(len(centres)))


def _means(band: Array, columns: NDArray[np.int64]) -> NDArray[np.float64]:
    """Return the mean of each cell in a row of cells: (height, w, C) -> (number of cells, C)."""
    kind = np.float64 if band.dtype.kind == "f" else np.uint32
    total = np.einsum("ywc->wc", band, dtype=kind, casting="unsafe")
    means: NDArray[np.float64] = np.add.reduceat(total, columns[:-1], axis=0) / (len(band) * np.diff(columns))[:, None]
    return means


def _bicubic(low: Array, top: int, bottom: int, factor: int, white: float) -> Array:
    """Return rows of the bicubic upscale, clamped: (factor * (bottom - top), factor * w, C), float32."""
    begin = max(top - AROUND, 0)
    part = torch.from_numpy(low[begin : bottom + AROUND].astype(np.float32) / white).permute(2, 0, 1)[None]
    high = resample.interpolate(part, factor, "bicubic")[0].permute(1, 2, 0).numpy()
    return white * high[factor * (top - begin) : factor * (bottom - begin)]
