"""Build objects from groups of options: call the class that `_target_` names with the other options."""

import inspect
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import hydra
from hydra.errors import InstantiationException

from upscale_lit.errors import InputError, as_written

OWN = ("model", "loss", "data", "degradation")  # groups whose `_target_` may name any class: that of a user
TRUSTED = ("upscale_lit", "pytorch_lightning", "torch.nn")  # packages of the classes that other options may name
WHITELIST = [f"{package}.*" for package in TRUSTED]  # in the form of Hydra 1.4


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
    limits = {}
    if "_execution_whitelist_" in inspect.signature(hydra.utils.instantiate).parameters:  # from Hydra 1.4
        limits["_execution_whitelist_"] = [*WHITELIST, target] if group in OWN else WHITELIST
    try:
        return hydra.utils.instantiate(options, _convert_="all", **limits, **more)
    except InstantiationException as error:
        if isinstance(error.__cause__, InputError):
            raise error.__cause__ from None
        raise


def check_targets(config: Mapping[str, Any]) -> None:
    """Check that no option calls code of other packages. Only a group in OWN may name any class as its `_target_`.

    Raises InputError for the first other `_target_` that is not below a package in TRUSTED.
    """
    for name, target in _targets("", config):
        known = isinstance(target, str) and target.startswith(tuple(f"{package}." for package in TRUSTED))
        if target is not None and not known and name not in {f"{group}._target_" for group in OWN}:
            raise InputError(
                f"{name} must name a class of one of the packages {', '.join(TRUSTED)}; got {as_written(target)}. Only "
                f"the _target_ of {', '.join(OWN)} can be a class of your own. Build the object in that class."
            )


def _targets(name: str, value: Any) -> Iterator[tuple[str, Any]]:
    """Yield the full name and the value of each option `_target_` below an option."""
    below = value.items() if isinstance(value, Mapping) else enumerate(value) if isinstance(value, list) else ()
    for key, part in below:
        full = f"{name}.{key}" if name else str(key)
        yield from [(full, part)] if key == "_target_" else _targets(full, part)


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
