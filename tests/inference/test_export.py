import json
import shlex
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import picture
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load_file, save, save_file

from upscale_lit import Upscaler, shipped
from upscale_lit.cli import main
from upscale_lit.inference import export, formats
from upscale_lit.inference.tiling import Chain
from upscale_lit.models import Upsampler
from upscale_lit.weights import load_weights, save_weights


@pytest.fixture
def weights(tmp_path: Path, networks: Path) -> Path:
    for path in networks.glob("*.pt"):
        (tmp_path / path.name).write_bytes(path.read_bytes())
    shutil.copytree(shipped.folder("compact"), tmp_path / "compact")
    return tmp_path


@pytest.mark.parametrize(
    ("name", "stage", "factor"),
    [
        ("upscaler_64to128.pt", "64to128", 2),
        pytest.param("upscaler_64to512.pt", "64to512", 8, marks=pytest.mark.slow),
        ("compact/upscaler_64to512.safetensors", "64to512", 8),
    ],
)
def test_onnx(weights: Path, name: str, stage: str, factor: int, capsys: pytest.CaptureFixture[str]) -> None:
    import onnx
    import onnxruntime

    assert main(["export", str(weights / name)]) == 0
    path = (weights / name).with_name(f"upscaler_{stage}_x{factor}.onnx")
    said = capsys.readouterr().out.splitlines()[-1]  # the exporter may log other lines before it
    assert said.startswith(f"{path}: the output of the written file differs by at most ")
    model = onnx.load(path)
    onnx.checker.check_model(model)
    facts = {prop.key: prop.value for prop in model.metadata_props}
    assert facts["scale"] == str(factor)
    assert json.loads(facts["upscale_lit"])["stage"] == stage
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    chain = Chain([load_weights(weights / name)[0]])  # the Upscaler also keeps the brightness, which a file does not
    for height, width in ((1, 1), (37, 21), (16, 90), (5, 3)):
        low = torch.from_numpy(np.array(picture(width, height), dtype=np.float32)).permute(2, 0, 1)[None] / 255
        low = low * 1.4 - 0.2 if height == 37 else low  # values outside [0, 1], which are clamped
        (high,) = session.run(None, {"low": low.numpy()})
        assert high.shape == (1, 3, factor * height, factor * width)
        assert 0 <= high.min() <= high.max() <= 1
        assert np.abs(high - chain(low).detach().numpy()).max() < 1e-4


def test_safetensors(weights: Path, tmp_path: Path) -> None:
    assert main(["export", str(weights / "upscaler_64to512.pt"), "--format", "safetensors"]) == 0
    target = weights / "upscaler_64to512_x8.safetensors"
    assert main(["export", str(target), "-o", str(tmp_path / "again, by name.safetensors")]) == 0
    with safe_open(target, "pt") as file:
        assert file.metadata()["scale"] == "8"
    state, (model, facts) = load_file(target), load_weights(weights / "upscaler_64to512.pt")
    assert all(torch.equal(state[name], value) for name, value in model.state_dict().items())
    assert len(state) == len(model.state_dict())
    again, more = load_weights(target)
    assert type(again) is type(model)
    assert {**more, "sha256": ""} == {**facts, "sha256": ""}
    image = picture(20, 11)
    big = [np.asarray(Upscaler.load(path)(image)) for path in (target, weights / "upscaler_64to512.pt")]
    assert np.array_equal(*big)


def test_safetensors_of_another_network(tmp_path: Path) -> None:
    save_file(Upsampler().state_dict(), tmp_path / "plain.safetensors")  # without facts: a reference network
    assert Upscaler.load(tmp_path / "plain.safetensors").factor == 2
    save_file({"a": torch.zeros(3)}, tmp_path / "other.safetensors")
    (tmp_path / "cut.safetensors").write_bytes((tmp_path / "plain.safetensors").read_bytes()[:5000])
    assert main(["export", str(tmp_path / "other.safetensors")]) == 2
    assert main(["export", str(tmp_path / "cut.safetensors")]) == 2
    assert not list(tmp_path.glob("*.onnx"))


def test_safetensors_of_trained_weights(tmp_path: Path) -> None:
    """The exported file keeps the statistics of BatchNorm."""
    model = Upsampler("random", "batch")
    model.fw[1].running_mean += 1
    save_weights(tmp_path / "w.pt", model, {"model_args": {"start": "random", "batch_norm": "batch"}, "factor": 2})
    export.export(tmp_path / "w.pt", tmp_path / "w.safetensors")
    assert torch.equal(load_weights(tmp_path / "w.safetensors")[0].fw[1].running_mean, model.fw[1].running_mean)  # type: ignore[index, union-attr]


def test_without_the_extra(weights: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    assert main(["export", str(weights / "upscaler_64to128.pt")]) == 2
    error = capsys.readouterr().err
    assert 'The format onnx needs onnxscript, which is not installed: pip install "upscale-lit[onnx]"' in error
    assert not list(weights.glob("*.onnx"))
    assert main(["export", str(weights / "upscaler_64to128.pt"), "-o", str(weights / "a.safetensors")]) == 0


def test_an_export_that_differs_is_not_written(weights: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = sorted(weights.iterdir())
    monkeypatch.setattr(formats, "save", lambda state, facts: save(
        {name: value * 1.01 for name, value in state.items()}, facts
    ))  # fmt: skip
    with pytest.raises(export.InputError, match=r"a\.safetensors is not written: its output differs .* by 0\.\d+\."):
        export.export(weights / "upscaler_64to128.pt", weights / "a.safetensors")
    assert sorted(weights.iterdir()) == before


@pytest.mark.parametrize(("words", "message"), [
    (["-o", "a.tflite"], "must end in .onnx or .safetensors or .pth or .param, or be an existing folder;"),
    (["-o", "file/a.safetensors"], "file/a.safetensors cannot be written"),
])  # fmt: skip
def test_wrong_commands(
    weights: Path, words: list[str], message: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(weights)
    (weights / "file").touch()
    assert main(["export", "upscaler_64to128.pt", *words]) == 2
    assert message in capsys.readouterr().err


def test_names_that_export_accepts(
    weights: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A run folder with one weights file is accepted, in any letter case. For several files, a command for each."""
    monkeypatch.chdir(weights)
    (weights / "run").mkdir()
    (weights / "empty").mkdir()
    (weights / "run" / "UPSCALER_64to128.PT").write_bytes((weights / "upscaler_64to128.pt").read_bytes())
    assert main(["export", "run", "-o", "m.SafeTensors"]) == 0
    assert Upscaler.load("m.SafeTensors").factor == Upscaler.load("run").factor == 2
    capsys.readouterr()
    shutil.rmtree("compact")  # a folder of this name comes before the shipped model
    for place, files in (
        ("compact", shipped.files("compact")),
        ("..", []),
        (".", sorted(weights.glob("upscaler*.pt"))),
    ):
        assert main(["export", place, "-o", "n.safetensors"]) == 2
        lines = capsys.readouterr().err.splitlines()
        commands = {shlex.split(line)[-1] for line in lines if line.startswith("upscale-lit export ")}
        assert {Path(command).resolve() for command in commands} == set(files)
    for place, message in (
        ("empty", "There is no weights file"), ("none", "neither a file nor a shipped model named 'none'"),
        ("none.pt", "There is no weights file at none.pt"),
    ):  # fmt: skip
        assert main(["export", place]) == 2
        assert message in capsys.readouterr().err
    assert not Path("n.safetensors").exists()


def test_folders_of_exported_files(weights: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An exported shipped model is written to the working folder. The folder after -o may have any name."""
    monkeypatch.chdir(weights)
    before = sorted(shipped.FOLDER.rglob("*"))
    shipped_file = shipped.files("compact")[0]
    assert main(["export", str(shipped_file), "--format", "safetensors"]) == 0
    (weights / "out.onnx").mkdir()
    for words in (["upscaler_64to128.pt", "-o", "out.onnx"], [str(shipped_file), "-o", "out.onnx/"]):
        assert main(["export", *words, "--format", ".SafeTensors"]) == 0
    assert {path.name for path in weights.glob("*.safetensors")} == {"compact_upscaler_64to128_x2.safetensors"}
    assert {path.name for path in (weights / "out.onnx").iterdir()} == {
        "upscaler_64to128_x2.safetensors", "compact_upscaler_64to128_x2.safetensors",
    }  # fmt: skip
    assert sorted(shipped.FOLDER.rglob("*")) == before


def test_onnx_in_upper_case(weights: Path) -> None:
    import onnx

    assert main(["export", str(weights / "upscaler_64to128.pt"), "-o", str(weights / "m.ONNX")]) == 0
    onnx.checker.check_model(onnx.load(weights / "m.ONNX"))


def test_a_picture_is_not_a_weights_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Image.new("RGB", (4, 4)).save(tmp_path / "a.png")
    assert main(["export", str(tmp_path / "a.png")]) == 2
    assert "a.png must be a weights file; the file is damaged or of another kind" in capsys.readouterr().err
