"""PSNR and SSIM with the project's one convention: 8-bit RGB, `shave` pixels off each border, per picture."""

from torch import Tensor
from torchmetrics.functional.image import peak_signal_noise_ratio, structural_similarity_index_measure

from upscale_lit import resample

PSNR_CAP = 100.0  # dB, for pictures that are equal: the mean stays finite
CONVENTION = "8-bit RGB, {shave} px shaved off each border, per picture, then the mean"


def _prepare(image: Tensor, shave: int) -> Tensor:
    height, width = image.shape[-2:]
    return resample.to_float(resample.to_uint8(image))[..., shave : height - shave, shave : width - shave]


def psnr(pred: Tensor, high: Tensor, shave: int) -> Tensor:
    """Peak signal-to-noise ratio in dB, capped at 100.

    Two (N, 3, H, W) of RGB, float in [0, 1] or uint8, any device -> (N,). Both are rounded to 8 bits first.
    """
    values: Tensor = peak_signal_noise_ratio(
        _prepare(pred, shave), _prepare(high, shave), data_range=1.0, reduction="none", dim=(1, 2, 3)
    )
    return values.clamp(max=PSNR_CAP)


def ssim(pred: Tensor, high: Tensor, shave: int) -> Tensor:
    """Structural similarity (Wang et al. 2004): Gaussian window 11x11, sigma 1.5, valid region, mean over RGB.

    Two (N, 3, H, W) of RGB, float in [0, 1] or uint8, any device -> (N,). Both are rounded to 8 bits first.
    A picture has to be larger than the window: more than 11 + 2 * shave pixels on each side.
    """
    values = structural_similarity_index_measure(
        _prepare(pred, shave), _prepare(high, shave), sigma=1.5, data_range=1.0, reduction="none"
    )
    assert isinstance(values, Tensor)
    return values.reshape(-1)
