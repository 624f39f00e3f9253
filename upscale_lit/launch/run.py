"""One execution of train.py: its configuration, folder and signals."""

import logging
import signal
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import pytorch_lightning as pl
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig

from upscale_lit.allocator import keep_freed_memory
from upscale_lit.console import ready_streams
from upscale_lit.errors import check_path
from upscale_lit.launch import sweep
from upscale_lit.launch.failures import explained, locked, report_stop, reported
from upscale_lit.launch.options import check_run
from upscale_lit.signals import Signals, Stopped
from upscale_lit.training.report import further_process

# Warnings that are ignored: a pattern of the message -> the reason.
SILENCED = {
    r".*LeafSpec.*": "Lightning 2.6 uses a class that torch 2.15 has deprecated",
    r".*module\(s\) in eval mode.*": "frozen BatchNorm is in eval mode on purpose",
    r".*when logging on epoch level in distributed setting.*": "the module logs means over all processes",
    r".*does not have many workers.*": "examples are cheap; the number of workers was chosen by measurements",
    r"Image size .* exceeds limit.*": "the limit is data.max_megapixels, and larger pictures are refused",
    r".*your dataloader is not resumable.*": "the data module saves the position of the loader in checkpoints",
    r".*smaller than the logging interval.*": "the loss is logged by steps, regardless of the epochs",
    r".*logs directory .* exists and is not empty.*": "Hydra's files are there, and a resumed run keeps metrics.csv",
    r".*Checkpoint directory .* exists and is not empty.*": "a resumed run uses its folder again",
}


class Run:
    """An execution of train.py.

    folder: the run folder. sweep: the folder of the sweep to which the run belongs, or None.
    checkpoints_dir: the folder where the run publishes its weights.
    trainer: None until the Trainer is built. The processes that the Trainer starts end with the run.
    """

    def __init__(self, cfg: DictConfig, signals: Signals) -> None:
        job = HydraConfig.get()
        self.cfg, self.signals = cfg, signals
        self.folder = Path(job.runtime.output_dir)
        self.sweep = Path(job.runtime.cwd, job.sweep.dir) if job.mode == RunMode.MULTIRUN else None
        self.checkpoints_dir = check_path("checkpoints_dir", cfg.checkpoints_dir)
        self.trainer: pl.Trainer | None = None

    def end_processes(self, stopped: Stopped | None = None) -> None:
        """End the processes that this process has started. Otherwise they would wait for this process."""
        kill = getattr(self.trainer and self.trainer.strategy.launcher, "kill", None)
        if kill:
            kill(signal.SIGKILL)


@contextmanager
def running(cfg: DictConfig) -> Iterator[Run]:
    """Yield a run that is alone in its folder, ends after signals, and reports errors as sentences; see failures.py."""
    ready_streams()  # a job of a sweep may run in a separate process
    folder = Path(HydraConfig.get().runtime.output_dir)
    sweep.clear_failure(folder)
    with reported(folder), Signals() as signals, sweep.own_device(cfg), explained(cfg, folder), locked(folder):
        signals.farewells.append(partial(report_stop, folder))
        prepare_process()
        check_run(cfg)
        run = Run(cfg, signals)
        signals.farewells.append(run.end_processes)
        pl.seed_everything(cfg.seed, workers=True, verbose=False)
        try:
            yield run
        except BaseException:
            run.end_processes()
            raise


def prepare_process() -> None:
    """Send warnings to the log, except for irrelevant ones, and let the memory allocator keep freed memory."""
    for message in SILENCED:
        warnings.filterwarnings("ignore", message)
    logging.captureWarnings(True)
    if further_process():  # all processes may write to the same log file
        for handler in {*logging.getLogger().handlers, *logging.getLogger("train.record").handlers}:
            handler.setLevel(logging.ERROR)
    keep_freed_memory()
