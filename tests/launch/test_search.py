"""Choices of a user in the folder of --config-dir, modules in the working folder, and the commands that runs print."""

import os
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import ROOT, TINY, Run, user

from upscale_lit.cli import main
from upscale_lit.launch import record
from upscale_lit.launch.search import option_of
from upscale_lit.models import registry
from upscale_lit.program import PROGRAM, STARTED_AS

Runner = Callable[..., Run]
NETWORK = """
from torch import nn


class Mine(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Conv2d(3, 12, 3, padding=1)

    def forward(self, low):
        return nn.functional.pixel_shuffle(self.layer(low), 2)
"""


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Write a network and its YAML file, and a loss with the name of a shipped one. Return the folder of both."""
    (tmp_path / "own.py").write_text(NETWORK)
    files = {"model/mine": "_target_: own.Mine\nweights: null\n", "loss/l1": "_target_: torch.nn.SmoothL1Loss\n"}
    for name, text in files.items():
        path = tmp_path / "choices" / f"{name}.yaml"
        path.parent.mkdir(parents=True)
        path.write_text(text)
    monkeypatch.delitem(sys.modules, "own", raising=False)
    monkeypatch.setattr(registry, "MODELS", dict(registry.MODELS))
    return tmp_path / "choices"


def test_choices_are_added_and_win(run: Runner, own: Path) -> None:
    result = run("--config-dir=choices", "model=mine", "loss=l1")
    assert result.code == 0, result.stderr
    assert result.metrics["model"] == "Mine"
    assert "_target_: torch.nn.SmoothL1Loss" in result.log
    assert f"Files in {own} replace the shipped choices loss=l1\n" in result.log
    refused = run("--config-dir=choices", "model=yours", name="refused")
    assert "model must be one of compact, compact_8x, compact_large, mine, upsampler; got 'yours'." in refused.stderr
    shipped = run("loss=l1", name="shipped")
    assert "_target_: torch.nn.L1Loss" in shipped.log
    assert "shipped choices" not in shipped.log


@pytest.mark.slow
@pytest.mark.parametrize("words", [["-cd", "choices"], ["--config-d", "choices"]], ids=" ".join)
def test_every_spelling_of_the_option(words: list[str], own: Path) -> None:
    result = user(*words, "--cfg", "job", "loss=l1", cwd=own.parent)
    assert "_target_: torch.nn.SmoothL1Loss" in result.stdout, result.stderr
    assert option_of(["-c", "job", "-cn", "name", *words, "loss=l1"]) == "choices"
    assert option_of(["-c", "job", "-cn", "name", "loss=l1"]) is None


def test_folders_that_cannot_be_used(run: Runner, own: Path) -> None:
    missing = run("--config-dir=nowhere")
    assert missing.code == 2
    assert f"error: --config-dir must name a folder of YAML files; got {own.parent}/nowhere." in missing.stderr
    (own / "config.yaml").write_text("seed: 2\n")
    for words in ([], ["--help"], ["--cfg", "job"], ["-m"]):
        refused = run("--config-dir=choices", *words)
        assert refused.code == 2
        assert f"error: --config-dir must name a folder without config.yaml; got {own}." in refused.stderr
        assert f"{own}/experiment/mine.yaml" in refused.stderr
    assert run(f"--config-dir={ROOT / 'conf'}", "train=false", name="shipped").code == 0


@pytest.mark.slow
def test_a_file_in_the_working_folder_replaces_no_library(run: Runner, tmp_path: Path) -> None:
    (tmp_path / "hydra.py").write_text("raise SystemExit(3)\n")
    assert user("--cfg", "job", cwd=tmp_path).returncode == 0


def test_printed_commands_name_the_program_and_its_options(
    run: Runner, own: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def next_stage(result: Run) -> list[str]:
        (line,) = (line for line in result.log.splitlines() if "Next stage" in line)
        return shlex.split(line.partition("Next stage")[2])

    words = ["--config-dir=choices", "model=mine"]
    python = next_stage(run(*words, name="python"))
    assert python[:4] == ["python", str(ROOT / "train.py"), "--config-dir=choices", "stage=128to256"]
    assert "model=mine" in python
    monkeypatch.setenv(STARTED_AS, "upscale-lit train")
    console = next_stage(run(*words, name="console"))
    assert console == ["upscale-lit", "train", *python[2:]]
    followed = run(*(word for word in console[2:] if "=" in word), name="followed")
    assert followed.code == 0, followed.stderr
    assert followed.metrics["stage"] == "128to256"
    stack = run(*words, "stage=64to512", name="stack")
    assert "Train this stage with `upscale-lit train --config-dir=choices stage=256to512 " in stack.stderr


@pytest.mark.slow
def test_the_command_line_runs_train_py(own: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The command starts train.py as Python does. Only the name of the program in printed commands differs."""
    env = {**os.environ, "COLUMNS": "200"}
    console = [sys.executable, "-m", "upscale_lit", "train"]
    for words in (["--help"], ["--cfg", "job", "--config-dir=choices", "model=mine"], ["stage=none"], ["-m", "seed"]):
        done = subprocess.run([*console, *words], cwd=own.parent, env=env, capture_output=True, text=True, timeout=300)
        expected = user(*words, cwd=own.parent)
        assert done.returncode == expected.returncode
        assert done.stderr == expected.stderr
        ours = done.stdout.replace("upscale-lit train", "python train.py")
        assert ours == expected.stdout.replace("upscale-lit train", "python train.py")
        assert words != ["--help"] or "\n  upscale-lit train stage=128to256  " in done.stdout


def test_the_listed_commands(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["--help"])
    assert "train a network; upscale-lit train --help lists all options" in " ".join(capsys.readouterr().out.split())


@pytest.mark.slow
@pytest.mark.parametrize("words", [
    ["-m", "seed=1,2", "hydra/launcher=joblib", "hydra.launcher.n_jobs=2", "hydra.sweep.dir=out"],
    ["-m", "seed=1,2", "hydra/launcher=submitit_local", "hydra.sweep.dir=out"],
    ["trainer=ddp", "trainer.devices=2", "hydra.run.dir=out"],
], ids=["joblib", "submitit", "ddp"])  # fmt: skip
def test_a_network_in_the_working_folder_in_several_processes(own: Path, words: list[str]) -> None:
    env = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    command = [sys.executable, "-m", "upscale_lit", "train", "--config-dir=choices", *words, "model=mine", *TINY]
    done = subprocess.run(command, cwd=own.parent, env=env, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert list((own.parent / "out").rglob("upscaler_64to128.pt"))


def test_the_commit_is_that_of_the_program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    git = ["git", "-c", "user.name=a", "-c", "user.email=a@b", "-C", str(tmp_path)]
    subprocess.run([*git, "init", "-q"], check=True)
    for place in (tmp_path, tmp_path / "environment" / "top"):
        place.mkdir(parents=True, exist_ok=True)
        shutil.copy(PROGRAM, place)
        monkeypatch.setattr(record, "PROGRAM", place / "train.py")
        assert record.commit() == ""  # nothing is committed yet
    subprocess.run([*git, "add", "."], check=True)
    subprocess.run([*git, "commit", "-q", "-m", "a"], check=True)
    assert record.commit() == ""
    monkeypatch.setattr(record, "PROGRAM", tmp_path / "train.py")
    head = subprocess.run([*git, "rev-parse", "HEAD"], check=True, capture_output=True, text=True).stdout
    assert record.commit() == f", commit {head[:12]}"
    (tmp_path / "more").touch()
    assert record.commit() == f", commit {head[:12]} with uncommitted changes"
