"""The values of `upscale-lit evaluate --degrade`: how the low pictures of a test set are made worse."""

import zlib
from dataclasses import dataclass

import numpy as np

from upscale_lit.data.compression import jpeg_file, webp_file
from upscale_lit.data.pyramid import Pixels
from upscale_lit.errors import InputError
from upscale_lit.inference.pictures import LARGEST
from upscale_lit.inference.quality import Lossy, lossy_of

EXPECTED = (
    "The value must be clean, jpeg:QUALITY (1 to 100, 4:2:0), jpeg:QUALITY:444, webp:QUALITY, noise:SIGMA (up to 255 "
    "grey levels), or several of these joined by +, such as jpeg:40+jpeg:95"
)


@dataclass(frozen=True)
class Step:
    """One step of a degradation: noise, or compression and decompression.

    codec: "noise", "jpeg" or "webp". amount: the standard deviation of the noise in grey levels, or the quality from 1
    to 100. subsampled: whether a JPEG stores colours at half the resolution (4:2:0 instead of 4:4:4).
    """

    codec: str
    amount: float
    subsampled: bool = True

    def __call__(self, pixels: Pixels, seed: int) -> tuple[Pixels, Lossy | None]:
        """Return the changed pixels, and how they were compressed."""
        if self.codec == "noise":
            field = np.random.Generator(np.random.Philox(seed)).standard_normal(pixels.shape)
            return (pixels + self.amount * field).clip(0, 255).round().astype(np.uint8), None
        if max(pixels.shape) > (largest := LARGEST[self.codec.upper()]):
            raise InputError(f"A picture must have sides of at most {largest} px for {self.codec}; got {pixels.shape}.")
        quality = int(self.amount)
        file = jpeg_file(pixels, quality, self.subsampled) if self.codec == "jpeg" else webp_file(pixels, quality)
        lossy = lossy_of(file)
        return np.array(file.convert("L" if pixels.ndim == 2 else "RGB")), lossy


@dataclass(frozen=True)
class Degrade:
    """A degradation of low pictures. word: as the user wrote it. steps: in their order."""

    word: str
    steps: tuple[Step, ...]

    def __call__(self, pixels: Pixels, name: str) -> tuple[Pixels, Lossy | None]:
        """Return a degraded picture, uint8 (h, w, 3) or (h, w), and how the last step compressed it.

        name: the name of the picture, which seeds the noise.
        """
        seed, lossy = zlib.crc32(name.encode(errors="surrogateescape")), None
        for number, step in enumerate(self.steps):
            pixels, lossy = step(pixels, seed + (number << 32))  # each step has separate noise
        return pixels, lossy


def degrade_of(word: str) -> Degrade:
    """Parse a value of --degrade. Raises InputError if it is none."""
    if word == "clean":
        return Degrade(word, ())
    try:
        return Degrade(word, tuple(_step(part) for part in word.split("+")))
    except ValueError:
        raise InputError(f"{EXPECTED}; got {word!r}. Name folders before --degrade.") from None


def _step(part: str) -> Step:
    kind, amount, *sampling = part.split(":")
    if kind == "jpeg" and 1 <= int(amount) <= 100 and sampling in ([], ["420"], ["444"]):
        return Step(kind, int(amount), sampling != ["444"])
    if kind == "webp" and 1 <= int(amount) <= 100 and not sampling:
        return Step(kind, int(amount))
    if kind == "noise" and 0 < float(amount) <= 255 and not sampling:
        return Step(kind, float(amount))
    raise ValueError
