"""The four recipes of CONTRIBUTING.md, run as they are written. Each is a class and a YAML file outside the package."""

import re
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import ROOT, Run, picture

from upscale_lit.models import registry

Runner = Callable[..., Run]
TEXT = (ROOT / "CONTRIBUTING.md").read_text()
RECIPES = {
    "loss": ["loss=gradients", "loss.weight=0.3"],
    "model": ["model=mine", "model.width=4"],
    "data": ["data=arrays", "data.path=photos.npy"],
    "degradation": ["degradation=posterize", "degradation.most=16"],
}
CHANGED = {
    "loss": ("loss.weight=0.5", "belongs to a run with loss.weight=0.3"),
    "model": ("model.width=8", "belongs to a run with model.width=4"),
    "data": ("data.path=others.npy", "photos=12 in photos.npy"),
    "degradation": ("degradation.most=8", "belongs to a run with degradation.most=16"),
}


@pytest.fixture
def mine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Path]:
    """Return a function that writes the files of a recipe to the working folder.

    The function returns the folder for --config-dir.
    """

    def write(group: str) -> Path:
        (settings,) = re.findall(rf"```yaml\n# conf/{group}/(\w+)\.yaml\n(.*?)```", TEXT, re.DOTALL)
        name = re.search(r"_target_: mine\.(\w+)", settings[1])
        assert name
        code = next(code for code in re.findall(r"```python\n(.*?)```", TEXT, re.DOTALL) if f"class {name[1]}" in code)
        (tmp_path / "mine.py").write_text(code)
        (tmp_path / "conf" / group).mkdir(parents=True)
        (tmp_path / "conf" / group / f"{settings[0]}.yaml").write_text(settings[1])
        return tmp_path / "conf"

    monkeypatch.delitem(sys.modules, "mine", raising=False)
    monkeypatch.setattr(registry, "MODELS", dict(registry.MODELS))
    for name in ("photos", "others"):
        arrays = np.stack([np.array(picture(72, 64, seed)) for seed in range(12)])
        np.save(tmp_path / f"{name}.npy", arrays)
    return write


@pytest.mark.parametrize("group", RECIPES)
def test_trains_and_resumes(group: str, mine: Callable[[str], Path], run: Runner) -> None:
    words = [f"--config-dir={mine(group)}", *RECIPES[group], "optimizer.schedule=constant"]
    whole = run(*words, "trainer.max_epochs=2", name="whole")
    assert whole.code == 0, whole.stderr
    assert whole.metrics["steps"] == 4
    plain = run("optimizer.schedule=constant", "trainer.max_epochs=2", name="plain")
    half = run(*words, "trainer.max_epochs=1", name="half")
    assert half.metrics["steps"] == 2
    refused = run(*words, "trainer.max_epochs=2", "ckpt_path=last", CHANGED[group][0], name="half")
    assert refused.code == 2
    assert CHANGED[group][1] in refused.stderr
    resumed = run(*words, "trainer.max_epochs=2", "ckpt_path=last", name="half")
    assert resumed.code == 0, resumed.stderr
    ends = [
        torch.load(each.folder / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]
        for each in (whole, resumed, plain)
    ]
    assert all(torch.equal(value, ends[1][name]) for name, value in ends[0].items())
    assert ends[0].keys() != ends[2].keys() or any(
        not torch.equal(value, ends[2][name]) for name, value in ends[0].items()
    )


def test_the_document_shows_the_tested_commands() -> None:
    for words in RECIPES.values():
        assert f"python train.py --config-dir=conf {words[0]}" in TEXT


def test_a_source_in_worker_processes(mine: Callable[[str], Path], run: Runner) -> None:
    words = [f"--config-dir={mine('data')}", *RECIPES["data"]]
    here, there = run(*words, name="here"), run(*words, "data.num_workers=2", name="there")
    assert there.code == 0, there.stderr
    assert here.metrics["val/psnr"] == there.metrics["val/psnr"]


@pytest.mark.parametrize("group", ["loss", "degradation"])
def test_a_yaml_file_in_the_earlier_form(group: str, tmp_path: Path, run: Runner) -> None:
    """The earlier form was `loss: l1` at the top level of a YAML file. The error shows the present form."""
    (tmp_path / "conf" / "experiment").mkdir(parents=True)
    (tmp_path / "conf" / "experiment" / "mine.yaml").write_text(f"# @package _global_\n{group}: name\n")
    result = run(f"--config-dir={tmp_path / 'conf'}", "experiment=mine")
    assert result.code == 2
    assert f"defaults: [override /{group}: name]" in result.stderr


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["loss=psnr"], "error: loss must be one of charbonnier, l1, luma_l1, mse; got 'psnr'."),
        (["-m", "loss=l1,psnr"], "error: loss must be one of charbonnier, l1, luma_l1, mse; got 'psnr'."),
        (["degradation=jpg"], "error: degradation must be one of blur_noise, jpeg, none, photo; got 'jpg'."),
        (["model=tiny"], "error: model must be one of compact, compact_8x, compact_large, upsampler; got 'tiny'."),
        (["stage.inputs=augmented"], "give degradation=blur_noise"),
        (["stage.inputs=augmented", "stage.blur=0.3"], "give degradation=blur_noise degradation.blur="),
        (["stage.noise=2"], "give degradation=blur_noise degradation.noise="),
        (["data.crp=64"], "Key 'crp' is not in struct"),
        (["loss._target_=nowhere.Loss"], "loss._target_=nowhere.Loss must name a class or a function"),
        (["+loss.weight=2"], "loss does not fit torch.nn.MSELoss"),
    ],
)
def test_errors_explain_wrong_choices(words: list[str], sentence: str, run: Runner) -> None:
    result = run(*words)
    assert result.code == 2
    assert sentence in result.stderr
    assert "Traceback" not in result.stderr
