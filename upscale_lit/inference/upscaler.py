"""Upscale pictures and arrays of any size from Python."""

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, overload

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn

from upscale_lit import resample
from upscale_lit.errors import InputError, raised_in, refuse_unless
from upscale_lit.inference import choose
from upscale_lit.inference.brightness import keep_brightness
from upscale_lit.inference.paths import path_of
from upscale_lit.inference.pictures import upright
from upscale_lit.inference.quality import Lossy
from upscale_lit.inference.restore import automatic, check_restore, in_tenths, interpolated
from upscale_lit.inference.tiling import Chain

Array = NDArray[Any]
Progress = Callable[[float], None] | None
ACCEPTED = (
    "Upscaler must be called with a PIL image, or with an array of uint8 or uint16 whose shape is (h, w), (h, w, 3) or "
    "(h, w, 4)"
)


def device_of(name: str) -> torch.device:
    """Return a device by name: cpu, cuda:1, mps, or "auto" for a GPU if there is one.

    Raises InputError if this machine does not have the device.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    try:
        device = torch.device(name)
        torch.empty(1, device=device).cpu()  # fails for the device "meta", which holds no values
    except (RuntimeError, AssertionError, TypeError, ImportError) as error:
        reason = str(error).splitlines()[0].split(". ")[0]
        raise InputError(f"There is no device {name!r} here ({reason}); --device cpu works everywhere.") from error
    return device


def precision_of(device: torch.device) -> torch.dtype:
    """Return the precision in which networks are fast on a device.

    It is float16 on CUDA devices, and bfloat16 on CPUs that have instructions for it; otherwise float32. Without these
    instructions, bfloat16 is slower than float32.
    """
    if device.type == "cuda":
        return torch.float16
    # Releases of PyTorch without this function use float32.
    found: Mapping[str, Any] = getattr(torch.cpu, "get_capabilities", dict)() if device.type == "cpu" else {}
    return torch.bfloat16 if any(map(found.get, ("avx512_bf16", "amx_bf16", "bf16"))) else torch.float32


class Upscaler:
    """An upscaler: networks that run one after another on pictures of any size and kind.

    networks: models, such as `weights.load_weights` returns.
    tile: the side of a tile in input pixels, 0 for automatic. The result does not depend on the tile.
    device: the name of a device; "auto" is a GPU if there is one.
    fp32: whether the networks compute in float32 instead of a lower precision; see `precision_of`. 16-bit pictures use
        float32 in any case.
    robust: a network for compressed pictures, with the architecture of the first network. Without it, nothing restores.
    restore: how far the weights of the first network move towards those of `robust`, from 0 to 1, rounded to tenths.
        None chooses an amount for each picture: see `amount`.
    Raises InputError if an argument has another type or value.
    """

    def __init__(
        self, networks: Sequence[nn.Module], tile: int = 0, device: str = "auto", fp32: bool = False,
        robust: nn.Module | None = None, restore: float | None = None,
    ) -> None:  # fmt: skip
        expected = "a whole number of input pixels from 1 upwards, or 0 for automatic"
        refuse_unless(isinstance(tile, int | np.integer) and tile >= 0, "tile", expected, tile)
        networks = list(networks) if isinstance(networks, Iterable) else []
        if not networks or not all(isinstance(network, nn.Module) for network in networks):
            raise InputError("networks must be a list of nn.Modules, not empty. Upscaler.load(FILE) reads weights.")
        restore = float(restore) if isinstance(restore, np.number) else restore
        check_restore(restore, networks[0], robust)
        self.networks, self.tile, self.robust, self.restore = networks, tile, robust, restore
        self.device = device_of(device)
        self.dtype = torch.float32 if fp32 else precision_of(self.device)
        self._chains: dict[tuple[torch.dtype, float], Chain] = {}
        self.factor = math.prod(int(getattr(network, "factor", 2)) for network in networks)
        self.keeps_brightness = all(getattr(network, "keeps_brightness", True) for network in networks)

    @classmethod
    def load(
        cls, *paths: str | Path, scale: int | None = None, tile: int = 0, device: str = "auto", fp32: bool = False,
        restore: float | None = None, restore_with: str | Path | Sequence[str | Path] | None = None,
    ) -> "Upscaler":  # fmt: skip
        """Load weights files (.pt, .safetensors), folders of weights files, or a shipped model by its name.

        paths: without a path, the default shipped model is loaded.
        scale: 2, 4 or 8. None selects the factor of a single weights file, and 2 for several files.
        tile, device, fp32, restore: see the class.
        restore_with: weights files or folders of networks for compressed pictures, of the same architecture and stages.
            The default shipped model has such networks, and needs no argument.
        Raises InputError if a file is missing or damaged, if no network reaches the scale, or if an argument is wrong.
        """
        robust = [restore_with] if isinstance(restore_with, str | Path) else restore_with or []
        refuse_unless(isinstance(robust, Sequence), "restore_with", "a path or a list of paths", restore_with)
        networks = choose.find([path_of(path) for path in paths], [path_of(path) for path in robust])
        known = (None, *choose.SCALES, *(network.factor for network in networks))
        refuse_unless(scale in known and not isinstance(scale, bool), "scale", "2, 4 or 8", scale)
        return cls.of(choose.ways(networks, scale or choose.scale_of(networks))[0], tile, device, fp32, restore)

    @classmethod
    def of(
        cls, way: choose.Way, tile: int = 0, device: str = "auto", fp32: bool = False, restore: float | None = None
    ) -> "Upscaler":
        """Return an upscaler that runs the networks of a way."""
        robust = way.networks[0].robust
        return cls([network.model for network in way.networks], tile, device, fp32, robust, restore)

    def amount(self, lossy: Lossy | None) -> float:
        """Return the amount of restoration for a picture, from 0 to 1 in steps of 0.1.

        lossy: how the picture was compressed; see `quality.lossy_of`. If `restore` is None, the amount follows from
        `restore.automatic`. Pictures without a header, such as arrays, then get 0.
        """
        if self.robust is None:
            return 0.0
        return automatic(lossy, self.factor) if self.restore is None else in_tenths(self.restore)

    @overload
    def __call__(self, image: Image.Image, progress: Progress = None) -> Image.Image: ...

    @overload
    def __call__(self, image: Array, progress: Progress = None) -> Array: ...

    def __call__(self, image: Image.Image | Array, progress: Progress = None) -> Image.Image | Array:
        """Upscale a picture or an array by `factor`.

        image: a PIL image of any mode, or an array of uint8 or uint16. An array is (h, w) for grey, (h, w, 3) for RGB,
            or (h, w, 4) for RGB and alpha. Black is 0, and white is the largest value of the type. The amount of
            restoration follows from the header of the file, so give the image as PIL.Image.open returns it.
        progress: a function that is called with the finished part of the work, from 0 to 1.
        For an image, return a picture of mode L, LA, RGB, RGBA or I;16 whose `info` holds the metadata. The orientation
        is applied (see `upright`). For an array, return an array of the same type, (factor * h, factor * w, ...).
        Raises InputError for an image of another type, for a damaged or empty picture, and if memory is too small.
        """
        if isinstance(image, np.ndarray):
            return self._array(image, progress)
        if not isinstance(image, Image.Image):
            raise InputError(f"{ACCEPTED}; got {_described(image)}.")
        if 0 in image.size:
            raise InputError(f"{ACCEPTED}; got an empty picture, {image.width}x{image.height} px.")
        try:
            picture, _ = upright(image)
        except Exception as error:  # decoders raise many kinds of errors on damaged files
            if isinstance(error, InputError | MemoryError) or not raised_in(error, "PIL"):
                raise
            raise InputError(f"The picture cannot be decoded: {error}.") from error
        return self.enlarge(picture, progress)

    def enlarge(self, picture: Image.Image, progress: Progress = None) -> Image.Image:
        """Upscale a picture that `upright` has returned."""
        values = np.array(picture).reshape(picture.height, picture.width, -1)
        result = Image.new(picture.mode, (picture.width * self.factor, picture.height * self.factor))
        for top, left, part in self._parts(values, self.amount(picture.info.get("lossy")), progress):
            part = part[..., 0] if part.shape[-1] == 1 else part
            result.paste(Image.fromarray(np.ascontiguousarray(part)), (left, top))

        def read(top: int, bottom: int) -> Array:
            return np.array(result.crop((0, top, result.width, bottom))).reshape(bottom - top, result.width, -1)

        def write(top: int, rows: Array) -> None:
            result.paste(Image.fromarray(rows[..., 0] if rows.shape[-1] == 1 else rows), (0, top))

        if self.keeps_brightness:
            keep_brightness(values, self.factor, read, write)
        result.info = {name: value for name, value in picture.info.items() if name != "lossy"}
        return result

    def _array(self, image: Array, progress: Progress) -> Array:
        kind = image.dtype.newbyteorder("=")
        if kind not in (np.uint8, np.uint16) or image.ndim not in (2, 3) or image.shape[2:] not in ((), (3,), (4,)):
            raise InputError(f"{ACCEPTED}; got {_described(image)}.")
        if 0 in image.shape:
            raise InputError(f"{ACCEPTED}; got an empty array, {image.shape}.")
        height, width = image.shape[:2]
        values = np.array(image, kind, order="C", subok=False).reshape(height, width, -1)
        result = np.empty((height * self.factor, width * self.factor, *image.shape[2:]), image.dtype)
        for top, left, part in self._parts(values, self.amount(None), progress):
            place = result[top : top + part.shape[0], left : left + part.shape[1]]
            place[:] = part.reshape(place.shape)
        self._keep_brightness(values, result.reshape(len(result), result.shape[1], -1))
        return result

    def _parts(self, values: Array, amount: float, progress: Progress) -> Iterator[tuple[int, int, Array]]:
        """Yield the upscaled picture in tiles: (top, left, part), with part (height, width, C) of the type of `values`.

        values: (h, w, C), uint8 or uint16. C is 1 for grey, 2 for grey and alpha, 3 for RGB, and 4 for RGB and alpha.
            The colours of fully transparent pixels are overwritten.
        amount: of restoration.
        """
        deep = values.dtype == np.uint16
        if values.shape[-1] in (2, 4):
            _fill(values)
        if deep:
            values = values / np.float32(65535)
        low = torch.from_numpy(values)[None].permute(0, 3, 1, 2)
        done, pixels = 0, low.shape[2] * low.shape[3] * self.factor**2
        for top, left, part in self._chain(amount, deep).tiles(low, self.tile):
            made = part.mul(65535).round_().cpu().to(torch.uint16) if deep else resample.to_uint8(part)
            yield top, left, made[0].permute(1, 2, 0).cpu().numpy()
            done += part.shape[2] * part.shape[3]
            if progress:
                progress(done / pixels)

    def tensor(self, low: Tensor, lossy: Lossy | None = None) -> Tensor:
        """Upscale a tensor: (1, C, h, w) -> (1, C, factor * h, factor * w).

        low: uint8 or float in [0, 1], on any device; C is 1 for grey or 3 for RGB. The result is float in [0, 1],
        clamped, on the CPU.
        lossy: how the picture was compressed; see `amount`.
        """
        height, width = (side * self.factor for side in low.shape[-2:])
        high = torch.empty(1, low.shape[1], height, width)
        for top, left, part in self._chain(self.amount(lossy)).tiles(low, self.tile):
            high[..., top : top + part.shape[2], left : left + part.shape[3]] = part
        self._keep_brightness(*(image[0].permute(1, 2, 0).numpy() for image in (resample.to_float(low).cpu(), high)))
        return high

    def _keep_brightness(self, low: Array, high: Array) -> None:
        """Change an upscaled array in place; see `brightness.keep_brightness`. low: (h, w, C). high: (H, W, C)."""

        def write(top: int, rows: Array) -> None:
            high[top : top + len(rows)] = rows

        if self.keeps_brightness:
            keep_brightness(low, self.factor, lambda top, bottom: high[top:bottom], write)

    def precision(self, amount: float = 0.0, deep: bool = False) -> str:
        """Return the names of the precisions in which the networks compute, such as "bfloat16".

        amount: of restoration. deep: whether the picture has 16 bits.
        """
        return self._chain(amount, deep).precision

    def _chain(self, amount: float, deep: bool = False) -> Chain:
        """Return the networks for an amount of restoration. Only the first one restores: the others see its result."""
        dtype = torch.float32 if deep else self.dtype
        if (dtype, amount) not in self._chains:
            first = self.networks[0] if self.robust is None else interpolated(self.networks[0], self.robust, amount)
            self._chains[dtype, amount] = Chain([first, *self.networks[1:]], self.device, dtype)
        return self._chains[dtype, amount]


def _described(value: object) -> str:
    """Return words that describe a value which is not a picture."""
    if isinstance(value, np.ndarray | torch.Tensor):
        kind = "an array" if isinstance(value, np.ndarray) else "a tensor"
        return f"{kind} of {str(value.dtype).removeprefix('torch.')} with the shape {tuple(value.shape)}"
    if isinstance(value, str | bytes | Path):
        return f"{value!r:.100}; PIL.Image.open reads a file"
    return f"an object of type {type(value).__name__}"


def _fill(values: Array) -> None:
    """Give each fully transparent pixel the colour of the nearest other pixel, in place.

    values: (h, w, 2 or 4), with alpha last. The networks would otherwise mix the hidden colours of transparent pixels,
    often black, into visible edges.
    """
    clear = values[..., -1] == 0
    if clear.any() and not clear.all():
        from scipy import ndimage  # takes 0.1 s, which other pictures do not need

        rows, columns = ndimage.distance_transform_edt(clear, return_distances=False, return_indices=True)
        values[..., :-1] = values[rows, columns, :-1]
