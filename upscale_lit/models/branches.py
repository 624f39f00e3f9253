"""Branches that convolutions have only while they train. Afterwards they become part of the convolutions' weights."""

import copy

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize


class Branch(nn.Module):
    """Adds a branch to a convolution: a convolution to twice as many channels, then one of 1x1 to the output channels.

    Both are linear, so a single convolution computes the same: its weight is the sum of the own weight and the product
    of the branch's two weights. The network stays as fast as before, but gradient descent finds better weights
    (Ding et al. 2021, RepVGG; Zhang et al. 2021, ECBSR). This module computes that sum.

    weight: (O, I, k, k). `right_inverse` makes the sum equal to the weight that the convolution had before.
    """

    def __init__(self, weight: Tensor) -> None:
        super().__init__()
        outputs, inputs, height, width = weight.shape
        # Values with which the branch's output is half as large as that of the convolution itself (LeCun et al. 1998).
        wide = torch.randn(2 * outputs, inputs, height, width) / (inputs * height * width) ** 0.5
        self.wide = nn.Parameter(wide.to(memory_format=torch.channels_last))
        self.narrow = nn.Parameter(torch.randn(outputs, 2 * outputs) / (2 * outputs) ** 0.5 / 2)

    def forward(self, weight: Tensor) -> Tensor:
        return weight + self._product()

    def right_inverse(self, weight: Tensor) -> Tensor:
        return weight - self._product()

    def _product(self) -> Tensor:
        with torch.autocast(self.wide.device.type, enabled=False):  # the sum is exact, as it is after the training
            product = (self.narrow @ self.wide.flatten(1)).reshape(-1, *self.wide.shape[1:])
        return product.contiguous(memory_format=torch.channels_last)


def add_branches(model: nn.Module) -> None:
    """Add a branch to each convolution with a kernel above 1x1, in place. The output of the network stays the same.

    Convolutions in groups, transposed convolutions, and convolutions with another parametrization get no branch.
    """
    for layer in model.modules():
        if not isinstance(layer, nn.Conv2d) or parametrize.is_parametrized(layer):
            continue
        if layer.groups == 1 and max(layer.kernel_size) > 1:
            parametrize.register_parametrization(layer, "weight", Branch(layer.weight))


def without_branches(model: nn.Module) -> nn.Module:
    """Return a copy of a network in which each branch has become part of its convolution's weight."""
    model = copy.deepcopy(model)
    for layer in model.modules():
        if isinstance(layer, nn.Conv2d) and any(isinstance(part, Branch) for part in layer.modules()):
            # remove_parametrizations would also take the weight from the original, because both share a class.
            weight, kind = layer.weight.detach(), parametrize.type_before_parametrizations(layer)
            del layer.parametrizations
            layer.__class__ = kind
            layer.weight = nn.Parameter(weight)
    return model
