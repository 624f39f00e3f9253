"""Low pictures: what a network is fed, made from the high picture that it should return."""

from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor, nn

from upscale_lit import resample
from upscale_lit.errors import check_choice
from upscale_lit.models import FACTORS, upscale


class Degradation(Protocol):
    """How a low picture becomes worse than a clean downscale.

    (high, factor, kernel, numbers) -> low: uint8 (N, 3, H, W) -> uint8 (N, 3, H / factor, W / factor), RGB, on the
    CPU. A pure function of the pixels, and of the seed and the numbers of the N training examples.
    """

    def __call__(self, high: Tensor, factor: int, kernel: str, numbers: Sequence[int]) -> Tensor: ...


class LowPictures:
    """Downscales high pictures by `factor`, with a degradation in training, or lets earlier networks make them.

    kernel: of the downscale, see `resample.downscale`.
    previous: 2x networks, frozen here. The picture is then downscaled further, and they upscale it to the low picture,
        which is float in [0, 1] instead of uint8. They run where their weights are: the LightningModule registers
        `previous` too, so that Lightning moves it.
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
        """uint8 (N, 3, H, W) -> (N, 3, H / factor, W / factor), RGB, on the same device."""
        return self.upscaled(resample.downscale(high, self.downscaling, self.kernel))

    def degraded(self, high: Tensor, numbers: Sequence[int]) -> Tensor:
        """The degraded downscale of training examples, which `upscaled` turns into their low pictures."""
        assert self.degradation is not None
        return self.degradation(high, self.downscaling, self.kernel, numbers)

    @torch.no_grad()
    def upscaled(self, low: Tensor) -> Tensor:
        """What the previous networks make of a downscaled picture; without any, the picture itself."""
        for network in self.previous:
            low = upscale(network, low)
        return low
