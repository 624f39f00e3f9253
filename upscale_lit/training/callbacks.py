"""Callbacks of a run: they write last.ckpt, average the weights, and log the run's options to TensorBoard."""

import math
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from pytorch_lightning import Callback, LightningModule, Trainer
from pytorch_lightning.callbacks import Checkpoint as CheckpointCallback
from pytorch_lightning.callbacks import WeightAveraging
from torch.optim.swa_utils import get_ema_multi_avg_fn

from upscale_lit.errors import DivergedError, check_number, check_whole
from upscale_lit.signals import Signals
from upscale_lit.training.checkpoints import LAST
from upscale_lit.training.report import tensorboards


class Average(WeightAveraging):
    """An exponential moving average (EMA) of the weights.

    Validation measures the average. The average is saved in best.ckpt and published instead of the latest weights.
    decay: the share of the old average in the new average of each step. Raises InputError unless the decay is above 0
        and below 1.
    """

    def __init__(self, decay: float) -> None:
        check_number("ema", decay, above=0, below=1, or_else=[None])
        super().__init__(use_buffers=False, multi_avg_fn=get_ema_multi_avg_fn(decay))  # type: ignore[no-untyped-call]

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Do nothing. Lightning's method would copy the average into the weights.

        A run could then not resume exactly from a checkpoint that is written after the training.
        """


class KeepLast(CheckpointCallback):
    """A callback that writes `folder`/last.ckpt before the first step and then at intervals.

    After a signal, the callback writes a checkpoint and ends the run.
    every_steps: the interval in optimizer steps; None for no such interval.
    every_minutes: the interval in minutes, which may have a fraction; None for no such interval.

    Lightning can resume exactly only from a checkpoint that is written after an optimizer step. If validation follows
    this step, the checkpoint is written after the validation.
    All processes of a run must write a checkpoint in the same step. The processes agree on the step in every tenth
    batch.
    Raises DivergedError if a loss is not finite, Stopped after the checkpoint that follows a signal, and InputError if
    an interval is out of range.
    """

    def __init__(
        self, folder: Path, every_steps: int | None, every_minutes: float | None, signals: Signals | None = None
    ) -> None:
        check_whole("checkpoint.every_steps", every_steps, or_else=[None])
        check_number("checkpoint.every_minutes", every_minutes, above=0, or_else=[None])
        self.path, self.signals = folder / LAST, signals or Signals()
        self.every_steps = every_steps or math.inf
        self.every_seconds = math.inf if every_minutes is None else 60 * every_minutes
        self.started = False  # whether training has begun; Lightning restores a checkpoint before that
        self._step = self._written_step = 0
        self._written_at = 0.0
        self._wanted = False  # whether the processes agree to write after the next optimizer step
        self._due = False
        self._all_stop = False  # whether all processes know of a signal

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.started = True
        self._step = self._written_step = trainer.global_step
        self._written_at = time.monotonic()
        if trainer.is_global_zero:
            for part in self.path.parent.glob(".*.part"):  # left by a run that was killed while writing
                part.unlink(missing_ok=True)
        if not trainer.global_step:
            self.write(trainer)
        self.signals.claim()  # Lightning has set its own handler for SIGTERM
        self.signals.patient = True

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.signals.patient = False

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        self.signals.patient = False

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        loss, alone = outputs["loss"], trainer.world_size == 1
        # Reading a loss from a GPU waits for the GPU, so such a loss is read in every tenth batch only. Infinite
        # weights cannot be saved in between, since all weights are checked before they are written.
        read = batch_idx % 10 == 0 or (alone and loss.device.type == "cpu")
        infinite = read and not math.isfinite(loss)
        seconds = time.monotonic() - self._written_at
        late, signal = seconds >= self.every_seconds, self.signals.received or 0
        if not alone and read:
            states = torch.tensor([infinite, late, signal], dtype=torch.float32, device=loss.device)
            states = trainer.strategy.reduce(states, reduce_op="max")
            infinite, late, signal = bool(states[0]), bool(states[1]), int(states[2])
            self._all_stop = bool(signal)
            self.signals.received = self.signals.received or signal or None
        if infinite:
            raise DivergedError(f"The loss is not finite: it is {float(loss)} in step {trainer.global_step}.")
        self._wanted = self._wanted or (bool(late or signal) and (alone or read))
        if trainer.global_step == self._step:
            return  # no optimizer step yet: gradients are being accumulated
        self._step = trainer.global_step
        if self._wanted or self._step - self._written_step >= self.every_steps:
            self._due = True
        if self._due and not _validation_follows(trainer, batch_idx):
            self._write_and_stop(trainer)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self._due:
            self._write_and_stop(trainer)

    def _write_and_stop(self, trainer: Trainer) -> None:
        self._wanted = self._due = False
        self.write(trainer)
        if trainer.world_size == 1 or self._all_stop:
            self.signals.check()

    def write(self, trainer: Trainer) -> None:
        """Write last.ckpt now. A fast_dev_run writes nothing."""
        if trainer.fast_dev_run:  # type: ignore[attr-defined]
            return
        for logger in trainer.loggers:  # otherwise, a kill could leave a checkpoint that is ahead of the curves
            logger.save()
        trainer.save_checkpoint(self.path)
        self._written_step, self._written_at = trainer.global_step, time.monotonic()


def _validation_follows(trainer: Trainer, batch_idx: int) -> bool:
    """Return whether Lightning validates or ends the epoch after this batch."""
    if trainer.is_last_batch or trainer.should_stop:
        return True
    epochs = trainer.check_val_every_n_epoch
    batches = (trainer.fit_loop.total_batch_idx if epochs is None else batch_idx) + 1
    due_epoch = epochs is None or (trainer.current_epoch + 1) % epochs == 0
    every = trainer.val_check_batch  # None if a time interval decides
    return due_epoch and every is not None and batches % every == 0


class HyperParameters(Callback):
    """A callback that logs a run's options to TensorBoard, with the metrics of the first validation.

    The first validation measures the weights with which the run starts. A resumed run leaves out this validation, so
    nothing is logged twice.
    text: the complete configuration as YAML. flat: single options by name, for the HPARAMS tab.
    """

    def __init__(self, text: str, flat: Mapping[str, bool | int | float | str]) -> None:
        self.text, self.flat = text, dict(flat)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.state.fn != "validate" or trainer.global_step:
            return
        metrics = {name: float(value) for name, value in trainer.callback_metrics.items()}
        for board in tensorboards(trainer):
            board.experiment.add_text("config", f"```yaml\n{self.text}\n```", 0)
            board.log_hyperparams(self.flat, final_metrics(metrics, 0.0))
            board.experiment.add_custom_scalars(chart_layout(metrics))


def final_metrics(metrics: Mapping[str, float], seconds: float) -> dict[str, float]:
    """Return the metrics by which TensorBoard's HPARAMS tab compares runs. seconds: the duration of the training.

    TensorBoard sorts charts by name. Those of a single value come after the curves train/ and val/.
    """
    names = [name for name in ("psnr", "gain", "score", "gain_degraded") if f"val/{name}" in metrics]
    return {**{f"val_final/{name}": metrics[f"val/{name}"] for name in names}, "val_final/seconds": seconds}


def chart_layout(metrics: Iterable[str]) -> dict[str, dict[str, list[str | list[str]]]]:
    """Return the layout of TensorBoard's tab Custom Scalars: the network and the baselines in one chart.

    metrics: the names of all metrics. With a degradation, a second chart shows the degraded pairs.
    """
    layout: dict[str, dict[str, list[str | list[str]]]] = {}
    for measure in ("psnr", "ssim"):
        names = [name for name in metrics if name.startswith(f"val/{measure}")]
        charts = {
            "clean": [f"^{name}$" for name in names if "_degraded" not in name],
            "degraded": [f"^{name}$" for name in names if "_degraded" in name],
        }
        layout[measure.upper()] = {title: ["Multiline", tags] for title, tags in charts.items() if tags}
    return layout
