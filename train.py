"""Train one stage: python train.py stage=128to256. All options: python train.py --help.

The only file that knows Hydra: it builds the objects from conf/, then trains, measures, and hands on the weights.
"""

import atexit
import copy
import errno
import inspect
import json
import logging
import os
import platform
import re
import shlex
import signal
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import partial
from importlib import metadata
from itertools import count
from pathlib import Path
from typing import Any, NoReturn

import hydra
import pytorch_lightning as pl
import torch
from filelock import FileLock, Timeout
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Glob
from hydra.core.utils import JobReturn
from hydra.errors import CompactHydraException, InstantiationException
from hydra.experimental.callback import Callback
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf, open_dict
from omegaconf.errors import OmegaConfBaseException
from pytorch_lightning.callbacks import ModelCheckpoint
from pytorch_lightning.loggers import Logger, TensorBoardLogger
from pytorch_lightning.utilities.exceptions import MisconfigurationException
from torch import nn

from upscale_lit import metrics, models, shipped, weights
from upscale_lit.allocator import keep_freed_memory
from upscale_lit.console import ready_streams
from upscale_lit.data.module import UpscaleDataModule
from upscale_lit.errors import (
    DivergedError,
    InputError,
    ShardError,
    WriteError,
    check_choice,
    check_path,
    shown,
)
from upscale_lit.files import whole
from upscale_lit.launch import publish, start, sweep
from upscale_lit.launch.options import check_run
from upscale_lit.models import Upsampler8x
from upscale_lit.signals import Signals, Stopped
from upscale_lit.training.callbacks import Average, HyperParameters, KeepLast, final_metrics
from upscale_lit.training.checkpoints import LAST, SafeCheckpointIO, check_facts, check_network, find_checkpoint
from upscale_lit.training.fit import REFUSED, fit, load, measure
from upscale_lit.training.grids import ImageGrid
from upscale_lit.training.module import UpscaleModule
from upscale_lit.training.optimizer import ScheduledAdamW
from upscale_lit.training.report import Progress, further_process, loggers, table

log = logging.getLogger("train")

PACKAGES = ("torchvision", "torchmetrics", "hydra-core", "omegaconf", "numpy", "pillow")  # beside those always named

SILENCED = {
    r".*LeafSpec.*": "Lightning 2.6 uses a class that torch 2.15 has deprecated",
    r".*module\(s\) in eval mode.*": "frozen BatchNorm is in eval mode on purpose",
    r".*when logging on epoch level in distributed setting.*": "the module has reduced what it logs",
    r".*does not have many workers.*": "examples are cheap; the number of workers was measured",
    r"Image size .* exceeds limit.*": "the limit is data.max_megapixels, and what is beyond it is refused",
    r".*your dataloader is not resumable.*": "ours is: the data module keeps its place",
    r".*smaller than the logging interval.*": "the loss is logged by steps, whatever the epochs",
    r".*logs directory .* exists and is not empty.*": "Hydra's files lie there; resuming carries metrics.csv over",
    r".*Checkpoint directory .* exists and is not empty.*": "the folder of the run that is resumed",
}


@hydra.main(version_base="1.3", config_path=str(Path(__file__).parent / "conf"), config_name="config")
def main(cfg: DictConfig) -> None:
    ready_streams()  # a job of a sweep may run in a process of its own
    job = HydraConfig.get()
    in_sweep = job.mode == RunMode.MULTIRUN
    folder = Path(job.runtime.output_dir)
    if in_sweep:
        sweep.clear_failure(folder)
        if cfg.ckpt_path == "last" and sweep.finished(folder, own_overrides()):
            log.info("%s holds this job, finished.", folder)
            return
    try:
        with Signals() as signals, device_of_its_own(cfg):
            signals.farewells.append(partial(report_stop, cfg, folder))
            safely(cfg, folder, signals)
    except Stopped as stopped:  # ends a sweep, too
        report_stop(cfg, folder, stopped)
        sys.exit(stopped.code)
    except Exception as error:
        expected = isinstance(error, InputError)
        if not (expected or in_sweep):
            raise
        log.error("error: %s", error, exc_info=not expected)
        if not in_sweep:
            sys.exit(2)
        sweep.record_failure(folder, job.overrides.task, error)  # an exit would take the other jobs along
        raise CompactHydraException(f"The job in {folder} has failed: {error}") from None


def report_stop(cfg: DictConfig, folder: Path, stopped: Stopped) -> None:
    """Say how this run, and its sweep, are resumed."""
    if not further_process():
        log.error("Stopped by %s. This run is resumed by: %s", stopped, again(cfg, folder))
    if HydraConfig.get().mode == RunMode.MULTIRUN:
        log.error("The whole sweep is resumed by: %s", sweep_again())


@contextmanager
def device_of_its_own(cfg: DictConfig) -> Iterator[None]:
    """For a job of hydra/launcher=joblib: a GPU that no other job of its sweep uses, where the machine has several."""
    job, devices = HydraConfig.get(), torch.cuda.device_count()
    side_by_side = job.mode == RunMode.MULTIRUN and job.launcher._target_.endswith(".JoblibLauncher")
    if not side_by_side or devices < 2 or cfg.trainer.devices != 1 or cfg.trainer.accelerator == "cpu":
        yield
        return
    with sweep.free_device(Path(job.runtime.cwd, job.sweep.dir), devices) as number:
        cfg.trainer.devices = [number]
        yield


# What the system says where a disk is full, read-only, gone or broken.
STORAGE = {getattr(errno, name, None) for name in ("ENOSPC", "EDQUOT", "EFBIG", "EROFS", "EACCES", "EIO", "ESTALE")}


def safely(cfg: DictConfig, folder: Path, signals: Signals) -> dict[str, Any]:
    """`run`, alone in its folder, and with the way on where what stopped it is no fault of the command."""
    lock = FileLock(folder / ".lock")
    try:
        if not further_process():  # those share the folder
            with suppress(NotImplementedError):  # a file system without locks
                lock.acquire(timeout=0)
        return run(cfg, signals)
    except Timeout:
        raise InputError(f"Another process is training in {shown(folder)}. Wait for it, or end it.") from None
    except DivergedError as error:
        command = again(cfg, folder, f"optimizer.lr={cfg.optimizer.lr / 2:g}")
        raise InputError(f"{error} Go on from the last checkpoint with half the rate: {command}") from error
    except (WriteError, ShardError) as error:
        raise InputError(f"{error} When that is mended, this run goes on with: {again(cfg, folder)}") from error
    except RuntimeError as error:
        lost = isinstance(error, torch.distributed.DistError) or re.search(r"\bgloo\b|NCCL", str(error))
        if not lost:
            raise
        raise InputError(
            f"Another process of this run has ended or cannot be reached: {' '.join(str(error).split())} Where it said "
            f"why, that stands above. The run goes on with: {again(cfg, folder)}"
        ) from error
    except OSError as error:
        named = Path(os.fsdecode(error.filename)).absolute() if error.filename else None
        if error.errno not in STORAGE and not (named and named.is_relative_to(folder)):
            raise
        raise InputError(
            f"{shown(named or folder)} cannot be written: {error.strerror}. When that is mended, this run goes on "
            f"with: {again(cfg, folder)}"
        ) from error
    finally:
        lock.release()


def again(cfg: DictConfig, folder: Path, *changes: str) -> str:
    """The command that goes on with this run."""
    given = HydraConfig.get().overrides
    changed = {change.partition("=")[0] for change in changes}
    task = [part for part in given.task if part.partition("=")[0] not in {"ckpt_path", *changed}]
    kept = [] if HydraConfig.get().mode == RunMode.MULTIRUN else [*given.hydra]
    kept = [part for part in kept if not part.startswith(("hydra.run.dir=", "hydra.mode="))]
    words = [*task, *kept, *changes, f"hydra.run.dir={quoted(folder)}", "ckpt_path=last"]
    return shlex.join(["python", below_here(Path(__file__)), *words])


def sweep_again() -> str:
    """The command that goes on with the sweep of this job."""
    kept = [word for word in sys.argv[1:] if not word.startswith(("ckpt_path=", "hydra.sweep.dir="))]
    words = [*kept, f"hydra.sweep.dir={quoted(Path(HydraConfig.get().sweep.dir).absolute())}", "ckpt_path=last"]
    return shlex.join(["python", below_here(Path(__file__)), *words])


def own_overrides() -> list[str]:
    """This run's overrides, as metrics.json keeps them."""
    return [part for part in HydraConfig.get().overrides.task if not part.startswith("ckpt_path=")]


def quoted(path: Path) -> str:
    """A path as a value on Hydra's command line."""
    text = below_here(path)
    if re.fullmatch(r"[\w/.+:@%-]+", text, re.ASCII):
        return text
    return "'" + text.replace("\\'", "\\\\'").replace("'", "\\'") + "'"


def below_here(path: Path) -> str:
    """A path, without the working directory where it lies below it."""
    return os.path.relpath(path) if path.is_relative_to(Path.cwd()) else str(path)


def run(cfg: DictConfig, signals: Signals) -> dict[str, Any]:
    """One run from its config: build, train, hand on. Returns what metrics.json holds. Raises InputError."""
    for message in SILENCED:
        warnings.filterwarnings("ignore", message)
    logging.captureWarnings(True)
    if further_process():  # Hydra may have given them one log file
        for handler in {*logging.getLogger().handlers, *logging.getLogger("train.record").handlers}:
            handler.setLevel(logging.ERROR)
    keep_freed_memory()
    check_run(resolved(cfg))
    checkpoints_dir = check_path("checkpoints_dir", cfg.checkpoints_dir)
    folder = Path(HydraConfig.get().runtime.output_dir)
    begun = (folder / "checkpoints" / LAST).exists()
    # In a sweep `last` goes on with what has begun; the other jobs begin. So does a job that SLURM starts once more.
    ckpt_path = None if cfg.ckpt_path == "last" and sweep_folder() and not begun else cfg.ckpt_path
    if begun and cfg.train and int(os.environ.get("SLURM_RESTART_COUNT", 0)):
        ckpt_path = "last"
    checkpoint = find_checkpoint(ckpt_path, folder)
    if checkpoint is None and cfg.train and begun:
        raise InputError(
            f"{shown(folder)} holds a run already. Go on with it by ckpt_path=last, or name another "
            f"hydra.{'sweep' if sweep_folder() else 'run'}.dir."
        )
    state = None if checkpoint is None else checkpoint.content

    pl.seed_everything(cfg.seed, workers=True, verbose=False)
    record(cfg, folder)

    models.know(cfg.model._target_)
    folder_of_photos = HydraConfig.get().runtime.choices.data == "folder"
    if OmegaConf.is_missing(cfg.data, "root") or (folder_of_photos and cfg.data.root is None):
        raise InputError("data=folder needs a folder of photos: give data.root=DIR.")
    if OmegaConf.is_missing(cfg.data, "urls"):
        raise InputError("data=shards needs what upscale-lit shard has made: give data.urls=SHARDS, a folder or a URL.")
    stacked = is_stack(cfg)
    facts = facts_of(cfg)
    if checkpoint is not None:
        check_facts(checkpoint, facts)
    earlier, origins = earlier_networks(cfg, state)
    previous = [] if stacked else list(earlier.values())
    for network_before in previous:
        network_before.to(memory_format=torch.channels_last).requires_grad_(False).eval()
    amounts = {name: cfg.stage[name] if inputs_of(cfg) == "augmented" else 0.0 for name in ("blur", "noise")}
    data: UpscaleDataModule = build("data", cfg.data, previous=previous, **amounts)
    model, started_from = (Upsampler8x(**earlier), None) if stacked else new_network(cfg, state)
    module = UpscaleModule(
        model,
        factor=cfg.stage.factor,
        loss=build("loss", cfg.loss),
        optimizer=ScheduledAdamW(**plain(cfg.optimizer)),
        facts={**facts, "earlier": origins, "weights": started_from},
        kernel=cfg.data.kernel,
        level_weights=plain(cfg.stage)["level_weights"] if stacked else None,
        chained=copy.deepcopy(model) if stacked and cfg.stage.stack == "trained" else None,
        previous=previous,
    )
    if checkpoint is not None:
        check_network(checkpoint, module)
    best = ModelCheckpoint(
        folder / "checkpoints",
        "best",
        monitor="val/psnr",
        mode="max",
        enable_version_counter=False,
        save_on_train_epoch_end=False,
    )
    last = KeepLast(folder / "checkpoints", **plain(cfg.checkpoint), signals=signals)
    grid = ImageGrid(folder / "grids", cfg.grid_columns, cfg.stage.factor)
    callbacks = [best, last, grid, hyper_parameters(plain(cfg))]
    if cfg.ema is not None:
        callbacks.append(Average(cfg.ema))
    if cfg.trainer.enable_progress_bar is not False:  # Lightning takes null for true
        callbacks.append(Progress())
    follows = any(isinstance(layer, nn.BatchNorm2d) and layer.training for layer in model.train().modules())
    lines = loggers(folder, None if state is None else int(state["global_step"]))
    trainer = build_trainer(cfg, callbacks, lines, folder / "checkpoints", sync_batchnorm=follows)
    signals.farewells.append(lambda stopped: end_processes(trainer))
    log.info("Device %s", trainer.strategy.root_device)
    data.setup("fit")
    check_together(trainer, data.batch_size, follows)

    lost = LostProcess(again(cfg, folder))
    logging.getLogger("lightning_fabric").addHandler(lost)
    try:
        if cfg.train:
            fit(trainer, module, data, checkpoint)
        else:
            load(module, checkpoint)
    except BaseException:
        end_processes(trainer)
        raise
    finally:
        logging.getLogger("lightning_fabric").removeHandler(lost)
    signals.check()
    if trainer.fast_dev_run:
        log.info("fast_dev_run: nothing is handed on.")
        return {}

    steps = trainer.global_step if cfg.train else checkpoint.steps if checkpoint else 0
    measured = measure(trainer, module, data)
    pairs = min(module.pairs, len(data.squares))  # fewer under trainer.limit_val_batches
    val_pairs = f"{data.val_digest}/{pairs}"
    result = {
        "stage": cfg.stage.name,
        "model": type(model).__name__,
        "model_args": models_of(origins) if stacked else network(cfg)[1],
        "inputs": inputs_of(cfg),
        "checkpoints": {
            name: {key: origin[key] for key in ("path", "sha256")}
            for name, origin in origins.items()
            if "path" in origin
        },
        "weights": started_from,
        "steps": steps,
        "seconds": round(module.seconds, 3),
        **measured,
        "pairs": pairs,
        "convention": metrics.CONVENTION.format(shave=cfg.stage.factor),
        "val_pairs": val_pairs,
        "seed": cfg.seed,
        "overrides": own_overrides(),
    }
    again_at_its_end = state is not None and state["global_step"] == steps and (folder / "metrics.json").exists()
    for logger in trainer.loggers:
        if isinstance(logger, TensorBoardLogger) and not again_at_its_end:
            logger.log_metrics(final_metrics(measured, module.seconds), steps)
            logger.save()
    handed = None
    if cfg.train and trainer.is_global_zero:
        file = folder / f"upscaler_{cfg.stage.name}.pt"
        told = {
            "model_args": result["model_args"], "stage": cfg.stage.name, "factor": cfg.stage.factor,
            "kernel": cfg.data.kernel, "inputs": inputs_of(cfg), "val_pairs": val_pairs, "steps": steps,
            "seed": cfg.seed, "metrics": measured, "sweep": str(sweep_folder() or ""),
        }  # fmt: skip
        weights.save_weights(file, model, told)
        handed = publish.hand_on(file, checkpoints_dir)
    if trainer.is_global_zero:
        with whole(folder / "metrics.json") as part:
            part.write_text(json.dumps(result, indent=2, allow_nan=False) + "\n")
        tell(result, folder, grid, handed, cfg.stage.next)
    return result


def end_processes(trainer: pl.Trainer) -> None:
    """End the processes that this one has started: they would wait for it."""
    if hasattr(trainer.strategy.launcher, "kill"):
        trainer.strategy.launcher.kill(signal.SIGKILL)


def resolved(cfg: DictConfig) -> dict[str, Any]:
    """The whole configuration as plain types. Raises InputError when something in it refers to nothing."""
    try:
        return plain(cfg)
    except OmegaConfBaseException as error:
        raise InputError(f"The configuration cannot be resolved: {' '.join(str(error).split())}") from error


def record(cfg: DictConfig, folder: Path) -> None:
    """Into the log: all that it takes to repeat this run."""
    git = ["git", "-C", str(Path(__file__).parent)]
    try:
        commit = subprocess.run([*git, "rev-parse", "HEAD"], capture_output=True, text=True, check=True).stdout.strip()
        changed = subprocess.run([*git, "status", "--porcelain"], capture_output=True, text=True, check=True).stdout
    except (OSError, subprocess.CalledProcessError):
        commit = changed = ""
    log.info("Run folder: %s", folder)
    log.info("torch %s, Lightning %s, Python %s, %d threads, seed %d%s%s", torch.__version__, pl.__version__,
             platform.python_version(), torch.get_num_threads(), cfg.seed, f", commit {commit[:12]}" if commit else "",
             " and changes" if changed else "")  # fmt: skip
    to_file = logging.getLogger("train.record")  # its handler is the log file alone
    to_file.info("In %s: %s", Path.cwd(), shlex.join([sys.executable, *sys.argv]))
    packages = {name: metadata.version(name) for name in PACKAGES}
    to_file.info("On %s with %s", platform.platform(), ", ".join(f"{name} {packages[name]}" for name in packages))
    to_file.info("The resolved configuration:\n%s", OmegaConf.to_yaml(cfg, resolve=True))


def network(cfg: DictConfig) -> tuple[str, dict[str, Any]]:
    """The name and the arguments of the configured 2x network, as in its weights file."""
    args = plain(architecture(cfg))
    return args.pop("_target_").rpartition(".")[2], args


def architecture(cfg: DictConfig) -> DictConfig:
    """The configured 2x network, apart from the weights that it starts with."""
    return OmegaConf.masked_copy(cfg.model, [name for name in cfg.model if name != "weights"])


def new_network(cfg: DictConfig, state: dict[str, Any] | None) -> tuple[nn.Module, dict[str, str] | None]:
    """The configured 2x network, and where the weights come from that it starts with: path, sha256. Raises InputError.

    A run that goes on has both from its checkpoint.
    """
    model: nn.Module = build("model", architecture(cfg))
    if state is not None:
        return model, state["hyper_parameters"]["facts"].get("weights")
    if cfg.model.weights is None:
        return model, None
    path = weights_file(cfg)
    loaded, facts = weights.load_weights(path)
    if difference := weights.differing(model.state_dict(), loaded.state_dict()):
        raise InputError(
            f"model.weights={cfg.model.weights} is of another network: {difference}. It holds a {facts['model']} with "
            f"{facts['model_args']}: choose that by model=."
        )
    model.load_state_dict(loaded.state_dict())
    log.info("The network starts with %s (sha256 %.12s...)", path, facts["sha256"])
    return model, {"path": str(path.resolve()), "sha256": facts["sha256"]}


def weights_file(cfg: DictConfig) -> Path:
    """The file that model.weights names."""
    return in_folder(check_path("model.weights", cfg.model.weights), cfg.stage.name)


def in_folder(path: Path, stage: str) -> Path:
    """A weights file: the one that is named, or that of a stage in a folder or a shipped model that is named."""
    place = shipped.place(path)
    if not place.is_dir():
        return place
    files = [place / f"upscaler_{stage}{ending}" for ending in (".pt", ".safetensors")]
    return next((file for file in files if file.exists()), files[0])


def is_stack(cfg: DictConfig) -> bool:
    """Whether this run trains a stack of 2x networks, not one network. Raises InputError where neither makes sense."""
    check_choice("stage.stack", cfg.stage.stack, ("trained", "untrained"))
    factor = cfg.model.get("factor", 2)
    stacked = bool(cfg.stage.factor == Upsampler8x.factor and factor == 2)
    if not stacked and factor != cfg.stage.factor:
        raise InputError(
            f"A network of model.factor={factor} does not fit stage={cfg.stage.name}, which makes pictures "
            f"{cfg.stage.factor} times as large: choose stage={'64to512_at_once' if factor == 8 else '64to128'}, or "
            "another model."
        )
    if not stacked and factor == Upsampler8x.factor and cfg.stage.level_weights is not None:
        raise InputError(
            f"stage.level_weights={list(cfg.stage.level_weights)} weighs the levels of a stack; this run trains one "
            "network. Give stage.level_weights=null."
        )
    return stacked


def facts_of(cfg: DictConfig) -> dict[str, Any]:
    """What tells this run from others: a checkpoint is gone on with only where it says the same."""
    stack = {"stage.stack": cfg.stage.stack} if is_stack(cfg) else {}
    with_files = stack.get("stage.stack") == "trained"  # they bring their networks
    return {
        "stage": cfg.stage.name,
        "stage.inputs": "photos" if inputs_of(cfg) == "augmented" else inputs_of(cfg),
        **(
            {
                "degradation": "blur_noise",
                **{f"degradation.{name}": float(cfg.stage[name]) for name in ("blur", "noise")},
            }
            if inputs_of(cfg) == "augmented"
            else {"degradation": "none"}
        ),
        **stack,
        **({} if with_files else {f"model.{name}": value for name, value in plain(architecture(cfg)).items()}),
        "loss": HydraConfig.get().runtime.choices.loss,
        "ema": cfg.ema,
        "trainer.accumulate_grad_batches": cfg.trainer.accumulate_grad_batches,
    }


def inputs_of(cfg: DictConfig) -> str:
    """What the network learns to upscale. A network that stands first is only ever fed photos."""
    check_choice("stage.inputs", cfg.stage.inputs, ("photos", "previous", "augmented"))
    first = not cfg.stage.earlier or cfg.stage.factor == Upsampler8x.factor
    return "photos" if first else str(cfg.stage.inputs)


def models_of(origins: dict[str, Any]) -> dict[str, Any]:
    """A stack's arguments: the model of each of its stages."""
    return {name: {key: origin[key] for key in ("model", "model_args")} for name, origin in origins.items()}


def earlier_networks(cfg: DictConfig, state: dict[str, Any] | None) -> tuple[dict[str, nn.Module], dict[str, Any]]:
    """The networks of earlier stages that this run is built on, and where each comes from: path, sha256, model.

    A run that goes on rebuilds those of its checkpoint, which holds their weights. Raises InputError.
    """
    networks: dict[str, nn.Module] = {}
    origins: dict[str, Any] = {}
    if state is not None:
        origins = dict(state["hyper_parameters"]["facts"].get("earlier", {}))
        for name, origin in origins.items():
            networks[name] = models.build(origin["model"], origin["model_args"])
    elif is_stack(cfg) and cfg.stage.stack == "untrained":
        if cfg.model.weights is not None:
            raise InputError(
                f"stage.stack=untrained begins without weights; found model.weights={cfg.model.weights}. Leave out one "
                "of the two."
            )
        for name in cfg.stage.earlier:
            networks[name] = build("model", architecture(cfg))
            origins[name] = dict(zip(("model", "model_args"), network(cfg), strict=True))
    elif is_stack(cfg) and cfg.model.weights is not None:
        path = weights_file(cfg)
        stack, facts_of_file = weights.load_weights(path)
        if not isinstance(stack, Upsampler8x):
            raise InputError(f"{path} holds a {type(stack).__name__}; a stack starts with the weights of a stack.")
        for name, parts in facts_of_file["model_args"].items():
            networks[name] = getattr(stack, name)
            origins[name] = {"path": str(path.resolve()), "sha256": facts_of_file["sha256"], **parts}
    elif is_stack(cfg) or inputs_of(cfg) == "previous":
        paths = {name: stage_file(cfg, name) for name in cfg.stage.earlier}
        networks, facts = start.load_checkpoints(paths, command)
        for name, path in paths.items():
            origins[name] = {
                "path": str(path.resolve()), "sha256": facts[name]["sha256"], "model": type(networks[name]).__name__,
                "model_args": facts[name].get("model_args", {}),
            }  # fmt: skip
    for name, origin in origins.items():
        if "path" in origin:
            log.info("%-13s %s   (%s, sha256 %.12s...)", name, origin["path"], origin["model"], origin["sha256"])
        else:
            log.info("%-13s untrained   (%s)", name, origin["model"])
    return networks, origins


def stage_file(cfg: DictConfig, name: str) -> Path:
    """Where an earlier stage's weights are: the file that was named, the sweep's own, or what was handed on."""
    named = cfg.stage.checkpoints[name]
    stage, folder = models.STAGES[name], sweep_folder()
    if named is not None:
        return in_folder(check_path(f"stage.checkpoints.{name}", named), stage)
    model, model_args = network(cfg)
    own = folder and sweep.own_file(folder, stage, model, model_args, cfg.seed, HydraConfig.get().overrides.task)
    return own or check_path("checkpoints_dir", cfg.checkpoints_dir) / f"upscaler_{stage}.pt"


def sweep_folder() -> Path | None:
    """The folder of the sweep that this job belongs to."""
    config = HydraConfig.get()
    return Path(config.runtime.cwd, config.sweep.dir) if config.mode == RunMode.MULTIRUN else None


def command(stage: str) -> str:
    """This run's command for another stage, without what is set for one stage only."""
    own = ("stage=", "stage.checkpoints", "ckpt_path=", "train=", "data.crop=", "data.batch_size=", "optimizer.")
    task = [part for part in HydraConfig.get().overrides.task if not part.startswith(own)]
    return shlex.join(["python", "train.py", f"stage={stage}", *task])


def plain(node: DictConfig) -> dict[str, Any]:
    container: Any = OmegaConf.to_container(node, resolve=True)
    return dict(container)


def build(group: str, node: DictConfig, **more: Any) -> Any:
    """What a group of options describes. Raises InputError, also if its class does not take options of these names."""
    try:
        parameters = inspect.signature(hydra.utils.get_object(node._target_))
    except (ImportError, AttributeError, ValueError, TypeError) as error:
        raise InputError(f"{group}._target_={node._target_} names nothing that can be called: {error}") from error
    try:
        parameters.bind(**dict.fromkeys([*(name for name in node if not str(name).startswith("_")), *more]))
    except TypeError as error:
        known = ", ".join(parameters.parameters)
        raise InputError(f"{group} does not fit {node._target_}: {error}. It takes {known}.") from error
    try:
        return hydra.utils.instantiate(node, _convert_="all", **more)
    except InstantiationException as error:
        if isinstance(error.__cause__, InputError):
            raise error.__cause__ from None
        raise


def build_trainer(
    cfg: DictConfig, callbacks: list[Any], loggers: list[Logger], checkpoints: Path, sync_batchnorm: bool = False
) -> pl.Trainer:
    if cfg.trainer.accelerator in ("gpu", "cuda") and not (
        torch.cuda.is_available() or torch.backends.mps.is_available()
    ):
        raise InputError(
            f"trainer.accelerator={cfg.trainer.accelerator} asks for a GPU, and torch {torch.__version__} finds none "
            "here. Give trainer.accelerator=cpu (or leave out trainer=gpu), or install a torch build for your GPU."
        )
    try:
        trainer: pl.Trainer = build(
            "trainer", cfg.trainer, callbacks=callbacks, logger=loggers, plugins=[SafeCheckpointIO(checkpoints)],
            sync_batchnorm=sync_batchnorm,
        )  # fmt: skip
    except InstantiationException as error:
        if isinstance(error.__cause__, (MisconfigurationException, ValueError, TypeError, ImportError)):
            raise InputError(f"{REFUSED} {error.__cause__}") from error
        raise
    return trainer


class LostProcess(logging.Handler):
    """Tells the way on where Lightning says that another process of the run has died: it ends this one right after."""

    def __init__(self, command: str) -> None:
        super().__init__()
        self.command = command

    def emit(self, record: logging.LogRecord) -> None:
        if record.getMessage().startswith("Child process") or "] Child process" in record.getMessage():
            log.error("Another process of this run has ended. The run goes on with: %s", self.command)


def check_together(trainer: pl.Trainer, batch_size: int, follows: bool) -> None:
    """Raises InputError where several processes could not do what one does: before others are started.

    follows: the network takes its BatchNorm statistics from whole batches.
    """
    ranks = trainer.world_size
    if batch_size % ranks:
        raise InputError(
            f"data.batch_size={batch_size} is that of all {ranks} processes together, and no multiple of {ranks}: give "
            f"{-(-batch_size // ranks) * ranks}."
        )
    if follows and ranks > 1 and trainer.strategy.root_device.type == "cpu":
        raise InputError(
            "model.batch_norm=batch takes the statistics of whole batches, which PyTorch synchronises on GPUs only. "
            "Give model.batch_norm=frozen, or trainer.devices=1."
        )


def hyper_parameters(config: dict[str, Any]) -> HyperParameters:
    """The config as text, and its single options."""
    flat = {
        f"{group}.{key}": value if isinstance(value, (int, float, str, bool)) else str(value)
        for group in ("stage", "model", "optimizer", "data", "trainer")
        for key, value in config[group].items()
    }
    return HyperParameters(OmegaConf.to_yaml(OmegaConf.create(config)), {**flat, "seed": config["seed"]})


def tell(result: dict[str, Any], folder: Path, grid: ImageGrid, handed: Path | None, following: str | None) -> None:
    """The table and the way on."""
    methods = {"bilinear": "_bilinear", "bicubic": "_bicubic"}
    if "val/psnr_chained" in result:
        methods |= {"chained": "_chained", "fine-tuned": ""}
    else:
        methods |= {result["model"]: ""}
    log.info("%s", table(result, methods, result["pairs"], result["convention"]))
    log.info("%d steps in %.0f s of training", result["steps"], result["seconds"])
    log.info("Run folder    %s", folder)
    log.info("Picture grid  %s   (rows: %s)", grid.latest, ", ".join(grid.rows))
    if handed is None:
        return
    log.info("Weights       %s", handed)
    log.info("Look at them  tensorboard --logdir outputs")
    if following and sweep_folder() is None:
        log.info("Go on         %s", command(following))


class SweepTable(Callback):
    """Hydra's callback: after every job the table of its sweep is written afresh; at the end it is printed."""

    def on_run_start(self, config: DictConfig, **kwargs: Any) -> None:
        refuse_chdir(config)
        own_folder(config, "run")

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        refuse_chdir(config)
        given = choices(config)
        stages, inputs = given.get("stage", []), given.get("stage.inputs", [config.stage.inputs])
        if ("64to512" in stages or "previous" in inputs) and len(set(stages)) > 1:
            in_order = [stage for stage in (*models.STAGES.values(), "64to512") if stage in stages]
            if not config.hydra.launcher._target_.endswith(".BasicLauncher"):
                refuse(
                    f"a sweep over stage={','.join(stages)} builds one job on the weights of another, and "
                    f"{config.hydra.launcher._target_} may run them at once. Leave out hydra/launcher=..., or train "
                    "the stages in one sweep and what is built on them in a second one."
                )
            if [stage for stage in stages if stage in in_order] != in_order:
                refuse(
                    f"in a sweep over stage={','.join(stages)} a job would come before the stages that it is built on. "
                    f"Give stage={','.join(in_order)}."
                )
        launcher = config.hydra.launcher._target_
        many = {str(config.trainer.devices), *given.get("trainer.devices", [])} - {"1"} or config.trainer.num_nodes != 1
        if many and config.trainer.strategy != "auto" and not launcher.endswith(".SlurmLauncher"):
            refuse(
                "a job of a sweep cannot start further processes from within this one. Give each job a process group "
                "of its own: hydra/launcher=submitit_slurm hydra.launcher.tasks_per_node=DEVICES "
                "hydra.launcher.gpus_per_node=DEVICES; or run the jobs one by one; or one device for each job, "
                "trainer.devices=1."
            )
        if config.ckpt_path == "last" and not Path(config.hydra.sweep.dir, "multirun.yaml").exists():
            refuse(
                f"ckpt_path=last goes on with a sweep, and {shown(Path(config.hydra.sweep.dir))} holds none. Name its "
                "folder by hydra.sweep.dir=DIR, or leave out ckpt_path."
            )
        own_folder(config, "sweep")
        if "submitit" in launcher:  # its processes begin elsewhere, and have to find this module
            path = [str(Path(__file__).parent), *filter(None, [os.environ.get("PYTHONPATH")])]
            os.environ["PYTHONPATH"] = os.pathsep.join(dict.fromkeys(path))
        # Hydra leaves out on_multirun_end when a job has failed.
        atexit.register(print_table, Path(config.hydra.sweep.dir).absolute())

    def on_job_end(self, config: DictConfig, job_return: JobReturn, **kwargs: Any) -> None:
        if config.hydra.mode == RunMode.MULTIRUN:
            sweep.write_table(Path(config.hydra.runtime.cwd, config.hydra.sweep.dir))


def refuse_chdir(config: DictConfig) -> None:
    if config.hydra.job.chdir:
        refuse(
            "hydra.job.chdir=true is not supported: relative paths are those of the folder in which the command is "
            "given, and everything that a run writes is in its own folder already. Leave it out."
        )


def own_folder(config: DictConfig, kind: str) -> None:
    """Make the folder of a run or sweep that has not named one: its own, also where others start in the same second."""
    named = any(part.startswith(f"hydra.{kind}.dir=") for part in config.hydra.overrides.hydra)
    together = max(int(os.environ.get(name, 1)) for name in ("WORLD_SIZE", "SLURM_NTASKS"))
    if kind == "run" and together > 1 and not named:
        refuse(
            f"{together} processes start this run: give them one folder, hydra.run.dir=DIR, such as "
            f"hydra.run.dir=outputs/{config.stage.name}/NAME."
        )
    try:
        check_path(f"hydra.{kind}.dir", config.hydra[kind].dir)
        check_path("hydra.sweep.subdir", OmegaConf.to_container(config.hydra.sweep)["subdir"])  # type: ignore[index]
    except InputError as error:
        refuse(str(error))
    wanted = Path(config.hydra[kind].dir)
    try:
        if named:
            wanted.mkdir(parents=True, exist_ok=True)
            tempfile.TemporaryFile(dir=wanted).close()
            return
        wanted.parent.mkdir(parents=True, exist_ok=True)
        for number in count(1):
            folder = wanted if number == 1 else wanted.with_name(f"{wanted.name}_{number}")
            with suppress(FileExistsError):
                folder.mkdir()
                break
    except OSError as error:
        refuse(
            f"the folder {shown(wanted)} cannot be written to: {error.strerror}. Name another one with "
            f"hydra.{kind}.dir=DIR."
        )
    with open_dict(config):  # the override for the jobs of a sweep: each composes its own config
        config.hydra[kind].dir = str(folder)
        config.hydra.overrides.hydra.append(f"hydra.{kind}.dir={quoted(folder)}")


def choices(config: DictConfig) -> dict[str, list[str]]:
    """What a sweep varies: key -> values, from the command line and from hydra.sweeper.params."""
    params = config.hydra.sweeper.get("params") or {}
    task = [*(f"{key}={value}" for key, value in params.items()), *config.hydra.overrides.task]
    found: dict[str, list[str]] = {}
    for override in OverridesParser.create().parse_overrides(task):
        if isinstance(override.value(), Glob):
            found[override.key_or_group] = override.value().filter(sorted([*models.STAGES.values(), "64to512"]))
        elif override.is_choice_sweep():
            found[override.key_or_group] = [str(value) for value in override.sweep_string_iterator()]
    return found


def refuse(sentence: str) -> NoReturn:
    print(f"error: {sentence}", file=sys.stderr)
    sys.exit(2)


def print_table(folder: Path) -> None:
    path = folder / "sweep.md"
    if path.exists():
        print(f"\n{path.read_text(encoding='utf-8')}\nTable         {path} (and .csv)")


if __name__ == "__main__":
    ready_streams()
    import train  # by its name, so that other processes (hydra/launcher=joblib) find what Hydra sends them

    train.main()
