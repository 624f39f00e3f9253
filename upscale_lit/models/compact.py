"""The compact network: convolutions at low resolution whose output is added to a bicubic upscale."""

from itertools import product

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from upscale_lit.errors import check_choice, check_whole
from upscale_lit.models.stack import FACTORS


class Compact(nn.Module):
    """The compact network: convolutions at low resolution and PixelShuffle, added to a bicubic upscale.

    (N, 3, h, w) -> (N, 3, factor * h, factor * w), float in the networks' pixel range, on the device of the weights.
    Any size is accepted.

    The network has `depth` 3x3 convolutions with `width` channels, each followed by a leaky ReLU. A last convolution
    computes a block of factor x factor pixels for each low pixel (Shi et al. 2016, ESPCN). The last convolution starts
    at zero, so the untrained network is bicubic upscaling. Training teaches it the difference between the truth and the
    bicubic upscale (Kim et al. 2016, VDSR).

    own_borders: the network has learned the borders of pictures, which are also borders of training examples. There its
        convolutions see zeros, a medium grey, and its bicubic upscale repeats the outermost pixels. A picture that is
        continued by reflection loses up to 0.15 dB within 8 px of its borders (64to128 and 128to256, Set5 and Set14).

    width: from 1 to 512. depth: from 1 to 64. factor: 2 for one stage, or 8 to upscale from 64 to 512 px in one step.
    Raises InputError if an option is out of range.
    """

    bicubic: Tensor
    own_borders = True

    def __init__(self, width: int, depth: int, factor: int = 2) -> None:
        super().__init__()
        check_choice("model.factor", factor, FACTORS)
        check_whole("model.width", width, 1, 512)
        check_whole("model.depth", depth, 1, 64)
        self.factor = factor
        layers: list[nn.Module] = []
        for number in range(depth):
            layer = nn.Conv2d(width if number else 3, width, 3, padding=1)
            # With PyTorch's initial values the signal fades from layer to layer. A network with 16 layers, or with an
            # earlier stage's output as its input, then learns nothing. LeCun's initial values, which keep the variance
            # in linear layers, let the signal fade much less (LeCun et al. 1998, "Efficient BackProp").
            nn.init.kaiming_normal_(layer.weight, nonlinearity="linear")
            layers += [layer, nn.LeakyReLU(0.1, inplace=True)]
        last = nn.Conv2d(width, 3 * factor**2, 3, padding=1)
        nn.init.zeros_(last.weight)
        nn.init.zeros_(last.bias)  # type: ignore[arg-type]
        self.body = nn.Sequential(*layers, last)
        self.register_buffer("bicubic", bicubic_kernel(factor), persistent=False)

    def forward(self, low: Tensor) -> Tensor:
        dtype = next(self.body.parameters()).dtype  # see reduce_precision
        return F.pixel_shuffle(self.body(low.to(dtype)) + self._bicubic(low), self.factor)

    def reduce_precision(self) -> None:
        """Let the convolutions compute in bfloat16. The bicubic upscale and the sum stay in float32."""
        self.body.to(torch.bfloat16)

    def _bicubic(self, low: Tensor) -> Tensor:
        """Return the blocks of the bicubic upscale, (N, 3 * factor ** 2, h, w), in the precision of `low`."""
        # Autocast would compute the upscale in bfloat16, which rounds it to half a grey level.
        if torch.is_autocast_enabled(low.device.type):
            with torch.autocast(low.device.type, enabled=False):
                return self._bicubic(low)
        return F.conv2d(F.pad(low, (2, 2, 2, 2), mode="replicate"), self.bicubic)


def bicubic_kernel(factor: int) -> Tensor:
    """Return the weights of the convolution that computes the blocks of a bicubic upscale: (3 * factor ** 2, 3, 5, 5).

    PixelShuffle turns the blocks into the upscaled picture. The kernel is by Keys 1981, "Cubic convolution
    interpolation", with a = -0.5, as in `resample.interpolate`.
    Along an axis, pixel k of a block is (k + 0.5) / factor - 0.5 low pixels from the centre of the block's low pixel.
    This distance is less than half a pixel, and Keys' kernel reaches two pixels. So five taps, from -2 to 2, suffice.
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
