"""Command lines that users can copy: to resume a run or a sweep, and to train another stage."""

import os
import re
import shlex
import sys
from pathlib import Path

from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode

PROGRAM = Path(__file__).parents[2] / "train.py"


def resume_command(folder: Path, *changes: str) -> str:
    """Return the command that resumes the run in `folder`. changes: overrides that replace overrides of the run."""
    given = HydraConfig.get()
    changed = {"ckpt_path", *(change.partition("=")[0] for change in changes)}
    task = [part for part in given.overrides.task if part.partition("=")[0] not in changed]
    kept = [] if given.mode == RunMode.MULTIRUN else given.overrides.hydra
    kept = [part for part in kept if not part.startswith(("hydra.run.dir=", "hydra.mode="))]
    return _command(*task, *kept, *changes, f"hydra.run.dir={quoted(folder)}", "ckpt_path=last")


def resume_sweep_command() -> str:
    """Return the command that resumes the sweep of this job."""
    kept = [word for word in sys.argv[1:] if not word.startswith(("ckpt_path=", "hydra.sweep.dir="))]
    folder = Path(HydraConfig.get().sweep.dir).absolute()
    return _command(*kept, f"hydra.sweep.dir={quoted(folder)}", "ckpt_path=last")


def stage_command(stage: str) -> str:
    """Return this run's command for another stage, without the options that are chosen for one stage only."""
    own = ("stage=", "stage.checkpoints", "ckpt_path=", "train=", "data.crop=", "data.batch_size=", "optimizer.")
    given = HydraConfig.get().overrides.task if HydraConfig.initialized() else []
    return shlex.join(["python", "train.py", f"stage={stage}", *(part for part in given if not part.startswith(own))])


def own_overrides() -> list[str]:
    """Return the overrides of this run, without ckpt_path. metrics.json records them in this form."""
    return [part for part in HydraConfig.get().overrides.task if not part.startswith("ckpt_path=")]


def quoted(path: Path) -> str:
    """Return a path as a value for Hydra's command line, with quotes if it needs them."""
    text = _short(path)
    if re.fullmatch(r"[\w/.+:@%-]+", text, re.ASCII):
        return text
    return "'" + text.replace("\\'", "\\\\'").replace("'", "\\'") + "'"


def _command(*words: str) -> str:
    return shlex.join(["python", _short(PROGRAM), *words])


def _short(path: Path) -> str:
    """Return a path as text, relative to the working directory if the path is below it."""
    return os.path.relpath(path) if path.is_relative_to(Path.cwd()) else str(path)
