"""The trained models inside the package: a folder for each, with weights files and a card (README.md)."""

import os
import re
from collections.abc import Iterable
from pathlib import Path

from upscale_lit.errors import InputError

FOLDER = Path(__file__).parent / "trained"
DEFAULT = "compact"


def names() -> list[str]:
    """The shipped models, the default one first."""
    found = {path.parent.name for path in FOLDER.glob("*/*.safetensors")}
    return sorted(found, key=lambda name: (name != DEFAULT, name))


def place(path: Path) -> Path:
    """A file or folder as it is; if there is none and the name has no ending, the shipped model of that name.

    Raises InputError when there is none of these.
    """
    return path if os.path.exists(path) or path.suffix else folder(str(path))


def by_stage(paths: Iterable[Path]) -> list[Path]:
    """Weights files in the order of the sizes in their names."""
    return sorted(paths, key=lambda path: [int(number) for number in re.findall(r"\d+", path.stem)])


def folder(name: str) -> Path:
    """Where a shipped model's files are. Raises InputError when there is none of that name."""
    if name not in names():
        raise InputError(f"There is no file and no shipped model {name!r}; shipped are: {', '.join(names())}.")
    return FOLDER / name


def files(name: str) -> list[Path]:
    """A shipped model's weights files: the stages in order, and the stack after the first. Raises InputError."""
    return by_stage(folder(name).glob("*.safetensors"))
