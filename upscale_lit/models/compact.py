"""The compact network: convolutions at low resolution, added to a bicubic upscale."""

from itertools import product

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from upscale_lit.errors import check_choice, check_whole
from upscale_lit.models.stack import FACTORS


class Compact(nn.Module):
    """The compact network: convolutions at low resolution, PixelShuffle, added to a bicubic upscale.

    (N, 3, h, w) -> (N, 3, factor * h, factor * w), networks' pixel range; any size. `depth` 3x3 convolutions of `width`
    channels, each with a leaky ReLU, and one to the values of each pixel's block of factor x factor pixels (Shi et al.
    2016, ESPCN), which starts at zero: untrained, the network is bicubic upscaling, and what it learns is the
    difference (Kim et al. 2016, VDSR). factor: 2 for a stage; 8 goes from 64 to 512 px in one go.

    Raises InputError for values that make no sense.
    """

    bicubic: Tensor

    def __init__(self, width: int, depth: int, factor: int = 2) -> None:
        super().__init__()
        check_choice("model.factor", factor, FACTORS)
        check_whole("model.width", width, 1, 512)
        check_whole("model.depth", depth, 1, 64)
        self.factor = factor
        layers: list[nn.Module] = []
        for number in range(depth):
            layer = nn.Conv2d(width if number else 3, width, 3, padding=1)
            # PyTorch's own values let the signal fade from layer to layer: where little can be learnt, as from what an
            # earlier stage has made, or with 16 layers, nothing then is. LeCun et al. 1998, "Efficient BackProp".
            nn.init.kaiming_normal_(layer.weight, nonlinearity="linear")
            layers += [layer, nn.LeakyReLU(0.1)]
        last = nn.Conv2d(width, 3 * factor**2, 3, padding=1)
        nn.init.zeros_(last.weight)
        nn.init.zeros_(last.bias)  # type: ignore[arg-type]
        self.body = nn.Sequential(*layers, last)
        self.register_buffer("bicubic", bicubic_kernel(factor), persistent=False)

    def forward(self, low: Tensor) -> Tensor:
        return F.pixel_shuffle(self.body(low) + self._bicubic(low), self.factor)

    def _bicubic(self, low: Tensor) -> Tensor:
        """(N, 3 * factor ** 2, h, w): the bicubic upscale's blocks, also under autocast in the precision of `low`."""
        if torch.is_autocast_enabled(low.device.type):  # bfloat16 would round the picture itself to half a grey level
            with torch.autocast(low.device.type, enabled=False):
                return self._bicubic(low)
        return F.conv2d(F.pad(low, (2, 2, 2, 2), mode="replicate"), self.bicubic)


def bicubic_kernel(factor: int) -> Tensor:
    """(3 * factor ** 2, 3, 5, 5): the convolution that gives each pixel's block in an upscaled picture, for
    PixelShuffle.

    Keys 1981, "Cubic convolution interpolation", with a = -0.5; see `resample.interpolate`. The block's pixels lie
    less than half a pixel before and after the centre of the one that they come from, so five taps suffice.
    """

    def keys(x: Tensor) -> Tensor:
        near, far = 1.5 * x**3 - 2.5 * x**2 + 1, -0.5 * x**3 + 2.5 * x**2 - 4 * x + 2
        return torch.where(x < 1, near, torch.where(x < 2, far, torch.zeros(())))

    places = torch.arange(-2.0, 3.0)
    taps = [keys((places - ((place + 0.5) / factor - 0.5)).abs()) for place in range(factor)]
    kernel = torch.zeros(3 * factor**2, 3, 5, 5)
    for c, i, j in product(range(3), range(factor), range(factor)):
        kernel[factor**2 * c + factor * i + j, c] = torch.outer(taps[i], taps[j])
    return kernel
