"""PSNR and SSIM: on RGB, the project's own convention, and on Y, that of the field's tables.

Of both: 8 bits, `shave` pixels off each border, per picture.
"""

import math
from typing import Any

import torch
from skimage.metrics import structural_similarity
from torch import Tensor
from torchmetrics.functional.image import peak_signal_noise_ratio, structural_similarity_index_measure

from upscale_lit import resample

WINDOW = 11  # px, SSIM's
PSNR_CAP = 100.0  # dB, for pictures that are equal: the mean stays finite
CONVENTION = "8-bit RGB, {shave} px shaved off each border, per picture, then the mean"
# Y of ITU-R BT.601 in its studio range, 16 to 235, for R, G, B from 0 to 255: what MATLAB's rgb2ycbcr computes.
LUMA, LUMA_OFFSET = (65.481, 128.553, 24.966), 16.0


def _rounded(image: Tensor) -> Tensor:
    return resample.to_float(resample.to_uint8(image))


def _shaved(image: Tensor, shave: int) -> Tensor:
    height, width = image.shape[-2:]
    return image[..., shave : height - shave, shave : width - shave]


def psnr(pred: Tensor, high: Tensor, shave: int) -> Tensor:
    """Peak signal-to-noise ratio in dB, capped at 100.

    Two (N, 3, H, W) of RGB, float in [0, 1] or uint8, any device -> (N,). Both are rounded to 8 bits first.
    """
    return _psnr(_rounded(pred), _rounded(high), shave, 1.0)


def _psnr(pred: Tensor, high: Tensor, shave: int, peak: float) -> Tensor:
    pair = _shaved(pred, shave), _shaved(high, shave)
    values: Tensor = peak_signal_noise_ratio(*pair, data_range=peak, reduction="none", dim=(1, 2, 3))
    return values.clamp(max=PSNR_CAP)


def ssim(pred: Tensor, high: Tensor, shave: int) -> Tensor:
    """Structural similarity (Wang et al. 2004): Gaussian window 11x11, sigma 1.5, valid region, mean over RGB.

    Two (N, 3, H, W) of RGB, float in [0, 1] or uint8, any device -> (N,). Both are rounded to 8 bits first.
    A picture has to be larger than the window: more than 11 + 2 * shave pixels on each side.
    """
    pair = _shaved(_rounded(pred), shave), _shaved(_rounded(high), shave)
    with torch.autocast(pred.device.type, enabled=False):  # the difference of two squares: nothing for bfloat16
        result = structural_similarity_index_measure(
            *pair, sigma=1.5, data_range=1.0, reduction="none", return_full_image=True
        )
    edge = WINDOW // 2  # torchmetrics' own mean counts the borders, too, with the picture reflected
    return result[1][..., edge:-edge, edge:-edge].mean(dim=(1, 2, 3))


def luma(image: Tensor) -> Tensor:
    """RGB (N, 3, H, W), or grey (N, 1, H, W), float in [0, 1] or uint8 -> Y (N, 1, H, W), float64, 0 to 255.

    Rounded to 8 bits first, and not again. Grey is its own Y.
    """
    values = resample.to_uint8(image).double()
    if values.shape[1] == 1:
        return values
    weights = torch.tensor(LUMA, dtype=torch.float64, device=image.device).view(3, 1, 1) / 255.0
    return (values * weights).sum(dim=1, keepdim=True) + LUMA_OFFSET


def psnr_y(pred: Tensor, high: Tensor, shave: int) -> Tensor:
    """As `psnr`, on Y with a peak of 255; for RGB or grey."""
    return _psnr(luma(pred), luma(high), shave, 255.0)


def ssim_y(pred: Tensor, high: Tensor, shave: int) -> Tensor:
    """As `ssim`, on Y with a peak of 255; for RGB or grey. NaN where the picture is not larger than the window.

    scikit-image's, with the settings that it names for Wang et al.: torchmetrics' unfolds the picture, which in
    float64 takes half a minute and gigabytes for three megapixels.
    """
    pairs = [_shaved(luma(image), shave)[:, 0].cpu().numpy() for image in (pred, high)]
    if min(pairs[0].shape[-2:]) < WINDOW:
        return torch.full((len(pred),), math.nan)
    options = {"data_range": 255.0, "gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False}
    compare: Any = structural_similarity  # untyped
    return torch.tensor([compare(*pair, **options) for pair in zip(*pairs, strict=True)])
