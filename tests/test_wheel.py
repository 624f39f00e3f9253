"""The package as users install it: the sdist and the wheel are built, and the wheel runs without the clone."""

import os
import re
import subprocess
import sys
import sysconfig
import tarfile
import venv
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import ROOT, TINY, extra, picture
from PIL import Image

Program = Callable[..., str]
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build the sdist, and the wheel from the sdist. Return their folder."""
    extra("build", "twine")
    folder = tmp_path_factory.mktemp("dist")
    subprocess.run([sys.executable, "-m", "build", "--outdir", folder, ROOT], cwd=folder, check=True)
    return folder


@pytest.fixture(scope="module")
def scripts(built: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Install the wheel into a new environment, inside the work tree of another project. Return its folder of programs.

    The environment takes the libraries from the environment of the tests, which saves the download of PyTorch. The
    editable install of the clone stays invisible, because Python reads no .pth files in folders that a .pth file names.
    """
    project = tmp_path_factory.mktemp("project")
    git = ["git", "-c", "user.name=a", "-c", "user.email=a@b", "-C", str(project)]
    subprocess.run([*git, "init", "-q"], check=True)
    subprocess.run([*git, "commit", "-q", "--allow-empty", "-m", "a"], check=True)
    environment = project / "environment"
    venv.create(environment)
    python = environment / "bin" / "python"
    (packages,) = environment.glob("lib/python*/site-packages")
    (packages / "libraries.pth").write_text(f"{sysconfig.get_path('purelib')}\n{sysconfig.get_path('platlib')}\n")
    (wheel,) = built.glob("*.whl")
    pip = [sys.executable, "-m", "pip", "--python", str(python), "install", "--quiet", "--no-deps", str(wheel)]
    subprocess.run(pip, check=True)
    return python.parent


@pytest.fixture
def installed(scripts: Path, tmp_path: Path) -> Program:
    """Return a function that runs a program of the new environment in a new folder and returns its output."""
    env = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "CI")}
    env |= {"COLUMNS": "200", "XDG_CACHE_HOME": str(tmp_path / "cache")}

    def run(name: str, *words: str) -> str:
        command = [str(scripts / name), *words]
        done = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True, timeout=300)
        assert done.returncode == 0, done.stderr
        return done.stdout

    return run


def test_the_index_accepts_both_files(built: Path) -> None:
    files = sorted(map(str, built.iterdir()))
    assert [Path(file).suffix for file in files] == [".whl", ".gz"]
    subprocess.run([sys.executable, "-m", "twine", "check", "--strict", *files], check=True)


def test_the_sdist_is_complete(built: Path) -> None:
    (path,) = built.glob("*.tar.gz")
    with tarfile.open(path) as file:
        found = {name.partition("/")[2] for name in file.getnames()}
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert {"train.py", "conf/config.yaml", "tests/conftest.py", "tests/benchmarks/README.md"} <= found
    assert set(listed.split("\n")) - {""} <= found


def test_the_wheel_has_the_configuration_of_the_clone(built: Path) -> None:
    (path,) = built.glob("*.whl")
    with zipfile.ZipFile(path) as file:
        top = {name.removeprefix("upscale_lit/top/"): name for name in file.namelist() if "/top/" in name}
        contents = {name: file.read(member) for name, member in top.items()}
    expected = ["train.py", *(str(path.relative_to(ROOT)) for path in (ROOT / "conf").rglob("*.yaml"))]
    assert {name: contents.get(name) for name in expected} == {name: (ROOT / name).read_bytes() for name in expected}


def test_the_clone_is_invisible(installed: Program, scripts: Path) -> None:
    where = installed("python", "-c", "import sys, upscale_lit.program as p; print(p.PROGRAM, *sys.path, sep='\\n')")
    program, *folders = where.splitlines()
    assert Path(program).is_relative_to(scripts.parent)
    assert ROOT.resolve() not in [Path(folder).resolve() for folder in folders if folder]


def test_pictures(installed: Program, tmp_path: Path) -> None:
    (tmp_path / "set").mkdir()
    picture(40, 30).save(tmp_path / "set" / "a.png")
    installed("upscale-lit", "upscale", "set/a.png", "--html")
    with Image.open(tmp_path / "set" / "a_x2.png") as image:
        assert image.size == (80, 60)
    assert "| upscaler_64to128 " in installed("upscale-lit", "evaluate", "set", "-s", "2")


def test_a_run(installed: Program, tmp_path: Path) -> None:
    assert "upscale-lit train stage=128to256" in installed("upscale-lit", "train", "--help")
    assert "name: 128to256" in installed("upscale-lit", "train", "--cfg", "job", "stage=128to256")
    out = installed("upscale-lit", "train", *TINY, "trainer.max_steps=2", "model=compact")
    assert "Next stage    upscale-lit train stage=128to256" in out
    (log,) = tmp_path.glob("outputs/64to128/*/train.log")
    assert ", seed 1" in log.read_text()
    assert f"Command in {tmp_path}: upscale-lit train trainer.max_epochs=2" in log.read_text()
    assert ", commit" not in log.read_text()
    assert {path.name for path in tmp_path.iterdir()} <= {"outputs", "cache"}
    installed("upscale-lit", "export", "outputs/checkpoints/upscaler_64to128.pt", "-o", "small.safetensors")
    assert (tmp_path / "small.safetensors").exists()


@pytest.mark.parametrize("words", [
    ["-m", "seed=1,2"],
    ["-m", "seed=1,2", "hydra/launcher=joblib", "hydra.launcher.n_jobs=2"],
    ["trainer=ddp", "trainer.devices=2"],
], ids=["sweep", "joblib", "ddp"])  # fmt: skip
def test_your_own_network(installed: Program, tmp_path: Path, words: list[str]) -> None:
    """The two files of PACKAGE.md are enough."""
    text = (ROOT / "upscale_lit" / "PACKAGE.md").read_text()
    (code,) = re.findall(r"```python\n# mine\.py\n(.*?)```", text, re.DOTALL)
    (settings,) = re.findall(r"```yaml\n# conf/model/mine\.yaml\n(.*?)```", text, re.DOTALL)
    (tmp_path / "conf" / "model").mkdir(parents=True)
    (tmp_path / "mine.py").write_text(code)
    (tmp_path / "conf" / "model" / "mine.yaml").write_text(settings)
    out = installed("upscale-lit", "train", "--config-dir=conf", *words, "model=mine", *TINY, "trainer.max_steps=2")
    assert "| seed | val/psnr |" in out if "-m" in words else "upscale-lit train --config-dir=conf stage=128" in out
    picture(40, 30).save(tmp_path / "a.png")
    installed("upscale-lit", "upscale", "a.png", "-m", "outputs/checkpoints", "--network", "mine.Mine")
    assert (tmp_path / "a_x2.png").exists()
