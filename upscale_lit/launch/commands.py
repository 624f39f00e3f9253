"""Command lines that users can copy: to resume a run or a sweep, and to train another stage.

They name the program as the user has started it: `python train.py` or `upscale-lit train`.
"""

import os
import re
import shlex
from pathlib import Path

from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import OmegaConf

from upscale_lit.launch.search import places
from upscale_lit.program import PROGRAM, STARTED_AS


def program() -> str:
    """Return the program as the user has started it, for a shell."""
    return os.environ.get(STARTED_AS) or shlex.join(["python", _short(PROGRAM)])


def resume_command(folder: Path, *changes: str) -> str:
    """Return the command that resumes the run in `folder`. changes: overrides that replace overrides of the run."""
    return _command(*_repeated(*changes), *changes, f"hydra.run.dir={quoted(folder)}", "ckpt_path=last")


def repeat_command() -> str:
    """Return the command that repeats this run in a new folder, as a single run."""
    return _command(*_repeated())


def resume_sweep_command() -> str:
    """Return the command that resumes the sweep of this job."""
    folder = Path(HydraConfig.get().sweep.dir).absolute()
    given = OmegaConf.load(folder / "multirun.yaml").hydra.overrides  # a job knows only its own overrides
    left_out = ("hydra.sweep.dir=", "hydra.mode=", "ckpt_path=")
    kept = [part for part in (*given.task, *given.hydra) if not part.startswith(left_out)]
    return _command("-m", *kept, f"hydra.sweep.dir={quoted(folder)}", "ckpt_path=last")


def stage_command(stage: str) -> str:
    """Return this run's command for another stage, without the options that are chosen for one stage only."""
    own = ("stage=", "stage.checkpoints", "ckpt_path=", "train=", "data.crop=", "data.batch_size=", "optimizer.")
    given = HydraConfig.get().overrides.task if HydraConfig.initialized() else []
    kept = [part for part in given if not part.startswith(own)]
    return _command(f"stage={stage}", *kept, *_single_run())


def own_overrides() -> list[str]:
    """Return the overrides of this run, without ckpt_path. metrics.json records them in this form."""
    return [part for part in HydraConfig.get().overrides.task if not part.startswith("ckpt_path=")]


def quoted(path: Path) -> str:
    """Return a path as a value for Hydra's command line, with quotes if it needs them."""
    text = _short(path)
    if re.fullmatch(r"[\w/.+:@%-]+", text, re.ASCII):
        return text
    return "'" + text.replace("\\'", "\\\\'").replace("'", "\\'") + "'"


def _repeated(*changes: str) -> list[str]:
    """Return the overrides that repeat this run as a single run, without those of its folder, and without `changes`."""
    given = HydraConfig.get()
    changed = {change.partition("=")[0] for change in changes}
    task = [part for part in own_overrides() if part.partition("=")[0] not in changed]
    kept = [] if given.mode == RunMode.MULTIRUN else given.overrides.hydra
    kept = [part for part in kept if not part.startswith(("hydra.run.dir=", "hydra.mode="))]
    return [*task, *_single_run(), *kept]


def _single_run() -> list[str]:
    """Return the override that makes a single run of an experiment, since most experiments start a sweep."""
    chosen = HydraConfig.initialized() and HydraConfig.get().runtime.choices.get("experiment")
    return ["hydra.mode=RUN"] if chosen else []


def _command(*overrides: str) -> str:
    return f"{program()} {shlex.join([*_options(), *overrides])}"


def _options() -> list[str]:
    """Return the options with which this run finds its configuration."""
    if not HydraConfig.initialized():
        return []
    name = HydraConfig.get().job.config_name
    named = [] if name == "config" else [f"--config-name={name}"]
    return [*(f"{option}={_short(place)}" for option, place in places().items()), *named]


def _short(path: Path) -> str:
    """Return a path as text, relative to the working directory if the path is below it."""
    return os.path.relpath(path) if path.is_relative_to(Path.cwd()) else str(path)
