"""Objects from groups of options: the class that `_target_` names, called with the other options."""

import inspect
from collections.abc import Mapping
from typing import Any

import hydra
from hydra.errors import InstantiationException

from upscale_lit.errors import InputError


def instantiate(group: str, options: Mapping[str, Any], **more: Any) -> Any:
    """What a group of options describes. Raises InputError, also if its class does not take options of these names."""
    target = options["_target_"]
    try:
        signature = inspect.signature(hydra.utils.get_object(target))
    except (ImportError, AttributeError, ValueError, TypeError) as error:
        raise InputError(f"{group}._target_={target} names nothing that can be called: {error}") from error
    try:
        signature.bind(**dict.fromkeys([*(name for name in options if not name.startswith("_")), *more]))
    except TypeError as error:
        known = ", ".join(signature.parameters)
        raise InputError(f"{group} does not fit {target}: {error}. It takes {known}.") from error
    try:
        return hydra.utils.instantiate(options, _convert_="all", **more)
    except InstantiationException as error:
        if isinstance(error.__cause__, InputError):
            raise error.__cause__ from None
        raise
