"""Errors that users are meant to read, and the checks of values that raise these errors."""

import json
import math
import os
import traceback
from collections.abc import Collection, Sequence
from operator import ge, gt, le, lt
from pathlib import Path
from typing import Any

LIMITS = {"low": ("from", ge), "above": ("above", gt), "high": ("up to", le), "below": ("below", lt)}


class InputError(ValueError):
    """A mistake of the user. The text says in sentences what was expected, what was found, and how to fix it.

    `train.py` and `upscale-lit` print the text without a traceback and exit with code 2. Most other exceptions are bugs
    of this project and keep their traceback.
    """


class WriteError(InputError):
    """A file could not be written. An earlier file of the same name is unchanged."""


class ShardError(InputError):
    """A shard of photos is missing, incomplete or unreachable."""


class DivergedError(InputError):
    """A loss or a weight is not finite."""


def shown(path: Path) -> str:
    """Return a path as one line of text. Control characters, and bytes that are not valid text, become escapes."""
    letters = str(path)
    return "".join(each if each.isprintable() else each.encode("unicode_escape").decode("ascii") for each in letters)


def refuse_unless(holds: bool, name: str, expected: str, value: object) -> None:
    """Raise InputError unless `holds` is true.

    The text is, for example, "data.crop must be a whole number from 1 upwards; got null."
    """
    if not holds:
        raise InputError(f"{name} must be {expected}; got {as_written(value)}.")


def as_written(value: object) -> str:
    """Return a value as YAML and the command line write it: null, true, 0.5, [1, 2], "text"."""
    return json.dumps(value, ensure_ascii=False, default=repr)


def check_whole(name: str, value: Any, low: int = 1, high: int | None = None, or_else: Collection[Any] = ()) -> None:
    """Raise InputError unless the value is an integer from `low` to `high`, or one of `or_else`."""
    limits = f"from {low} upwards" if high is None else f"from {low} to {high}"
    holds = is_whole(value) and value >= low and (high is None or value <= high)
    refuse_unless(holds or _among(value, or_else), name, f"a whole number {limits}{_alternatives(or_else)}", value)


def check_number(name: str, value: Any, or_else: Collection[Any] = (), **limits: float) -> None:
    """Raise InputError unless the value is a finite number within the limits, or one of `or_else`.

    limits: the allowed values include `low` and `high`, but exclude `above` and `below`.
    """
    given = [(*LIMITS[side], limit) for side, limit in limits.items()]
    words = " and ".join(f"{word} {limit:g}" for word, _, limit in given)
    holds = is_number(value) and all(compare(value, limit) for _, compare, limit in given)
    refuse_unless(holds or _among(value, or_else), name, f"a number {words}{_alternatives(or_else)}", value)


def check_choice(name: str, value: Any, choices: Collection[Any]) -> None:
    """Raise InputError unless the value is one of the choices and has the same type."""
    listed = ", ".join(choice if isinstance(choice, str) else as_written(choice) for choice in choices)
    refuse_unless(_among(value, choices), name, f"one of {listed}", value)


def check_flag(name: str, value: Any) -> None:
    """Raise InputError unless the value is true or false."""
    refuse_unless(isinstance(value, bool), name, "true or false", value)


def check_path(name: str, value: Any) -> Path:
    """Return the path that an option names, with ~ expanded.

    Raises InputError if the value is null or empty. An unset shell variable leaves an empty path, which would otherwise
    mean the current folder.
    """
    if not isinstance(value, str | Path) or not str(value).strip():
        hint = " Is it a shell variable that is not set?" if isinstance(value, str) else ""
        raise InputError(f"{name} must name a file or a folder; got {as_written(value)}.{hint}")
    # Path.expanduser would raise an error for the ~ of an unknown user; os.path.expanduser leaves such a path as it is.
    return Path(os.path.expanduser(value))


def raised_in(error: BaseException, *packages: str) -> bool:
    """Return whether code of one of these packages raised the error, and not code of this project."""
    *_, (frame, _) = traceback.walk_tb(error.__traceback__)
    return frame.f_globals.get("__name__", "").partition(".")[0] in packages


def is_whole(value: Any) -> bool:
    """Return whether a value is an integer. True and False do not count as integers."""
    return isinstance(value, int) and not isinstance(value, bool)


def is_number(value: Any) -> bool:
    """Return whether a value is a finite number. True and False do not count as numbers."""
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def are_numbers(values: Any, count: int | None = None) -> bool:
    """Return whether a value is a list of `count` finite numbers. If `count` is None, any length is accepted."""
    listed = isinstance(values, Sequence) and not isinstance(values, str)
    return listed and (count is None or len(values) == count) and all(map(is_number, values))


def _among(value: Any, choices: Collection[Any]) -> bool:
    """Return whether a value is one of the choices and has the same type. Python alone considers 1 equal to True."""
    return any(type(value) is type(choice) and value == choice for choice in choices)


def _alternatives(values: Collection[Any]) -> str:
    return "".join(f", or {as_written(value)}" for value in values)
