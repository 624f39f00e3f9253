"""The models that are shipped with the package: found by name, the default, better than Lanczos, in the wheel."""

import re
import shutil
import subprocess
import sys
import sysconfig
import venv
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import ROOT, Run, picture
from PIL import Image

from upscale_lit import Upscaler, shipped
from upscale_lit.cli import main
from upscale_lit.data.sources import sample_photos
from upscale_lit.errors import InputError
from upscale_lit.inference import choose as chains
from upscale_lit.inference.evaluate import baselines
from upscale_lit.metrics import psnr_y
from upscale_lit.resample import downscale, to_float
from upscale_lit.weights import load_weights

ONE = "data.val_pairs=1"
FILES = [file for name in shipped.names() for file in shipped.files(name)]


def test_the_set_is_complete_and_small() -> None:
    assert shipped.names()[0] == "compact"
    assert sum(file.stat().st_size for file in shipped.FOLDER.rglob("*") if file.is_file()) < 6e6
    for name in shipped.names():
        files = {file.name for file in shipped.folder(name).iterdir()}
        stages = ("64to128", "128to256", "256to512", "64to512")
        assert files == {"README.md", *(f"upscaler_{stage}.safetensors" for stage in stages)}


@pytest.mark.parametrize("file", FILES, ids=lambda file: f"{file.parent.name}-{file.stem}")
def test_each_model_is_better_than_lanczos_on_new_photos(file: Path) -> None:
    network, facts = load_weights(file)
    scale = facts["factor"]
    upscaler, lanczos = Upscaler([network], device="cpu"), baselines(scale)["lanczos"]
    ours, theirs = [], []
    for path in sample_photos()[1]:
        with Image.open(path) as image:
            high = torch.from_numpy(np.array(image.convert("RGB"))).permute(2, 0, 1)[None]
        high = high[..., : high.shape[-2] // scale * scale, : high.shape[-1] // scale * scale]
        low = downscale(high, scale)
        ours.append(psnr_y(upscaler.tensor(low), high, scale).item())
        theirs.append(psnr_y(lanczos(low, None), high, scale).item())
    assert np.mean(ours) > np.mean(theirs) + 0.3


@pytest.mark.parametrize("file", FILES, ids=lambda file: f"{file.parent.name}-{file.stem}")
def test_flat_areas_stay_flat(file: Path) -> None:
    """Flat areas get no checkerboard (0.5 grey levels inside) and no shift of colour (0.5 inside, 1.6 at the borders).

    At 8x, the colours next to the borders are off by at most 2 grey levels, and saturated ones by at most 8.
    """
    upscaler = Upscaler([load_weights(file)[0]], device="cpu", fp32=True)
    some = [(0, 0, 0), (255, 255, 255), (128, 128, 128), (255, 0, 0), (0, 0, 255), (30, 90, 160), (220, 180, 120)]
    for colour in torch.tensor(some)[:, None, :, None, None] / 255:
        high = upscaler.tensor(colour.expand(-1, -1, 40, 40))
        saturated = set(colour.unique().tolist()) == {0, 1}
        allowed = 1.6 if upscaler.factor == 2 else 8 if saturated else 2
        assert 255 * (high - colour).abs().max() < allowed
        inside = high[..., 12 * upscaler.factor : -12 * upscaler.factor, 12 * upscaler.factor : -12 * upscaler.factor]
        assert 255 * (inside.amax((2, 3)) - inside.amin((2, 3))).max() < 0.5
        assert 255 * (inside - colour).abs().max() < 0.5


@pytest.mark.parametrize("slope", [0, 0.5])
@pytest.mark.parametrize("file", FILES, ids=lambda file: f"{file.parent.name}-{file.stem}")
def test_edges_are_sharper_and_do_not_ring(file: Path, slope: float) -> None:
    """An edge from 60 to 200 overshoots at most 3 grey levels more than Lanczos, with 2/3 of the error of bicubic."""
    network, facts = load_weights(file)
    scale, inner = facts["factor"], (..., slice(16, -16), slice(16, -16))
    y, x = torch.meshgrid(torch.arange(128), torch.arange(128), indexing="ij")
    high = torch.where(x + slope * (y - 64) < 64 + scale / 3, 60, 200).byte().expand(1, 3, -1, -1).contiguous()
    low = downscale(high, scale)
    methods = baselines(scale) | {"ours": Upscaler([network], device="cpu").tensor}
    made = {name: 255 * to_float(method(low, None))[inner] for name, method in methods.items()}
    overshoot = {name: max(60 - values.min(), values.max() - 200) for name, values in made.items()}
    error = {name: (values - high[inner]).abs().mean() for name, values in made.items()}
    assert overshoot["ours"] < overshoot["lanczos"] + 3
    assert error["ours"] < 2 / 3 * error["bicubic"]


@pytest.mark.parametrize("scale", [2, 4, 8])
def test_upscaling_needs_no_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], scale: int
) -> None:
    monkeypatch.chdir(tmp_path)
    picture(40, 30).save("a.png")
    assert main(["upscale", "a.png", "-s", str(scale)]) == 0
    with Image.open(f"a_x{scale}.png") as image:
        assert image.size == (40 * scale, 30 * scale)
    assert str(shipped.FOLDER / "compact") in capsys.readouterr().out
    assert Upscaler.load(scale=scale).factor == scale


def test_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    stages = ["64to128", "64to512", "128to256", "256to512"]
    assert [network.stage for network in chains.find([Path("compact")])] == stages
    Path("compact").mkdir()
    with pytest.raises(InputError, match=r"in compact\. Train a network"):  # a folder of that name comes first
        chains.find([Path("compact")])


def test_the_list(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["models"]) == 0
    lines = capsys.readouterr().out.splitlines()
    for file in FILES:
        (line,) = [line for line in lines if f"| {file.parent.name} " in line and file.stem in line]
        assert re.search(r"\d\d\.\d\d", line)


def test_training_starts_from_them(run: Callable[..., Run], tmp_path: Path) -> None:
    result = run("model=compact", "model.weights=compact", "train=false")
    assert result.code == 0, result.stderr
    assert result.metrics["val/gain"] > 0.5
    stack = run("model=compact", "model.weights=compact", "stage=64to512", "train=false", ONE, name="stack")
    assert stack.code == 0, stack.stderr
    assert stack.metrics["val/gain"] > 0.3
    for origin in (result.metrics["weights"], stack.metrics["checkpoints"]["upsample_64"]):
        assert Path(origin["path"]).is_relative_to(shipped.FOLDER)


def test_resuming_needs_no_weights_file(run: Callable[..., Run], tmp_path: Path) -> None:
    file = Path(shutil.copy(FILES[0], tmp_path / "start.safetensors"))
    words = ["stage=128to256", "model=compact", f"model.weights={file}", ONE]
    begun = run(*words, "trainer.max_steps=1")
    assert begun.code == 0, begun.stderr
    file.unlink()
    result = run(*words, "ckpt_path=last")
    assert result.code == 0, result.stderr
    assert result.metrics["weights"] == begun.metrics["weights"]
    assert result.metrics["weights"]["path"] == str(file)


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["model.weights=compact"], "The file holds a Compact with {'width': 32, 'depth': 6}. Choose this network"),
        (["model=compact", "model.weights=compcat"], "There is neither a file nor a shipped model named 'compcat'"),
        (["model=compact", "model.weights=missing.pt"], "There is no weights file at missing.pt"),
        (
            ["model=compact", "stage=64to512", f"model.weights={FILES[0]}"],
            "must hold the weights of a stack; it holds a Compact.",
        ),
    ],
)
def test_unsuitable_weights_are_refused(run: Callable[..., Run], words: list[str], sentence: str) -> None:
    result = run(*words)
    assert result.code == 2
    assert sentence in result.stderr


@pytest.mark.slow
def test_the_wheel_contains_the_models(tmp_path: Path) -> None:
    """The wheel is installed in a new environment. PyTorch and other large packages come from the present one."""
    leave_out = shutil.ignore_patterns(".*", "outputs", "build", "*.egg-info")
    source = shutil.copytree(ROOT, tmp_path / "source", ignore=leave_out)
    build = [sys.executable, "-m", "pip", "wheel", source, "--no-deps", "--quiet", "--wheel-dir", tmp_path]
    subprocess.run(build, check=True)
    (wheel,) = tmp_path.glob("upscale_lit-*.whl")
    venv.create(tmp_path / "venv", with_pip=True)
    python = tmp_path / "venv" / "bin" / "python"
    subprocess.run([python, "-m", "pip", "install", "--no-deps", "--quiet", wheel], check=True)
    site = subprocess.run(
        [python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"],
        capture_output=True, text=True, check=True,
    ).stdout.strip()  # fmt: skip
    Path(site, "others.pth").write_text(sysconfig.get_path("purelib") + "\n")
    picture(40, 30).save(tmp_path / "a.png")
    words = [tmp_path / "venv" / "bin" / "upscale-lit", "upscale", "a.png", "-s", "8"]
    done = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert f"{site}/upscale_lit/trained/compact/upscaler_64to512.safetensors" in done.stdout
    with Image.open(tmp_path / "a_x8.png") as image:
        assert image.size == (320, 240)
