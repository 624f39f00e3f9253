import math
from collections.abc import Sequence

import pytest
import torch
from torch import Tensor, nn

from upscale_lit import models, resample, shipped
from upscale_lit.errors import InputError
from upscale_lit.inference.tiling import LAYER, TILE, Chain, folded, reach
from upscale_lit.models import Compact, Upsampler, Upsampler8x, continued
from upscale_lit.weights import load_weights


class Small(nn.Module):
    """A network as users may bring it: without strides, `factor` and `multiple`."""

    def __init__(self, kernel: int = 5) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(3, 8, kernel, padding=kernel // 2), nn.BatchNorm2d(8), nn.PReLU())
        self.end = nn.Sequential(nn.Conv2d(8, 12, 3, padding=1), nn.PixelShuffle(2))

    def forward(self, low: Tensor) -> Tensor:
        pred: Tensor = self.end(self.body(low))
        return pred


class Everything(Small):
    """A network in which each output pixel depends on all input pixels."""

    def forward(self, low: Tensor) -> Tensor:
        return super().forward(low - low.mean(dim=(2, 3), keepdim=True))


def seeded(model: nn.Module) -> nn.Module:
    """Return the model in eval mode, with BatchNorm statistics as after training."""
    random = torch.Generator().manual_seed(1)
    for layer in model.modules():
        if isinstance(layer, nn.BatchNorm2d):
            for values, scale in ((layer.running_mean, 0.2), (layer.bias, 0.2), (layer.weight, 0.3)):
                values.data += scale * torch.randn(values.shape, generator=random)
            layer.running_var.data *= 1 + torch.rand(layer.running_var.shape, generator=random)
    return model.eval()


def picture(height: int, width: int, channels: int = 3) -> Tensor:
    return torch.rand(1, channels, height, width, generator=torch.Generator().manual_seed(height * width))


def assembled(chain: Chain, low: Tensor, tile: int) -> Tensor:
    """Return the picture that `chain` makes in tiles. Check that each pixel is made exactly once."""
    high = torch.full((1, low.shape[1], *(chain.factor * side for side in low.shape[-2:])), math.nan)
    for top, left, part in chain.tiles(low, tile):
        place = high[..., top : top + part.shape[-2], left : left + part.shape[-1]]
        assert place.shape == part.shape
        assert place.isnan().all()
        place[:] = part
    assert not high.isnan().any()
    return high


CHAINS: dict[str, Sequence[nn.Module]] = {
    "one stage": [seeded(Upsampler("random", "batch"))],
    "two stages": [seeded(Upsampler()), seeded(Upsampler("random", "batch"))],
    "the stack": [Upsampler8x(*(seeded(Upsampler("random", "batch")) for _ in range(3)))],
    "another network": [Small().eval(), seeded(Upsampler())],
    "the compact network": [load_weights(shipped.files("compact")[0])[0]],
}


@pytest.mark.parametrize("model", [Upsampler("bicubic"), Upsampler("random")])
def test_the_reach_of_the_reference_network(model: nn.Module) -> None:
    # In pixels of the input, the 5x5 convolutions at strides 1, 2 and 4 reach 2, 2 * 2 and 4 * 2 pixels. The transposed
    # convolutions reach one pixel each at strides 4, 2 and 1. Weights of zero do not reduce the reach.
    assert reach(model.eval()) == 2 + 4 + 8 + 4 + 2 + 1


def test_the_reach_of_other_networks() -> None:
    assert reach(Small(5).eval()) == 3
    assert reach(Small(91).eval()) == 46
    assert reach(Everything().eval()) is None


def test_folding_changes_nothing() -> None:
    low = resample.to_network(picture(64, 48))
    for model in (seeded(Upsampler("random", "batch")), seeded(Small())):
        fold = folded(model)
        assert not any(isinstance(layer, nn.BatchNorm2d) for layer in fold.modules())
        assert any(isinstance(layer, nn.BatchNorm2d) for layer in model.modules())  # the model itself is unchanged
        with torch.no_grad():
            assert (fold(low) - model(low)).abs().max() < 1e-5


@pytest.mark.parametrize("name", CHAINS)
@pytest.mark.parametrize("size", [(45, 70), (1, 1), (2, 61), (24, 24)])
def test_tiles_change_no_pixel(name: str, size: tuple[int, int]) -> None:
    chain, low = Chain(CHAINS[name]), picture(*size)
    whole = assembled(chain, low, 1000)
    for tile in (1, 7, 16, 40):
        assert (assembled(chain, low, tile) - whole).abs().max() < 1e-5
    # Compare with `models.upscale`, which training uses, with padding of at least the reach of the networks.
    model = CHAINS[name][0] if len(CHAINS[name]) == 1 else nn.Sequential(*CHAINS[name])
    model.factor, model.multiple = chain.factor, chain.multiple  # type: ignore[assignment]
    with torch.no_grad():
        reach = math.ceil(chain.margins[0] / chain.multiple) * chain.multiple
        padding = 0 if chain.own_borders else reach
        assert (models.upscale(model, low, padding) - whole).abs().max() < 2e-5


@pytest.mark.parametrize("name", ["one stage", "the stack"])
def test_borders_are_as_good_as_the_middle(name: str) -> None:
    """A picture gives the same result as in the middle of a larger picture that continues it by reflection."""
    chain, low = Chain(CHAINS[name]), picture(64, 80)
    rows, columns = continued(-64, 128, 64), continued(-64, 144, 80)
    larger = assembled(chain, low[..., rows[:, None], columns], 0)
    begin = 64 * chain.factor
    middle = larger[..., begin : begin + 64 * chain.factor, begin : begin + 80 * chain.factor]
    assert (assembled(chain, low, 0) - middle).abs().max() < 1e-5


def test_continued() -> None:
    assert continued(-3, 8, 5).tolist() == [3, 2, 1, 0, 1, 2, 3, 4, 3, 2, 1]
    assert continued(-2, 3, 1).tolist() == [0] * 5
    assert continued(-5, 3, 2).tolist() == [0, 0, 0, 0, 1, 0, 1, 0]  # too short to reflect: pixel 0 is repeated


def test_a_network_of_unlimited_reach_gets_the_picture_in_one_piece() -> None:
    chain = Chain([Everything().eval()])
    assert not chain.tiled
    assert len(list(chain.tiles(picture(40, 30), 8))) == 1


class Hungry(Small):
    """A network that raises `error`, like an allocator, for inputs of more than `room` pixels."""

    room = 40 * 40

    def forward(self, low: Tensor) -> Tensor:
        probe = not low.nan_to_num().any()
        if low.shape[-1] * low.shape[-2] > self.room and not probe:
            raise self.error
        return super().forward(low)


ERRORS = [
    torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."),
    RuntimeError("[enforce fail at alloc_cpu.cpp:124] err == 0. DefaultCPUAllocator: can't allocate memory: ..."),
    RuntimeError("could not create a primitive"),  # oneDNN's error for a lack of memory
    MemoryError(),
]


@pytest.mark.parametrize("error", ERRORS)
def test_the_tile_is_halved_if_memory_does_not_suffice(error: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    model, low = Hungry().eval(), picture(130, 97)
    model.error = error
    chain = Chain([model])
    sizes = [tuple(part.shape[-2:]) for *_, part in chain.tiles(low)]
    assert max(max(size) for size in sizes) <= 2 * 40
    tiled = assembled(chain, low, 0)
    monkeypatch.setattr(Hungry, "room", math.inf)
    assert (assembled(chain, low, 0) - tiled).abs().max() < 1e-5


def test_no_tile_is_small_enough() -> None:
    model = Hungry().eval()
    model.error, model.room = ERRORS[0], 1
    with pytest.raises(InputError, match=r"The memory of cpu is too small for a tile of 1x1 px\."):
        list(Chain([model]).tiles(picture(20, 30)))


def test_other_errors_are_not_taken_for_a_lack_of_memory() -> None:
    model = Hungry().eval()
    model.error, model.room = RuntimeError("a bug"), 1
    with pytest.raises(RuntimeError, match="a bug"):
        list(Chain([model]).tiles(picture(20, 30)))


def test_memory_follows_the_tile() -> None:
    """A network never gets more than a tile and the margin that the networks reach around the tile."""
    chain = Chain(CHAINS["the stack"])
    seen = []
    for stage in chain.stages:
        stage.register_forward_pre_hook(lambda stage, args: seen.append(max(args[0].shape[-2:])))
    assembled(chain, picture(150, 200), 32)
    assert max(seen[0::3]) == 32 + 2 * chain.margins[0] == 112
    assert max(seen[1::3]) == 2 * 32 + 2 * chain.margins[1] == 136
    assert max(seen[2::3]) == 4 * 32 + 2 * chain.margins[2] == 176


@pytest.mark.parametrize(("first", "second"), [(200, 200), (200, 8), (8, 200), (8, 8)])
def test_wide_networks_get_smaller_tiles(first: int, second: int) -> None:
    """On a CPU the output of each layer in float32 has at most LAYER bytes. The test measures outputs."""
    chain = Chain([Compact(first, 1), Compact(second, 1)])
    sizes: list[int] = []
    for layer in chain.stages.modules():
        layer.register_forward_hook(lambda layer, args, output: sizes.append(output.nbytes))
    chain.part(picture(chain.side, chain.side), 0, 0, chain.side, chain.side)
    assert max(sizes) <= LAYER
    assert max(sizes) > 0.9 * LAYER or 2 * chain.side == TILE


def test_tiles_are_at_least_twice_the_margin() -> None:
    network = Small(101)
    network.body.append(nn.Conv2d(8, 400, 1))
    network.end.insert(0, nn.Conv2d(400, 8, 1))
    chain = Chain([network.eval()])
    assert chain.side == 2 * chain.margins[0] == 102


@pytest.mark.parametrize("colours", [1, 3])
def test_transparency(colours: int) -> None:
    chain = Chain([Upsampler()])
    alpha = torch.zeros(1, 1, 40, 60)
    alpha[..., 10:30, 20:50] = 1
    alpha[..., 5, 5] = 0.5
    low = torch.cat([picture(40, 60, colours), alpha], dim=1)
    high = assembled(chain, low, 16)
    assert (high[:, :-1] - assembled(chain, low[:, :-1], 16)).abs().max() < 1e-6
    opaque, clear = high[0, -1, 22:58, 42:98], high[0, -1, 64:, :]  # at least one pixel from the edge
    assert (opaque == 1).all()
    assert (clear == 0).all()
    assert high[0, -1, 10:12, 10:12].mean() > 0.15  # the half-transparent pixel remains
    assert 0 < high[0, -1, 18:22, 60].mean() < 1


def test_grey_is_the_network_on_three_equal_colours() -> None:
    chain, low = Chain([Upsampler()]), 0.3 + 0.4 * picture(30, 20, 1)
    colour = assembled(chain, low.expand(-1, 3, -1, -1), 0)
    assert (assembled(chain, low, 0) - colour.mean(dim=1, keepdim=True)).abs().max() < 1e-5


def test_the_given_models_are_not_changed() -> None:
    model = Upsampler("random", "batch").train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    Chain([model])
    assert model.training
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


@pytest.mark.parametrize("factor", [2, 8])
def test_a_network_that_has_learned_borders_sees_them(factor: int) -> None:
    """Tiles of such a network give the same result as the network on the complete picture."""
    torch.manual_seed(1)
    network = Compact(4, 2) if factor == 2 else Upsampler8x(*(Compact(4, 2) for _ in range(3)))
    for parameter in network.parameters():
        nn.init.normal_(parameter, std=0.2)
    low = torch.rand(1, 3, 45, 37)
    with torch.inference_mode():
        whole = resample.from_network(network(resample.to_network(low))).clamp(0, 1)
    chain = Chain([network])
    for tile in (1, 9, 20, 1000):
        assert (assembled(chain, low, tile) - whole).abs().max() < 1e-5
    with torch.inference_mode():
        assert (chain(low) - whole).abs().max() < 1e-5
        assert (models.upscale(network, low) - whole).abs().max() < 1e-5
    mixed = Chain([Compact(4, 2), Upsampler()])
    assert not mixed.own_borders  # the reference network needs a continued picture
