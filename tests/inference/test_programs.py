"""Exports for other programs: the programs' own libraries open the files and compute what our networks compute."""

import json
import subprocess
import sys
from hashlib import sha256
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import extra, needs
from PIL import Image
from skimage import data
from torch import Tensor

from upscale_lit import shipped
from upscale_lit.cli import main
from upscale_lit.inference.srvgg import srvgg, srvgg_state
from upscale_lit.inference.tiling import Chain
from upscale_lit.models import Compact, Upsampler
from upscale_lit.weights import load_weights, save_weights

SHIPPED = shipped.FOLDER / "compact" / "upscaler_64to128.safetensors"
STACK = shipped.FOLDER / "compact" / "upscaler_64to512.safetensors"


def photo(width: int, height: int) -> Tensor:
    image = Image.fromarray(data.chelsea()).resize((width, height))
    return torch.from_numpy(np.array(image, dtype=np.float32) / 255).permute(2, 0, 1)[None]


def network(factor: int, width: int = 8, depth: int = 3) -> Compact:
    """Return a network whose output differs from bicubic as that of a trained one."""
    torch.manual_seed(factor + depth)
    model = Compact(width, depth, factor).eval()
    torch.nn.init.normal_(model.body[-1].weight, std=0.02)
    torch.nn.init.normal_(model.body[-1].bias, std=0.02)
    return model


@pytest.mark.parametrize(("factor", "depth"), [(2, 1), (2, 2), (2, 6), (8, 1), (8, 4)])
def test_the_layout_of_compact(factor: int, depth: int) -> None:
    """The converted network equals ours everywhere but at the corners, also for black and white pictures."""
    model = network(factor, depth=depth)
    state, corner = srvgg_state(model), 2 * factor
    for low in (photo(40, 30), torch.zeros(1, 3, 9, 9), torch.ones(1, 3, 9, 9), photo(5, 90)):
        with torch.no_grad():
            apart = 255 * (Chain([model])(low) - srvgg(state, low)).abs()
        assert apart[..., corner:-corner, :].max() < 0.01
        assert apart[..., corner:-corner].max() < 0.01
    assert srvgg(state, photo(30, 1)).shape == (1, 3, factor, 30 * factor)


@pytest.mark.parametrize("ending", ["safetensors", "pth"])
@pytest.mark.parametrize("kind", ["shipped", "8x"])
def test_spandrel(tmp_path: Path, kind: str, ending: str, capsys: pytest.CaptureFixture[str]) -> None:
    """spandrel reports Compact and the scale. Inside, and at the borders of a photograph, its output equals ours."""
    spandrel = extra("spandrel")
    source = SHIPPED
    if kind == "8x":
        source = tmp_path / "mine.pt"
        save_weights(source, network(8), {"model_args": {"width": 8, "depth": 3, "factor": 8}, "factor": 8})
    target = tmp_path / f"a.{ending}"
    assert main(["export", str(source), "--format", "spandrel", "-o", str(target)]) == 0
    assert "differs by at most" in capsys.readouterr().out
    loaded = spandrel.ModelLoader().load_from_file(target)
    ours, facts = load_weights(source)
    assert (loaded.architecture.id, loaded.scale) == ("Compact", facts["factor"])
    assert loaded.tags == (["50nf", "6nc"] if kind == "shipped" else ["47nf", "3nc"])
    low = photo(120, 80)
    with torch.no_grad():
        apart = 255 * (loaded(low) - Chain([ours])(low)).abs()
    assert apart[..., 16:-16, 16:-16].max() < 0.01
    frame = torch.ones(apart.shape[-2:], dtype=torch.bool)
    frame[4:-4, 4:-4] = False
    assert apart[..., frame].mean() < 0.1


def test_the_name_of_a_spandrel_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["export", "compact", "--format", "spandrel"]) == 2  # several files: the error lists a command for each
    assert main(["export", str(SHIPPED), "--format", "spandrel"]) == 0
    assert [path.name for path in tmp_path.iterdir()] == ["compact_upscaler_64to128_x2_compact.safetensors"]


@pytest.mark.parametrize("name", ["stack", "reference"])
@pytest.mark.parametrize("words", [["--format", "spandrel"], ["-o", "a.pth"]])
def test_networks_that_the_layout_cannot_represent(
    tmp_path: Path, name: str, words: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    source = STACK
    if name == "reference":
        source = tmp_path / "mine.pt"
        save_weights(source, Upsampler(), {"model_args": {}, "factor": 2})
    before = sorted(tmp_path.iterdir())
    assert main(["export", str(source), *words]) == 2
    error = capsys.readouterr().err
    assert "--format spandrel must have a network of class Compact" in error
    assert "Give --format onnx." in error
    assert sorted(tmp_path.iterdir()) == before


@pytest.mark.slow
def test_no_export_replaces_a_file_of_another_layout(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = tmp_path / "mine.safetensors"
    source.write_bytes(SHIPPED.read_bytes())
    kinds = {"spandrel": "a.safetensors", "safetensors": "b.safetensors", "onnx": "c.onnx"}
    for kind, name in kinds.items():
        for _ in range(2):  # an earlier export of the same format is replaced
            assert main(["export", str(source), "--format", kind, "-o", str(tmp_path / name)]) == 0
    (tmp_path / "photo.onnx").write_bytes(b"something else")
    (tmp_path / "my notes.pth").write_text("something else")
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}
    for kind, name in (
        ("spandrel", "b.safetensors"), ("safetensors", "a.safetensors"), ("onnx", "photo.onnx"),
        ("spandrel", "my notes.pth"), ("spandrel", "mine.safetensors"),
    ):  # fmt: skip
        assert main(["export", str(source), "--format", kind, "-o", str(tmp_path / name)]) == 2
        error = capsys.readouterr().err
        assert "is no export in the format" in error or "would overwrite its own source" in error
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == before


@pytest.mark.parametrize("words", [["--format", "spandrel", "-o", "a.onnx"], ["--format", "onnx", "-o", "a.pth"]])
def test_a_name_that_does_not_fit_the_format(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["export", str(SHIPPED), *words]) == 2
    assert "The export's name must end in " in capsys.readouterr().err


@pytest.mark.parametrize("source", [SHIPPED, pytest.param(STACK, marks=pytest.mark.slow)], ids=["2x", "8x"])
def test_ncnn(tmp_path: Path, source: Path) -> None:
    """ncnn's own runtime reads both files, feeds `data`, and returns our output from `output`, for any size."""
    ncnn = extra("ncnn", "pnnx")[0]
    assert main(["export", str(source), "--format", "ncnn", "-o", f"{tmp_path}/"]) == 0
    model, facts = load_weights(source)
    name = f"compact_{source.stem}-x{facts['factor']}"
    assert {path.name for path in tmp_path.iterdir()} == {f"{name}.param", f"{name}.bin"}
    net = ncnn.Net()
    net.load_param(str(tmp_path / f"{name}.param"))
    net.load_model(str(tmp_path / f"{name}.bin"))
    for low in (photo(50, 37), photo(64, 61), photo(5, 3)):
        extractor = net.create_extractor()
        image = np.ascontiguousarray(low[0].numpy())  # ncnn does not keep the array alive, nor read its strides
        extractor.input("data", ncnn.Mat(image).clone())
        high = np.array(extractor.extract("output")[1])
        with torch.no_grad():
            assert np.abs(high - Chain([model])(low)[0].numpy()).max() < 1e-3
    assert main(["export", str(source), "--format", "ncnn", "-o", f"{tmp_path}/"]) == 0  # it replaces its earlier files


def test_ncnn_needs_any_size(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    extra("ncnn", "pnnx")
    save_weights(tmp_path / "mine.pt", Upsampler(), {"model_args": {}, "factor": 2})
    assert main(["export", str(tmp_path / "mine.pt"), "--format", "ncnn"]) == 2
    assert "needs sides that are multiples of 4. Give --format onnx." in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["mine.pt"]


def test_ncnn_without_the_extra(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "pnnx", None)
    assert main(["export", str(SHIPPED), "--format", "ncnn", "-o", str(tmp_path / "a.param")]) == 2
    assert 'pip install "upscale-lit[ncnn]"' in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


READ = """
import sys, numpy as np, openvino
low = np.load(sys.argv[2])
model = openvino.compile_model(sys.argv[1], "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
np.save(sys.argv[3], model(low)[0])
"""


@pytest.mark.parametrize("plain", [False, True])
@pytest.mark.parametrize("name", ["compact", pytest.param("reference", marks=pytest.mark.slow)])
def test_onnx_in_two_programs(tmp_path: Path, name: str, plain: bool) -> None:
    """ONNX Runtime and OpenVINO read the file, for three pictures at once. A plain file has no GatherND or Gather."""
    import onnx
    import onnxruntime

    source = SHIPPED
    if name == "reference":
        source = tmp_path / "mine.pt"
        torch.manual_seed(1)
        save_weights(source, Upsampler(), {"model_args": {}, "factor": 2})
    path = tmp_path / "a.onnx"
    assert main(["export", str(source), "-o", str(path), *(["--plain"] if plain else [])]) == 0
    kinds = {node.op_type for node in onnx.load(path).graph.node}
    assert ("GatherND" in kinds or "Gather" in kinds) == (name == "reference" and not plain)
    low = photo(52, 36).repeat(3, 1, 1, 1).numpy() * np.float32([1, 0.5, 0.2])[:, None, None, None]
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    (high,) = session.run(None, {"low": low})
    assert high.shape == (3, 3, 72, 104)
    if not plain or name == "compact":
        with torch.no_grad():
            assert np.abs(high - Chain([load_weights(source)[0]])(torch.from_numpy(low)).numpy()).max() < 1e-4
    needs("openvino")
    np.save(tmp_path / "low.npy", low)
    # In a process that has imported OpenVINO, forked processes close the streams of pytest.
    subprocess.run([sys.executable, "-c", READ, path, tmp_path / "low.npy", tmp_path / "high.npy"], check=True)
    assert np.abs(np.load(tmp_path / "high.npy") - high).max() < 1e-4


def test_plain_belongs_to_onnx(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["export", str(SHIPPED), "--plain", "-o", str(tmp_path / "a.pth")]) == 2
    assert "--plain must go with ONNX; got spandrel." in capsys.readouterr().err


def test_card(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The card holds the fields that OpenModelDB requires, and the size and hash of the file."""
    words = ["export", str(SHIPPED), "-o", str(tmp_path / "a.pth"), "--card", str(tmp_path / "a.json")]
    assert main(words) == 2
    assert "--author NAME" in capsys.readouterr().err
    assert main([*words, "--author", "Jane Doe"]) == 2
    assert "--author must be letters, digits and single hyphens" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())
    assert main([*words, "--author", "jane-doe", "--license", "MIT"]) == 0
    card, made = json.loads((tmp_path / "a.json").read_text()), (tmp_path / "a.pth").read_bytes()
    given = {name: card[name] for name in ("name", "author", "license", "architecture", "size", "scale", "images")}
    assert given == {
        "name": "compact-upscaler-64to128", "author": "jane-doe", "license": "MIT", "architecture": "compact",
        "size": ["50nf", "6nc"], "scale": 2, "images": [],
    }  # fmt: skip
    assert (card["inputChannels"], card["outputChannels"]) == (3, 3)
    assert card["tags"]
    assert card["trainingIterations"] == load_weights(SHIPPED)[1]["steps"]
    assert "research and education" in card["description"]
    resource = {"platform": "pytorch", "type": "pth", "size": len(made), "sha256": sha256(made).hexdigest(), "urls": []}
    assert card["resources"] == [resource]


@pytest.mark.parametrize("name", ["a.safetensors", "a.pth"])
def test_a_full_disk(
    tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def full(self: Path, *_: object, **__: object) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    assert main(["export", str(SHIPPED), "--format", "spandrel", "-o", str(tmp_path / name)]) == 2
    assert "cannot be written: No space left on device" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())
