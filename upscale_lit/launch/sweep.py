"""The results of the jobs of a sweep: their table, and the weights files that one job takes from another."""

import csv
import json
import logging
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock, Timeout
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig

from upscale_lit.files import atomic
from upscale_lit.launch.commands import own_overrides
from upscale_lit.tables import markdown_table
from upscale_lit.training.validation import gain_of
from upscale_lit.weights import file_name

log = logging.getLogger(__name__)

FAILED = "failed.json"  # a failed job's overrides and error; other jobs have metrics.json
COLUMNS = {"val/psnr": ".3f", "val/gain": "+.3f", "seconds": ".0f"}
DEGRADED = {"val/score": ".3f", "val/psnr": ".3f", "val/gain": "+.3f", "val/gain_degraded": "+.3f", "seconds": ".0f"}


def jobs(folder: Path) -> list[dict[str, Any]]:
    """Return the results of all jobs that have ended, each with the job's `folder`: best job first, failed jobs last.

    The best job has the largest gain over bicubic (see `gain_of`). On the same validation pairs, the gain gives the
    same order as val/psnr, or as val/score with a degradation. Gains can also be compared between stages, but not
    between degradations.
    """
    well = [path for path in sorted(folder.rglob("metrics.json")) if not path.with_name(FAILED).exists()]
    paths = [*well, *sorted(folder.rglob(FAILED))]
    found: list[dict[str, Any]] = [{**json.loads(path.read_text()), "folder": str(path.parent)} for path in paths]
    return sorted(found, key=lambda job: -gain_of(job) if "val/gain" in job else float("inf"))


def record_failure(job: Path, overrides: Sequence[str], error: Exception) -> None:
    """Record in a job's folder that the job has failed, and why."""
    with atomic(job / FAILED) as part:
        part.write_text(json.dumps({"overrides": list(overrides), "error": f"{type(error).__name__}: {error}"}))


def clear_failure(job: Path) -> None:
    """Delete the record that a job in this folder has failed, because the job runs again or has finished."""
    (job / FAILED).unlink(missing_ok=True)


def finished(cfg: DictConfig) -> bool:
    """Return whether this is a job of a resumed sweep that has already finished."""
    job = HydraConfig.get()
    path = Path(job.runtime.output_dir, "metrics.json")
    ended = cfg.ckpt_path == "last" and job.mode == RunMode.MULTIRUN and path.exists()
    if not ended or json.loads(path.read_text())["overrides"] != own_overrides():
        return False
    clear_failure(path.parent)  # a later attempt may have failed
    log.info("This job has already finished in %s.", path.parent)
    return True


def own_file(folder: Path, stage: str, network: Mapping[str, Any], seed: int, overrides: Sequence[str]) -> Path | None:
    """Return the weights file of a stage that the same sweep has trained with the same model and seed, or None.

    If there are several files, the job that shares most overrides with `overrides` is preferred. Among such jobs, the
    job with the largest gain over bicubic is preferred.
    """
    wanted = {"stage": stage, "seed": seed, **network}
    files = [
        (len(set(job["overrides"]) & set(overrides)), file)
        for job in jobs(folder)
        if wanted.items() <= job.items() and (file := Path(job["folder"], file_name(stage))).exists()
    ]
    return max(files, key=lambda file: file[0])[1] if files else None  # of equal items, max returns the first, best one


@contextmanager
def own_device(cfg: DictConfig) -> Iterator[None]:
    """Reserve a GPU for a job of hydra/launcher=joblib on a machine with several GPUs. Do nothing for other jobs."""
    job, devices = HydraConfig.get(), torch.cuda.device_count()
    side_by_side = job.mode == RunMode.MULTIRUN and job.launcher._target_.endswith(".JoblibLauncher")
    if not side_by_side or devices < 2 or cfg.trainer.devices != 1 or cfg.trainer.accelerator == "cpu":
        yield
        return
    with free_device(Path(job.runtime.cwd, job.sweep.dir), devices) as number:
        cfg.trainer.devices = [number]
        yield


@contextmanager
def free_device(folder: Path, count: int) -> Iterator[int]:
    """Yield the number of one of `count` devices, and reserve this device for the `with` block.

    If other jobs of the sweep use all devices, wait until a device is free.
    """
    while True:
        for number in range(count):
            with suppress(Timeout), FileLock(folder / f".device_{number}.lock", timeout=0):
                yield number
                return
        time.sleep(1)


def write_table(folder: Path) -> None:
    """Write sweep.csv and sweep.md with one row for each job, best job first.

    The columns are the overrides that differ, the scores, the run folder and the error.
    """
    with FileLock(folder / ".sweep.lock"):  # jobs may end at the same time
        found = jobs(folder)
        overrides = [dict(part.partition("=")[::2] for part in job["overrides"]) for job in found]
        keys = list(dict.fromkeys(key for job in overrides for key in job))
        differing = [key for key in keys if len({job.get(key) for job in overrides}) > 1]
        columns = DEGRADED if any("val/score" in job for job in found) else COLUMNS
        heading = [*differing, *columns, "run folder", "error"]
        rows = []
        for job, given in zip(found, overrides, strict=True):
            scores = [format(job[name], form) if name in job else "" for name, form in columns.items()]
            where = os.path.relpath(job["folder"])
            rows.append([*(given.get(key, "") for key in differing), *scores, where, job.get("error", "")])
        with atomic(folder / "sweep.csv") as part, part.open("w", newline="", encoding="utf-8") as file:
            csv.writer(file).writerows([heading, *rows])
        with atomic(folder / "sweep.md") as part:
            part.write_text(_markdown(heading, rows), encoding="utf-8")


def _markdown(heading: list[str], rows: list[list[str]]) -> str:
    """Return the rows as a Markdown table, without columns that have no entries."""
    kept = [number for number in range(len(heading)) if any(row[number] for row in rows)]
    cells = ([row[number] for number in kept] for row in rows)
    return markdown_table([heading[number] for number in kept], cells) + "\n"
