"""Convert a compact network to the layout of SRVGGNetCompact, which programs based on spandrel open as "Compact".

SRVGGNetCompact (Wang et al. 2021, Real-ESRGAN) consists of 3x3 convolutions with zero padding, each followed by a PReLU
with one slope for each channel. Its last convolution computes a block of pixels for each low pixel, which is added to
the low pixel itself (a nearest-neighbour upscale). Its pixels are RGB in [0, 1].

Four things are different in `Compact`. Each of them is converted exactly:

- The slopes of its leaky ReLU become slopes of PReLU. A channel with the slope 1 passes through a layer unchanged, so
  further channels can carry the picture itself to the last layer.
- Its pixel range has its zero at a medium grey, so its convolutions see a medium grey outside the picture. The first
  layer here adds a channel of ones. Beyond a border this channel is zero, and so a convolution of it adds the medium
  grey inside the picture only.
- Its bicubic upscale. See `_Axis`.
- That upscale repeats the outermost pixels beyond the borders. For each side of the picture there are channels which
  hold the outermost pixels at this side, and zeros elsewhere: ReLU(pixel - ones of the neighbour beyond this side).

Only the pixels at the four corners differ, where the pixels beyond two sides would be needed.
"""

from itertools import product
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from upscale_lit.models import Compact
from upscale_lit.resample import RANGE_MEAN, RANGE_SCALE

TO_NETWORK = 255 / RANGE_SCALE
# The neighbour in a 3x3 kernel that is beyond the left, right, top and bottom side, for a pixel next to this side.
BEYOND = ((1, 0), (1, 2), (0, 1), (2, 1))
CENTRE = torch.tensor([0.0, 1.0, 0.0], dtype=torch.float64)
SECOND_DIFFERENCE = torch.tensor([-1.0, 2.0, -1.0], dtype=torch.float64)


class _Axis(NamedTuple):
    """Bicubic interpolation along one axis, as two convolutions of three taps instead of one of five.

    Pixel k of a block is t = (k + 0.5) / factor - 0.5 low pixels from the centre of its low pixel. With a = |t| and
    linear interpolation L, Keys' interpolation with a = -0.5 is L + a (1 - a) / 2 * L D, where D is the second
    difference (-1, 2, -1).

    linear: the three taps of L for each pixel of a block.
    kernels: convolutions of the picture, and the weight of each of them for each pixel of a block. For the factor 2,
        a (1 - a) / 2 is 3 / 32 for both pixels, and the picture plus 3 / 32 D is one kernel.
    """

    linear: list[Tensor]
    kernels: list[tuple[Tensor, list[float]]]


def _axis(factor: int) -> _Axis:
    places = [(number + 0.5) / factor - 0.5 for number in range(factor)]
    linear = [torch.tensor([max(-t, 0), 1 - abs(t), max(t, 0)], dtype=torch.float64) for t in places]
    weights = [abs(t) * (1 - abs(t)) / 2 for t in places]
    if len(set(weights)) == 1:
        return _Axis(linear, [(CENTRE + weights[0] * SECOND_DIFFERENCE, [1.0] * factor)])
    return _Axis(linear, [(CENTRE, [1.0] * factor), (SECOND_DIFFERENCE, weights)])


class _Channels:
    """The numbers of the channels between two layers.

    0 to width - 1: the channels of the network. `picture`: the low picture. `planes`: one kernel down and one across,
    for each pair of kernels; in the first layer, the first of them is the channel of ones. `sides`: the outermost
    pixels at each side, for each kernel along this side.
    """

    def __init__(self, width: int, kernels: int) -> None:
        self.width, self.kernels = width, kernels
        self.count = width + 3 + 3 * kernels**2 + 12 * kernels
        self.ones = self.plane(0, 0)

    def picture(self, colour: int) -> int:
        return self.width + colour

    def plane(self, pair: int, colour: int) -> int:
        return self.width + 3 + 3 * pair + colour

    def side(self, kernel: int, side: int, colour: int) -> int:
        return self.width + 3 + 3 * self.kernels**2 + 12 * kernel + 3 * side + colour


class _Layer:
    """A convolution and the slopes after it, all in float64."""

    def __init__(self, inputs: int, outputs: int) -> None:
        self.weight = torch.zeros(outputs, inputs, 3, 3, dtype=torch.float64)
        self.bias = torch.zeros(outputs, dtype=torch.float64)
        self.slope = torch.ones(outputs, dtype=torch.float64)

    def keep(self, *channels: int) -> None:
        """Let channels pass through unchanged."""
        for channel in channels:
            self.weight[channel, channel, 1, 1] = 1


def srvgg_state(model: Compact) -> dict[str, Tensor]:
    """Return the weights of an SRVGGNetCompact that upscales like a compact network.

    The keys are body.0.weight, body.0.bias, body.1.weight and so on, and the tensors are float32 on the CPU. With n
    layers of w channels, the result has n + 1 layers of w + 18 channels for the factor 2, and of w + 39 for 8.
    """
    axis, convolutions = _axis(model.factor), [layer for layer in model.body if isinstance(layer, nn.Conv2d)]
    own = [(layer.weight.detach().double().cpu(), layer.bias.detach().double().cpu()) for layer in convolutions]  # type: ignore[union-attr]
    slopes = [layer.negative_slope for layer in model.body if isinstance(layer, nn.LeakyReLU)]
    channels = _Channels(own[0][0].shape[0], len(axis.kernels))
    layers = [_ones(channels), _sides(channels, *own[0], slopes[0]), _kernels(channels, axis)]
    layers += [_passing(channels) for _ in own[2:-1]]
    for number, layer in enumerate(layers[2:], start=1):
        width = slice(channels.width)
        if number < len(own) - 1:
            layer.weight[width, width], layer.bias[width] = own[number]
            layer.slope[width] = slopes[number]
        else:  # a network with a single layer before its last one
            layer.keep(*range(channels.width))
    layers.append(_last(channels, axis, *own[-1], model.factor))
    state: dict[str, Tensor] = {}
    for number, layer in enumerate(layers):
        state |= {f"body.{2 * number}.weight": layer.weight.float(), f"body.{2 * number}.bias": layer.bias.float()}
        if number < len(layers) - 1:
            state[f"body.{2 * number + 1}.weight"] = layer.slope.float()
    return state


def srvgg_size(model: Compact) -> list[str]:
    """Return the size of the result of `srvgg_state` in the words of spandrel and OpenModelDB, such as 50nf and 6nc."""
    state = srvgg_state(model)
    return [f"{len(state['body.0.bias'])}nf", f"{(len(state) - 2) // 3 - 1}nc"]


def _ones(channels: _Channels) -> _Layer:
    """Return the first layer: the picture, and the channel of ones."""
    layer = _Layer(3, channels.count)
    for colour in range(3):
        layer.weight[channels.picture(colour), colour, 1, 1] = 1
    layer.bias[channels.ones] = 1
    return layer


def _sides(channels: _Channels, weight: Tensor, bias: Tensor, slope: float) -> _Layer:
    """Return the second layer: the network's first convolution, and the outermost pixels at each side."""
    layer, width = _Layer(channels.count, channels.count), slice(channels.width)
    layer.keep(*map(channels.picture, range(3)))
    layer.weight[width, channels.picture(0) : channels.picture(3)] = TO_NETWORK * weight
    layer.weight[width, channels.ones] = -RANGE_MEAN / RANGE_SCALE * weight.sum(dim=1)
    layer.bias[width], layer.slope[width] = bias, slope
    for (side, (row, column)), colour in product(enumerate(BEYOND), range(3)):
        channel = channels.side(0, side, colour)
        layer.weight[channel, channels.picture(colour), 1, 1] = 1
        layer.weight[channel, channels.ones, row, column] = -1  # pixels are at most 1, so the ReLU leaves nothing
        layer.slope[channel] = 0
    return layer


def _kernels(channels: _Channels, axis: _Axis) -> _Layer:
    """Return the third layer: the kernels on the picture, and along each side on its outermost pixels."""
    layer = _Layer(channels.count, channels.count)
    layer.keep(*map(channels.picture, range(3)))
    kernels = [kernel for kernel, _ in axis.kernels]
    for (pair, (down, across)), colour in product(enumerate(product(kernels, kernels)), range(3)):
        plane = layer.weight[channels.plane(pair, colour)]
        plane[channels.picture(colour)] = torch.outer(down, across)
        # The taps beyond a side see zeros. They should see the outermost pixels of this side again.
        for side, (row, column) in enumerate(BEYOND):
            missing = torch.outer(down, CENTRE) * across[column]
            if row != 1:
                missing = torch.outer(CENTRE, across) * down[row]
            plane[channels.side(0, side, colour)] = missing
    for (number, kernel), (side, (row, _)), colour in product(enumerate(kernels), enumerate(BEYOND), range(3)):
        along = torch.outer(kernel, CENTRE) if row == 1 else torch.outer(CENTRE, kernel)
        layer.weight[channels.side(number, side, colour), channels.side(0, side, colour)] = along
    return layer


def _passing(channels: _Channels) -> _Layer:
    """Return a layer that leaves all channels but those of the network as they are."""
    layer = _Layer(channels.count, channels.count)
    layer.keep(*range(channels.width, channels.count))
    return layer


def _last(channels: _Channels, axis: _Axis, weight: Tensor, bias: Tensor, factor: int) -> _Layer:
    """Return the last layer: the network's last convolution, plus bicubic, minus the nearest-neighbour upscale."""
    layer = _Layer(channels.count, 3 * factor**2)
    layer.weight[:, : channels.width], layer.bias[:] = weight / TO_NETWORK, bias / TO_NETWORK
    weights = [weight for _, weight in axis.kernels]
    for colour, row, column in product(range(3), range(factor), range(factor)):
        block = layer.weight[factor**2 * colour + factor * row + column]
        down, across = axis.linear[row], axis.linear[column]
        block[channels.picture(colour), 1, 1] = -1
        for pair, (of_rows, of_columns) in enumerate(product(weights, weights)):
            block[channels.plane(pair, colour)] = of_rows[row] * of_columns[column] * torch.outer(down, across)
        # Beyond a side, the picture does not change across it. So only the kernels along the side matter there.
        for (number, each), (side, (y, x)) in product(enumerate(weights), enumerate(BEYOND)):
            beyond = torch.outer(down, CENTRE) * each[row] * across[x]
            if y != 1:
                beyond = torch.outer(CENTRE, across) * each[column] * down[y]
            block[channels.side(number, side, colour)] = beyond
    return layer


def srvgg(state: dict[str, Tensor], low: Tensor) -> Tensor:
    """Compute what a program computes with these weights, clamped to [0, 1].

    (N, 3, h, w) -> (N, 3, factor * h, factor * w), RGB in [0, 1].
    """
    last = (len(state) - 2) // 3  # the last convolution has no slopes after it
    image = low
    for number in range(last + 1):
        image = F.conv2d(image, state[f"body.{2 * number}.weight"], state[f"body.{2 * number}.bias"], padding=1)
        if number < last:
            image = F.prelu(image, state[f"body.{2 * number + 1}.weight"])
    factor = round((image.shape[1] / 3) ** 0.5)
    nearest = F.interpolate(low, scale_factor=factor, mode="nearest")
    return (F.pixel_shuffle(image, factor) + nearest).clamp(0, 1)
