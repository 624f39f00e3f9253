"""Any picture in, a bigger picture out."""

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from scipy import ndimage
from torch import Tensor, nn

from upscale_lit import chains, resample
from upscale_lit.errors import InputError
from upscale_lit.inference import Chain
from upscale_lit.pictures import upright

BANDS = {"L": 1, "LA": 2, "RGB": 3, "RGBA": 4, "I;16": 1}


def device_of(name: str) -> torch.device:
    """ "auto" is a GPU where there is one; else cpu, cuda, cuda:1, mps ... Raises InputError when it is not there."""
    if name == "auto":
        gpus = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
        name = next((gpu for gpu, there in gpus.items() if there), "cpu")
    try:
        device = torch.device(name)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise InputError(f"There is no device {name!r} here ({reason}); --device cpu works everywhere.") from error
    return device


class Upscaler:
    """Networks that run one after the other, on pictures of any size and kind.

    networks: models such as `weights.load_weights` gives. tile: the side of a tile in input pixels, 0 for automatic;
    the result does not depend on it. device: "auto" is a GPU where there is one. fp32: full precision there, too.
    """

    def __init__(self, networks: Sequence[nn.Module], tile: int = 0, device: str = "auto", fp32: bool = False) -> None:
        self.networks, self.tile = networks, tile
        self.device = device_of(device)
        self.half = self.device.type == "cuda" and not fp32
        self._chains: dict[bool, Chain] = {}
        self.factor = self._chain(self.half).factor

    @classmethod
    def load(
        cls,
        *paths: str | Path,
        scale: int | None = None,
        tile: int = 0,
        device: str = "auto",
        fp32: bool = False,
    ) -> "Upscaler":
        """From one or more weights files (.pt, .safetensors), folders of them, or the name of a shipped model.

        Without any, the shipped model that is the default.
        scale: 2, 4 or 8, by a stack or by stages in a row; without it what a single file does, or 2. Raises InputError
        when a file is missing, damaged, or not enough.
        """
        networks = chains.find([Path(path) for path in paths])
        return cls.of(chains.ways(networks, scale or chains.scale_of(networks))[0], tile, device, fp32)

    @classmethod
    def of(cls, way: chains.Way, tile: int = 0, device: str = "auto", fp32: bool = False) -> "Upscaler":
        return cls([network.model for network in way.networks], tile, device, fp32)

    def __call__(self, image: Image.Image, progress: Callable[[float], None] | None = None) -> Image.Image:
        """A picture of any mode -> one `factor` times as large, in mode L, LA, RGB, RGBA or I;16 (see `upright`).

        Its `info` holds the metadata, with the orientation applied and taken out. progress: is told the part that is
        done, from 0 to 1. Raises InputError for a mode that cannot be read, or where memory does not suffice.
        """
        return self.enlarge(upright(image)[0], progress)

    def enlarge(self, picture: Image.Image, progress: Callable[[float], None] | None = None) -> Image.Image:
        """The same for a picture that `upright` gave."""
        bands = BANDS[picture.mode]
        values = np.array(picture)
        deep = values.dtype == np.uint16
        if deep:
            values = values / np.float32(65535)
        if bands in (2, 4):
            _fill(values)
        low = torch.from_numpy(values.reshape(1, picture.height, picture.width, bands)).permute(0, 3, 1, 2)
        result = Image.new(picture.mode, (picture.width * self.factor, picture.height * self.factor))
        done = 0
        for top, left, part in self._chain(self.half and not deep).tiles(low, self.tile):
            if deep:
                pixels = part.mul(65535).round_().cpu().numpy().astype(np.uint16)
            else:
                pixels = resample.to_uint8(part).cpu().numpy()
            pixels = pixels[0, 0] if bands == 1 else pixels[0].transpose(1, 2, 0)
            result.paste(Image.fromarray(np.ascontiguousarray(pixels)), (left, top))
            done += part.shape[2] * part.shape[3]
            if progress:
                progress(done / (result.width * result.height))
        result.info = picture.info
        return result

    def tensor(self, low: Tensor) -> Tensor:
        """(1, C, h, w), uint8 or float in [0, 1], C = 1 for grey or 3 for RGB -> (1, C, factor * h, factor * w), float
        in [0, 1], clamped, on the CPU."""
        height, width = (side * self.factor for side in low.shape[-2:])
        high = torch.empty(1, low.shape[1], height, width)
        for top, left, part in self._chain(self.half).tiles(low, self.tile):
            high[..., top : top + part.shape[2], left : left + part.shape[3]] = part
        return high

    def _chain(self, half: bool) -> Chain:
        if half not in self._chains:
            self._chains[half] = Chain(self.networks, self.device, half)
        return self._chains[half]


def _fill(values: NDArray[np.uint8]) -> None:
    """Give what is fully transparent, in (h, w, 2 or 4) with alpha last, the colour of the nearest pixel that is not.

    Whatever colour was hidden there, often black, would otherwise be mixed into the edges of what can be seen.
    """
    clear = values[..., -1] == 0
    if clear.any() and not clear.all():
        rows, columns = ndimage.distance_transform_edt(clear, return_distances=False, return_indices=True)
        values[..., :-1] = values[rows, columns, :-1]
