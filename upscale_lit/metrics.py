"""PSNR and SSIM, on RGB and on Y (luma).

Training reports RGB values; published tables use Y. Both conventions round pictures to 8 bits and leave out `shave`
pixels at each border. Each picture is measured separately.
"""

import math
from typing import Any

import torch
from skimage.metrics import structural_similarity
from torch import Tensor
from torchmetrics.functional.image import peak_signal_noise_ratio, structural_similarity_index_measure

from upscale_lit import resample

WINDOW = 11  # px: the side of SSIM's window
PSNR_CAP = 100.0  # dB: equal pictures would have an infinite PSNR, and so would the mean
CONVENTION = "8-bit RGB, {shave} px shaved off each border, mean of the values of all pictures"
# Y of ITU-R BT.601 in studio range (16 to 235), for R, G, B from 0 to 255. MATLAB's rgb2ycbcr uses the same formula.
LUMA, LUMA_OFFSET = (65.481, 128.553, 24.966), 16.0


def _rounded(image: Tensor) -> Tensor:
    return resample.to_float(resample.to_uint8(image))


def _shaved(image: Tensor, shave: int) -> Tensor:
    height, width = image.shape[-2:]
    return image[..., shave : height - shave, shave : width - shave]


def psnr(pred: Tensor, high: Tensor, shave: int) -> Tensor:
    """Return the peak signal-to-noise ratio of each picture in dB, capped at 100.

    Two RGB batches (N, 3, H, W), float in [0, 1] or uint8, any device -> (N,), float32, same device. Both batches are
    rounded to 8 bits first. Raises RuntimeError if heights or widths differ.
    """
    return _psnr(_rounded(pred), _rounded(high), shave, 1.0)


def _psnr(pred: Tensor, high: Tensor, shave: int, peak: float) -> Tensor:
    pair = _shaved(pred, shave), _shaved(high, shave)
    values: Tensor = peak_signal_noise_ratio(*pair, data_range=peak, reduction="none", dim=(1, 2, 3))
    return values.clamp(max=PSNR_CAP)


def ssim(pred: Tensor, high: Tensor, shave: int) -> Tensor:
    """Return the structural similarity of each picture (Wang et al. 2004), as the mean over R, G and B.

    The Gaussian window has 11x11 pixels and sigma 1.5, and stays completely inside the picture.
    Two RGB batches (N, 3, H, W), float in [0, 1] or uint8, any device -> (N,), float32, same device. Both batches are
    rounded to 8 bits first. The result is NaN if a side has less than 11 + 2 * shave pixels. Raises RuntimeError if
    the shapes differ, or if a side has less than 6 + 2 * shave pixels.
    """
    pair = _shaved(_rounded(pred), shave), _shaved(_rounded(high), shave)
    with torch.autocast(pred.device.type, enabled=False):  # bfloat16 is too coarse for variances
        result = structural_similarity_index_measure(
            *pair, sigma=1.5, data_range=1.0, reduction="none", return_full_image=True
        )
    # The mean of torchmetrics would include the borders, where the window leaves the picture and sees reflected pixels.
    edge = WINDOW // 2
    return result[1][..., edge:-edge, edge:-edge].mean(dim=(1, 2, 3))


def luma(image: Tensor) -> Tensor:
    """Return Y, the luma of each pixel. For a grey picture, Y is the grey value.

    RGB (N, 3, H, W) or grey (N, 1, H, W), float in [0, 1] or uint8, any device with float64 -> (N, 1, H, W), float64,
    same device. Y is from 16 to 235 for RGB, and from 0 to 255 for grey. The input is rounded to 8 bits, Y is not
    rounded. Raises RuntimeError for other numbers of channels.
    """
    values = resample.to_uint8(image).double()
    if values.shape[1] == 1:
        return values
    weights = torch.tensor(LUMA, dtype=torch.float64, device=image.device).view(3, 1, 1) / 255.0
    return (values * weights).sum(dim=1, keepdim=True) + LUMA_OFFSET


def psnr_y(pred: Tensor, high: Tensor, shave: int) -> Tensor:
    """Return the PSNR of each picture on Y, with a peak value of 255. See `psnr`.

    Two batches as `luma` accepts them -> (N,), float64, same device. Raises RuntimeError if heights or widths differ.
    """
    return _psnr(luma(pred), luma(high), shave, 255.0)


def ssim_y(pred: Tensor, high: Tensor, shave: int) -> Tensor:
    """Return the SSIM of each picture on Y, with a peak value of 255. See `ssim`.

    Two batches as `luma` accepts them -> (N,), on the CPU. The result is NaN if a side has less than 11 + 2 * shave
    pixels. Raises ValueError if the shapes differ.
    scikit-image computes the values, with the settings that its documentation names for Wang et al. The function of
    torchmetrics would need half a minute and gigabytes of memory for three megapixels in float64.
    """
    pairs = [_shaved(luma(image), shave)[:, 0].cpu().numpy() for image in (pred, high)]
    if min(pairs[0].shape[-2:]) < WINDOW:
        return torch.full((len(pred),), math.nan)
    options = {"data_range": 255.0, "gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False}
    compare: Any = structural_similarity  # scikit-image has no types
    return torch.tensor([compare(*pair, **options) for pair in zip(*pairs, strict=True)])
