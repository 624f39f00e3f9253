"""Checkpoints of a run: when they are written, how, and which ones a run can go on with.

A run that goes on from one ends with the same weights as if it had not been interrupted: beside Lightning's own state
there are the photos' (data.py counts the batches), and random choices are functions of their number.
"""

import logging
import math
import os
import re
import shutil
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from pytorch_lightning import LightningModule, Trainer
from pytorch_lightning.callbacks import Checkpoint, WeightAveraging
from pytorch_lightning.loggers import TensorBoardLogger
from pytorch_lightning.plugins.io import CheckpointIO
from torch import Tensor
from torch.optim.swa_utils import get_ema_multi_avg_fn

from upscale_lit import weights
from upscale_lit.errors import DivergedError, InputError, WriteError, check_number, check_path, check_whole, shown
from upscale_lit.files import whole
from upscale_lit.signals import Signals

log = logging.getLogger(__name__)

LAST, BEST = "last.ckpt", "best.ckpt"
# What every checkpoint holds; by Lightning's names.
PARTS = {
    "state_dict": dict, "loops": dict, "callbacks": dict, "optimizer_states": list, "lr_schedulers": list,
    "hyper_parameters": dict, "epoch": int, "global_step": int, "pytorch-lightning_version": str,
}  # fmt: skip


class SafeCheckpointIO(CheckpointIO):
    """Writes a checkpoint whole or not at all, and reads tensors and plain types only, whatever Lightning asks for.

    folder: that of the run's checkpoints; what is read is `relocated` to it.
    Raises DivergedError where weights are not finite, WriteError where the system refuses, InputError in reading.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any | None = None) -> None:
        if not Path(path).parent.parent.is_dir():
            raise WriteError(f"{shown(Path(path))} cannot be written: the run's folder has vanished.")
        weights.write_file(Path(path), checkpoint)

    def load_checkpoint(
        self, path: Any, map_location: Any | None = None, weights_only: bool | None = None
    ) -> dict[str, Any]:
        return relocated(read_checkpoint(Path(path)), self.folder)

    def remove_checkpoint(self, path: Any) -> None:
        Path(path).unlink(missing_ok=True)


class Average(WeightAveraging):
    """An exponential moving average of the weights: measured, kept in best.ckpt and handed on instead of the weights.

    decay: the part of the average that stays at each step. Raises InputError when it does not lie between 0 and 1.
    """

    def __init__(self, decay: float) -> None:
        check_number("ema", decay, above=0, below=1, or_else=[None])
        super().__init__(use_buffers=False, multi_avg_fn=get_ema_multi_avg_fn(decay))  # type: ignore[no-untyped-call]

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Lightning's would put the average in the place of the weights, and no run could go on exactly from there."""


class KeepLast(Checkpoint):
    """Writes `folder`/last.ckpt before the first step and then at intervals, and ends a run that a signal asks to end.

    every_steps: optimizer steps; None for no such interval. every_minutes: likewise, fractions allowed.
    A checkpoint is written only where Lightning can go on from it exactly: after an optimizer step, and where
    validation follows the step, after that. Raises DivergedError when a loss is not finite, Stopped after the
    checkpoint that a signal has asked for, and InputError for values that make no sense.

    Of several processes all have to do so in the same step: every tenth step they tell one another.
    """

    def __init__(
        self, folder: Path, every_steps: int | None, every_minutes: float | None, signals: Signals | None = None
    ) -> None:
        check_whole("checkpoint.every_steps", every_steps, or_else=[None])
        check_number("checkpoint.every_minutes", every_minutes, above=0, or_else=[None])
        self.path, self.signals = folder / LAST, signals or Signals()
        self.every_steps = every_steps or math.inf
        self.every_seconds = math.inf if every_minutes is None else 60 * every_minutes
        self.started = False  # training goes on: what a checkpoint holds has been restored
        self._step = self._written_step = 0
        self._written_at = 0.0
        self._owed = False
        self._all_stop = False  # all processes know of a signal

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.started = True
        self._step = self._written_step = trainer.global_step
        self._written_at = time.monotonic()
        for part in self.path.parent.glob(".*.part") if trainer.is_global_zero else ():
            part.unlink(missing_ok=True)  # of a run that was killed while it wrote
        if not trainer.global_step:
            self.write(trainer)
        self.signals.claim()  # Lightning has taken SIGTERM
        self.signals.patient = True

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.signals.patient = False

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        self.signals.patient = False

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        loss, alone = outputs["loss"], trainer.world_size == 1
        # To ask a GPU is to wait for it: there every tenth step is asked, and all weights before they are written.
        asked = batch_idx % 10 == 0 or (alone and loss.device.type == "cpu")
        infinite = asked and not math.isfinite(loss)
        seconds = time.monotonic() - self._written_at
        late, signal = seconds >= self.every_seconds, self.signals.received or 0
        if not alone and asked:
            told = torch.tensor([infinite, late, signal], dtype=torch.float32, device=loss.device)
            told = trainer.strategy.reduce(told, reduce_op="max")
            infinite, late, signal = bool(told[0]), bool(told[1]), int(told[2])
            self._all_stop = bool(signal)
            self.signals.received = self.signals.received or signal or None
        if infinite:
            raise DivergedError(f"The loss is not finite any more: {float(loss)} in step {trainer.global_step}.")
        if trainer.global_step == self._step:
            return  # gradients are being accumulated
        self._step = trainer.global_step
        if self._step - self._written_step >= self.every_steps or ((late or signal) and (alone or asked)):
            self._owed = True
        if self._owed and not _validation_follows(trainer, batch_idx):
            self._settle(trainer)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self._owed:
            self._settle(trainer)

    def _settle(self, trainer: Trainer) -> None:
        self._owed = False
        self.write(trainer)
        if trainer.world_size == 1 or self._all_stop:
            self.signals.check()

    def write(self, trainer: Trainer) -> None:
        """Write last.ckpt now."""
        if trainer.fast_dev_run:  # type: ignore[attr-defined]
            return
        for logger in trainer.loggers:  # or a kill would leave a checkpoint that is ahead of the curves
            logger.save()
            if isinstance(logger, TensorBoardLogger):
                logger.experiment.flush()
        trainer.save_checkpoint(self.path)
        self._written_step, self._written_at = trainer.global_step, time.monotonic()


def _validation_follows(trainer: Trainer, batch_idx: int) -> bool:
    """Whether Lightning validates after this batch, or ends the epoch."""
    if trainer.is_last_batch or trainer.should_stop:
        return True
    epochs = trainer.check_val_every_n_epoch
    batches = (trainer.fit_loop.total_batch_idx if epochs is None else batch_idx) + 1
    due_epoch = epochs is None or (trainer.current_epoch + 1) % epochs == 0
    every = trainer.val_check_batch  # None where a clock decides
    return due_epoch and every is not None and batches % every == 0


def find_checkpoint(ckpt_path: str | None, folder: Path) -> Path | None:
    """Where the checkpoint is; None where none is wanted, or a run ended before it had one."""
    if ckpt_path is None:
        return None
    named = check_path("ckpt_path", ckpt_path)
    if re.match(r"\w+://", ckpt_path):
        raise InputError(f"ckpt_path is a file here; found {ckpt_path}. Download it first.")
    path = folder / "checkpoints" / LAST if ckpt_path == "last" else named
    if path.is_file():
        return path
    if ckpt_path == "last" and (log_file := folder / "train.log").is_file() and log_file.stat().st_size:
        log.warning("The run in %s ended before its first step: it begins anew.", folder)
        return None
    way = (
        "ckpt_path=last looks in the run folder: name the run to go on with by hydra.run.dir=RUN_FOLDER."
        if ckpt_path == "last"
        else "Give the path of a last.ckpt or best.ckpt in some run's checkpoints folder."
    )
    raise InputError(f"There is no checkpoint at {path}. {way}")


def read_checkpoint(path: Path) -> dict[str, Any]:
    """A checkpoint of a run. Raises InputError when it is missing, damaged, or something else."""
    content = weights.read_file(path, "checkpoint")
    for name, kind in PARTS.items():
        if not isinstance(content.get(name), kind):
            raise InputError(f"{path} should be a checkpoint of a run (best.ckpt, last.ckpt); it holds no {name}.")
    state = content["state_dict"]
    if not all(isinstance(value, Tensor) for value in state.values()):
        raise InputError(f"{path} should be a checkpoint of a run; its state_dict does not hold tensors only.")
    if not isinstance(content["hyper_parameters"].get("facts"), dict):
        raise InputError(f"{path} is a checkpoint of another program: it does not say what it was trained for.")
    return content


def relocated(content: dict[str, Any], folder: Path) -> dict[str, Any]:
    """A checkpoint whose state of Lightning's ModelCheckpoint names best.ckpt in `folder`, wherever it was written.

    ModelCheckpoint forgets its best score if the folder has another path than before, as it has when the folder of a
    run was moved or copied. If best.ckpt is not in `folder`, that score would keep all later weights from becoming the
    best ones, so the state is left out.
    """
    path = Path(os.path.realpath(folder), BEST)
    callbacks = {}
    for name, state in content["callbacks"].items():
        if isinstance(state, dict) and state.get("best_model_score") is not None:
            if not path.exists():
                log.warning("%s is not there. The best weights from here on will be kept.", shown(path))
                continue
            state = {key: value for key, value in state.items() if key != "dirpath"}
            state |= {"best_model_path": str(path), "kth_best_model_path": str(path), "last_model_path": ""}
            state["best_k_models"] = {str(path): state["best_model_score"]}
        callbacks[name] = state
    return {**content, "callbacks": callbacks}


def bring_best(ckpt: Path, folder: Path) -> None:
    """Copy best.ckpt from next to the checkpoint that a run resumes from, if the run's own `folder` has none.

    Only the one that the checkpoint speaks of: a later one belongs to steps that the run has yet to repeat.
    """
    best = ckpt.with_name(BEST)
    if best.exists() and not (folder / BEST).exists() and _best_score(best) == _best_score(ckpt):
        with whole(folder / BEST) as part:
            shutil.copyfile(best, part)


def _best_score(ckpt: Path) -> float | None:
    states = read_checkpoint(ckpt)["callbacks"].values()
    scores = (state.get("best_model_score") for state in states if isinstance(state, dict))
    return next((float(score) for score in scores if score is not None), None)


def check_facts(path: Path, content: Mapping[str, Any], facts: Mapping[str, Any]) -> None:
    """Raises InputError when a checkpoint is that of another run: of another stage, other inputs, another model ...

    facts: this run's, by the options that set them. What an older checkpoint does not say is not compared.
    """
    theirs = content["hyper_parameters"]["facts"]
    for name, ours in facts.items():
        found = theirs.get(name, ours)
        if found != ours:
            raise InputError(f"{path} belongs to {name}={found}; this is {name}={ours}. Give {name}={found}.")


def check_network(path: Path, content: Mapping[str, Any], module: LightningModule) -> None:
    """Raises InputError when a checkpoint is of another network."""
    if difference := weights.differing(module.state_dict(), content["state_dict"]):
        raise InputError(
            f"{path} is a checkpoint of another network: {difference}. Give the model=... with which that run was "
            "started."
        )
