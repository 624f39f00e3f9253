"""Train one stage: python train.py stage=128to256. All options: python train.py --help.

The only file that knows Hydra: it builds the objects from conf/, then trains, measures, and hands on the weights.
"""

import csv
import json
import logging
import platform
import shlex
import sys
import warnings
from pathlib import Path
from typing import Any

import hydra
import pytorch_lightning as pl
import torch
from hydra.core.hydra_config import HydraConfig
from hydra.errors import InstantiationException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from pytorch_lightning.callbacks import LearningRateMonitor, ModelCheckpoint
from pytorch_lightning.loggers import CSVLogger, Logger, TensorBoardLogger
from pytorch_lightning.utilities.exceptions import MisconfigurationException

from upscale_lit import metrics, weights
from upscale_lit.data import UpscaleDataModule
from upscale_lit.errors import InputError
from upscale_lit.grids import ImageGrid
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
    try:
        run(cfg)
    except InputError as error:
        if HydraConfig.get().mode == RunMode.MULTIRUN:  # an exit would end the whole sweep
            raise
        log.error("error: %s", error)
        sys.exit(2)


def run(cfg: DictConfig) -> dict[str, Any]:
    """One run from its config: build, train, hand on. Returns what metrics.json holds. Raises InputError."""
    for message in SILENCED:
        warnings.filterwarnings("ignore", message)
    logging.captureWarnings(True)
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
    data: UpscaleDataModule = build(cfg.data)
    model = build(cfg.model)
    module = UpscaleModule(model, factor=cfg.stage.factor, facts={"stage": cfg.stage.name}, **plain(cfg.optimizer))
    if ckpt is not None and state is not None:
        check_fits(ckpt, state, module, cfg.stage.name)
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
    trainer.loggers = []
    values = trainer.validate(module, datamodule=data, verbose=False)[0]
    measured = {name: value for name, value in values.items() if name.startswith("val/")}
    pairs = len(module.baselines)  # fewer than data.squares under trainer.limit_val_batches
    val_pairs = f"{data.val_digest}/{pairs}"
    result = {
        "stage": cfg.stage.name,
        "model": type(model).__name__,
        "steps": steps,
        "seconds": round(module.seconds, 3),
        **measured,
        "pairs": pairs,
        "convention": metrics.CONVENTION.format(shave=cfg.stage.factor),
        "val_pairs": val_pairs,
        "seed": cfg.seed,
    }
    handed = None
    if cfg.train and trainer.is_global_zero:
        file = folder / f"upscaler_{cfg.stage.name}.pt"
        args = {key: value for key, value in plain(cfg.model).items() if key != "_target_"}
        facts = {
            "model_args": args, "stage": cfg.stage.name, "factor": cfg.stage.factor, "kernel": cfg.data.kernel,
            "val_pairs": val_pairs, "steps": steps, "seed": cfg.seed, "metrics": measured,
        }  # fmt: skip
        weights.save_weights(file, model, facts)
        handed = weights.hand_on(file, Path(cfg.checkpoints_dir).expanduser())
    if trainer.is_global_zero:
        with weights.whole(folder / "metrics.json") as part:
            part.write_text(json.dumps(result, indent=2, allow_nan=False) + "\n")
        tell(result, folder, grid.latest, handed, cfg.stage.get("next"))
    return result


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
    psnr = trainer.callback_metrics["val/psnr"]
    if best.best_model_score is None or psnr >= best.best_model_score:
        trainer.save_checkpoint(folder / "best.ckpt")
    else:
        kept = weights.read_file(folder / "best.ckpt", "checkpoint")
        log.info("The best weights are those of step %d.", kept["global_step"])
        module.load_state_dict(kept["state_dict"])
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
        for group in ("stage", "model", "optimizer", "data")
        for key, value in config[group].items()
    }
    for logger in trainer.loggers:
        if isinstance(logger, TensorBoardLogger):
            logger.experiment.add_text("config", f"```yaml\n{text}\n```", 0)
            logger.log_hyperparams({**flat, "seed": config["seed"]}, {k: start[k] for k in ("val/psnr", "val/gain")})


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


def check_fits(ckpt: Path, content: dict[str, Any], module: UpscaleModule, stage: str) -> None:
    """Raises InputError when the checkpoint is of another network or stage."""
    state = content.get("state_dict")
    if not isinstance(state, dict) or "global_step" not in content:
        raise InputError(f"{ckpt} should be a checkpoint of a run (best.ckpt, last.ckpt); it is something else.")
    ours = {name: tuple(value.shape) for name, value in module.state_dict().items()}
    theirs = {name: tuple(value.shape) for name, value in state.items()}
    if ours != theirs:
        differing = sorted(name for name in ours.keys() | theirs.keys() if ours.get(name) != theirs.get(name))
        name = differing[0]
        raise InputError(
            f"{ckpt} is a checkpoint of another network: {len(differing)} tensors differ, such as {name} with "
            f"{theirs.get(name, 'nothing')} there and {ours.get(name, 'nothing')} here. "
            "Give the model=... with which that run was started."
        )
    found = content.get("hyper_parameters", {}).get("facts", {}).get("stage")
    if found != stage:
        raise InputError(
            f"{ckpt} belongs to stage={found}; this is stage={stage}. Give stage={found}, or its own checkpoint."
        )


def tell(result: dict[str, Any], folder: Path, grid: Path | None, handed: Path | None, following: str | None) -> None:
    """The table and the way on."""
    methods = {"bilinear": "_bilinear", "bicubic": "_bicubic", result["model"]: ""}
    log.info("%s", table(result, methods, result["pairs"], result["convention"]))
    log.info("%d steps in %.0f s of training", result["steps"], result["seconds"])
    log.info("Run folder    %s", folder)
    log.info("Picture grid  %s   (rows: input (bilinear), output, ground truth)", grid)
    if handed is None:
        return
    log.info("Weights       %s", handed)
    log.info("Look at them  tensorboard --logdir outputs")
    if following:
        drop = ("stage=", "ckpt_path=", "hydra.run.dir=")
        task = [part for part in HydraConfig.get().overrides.task if not part.startswith(drop)]
        log.info("Go on         %s", shlex.join(["python", "train.py", f"stage={following}", *task]))


if __name__ == "__main__":
    main()
