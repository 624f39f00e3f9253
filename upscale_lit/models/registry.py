"""The networks that a weights file may name: those of the package, and your own classes once they are known."""

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
    """Let weights files name a class of networks of one's own, given as `module.Class`; it must be importable.

    A file never brings a class with it, nor says where one is. Raises InputError.
    """
    module, _, short = name.rpartition(".")
    try:
        found = getattr(importlib.import_module(module), short)
    except (ImportError, AttributeError, ValueError) as error:
        raise InputError(f"The network {name} cannot be imported: {error}. Name it as module.Class.") from error
    if not isinstance(found, type) or not issubclass(found, nn.Module):
        raise InputError(f"{name} should be a class of networks, a torch.nn.Module; found {found!r}.")
    if MODELS.setdefault(short, found) is not found:
        raise InputError(f"There is a network named {short} here already: give {name} another name.")


def build(model: str, model_args: Mapping[str, Any]) -> nn.Module:
    """A new network from the facts of a weights file. A stack's arguments are such facts, one pair for each stage.

    Raises InputError when the name is unknown or the arguments do not fit.
    """
    if not isinstance(model, str) or model not in MODELS:
        advice = "One of your own is made known by --network module.Class."
        raise InputError(f"There is no network named {model!r} here; known: {', '.join(MODELS)}. {advice}")
    try:
        if MODELS[model] is Upsampler8x:
            model_args = {name: build(facts["model"], facts["model_args"]) for name, facts in model_args.items()}
        return MODELS[model](**model_args)
    except (TypeError, KeyError, AttributeError, RecursionError) as error:
        raise InputError(f"{model} does not take the arguments {model_args}: {error}.") from error
