"""Runs of an earlier version: they resume, end with the weights of that version, and their weights files load.

The folder old_runs holds files of version 0.1.0 (commit 1790fb8). For each run it holds last.ckpt after three of six
steps, the weights file, and end.pt. The file end.pt is the state_dict of last.ckpt at the end of the run. The folder
also holds the photos and shards of these runs, and a sweep that was killed in its second job.
"""

import json
import shutil
import sys
from pathlib import Path

import pytest
import torch
from conftest import Run, train_here

from upscale_lit import models, weights
from upscale_lit.models import registry
from upscale_lit.training.checkpoints import read_checkpoint

OLD = Path(__file__).parent / "old_runs"
COMMON = [
    "trainer.max_epochs=3", "trainer.enable_progress_bar=false", "trainer.accelerator=cpu", "checkpoint.every_steps=1",
    "data.batch_size=2", "data.examples_per_epoch=4", "data.val_pairs=2", "checkpoints_dir=published",
]  # fmt: skip
FOLDER = ["data=folder", "data.root=photos", "data.cache=null", "data.crop=32"]
NARROW = ["model=compact", "model.width=4", "model.depth=2"]
TWICE = ["trainer.max_epochs=6", "trainer.accumulate_grad_batches=2"]
# Version 0.1.0 called this stage.inputs=augmented.
BLUR_NOISE = ["degradation=blur_noise", "degradation.blur=0.5", "degradation.noise=3"]
KINDS = {
    "compact": [*FOLDER, *NARROW],
    "accumulated": [*FOLDER, *NARROW, "loss=charbonnier", *TWICE, "data.region=[0.5,1]", "data.small=enlarge"],
    "ema": [*FOLDER, *NARROW, "ema=0.9"],
    "augmented": [*FOLDER, *NARROW, "stage=128to256", *BLUR_NOISE],
    "previous": [*FOLDER, *NARROW, "stage=128to256", "stage.inputs=previous"],
    "stack": [*FOLDER, *NARROW, "stage=64to512"],
    "at_once": [*FOLDER, *NARROW, "stage=64to512_at_once"],
    "sharded": [*NARROW, "data=shards", "data.urls=shards", "data.crop=32", "data.uses=1"],
    "own": [*FOLDER, "--config-dir=conf", "model=mine"],
}


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Change to a working folder with the photos, the shards and the network of the old runs."""
    for name in ("photos", "shards"):
        shutil.copytree(OLD / name, tmp_path / name)
    (tmp_path / "conf" / "model").mkdir(parents=True)
    (tmp_path / "conf" / "model" / "mine.yaml").write_text(
        "# @package _global_\nmodel:\n  _target_: mine.Mine\n  width: 4\n"
    )
    shutil.copy(OLD / "mine.py", tmp_path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "mine", raising=False)
    monkeypatch.setattr(registry, "MODELS", dict(registry.MODELS))
    return tmp_path


def train(monkeypatch: pytest.MonkeyPatch, *words: str) -> int:
    given = {word.partition("=")[0]: word for word in words}  # a later word replaces an earlier one
    return train_here(monkeypatch, *given.values())


@pytest.mark.parametrize("kind", KINDS)
def test_resumes_and_ends_as_in_the_earlier_version(kind: str, place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = place / "run"
    (folder / "checkpoints").mkdir(parents=True)
    shutil.copy(OLD / kind / "last.ckpt", folder / "checkpoints")
    assert train(monkeypatch, *COMMON, *KINDS[kind], f"hydra.run.dir={folder}", "ckpt_path=last") == 0
    result = Run(0, folder, "")
    assert "after step 3" in result.log
    assert result.metrics["steps"] == 6
    ours = torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]
    theirs = torch.load(OLD / kind / "end.pt", weights_only=True)
    assert ours.keys() == theirs.keys()
    for name, value in theirs.items():  # the last bits depend on the PyTorch version and the processor
        torch.testing.assert_close(ours[name], value, rtol=0, atol=2e-6)
    start = torch.load(OLD / kind / "last.ckpt", weights_only=True)["state_dict"]
    assert any((ours[name] - value).abs().max() > 5e-6 for name, value in start.items() if value.is_floating_point())


def test_checkpoints_are_converted_to_the_present_form() -> None:
    blurred = read_checkpoint(OLD / "augmented" / "last.ckpt")
    facts = blurred["hyper_parameters"]["facts"]
    assert facts["stage.inputs"] == "photos"
    assert [facts[f"degradation{name}"] for name in ("", ".blur", ".noise")] == ["blur_noise", 0.5, 3.0]
    assert "stage.blur, stage.noise" not in blurred["UpscaleDataModule"]["facts"]
    sharded = read_checkpoint(OLD / "sharded" / "last.ckpt")
    assert sharded["hyper_parameters"]["facts"]["degradation"] == "none"
    assert sharded["UpscaleDataModule"]["batches"] == 1
    assert "ShardDataModule" not in sharded


@pytest.mark.parametrize(
    ("kind", "changed", "belongs"),
    [
        ("compact", "loss=mse", "loss=l1"),
        ("compact", "model.depth=3", "model.depth=2"),
        ("compact", "stage=128to256", "stage=64to128"),
        ("ema", "ema=null", "ema=0.9"),
        ("accumulated", "trainer.accumulate_grad_batches=1", "trainer.accumulate_grad_batches=2"),
        ("previous", "stage.inputs=photos", "stage.inputs=previous"),
        ("stack", "stage.stack=untrained", "stage.stack=trained"),
        ("own", "model.width=8", "model.width=4"),
        ("augmented", "degradation.blur=0.4", "degradation.blur=0.5"),
        ("augmented", "degradation.noise=2", "degradation.noise=3"),
        ("compact", "degradation=blur_noise", "degradation=none"),
        ("compact", "data.small=enlarge", "data.small=skip"),
        ("compact", "data.kernel=bilinear", "data.kernel=bicubic"),
        ("compact", "data.batch_size=4", "data.batch_size=2"),
        ("sharded", "data.uses=2", "photos="),
        ("compact", "data.val_pairs=1", "validation pairs="),
    ],
)
def test_another_run_is_refused(
    kind: str,
    changed: str,
    belongs: str,
    place: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    folder = place / "run"
    (folder / "checkpoints").mkdir(parents=True)
    shutil.copy(OLD / kind / "last.ckpt", folder / "checkpoints")
    assert train(monkeypatch, *COMMON, *KINDS[kind], f"hydra.run.dir={folder}", "ckpt_path=last", changed) == 2
    assert belongs in capsys.readouterr().err


def test_an_unfinished_sweep_resumes(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copytree(OLD / "sweep", place / "sweep")
    before = (place / "sweep" / "0" / "upscaler_64to128.pt").read_bytes()
    words = [*COMMON, *FOLDER, *NARROW[:2], "model.depth=1,2", "hydra.sweep.dir=sweep", "ckpt_path=last", "-m"]
    assert train(monkeypatch, *words) == 0
    assert (place / "sweep" / "0" / "upscaler_64to128.pt").read_bytes() == before
    assert "after step 3" in (place / "sweep" / "1" / "train.log").read_text()
    assert json.loads((place / "sweep" / "1" / "metrics.json").read_text())["steps"] == 6
    assert len((place / "sweep" / "sweep.csv").read_text().splitlines()) == 3


@pytest.mark.parametrize("path", sorted(OLD.glob("*/upscaler_*.pt")), ids=lambda path: path.parent.name)
def test_weights_files_load(path: Path, place: Path) -> None:
    if path.parent.name == "own":
        models.know("mine.Mine")
    model, facts = weights.load_weights(path)
    low = torch.zeros(1, 3, 8, 8)
    assert model(low).shape[-1] == 8 * facts["factor"]
    assert facts["stage"] in path.name
