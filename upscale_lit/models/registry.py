"""The networks that a weights file may name: the networks of the package, and your own classes after `know`."""

import importlib
from collections.abc import Mapping
from typing import Any

from torch import nn

from upscale_lit.errors import InputError
from upscale_lit.models.compact import Compact
from upscale_lit.models.stack import Upsampler8x
from upscale_lit.models.upsampler import Upsampler

MODELS: dict[str, type[nn.Module]] = {"Upsampler": Upsampler, "Compact": Compact, "Upsampler8x": Upsampler8x}


def know(name: str) -> None:
    """Allow weights files to name your own network class, given as `module.Class`.

    A weights file holds neither a class nor the module of a class, so loading a file never imports code.
    Raises InputError if `name` cannot be imported or is not a network class, or if another network has this class name.
    """
    module, _, short = name.rpartition(".")
    try:
        found = getattr(importlib.import_module(module), short)
    except (ImportError, AttributeError, ValueError) as error:
        raise InputError(f"The network {name} cannot be imported: {error}. Name it as module.Class.") from error
    if not isinstance(found, type) or not issubclass(found, nn.Module):
        raise InputError(f"{name} must be a network class, a subclass of torch.nn.Module; got {found!r}.")
    if MODELS.setdefault(short, found) is not found:
        raise InputError(f"A network named {short} exists already: give {name} another name.")


def build(model: str, model_args: Mapping[str, Any]) -> nn.Module:
    """Return a new network from the facts of a weights file: its class name and its arguments.

    The arguments of a stack are such facts themselves: `model` and `model_args` for each stage.
    Raises InputError if the name is unknown or the arguments do not fit.
    """
    if not isinstance(model, str) or model not in MODELS:
        advice = "Name your own class with --network module.Class."
        raise InputError(f"There is no network named {model!r}; the known networks are {', '.join(MODELS)}. {advice}")
    try:
        if MODELS[model] is Upsampler8x:
            model_args = {name: build(facts["model"], facts["model_args"]) for name, facts in model_args.items()}
        return MODELS[model](**model_args)
    except (TypeError, KeyError, AttributeError, RecursionError) as error:
        raise InputError(f"{model} does not take the arguments {model_args}: {error}.") from error
