"""Hydra's callback: a folder for each run and sweep, mistakes found before the first job, the table of a sweep."""

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
from omegaconf import DictConfig, OmegaConf, open_dict

from upscale_lit.errors import InputError, check_path, shown
from upscale_lit.launch import sweep
from upscale_lit.launch.commands import PROGRAM, quoted
from upscale_lit.models import STAGES

ORDER = (*STAGES.values(), "64to512")  # of the stages, each built on those before it


class SweepTable(Callback):
    """Writes the table of a sweep again after every job, and prints it at the end."""

    def on_run_start(self, config: DictConfig, **kwargs: Any) -> None:
        make_folder(config, "run")

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        check_sweep(config)
        make_folder(config, "sweep")
        if "submitit" in config.hydra.launcher._target_:  # its processes begin elsewhere; what lies next to train.py
            path = [str(PROGRAM.parent), *filter(None, [os.environ.get("PYTHONPATH")])]
            os.environ["PYTHONPATH"] = os.pathsep.join(dict.fromkeys(path))
        # Hydra leaves out on_multirun_end when a job has failed.
        atexit.register(print_table, Path(config.hydra.sweep.dir).absolute())

    def on_job_end(self, config: DictConfig, job_return: JobReturn, **kwargs: Any) -> None:
        if config.hydra.mode == RunMode.MULTIRUN:
            sweep.write_table(Path(config.hydra.runtime.cwd, config.hydra.sweep.dir))


def check_sweep(config: DictConfig) -> None:
    """Refuse a sweep whose jobs could not run in its order, or could not start their processes."""
    given, launcher = choices(config), config.hydra.launcher._target_
    stages, inputs = given.get("stage", []), given.get("stage.inputs", [config.stage.inputs])
    if ("64to512" in stages or "previous" in inputs) and len(set(stages)) > 1:
        if not launcher.endswith(".BasicLauncher"):
            refuse(
                f"a sweep over stage={','.join(stages)} builds one job on the weights of another, and {launcher} may "
                "run them at once. Leave out hydra/launcher=..., or train the stages in one sweep and what is built "
                "on them in a second one."
            )
        in_order = [stage for stage in ORDER if stage in stages]
        if [stage for stage in stages if stage in ORDER] != in_order:
            refuse(
                f"in a sweep over stage={','.join(stages)} a job would come before the stages that it is built on. "
                f"Give stage={','.join(in_order)}."
            )
    many = {str(config.trainer.devices), *given.get("trainer.devices", [])} - {"1"} or config.trainer.num_nodes != 1
    if many and config.trainer.strategy != "auto" and not launcher.endswith(".SlurmLauncher"):
        refuse(
            "a job of a sweep cannot start further processes from within this one. Give each job a separate process "
            "group: hydra/launcher=submitit_slurm hydra.launcher.tasks_per_node=DEVICES "
            "hydra.launcher.gpus_per_node=DEVICES; or run the jobs one by one; or one device for each job, "
            "trainer.devices=1."
        )
    if config.ckpt_path == "last" and not Path(config.hydra.sweep.dir, "multirun.yaml").exists():
        refuse(
            f"ckpt_path=last resumes a sweep, and {shown(Path(config.hydra.sweep.dir))} holds none. Name its folder "
            "with hydra.sweep.dir=DIR, or leave out ckpt_path."
        )


def make_folder(config: DictConfig, kind: str) -> None:
    """Make the folder of a run or sweep; one that is not named is new, also if others start in the same second."""
    if config.hydra.job.chdir:
        refuse(
            "hydra.job.chdir=true is not supported: relative paths are those of the folder in which the command is "
            "given, and everything that a run writes is in its own folder already. Leave it out."
        )
    named = any(part.startswith(f"hydra.{kind}.dir=") for part in config.hydra.overrides.hydra)
    together = max(int(os.environ.get(name, 1)) for name in ("WORLD_SIZE", "SLURM_NTASKS"))
    if kind == "run" and together > 1 and not named:
        refuse(
            f"{together} processes start this run: give them one folder, hydra.run.dir=DIR, such as "
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
            f"the folder {shown(wanted)} cannot be written to: {error.strerror}. Name another one with "
            f"hydra.{kind}.dir=DIR."
        )
    with open_dict(config):  # the override for the jobs of a sweep: each composes its own config
        config.hydra[kind].dir = str(folder)
        config.hydra.overrides.hydra.append(f"hydra.{kind}.dir={quoted(folder)}")


def new_folder(wanted: Path) -> Path:
    """Make a folder of this name, or with a number after it if there is one. Raises OSError."""
    wanted.parent.mkdir(parents=True, exist_ok=True)
    for number in count(1):
        folder = wanted if number == 1 else wanted.with_name(f"{wanted.name}_{number}")
        with suppress(FileExistsError):
            folder.mkdir()
            return folder
    raise AssertionError


def choices(config: DictConfig) -> dict[str, list[str]]:
    """What a sweep varies: key -> values, from the command line and from hydra.sweeper.params."""
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
    """Exit; Hydra would turn an exception in a callback into a warning."""
    print(f"error: {sentence}", file=sys.stderr)
    sys.exit(2)


def print_table(folder: Path) -> None:
    path = folder / "sweep.md"
    if path.exists():
        print(f"\n{path.read_text(encoding='utf-8')}\nTable         {path} (and .csv)")
