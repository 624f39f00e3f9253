"""The facts that distinguish runs. A run resumes only from a checkpoint with the same facts."""

from typing import Any

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf

from upscale_lit.errors import InputError
from upscale_lit.models import Upsampler8x


def plain(node: DictConfig) -> dict[str, Any]:
    """Return a group of options as plain Python types, with interpolations resolved."""
    return dict(OmegaConf.to_container(node, resolve=True))  # type: ignore[arg-type]


def options_of(node: DictConfig) -> dict[str, Any]:
    """Return the options of a loss or a degradation, without `_target_` and the run's seed."""
    return {name: value for name, value in plain(node).items() if name not in ("_target_", "seed")}


def network(cfg: DictConfig) -> dict[str, Any]:
    """Return the options of the configured network, with `_target_` but without the option `weights`."""
    return {name: value for name, value in plain(cfg.model).items() if name != "weights"}


def network_facts(cfg: DictConfig) -> dict[str, Any]:
    """Return the configured network as a weights file records it: {"model": class name, "model_args": arguments}."""
    arguments = network(cfg)
    return {"model": arguments.pop("_target_").rpartition(".")[2], "model_args": arguments}


def run_facts(cfg: DictConfig) -> dict[str, Any]:
    """Return the facts of a run by the names of the options that set them.

    A choice such as loss=l1 is a fact, and so are the options of the chosen loss.
    """
    stacked = is_stack(cfg)
    facts = {"stage": cfg.stage.name, "stage.inputs": inputs_of(cfg)}
    if stacked:
        facts["stage.stack"] = cfg.stage.stack
    if not (stacked and cfg.stage.stack == "trained"):  # a trained stack takes its networks from weights files
        facts |= {f"model.{name}": value for name, value in network(cfg).items()}
    for group in ("loss", "degradation"):
        facts[group] = HydraConfig.get().runtime.choices[group]
        facts |= {f"{group}.{name}": value for name, value in options_of(cfg[group]).items()}
    accumulated = cfg.trainer.accumulate_grad_batches
    return {**facts, "branches": cfg.branches, "ema": cfg.ema, "trainer.accumulate_grad_batches": accumulated}


def is_stack(cfg: DictConfig) -> bool:
    """Return whether this run trains a stack of 2x networks instead of a single network.

    Raises InputError if the network does not fit the stage, or if stage.level_weights is set without a stack.
    """
    factor = cfg.model.get("factor", 2)
    stacked = bool(cfg.stage.factor == Upsampler8x.factor and factor == 2)
    if not stacked and factor != cfg.stage.factor:
        raise InputError(
            f"A network with model.factor={factor} does not fit stage={cfg.stage.name}, which enlarges pictures by "
            f"{cfg.stage.factor}. Choose stage={'64to512_at_once' if factor == 8 else '64to128'}, or another model."
        )
    if not stacked and factor == Upsampler8x.factor and cfg.stage.level_weights is not None:
        raise InputError(
            f"stage.level_weights={list(cfg.stage.level_weights)} needs a stack; this run trains a single network. "
            "Give stage.level_weights=null."
        )
    return stacked


def inputs_of(cfg: DictConfig) -> str:
    """Return the inputs of the network: "photos", or "previous" for outputs of the earlier stages.

    A stage without earlier stages always takes photos, and so does an 8x stage.
    """
    first = not cfg.stage.earlier or cfg.stage.factor == Upsampler8x.factor
    return "photos" if first else str(cfg.stage.inputs)
