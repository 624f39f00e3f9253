import math

import torch

from upscale_lit.metrics import psnr, ssim


def test_psnr_by_hand() -> None:
    high = torch.full((2, 3, 8, 8), 100, dtype=torch.uint8)
    pred = high.clone()
    pred[1, :, 2:-2, 2:-2] += 10  # each pixel that shaving keeps differs by 10
    values = psnr(pred, high, shave=2)
    assert values[0] == 100  # the cap, which equal pictures reach
    assert math.isclose(values[1], 10 * math.log10(255**2 / 100), abs_tol=1e-3)
    assert values.shape == (2,)


def test_borders_do_not_count() -> None:
    high = torch.rand(1, 3, 20, 20)
    pred = high.clone()
    pred[..., :2, :] = 0
    assert psnr(pred, high, shave=2) == 100
    assert psnr(pred, high, shave=1) < 40


def test_values_are_rounded_to_8_bits_and_clamped() -> None:
    high = torch.full((1, 3, 16, 16), 1.0)
    assert psnr(high + 0.3, high, shave=0) == 100
    assert psnr(high - 0.4 / 255, high, shave=0) == 100
    assert psnr(high - 0.6 / 255, high, shave=0) < 100


def test_ssim_of_a_flat_difference_by_hand() -> None:
    """SSIM of two flat pictures is its luminance term, (2ab + c) / (a^2 + b^2 + c), since their structure is equal."""
    a, b, c = 0.2, 0.6, 0.01**2
    value = ssim(torch.full((1, 3, 24, 24), a), torch.full((1, 3, 24, 24), b), shave=2)
    assert math.isclose(value.item(), (2 * a * b + c) / (a * a + b * b + c), abs_tol=1e-4)


def test_autocast_changes_nothing() -> None:
    """The validation step runs under autocast if trainer.precision is bf16-mixed."""
    high = torch.rand(1, 3, 32, 32) * 0.1 + 0.8
    pred = high + 0.02 * torch.randn(1, 3, 32, 32)
    with torch.autocast("cpu", torch.bfloat16):
        values = psnr(pred, high, 2), ssim(pred, high, 2)
    assert values == (psnr(pred, high, 2), ssim(pred, high, 2))
