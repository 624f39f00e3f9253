"""Degradations, which make the low pictures of training examples worse than a clean downscale."""

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from upscale_lit import resample
from upscale_lit.data.randoms import Stream, generator, uniform
from upscale_lit.errors import check_number


class BlurNoise:
    """A degradation that adds a little blur, then noise, similar to the errors of an imperfect earlier stage.

    blur: the largest sigma of the Gaussian blur, in low pixels, below 1.
    noise: the largest standard deviation of the noise, in grey levels.
    Each example draws both amounts uniformly, starting at 0. Raises InputError if a value is out of range.
    """

    def __init__(self, blur: float, noise: float, seed: int) -> None:
        check_number("degradation.blur", blur, low=0, below=1)
        check_number("degradation.noise", noise, low=0)
        self.blur, self.noise, self.seed = blur, noise, seed

    def __call__(self, high: Tensor, factor: int, kernel: str, numbers: Sequence[int]) -> Tensor:
        """Make low pictures, as `low.Degradation` describes."""
        low = resample.downscale(high, factor, kernel)
        amounts = uniform(self.seed, Stream.DEGRADATION, numbers).astype(np.float32)[:, :2, None, None, None]
        shape = tuple(low.shape[1:])
        fields = [generator(self.seed, Stream.NOISE, n).standard_normal(shape, dtype=np.float32) for n in numbers]
        noise = self.noise * amounts[:, 1] * np.stack(fields)
        blurred = gaussian_blur(low.float(), torch.from_numpy(self.blur * amounts[:, 0]))
        return (blurred + torch.from_numpy(noise)).clamp_(0.0, 255.0).round_().byte()


def gaussian_blur(image: Tensor, sigma: Tensor) -> Tensor:
    """Blur pictures, float (N, C, h, w), with a Gaussian of 3x3 pixels.

    sigma: (N, 1, 1, 1), in pixels, well below 1, so that pixels farther away would have almost no weight.
    """
    side = torch.exp(-0.5 / sigma.square().clamp(min=1e-6))  # the weight of a neighbour, if the centre has weight 1
    for axis, padding in ((-1, (1, 1, 0, 0)), (-2, (0, 0, 1, 1))):
        padded = F.pad(image, padding, mode="replicate")
        size = image.shape[axis]
        image = (image + side * (padded.narrow(axis, 0, size) + padded.narrow(axis, 2, size))) / (1 + 2 * side)
    return image
