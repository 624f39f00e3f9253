"""The reports of a run: the progress bar, log lines on the console, the loggers, and the closing table."""

import csv
import logging
import re
import shlex
import textwrap
from collections.abc import Mapping, Sequence
from io import StringIO
from pathlib import Path
from typing import Any

from pytorch_lightning import LightningModule, Trainer
from pytorch_lightning.callbacks import RichProgressBar
from pytorch_lightning.loggers import CSVLogger, Logger, TensorBoardLogger
from pytorch_lightning.utilities import rank_zero_only
from rich import box, get_console
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, ProgressColumn, Task, TextColumn, TimeRemainingColumn
from rich.table import Column, Table
from rich.text import Text

# The values of the progress bar, most important first: metric -> name and number of digits.
SHORT = {"val/psnr": ("psnr", 2), "train/loss": ("loss", 4), "val/psnr_bicubic": ("bicubic", 2)}
# A command at the end of a line, which users copy.
COMMAND = re.compile(r"(?<!\S)(python \S*train\.py|upscale-lit \w+) .*$")
Value = int | str | float | dict[str, float]


def further_process() -> bool:
    """Return whether this is not the first process of its run. Only the first process prints, logs and writes files."""
    return bool(getattr(rank_zero_only, "rank", 0))


class ConsoleHandler(logging.Handler):
    """A log handler that prints lines above the progress bar. Errors go to stderr.

    On a terminal, long lines are `wrapped`. In a file or a pipe, they stay as they are.
    Further processes of a run print their errors only.
    """

    def emit(self, record: logging.LogRecord) -> None:
        if further_process() and record.levelno < logging.ERROR:
            return
        console = get_console() if record.levelno < logging.ERROR else Console(stderr=True)
        text = self.format(record)
        text = wrapped(text, console.width) if console.is_terminal else text
        console.print(text, soft_wrap=True, markup=False, highlight=False)


def wrapped(text: str, width: int) -> str:
    """Return a text whose long lines are broken between words.

    A command at the end of a line ends its parts with a backslash, so that a shell accepts them as they are. Lines of a
    table, and words that are longer than the width, stay as they are.
    """
    lines: list[str] = []
    for line in text.split("\n"):
        if len(line) <= width or line[:1] in "┏┃┡│└+|":
            lines.append(line)
            continue
        found = COMMAND.search(line)
        words = line if found is None else line[: found.start()]
        lines += textwrap.wrap(words, width, break_long_words=False, break_on_hyphens=False)
        if found is not None:
            parts = [shlex.quote(word) for word in shlex.split(found[0])]
            lines.append(parts[0])
            for part in parts[1:]:
                if len(lines[-1]) + len(part) + 3 <= width:
                    lines[-1] += f" {part}"
                else:
                    lines[-1] += " \\"
                    lines.append(f"  {part}")
    return "\n".join(lines)


class Progress(RichProgressBar):
    """Lightning's progress bar on one line, refreshed four times a second, with as many values as the terminal holds.

    The metrics are read in every tenth step only, since reading them takes 0.5 % of the time of a small step.
    """

    def __init__(self) -> None:
        super().__init__(refresh_rate=4)
        self.shown: dict[str, str] = {}

    def configure_columns(self, trainer: Trainer) -> list[ProgressColumn]:
        """Return the columns. Lightning appends a column of its own, which stays empty."""
        # A column with a speed does not fit into 80 characters.
        return [
            TextColumn("{task.description}"), BarColumn(bar_width=None, table_column=Column(min_width=4, ratio=1)),
            MofNCompleteColumn(table_column=Column(no_wrap=True)), TimeRemainingColumn(compact=True),
            Values(self.shown),
        ]  # fmt: skip

    def get_metrics(self, trainer: Trainer, pl_module: LightningModule) -> dict[str, Value]:
        if not (self.shown and trainer.global_step % 10 and trainer.training):
            logged: dict[str, Value] = super().get_metrics(trainer, pl_module)
            values = {short: f"{logged[name]:.{digits}f}" for name, (short, digits) in SHORT.items() if name in logged}
            ordered = {short: values[short] for short, _ in SHORT.values() if short in values}
            self.shown.clear()  # the column shares this dict
            self.shown |= {**ordered, "lr": f"{trainer.optimizers[0].param_groups[0]['lr']:.1e}"}
        return {}


class Values(ProgressColumn):
    """The column of the values: as many of them as fit, next to the 50 characters of the other columns."""

    def __init__(self, shown: Mapping[str, str]) -> None:
        super().__init__(table_column=Column(no_wrap=True))
        self.shown = shown

    def render(self, task: Task) -> Text:
        parts = [f"{name} {value}" for name, value in self.shown.items()] if task.id == 0 else []
        while parts and len("  ".join(parts)) > get_console().width - 50:
            parts.pop()
        return Text("  ".join(parts))


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


def table(rows: Sequence[Sequence[str]], pairs: int, convention: str) -> str:
    """Return the rows of `table_rows` as text, followed by how they were measured.

    pairs, convention: the number of validation pairs and how they are measured, for the line below the table.
    """
    result = Table(box=box.HEAVY_HEAD if get_console().encoding.startswith("utf") else box.ASCII)
    for heading in rows[0]:
        result.add_column(heading, justify="right" if heading else "left")
    for row in rows[1:]:
        result.add_row(*row)
    page = StringIO()
    Console(file=page, width=100).print(result)
    return f"{page.getvalue()}{measured_as(pairs, convention)}"


def measured_as(pairs: int, convention: str) -> str:
    """Return the line below a table."""
    return f"PSNR and gain in dB; {pairs} validation pairs; {convention}"


def table_rows(metrics: Mapping[str, float], methods: Mapping[str, str]) -> list[list[str]]:
    """Return a table of PSNR and SSIM: the heading, then one row for each method.

    methods: name in the table -> suffix in the metrics' names.
    """
    rows = [["", "PSNR", "gain", "SSIM"]]
    for name, suffix in methods.items():
        value = metrics[f"val/psnr{suffix}"]
        gain = value - metrics[f"val/psnr{'_degraded' if suffix.startswith('_degraded') else ''}_bicubic"]
        rows.append([name, f"{value:.2f}", f"{gain:+.2f}", f"{metrics[f'val/ssim{suffix}']:.4f}"])
    return rows
