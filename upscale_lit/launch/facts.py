"""What tells one run from another: a checkpoint is resumed only by a run with the same facts."""

from typing import Any

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf

from upscale_lit.errors import InputError
from upscale_lit.models import Upsampler8x


def plain(node: DictConfig) -> dict[str, Any]:
    """A group of options as plain Python types, interpolations resolved."""
    return dict(OmegaConf.to_container(node, resolve=True))  # type: ignore[arg-type]


def options_of(node: DictConfig) -> dict[str, Any]:
    """The options of a loss or a degradation: all but its class, and the run's seed."""
    return {name: value for name, value in plain(node).items() if name not in ("_target_", "seed")}


def network(cfg: DictConfig) -> dict[str, Any]:
    """The options of the configured network, `_target_` included, without the weights that it starts with."""
    return {name: value for name, value in plain(cfg.model).items() if name != "weights"}


def network_facts(cfg: DictConfig) -> dict[str, Any]:
    """The configured network as in a weights file: {"model": its class's name, "model_args": its arguments}."""
    arguments = network(cfg)
    return {"model": arguments.pop("_target_").rpartition(".")[2], "model_args": arguments}


def run_facts(cfg: DictConfig) -> dict[str, Any]:
    """By the names of the options that set them. A choice such as loss=l1 is a fact, and so are its options."""
    stacked = is_stack(cfg)
    facts = {"stage": cfg.stage.name, "stage.inputs": inputs_of(cfg)}
    if stacked:
        facts["stage.stack"] = cfg.stage.stack
    if not (stacked and cfg.stage.stack == "trained"):  # else the weights files bring the networks
        facts |= {f"model.{name}": value for name, value in network(cfg).items()}
    for group in ("loss", "degradation"):
        facts[group] = HydraConfig.get().runtime.choices[group]
        facts |= {f"{group}.{name}": value for name, value in options_of(cfg[group]).items()}
    return {**facts, "ema": cfg.ema, "trainer.accumulate_grad_batches": cfg.trainer.accumulate_grad_batches}


def is_stack(cfg: DictConfig) -> bool:
    """Whether this run trains a stack of 2x networks, not one network. Raises InputError if neither makes sense."""
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


def inputs_of(cfg: DictConfig) -> str:
    """What the network learns to upscale: photos or previous. A network that stands first is only ever fed photos."""
    first = not cfg.stage.earlier or cfg.stage.factor == Upsampler8x.factor
    return "photos" if first else str(cfg.stage.inputs)
