"""The failures of a run: one sentence for a mistake of the user, and the command that resumes the run."""

import errno
import logging
import os
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import torch
from filelock import FileLock, Timeout
from hydra import errors
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig

from upscale_lit.errors import DivergedError, InputError, ShardError, WriteError, shown
from upscale_lit.launch import sweep
from upscale_lit.launch.commands import resume_command, resume_sweep_command
from upscale_lit.signals import Stopped
from upscale_lit.training.report import further_process

log = logging.getLogger(__name__)

# The system's error numbers for a disk that is full, read-only, missing or broken.
STORAGE = {getattr(errno, name, None) for name in ("ENOSPC", "EDQUOT", "EFBIG", "EROFS", "EACCES", "EIO", "ESTALE")}


class JobFailed(errors.CompactHydraException):
    """A job of a sweep has failed. The message names the job's folder. Unlike sys.exit, it does not end other jobs."""


@contextmanager
def reported(folder: Path) -> Iterator[None]:
    """Report the errors of a run as its last log lines and its exit code.

    In a sweep, an error is recorded in the job's folder, and the next job runs.
    """
    job = HydraConfig.get()
    in_sweep = job.mode == RunMode.MULTIRUN
    try:
        yield
    except Stopped as stopped:  # a signal ends the complete sweep
        report_stop(folder, stopped)
        sys.exit(stopped.code)
    except Exception as error:
        expected = isinstance(error, InputError)
        if not (expected or in_sweep):
            raise
        log.error("error: %s", error, exc_info=not expected)
        if not in_sweep:
            sys.exit(2)
        sweep.record_failure(folder, job.overrides.task, error)
        raise JobFailed(f"The job in {folder} has failed: {error}") from None


def report_stop(folder: Path, stopped: Stopped) -> None:
    """Log the commands that resume a run and its sweep after a signal."""
    if not further_process():
        log.error("Stopped by %s. Resume this run with: %s", stopped, resume_command(folder))
    job = HydraConfig.get()
    if job.mode == RunMode.MULTIRUN and Path(job.sweep.dir, "multirun.yaml").exists():  # not with every sweeper
        log.error("Resume the complete sweep with: %s", resume_sweep_command())


@contextmanager
def explained(cfg: DictConfig, folder: Path) -> Iterator[None]:
    """Turn errors that the command did not cause into sentences that end with the command to resume the run."""
    try:
        with LostProcess(folder):
            yield
    except DivergedError as error:
        way = resume_command(folder, f"optimizer.lr={cfg.optimizer.lr / 2:g}")
        raise InputError(f"{error} Resume from the last checkpoint with half the learning rate: {way}") from error
    except (WriteError, ShardError) as error:
        raise InputError(f"{error} When the cause is fixed, resume this run: {resume_command(folder)}") from error
    except RuntimeError as error:
        if not (isinstance(error, torch.distributed.DistError) or re.search(r"\bgloo\b|NCCL", str(error))):
            raise
        raise InputError(
            f"Another process of this run has ended or cannot be reached: {' '.join(str(error).split())} If that "
            f"process logged a reason, the reason is above. Resume the run: {resume_command(folder)}"
        ) from error
    except OSError as error:
        named = Path(os.fsdecode(error.filename)).absolute() if error.filename else None
        if error.errno not in STORAGE and not (named and named.is_relative_to(folder)):
            raise
        raise InputError(
            f"{shown(named or folder)} cannot be written: {error.strerror}. When the cause is fixed, resume this run: "
            f"{resume_command(folder)}"
        ) from error


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Lock the run's folder inside a `with` block. Further processes of the run share the lock.

    Raises InputError if another run has locked the folder.
    """
    lock = FileLock(folder / ".lock")
    try:
        with suppress(NotImplementedError):  # some file systems have no locks
            if not further_process():
                lock.acquire(timeout=0)
    except Timeout:
        raise InputError(f"Another process is training in {shown(folder)}. Wait for that process, or end it.") from None
    try:
        yield
    finally:
        lock.release()


class LostProcess(logging.Handler):
    """A log handler that logs the command to resume when Lightning reports that another process of the run has died.

    The handler is active in a `with` block. The handler logs the command at once, since Lightning then ends this
    process, too.
    """

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self.folder = folder

    def __enter__(self) -> None:
        logging.getLogger("lightning_fabric").addHandler(self)

    def __exit__(self, *error: object) -> None:
        logging.getLogger("lightning_fabric").removeHandler(self)

    def emit(self, record: logging.LogRecord) -> None:
        if "Child process" in record.getMessage():
            log.error("Another process of this run has ended. Resume the run: %s", resume_command(self.folder))
