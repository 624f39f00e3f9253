import re
import shlex
from types import SimpleNamespace
from typing import Any

import pytest
from pytorch_lightning.callbacks import RichProgressBar
from rich.console import Console
from rich.progress import Progress as RichProgress

from upscale_lit.training import report
from upscale_lit.training.report import Progress, wrapped


def test_the_progress_bar_updates_short_names_every_tenth_step(monkeypatch: pytest.MonkeyPatch) -> None:
    logged = {"train/loss": 0.5, "val/psnr": 30.0, "v_num": 3}
    monkeypatch.setattr(RichProgressBar, "get_metrics", lambda *args: dict(logged))
    group = {"lr": 1e-3}
    trainer: Any = SimpleNamespace(global_step=10, training=True, optimizers=[SimpleNamespace(param_groups=[group])])
    bar = Progress()

    def shown() -> dict[str, str]:
        assert bar.get_metrics(trainer, None) == {}  # type: ignore[arg-type]  # Lightning's own column stays empty
        return dict(bar.shown)

    assert list(shown().items()) == [("psnr", "30.00"), ("loss", "0.5000"), ("lr", "1.0e-03")]
    group["lr"], logged["train/loss"] = 2e-3, 0.25
    for step, expected in ((11, "1.0e-03"), (19, "1.0e-03"), (20, "2.0e-03"), (21, "2.0e-03")):
        trainer.global_step = step
        assert shown()["lr"] == expected
    trainer.training, logged["val/psnr"] = False, 31.0
    assert shown()["psnr"] == "31.00"  # not delayed after a validation


@pytest.mark.parametrize("width", [40, 80, 200])
def test_the_progress_bar_has_one_line(width: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """A frame of the bar is one line, with as many values as there is room for."""
    console = Console(width=width, force_terminal=True, color_system=None)
    monkeypatch.setattr(report, "get_console", lambda: console)
    bar = Progress()
    bar.shown |= {"psnr": "30.00", "loss": "0.0050", "bicubic": "29.75", "lr": "1.0e-03"}
    progress = RichProgress(*bar.configure_columns(SimpleNamespace()), console=console)  # type: ignore[arg-type]
    progress.add_task("Epoch 11/11", total=200, completed=77)
    with console.capture() as capture:
        console.print(progress.get_renderable())
    (line,) = capture.get().splitlines()
    assert len(line) <= width
    assert "77/200" in line
    values = {40: "", 80: "psnr 30.00  loss 0.0050", 200: "psnr 30.00  loss 0.0050  bicubic 29.75  lr 1.0e-03"}
    assert line.rstrip().endswith(values[width])


@pytest.mark.parametrize("width", [40, 80, 200])
def test_log_lines_are_broken_between_words(width: int) -> None:
    command = "python train.py stage=128to256 data=folder 'data.root=/my photos' trainer.max_epochs=60 seed=2"
    lines = wrapped(f"Stopped by SIGTERM. Resume this run with: {command}", width).split("\n")
    assert all(len(line) <= width for line in lines)
    text = "\n".join(lines)
    # A shell removes each backslash with its line break.
    assert shlex.split(text[text.index("python") :].replace("\\\n", "")) == shlex.split(command)
    sentence = " ".join(f"word{number}" for number in range(60))
    assert " ".join(wrapped(sentence, width).split("\n")) == sentence
    table = "┃" + 60 * " " + "┃"
    assert wrapped(f"{table}\n/{'long' * 60}", width) == f"{table}\n/{'long' * 60}"
    assert re.fullmatch(r"short  line\n\nend", wrapped("short  line\n\nend", width))
