"""Decoded photos, in a file that is mapped into memory, or in memory."""

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from upscale_lit.data.photo import Photo
from upscale_lit.data.pyramid import Pixels, Pyramid, pyramid_shapes

Store = Path | bytearray  # the pixels of photos: a file, or memory


class Pictures:
    """The pyramids of photos, uint8, RGB: views of a file that is mapped into memory, without copies.

    A process that gets a pickled copy of this object maps the file again.
    """

    def __init__(self, store: Store, photos: Sequence[Photo]) -> None:
        self.store = store
        self.places = np.array([(photo.offset, *photo.kept) for photo in photos], np.int64).reshape(-1, 3)
        self._open()

    def _open(self) -> None:
        if isinstance(self.store, Path) and len(self.places):
            self.pixels = np.asarray(np.memmap(self.store, np.uint8, "r"))
        else:
            self.pixels = np.frombuffer(self.store if isinstance(self.store, bytearray) else b"", np.uint8)

    def __getstate__(self) -> dict[str, Any]:
        return {"store": self.store, "places": self.places}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._open()

    def __len__(self) -> int:
        return len(self.places)

    def pyramid(self, photo: int) -> Pyramid:
        return Pyramid(self.shapes(photo), partial(self.level, photo))

    def shapes(self, photo: int) -> tuple[tuple[int, int], ...]:
        """Return (height, width) of each level of a photo's pyramid, the largest first."""
        _, height, width = self.places[photo].tolist()
        return pyramid_shapes(height, width)

    def level(self, photo: int, level: int = 0) -> Pixels:
        """Return a level of a photo's pyramid: uint8, (H, W, 3), RGB. Level 0 is the largest."""
        shapes = self.shapes(photo)
        begin = int(self.places[photo, 0]) + sum(3 * height * width for height, width in shapes[:level])
        height, width = shapes[level]
        return self.pixels[begin : begin + 3 * height * width].reshape(height, width, 3)
