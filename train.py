"""Train one stage: python train.py stage=128to256. All options: python train.py --help.

The only file that knows Hydra: it builds the objects from conf/, then trains, measures, and hands on the weights.
"""

import atexit
import copy
import csv
import json
import logging
import platform
import shlex
import sys
import warnings
from pathlib import Path
from typing import Any, NoReturn

import hydra
import pytorch_lightning as pl
import torch
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Glob
from hydra.core.utils import JobReturn
from hydra.errors import CompactHydraException, InstantiationException
from hydra.experimental.callback import Callback
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from pytorch_lightning.callbacks import LearningRateMonitor, ModelCheckpoint
from pytorch_lightning.loggers import CSVLogger, Logger, TensorBoardLogger
from pytorch_lightning.utilities.exceptions import MisconfigurationException
from torch import nn

from upscale_lit import metrics, sweep, weights
from upscale_lit.allocator import keep_freed_memory
from upscale_lit.data import UpscaleDataModule
from upscale_lit.errors import InputError
from upscale_lit.grids import ImageGrid
from upscale_lit.models import Upsampler8x
from upscale_lit.module import UpscaleModule
from upscale_lit.report import Progress, table

log = logging.getLogger("train")

SILENCED = {
    r".*LeafSpec.*": "Lightning 2.6 uses a class that torch 2.15 has deprecated",
    r".*module\(s\) in eval mode.*": "frozen BatchNorm is in eval mode on purpose",
    r".*does not have many workers.*": "examples are cheap; the number of workers was measured",
    r".*logs directory .* exists and is not empty.*": "Hydra's files lie there; resuming carries metrics.csv over",
    r".*Checkpoint directory .* exists and is not empty.*": "the folder of the run that is resumed",
}


@hydra.main(version_base="1.3", config_path=str(Path(__file__).parent / "conf"), config_name="config")
def main(cfg: DictConfig) -> None:
    job = HydraConfig.get()
    in_sweep = job.mode == RunMode.MULTIRUN
    folder = Path(job.runtime.output_dir)
    if in_sweep:
        sweep.clear_failure(folder)
    try:
        run(cfg)
    except Exception as error:
        expected = isinstance(error, InputError)
        if not (expected or in_sweep):
            raise
        log.error("error: %s", error, exc_info=not expected)
        if not in_sweep:
            sys.exit(2)
        sweep.record_failure(folder, job.overrides.task, error)  # an exit would take the other jobs along
        raise CompactHydraException(f"The job in {folder} has failed: {error}") from None


def run(cfg: DictConfig) -> dict[str, Any]:
    """One run from its config: build, train, hand on. Returns what metrics.json holds. Raises InputError."""
    for message in SILENCED:
        warnings.filterwarnings("ignore", message)
    logging.captureWarnings(True)
    keep_freed_memory()
    folder = Path(HydraConfig.get().runtime.output_dir)
    ckpt = find_checkpoint(cfg.ckpt_path, folder)
    state = None if ckpt is None else weights.read_file(ckpt, "checkpoint")

    if not isinstance(cfg.seed, int) or not 0 <= cfg.seed < 2**32:
        raise InputError(f"seed is a whole number from 0 to {2**32 - 1}; found {cfg.seed!r}.")
    pl.seed_everything(cfg.seed, workers=True, verbose=False)
    log.info("Run folder: %s", folder)
    log.info("torch %s, Lightning %s, Python %s, %d threads", torch.__version__, pl.__version__,
             platform.python_version(), torch.get_num_threads())  # fmt: skip

    if OmegaConf.is_missing(cfg.data, "root"):
        raise InputError("data=folder needs a folder of photos: give data.root=DIR.")
    stacked = cfg.stage.factor == Upsampler8x.factor
    inputs = inputs_of(cfg)
    if ckpt is not None and state is not None:
        check_stage(ckpt, state, cfg.stage.name, inputs)
    earlier, origins = earlier_networks(cfg, state)
    previous = [] if stacked else list(earlier.values())
    amounts = {name: cfg.stage[name] if inputs == "augmented" else 0.0 for name in ("blur", "noise")}
    data: UpscaleDataModule = build(cfg.data, previous=previous, **amounts)
    model = Upsampler8x(**earlier) if stacked else build(cfg.model)
    model_args = {name: {key: origins[name][key] for key in ("model", "model_args")} for name in origins}
    module = UpscaleModule(
        model,
        factor=cfg.stage.factor,
        facts={"stage": cfg.stage.name, "inputs": inputs, "earlier": origins},
        kernel=cfg.data.kernel,
        level_weights=plain(cfg.stage)["level_weights"] if stacked else None,
        chained=copy.deepcopy(model) if stacked else None,
        previous=previous,
        **plain(cfg.optimizer),
    )
    if ckpt is not None and state is not None:
        check_network(ckpt, state, module)
    best = ModelCheckpoint(
        folder / "checkpoints", "best", monitor="val/psnr", mode="max", save_last=True, enable_version_counter=False
    )
    grid = ImageGrid(folder / "grids", cfg.grid_columns, cfg.stage.factor)
    callbacks = [best, grid, LearningRateMonitor("step")]
    if cfg.trainer.enable_progress_bar:
        callbacks.append(Progress())
    trainer = build_trainer(cfg, callbacks, loggers(folder, None if state is None else int(state["global_step"])))
    data.setup("fit")

    steps = train(trainer, module, data, best, plain(cfg), ckpt) if cfg.train else load(module, state)
    if trainer.fast_dev_run:
        log.info("fast_dev_run: nothing is handed on.")
        return {}

    # What is told is measured on the very weights that are handed on, and not mixed into the training curves.
    loggers_of_run, trainer.loggers = trainer.loggers, []
    values = trainer.validate(module, datamodule=data, verbose=False)[0]
    measured = {name: value for name, value in values.items() if name.startswith("val/")}
    pairs = len(module.baselines)  # fewer than data.squares under trainer.limit_val_batches
    val_pairs = f"{data.val_digest}/{pairs}"
    result = {
        "stage": cfg.stage.name,
        "model": type(model).__name__,
        "model_args": model_args if stacked else network(cfg)[1],
        "inputs": inputs,
        "checkpoints": {name: {key: origin[key] for key in ("path", "sha256")} for name, origin in origins.items()},
        "steps": steps,
        "seconds": round(module.seconds, 3),
        **measured,
        "pairs": pairs,
        "convention": metrics.CONVENTION.format(shave=cfg.stage.factor),
        "val_pairs": val_pairs,
        "seed": cfg.seed,
        "overrides": list(HydraConfig.get().overrides.task),
    }
    for logger in loggers_of_run:
        if isinstance(logger, TensorBoardLogger):
            logger.log_metrics(final(measured, module.seconds), steps)
            logger.save()
    handed = None
    if cfg.train and trainer.is_global_zero:
        file = folder / f"upscaler_{cfg.stage.name}.pt"
        facts = {
            "model_args": result["model_args"], "stage": cfg.stage.name, "factor": cfg.stage.factor,
            "kernel": cfg.data.kernel, "inputs": inputs, "val_pairs": val_pairs, "steps": steps, "seed": cfg.seed,
            "metrics": measured, "sweep": str(sweep_folder() or ""),
        }  # fmt: skip
        weights.save_weights(file, model, facts)
        handed = weights.hand_on(file, Path(cfg.checkpoints_dir).expanduser())
    if trainer.is_global_zero:
        with weights.whole(folder / "metrics.json") as part:
            part.write_text(json.dumps(result, indent=2, allow_nan=False) + "\n")
        tell(result, folder, grid, handed, cfg.stage.next)
    return result


def network(cfg: DictConfig) -> tuple[str, dict[str, Any]]:
    """The name and the arguments of the configured 2x network, as in its weights file."""
    args = plain(cfg.model)
    return args.pop("_target_").rpartition(".")[2], args


def inputs_of(cfg: DictConfig) -> str:
    """What the network learns to upscale. A network that stands first is only ever fed photos."""
    kinds = ("photos", "previous", "augmented")
    if cfg.stage.inputs not in kinds:
        raise InputError(f"stage.inputs is one of {', '.join(kinds)}; found {cfg.stage.inputs!r}.")
    first = not cfg.stage.earlier or cfg.stage.factor == Upsampler8x.factor
    return "photos" if first else str(cfg.stage.inputs)


def earlier_networks(cfg: DictConfig, state: dict[str, Any] | None) -> tuple[dict[str, nn.Module], dict[str, Any]]:
    """The networks of earlier stages that this run is built on, and where each comes from: path, sha256, model.

    A run that goes on rebuilds those of its checkpoint, which holds their weights. Raises InputError.
    """
    networks: dict[str, nn.Module] = {}
    origins: dict[str, Any] = {}
    if state is not None:
        origins = dict(state["hyper_parameters"]["facts"].get("earlier", {}))
        for name, origin in origins.items():
            networks[name] = weights.build(origin["model"], origin["model_args"])
    elif cfg.stage.factor == Upsampler8x.factor or inputs_of(cfg) == "previous":
        paths = {name: stage_file(cfg, name) for name in cfg.stage.earlier}
        networks, facts = weights.load_checkpoints(paths, command)
        for name, path in paths.items():
            origins[name] = {
                "path": str(path.resolve()), "sha256": facts[name]["sha256"], "model": type(networks[name]).__name__,
                "model_args": facts[name].get("model_args", {}),
            }  # fmt: skip
    for name, origin in origins.items():
        log.info("%-13s %s   (%s, sha256 %.12s...)", name, origin["path"], origin["model"], origin["sha256"])
    return networks, origins


def stage_file(cfg: DictConfig, name: str) -> Path:
    """Where an earlier stage's weights are: the file that was named, the sweep's own, or what was handed on."""
    named = cfg.stage.checkpoints[name]
    if named is not None:
        return Path(named).expanduser()
    stage, folder = weights.STAGES[name], sweep_folder()
    model, model_args = network(cfg)
    own = folder and sweep.own_file(folder, stage, model, model_args, cfg.seed, HydraConfig.get().overrides.task)
    return own or Path(cfg.checkpoints_dir).expanduser() / f"upscaler_{stage}.pt"


def sweep_folder() -> Path | None:
    """The folder of the sweep that this job belongs to."""
    config = HydraConfig.get()
    return Path(config.runtime.cwd, config.sweep.dir) if config.mode == RunMode.MULTIRUN else None


def command(stage: str) -> str:
    """This run's command for another stage, without what is set for one stage only."""
    own = ("stage=", "stage.checkpoints", "ckpt_path=", "train=", "data.crop=", "data.batch_size=", "optimizer.")
    task = [part for part in HydraConfig.get().overrides.task if not part.startswith(own)]
    return shlex.join(["python", "train.py", f"stage={stage}", *task])


def final(measured: dict[str, float], seconds: float) -> dict[str, float]:
    """What HPARAMS shows of a run: the columns of a sweep's table."""
    return {"final/psnr": measured["val/psnr"], "final/gain": measured["val/gain"], "final/seconds": seconds}


def train(
    trainer: pl.Trainer,
    module: UpscaleModule,
    data: UpscaleDataModule,
    best: ModelCheckpoint,
    config: dict[str, Any],
    ckpt: Path | None,
) -> int:
    """Validate the start, fit, and leave the best weights seen in `module`. Returns the steps done."""
    if ckpt is None and not trainer.fast_dev_run:
        start = trainer.validate(module, datamodule=data, verbose=False)[0]
        log_config(trainer, config, start)
    trainer.fit(module, datamodule=data, ckpt_path=ckpt, weights_only=True)
    steps = trainer.global_step
    if trainer.fast_dev_run:
        return steps
    if module.validated_step != steps:  # the run was shorter than, or no multiple of, the validation interval
        trainer.validate(module, datamodule=data, verbose=False)
    folder = Path(str(best.dirpath))
    trainer.save_checkpoint(folder / "last.ckpt")
    values = trainer.callback_metrics
    psnr = values["val/psnr"]
    if best.best_model_score is None or psnr >= best.best_model_score:
        trainer.save_checkpoint(folder / "best.ckpt")
    else:
        psnr = best.best_model_score
        kept = weights.read_file(folder / "best.ckpt", "checkpoint")
        log.info("The best weights are those of step %d.", kept["global_step"])
        module.load_state_dict(kept["state_dict"])
    if module.chained is not None and values["val/psnr_chained"] > psnr:
        log.warning("No validation was better than the chained stages at the start: their weights are handed on.")
        module.model.load_state_dict(module.chained.state_dict())
    return steps


def load(module: UpscaleModule, state: dict[str, Any] | None) -> int:
    """Leave the checkpoint's weights, or the start's, in `module`. Returns the steps that they have seen."""
    if state is None:
        return 0
    module.load_state_dict(state["state_dict"])
    module.on_load_checkpoint(state)
    return int(state["global_step"])


def plain(node: DictConfig) -> dict[str, Any]:
    container: Any = OmegaConf.to_container(node, resolve=True)
    return dict(container)


def build(node: DictConfig, **more: Any) -> Any:
    try:
        return hydra.utils.instantiate(node, _convert_="all", **more)
    except InstantiationException as error:
        if isinstance(error.__cause__, InputError):
            raise error.__cause__ from None
        raise


def build_trainer(cfg: DictConfig, callbacks: list[Any], loggers: list[Logger]) -> pl.Trainer:
    if cfg.trainer.accelerator in ("gpu", "cuda") and not (
        torch.cuda.is_available() or torch.backends.mps.is_available()
    ):
        raise InputError(
            f"trainer.accelerator={cfg.trainer.accelerator} asks for a GPU, and torch {torch.__version__} finds none "
            "here. Give trainer.accelerator=cpu (or leave out trainer=gpu), or install a torch build for your GPU."
        )
    if cfg.trainer.limit_val_batches == 0:
        raise InputError("trainer.limit_val_batches=0 leaves nothing to measure the weights by: give 1 or more.")
    try:
        trainer: pl.Trainer = build(cfg.trainer, callbacks=callbacks, logger=loggers)
    except InstantiationException as error:
        if isinstance(error.__cause__, (MisconfigurationException, ValueError, TypeError)):
            raise InputError(f"Lightning's Trainer does not take these trainer.* options: {error.__cause__}") from error
        raise
    return trainer


def loggers(folder: Path, step: int | None) -> list[Logger]:
    """TensorBoard and metrics.csv, both in the run folder; on resuming they go on at the checkpoint's step."""
    purge = {} if step is None else {"purge_step": step + 1}
    tensorboard = TensorBoardLogger(folder, name="", version="", default_hp_metric=False, **purge)
    table = CSVLogger(folder, name="", version="")
    history = folder / "metrics.csv"
    if step is not None and history.exists():  # CSVLogger starts an empty file
        with history.open(newline="") as file:
            rows = list(csv.DictReader(file))
        for row in rows:
            at = int(row.pop("step"))
            if at <= step:
                table.log_metrics({name: float(value) for name, value in row.items() if value}, at)
        table.save()
    return [tensorboard, table]


def log_config(trainer: pl.Trainer, config: dict[str, Any], start: Any) -> None:
    """The config as text, and the flat hyper-parameters with the metrics by which HPARAMS compares runs."""
    text = OmegaConf.to_yaml(OmegaConf.create(config))
    flat = {
        f"{group}.{key}": value if isinstance(value, (int, float, str, bool)) else str(value)
        for group in ("stage", "model", "optimizer", "data", "trainer")
        for key, value in config[group].items()
    }
    for logger in trainer.loggers:
        if isinstance(logger, TensorBoardLogger):
            logger.experiment.add_text("config", f"```yaml\n{text}\n```", 0)
            logger.log_hyperparams({**flat, "seed": config["seed"]}, final(start, 0.0))


def find_checkpoint(ckpt_path: str | None, folder: Path) -> Path | None:
    if ckpt_path is None:
        return None
    path = folder / "checkpoints" / "last.ckpt" if ckpt_path == "last" else Path(ckpt_path).expanduser()
    if not path.is_file():
        way = (
            "ckpt_path=last looks in the run folder: name the run to go on with by hydra.run.dir=RUN_FOLDER."
            if ckpt_path == "last"
            else "Give the path of a last.ckpt or best.ckpt in some run's checkpoints folder."
        )
        raise InputError(f"There is no checkpoint at {path}. {way}")
    return path


def check_stage(ckpt: Path, content: dict[str, Any], stage: str, inputs: str) -> None:
    """Raises InputError when the checkpoint is none, or of another stage, or of other inputs."""
    if not isinstance(content.get("state_dict"), dict) or "global_step" not in content:
        raise InputError(f"{ckpt} should be a checkpoint of a run (best.ckpt, last.ckpt); it is something else.")
    facts = {"inputs": "photos", **content.get("hyper_parameters", {}).get("facts", {})}  # older ones do not say
    for key, ours in (("stage", stage), ("stage.inputs", inputs)):
        found = facts.get(key.removeprefix("stage."))
        if found != ours:
            raise InputError(f"{ckpt} belongs to {key}={found}; this is {key}={ours}. Give {key}={found}.")


def check_network(ckpt: Path, content: dict[str, Any], module: UpscaleModule) -> None:
    """Raises InputError when the checkpoint is of another network."""
    ours = {name: tuple(value.shape) for name, value in module.state_dict().items()}
    theirs = {name: tuple(value.shape) for name, value in content["state_dict"].items()}
    if ours != theirs:
        differing = sorted(name for name in ours.keys() | theirs.keys() if ours.get(name) != theirs.get(name))
        name = differing[0]
        raise InputError(
            f"{ckpt} is a checkpoint of another network: {len(differing)} tensors differ, such as {name} with "
            f"{theirs.get(name, 'nothing')} there and {ours.get(name, 'nothing')} here. "
            "Give the model=... with which that run was started."
        )


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

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        given = choices(config)
        stages, inputs = given.get("stage", []), given.get("stage.inputs", [config.stage.inputs])
        if ("64to512" in stages or "previous" in inputs) and len(set(stages)) > 1:
            in_order = [stage for stage in (*weights.STAGES.values(), "64to512") if stage in stages]
            if not config.hydra.launcher._target_.endswith(".BasicLauncher"):
                refuse(
                    f"a sweep over stage={','.join(stages)} builds one job on the weights of another, and "
                    f"{config.hydra.launcher._target_} may run them at once. Leave out hydra/launcher=..., or train "
                    "the stages in one sweep and what is built on them in a second one."
                )
            if stages != in_order:
                refuse(
                    f"in a sweep over stage={','.join(stages)} a job would come before the stages that it is built on. "
                    f"Give stage={','.join(in_order)}."
                )
        # Hydra leaves out on_multirun_end when a job has failed.
        atexit.register(print_table, Path(config.hydra.sweep.dir).absolute())

    def on_job_end(self, config: DictConfig, job_return: JobReturn, **kwargs: Any) -> None:
        if config.hydra.mode == RunMode.MULTIRUN:
            sweep.write_table(Path(config.hydra.runtime.cwd, config.hydra.sweep.dir))


def choices(config: DictConfig) -> dict[str, list[str]]:
    """What a sweep varies: key -> values, from the command line and from hydra.sweeper.params."""
    params = config.hydra.sweeper.get("params") or {}
    task = [*(f"{key}={value}" for key, value in params.items()), *config.hydra.overrides.task]
    found: dict[str, list[str]] = {}
    for override in OverridesParser.create().parse_overrides(task):
        if isinstance(override.value(), Glob):
            found[override.key_or_group] = override.value().filter(sorted([*weights.STAGES.values(), "64to512"]))
        elif override.is_choice_sweep():
            found[override.key_or_group] = [str(value) for value in override.sweep_string_iterator()]
    return found


def refuse(sentence: str) -> NoReturn:
    print(f"error: {sentence}", file=sys.stderr)
    sys.exit(2)


def print_table(folder: Path) -> None:
    path = folder / "sweep.md"
    if path.exists():
        print(f"\n{path.read_text()}\nTable         {path} (and .csv)")


if __name__ == "__main__":
    import train  # by its name, so that other processes (hydra/launcher=joblib) find what Hydra sends them

    train.main()
