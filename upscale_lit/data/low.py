"""Low pictures: the inputs of a network, made from the high pictures that the network should return."""

from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor, nn

from upscale_lit import resample
from upscale_lit.errors import check_choice, check_number
from upscale_lit.models import FACTORS, upscale

TRIES = 64  # examples that are tried for one that a degradation does not leave clean


class Degradation(Protocol):
    """A function that makes low pictures worse than a clean downscale.

    (high, factor, kernel, numbers) -> low: uint8 (N, 3, H, W) -> uint8 (N, 3, H / factor, W / factor), RGB, on the CPU.
    numbers: the numbers of the N training examples. The result depends only on the pixels, the seed and these numbers.
    """

    def __call__(self, high: Tensor, factor: int, kernel: str, numbers: Sequence[int]) -> Tensor: ...


class LowPictures:
    """Low pictures: downscales of high pictures by `factor`, or the output of earlier networks.

    degradation: makes the downscales of training examples worse; None for clean downscales.
    fixed: the same degradation for validation, with a seed that does not depend on the run.
    kernel: the kernel of the downscale (see `resample.downscale`).
    previous: earlier 2x networks, which are frozen here. High pictures are downscaled by another factor of 2 for each
        network, and the networks upscale the result to low pictures. These low pictures are float in [0, 1] instead of
        uint8. The networks run on the device of their weights. The LightningModule registers `previous` as well, so
        that Lightning moves the weights.
    inverted: the fraction of training examples with inverted colour channels; see `Regions`.
    Raises InputError if the factor or the kernel is unknown, or if the fraction is out of range.
    """

    def __init__(
        self, factor: int, kernel: str, degradation: Degradation | None = None, previous: Sequence[nn.Module] = (),
        fixed: Degradation | None = None, inverted: float = 0,
    ) -> None:  # fmt: skip
        check_choice("data.factor", factor, FACTORS)
        check_choice("data.kernel", kernel, resample.KERNELS)
        check_number("data.inverted", inverted, low=0, high=1)
        self.factor, self.kernel, self.degradation, self.fixed = factor, kernel, degradation, fixed
        self.inverted = inverted
        self.previous = nn.ModuleList(previous).to(memory_format=torch.channels_last).requires_grad_(False).eval()
        self.downscaling = factor * 2 ** len(previous)

    def clean(self, high: Tensor) -> Tensor:
        """Return low pictures without a degradation: uint8 (N, 3, H, W) -> (N, 3, H / factor, W / factor), RGB.

        The result is on the same device: uint8, or float in [0, 1] if there are previous networks.
        """
        return self.upscaled(resample.downscale(high, self.downscaling, self.kernel))

    def degraded(self, high: Tensor, numbers: Sequence[int]) -> Tensor:
        """Return the degraded downscales of training examples, which `upscaled` turns into low pictures.

        uint8 (N, 3, H, W) -> uint8 (N, 3, H / downscaling, W / downscaling), RGB, on the CPU.
        """
        assert self.degradation is not None
        return self.degradation(high, self.downscaling, self.kernel, numbers)

    def degraded_for_validation(self, high: Tensor, number: int) -> Tensor:
        """Return the degraded downscale of a validation picture: uint8 (1, 3, H, W) -> uint8, on the CPU.

        The result is the same in all runs. A degradation may leave examples clean, so the first of 64 examples that is
        not clean is taken; if all are clean, the result is clean.
        """
        assert self.fixed is not None
        clean = resample.downscale(high, self.downscaling, self.kernel)
        first = TRIES * number
        tries = (self.fixed(high, self.downscaling, self.kernel, [first + more]) for more in range(TRIES))
        return next((low for low in tries if not torch.equal(low, clean)), clean)

    @torch.no_grad()
    def upscaled(self, low: Tensor) -> Tensor:
        """Upscale downscaled pictures with the previous networks. Without previous networks, return the pictures."""
        for network in self.previous:
            low = upscale(network, low, padding=8)  # an example is the middle of a photo, so its borders continue
        return low
