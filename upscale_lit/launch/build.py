"""Build the objects of a run from its configuration: data, module, trainer."""

import copy
import inspect
import logging

import pytorch_lightning as pl
import torch
from hydra.core.hydra_config import HydraConfig
from hydra.errors import InstantiationException
from lightning_fabric.utilities.exceptions import MisconfigurationException
from omegaconf import DictConfig, OmegaConf
from pytorch_lightning.callbacks import ModelCheckpoint
from torch import nn

from upscale_lit.data.low import Degradation, LowPictures
from upscale_lit.data.module import UpscaleDataModule
from upscale_lit.errors import InputError
from upscale_lit.launch.commands import own_overrides
from upscale_lit.launch.facts import is_stack, plain, run_facts
from upscale_lit.launch.instantiate import check_arguments, instantiate
from upscale_lit.launch.run import Run
from upscale_lit.launch.run_page import RunPage
from upscale_lit.launch.start import Start, new_network
from upscale_lit.models import Upsampler8x, add_branches
from upscale_lit.training.callbacks import Average, HyperParameters, KeepLast
from upscale_lit.training.checkpoints import SafeCheckpointIO, check_network
from upscale_lit.training.fit import REFUSED
from upscale_lit.training.grids import ImageGrid
from upscale_lit.training.module import UpscaleModule
from upscale_lit.training.optimizer import ScheduledAdamW
from upscale_lit.training.report import Progress, loggers
from upscale_lit.training.validation import score_name

log = logging.getLogger(__name__)

# The columns of TensorBoard's HPARAMS tab that each run has.
GROUPS = ("stage", "model", "loss", "degradation")
COLUMNS = (
    "stage.max_epochs", "optimizer.lr", "optimizer.schedule", "optimizer.weight_decay", "data.crop", "data.batch_size",
    "trainer.precision", "branches", "ema", "seed",
)  # fmt: skip
# Options that say where a run reads and writes, and how it reports. They are no columns.
OF_THE_MACHINE = ("experiment", "data", "data.root", "checkpoints_dir", "trainer", "trainer.enable_progress_bar")


def build_data(cfg: DictConfig, start: Start) -> UpscaleDataModule:
    """Build the data module, and read and split the photos. Raises InputError if there is nothing to train on.

    The options of the group `data` belong to three objects. The data module gets the options that its constructor
    takes. The low pictures get the options `kernel` and `inverted`. The source gets all other options.
    """
    options = plain(cfg.data)
    previous = [] if is_stack(cfg) else list(start.stages.values())
    kernel, inverted = options.pop("kernel", None), options.pop("inverted", 0)
    low = LowPictures(cfg.stage.factor, kernel, degradation_of(cfg), previous, degradation_of(cfg, 0), inverted)
    names = inspect.signature(UpscaleDataModule).parameters.keys() - {"source", "low"}
    own = {name: options.pop(name) for name in names & options.keys()}
    check_arguments("data", UpscaleDataModule, own, "source", "low")
    data = UpscaleDataModule(instantiate("data", options), low, **own)
    data.setup("fit")
    return data


def degradation_of(cfg: DictConfig, seed: int | None = None) -> Degradation | None:
    """Build the configured degradation; None for degradation=none. seed: replaces the option `seed`."""
    options = plain(cfg.degradation)
    if options["_target_"] is None:
        return None
    if seed is not None and "seed" in options:
        options["seed"] = seed
    degradation: Degradation = instantiate("degradation", options)
    return degradation


def build_module(cfg: DictConfig, start: Start, data: UpscaleDataModule) -> UpscaleModule:
    """Build the module: network, loss and optimizer. Raises InputError if the checkpoint is of another network."""
    stacked = is_stack(cfg)
    model, weights = (Upsampler8x(**start.stages), None) if stacked else new_network(cfg, start.checkpoint)
    chained = copy.deepcopy(model) if stacked and cfg.stage.stack == "trained" else None
    if cfg.branches:
        add_branches(model)
    module = UpscaleModule(
        model,
        factor=data.low.factor,
        loss=instantiate("loss", plain(cfg.loss)),
        optimizer=ScheduledAdamW(**plain(cfg.optimizer)),
        facts={**run_facts(cfg), "earlier": start.origins, "weights": weights},
        kernel=data.low.kernel,
        level_weights=plain(cfg.stage)["level_weights"] if stacked else None,
        chained=chained,
        previous=list(data.low.previous),
    )
    if start.checkpoint is not None:
        check_network(start.checkpoint, module)
    return module


def build_trainer(run: Run, start: Start, module: UpscaleModule, data: UpscaleDataModule) -> pl.Trainer:
    """Build Lightning's Trainer with the run's callbacks and loggers.

    Raises InputError if the Trainer refuses its options, or if it cannot run on this machine.
    """
    options = plain(run.cfg.trainer)
    if options["accelerator"] in ("gpu", "cuda") and not torch.accelerator.is_available():
        raise InputError(
            f"trainer.accelerator={options['accelerator']} needs a GPU; torch {torch.__version__} finds none on this "
            "machine. Give trainer.accelerator=cpu (or leave out trainer=gpu), or install a torch build for your GPU."
        )
    follows = any(isinstance(layer, nn.BatchNorm2d) and layer.training for layer in module.model.train().modules())
    try:
        trainer: pl.Trainer = instantiate(
            "trainer",
            options,
            callbacks=callbacks(run),
            logger=loggers(run.folder, None if start.checkpoint is None else start.checkpoint.steps),
            plugins=[SafeCheckpointIO(run.folder / "checkpoints")],
            sync_batchnorm=follows,
        )
    except InstantiationException as error:
        if isinstance(error.__cause__, (MisconfigurationException, ValueError, TypeError, ImportError)):
            raise InputError(f"{REFUSED} {error.__cause__}") from error
        raise
    run.trainer = trainer
    log.info("Device %s", trainer.strategy.root_device)
    check_processes(trainer, data.batch_size, follows)
    return trainer


def callbacks(run: Run) -> list[pl.Callback]:
    """Return the callbacks of the run."""
    cfg, folder = run.cfg, run.folder / "checkpoints"
    best = ModelCheckpoint(
        folder, "best", monitor=score_name(cfg.degradation._target_ is not None), mode="max",
        enable_version_counter=False, save_on_train_epoch_end=False,
    )  # fmt: skip
    last = KeepLast(folder, **plain(cfg.checkpoint), signals=run.signals)
    found = [best, last, ImageGrid(run.folder / "grids", cfg.grid_columns, cfg.stage.factor)]
    if cfg.train:
        found.append(HyperParameters(OmegaConf.to_yaml(cfg, resolve=True), hyperparameters(cfg)))
        found.append(RunPage(run))  # after ImageGrid, whose latest grid it shows
    if cfg.ema is not None:
        found.append(Average(cfg.ema))
    if cfg.trainer.enable_progress_bar is not False:  # Lightning takes null for true
        found.append(Progress())
    return found


def hyperparameters(cfg: DictConfig) -> dict[str, int | float | str | bool]:
    """Return the columns of TensorBoard's HPARAMS tab: the options that people vary, and those of the command line."""
    choices = HydraConfig.get().runtime.choices
    given = [part.lstrip("+").partition("=")[0] for part in own_overrides()]
    keys = [*COLUMNS, *(key for key in given if key not in (*GROUPS, *OF_THE_MACHINE))]
    values = {key: OmegaConf.select(cfg, key) for key in dict.fromkeys(keys)}
    flat = {key: value if isinstance(value, (int, float, str, bool)) else str(value) for key, value in values.items()}
    return {**{group: str(choices[group]) for group in GROUPS}, **flat}


def check_processes(trainer: pl.Trainer, batch_size: int, follows: bool) -> None:
    """Check that several processes can do the work of one process. Raises InputError before other processes start.

    follows: whether the network takes its BatchNorm statistics from complete batches.
    """
    ranks = trainer.world_size
    if batch_size % ranks:
        raise InputError(
            f"data.batch_size counts the examples of all {ranks} processes together and must be a multiple of {ranks}; "
            f"got {batch_size}. Give data.batch_size={-(-batch_size // ranks) * ranks}."
        )
    if follows and ranks > 1 and trainer.strategy.root_device.type == "cpu":
        raise InputError(
            "model.batch_norm=batch needs the statistics of complete batches. Several processes can share these "
            "statistics on GPUs only. Give model.batch_norm=frozen or trainer.devices=1."
        )
