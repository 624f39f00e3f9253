from types import SimpleNamespace
from typing import Any

import pytest
from pytorch_lightning.callbacks import RichProgressBar

from upscale_lit.training.report import Progress


def test_the_progress_bar_updates_short_names_every_tenth_step(monkeypatch: pytest.MonkeyPatch) -> None:
    logged = {"train/loss": 0.5, "val/psnr": 30.0, "v_num": 3}
    monkeypatch.setattr(RichProgressBar, "get_metrics", lambda *args: dict(logged))
    group = {"lr": 1e-3}
    trainer: Any = SimpleNamespace(global_step=10, training=True, optimizers=[SimpleNamespace(param_groups=[group])])
    bar = Progress()
    assert bar.get_metrics(trainer, None) == {"lr": "1.0e-03", "loss": 0.5, "psnr": 30.0}  # type: ignore[arg-type]
    group["lr"], logged["train/loss"] = 2e-3, 0.25
    for step, expected in ((11, "1.0e-03"), (19, "1.0e-03"), (20, "2.0e-03"), (21, "2.0e-03")):
        trainer.global_step = step
        assert bar.get_metrics(trainer, None)["lr"] == expected  # type: ignore[arg-type]
    trainer.training, logged["val/psnr"] = False, 31.0
    assert bar.get_metrics(trainer, None)["psnr"] == 31.0  # type: ignore[arg-type]  # not delayed after a validation
