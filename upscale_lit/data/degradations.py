"""Degradations, which make low pictures worse than a clean downscale."""

import math
from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from upscale_lit import resample
from upscale_lit.data.compression import jpeg_file, webp_file
from upscale_lit.data.randoms import Stream, generator, uniform
from upscale_lit.errors import are_numbers, check_number, refuse_unless

GOLDEN = (math.sqrt(5) - 1) / 2
# Downscaling filters that other programs use, all antialiased.
FILTERS = (Image.Resampling.BILINEAR, Image.Resampling.BOX, Image.Resampling.LANCZOS)


class BlurNoise:
    """A degradation that adds a little blur, then noise. An imperfect earlier stage makes similar errors.

    blur: the largest sigma of the Gaussian blur, in low pixels, below 1.
    noise: the largest standard deviation of the noise, in grey levels.
    Each example draws its sigma and its standard deviation uniformly, from 0 to these largest values.
    Raises InputError if a value is out of range.
    """

    def __init__(self, blur: float, noise: float, seed: int) -> None:
        check_number("degradation.blur", blur, low=0, below=1)
        check_number("degradation.noise", noise, low=0)
        self.blur, self.noise, self.seed = blur, noise, seed

    def __call__(self, high: Tensor, factor: int, kernel: str, numbers: Sequence[int]) -> Tensor:
        """Return degraded low pictures, uint8 on the CPU; see `low.Degradation`."""
        low = resample.downscale(high, factor, kernel)
        amounts = uniform(self.seed, Stream.DEGRADATION, numbers).astype(np.float32)[:, :2, None, None, None]
        shape = tuple(low.shape[1:])
        fields = [generator(self.seed, Stream.NOISE, n).standard_normal(shape, dtype=np.float32) for n in numbers]
        noise = self.noise * amounts[:, 1] * np.stack(fields)
        blurred = gaussian_blur(low.float(), torch.from_numpy(self.blur * amounts[:, 0]))
        return (blurred + torch.from_numpy(noise)).clamp_(0.0, 255.0).round_().byte()


def gaussian_blur(image: Tensor, sigma: Tensor) -> Tensor:
    """Blur pictures, float (N, C, h, w), with a Gaussian that is cut off to 3 x 3 pixels.

    The border pixels are repeated outside the pictures.
    sigma: (N, 1, 1, 1), in pixels, well below 1, so that pixels farther away have almost no weight in a full Gaussian.

    The Gaussian has the weight exp(-d^2 / (2 sigma^2)) at the distance d. Along each axis, the neighbours at d = 1 have
    the weight side = exp(-0.5 / sigma^2), the centre has the weight 1, and the sum of the weights is 1 + 2 * side.
    """
    side = torch.exp(-0.5 / sigma.square().clamp(min=1e-6))  # not a division by 0 if sigma is 0
    for axis, padding in ((-1, (1, 1, 0, 0)), (-2, (0, 0, 1, 1))):
        padded = F.pad(image, padding, mode="replicate")
        size = image.shape[axis]
        image = (image + side * (padded.narrow(axis, 0, size) + padded.narrow(axis, 2, size))) / (1 + 2 * side)
    return image


class RealPhoto:
    """A degradation that makes low pictures as people have them: JPEG or WebP, sometimes another filter or noise.

    clean: the fraction of examples that stay clean. They are evenly spread over the batches.
    jpeg, other_filter, noisy: the probability of each part in the other examples.
    webp: the probability that an example that would be a JPEG is a lossy WebP instead.
    quality: the lowest and the highest quality of Pillow's encoders, uniformly distributed, from 1 to 100.
    subsampled: the probability that a JPEG stores its colours at half the resolution (4:2:0 instead of 4:4:4).
    noise: the largest standard deviation of the noise, in grey levels, uniformly distributed from 0 up.
    Raises InputError if a value is out of range.
    """

    def __init__(
        self, clean: float, jpeg: float, quality: Sequence[float], subsampled: float, other_filter: float,
        noisy: float, noise: float, seed: int, webp: float = 0,
    ) -> None:  # fmt: skip
        parts = {"jpeg": jpeg, "subsampled": subsampled, "other_filter": other_filter, "noisy": noisy, "webp": webp}
        for name, value in parts.items():
            check_number(f"degradation.{name}", value, low=0, high=1)
        check_number("degradation.clean", clean, low=0, below=1)
        check_number("degradation.noise", noise, low=0, high=255)
        holds = are_numbers(quality, 2) and 1 <= quality[0] <= quality[1] <= 100
        expected = "the lowest and the highest quality, from 1 to 100, such as [30, 95]"
        refuse_unless(holds, "degradation.quality", expected, quality)
        self.clean, self.jpeg, self.quality, self.subsampled = clean, jpeg, quality, subsampled
        self.other_filter, self.noisy, self.noise, self.seed, self.webp = other_filter, noisy, noise, seed, webp

    def __call__(self, high: Tensor, factor: int, kernel: str, numbers: Sequence[int]) -> Tensor:
        """Make low pictures, as `low.Degradation` describes."""
        low = resample.downscale(high, factor, kernel)
        draws = uniform(self.seed, Stream.DEGRADATION, numbers).tolist()
        for index, (number, draw) in enumerate(zip(numbers, draws, strict=True)):
            # Multiples of the golden ratio, modulo 1, are evenly spread: with the usual fractions, every batch of at
            # least 4 examples has a part below `clean`. Unlike every second number, this sequence gives clean and
            # degraded examples to each position of a batch.
            if number * GOLDEN % 1 < self.clean:
                continue
            filtered, noisy, amount, quality, subsampled, jpeg, webp, _ = draw
            picture = low[index]
            if filtered < self.other_filter:
                picture = _filtered(high[index], picture, FILTERS[int(filtered / self.other_filter * len(FILTERS))])
            pixels = picture.permute(1, 2, 0).numpy()
            if noisy < self.noisy:
                field = generator(self.seed, Stream.NOISE, number).standard_normal(pixels.shape, dtype=np.float32)
                pixels = (pixels + np.float32(self.noise * amount) * field).clip(0, 255).round().astype(np.uint8)
            if jpeg < self.jpeg:
                lowest, highest = self.quality
                drawn = round(lowest + quality * (highest - lowest))
                if webp < self.webp:
                    pixels = np.array(webp_file(pixels, drawn))
                else:
                    pixels = np.array(jpeg_file(pixels, drawn, subsampled < self.subsampled))
            low[index] = torch.from_numpy(pixels).permute(2, 0, 1)
        return low


def _filtered(high: Tensor, low: Tensor, method: Image.Resampling) -> Tensor:
    """Downscale a picture with one of Pillow's filters: uint8 (3, H, W) -> uint8, of the shape of `low`."""
    picture = Image.fromarray(np.ascontiguousarray(high.permute(1, 2, 0).numpy()))
    return torch.from_numpy(np.array(picture.resize((low.shape[2], low.shape[1]), method))).permute(2, 0, 1)
