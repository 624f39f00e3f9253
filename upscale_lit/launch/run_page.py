"""The page of a run, report.html: curves, image grids and commands. It is written again after each validation."""

import csv
import logging
import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytorch_lightning as pl
from pytorch_lightning.utilities import rank_zero_only

from upscale_lit.errors import WriteError
from upscale_lit.launch.commands import repeat_command, resume_command
from upscale_lit.launch.run import Run
from upscale_lit.pages.chart import line_chart
from upscale_lit.pages.page import LINKED, write_page
from upscale_lit.training.fit import callback_of
from upscale_lit.training.grids import ImageGrid

log = logging.getLogger(__name__)

NAME = "report.html"
GRIDS = {"input": "input (bilinear)", "truth": "ground truth"}  # the names of rows in a page


class RunPage(pl.Callback):
    """A callback that writes the page of a run after each validation.

    A run that ends early, even by kill -9, therefore leaves the page of its last validation. `finish` adds the results.
    """

    def __init__(self, run: Run) -> None:
        self.run = run
        self.curves: dict[int, dict[str, float]] = {}  # step -> the metrics of the validation

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        path = self.run.folder / "metrics.csv"  # of a resumed run
        if not self.curves and path.exists():
            with path.open(newline="") as file:
                rows = [row for row in csv.DictReader(file) if row.get("val/psnr")]
            for row in rows:
                step = int(row.pop("step"))
                self.curves[step] = {name: float(value) for name, value in row.items() if value}

    @rank_zero_only
    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if trainer.fast_dev_run or not trainer.loggers:  # type: ignore[attr-defined] # the final measurement has none
            return
        metrics = {name: float(value) for name, value in trainer.callback_metrics.items()}
        self.curves[trainer.global_step] = metrics
        steps = trainer.estimated_stepping_batches if trainer.state.fn == "fit" else math.inf  # inf without a limit
        of = f" of {steps:,}" if math.isfinite(steps) else ""
        status = f"The latest validation was at step {trainer.global_step:,}{of}. The run has not finished."
        resume = ("Resume the run, if it no longer runs:", resume_command(self.run.folder))
        self.write(trainer, status, [resume])

    def finish(self, trainer: pl.Trainer, status: str, closing: Sequence[Sequence[str]], convention: str) -> None:
        """Write the page of a finished run. closing: the table of the results, with its heading."""
        (_, *measures), *rows = closing
        self.write(trainer, status, [], [["method", *measures], *rows], convention)

    def write(
        self, trainer: pl.Trainer, status: str, commands: list[tuple[str, str]],
        closing: Sequence[Sequence[str]] = (), convention: str = "",
    ) -> None:  # fmt: skip
        """Write the page. A page that cannot be written is no reason to end a training."""
        grid = callback_of(trainer, ImageGrid)
        stage = self.run.cfg.stage.name
        try:
            write_page(
                self.run.folder / NAME, "run.html",
                title=f"{stage}: {self.run.folder.name}", images=LINKED, status=status,
                charts={title: self.chart(suffix) for title, suffix in self.titles().items()},
                grids=self.grids(grid.folder), rows=[GRIDS.get(row, row) for row in grid.rows],
                closing=closing, convention=convention, commands=[*commands, ("Repeat the run:", repeat_command())],
            )  # fmt: skip
        except WriteError as error:
            log.warning("%s The training continues.", error)

    def titles(self) -> Mapping[str, str]:
        """Return the titles of the charts, and the suffixes of their metrics."""
        degraded = any("val/psnr_degraded" in metrics for metrics in self.curves.values())
        title = "PSNR on the validation pairs"
        return {title: "", f"{title}, degraded": "_degraded"} if degraded else {title: ""}

    def chart(self, suffix: str) -> str:
        """Return the chart of val/psnr, with the other methods as lines. suffix: "" or "_degraded"."""
        name, curve = f"val/psnr{suffix}", sorted(self.curves.items())
        points = [(float(step), metrics[name]) for step, metrics in curve if name in metrics]
        others = {
            key.removeprefix(f"{name}_"): value for key, value in curve[-1][1].items() if key.startswith(f"{name}_")
        }
        lines = {other: value for other, value in others.items() if not other.startswith("degraded")}
        return line_chart(points, lines, "network", "step", "PSNR in dB")

    def grids(self, folder: Path) -> list[tuple[str, str]]:
        """Return the relative address and the label of each image grid."""
        found = []
        steps = {int(path.stem.removeprefix("step_")): path for path in folder.glob("step_*.png")}
        for step, path in sorted(steps.items()):
            metrics = self.curves.get(step, {})
            psnr = f": {metrics['val/psnr']:.2f} dB, {metrics['val/gain']:+.2f} over bicubic" if metrics else ""
            found.append((f"{folder.name}/{path.name}", f"step {step:,}{psnr}"))
        return found
