"""Losses that PyTorch does not have. A loss is a callable (pred, high) -> scalar, both in the networks' pixel range."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from upscale_lit import metrics
from upscale_lit.errors import are_numbers, check_number, refuse_unless


class Charbonnier(nn.Module):
    """The mean of sqrt((pred - high) ** 2 + eps ** 2): L1 with a smooth minimum (Lai et al. 2017, LapSRN)."""

    def __init__(self, eps: float = 1e-3) -> None:
        super().__init__()
        self.eps = eps

    def forward(self, pred: Tensor, high: Tensor) -> Tensor:
        """Return the loss, a scalar. pred, high: float, of the same shape, in the networks' pixel range."""
        return torch.sqrt((pred - high).square() + self.eps**2).mean()


class LumaL1(nn.Module):
    """L1 of red, green and blue, mixed with L1 of luma: (1 - luma) * mean |pred - high| + luma * mean |Y(pred - high)|.

    Y = 0.299 R + 0.587 G + 0.114 B (ITU-R BT.601). Papers compare networks by PSNR on Y, and the eye sees errors of
    luma first. In RGB alone, errors of colour count as much.

    luma: the weight of luma, from 0 to 1. Raises InputError if it is out of range.
    """

    weights: Tensor

    def __init__(self, luma: float) -> None:
        super().__init__()
        check_number("loss.luma", luma, low=0, high=1)
        self.luma = luma
        weights = torch.tensor(metrics.LUMA) / sum(metrics.LUMA)
        self.register_buffer("weights", weights.view(3, 1, 1), persistent=False)

    def forward(self, pred: Tensor, high: Tensor) -> Tensor:
        """Return the loss, a scalar. pred, high: float (N, 3, H, W), in the networks' pixel range."""
        error = pred - high
        luma = (error * self.weights).sum(dim=1)
        return (1 - self.luma) * error.abs().mean() + self.luma * luma.abs().mean()


def check_level_weights(weights: Sequence[float] | None, factor: int) -> None:
    """Check that each level of a stack of 2x models has a weight of at least 0. None is allowed.

    Raises InputError if the number of weights or a weight is wrong, or if all weights are 0.
    """
    levels = factor.bit_length() - 1  # log2(factor), since each level doubles the side
    refuse_unless(
        weights is None or (are_numbers(weights, levels) and min(weights) >= 0 and sum(weights) > 0),
        "stage.level_weights", f"a list with a weight of at least 0 for each of the {levels} levels of a stack, not "
        "all 0, or null for the loss of the last output", weights,
    )  # fmt: skip
