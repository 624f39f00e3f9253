"""The start of a run: from a checkpoint, weights, earlier stages, or nothing."""

import logging
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig
from torch import nn

from upscale_lit import models, shipped, weights
from upscale_lit.errors import InputError, check_path, shown
from upscale_lit.launch import sweep
from upscale_lit.launch.commands import stage_command
from upscale_lit.launch.facts import inputs_of, is_stack, network, network_facts, run_facts
from upscale_lit.launch.instantiate import instantiate
from upscale_lit.launch.record import record
from upscale_lit.launch.run import Run
from upscale_lit.models import STAGES, Upsampler8x
from upscale_lit.training.checkpoints import LAST, Checkpoint, check_facts, find_checkpoint

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Start:
    """The things from which a run starts.

    checkpoint: the checkpoint that the run resumes, or None.
    stages: the networks of earlier stages, by their names in the stack.
    origins: the origin of each earlier stage: its model and model_args, and the path and sha256 of its file, if any.
    """

    checkpoint: Checkpoint | None = None
    stages: dict[str, nn.Module] = field(default_factory=dict)
    origins: dict[str, dict[str, Any]] = field(default_factory=dict)


def find_start(run: Run) -> Start:
    """Find the start of a run. Raises InputError if a file is missing, damaged, or of another run."""
    cfg = run.cfg
    checkpoint = _checkpoint(run)
    record(cfg, run.folder)
    models.know(cfg.model._target_)
    facts, start = run_facts(cfg), Start()
    if checkpoint is not None:
        check_facts(checkpoint, facts)
        origins = dict(checkpoint.facts.get("earlier", {}))
        stages = {name: models.build(origin["model"], origin["model_args"]) for name, origin in origins.items()}
        start = Start(checkpoint, stages, origins)  # the checkpoint holds the stages' weights
    elif is_stack(cfg) and cfg.stage.stack == "untrained":
        if cfg.model.weights is not None:
            raise InputError(
                "stage.stack=untrained must start without weights; got "
                f"model.weights={cfg.model.weights}. Leave out one of these two options."
            )
        stages = {name: instantiate("model", network(cfg)) for name in cfg.stage.earlier}
        start = Start(None, stages, {name: network_facts(cfg) for name in stages})
    elif is_stack(cfg) and cfg.model.weights is not None:
        start = _from_stack(weights_file(cfg))
    elif is_stack(cfg) or inputs_of(cfg) == "previous":
        start = load_stages({name: stage_file(run, name) for name in cfg.stage.earlier})
    for name, origin in start.origins.items():
        digest = f", sha256 {origin['sha256']:.12}..." if "path" in origin else ""
        log.info("%-13s %s   (%s%s)", name, origin.get("path", "untrained"), origin["model"], digest)
    return start


def _checkpoint(run: Run) -> Checkpoint | None:
    """Return the checkpoint that the run resumes, or None.

    In a sweep, ckpt_path=last resumes the jobs that have a last.ckpt, and the other jobs start from the beginning. A
    job that SLURM restarts also resumes its last.ckpt.
    """
    cfg, ckpt_path = run.cfg, run.cfg.ckpt_path
    begun = (run.folder / "checkpoints" / LAST).exists()
    if ckpt_path == "last" and run.sweep and not begun:
        ckpt_path = None
    if begun and cfg.train and int(os.environ.get("SLURM_RESTART_COUNT", 0)):
        ckpt_path = "last"
    checkpoint = find_checkpoint(ckpt_path, run.folder)
    if checkpoint is None and cfg.train and begun:
        raise InputError(
            f"{shown(run.folder)} already holds a run. Resume that run with ckpt_path=last, or name another folder "
            f"with hydra.{'sweep' if run.sweep else 'run'}.dir=DIR."
        )
    return checkpoint


def _from_stack(path: Path) -> Start:
    stack, facts = weights.load_weights(path)
    if not isinstance(stack, Upsampler8x):
        raise InputError(f"{path} must hold the weights of a stack; it holds a {type(stack).__name__}.")
    origins = {name: {**_source(path, facts), **parts} for name, parts in facts["model_args"].items()}
    return Start(None, {name: getattr(stack, name) for name in origins}, origins)


def load_stages(files: dict[str, Path]) -> Start:
    """Load the networks of several 2x stages, each from a separate weights file.

    files: the paths by the stages' names in the stack, such as {"upsample_64": path, "upsample_128": path}.
    Raises InputError if a file is missing, damaged, or of another stage, factor or pixel range.
    """
    stages, origins = {}, {}
    for name, path in files.items():
        try:
            model, facts = weights.load_weights(path)
            check_stage(path, model, facts, STAGES[name])
        except InputError as error:
            raise InputError(
                f"{name} needs the weights of stage {STAGES[name]}. {error} Train this stage with "
                f"`{stage_command(STAGES[name])}`, or name another file with stage.checkpoints.{name}=FILE."
            ) from error
        stages[name] = model
        described = {"model": type(model).__name__, "model_args": facts.get("model_args", {})}
        origins[name] = {**_source(path, facts), **described}
    return Start(None, stages, origins)


def check_stage(path: Path, model: nn.Module, facts: dict[str, Any], stage: str) -> None:
    """Check that a weights file holds a 2x network of a stage such as "64to128". A file that names no stage passes.

    Raises InputError if the stage or the factor is another one.
    """
    if facts.get("stage", stage) != stage:
        raise InputError(f"{path} must hold weights of stage {stage}; it holds weights of stage {facts['stage']}.")
    if getattr(model, "factor", 2) != 2:
        raise InputError(f"{path} must hold a 2x network of stage {stage}; it holds one of factor {model.factor}.")


def new_network(cfg: DictConfig, checkpoint: Checkpoint | None) -> tuple[nn.Module, dict[str, str] | None]:
    """Return the configured network, and the path and sha256 of the weights file with which it starts, or None.

    For a resumed run, no file is loaded: the checkpoint holds the weights, and it records path and sha256.
    Raises InputError if the file is missing, damaged or of another network.
    """
    model: nn.Module = instantiate("model", network(cfg))
    if checkpoint is not None:
        return model, checkpoint.facts.get("weights")
    if cfg.model.weights is None:
        return model, None
    path = weights_file(cfg)
    loaded, facts = weights.load_weights(path)
    if difference := weights.differing(model.state_dict(), loaded.state_dict()):
        raise InputError(
            f"model.weights={cfg.model.weights} is of another network: {difference}. The file holds a {facts['model']} "
            f"with {facts['model_args']}. Choose this network with model=NAME."
        )
    model.load_state_dict(loaded.state_dict())
    log.info("The network starts with the weights of %s (sha256 %.12s...)", path, facts["sha256"])
    return model, _source(path, facts)


def _source(path: Path, facts: dict[str, Any]) -> dict[str, str]:
    """Return the facts that a run records about a weights file with which it starts."""
    return {"path": str(path.resolve()), "sha256": facts["sha256"]}


def weights_file(cfg: DictConfig) -> Path:
    """Return the path of the file that model.weights names."""
    return in_folder(check_path("model.weights", cfg.model.weights), cfg.stage.name)


def stage_file(run: Run, name: str) -> Path:
    """Return the path of an earlier stage's weights file. name: the stage's name in the stack.

    The user can name the file with stage.checkpoints. Otherwise, a file from the same sweep comes before the published
    file.
    """
    named, stage = run.cfg.stage.checkpoints[name], STAGES[name]
    if named is not None:
        return in_folder(check_path(f"stage.checkpoints.{name}", named), stage)
    overrides = HydraConfig.get().overrides.task
    own = run.sweep and sweep.own_file(run.sweep, stage, network_facts(run.cfg), run.cfg.seed, overrides)
    return own or run.checkpoints_dir / weights.file_name(stage)


def in_folder(path: Path, stage: str) -> Path:
    """Return the path of a weights file. path: the file, or a folder or shipped model that holds the stage's file."""
    place = shipped.place(path)
    if not place.is_dir():
        return place
    usual = place / weights.file_name(stage)
    files = usual, usual.with_suffix(".safetensors")
    return next((file for file in files if file.exists()), usual)
