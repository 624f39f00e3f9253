"""The trained models in the package. Each model has a folder with weights files and a card (README.md)."""

import os
import re
from collections.abc import Iterable
from pathlib import Path

from upscale_lit.errors import InputError

FOLDER = Path(__file__).parent / "trained"
DEFAULT = "compact"
# The model for compressed pictures of each model that has one. Both have the same architecture and stages.
ROBUST = {"compact": "compact_photo"}


def names() -> list[str]:
    """Return the names of the shipped models, with the default model first."""
    found = {path.parent.name for path in FOLDER.glob("*/*.safetensors")}
    return sorted(found, key=lambda name: (name != DEFAULT, name))


def place(path: Path) -> Path:
    """Return a path unchanged if it exists or has a suffix. Otherwise, return the folder of the shipped model it names.

    Raises InputError if there is no such model. A path with a suffix that does not exist is reported by its reader.
    """
    return path if os.path.exists(path) or path.suffix else folder(str(path))


def by_stage(paths: Iterable[Path]) -> list[Path]:
    """Return weights files sorted by the numbers in their names, such as 64 and 128 in upscaler_64to128.pt."""
    return sorted(paths, key=lambda path: [int(number) for number in re.findall(r"\d+", path.stem)])


def folder(name: str) -> Path:
    """Return the folder of a shipped model. Raises InputError if there is no model of this name."""
    if name not in names():
        raise InputError(
            f"There is neither a file nor a shipped model named {name!r}; the shipped models are {', '.join(names())}."
        )
    return FOLDER / name


def files(name: str) -> list[Path]:
    """Return the weights files of a shipped model, sorted by `by_stage`.

    The stack (64to512) therefore follows the first stage (64to128). Raises InputError if there is no such model.
    """
    return by_stage(folder(name).glob("*.safetensors"))


def model_of(path: Path) -> str | None:
    """Return the name of the shipped model to which a weights file belongs; None for any other file."""
    folder = Path(os.path.realpath(path)).parent
    return folder.name if folder.parent == FOLDER.resolve() else None


def robust(path: Path) -> Path | None:
    """Return the weights file for compressed pictures that belongs to a shipped weights file; None if there is none."""
    name = ROBUST.get(model_of(path) or "")
    return FOLDER / name / path.name if name else None
