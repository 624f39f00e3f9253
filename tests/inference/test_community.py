"""Networks of other programs: spandrel builds them, and our own code upscales with them."""

import json
import os
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import extra, picture
from PIL import Image

from upscale_lit import Upscaler, shipped
from upscale_lit.cli import main
from upscale_lit.inference import choose
from upscale_lit.inference.community import foreign_state
from upscale_lit.inference.srvgg import srvgg_state
from upscale_lit.inference.tiling import Chain
from upscale_lit.models import Upsampler, Upsampler8x
from upscale_lit.weights import load_weights, read_file, save_weights


def arch(name: str) -> Any:
    extra("spandrel")
    return getattr(__import__(f"spandrel.architectures.{name}", fromlist=[name]), name)


def write(folder: Path, name: str) -> Path:
    """Write small random weights of an architecture, wrapped as its training program wraps them."""
    torch.manual_seed(0)
    made: dict[str, Any] = {
        "4x-Compact": lambda: {"params": arch("Compact")(num_feat=8, num_conv=2, upscale=4).state_dict()},
        "1x-Compact": lambda: {"params": arch("Compact")(num_feat=8, num_conv=2, upscale=1).state_dict()},
        "2x-SPAN": lambda: {
            "params_ema": arch("SPAN")(num_in_ch=3, num_out_ch=3, feature_channels=8, upscale=2).state_dict()
        },
        "3x-SAFMN": lambda: arch("SAFMN")(dim=8, n_blocks=1, upscaling_factor=3).state_dict(),
        "4x-ESRGAN": lambda: arch("ESRGAN")(in_nc=3, out_nc=3, num_filters=8, num_blocks=1, scale=4).state_dict(),
        "2x-RCAN": lambda: arch("RCAN")(n_feats=8, n_resgroups=1, n_resblocks=1, scale=2, reduction=4).state_dict(),
        "4x-grey": lambda: arch("ESRGAN")(in_nc=1, out_nc=1, num_filters=8, num_blocks=1, scale=4).state_dict(),
        "4x-alpha": lambda: arch("Compact")(num_in_ch=4, num_out_ch=4, num_feat=8, num_conv=1, upscale=4).state_dict(),
        "2x-colour": lambda: arch("ESRGAN")(in_nc=1, out_nc=3, num_filters=8, num_blocks=1, scale=2).state_dict(),
    }
    path = folder / f"{name}.pth"
    torch.save(made[name](), path)
    return path


NAMES = {"4x-Compact": 4, "1x-Compact": 1, "2x-SPAN": 2, "3x-SAFMN": 3, "4x-ESRGAN": 4}


@pytest.mark.parametrize(("name", "factor"), NAMES.items())
def test_pictures(tmp_path: Path, name: str, factor: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each network upscales at its own scale: RGB, grey, 16 bits and transparency, with the metadata of the file."""
    monkeypatch.chdir(tmp_path)
    write(tmp_path, name)
    image = picture(21, 13)
    image.save("a.png", dpi=(300, 300))
    image.convert("L").save("grey.png")
    image.convert("RGBA").save("clear.png")
    Image.fromarray((np.arange(21 * 13, dtype=np.uint16) * 200).reshape(13, 21)).save("deep.png")
    assert main(["upscale", "a.png", "grey.png", "clear.png", "deep.png", "-o", "out", "-m", f"{name}.pth"]) == 0
    for file, mode in (("a", "RGB"), ("grey", "L"), ("clear", "RGBA"), ("deep", "I;16")):
        with Image.open(f"out/{file}_x{factor}.png") as made:
            assert (made.size, made.mode) == ((21 * factor, 13 * factor), mode)
            if file == "a":
                assert round(made.info["dpi"][0]) == 300
            if file == "clear":
                assert made.getchannel("A").getextrema() == (255, 255)


@pytest.mark.parametrize("name", NAMES)
def test_tiles_do_not_change_the_result(tmp_path: Path, name: str) -> None:
    upscaler = Upscaler.load(write(tmp_path, name))
    image = np.asarray(picture(90, 70))
    complete = upscaler(image).astype(int)
    upscaler.tile = 24
    assert np.abs(upscaler(image).astype(int) - complete).max() <= 1


def test_tiles_of_a_network_that_sees_the_entire_picture(tmp_path: Path) -> None:
    """RCAN takes means over all pixels. Its tiles have the stated overlap, and change the result a little."""
    upscaler = Upscaler.load(write(tmp_path, "2x-RCAN"), tile=200)
    image = np.asarray(picture(90, 70))
    complete = upscaler(image).astype(int)
    chain = Chain(upscaler.networks)
    assert (chain.tiled, chain.margins) == (True, [32, 0])
    upscaler.tile = 24
    apart = np.abs(upscaler(image).astype(int) - complete)
    assert apart.max() > 0
    assert apart.mean() < 2


def test_the_output_is_spandrels(tmp_path: Path) -> None:
    """Inside the picture, the output is what spandrel computes. At the borders our continuation differs."""
    spandrel = extra("spandrel")
    path = write(tmp_path, "4x-Compact")
    low = torch.rand(1, 3, 40, 50)
    theirs = spandrel.ModelLoader().load_from_file(path)(low)
    ours = Upscaler.load(path).tensor(low)
    assert (ours - theirs)[..., 32:-32, 32:-32].abs().max() < 1e-5


@pytest.mark.parametrize("name", ["4x-grey", "4x-alpha"])
def test_other_channels(tmp_path: Path, name: str) -> None:
    """A grey network upscales each colour alone. A network with alpha sees an opaque picture."""
    upscaler = Upscaler.load(write(tmp_path, name))
    low = torch.rand(1, 3, 12, 10)
    high = upscaler.tensor(low)
    assert high.shape == (1, 3, 48, 40)
    if name == "4x-grey":
        for colour in range(3):
            assert torch.allclose(upscaler.tensor(low[:, colour : colour + 1]), high[:, colour : colour + 1], atol=1e-5)


@pytest.mark.filterwarnings("ignore:.*torch.jit.script:FutureWarning")
@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["-m", "4x-Compact.pth", "-s", "2"], "No network can upscale by 2; got 4x-Compact.pth (4x)."),
        (["-m", "2x-SPAN.pth", "-s", "4"], "No network can upscale by 4; got 2x-SPAN.pth (2x)."),
        (["-s", "3"], "No network can upscale by 3; got "),
        (["-m", "2x-colour.pth"], "must map grey, RGB or RGBA to the same; it holds a ESRGAN from 1 to 3 channels."),
        (["-m", "other.pth"], "or of an architecture that spandrel knows; its tensors begin with some.weight."),
        (["-m", "cut.pth"], "cut.pth does not fit the architecture that spandrel recognises in it:"),
        (["-m", "script.pt"], "script.pt must be a weights file; the file is damaged or of another kind"),
        (["-m", "evil.pth"], "evil.pth must be a weights file; the file is damaged or of another kind"),
    ],
)
def test_wrong_files(
    tmp_path: Path, words: list[str], message: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Each wrong file is a sentence. TorchScript archives are refused. A pickle that would run code does not run it."""
    monkeypatch.chdir(tmp_path)
    picture(8, 8).save("a.png")
    for name in ("4x-Compact", "2x-SPAN", "2x-colour"):
        write(tmp_path, name)
    torch.save({"some.weight": torch.zeros(3)}, "other.pth")
    state = torch.load("4x-Compact.pth", weights_only=True)["params"]
    torch.save({name: value for name, value in state.items() if name != "body.2.weight"}, "cut.pth")
    torch.jit.script(torch.nn.Conv2d(3, 3, 1)).save("script.pt")

    class Evil:
        def __reduce__(self) -> tuple[Any, ...]:
            return os.mkdir, (str(tmp_path / "ran"),)

    torch.save({"body.0.weight": torch.zeros(3), "evil": Evil()}, "evil.pth")
    assert main(["upscale", "a.png", *words]) == 2
    assert message in capsys.readouterr().err
    assert not Path("ran").exists()
    assert not list(tmp_path.glob("a_x*"))


def test_without_the_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    state = srvgg_state(load_weights(shipped.FOLDER / "compact" / "upscaler_64to128.safetensors")[0])  # type: ignore[arg-type]
    torch.save(state, tmp_path / "2x-Name.pth")
    monkeypatch.setitem(sys.modules, "spandrel", None)
    picture(8, 8).save(tmp_path / "a.png")
    assert main(["upscale", str(tmp_path / "a.png"), "-m", str(tmp_path / "2x-Name.pth")]) == 2
    assert 'need spandrel, which is not installed: pip install "upscale-lit[community]"' in capsys.readouterr().err


def test_the_order_of_recognition(tmp_path: Path) -> None:
    """Our facts come first, then the names of the reference network's tensors, then spandrel."""
    extra("spandrel")
    compact = srvgg_state(load_weights(shipped.FOLDER / "compact" / "upscaler_64to128.safetensors")[0])  # type: ignore[arg-type]
    save_weights(tmp_path / "own.pt", Upsampler(), {"model_args": {}, "factor": 2})
    torch.save({"model_state_dict": Upsampler().state_dict()}, tmp_path / "reference.pth")
    torch.save({"model_state_dict": Upsampler8x().state_dict()}, tmp_path / "stack.pth")
    torch.save({"model_state_dict": compact}, tmp_path / "theirs.pth")
    torch.save({"model_state_dict": compact, "format": 1, "model": "Compact", "model_args": {}}, tmp_path / "facts.pth")
    found = {path.stem: foreign_state(read_file(path, "weights file")) is not None for path in tmp_path.iterdir()}
    assert found == {"own": False, "reference": False, "stack": False, "theirs": True, "facts": False}
    networks = {name: choose.find([tmp_path / name])[0] for name in ("own.pt", "reference.pth", "theirs.pth")}
    assert [type(each.model).__name__ for each in networks.values()] == ["Upsampler", "Upsampler", "Community"]
    with pytest.raises(choose.InputError, match="cannot be rebuilt"):
        choose.find([tmp_path / "facts.pth"])


def test_evaluate(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "set").mkdir()
    picture(72, 66).save(tmp_path / "set" / "a.png")
    for name in ("3x-SAFMN", "1x-Compact"):
        path = write(tmp_path, name)
        words = ["--degrade", "jpeg:50"] if name.startswith("1x") else []
        assert (
            main(["evaluate", str(tmp_path / "set"), "-m", str(path), "--json", str(tmp_path / "t.json"), *words]) == 0
        )
        rows = {row["method"]: row for row in json.loads((tmp_path / "t.json").read_text())["rows"]}
        assert rows[name]["scale"] == int(name[0])
        assert 3 < rows[name]["psnr_y"] < rows["bicubic"]["psnr_y"]
    assert "3x-SAFMN" in capsys.readouterr().out


def test_our_own_export_comes_back(tmp_path: Path) -> None:
    """A file in the layout of Compact is read like that of any other program, and upscales like its source."""
    extra("spandrel")
    source = shipped.FOLDER / "compact" / "upscaler_64to128.safetensors"
    assert main(["export", str(source), "--format", "spandrel", "-o", str(tmp_path / "a.safetensors")]) == 0
    image = np.asarray(picture(60, 50))
    ours, theirs = (Upscaler.load(path, fp32=True)(image).astype(int) for path in (source, tmp_path / "a.safetensors"))
    assert np.abs(ours - theirs)[16:-16, 16:-16].max() <= 1
