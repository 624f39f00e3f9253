"""The reference network, and the initial values that make it a bicubic upscaler."""

from itertools import product
from typing import Any

import torch
from torch import Tensor, nn

from upscale_lit.errors import check_choice


class Upsampler(nn.Module):
    """The reference network: an encoder to a quarter of the size, a decoder to twice the size, 716,947 parameters.

    (N, 3, h, w) -> (N, 3, 2h, 2w), networks' pixel range; h and w are multiples of 4 (`upscale` pads other sizes).

    start: "bicubic" gives initial values that make the untrained network a bicubic upscaler; "random" keeps PyTorch's.
    batch_norm: "frozen" keeps every BatchNorm's statistics at mean 0 and variance 1 for good, so that it is a trainable
        scale and shift, in training as in use; "batch" is PyTorch's ordinary behaviour.
    Neither changes layers or state-dict keys. Raises InputError for other values.
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
        self.train()  # applies batch_norm

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
    """Every BatchNorm keeps its statistics, and uses them."""
    for layer in network.modules():
        if isinstance(layer, nn.BatchNorm2d):
            layer.eval()


# tanh bends contrast, so the last hidden layer straightens it beforehand: over the pixel range,
#   atanh(x) ~ sum of slope * relu(p * relu(x) + n * relu(-x) - hinge) - 1.043,
# fitted such that tanh of it is straight to 0.9 grey levels (rms). The first hinge lies below every pixel, which makes
# its term the straight line 1.043 * (x + 1).
ATANH_HINGES = (  # (p, n, hinge, slope)
    (1, -1, -1.0, 1.043),
    (1, 0, 0.455, 0.543),
    (0, 1, 0.455, -0.543),
    (1, 0, 0.760, 2.110),
    (0, 1, 0.760, -2.110),
)


@torch.no_grad()
def start_as_bicubic(fw: nn.Sequential) -> None:
    """Overwrite initial values of the Upsampler's layers such that the untrained network upscales like bicubic.

    Why: from random values two minutes of training end 6 dB under bicubic; from here they end 1.5 dB above it.
    How: with Keys' a = -0.5, bicubic upscaling by 2 is exactly bilinear upscaling of a sharpened image, and the
    sharpening is separable with the taps (-3, 38, -3) / 32. So, from layer to layer, with c a colour and (i, j) the
    place of a pixel inside its block:

        1  space-to-depth: blocks of 2x2 pixels become 12 of the 16 channels, each pixel as x + 1, which no ReLU cuts
        2  space-to-depth again: blocks of 4x4 pixels, 48 of 64 channels
        3  sharpening, and from here on a pair of channels, relu(x) and relu(-x), for each value: 96 of 256
        4  depth-to-space of the pairs: 24 of 64
        5  depth-to-space; for each colour the five hinges of atanh: 15 of 16
        6  bilinear upscaling of the hinges' sum, then tanh

    Pairs rather than an offset because a common offset in all inputs of a layer makes Adam's equal steps add up to a
    jump of brightness (6 dB lost in the first 15 seconds at a rate of 1e-3); layers 2 and 3, where channels are too few
    for pairs, get a lower learning rate instead. Rows of the signal do not listen to the spare channels at first, nor
    does the output; the spare channels keep PyTorch's random values, and training draws on them.
    """
    layers: list[Any] = [layer for layer in fw if isinstance(layer, (nn.Conv2d, nn.ConvTranspose2d))]
    first, second, third, fourth, fifth, last = layers

    def at2(c: int, i: int, j: int) -> int:
        """The channel of pixel (i, j) in blocks of 2x2; `at4` likewise in blocks of 4x4."""
        return 4 * c + 2 * (i % 2) + j % 2

    def at4(c: int, i: int, j: int) -> int:
        return 16 * c + 4 * (i % 4) + j % 4

    overwritten = [
        first.weight[:12], second.weight[:48], second.bias[:48], third.weight[:96], fourth.weight[:, :24],
        fourth.bias[:24], fifth.weight[:, :15], last.weight,
    ]  # fmt: skip
    for values in overwritten:
        values.zero_()

    first.bias[:12] = 1
    for c, i, j in product(range(3), range(2), range(2)):
        first.weight[at2(c, i, j), c, 2 + i, 2 + j] = 1  # the kernel's centre is at offset 2

    taps = (-3 / 32, 38 / 32, -3 / 32)
    for c, i, j in product(range(3), range(4), range(4)):
        channel = at4(c, i, j)
        second.weight[channel, at2(c, i, j), 2 + i // 2, 2 + j // 2] = 1
        for di, dj in product((-1, 0, 1), (-1, 0, 1)):  # a neighbour may lie in the next block
            source = at4(c, i + di, j + dj), 2 + (i + di) // 4, 2 + (j + dj) // 4
            third.weight[(2 * channel, *source)] = taps[di + 1] * taps[dj + 1]
            third.weight[(2 * channel + 1, *source)] = -taps[di + 1] * taps[dj + 1]
        third.bias[2 * channel], third.bias[2 * channel + 1] = -1, 1  # takes the offset away; the taps sum to 1
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
