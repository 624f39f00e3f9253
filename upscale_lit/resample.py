"""Downscaling, classical upscaling and the networks' pixel range. The complete project uses these definitions.

Images are RGB (N, 3, H, W) on any device, with torchvision's pixel ranges: float in [0, 1], or uint8 in 0..255.
A function raises no errors of its own unless its docstring names them.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from upscale_lit.errors import InputError, check_choice

KERNELS = ("bicubic", "bilinear")

# The pixel range of every model: (x - 128) / 134 for x in 0..255. Black and white are at about -0.95 and 0.95, which a
# final tanh can reach. At -1 and 1 the gradient of tanh would be almost zero.
RANGE_MEAN = 128.0
RANGE_SCALE = 134.0


def to_network(image: Tensor) -> Tensor:
    """Convert RGB pixels to the networks' pixel range.

    Any shape, float in [0, 1] or uint8, any device -> same shape, float, about [-0.955, 0.948], same device.
    """
    # (s * x - 128) / 134 = -128 / 134 + x * (s / 134), with s = 255 for float and s = 1 for uint8. torch.add computes
    # this sum and converts uint8 to float in a single pass over memory.
    offset = torch.tensor(-RANGE_MEAN / RANGE_SCALE, device=image.device)
    return torch.add(offset, image, alpha=(255.0 if image.is_floating_point() else 1.0) / RANGE_SCALE)


def from_network(image: Tensor) -> Tensor:
    """Convert pixels from the networks' range to RGB, the inverse of `to_network`.

    Any shape, float, any device -> same shape, float, same device. Black is 0, white is 1. The result is not clamped.
    """
    return image * (RANGE_SCALE / 255.0) + RANGE_MEAN / 255.0


def to_float(image: Tensor) -> Tensor:
    """Convert uint8 to float32 in [0, 1]; return a float image unchanged. Any shape and device."""
    return image if image.is_floating_point() else image.float().div_(255.0)


def to_uint8(image: Tensor) -> Tensor:
    """Clamp a float image to [0, 1] and round it to uint8; return a uint8 image unchanged. Any shape and device."""
    return image.clamp(0.0, 1.0).mul(255.0).round_().byte() if image.is_floating_point() else image


def downscale(high: Tensor, factor: int, kernel: str = "bicubic") -> Tensor:
    """Return the low pictures of high pictures, by antialiased downscaling.

    The input and the result are rounded to 8 bits, as if both pictures were saved as files.
    (N, 3, H, W), RGB, float in [0, 1] or uint8, any device -> (N, 3, H / factor, W / factor), RGB, same device. The
    result is uint8 for a uint8 input, else float32 in [0, 1].
    The kernel `bicubic` is Keys' kernel with a = -0.5, stretched by the factor, as in Pillow and MATLAB's imresize. The
    kernel `bilinear` is a triangle, stretched by the factor.
    Raises InputError if a side is not a multiple of the factor, or if the kernel is unknown.
    """
    height, width = high.shape[-2:]
    if height % factor or width % factor:
        raise InputError(
            f"A picture of {width}x{height} px cannot be downscaled by {factor}. "
            "Crop the sides of the picture to multiples of the factor."
        )
    check_choice("kernel", kernel, KERNELS)
    low = resize(to_uint8(high), height // factor, width // factor, kernel)
    return to_float(low) if high.is_floating_point() else low


def resize(image: Tensor, height: int, width: int, kernel: str = "bicubic") -> Tensor:
    """Resize images with antialiasing.

    uint8 (N, 3, H, W), any device -> uint8 (N, 3, height, width), 0..255, same device. An image that has this size
    already is returned unchanged. Raises ValueError, from PyTorch, if the kernel is unknown.
    On a CPU, PyTorch resizes uint8 images several times faster than float images. On a GPU, PyTorch cannot resize uint8
    images; this function converts them to float, and the result may differ by one grey level.
    """
    if image.shape[-2:] == (height, width):
        return image
    if image.device.type == "cpu":
        return F.interpolate(image, size=(height, width), mode=kernel, antialias=True)
    resized = F.interpolate(image.float(), size=(height, width), mode=kernel, antialias=True)
    return resized.clamp_(0.0, 255.0).round_().byte()


def interpolate(low: Tensor, factor: int, kernel: str = "bicubic") -> Tensor:
    """Upscale images by a classical method. These methods are the baselines for the networks.

    (N, 3, h, w), RGB, float in [0, 1] or uint8, any device -> (N, 3, factor * h, factor * w), RGB, float, clamped to
    [0, 1], same device.
    The kernel `bicubic` is Keys' kernel with a = -0.5, the baseline of the super-resolution literature. PyTorch uses
    a = -0.5 only with antialias=True, and a = -0.75 otherwise.
    Raises InputError if the kernel is unknown.
    """
    check_choice("kernel", kernel, KERNELS)
    height, width = low.shape[-2:]
    size = (height * factor, width * factor)
    return F.interpolate(to_float(low), size=size, mode=kernel, antialias=True).clamp(0.0, 1.0)
