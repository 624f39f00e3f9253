"""Checks of options that no class of this package checks: options of the stage, the Trainer and the run."""

import os
import re
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException

from upscale_lit import errors
from upscale_lit.errors import InputError, check_choice, check_flag, check_number, check_whole, refuse_unless
from upscale_lit.launch.commands import program
from upscale_lit.launch.facts import plain
from upscale_lit.launch.instantiate import check_arguments, check_targets
from upscale_lit.models import FACTORS
from upscale_lit.training.callbacks import KeepLast
from upscale_lit.training.optimizer import ScheduledAdamW

OURS = ("callbacks", "logger", "plugins", "sync_batchnorm")  # arguments of the Trainer that train.py sets itself
ACCELERATORS = ("auto", "cpu", "gpu", "cuda", "mps")
SWITCHES = ("benchmark", "enable_progress_bar", "enable_model_summary")
# Programs that start processes on several machines set environment variables with these names or prefixes.
CLUSTER = ("MASTER_ADDR", "NODE_RANK", "TORCHELASTIC_RUN_ID", "SLURM_")


def check_run(cfg: DictConfig) -> None:
    """Check that the options of a run can be resolved, have the right types and are in range.

    Raises InputError for the first option that is wrong.
    """
    try:
        config = plain(cfg)
    except OmegaConfBaseException as error:
        raise InputError(f"The configuration cannot be resolved: {' '.join(str(error).split())}") from error
    for group in ("loss", "degradation"):
        if isinstance(config.get(group), str):  # the form of old YAML files
            raise InputError(
                f"{group}: {config[group]} in a YAML file must now be an entry of the file's defaults list: "
                f"defaults: [override /{group}: {config[group]}]. On the command line, give {group}={config[group]}."
            )
    for group in ("stage", "model", "optimizer", "data", "loss", "degradation", "trainer", "checkpoint"):
        refuse_unless(isinstance(config.get(group), Mapping), group, "a group of options", config.get(group))
    for group in ("model", "data", "loss", "degradation", "trainer"):
        for name, value in config[group].items():
            if value == "???":
                raise InputError(f"{group}.{name} must be given: {group}.{name}=...")
        target = config[group].get("_target_")
        none = group == "degradation" and target is None
        refuse_unless(_is_name(target) or none, f"{group}._target_", "a class name such as module.Class", target)
    check_targets(config)
    check_arguments("optimizer", ScheduledAdamW, config["optimizer"])
    check_arguments("checkpoint", KeepLast, config["checkpoint"], "folder", "signals")
    check_whole("seed", config["seed"], 0, 2**32 - 1)
    check_flag("train", config["train"])
    check_flag("branches", config["branches"])
    check_whole("grid_columns", config["grid_columns"])
    check_stage_options(config["stage"])
    check_trainer(config["trainer"])


def check_stage_options(stage: Mapping[str, Any]) -> None:
    """Check the options of the group `stage`. Raises InputError for the first option that is wrong."""
    check_choice("stage.factor", stage["factor"], FACTORS)
    check_whole("stage.size", stage["size"])
    refuse_unless(_is_name(stage["name"]), "stage.name", "a name, such as 64to128", stage["name"])
    follower = stage["next"]
    refuse_unless(follower is None or _is_name(follower), "stage.next", "the name of a stage, or null", follower)
    if stage["inputs"] == "augmented":
        raise InputError("stage.inputs=augmented has a new name: give degradation=blur_noise instead.")
    check_choice("stage.inputs", stage["inputs"], ("photos", "previous"))
    check_choice("stage.stack", stage["stack"], ("trained", "untrained"))
    levels, earlier, known = stage["level_weights"], stage["earlier"], stage["checkpoints"]
    numbers = levels is None or errors.are_numbers(levels)
    refuse_unless(numbers, "stage.level_weights", "a list of numbers, or null", levels)
    refuse_unless(isinstance(known, Mapping), "stage.checkpoints", "a file or null for each earlier stage", known)
    listed = isinstance(earlier, list) and all(_is_name(name) and name in known for name in earlier)
    refuse_unless(listed, "stage.earlier", f"a list of some of {', '.join(known)}", earlier)


def check_trainer(options: Mapping[str, Any]) -> None:
    """Check that the arguments of Lightning's Trainer have the right types and are in range.

    Lightning itself checks the arguments that are not in CHECKS.
    Raises InputError for the first argument that is wrong.
    """
    for name in OURS:
        if name in options:
            raise InputError(f"train.py itself sets trainer.{name}. Leave out this option.")
    if options.get("use_distributed_sampler"):
        raise InputError("trainer.use_distributed_sampler must be false: each process loads its own share of the data.")
    for name, check in CHECKS.items():
        if name in options:
            check(f"trainer.{name}", options[name])
    if options.get("num_nodes", 1) > 1 and not any(name.startswith(CLUSTER) for name in os.environ):
        raise InputError(
            f"trainer.num_nodes={options['num_nodes']} needs train.py to be started on each machine, by SLURM (srun "
            f"{program()} ...) or by torchrun: torchrun --nnodes={options['num_nodes']} --nproc-per-node=DEVICES "
            f"--rdzv-backend=c10d --rdzv-endpoint=HOST:29500 --no-python {program()} trainer.devices=DEVICES ... "
            "hydra.run.dir=DIR. For this machine alone, leave out trainer.num_nodes."
        )


def _is_name(value: Any) -> bool:
    return isinstance(value, str) and bool(value)


def _is_object(value: Any) -> bool:
    """Return whether an option describes an object by its class, `_target_`."""
    return isinstance(value, Mapping) and "_target_" in value


def _is_time(value: Any) -> bool:
    """Return whether Lightning reads a value as a time: "00:00:30:00", {minutes: 30}, or null for no limit."""
    if isinstance(value, str):
        return re.fullmatch(r"\d+:\d\d:\d\d:\d\d", value) is not None
    numbers = isinstance(value, Mapping) and errors.are_numbers([*value.values()])
    return value is None or (numbers and value.keys() <= {"weeks", "days", "hours", "minutes", "seconds"})


def _is_devices(value: Any) -> bool:
    """Return whether a value is a number of devices, a list of device numbers, or a string such as "auto" or "0,1"."""
    if isinstance(value, list):
        return bool(value) and all(errors.is_whole(number) and number >= 0 for number in value)
    return isinstance(value, str) or (errors.is_whole(value) and (value >= 1 or value == -1))


def _is_part(value: Any) -> bool:
    """Return whether Lightning reads a value as a number of batches, as a fraction of all batches, or as no limit."""
    return value is None or (errors.is_whole(value) and value >= 1) or (isinstance(value, float) and 0 < value <= 1)


def _must_be(expected: str, holds: Callable[[Any], bool]) -> Callable[[str, Any], None]:
    return lambda name, value: refuse_unless(holds(value), name, expected, value)


_check_part = _must_be("a number of batches from 1, or a fraction above 0.0 and up to 1.0, or null", _is_part)
_check_name = _must_be("a name, or null", lambda value: value is None or _is_name(value) or _is_object(value))

CHECKS: dict[str, Callable[[str, Any], object]] = {
    "accelerator": lambda name, value: None if _is_object(value) else check_choice(name, value, ACCELERATORS),
    "devices": _must_be('a whole number from 1 upwards, or -1, or "auto"', _is_devices),
    **dict.fromkeys(("num_nodes", "accumulate_grad_batches"), check_whole),
    "max_epochs": partial(check_whole, or_else=[-1, None]),
    "max_steps": partial(check_whole, or_else=[-1]),
    "max_time": _must_be("a time in the form days:hours:minutes:seconds, such as 00:00:30:00, or null", _is_time),
    **dict.fromkeys(("min_epochs", "min_steps"), partial(check_whole, low=0, or_else=[None])),
    **dict.fromkeys(("check_val_every_n_epoch", "log_every_n_steps"), partial(check_whole, or_else=[None])),
    "gradient_clip_val": partial(check_number, low=0, or_else=[None]),
    "gradient_clip_algorithm": partial(check_choice, choices=[None, "norm", "value"]),
    **dict.fromkeys(("limit_train_batches", "limit_val_batches"), _check_part),
    "overfit_batches": _must_be(
        "0 or left out, since every epoch has new examples (to see whether a network can learn, give "
        "data=folder data.root=DIR with a few photos)",
        lambda value: errors.is_number(value) and not value,
    ),
    "val_check_interval": lambda name, value: None if _is_time(value) else _check_part(name, value),
    "num_sanity_val_steps": partial(check_whole, low=-1, or_else=[None]),
    "fast_dev_run": lambda name, value: None if errors.is_whole(value) and value >= 0 else check_flag(name, value),
    "deterministic": partial(check_choice, choices=[None, True, False, "warn"]),
    **dict.fromkeys(SWITCHES, partial(check_choice, choices=[None, True, False])),
    "detect_anomaly": check_flag,
    "default_root_dir": lambda name, value: None if value is None else errors.check_path(name, value),
    **dict.fromkeys(("profiler", "strategy"), _check_name),
}
