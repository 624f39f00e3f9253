"""Networks with a float32 base compute in bfloat16 on CPUs that have instructions for it."""

from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import picture
from PIL import Image
from skimage import data
from torch import Tensor, nn

from upscale_lit import Upscaler, resample, shipped
from upscale_lit.cli import main
from upscale_lit.inference.tiling import Chain
from upscale_lit.inference.upscaler import precision_of
from upscale_lit.models import Compact, Upsampler
from upscale_lit.weights import load_weights

CPU = torch.device("cpu")


def capabilities(monkeypatch: pytest.MonkeyPatch, **found: bool) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: found, raising=False)


@pytest.fixture
def bfloat16(monkeypatch: pytest.MonkeyPatch) -> None:
    capabilities(monkeypatch, avx512_bf16=True)


def test_the_instructions_decide(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("avx512_bf16", "amx_bf16", "bf16"):
        capabilities(monkeypatch, avx2=True, **{name: True})
        assert precision_of(CPU) == torch.bfloat16
    for found in ({"avx2": True}, {"avx512_bf16": False}):
        capabilities(monkeypatch, **found)
        assert precision_of(CPU) == torch.float32
    monkeypatch.delattr(torch.cpu, "get_capabilities")  # as in old releases of PyTorch
    assert precision_of(CPU) == torch.float32
    assert precision_of(torch.device("cuda")) == torch.float16


@pytest.mark.parametrize("stage", ["64to128", "64to512"])
@pytest.mark.parametrize("name", shipped.names())
def test_the_difference_is_small(name: str, stage: str) -> None:
    """At most two grey levels, and a twentieth of a grey level on average."""
    network, _ = load_weights(shipped.folder(name) / f"upscaler_{stage}.safetensors")
    low = torch.from_numpy(data.chelsea()[60:160, 90:230].copy()).permute(2, 0, 1)[None]
    exact, fast = (Chain([network], dtype=dtype)(low) for dtype in (torch.float32, torch.bfloat16))
    assert 255 * (fast - exact).abs().max() < 2
    assert 255 * (fast - exact).mean().abs() < 0.05
    assert not torch.equal(fast, exact)


def test_the_base_stays_in_float32() -> None:
    """An untrained network adds zeros to bicubic upscaling, so bfloat16 changes nothing."""
    low = torch.rand(1, 3, 20, 30)
    exact, fast = (Chain([Compact(4, 2)], dtype=dtype) for dtype in (torch.float32, torch.bfloat16))
    assert torch.equal(fast(low), exact(low))
    assert (fast.precision, exact.precision) == ("bfloat16", "float32")


class Doubling(nn.Module):
    """A network of a user. It does not declare a base in float32."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Conv2d(3, 12, 3, padding=1)

    def forward(self, low: Tensor) -> Tensor:
        return nn.functional.pixel_shuffle(self.layer(low), 2)


@pytest.mark.parametrize("network", [Upsampler(), Doubling()], ids=["reference", "own"])
def test_other_networks_stay_in_float32(network: nn.Module) -> None:
    low = torch.rand(1, 3, 20, 30)
    exact, same = (Chain([network], dtype=dtype) for dtype in (torch.float32, torch.bfloat16))
    assert torch.equal(same(low), exact(low))
    assert same.precision == "float32"
    assert Chain([Compact(4, 2), network], dtype=torch.bfloat16).precision == "bfloat16 and float32"


class Declaring(Doubling):
    def reduce_precision(self) -> None:
        self.layer.to(torch.bfloat16)

    def forward(self, low: Tensor) -> Tensor:
        return nn.functional.pixel_shuffle(self.layer(low.to(self.layer.weight.dtype)), 2).float()


def test_a_network_of_a_user_can_declare_it() -> None:
    network = Declaring()
    fast = Chain([network], dtype=torch.bfloat16)
    assert fast.precision == "bfloat16"
    assert network.layer.weight.dtype == torch.float32  # the chain has changed its own copy
    assert (fast(torch.rand(1, 3, 20, 30)) - Chain([network])(torch.rand(1, 3, 20, 30))).abs().max() > 0


def test_deep_pictures_and_fp32(bfloat16: None) -> None:
    network = Compact(4, 2)
    nn.init.normal_(network.body[-1].weight, std=0.1)  # type: ignore[arg-type]
    fast, exact = Upscaler([network], device="cpu"), Upscaler([network], device="cpu", fp32=True)
    image = np.asarray(picture(40, 30))
    assert not np.array_equal(fast(image), exact(image))
    deep = image.astype(np.uint16) * 257
    assert np.array_equal(fast(deep), exact(deep))
    assert (fast.precision(), fast.precision(deep=True), exact.precision()) == ("bfloat16", "float32", "float32")


def test_the_log_names_the_precision(bfloat16: None, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    picture(40, 30).save(tmp_path / "a.png")
    Image.fromarray(np.full((30, 40), 9999, np.uint16)).save(tmp_path / "b.png")
    paths = [str(tmp_path / name) for name in ("a.png", "b.png")]
    for words, found in (([], ["bfloat16", "float32"]), (["--fp32"], ["float32", "float32"])):
        assert main(["upscale", *paths, "-o", str(tmp_path / "o"), "-s", "2", "--device", "cpu", *words]) == 0
        lines = [line for line in capsys.readouterr().out.splitlines() if " -> " in line]
        assert [line.split(" in ")[1].split(",")[0] for line in lines] == found


def test_tiles_change_nothing_visible() -> None:
    """oneDNN may choose another order of additions for another size."""
    network, _ = load_weights(shipped.folder("compact") / "upscaler_64to128.safetensors")
    low = torch.from_numpy(data.chelsea()[:150, :150].copy()).permute(2, 0, 1)[None]
    chain = Chain([network], dtype=torch.bfloat16)
    complete = resample.to_uint8(chain(low)).int()
    for top, left, part in chain.tiles(low, 40):
        place = complete[..., top : top + part.shape[2], left : left + part.shape[3]]
        assert (resample.to_uint8(part).int() - place).abs().max() <= 1
