"""The end of a run: write metrics.json, publish the weights for the next stage and upscale-lit, and log the results."""

import json
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
from filelock import FileLock

from upscale_lit import metrics, weights
from upscale_lit.data.module import UpscaleDataModule
from upscale_lit.errors import InputError, WriteError, shown
from upscale_lit.files import atomic, hidden
from upscale_lit.launch.commands import own_overrides, stage_command
from upscale_lit.launch.facts import is_stack, network_facts, options_of
from upscale_lit.launch.run import Run
from upscale_lit.launch.run_page import NAME, RunPage
from upscale_lit.launch.start import Start
from upscale_lit.models import without_branches
from upscale_lit.training.callbacks import final_metrics
from upscale_lit.training.fit import callback_of
from upscale_lit.training.grids import ImageGrid
from upscale_lit.training.module import UpscaleModule
from upscale_lit.training.report import measured_as, table, table_rows, tensorboards
from upscale_lit.training.validation import gain_of, score_name

log = logging.getLogger(__name__)


def publish_run(
    run: Run, start: Start, trainer: pl.Trainer, module: UpscaleModule, data: UpscaleDataModule,
    measured: dict[str, float],
) -> None:  # fmt: skip
    """Write metrics.json, save and publish the weights, and log the closing table.

    A run with train=false publishes no weights. A fast_dev_run publishes and writes nothing.
    Raises WriteError if a file cannot be written.
    """
    cfg = run.cfg
    if trainer.fast_dev_run:  # type: ignore[attr-defined]
        log.info("fast_dev_run: nothing is published.")
        return
    before = start.checkpoint.steps if start.checkpoint else 0
    steps = trainer.global_step if cfg.train else before
    result = result_of(run, module, data, steps, measured)
    again = before == steps > 0 and (run.folder / "metrics.json").exists()  # whether a finished run is resumed
    for board in [] if again else tensorboards(trainer):
        board.log_metrics(final_metrics(measured, module.seconds), steps)
        board.save()
    if not trainer.is_global_zero:
        return
    published = None
    if cfg.train:
        file = run.folder / weights.file_name(cfg.stage.name)
        weights.save_weights(file, without_branches(module.model), file_facts(run, result, measured))
        published = publish(file, run.checkpoints_dir)
    with atomic(run.folder / "metrics.json") as part:
        part.write_text(json.dumps(result, indent=2, allow_nan=False) + "\n")
    log_result(run, trainer, result, published)


def result_of(
    run: Run, module: UpscaleModule, data: UpscaleDataModule, steps: int, measured: dict[str, float]
) -> dict[str, Any]:
    """Return the contents of metrics.json."""
    cfg, facts = run.cfg, module.hparams["facts"]
    origins = facts["earlier"]
    pairs = min(module.pairs, len(data.squares))  # trainer.limit_val_batches can leave out pairs
    stages = {name: {key: origin[key] for key in ("model", "model_args")} for name, origin in origins.items()}
    files = {name: {key: file[key] for key in ("path", "sha256")} for name, file in origins.items() if "path" in file}
    return {
        "stage": cfg.stage.name,
        "model": type(module.model).__name__,
        "model_args": stages if is_stack(cfg) else network_facts(cfg)["model_args"],
        "inputs": facts["stage.inputs"],
        "degradation": facts["degradation"],
        "checkpoints": files,
        "weights": facts["weights"],
        "steps": steps,
        "seconds": round(module.seconds, 3),
        **measured,
        "pairs": pairs,
        "convention": metrics.CONVENTION.format(shave=cfg.stage.factor),
        "val_pairs": f"{data.val_digest}/{pairs}" + (f"+{data.degraded_digest}" if data.degraded else ""),
        "seed": cfg.seed,
        "overrides": own_overrides(),
    }


def file_facts(run: Run, result: dict[str, Any], measured: dict[str, float]) -> dict[str, Any]:
    """Return the facts that the weights file records about its network and its training."""
    cfg = run.cfg
    return {
        **{name: result[name] for name in ("model_args", "stage", "inputs", "val_pairs", "steps", "seed")},
        "factor": cfg.stage.factor,
        "kernel": cfg.data.kernel,
        "degradation": {"name": result["degradation"], **options_of(cfg.degradation)},
        "metrics": measured,
        "sweep": str(run.sweep or ""),
    }


def log_result(run: Run, trainer: pl.Trainer, result: dict[str, Any], published: Path | None) -> None:
    """Log the closing table, the paths of the results, and the command that trains the next stage."""
    ours = {"chained": "_chained", "fine-tuned": ""} if "val/psnr_chained" in result else {result["model"]: ""}
    methods = {"bilinear": "_bilinear", "bicubic": "_bicubic", **ours}
    if "val/score" in result:
        degraded = {"bicubic": "_bicubic", **ours}
        methods |= {f"{name}, degraded": f"_degraded{suffix}" for name, suffix in degraded.items()}
    grid = callback_of(trainer, ImageGrid)
    rows, pairs, convention = table_rows(result, methods), result["pairs"], result["convention"]
    log.info("%s", table(rows, pairs, convention))
    trained = f"{result['steps']} steps in {result['seconds']:.0f} s of training"
    log.info("%s", trained)
    log.info("Run folder    %s", run.folder)
    log.info("Picture grid  %s   (rows: %s)", grid.latest, ", ".join(grid.rows))
    if published is None:
        return
    callback_of(trainer, RunPage).finish(trainer, f"{trained}.", rows, measured_as(pairs, convention))
    log.info("Page          %s", run.folder / NAME)
    log.info("Weights       %s", published)
    log.info("Curves        tensorboard --logdir outputs")
    if run.cfg.stage.next and run.sweep is None:
        log.info("Next stage    %s", stage_command(run.cfg.stage.next))


def publish(path: Path, folder: Path) -> Path:
    """Copy a run's weights file to `folder`, where the next stage looks, unless a better file is already published.

    The published file stays in two cases, and the log says why:
    - It has the same model, kernel and validation pairs as the run's file, and a better val/psnr (with a degradation,
      a better val/score).
    - A job of the same sweep with the same degradation gained more over bicubic than the run. Gains with different
      degradations are not comparable, so the last of such jobs is published.
    Returns the path in `folder`. Raises WriteError if the file cannot be written.
    """
    target = folder / path.name
    new = weights.read_file(path, "weights file")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with FileLock(hidden(target, "lock")):
            if target.exists() and (reason := _better_job(path, new) or _better(target, new)):
                log.info("%s stays: %s.", target, reason)
            else:
                with atomic(target) as part:
                    part.write_bytes(path.read_bytes())
                log.info("%s now holds the weights of this run.", target)
    except OSError as error:
        raise WriteError(f"{shown(target)} cannot be written: {error.strerror or error}.") from error
    return target


def _better_job(path: Path, new: Mapping[str, Any]) -> str | None:
    """Return why the published file stays if another job of the same sweep gained more over bicubic, or None.

    The weights file of that job counts even if it was not published.
    """
    for other in sorted(Path(new["sweep"]).rglob(path.name)) if new.get("sweep") else []:
        facts = weights.read_file(other, "weights file")
        gain = gain_of(facts["metrics"])
        if same_degradation(facts, new) and gain > gain_of(new["metrics"]):
            return f"{other} of the same sweep gained more over bicubic, {gain:.3f} dB"
    return None


def same_degradation(facts: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    """Return whether two weights files record the same degradation, so that their gains can be compared.

    Version 0.1.0 recorded only inputs=augmented, without the amounts of blur and noise.
    """
    of_old = ({"name": "blur_noise" if each.get("inputs") == "augmented" else "none"} for each in (facts, other))
    ours, theirs = (each.get("degradation", old) for each, old in zip((facts, other), of_old, strict=True))
    return bool(ours == theirs)


def _better(target: Path, new: Mapping[str, Any]) -> str | None:
    """Return why the published file at `target` stays, or None if the run's file replaces it."""
    try:
        old = weights.read_file(target, "weights file")
        if not same_degradation(old, new):
            names = [facts.get("degradation", {}).get("name", "none") for facts in (old, new)]
            log.warning(
                "%s held weights of degradation=%s. Weights of degradation=%s replace them. To keep both, set another "
                "checkpoints_dir.", target, *names,
            )  # fmt: skip
        if new.get("sweep") and old.get("sweep") == new["sweep"]:
            # Unlike PSNR, the gain compares different validation pairs, too. On equal pairs, both give the same order.
            name, where, same = "gain over bicubic", "in the same sweep", same_degradation(old, new)
            values = [gain_of(facts["metrics"]) for facts in (old, new)]
        else:
            name, where = score_name("val/score" in new["metrics"]), "on the same pairs"
            same = all(old[key] == new[key] for key in ("kernel", "val_pairs"))
            same = same and weights.differing(old["model_state_dict"], new["model_state_dict"]) is None
            values = [float(facts["metrics"][name]) for facts in (old, new)] if same else []
    except (InputError, KeyError, TypeError, ValueError, AttributeError) as error:
        log.warning("%s cannot be compared with this run's weights (%s) and is replaced.", target, error)
        return None
    if same and values[0] > values[1]:
        return f"its {name}, {values[0]:.3f} dB, is better than this run's {values[1]:.3f} dB {where}"
    return None
