"""Make low pictures, the inputs of a network, from high pictures, which the network should return."""

from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor, nn

from upscale_lit import resample
from upscale_lit.errors import check_choice
from upscale_lit.models import FACTORS, upscale


class Degradation(Protocol):
    """A function that makes low pictures worse than a clean downscale.

    (high, factor, kernel, numbers) -> low: uint8 (N, 3, H, W) -> uint8 (N, 3, H / factor, W / factor), RGB, on the CPU.
    The result depends only on the pixels, on the seed, and on the numbers of the N training examples.
    """

    def __call__(self, high: Tensor, factor: int, kernel: str, numbers: Sequence[int]) -> Tensor: ...


class LowPictures:
    """Makes low pictures: downscales high pictures by `factor`, and degrades them in training.

    kernel: the kernel of the downscale (see `resample.downscale`).
    previous: 2x networks, which are frozen here. The picture is downscaled further, and these networks upscale it to
        the low picture, which is then float in [0, 1] instead of uint8. The networks run on the device of their
        weights. The LightningModule registers `previous` as well, so that Lightning moves the weights.
    Raises InputError if the factor or the kernel is unknown.
    """

    def __init__(
        self, factor: int, kernel: str, degradation: Degradation | None = None, previous: Sequence[nn.Module] = ()
    ) -> None:
        check_choice("data.factor", factor, FACTORS)
        check_choice("data.kernel", kernel, resample.KERNELS)
        self.factor, self.kernel, self.degradation = factor, kernel, degradation
        self.previous = nn.ModuleList(previous).to(memory_format=torch.channels_last).requires_grad_(False).eval()
        self.downscaling = factor * 2 ** len(previous)

    def clean(self, high: Tensor) -> Tensor:
        """Return clean low pictures: uint8 (N, 3, H, W) -> (N, 3, H / factor, W / factor), RGB, on the same device."""
        return self.upscaled(resample.downscale(high, self.downscaling, self.kernel))

    def degraded(self, high: Tensor, numbers: Sequence[int]) -> Tensor:
        """Return the degraded downscales of training examples, which `upscaled` turns into low pictures."""
        assert self.degradation is not None
        return self.degradation(high, self.downscaling, self.kernel, numbers)

    @torch.no_grad()
    def upscaled(self, low: Tensor) -> Tensor:
        """Upscale a downscaled picture with the previous networks. Without such networks, return the picture."""
        for network in self.previous:
            low = upscale(network, low)
        return low
