"""Hydra's callback: it makes the folders of runs and sweeps, checks sweeps, and writes the table of a sweep."""

import atexit
import os
import sys
import tempfile
from contextlib import suppress
from itertools import count
from pathlib import Path
from typing import Any, NoReturn

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Glob
from hydra.core.utils import JobReturn
from hydra.experimental.callback import Callback
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf, open_dict, read_write

from upscale_lit.errors import InputError, check_path, shown
from upscale_lit.launch import sweep
from upscale_lit.launch.commands import quoted
from upscale_lit.models import STAGES
from upscale_lit.program import PROGRAM

ORDER = (*STAGES.values(), "64to512")  # a stage builds on stages before it


class SweepTable(Callback):
    """A callback of Hydra that writes the table of a sweep after every job, and prints the table at the end."""

    def on_run_start(self, config: DictConfig, **kwargs: Any) -> None:
        make_folder(config, "run")

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        check_sweep(config)
        make_folder(config, "sweep")
        if "submitit" in config.hydra.launcher._target_:
            # The jobs start in other processes, which find modules next to train.py through PYTHONPATH.
            path = [str(PROGRAM.parent), *filter(None, [os.environ.get("PYTHONPATH")])]
            os.environ["PYTHONPATH"] = os.pathsep.join(dict.fromkeys(path))
        # The table is printed at exit, since Hydra does not call on_multirun_end when a job has failed.
        atexit.register(print_table, Path(config.hydra.sweep.dir).absolute())

    def on_job_end(self, config: DictConfig, job_return: JobReturn, **kwargs: Any) -> None:
        if config.hydra.mode == RunMode.MULTIRUN:
            sweep.write_table(Path(config.hydra.runtime.cwd, config.hydra.sweep.dir))


def check_sweep(config: DictConfig) -> None:
    """Refuse a sweep whose jobs could not run in the given order or could not start their processes."""
    given, launcher = choices(config), config.hydra.launcher._target_
    stages, inputs = given.get("stage", []), given.get("stage.inputs", [config.stage.inputs])
    if ("64to512" in stages or "previous" in inputs) and len(set(stages)) > 1:
        if not launcher.endswith(".BasicLauncher"):
            refuse(
                f"In a sweep over stage={','.join(stages)}, jobs start with the weights of other jobs, and {launcher} "
                "may run all jobs at the same time. Leave out hydra/launcher=..., or train the stages in one sweep and "
                "the stages that are built on them in a second sweep."
            )
        in_order = [stage for stage in ORDER if stage in stages]
        if [stage for stage in stages if stage in ORDER] != in_order:
            refuse(
                f"In a sweep over stage={','.join(stages)}, a job would run before the stages that it is built on. "
                f"Give stage={','.join(in_order)}."
            )
    many = {str(config.trainer.devices), *given.get("trainer.devices", [])} - {"1"} or config.trainer.num_nodes != 1
    if many and config.trainer.strategy != "auto" and not launcher.endswith(".SlurmLauncher"):
        refuse(
            "A job of a sweep cannot start further processes. Give one device to each job with trainer.devices=1, "
            "or start each job with a separate command. SLURM can start the processes of each job: "
            "hydra/launcher=submitit_slurm hydra.launcher.tasks_per_node=DEVICES hydra.launcher.gpus_per_node=DEVICES"
        )
    if config.ckpt_path == "last" and not Path(config.hydra.sweep.dir, "multirun.yaml").exists():
        refuse(
            f"ckpt_path=last resumes a sweep; there is no sweep in {shown(Path(config.hydra.sweep.dir))}. Name the "
            "folder of the sweep with hydra.sweep.dir=DIR, or leave out ckpt_path."
        )


def make_folder(config: DictConfig, kind: str) -> None:
    """Make the folder of a run or a sweep. kind: "run" or "sweep".

    If the user does not name the folder, it is new, even if other runs start in the same second.
    """
    if config.hydra.job.chdir:
        refuse(
            "hydra.job.chdir=true is not supported: relative paths start at the folder in which the command is given. "
            "Leave out hydra.job.chdir. A run writes into its own folder without this option."
        )
    named = any(part.startswith(f"hydra.{kind}.dir=") for part in config.hydra.overrides.hydra)
    together = max(int(os.environ.get(name, 1)) for name in ("WORLD_SIZE", "SLURM_NTASKS"))
    if kind == "run" and together > 1 and not named:
        refuse(
            f"{together} processes start this run. Give all processes the same folder with hydra.run.dir=DIR, such as "
            f"hydra.run.dir=outputs/{config.stage.name}/NAME."
        )
    try:
        check_path(f"hydra.{kind}.dir", config.hydra[kind].dir)
        check_path("hydra.sweep.subdir", OmegaConf.to_container(config.hydra.sweep)["subdir"])  # type: ignore[index,call-overload]
        wanted = Path(config.hydra[kind].dir)
        if named:
            wanted.mkdir(parents=True, exist_ok=True)
            tempfile.TemporaryFile(dir=wanted).close()
            return
        folder = new_folder(wanted)
    except InputError as error:
        refuse(str(error))
    except OSError as error:
        refuse(
            f"The folder {shown(wanted)} cannot be written to: {error.strerror}. Name another folder with "
            f"hydra.{kind}.dir=DIR."
        )
    with read_write(config.hydra), open_dict(config.hydra):  # Hydra 1.4 makes the configuration of a sweep read-only
        config.hydra[kind].dir = str(folder)
        # Each job of a sweep composes its configuration again, from the overrides.
        config.hydra.overrides.hydra.append(f"hydra.{kind}.dir={quoted(folder)}")


def new_folder(wanted: Path) -> Path:
    """Make the folder `wanted`, and return its path. If it exists, a number is appended to the name. Raises OSError."""
    wanted.parent.mkdir(parents=True, exist_ok=True)
    for number in count(1):
        folder = wanted if number == 1 else wanted.with_name(f"{wanted.name}_{number}")
        with suppress(FileExistsError):
            folder.mkdir()
            return folder
    raise AssertionError


def choices(config: DictConfig) -> dict[str, list[str]]:
    """Return the options that a sweep varies: key -> values, from the command line and from hydra.sweeper.params."""
    params = config.hydra.sweeper.get("params") or {}
    task = [*(f"{key}={value}" for key, value in params.items()), *config.hydra.overrides.task]
    found: dict[str, list[str]] = {}
    for override in OverridesParser.create().parse_overrides(task):
        value = override.value()
        if isinstance(value, Glob):
            found[override.key_or_group] = value.filter(sorted(ORDER))
        elif override.is_choice_sweep():
            found[override.key_or_group] = [str(value) for value in override.sweep_string_iterator()]
    return found


def refuse(sentence: str) -> NoReturn:
    """Print an error and exit with code 2. Hydra would turn an exception in a callback into a warning."""
    print(f"error: {sentence}", file=sys.stderr)
    sys.exit(2)


def print_table(folder: Path) -> None:
    """Print the table of the sweep in `folder`, if there is one."""
    path = folder / "sweep.md"
    if path.exists():
        print(f"\n{path.read_text(encoding='utf-8')}\nTable         {path} (and .csv)")
