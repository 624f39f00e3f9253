import numpy as np
import pytest
import torch
from conftest import picture
from PIL import Image

from upscale_lit import resample
from upscale_lit.errors import InputError

PILLOW = {"bicubic": Image.Resampling.BICUBIC, "bilinear": Image.Resampling.BILINEAR}


def tensor(image: Image.Image) -> torch.Tensor:
    return torch.from_numpy(np.array(image)).permute(2, 0, 1)[None]


@pytest.mark.parametrize("kernel", resample.KERNELS)
@pytest.mark.parametrize("factor", [2, 8])
def test_downscale_equals_pillow(kernel: str, factor: int) -> None:
    image = picture(96, 80)
    pillow = tensor(image.resize((96 // factor, 80 // factor), PILLOW[kernel])).float()
    ours = resample.downscale(tensor(image), factor, kernel)
    assert ours.dtype == torch.uint8
    difference = (ours.float() - pillow).abs()
    assert difference.max() <= 1, f"quantiles {difference.quantile(torch.tensor([0.5, 0.9, 1.0]))}"


@pytest.mark.parametrize("kernel", resample.KERNELS)
def test_interpolate_equals_pillow(kernel: str) -> None:
    image = picture(40, 32)
    pillow = tensor(image.resize((80, 64), PILLOW[kernel])).float()
    ours = resample.interpolate(tensor(image), 2, kernel) * 255
    difference = (ours - pillow).abs()
    assert difference.quantile(0.99) <= 1
    assert difference.max() <= 5  # Pillow clamps overshoot at edges to 8 bits between its two passes


def test_float_and_uint8_pictures_give_the_same_result() -> None:
    high = tensor(picture(64, 64))
    low = resample.downscale(high, 2)
    assert torch.equal(resample.to_uint8(resample.downscale(resample.to_float(high), 2)), low)
    assert torch.allclose(resample.to_network(high), resample.to_network(resample.to_float(high)), atol=1e-6)


def test_network_range() -> None:
    x = torch.tensor([0.0, 128 / 255, 1.0])
    assert torch.allclose(resample.to_network(x), torch.tensor([-128 / 134, 0.0, 127 / 134]), atol=1e-6)
    assert torch.allclose(resample.from_network(resample.to_network(x)), x, atol=1e-6)


def test_errors_explain_the_problem() -> None:
    with pytest.raises(InputError, match=r"30x33 px cannot be downscaled by 2"):
        resample.downscale(torch.zeros(1, 3, 33, 30), 2)
    with pytest.raises(InputError, match='one of bicubic, bilinear; got "box"'):
        resample.downscale(torch.zeros(1, 3, 32, 32), 2, "box")
