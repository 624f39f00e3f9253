"""Objects from groups of options: the class that `_target_` names, called with the other options."""

import inspect
from collections.abc import Callable, Mapping
from typing import Any

import hydra
from hydra.errors import InstantiationException

from upscale_lit.errors import InputError


def instantiate(group: str, options: Mapping[str, Any], **more: Any) -> Any:
    """What a group of options describes. Raises InputError, also if its class does not take options of these names."""
    target = options["_target_"]
    try:
        function = hydra.utils.get_object(target)
        inspect.signature(function)
    except (ImportError, AttributeError, ValueError, TypeError) as error:
        raise InputError(f"{group}._target_={target} names nothing that can be called: {error}") from error
    check_arguments(group, function, options, *more)
    try:
        return hydra.utils.instantiate(options, _convert_="all", **more)
    except InstantiationException as error:
        if isinstance(error.__cause__, InputError):
            raise error.__cause__ from None
        raise


def check_arguments(group: str, function: Callable[..., Any], options: Mapping[str, Any], *more: str) -> None:
    """Raises InputError unless a function takes the options of a group, and arguments of the names in `more`."""
    signature = inspect.signature(function)
    try:
        signature.bind(**dict.fromkeys([*(name for name in options if not name.startswith("_")), *more]))
    except TypeError as error:
        name = f"{function.__module__}.{function.__qualname__}"
        known = ", ".join(parameter for parameter in signature.parameters if parameter not in more)
        raise InputError(f"{group} does not fit {options.get('_target_', name)}: {error}. It takes {known}.") from error
