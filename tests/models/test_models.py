import pytest
import torch
import torch.nn.functional as F
from conftest import data_module
from torch import nn

from upscale_lit import resample
from upscale_lit.errors import InputError
from upscale_lit.metrics import psnr
from upscale_lit.models import Compact, Upsampler, Upsampler8x, upscale
from upscale_lit.models.upsampler import ATANH_HINGES


class Original(nn.Module):
    """The network of the original program, layer by layer."""

    def __init__(self) -> None:
        super().__init__()
        self.fw = nn.Sequential(
            *(nn.Conv2d(3, 16, 5, 2, 2), nn.BatchNorm2d(16), nn.ReLU()),
            *(nn.Conv2d(16, 64, 5, 2, 2), nn.BatchNorm2d(64), nn.ReLU()),
            *(nn.Conv2d(64, 256, 5, 1, 2), nn.BatchNorm2d(256), nn.ReLU()),
            *(nn.ConvTranspose2d(256, 64, 4, 2, 1), nn.BatchNorm2d(64), nn.ReLU()),
            *(nn.ConvTranspose2d(64, 16, 4, 2, 1), nn.BatchNorm2d(16), nn.ReLU()),
            *(nn.ConvTranspose2d(16, 3, 4, 2, 1), nn.Tanh()),
        )


@pytest.mark.parametrize("start", ["bicubic", "random"])
def test_files_go_both_ways(start: str) -> None:
    ours, original = Upsampler(start, "batch"), Original()
    assert sum(parameter.numel() for parameter in ours.parameters()) == 716_947
    original.load_state_dict(ours.state_dict(), strict=True)
    ours.load_state_dict(Original().state_dict(), strict=True)
    assert next(iter(ours.state_dict())) == "fw.0.weight"


def test_starts_as_bicubic_on_the_sample() -> None:
    data = data_module(size=128, crop=64, batch_size=1, examples_per_epoch=1, seed=0)
    data.setup("validate")
    model = Upsampler().eval()
    assert len(data.squares) >= 16
    network, bicubic = [], []
    with torch.no_grad():
        for high in data.squares:
            low = resample.downscale(high, 2)
            network.append(psnr(upscale(model, low), high, shave=8))
            bicubic.append(psnr(resample.interpolate(low, 2), high, shave=8))
    assert abs(torch.stack(network).mean() - torch.stack(bicubic).mean()) < 0.3


def test_hinges_straighten_tanh() -> None:
    x = torch.linspace(-128 / 134, 127 / 134, 256)
    value = sum(slope * torch.relu(p * x.relu() + n * (-x).relu() - hinge) for p, n, hinge, slope in ATANH_HINGES)
    error = 134 * (torch.tanh(value - ATANH_HINGES[0][3]) - x)
    assert error.square().mean().sqrt() < 0.9


def test_frozen_statistics_stay() -> None:
    model = Upsampler(batch_norm="frozen").train()
    model(torch.rand(2, 3, 16, 16)).sum().backward()
    norm = model.fw[1]
    assert torch.equal(norm.running_mean, torch.zeros(16))
    assert torch.equal(norm.running_var, torch.ones(16))
    assert norm.weight.grad is not None
    assert model.training
    ordinary = Upsampler("random", "batch").train()
    ordinary(torch.rand(2, 3, 16, 16))
    assert not torch.equal(ordinary.fw[1].running_mean, torch.zeros(16))


@pytest.mark.parametrize(("height", "width"), [(1, 1), (3, 50), (16, 16), (17, 23)])
def test_upscale_takes_any_size(height: int, width: int) -> None:
    low = torch.rand(1, 3, height, width)
    with torch.no_grad():
        pred = upscale(Upsampler().eval(), low)
    assert pred.shape == (1, 3, 2 * height, 2 * width)
    assert pred.min() >= 0
    assert pred.max() <= 1


def test_borders_are_as_good_as_the_middle() -> None:
    """A constant picture stays constant up to its edge. Without `upscale`, zero padding darkens the edge."""
    low = torch.full((1, 3, 16, 16), 0.8)
    model = Upsampler().eval()
    with torch.no_grad():
        assert (upscale(model, low) - 0.8).abs().max() < 0.02
        assert (resample.from_network(model(resample.to_network(low))) - 0.8).abs().max() > 0.05


def test_errors_explain_unknown_choices() -> None:
    with pytest.raises(InputError, match=r'model.start must be one of bicubic, random; got "cubic"'):
        Upsampler(start="cubic")
    with pytest.raises(InputError, match=r'model.batch_norm must be one of frozen, batch; got "off"'):
        Upsampler(batch_norm="off")


def test_the_stack_runs_its_stages_in_a_row() -> None:
    stages = [Upsampler("random").eval() for _ in range(3)]
    stack = Upsampler8x(*stages).eval()
    low = torch.rand(2, 3, 8, 12) * 2 - 1
    with torch.no_grad():
        levels = stack.levels(low)
        assert [tuple(level.shape[-2:]) for level in levels] == [(16, 24), (32, 48), (64, 96)]
        assert torch.equal(levels[0], stages[0](low))
        assert torch.equal(levels[2], stages[2](stages[1](stages[0](low))))
        assert torch.equal(stack(low), levels[2])
    assert {name.partition(".")[0] for name in stack.state_dict()} == {"upsample_64", "upsample_128", "upsample_256"}
    assert sum(parameter.numel() for parameter in stack.parameters()) == 3 * 716_947


class Plain(nn.Module):
    """Another 2x model: nearest neighbours. The sides of its input must be multiples of `multiple`."""

    def __init__(self, multiple: int) -> None:
        super().__init__()
        self.multiple = multiple

    def forward(self, low: torch.Tensor) -> torch.Tensor:
        assert low.shape[-1] % self.multiple == low.shape[-2] % self.multiple == 0
        return low.repeat_interleave(2, -1).repeat_interleave(2, -2)


@pytest.mark.parametrize(("multiples", "expected"), [((1, 1, 4), 1), ((1, 2, 8), 2), ((3, 4, 4), 6), ((4, 4, 4), 4)])
def test_a_stack_of_different_models(multiples: tuple[int, int, int], expected: int) -> None:
    stack = Upsampler8x(*map(Plain, multiples))
    assert stack.multiple == expected
    low = torch.rand(1, 3, 5, 7)
    pred = upscale(stack, low)
    assert torch.allclose(pred, low.repeat_interleave(8, -1).repeat_interleave(8, -2), atol=1e-5)


def test_a_stack_keeps_its_stages_statistics() -> None:
    stack = Upsampler8x(*(Upsampler("random", "batch") for _ in range(3))).train()
    before = [buffer.clone() for buffer in stack.buffers()]
    stack(torch.rand(2, 3, 8, 8)).sum().backward()
    assert all(torch.equal(a, b) for a, b in zip(before, stack.buffers(), strict=True))
    assert stack.upsample_64.fw[0].weight.grad is not None


@pytest.mark.parametrize("factor", [2, 8])
def test_compact_starts_as_bicubic(factor: int) -> None:
    torch.manual_seed(1)
    low = torch.rand(2, 3, 21, 34)
    bicubic = F.interpolate(low, scale_factor=factor, mode="bicubic", antialias=True)  # Keys' kernel, a = -0.5
    model = Compact(8, 2, factor)
    with torch.no_grad():
        pred = resample.from_network(model(resample.to_network(low)))
    assert pred.shape == (2, 3, 21 * factor, 34 * factor)
    assert model.factor == factor
    edge = slice(2 * factor, -2 * factor)
    torch.testing.assert_close(pred[..., edge, edge], bicubic[..., edge, edge], atol=1e-5, rtol=0)
    torch.testing.assert_close(pred, bicubic, atol=0.1, rtol=0)  # the two continue pictures differently


def test_compact_keeps_the_picture_itself_in_full_precision() -> None:
    """Only the learnt difference is computed in bfloat16, whose 8 bits are half a grey level near white."""
    low = torch.rand(1, 3, 12, 12)
    model = Compact(8, 2)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        assert model.body(low).dtype == torch.bfloat16
        pred = model(low)
    with torch.no_grad():
        torch.testing.assert_close(pred, model(low), atol=1e-6, rtol=0)


def test_the_signal_does_not_fade_in_compact() -> None:
    """PyTorch's initial values would leave less than a millionth of the signal, too little to learn small details."""
    torch.manual_seed(1)
    low = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        # Zero padding changes values near the borders. The test therefore leaves out the borders.
        hidden = Compact(32, 16).body[:-1](low)[..., 17:-17, 17:-17]
    assert hidden.std(dim=(2, 3)).mean() > 1e-4 * low.std()


def test_compact_has_plain_layers_that_all_learn() -> None:
    model = Compact(32, 7)
    assert not any(isinstance(layer, nn.BatchNorm2d | nn.Tanh) for layer in model.modules())
    assert not any("bicubic" in name for name in model.state_dict())
    with torch.no_grad():
        assert model(torch.zeros(1, 3, 1, 1)).shape == (1, 3, 2, 2)
        stack = Upsampler8x(Compact(8, 1), Compact(4, 2), Compact(8, 3))
        assert [level.shape[-1] for level in stack.levels(torch.zeros(1, 3, 5, 7))] == [14, 28, 56]
    assert stack.multiple == 1
    low, high = torch.randn(1, 3, 8, 8), torch.randn(1, 3, 16, 16)
    for _ in range(2):  # the last layer starts at zero, so the others learn from the second step
        (model(low) - high).square().mean().backward()
        with torch.no_grad():
            for parameter in model.parameters():
                parameter -= 0.01 * parameter.grad
    assert all(parameter.grad.abs().max() > 0 for parameter in model.parameters())


@pytest.mark.parametrize(
    ("width", "depth", "name"), [(0, 2, "width"), (8, 65, "depth"), ("a", 2, "width"), (8, 0, "depth")]
)
def test_compact_arguments(width: object, depth: object, name: str) -> None:
    with pytest.raises(InputError, match=rf"model\.{name} must be a whole number from 1 to \d+; got"):
        Compact(width, depth)


def test_compact_factor() -> None:
    with pytest.raises(InputError, match=r"model\.factor must be one of 2, 8; got 3"):
        Compact(8, 2, 3)
