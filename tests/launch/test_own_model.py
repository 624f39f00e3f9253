"""Your own network, as CONTRIBUTING.md shows it: a class and a YAML file are enough for all commands."""

import re
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import ROOT, Run, picture
from PIL import Image

from upscale_lit import models
from upscale_lit.cli import main
from upscale_lit.errors import InputError
from upscale_lit.models import registry

Runner = Callable[..., Run]


@pytest.fixture
def mine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Write the two files of the recipe to a folder on Python's search path."""
    text = (ROOT / "CONTRIBUTING.md").read_text()
    code = next(code for code in re.findall(r"```python\n(.*?)```", text, re.DOTALL) if "class Mine" in code)
    (settings,) = re.findall(r"```yaml\n# conf/model/mine\.yaml\n(.*?)```", text, re.DOTALL)
    (tmp_path / "mine.py").write_text(code)
    (tmp_path / "conf" / "model").mkdir(parents=True)
    (tmp_path / "conf" / "model" / "mine.yaml").write_text(settings)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "mine", raising=False)
    monkeypatch.setattr(registry, "MODELS", dict(registry.MODELS))
    return tmp_path


@pytest.mark.slow
def test_as_the_recipe_shows(
    mine: Path, run: Runner, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    own = f"--config-dir={mine / 'conf'}"
    for stage in models.STAGES.values():
        result = run(own, "model=mine", f"stage={stage}", name=stage)
        assert result.code == 0, result.stderr
        assert result.metrics["model"] == "Mine"
    stack = run(own, "model=mine", "stage=64to512", "data.crop=64", name="stack")
    assert stack.code == 0, stack.stderr
    assert stack.metrics["model_args"]["upsample_64"]["model"] == "Mine"

    started = run(own, "model=mine", f"model.weights={mine / 'checkpoints' / 'upscaler_64to128.pt'}", name="started")
    assert started.code == 0, started.stderr

    monkeypatch.setattr(registry, "MODELS", {key: registry.MODELS[key] for key in registry.MODELS if key != "Mine"})
    picture(20, 30).save(mine / "a.png")
    words = ["upscale", "a.png", "-m", "checkpoints", "-s", "8"]
    capsys.readouterr()
    assert main(words) == 2
    assert "There is no network named 'Mine';" in capsys.readouterr().err
    assert main([*words, "--network", "mine.Mine"]) == 0
    with Image.open("a_x8.png") as image:
        assert image.size == (160, 240)


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("nowhere.Mine", "The network nowhere.Mine cannot be imported: No module named 'nowhere'"),
        ("mine.Yours", "cannot be imported: module 'mine' has no attribute 'Yours'"),
        ("Mine", "The network Mine cannot be imported: "),
        ("torch.nn.functional.relu", "must be a network class, a subclass of torch.nn.Module; got <function relu"),
        ("torch.nn.Upsample", None),
    ],
)
def test_names_that_are_not_networks(mine: Path, name: str, sentence: str | None) -> None:
    if sentence is None:
        models.know(name)
        return
    with pytest.raises(InputError, match=re.escape(sentence)):
        models.know(name)


def test_a_name_that_is_taken(mine: Path) -> None:
    (mine / "mine.py").write_text("from torch import nn\n\n\nclass Upsampler(nn.Module):\n    pass\n")
    with pytest.raises(InputError, match=r"A network named Upsampler exists already: give mine\.Upsampler"):
        models.know("mine.Upsampler")


def test_a_missing_class(run: Runner) -> None:
    result = run("model._target_=nowhere.Mine")
    assert result.code == 2
    assert "The network nowhere.Mine cannot be imported" in result.stderr
