"""The errors that are meant for the user's eyes, and the checks of values that raise them."""

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
    """Something the user gave cannot work: what was expected, what was found, and the way out, in sentences.

    `train.py` prints the text alone and exits with code 2; any other exception is our own bug and keeps its traceback.
    """


class WriteError(InputError):
    """A file could not be written. What its name held before is untouched."""


class ShardError(InputError):
    """A shard of photos is missing, broken off, or cannot be reached."""


class DivergedError(InputError):
    """A loss or weights that are not finite."""


def shown(path: Path) -> str:
    """A path on one line: control characters, and bytes that are no text, as escapes."""
    letters = str(path)
    return "".join(each if each.isprintable() else each.encode("unicode_escape").decode("ascii") for each in letters)


def refuse_unless(holds: bool, name: str, expected: str, value: object) -> None:
    """Raises InputError, such as "data.crop must be a whole number from 1 upwards; got null.", unless `holds`."""
    if not holds:
        raise InputError(f"{name} must be {expected}; got {as_written(value)}.")


def as_written(value: object) -> str:
    """A value as YAML and the command line write it: null, true, 0.5, [1, 2], "text"."""
    return json.dumps(value, ensure_ascii=False, default=repr)


def check_whole(name: str, value: Any, low: int = 1, high: int | None = None, or_else: Collection[Any] = ()) -> None:
    """Raises InputError unless the value is a whole number from `low` to `high`, or one of `or_else`."""
    limits = f"from {low} upwards" if high is None else f"from {low} to {high}"
    holds = is_whole(value) and value >= low and (high is None or value <= high)
    refuse_unless(holds or _among(value, or_else), name, f"a whole number {limits}{_alternatives(or_else)}", value)


def check_number(name: str, value: Any, or_else: Collection[Any] = (), **limits: float) -> None:
    """Raises InputError unless the value is a finite number within the limits, or one of `or_else`.

    limits: low and high, which are allowed themselves; above and below, which are not.
    """
    given = [(*LIMITS[side], limit) for side, limit in limits.items()]
    words = " and ".join(f"{word} {limit:g}" for word, _, limit in given)
    holds = is_number(value) and all(compare(value, limit) for _, compare, limit in given)
    refuse_unless(holds or _among(value, or_else), name, f"a number {words}{_alternatives(or_else)}", value)


def check_choice(name: str, value: Any, choices: Collection[Any]) -> None:
    """Raises InputError unless the value is one of the choices."""
    listed = ", ".join(choice if isinstance(choice, str) else as_written(choice) for choice in choices)
    refuse_unless(_among(value, choices), name, f"one of {listed}", value)


def check_flag(name: str, value: Any) -> None:
    """Raises InputError unless the value is true or false."""
    refuse_unless(isinstance(value, bool), name, "true or false", value)


def check_path(name: str, value: Any) -> Path:
    """A path that an option names, with ~ expanded.

    Raises InputError when it is null or empty, as an unset shell variable leaves it: it would be the current folder.
    """
    if not isinstance(value, str | Path) or not str(value).strip():
        hint = " Is it a shell variable that is not set?" if isinstance(value, str) else ""
        raise InputError(f"{name} must name a file or a folder; got {as_written(value)}.{hint}")
    return Path(os.path.expanduser(value))  # unlike Path.expanduser, it leaves an unknown user's ~ as it is


def raised_in(error: BaseException, *packages: str) -> bool:
    """Whether code of one of these packages raised an error, not code of ours."""
    *_, (frame, _) = traceback.walk_tb(error.__traceback__)
    return frame.f_globals.get("__name__", "").partition(".")[0] in packages


def is_whole(value: Any) -> bool:
    """Whether a value is a whole number; true and false are not."""
    return isinstance(value, int) and not isinstance(value, bool)


def is_number(value: Any) -> bool:
    """Whether a value is a finite number; true and false are not."""
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def are_numbers(values: Any, count: int | None = None) -> bool:
    """Whether a value is a list of `count` finite numbers, or of any count."""
    listed = isinstance(values, Sequence) and not isinstance(values, str)
    return listed and (count is None or len(values) == count) and all(map(is_number, values))


def _among(value: Any, choices: Collection[Any]) -> bool:
    """Whether a value is one of the choices, of the same type: 1 is not true."""
    return any(type(value) is type(choice) and value == choice for choice in choices)


def _alternatives(values: Collection[Any]) -> str:
    return "".join(f", or {as_written(value)}" for value in values)
