"""The reference network, and initial values with which the untrained network upscales like bicubic."""

from itertools import product
from typing import Any

import torch
from torch import Tensor, nn

from upscale_lit.errors import check_choice


class Upsampler(nn.Module):
    """The reference network: an encoder to a quarter of the size and a decoder to twice the size, 716,947 parameters.

    (N, 3, h, w) -> (N, 3, 2h, 2w), float in the networks' pixel range, on the device of the weights. h and w must be
    multiples of 4 (`upscale` pads other sizes).

    start: "bicubic" sets initial values with which the untrained network upscales like bicubic; "random" keeps
        PyTorch's initial values.
    batch_norm: "frozen" keeps the statistics of every BatchNorm at mean 0 and variance 1, so that the BatchNorm is only
        a trainable scale and shift, also in training mode. "batch" is PyTorch's usual behaviour.
    Neither option changes the layers or the state-dict keys. Raises InputError for other values of the two options.
    """

    factor = 2
    multiple = 4  # two convolutions of stride 2

    def __init__(self, start: str = "bicubic", batch_norm: str = "frozen") -> None:
        super().__init__()
        check_choice("model.start", start, ("bicubic", "random"))
        check_choice("model.batch_norm", batch_norm, ("frozen", "batch"))
        self.frozen_batch_norm = batch_norm == "frozen"
        self.fw = nn.Sequential(
            *_normalised(nn.Conv2d(3, 16, 5, stride=2, padding=2)),  # (16, h/2, w/2)
            *_normalised(nn.Conv2d(16, 64, 5, stride=2, padding=2)),  # (64, h/4, w/4)
            *_normalised(nn.Conv2d(64, 256, 5, padding=2)),  # (256, h/4, w/4)
            *_normalised(nn.ConvTranspose2d(256, 64, 4, stride=2, padding=1)),  # (64, h/2, w/2)
            *_normalised(nn.ConvTranspose2d(64, 16, 4, stride=2, padding=1)),  # (16, h, w)
            nn.ConvTranspose2d(16, 3, 4, stride=2, padding=1),  # (3, 2h, 2w)
            nn.Tanh(),
        )
        if start == "bicubic":
            start_as_bicubic(self.fw)
        self.train()  # freezes the statistics if batch_norm is "frozen"

    def train(self, mode: bool = True) -> "Upsampler":
        super().train(mode)
        if self.frozen_batch_norm:
            freeze_statistics(self)
        return self

    def forward(self, low: Tensor) -> Tensor:
        pred: Tensor = self.fw(low)
        return pred


def _normalised(layer: nn.Conv2d | nn.ConvTranspose2d) -> tuple[nn.Module, nn.Module, nn.Module]:
    return layer, nn.BatchNorm2d(layer.out_channels), nn.ReLU()


def freeze_statistics(network: nn.Module) -> None:
    """Make every BatchNorm use its stored statistics and never update them."""
    for layer in network.modules():
        if isinstance(layer, nn.BatchNorm2d):
            layer.eval()


# The tanh at the end of the network would bend contrast. The last hidden layer therefore computes the terms of a
# piecewise-linear approximation of atanh. Over the pixel range,
#   atanh(x) ~ sum of slope * relu(p * relu(x) + n * relu(-x) - hinge) - 1.043.
# The slopes and hinges of the approximation are fitted: tanh(approximation of atanh(x)) is x within 0.9 grey levels
# (rms).
# In the first term p * relu(x) + n * relu(-x) = x, and every pixel x is above the hinge -1. So the first term minus
# 1.043 is the straight line 1.043 * (x + 1) - 1.043 = 1.043 * x. The other terms bend this line near black and white.
ATANH_HINGES = (  # (p, n, hinge, slope)
    (1, -1, -1.0, 1.043),
    (1, 0, 0.455, 0.543),
    (0, 1, 0.455, -0.543),
    (1, 0, 0.760, 2.110),
    (0, 1, 0.760, -2.110),
)


@torch.no_grad()
def start_as_bicubic(fw: nn.Sequential) -> None:
    """Overwrite initial values of the Upsampler such that the untrained network upscales like bicubic.

    Purpose: with random initial values, the network is 6 dB below bicubic after two minutes of training. With these
    initial values, the network is 1.5 dB above bicubic after the same time.

    Derivation: bicubic upscaling by 2 with Keys' a = -0.5 equals bilinear upscaling of a sharpened image. Along each
    axis, the sharpening has the taps (-3, 38, -3) / 32, and a new pixel is a quarter of a pixel from the nearest low
    pixel. Bilinear upscaling gives the two nearest sharpened pixels the weights (3, 1) / 4. So the four nearest low
    pixels have the weights

        (3 * (-3, 38, -3, 0) + (0, -3, 38, -3)) / 128 = (-9, 111, 29, -3) / 128.

    These are Keys' weights at the distances 1.25, 0.25, 0.75 and 1.75.

    The layers compute this as follows. BatchNorm starts as the identity, x is a pixel, and s is a sharpened pixel.

        1  Space-to-depth: blocks of 2x2 pixels fill 12 of 16 channels. ReLU keeps x + 1, which is always positive.
        2  Space-to-depth again: blocks of 4x4 pixels fill 48 of 64 channels.
        3  Sharpening: a pair of channels, relu(s) and relu(-s), holds each value s. The pairs fill 96 of 256 channels.
        4  Depth-to-space: the pairs fill 24 of 64 channels.
        5  Depth-to-space: the five terms of atanh (see ATANH_HINGES) for each colour fill 15 of 16 channels.
        6  Bilinear upscaling of the sum of these terms, then tanh.

    Layers 3 and 4 output pairs instead of values with an offset such as + 1. If all inputs of a layer share an offset,
    the equal steps of Adam add up to a jump of brightness. At a learning rate of 1e-3 this jump costs 6 dB in the first
    15 seconds. Layers 1 and 2 have too few channels for pairs, so their outputs keep the offset. Therefore layers 2 and
    3, which read these outputs, need a lower learning rate.

    The remaining channels are spare. They keep PyTorch's random values, and training can use them. At first the signal
    channels and the output have weights of zero for the spare channels.
    """
    layers: list[Any] = [layer for layer in fw if isinstance(layer, (nn.Conv2d, nn.ConvTranspose2d))]
    first, second, third, fourth, fifth, last = layers

    def at2(c: int, i: int, j: int) -> int:
        """Return the channel that holds colour c of pixel (i, j) in a block of 2x2 pixels."""
        return 4 * c + 2 * (i % 2) + j % 2

    def at4(c: int, i: int, j: int) -> int:
        """Return the channel that holds colour c of pixel (i, j) in a block of 4x4 pixels."""
        return 16 * c + 4 * (i % 4) + j % 4

    overwritten = [
        first.weight[:12], second.weight[:48], second.bias[:48], third.weight[:96], fourth.weight[:, :24],
        fourth.bias[:24], fifth.weight[:, :15], last.weight,
    ]  # fmt: skip
    for values in overwritten:
        values.zero_()

    # A convolution with kernel 5, stride 2 and padding 2 reads pixel 2 * q + i at the kernel's offset 2 + i.
    first.bias[:12] = 1
    for c, i, j in product(range(3), range(2), range(2)):
        first.weight[at2(c, i, j), c, 2 + i, 2 + j] = 1

    taps = (-3 / 32, 38 / 32, -3 / 32)
    for c, i, j in product(range(3), range(4), range(4)):
        channel = at4(c, i, j)
        second.weight[channel, at2(c, i, j), 2 + i // 2, 2 + j // 2] = 1
        for di, dj in product((-1, 0, 1), (-1, 0, 1)):  # a neighbour may be in the next block
            source = at4(c, i + di, j + dj), 2 + (i + di) // 4, 2 + (j + dj) // 4
            third.weight[(2 * channel, *source)] = taps[di + 1] * taps[dj + 1]
            third.weight[(2 * channel + 1, *source)] = -taps[di + 1] * taps[dj + 1]
        # The taps sum to 1, so sharpening x + 1 gives s + 1, and these biases remove the offset 1.
        third.bias[2 * channel], third.bias[2 * channel + 1] = -1, 1
        # A transposed convolution with kernel 4, stride 2 and padding 1 writes pixel 2 * q + i at offset 1 + i.
        for sign in (0, 1):
            fourth.weight[2 * channel + sign, 2 * at2(c, i, j) + sign, 1 + i // 2, 1 + j // 2] = 1

    triangle = torch.tensor([0.25, 0.75, 0.75, 0.25])
    for c, (n, (on_positive, on_negative, hinge, slope)) in product(range(3), enumerate(ATANH_HINGES)):
        channel = 5 * c + n
        for i, j in product(range(2), range(2)):
            fifth.weight[2 * at2(c, i, j), channel, 1 + i, 1 + j] = on_positive
            fifth.weight[2 * at2(c, i, j) + 1, channel, 1 + i, 1 + j] = on_negative
        fifth.bias[channel] = -hinge
        last.weight[channel, c] = slope * torch.outer(triangle, triangle)
    last.bias[:] = -ATANH_HINGES[0][3]
