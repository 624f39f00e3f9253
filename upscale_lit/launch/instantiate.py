"""Build objects from groups of options: call the class that `_target_` names with the other options."""

import inspect
from collections.abc import Callable, Mapping
from typing import Any

import hydra
from hydra.errors import InstantiationException

from upscale_lit.errors import InputError


def instantiate(group: str, options: Mapping[str, Any], **more: Any) -> Any:
    """Return the object that a group of options describes. more: further arguments for the class of the object.

    Raises InputError if `_target_` cannot be called, if the class does not take arguments of these names, and if the
    class raises InputError.
    """
    target = options["_target_"]
    try:
        function = hydra.utils.get_object(target)
        inspect.signature(function)
    except (ImportError, AttributeError, ValueError, TypeError) as error:
        raise InputError(f"{group}._target_={target} must name a class or a function: {error}") from error
    check_arguments(group, function, options, *more)
    try:
        return hydra.utils.instantiate(options, _convert_="all", **more)
    except InstantiationException as error:
        if isinstance(error.__cause__, InputError):
            raise error.__cause__ from None
        raise


def check_arguments(group: str, function: Callable[..., Any], options: Mapping[str, Any], *more: str) -> None:
    """Check that a function takes the options of a group and arguments with the names in `more`.

    Options such as `_target_`, which begin with an underscore, are not checked. Raises InputError if an argument is
    unknown or missing.
    """
    signature = inspect.signature(function)
    try:
        signature.bind(**dict.fromkeys([*(name for name in options if not name.startswith("_")), *more]))
    except TypeError as error:
        name = f"{function.__module__}.{function.__qualname__}"
        known = ", ".join(parameter for parameter in signature.parameters if parameter not in more)
        raise InputError(
            f"{group} does not fit {options.get('_target_', name)}: {error}. Known options are {known}."
        ) from error
