"""What a run leaves when it ends: metrics.json, its weights file, the closing lines."""

import json
import logging
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.loggers import TensorBoardLogger

from upscale_lit import metrics, weights
from upscale_lit.data.module import UpscaleDataModule
from upscale_lit.files import whole
from upscale_lit.launch.commands import own_overrides, stage_command
from upscale_lit.launch.facts import is_stack, network_facts, options_of
from upscale_lit.launch.publish import publish
from upscale_lit.launch.run import Run
from upscale_lit.launch.start import Start
from upscale_lit.training.callbacks import final_metrics
from upscale_lit.training.fit import callback_of
from upscale_lit.training.grids import ImageGrid
from upscale_lit.training.module import UpscaleModule
from upscale_lit.training.report import table

log = logging.getLogger(__name__)


def publish_run(
    run: Run, start: Start, trainer: pl.Trainer, module: UpscaleModule, data: UpscaleDataModule,
    measured: dict[str, float],
) -> None:  # fmt: skip
    """Write metrics.json, save and publish the weights, and log the closing table. Raises WriteError."""
    cfg = run.cfg
    if trainer.fast_dev_run:  # type: ignore[attr-defined]
        log.info("fast_dev_run: nothing is published.")
        return
    before = start.checkpoint.steps if start.checkpoint else 0
    steps = trainer.global_step if cfg.train else before
    result = result_of(run, module, data, steps, measured)
    again = before == steps > 0 and (run.folder / "metrics.json").exists()  # a finished run that is resumed
    for logger in trainer.loggers:
        if isinstance(logger, TensorBoardLogger) and not again:
            logger.log_metrics(final_metrics(measured, module.seconds), steps)
            logger.save()
    if not trainer.is_global_zero:
        return
    published = None
    if cfg.train:
        file = run.folder / weights.file_name(cfg.stage.name)
        weights.save_weights(file, module.model, file_facts(run, result, measured))
        published = publish(file, run.checkpoints_dir)
    with whole(run.folder / "metrics.json") as part:
        part.write_text(json.dumps(result, indent=2, allow_nan=False) + "\n")
    log_result(run, trainer, result, published)


def result_of(
    run: Run, module: UpscaleModule, data: UpscaleDataModule, steps: int, measured: dict[str, float]
) -> dict[str, Any]:
    """What metrics.json holds."""
    cfg, facts = run.cfg, module.hparams["facts"]
    origins = facts["earlier"]
    pairs = min(module.pairs, len(data.squares))  # fewer under trainer.limit_val_batches
    stages = {name: {key: origin[key] for key in ("model", "model_args")} for name, origin in origins.items()}
    return {
        "stage": cfg.stage.name,
        "model": type(module.model).__name__,
        "model_args": stages if is_stack(cfg) else network_facts(cfg)["model_args"],
        "inputs": facts["stage.inputs"],
        "degradation": facts["degradation"],
        "checkpoints": {
            name: {key: origin[key] for key in ("path", "sha256")}
            for name, origin in origins.items()
            if "path" in origin
        },
        "weights": facts["weights"],
        "steps": steps,
        "seconds": round(module.seconds, 3),
        **measured,
        "pairs": pairs,
        "convention": metrics.CONVENTION.format(shave=cfg.stage.factor),
        "val_pairs": f"{data.val_digest}/{pairs}",
        "seed": cfg.seed,
        "overrides": own_overrides(),
    }


def file_facts(run: Run, result: dict[str, Any], measured: dict[str, float]) -> dict[str, Any]:
    """What the weights file says of its network and its training."""
    cfg = run.cfg
    kept = ("model_args", "stage", "inputs", "val_pairs", "steps", "seed")
    return {
        **{name: result[name] for name in kept},
        "factor": cfg.stage.factor,
        "kernel": cfg.data.kernel,
        "degradation": {"name": result["degradation"], **options_of(cfg.degradation)},
        "metrics": measured,
        "sweep": str(run.sweep or ""),
    }


def log_result(run: Run, trainer: pl.Trainer, result: dict[str, Any], published: Path | None) -> None:
    """The table, where everything is, and the command that comes next."""
    methods = {"bilinear": "_bilinear", "bicubic": "_bicubic"}
    if "val/psnr_chained" in result:
        methods |= {"chained": "_chained", "fine-tuned": ""}
    else:
        methods |= {result["model"]: ""}
    grid = callback_of(trainer, ImageGrid)
    log.info("%s", table(result, methods, result["pairs"], result["convention"]))
    log.info("%d steps in %.0f s of training", result["steps"], result["seconds"])
    log.info("Run folder    %s", run.folder)
    log.info("Picture grid  %s   (rows: %s)", grid.latest, ", ".join(grid.rows))
    if published is None:
        return
    log.info("Weights       %s", published)
    log.info("Look at them  tensorboard --logdir outputs")
    if run.cfg.stage.next and run.sweep is None:
        log.info("Next stage    %s", stage_command(run.cfg.stage.next))
