"""The reports of a run: the progress bar, log lines on the console, the loggers, and the closing table."""

import csv
import logging
from collections.abc import Mapping
from io import StringIO
from pathlib import Path
from typing import Any

from pytorch_lightning import LightningModule, Trainer
from pytorch_lightning.callbacks import RichProgressBar
from pytorch_lightning.loggers import CSVLogger, Logger, TensorBoardLogger
from pytorch_lightning.utilities import rank_zero_only
from rich import box, get_console
from rich.console import Console
from rich.table import Table

SHORT = {"train/loss": "loss", "val/psnr": "psnr", "val/psnr_bicubic": "bicubic"}  # the bar has only one line
Value = int | str | float | dict[str, float]


def further_process() -> bool:
    """Return whether this is not the first process of its run. Only the first process prints, logs and writes files."""
    return bool(getattr(rank_zero_only, "rank", 0))


class ConsoleHandler(logging.Handler):
    """A log handler that prints lines above the progress bar, without wrapping. Errors go to stderr.

    Further processes of a run print their errors only.
    """

    def emit(self, record: logging.LogRecord) -> None:
        if further_process() and record.levelno < logging.ERROR:
            return
        console = get_console() if record.levelno < logging.ERROR else Console(stderr=True)
        console.print(self.format(record), soft_wrap=True, markup=False, highlight=False)


class Progress(RichProgressBar):
    """Lightning's progress bar, refreshed four times a second, with short names and the learning rate.

    The metrics are read in every tenth step only, since reading them takes 0.5 % of the time of a small step.
    """

    def __init__(self) -> None:
        super().__init__(refresh_rate=4)
        self.shown: dict[str, Value] = {}

    def get_metrics(self, trainer: Trainer, pl_module: LightningModule) -> dict[str, Value]:
        if self.shown and trainer.global_step % 10 and trainer.training:
            return self.shown
        logged: dict[str, Value] = super().get_metrics(trainer, pl_module)
        values = {short: logged[name] for name, short in SHORT.items() if name in logged}
        self.shown = {"lr": f"{trainer.optimizers[0].param_groups[0]['lr']:.1e}", **values}
        return self.shown


def loggers(folder: Path, step: int | None) -> list[Logger]:
    """Return the loggers for TensorBoard and for metrics.csv, both in the run folder.

    step: the step of the checkpoint that the run resumes, after which both logs continue; None for a new run.
    """
    purge: dict[str, Any] = {} if step is None else {"purge_step": step + 1 if step else 0}
    tensorboard = TensorBoardLogger(folder, name="", version="", default_hp_metric=False, **purge)
    table = CSVLogger(folder, name="", version="")
    if further_process():
        return [tensorboard, table]
    history, kept = folder / "metrics.csv", folder / ".metrics.csv"
    if step and (history.exists() or kept.exists()):
        if not kept.exists():
            history.replace(kept)  # survives a kill before CSVLogger has filled the new, empty file
        # A kill may have cut off the last line: only lines with a line break are complete.
        for row in csv.DictReader(line for line in kept.read_text().splitlines(keepends=True) if line.endswith("\n")):
            at = int(row.pop("step"))
            if at <= step:
                table.log_metrics({name: float(value) for name, value in row.items() if value}, at)
        table.save()
    kept.unlink(missing_ok=True)
    return [tensorboard, table]


def tensorboards(trainer: Trainer) -> list[TensorBoardLogger]:
    """Return the trainer's TensorBoard loggers."""
    return [logger for logger in trainer.loggers if isinstance(logger, TensorBoardLogger)]


def table(metrics: Mapping[str, float], methods: Mapping[str, str], pairs: int, convention: str) -> str:
    """Return a table of PSNR and SSIM as text, with one row for each method.

    methods: name in the table -> suffix in the metrics' names.
    pairs, convention: the number of validation pairs and how they are measured, for the line below the table.
    """
    result = Table(box=box.HEAVY_HEAD if get_console().encoding.startswith("utf") else box.ASCII)
    for heading in ("", "PSNR (dB)", "gain (dB)", "SSIM"):
        result.add_column(heading, justify="right" if heading else "left")
    for name, suffix in methods.items():
        value = metrics[f"val/psnr{suffix}"]
        gain = value - metrics[f"val/psnr{'_degraded' if suffix.startswith('_degraded') else ''}_bicubic"]
        result.add_row(name, f"{value:.2f}", f"{gain:+.2f}", f"{metrics[f'val/ssim{suffix}']:.4f}")
    page = StringIO()
    Console(file=page, width=100).print(result)
    return f"{page.getvalue()}{pairs} validation pairs; {convention}"
