"""Fit a module, load its best weights, and measure them."""

import copy
import logging
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import dropwhile
from typing import TypeVar

from lightning_fabric.utilities.exceptions import MisconfigurationException
from pytorch_lightning import Callback, LightningDataModule, Trainer
from pytorch_lightning.callbacks import ModelCheckpoint
from pytorch_lightning.loggers import Logger
from pytorch_lightning.trainer.connectors import checkpoint_connector

from upscale_lit.errors import InputError, raised_in
from upscale_lit.training.callbacks import Average, KeepLast
from upscale_lit.training.checkpoints import BEST, LAST, Checkpoint, bring_best, read_checkpoint
from upscale_lit.training.module import UpscaleModule

log = logging.getLogger(__name__)

REFUSED = "Lightning's Trainer does not take these trainer.* options:"
# If only code of these packages fails while a checkpoint is restored, its contents have caused the error.
LIBRARIES = {"pytorch_lightning", "lightning_fabric", "torch", *sys.stdlib_module_names}
SomeCallback = TypeVar("SomeCallback", bound=Callback)


def fit(trainer: Trainer, module: UpscaleModule, data: LightningDataModule, checkpoint: Checkpoint | None) -> None:
    """Fit `module`, and leave the best weights of all validations in it.

    A run that does not resume validates its weights before the first step.
    trainer: its callbacks include a KeepLast and a ModelCheckpoint for the same folder.
    checkpoint: the checkpoint from which the run resumes exactly. The run starts from the beginning if the checkpoint
        was written before the first step.
    Raises InputError if Lightning refuses the Trainer's options or the checkpoint, and Stopped after a signal.
    """
    steps = load(module, checkpoint)
    resumed = checkpoint if steps else None
    folder = callback_of(trainer, KeepLast).path.parent
    with lightning_refusals(trainer, resumed):
        if resumed is not None:
            log.info("Resuming from %s, after step %d", resumed.path, steps)
            if trainer.is_global_zero:
                bring_best(resumed.path, folder)
        elif not trainer.fast_dev_run:  # type: ignore[attr-defined]
            trainer.validate(module, datamodule=data, verbose=False)
        trainer.fit(module, datamodule=data, ckpt_path=resumed.path if resumed else None, weights_only=True)
    if trainer.fast_dev_run:  # type: ignore[attr-defined]
        return
    if module.validated_step != trainer.global_step:  # the last validation was before the last step
        trainer.validate(module, datamodule=data, verbose=False)
    elif "val/psnr" not in trainer.callback_metrics:  # the run resumed at its end, so its curves are complete
        with without(trainer, "loggers", Logger):
            trainer.validate(module, datamodule=data, verbose=False)
    trainer.save_checkpoint(folder / LAST)
    load_best(trainer, module)
    callback_of(trainer, KeepLast).signals.check()  # raises Stopped if a signal came in the last step


def load_best(trainer: Trainer, module: UpscaleModule) -> None:
    """Load the best weights of all validations into `module`.

    If the latest validation was the best, its weights are first written to best.ckpt. If the chained stages of a stack
    were better than all validations, their weights are loaded instead.
    """
    best_checkpoint = callback_of(trainer, ModelCheckpoint)
    name, best_before = str(best_checkpoint.monitor), best_checkpoint.best_model_score
    score = trainer.callback_metrics[name]
    path = callback_of(trainer, KeepLast).path.with_name(BEST)
    if best_before is None or score >= best_before:
        trainer.save_checkpoint(path)
    else:
        score = best_before
    best = Checkpoint(path, read_checkpoint(path))
    if best.steps != trainer.global_step:
        log.info("The best weights come from step %d.", best.steps)
    module.load_state_dict(best.content["state_dict"])
    if module.chained is not None and trainer.callback_metrics[f"{name}_chained"] > score:
        log.warning("No validation was better than the chained stages. The weights of these stages are published.")
        module.model = copy.deepcopy(module.chained)


def measure(trainer: Trainer, module: UpscaleModule, data: LightningDataModule) -> dict[str, float]:
    """Return PSNR and SSIM of the weights in `module`, by their names "val/...". The curves leave these values out."""
    with without(trainer, "loggers", Logger), without(trainer, "callbacks", Average):  # weights, not their average
        values = trainer.validate(module, datamodule=data, verbose=False)[0]
    return {name: value for name, value in values.items() if name.startswith("val/")}


def load(module: UpscaleModule, checkpoint: Checkpoint | None) -> int:
    """Load a checkpoint's weights and seconds of training into `module`. Return its steps; 0 without a checkpoint."""
    if checkpoint is None:
        return 0
    module.load_state_dict(checkpoint.content["state_dict"])
    module.seconds = float(checkpoint.content.get("seconds", 0.0))
    return checkpoint.steps


def callback_of(trainer: Trainer, kind: type[SomeCallback]) -> SomeCallback:
    """Return the trainer's first callback of a class."""
    return next(each for each in trainer.callbacks if isinstance(each, kind))  # type: ignore[attr-defined]


@contextmanager
def without(trainer: Trainer, name: str, kind: type) -> Iterator[None]:
    """Remove the loggers or callbacks of a class from the trainer inside a `with` block.

    name: "loggers" or "callbacks".
    """
    kept = getattr(trainer, name)
    setattr(trainer, name, [each for each in kept if not isinstance(each, kind)])
    try:
        yield
    finally:
        setattr(trainer, name, kept)


@contextmanager
def lightning_refusals(trainer: Trainer, resumed: Checkpoint | None) -> Iterator[None]:
    """Raise InputError if Lightning refuses the Trainer's options or the checkpoint `resumed`.

    Only errors before the first training step are converted. Errors in our code, or in the user's network, loss or
    data, pass unchanged and keep their traceback.
    """
    try:
        yield
    except Exception as error:
        if callback_of(trainer, KeepLast).started:
            raise
        reason = " ".join(str(error).split())
        modules = (frame.f_globals.get("__name__", "") for frame, _ in traceback.walk_tb(error.__traceback__))
        restoring = dropwhile(lambda name: name != checkpoint_connector.__name__, modules)
        packages = {name.partition(".")[0] for name in restoring}
        if resumed is not None and packages and packages <= LIBRARIES:
            raise InputError(
                f"{resumed.path} cannot be resumed: {reason} ({type(error).__name__}). The file is damaged, of "
                "another version, or of a run with other trainer.* options."
            ) from error
        by_lightning = raised_in(error, "pytorch_lightning", "lightning_fabric")
        if by_lightning and isinstance(error, (MisconfigurationException, ValueError)):
            raise InputError(f"{REFUSED} {reason}") from error
        raise
