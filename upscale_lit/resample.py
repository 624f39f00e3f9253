"""Downscaling, classical upscaling, and the networks' pixel range: one definition of each for the whole project.

Images are RGB (N, 3, H, W) on any device, in torchvision's convention: float in [0, 1], or uint8 in 0..255.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from upscale_lit.errors import InputError, check_choice

KERNELS = ("bicubic", "bilinear")

# The range in which every model works: (x - 128) / 134 for x in 0..255. Black and white lie at about +-0.95, inside
# what a final tanh can reach; with +-1 they would sit where its gradient is almost zero.
RANGE_MEAN = 128.0
RANGE_SCALE = 134.0


def to_network(image: Tensor) -> Tensor:
    """RGB, float in [0, 1] or uint8 -> the networks' pixel range, about [-0.955, 0.948], float. Any shape."""
    # One pass over memory, the conversion from uint8 included.
    offset = torch.tensor(-RANGE_MEAN / RANGE_SCALE, device=image.device)
    return torch.add(offset, image, alpha=(255.0 if image.is_floating_point() else 1.0) / RANGE_SCALE)


def from_network(image: Tensor) -> Tensor:
    """The networks' pixel range -> RGB in [0, 1], not clamped. Any shape."""
    return image * (RANGE_SCALE / 255.0) + RANGE_MEAN / 255.0


def to_float(image: Tensor) -> Tensor:
    """uint8 -> float in [0, 1]; float as it is. Any shape."""
    return image if image.is_floating_point() else image.float().div_(255.0)


def to_uint8(image: Tensor) -> Tensor:
    """Float in [0, 1], clamped and rounded -> uint8; uint8 as it is. Any shape."""
    return image.clamp(0.0, 1.0).mul(255.0).round_().byte() if image.is_floating_point() else image


def downscale(high: Tensor, factor: int, kernel: str = "bicubic") -> Tensor:
    """The low twin of a picture: antialiased downscale from 8 bits to 8 bits, as between two saved pictures.

    (N, 3, H, W) -> (N, 3, H / factor, W / factor), RGB, of the type and device of `high`. `bicubic` is Keys' kernel
    with a = -0.5, stretched by the factor, as in Pillow and MATLAB's imresize; `bilinear` is the stretched triangle.
    Raises InputError when a side is no multiple of the factor or the kernel is unknown.
    """
    height, width = high.shape[-2:]
    if height % factor or width % factor:
        raise InputError(
            f"A picture of {width}x{height} px has no low twin at 1/{factor}: crop its sides to multiples."
        )
    check_choice("kernel", kernel, KERNELS)
    low = resize(to_uint8(high), height // factor, width // factor, kernel)
    return to_float(low) if high.is_floating_point() else low


def resize(image: Tensor, height: int, width: int, kernel: str = "bicubic") -> Tensor:
    """uint8 (N, 3, H, W) -> uint8 (N, 3, height, width), antialiased; `image` itself where it has that size.

    CPUs have a kernel of their own for uint8, several times faster than the one for floats; GPUs have none, and may
    differ from it by a grey level.
    """
    if image.shape[-2:] == (height, width):
        return image
    if image.device.type == "cpu":
        return F.interpolate(image, size=(height, width), mode=kernel, antialias=True)
    resized = F.interpolate(image.float(), size=(height, width), mode=kernel, antialias=True)
    return resized.clamp_(0.0, 255.0).round_().byte()


def interpolate(low: Tensor, factor: int, kernel: str = "bicubic") -> Tensor:
    """The classical upscalers that a network has to beat.

    (N, 3, h, w) -> (N, 3, factor * h, factor * w), RGB, float in [0, 1], clamped, same device. `bicubic` is Keys'
    kernel with a = -0.5, the baseline of the super-resolution literature (torch calls it antialias=True; without, it
    takes a = -0.75).
    Raises InputError when the kernel is unknown.
    """
    check_choice("kernel", kernel, KERNELS)
    height, width = low.shape[-2:]
    size = (height * factor, width * factor)
    return F.interpolate(to_float(low), size=size, mode=kernel, antialias=True).clamp(0.0, 1.0)
