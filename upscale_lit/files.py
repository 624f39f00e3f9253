"""Files written completely or not at all, under any name that the file system allows."""

import contextlib
import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from upscale_lit.errors import WriteError, shown

LONGEST = {"name": ("PC_NAME_MAX", 255), "path": ("PC_PATH_MAX", 4096)}  # bytes, on systems that do not say


@contextmanager
def whole(path: Path) -> Iterator[Path]:
    """Yields a path next to `path` to write to; what was written takes the place of `path` only when all went well.

    It is flushed to the disk before. Raises WriteError when the system refuses; `path` is then as it was.
    """
    part = hidden(path, f"{uuid.uuid4().hex[:12]}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        check_name(path)
        yield part
        with open(part, "r+b") as file:
            os.fsync(file.fileno())
        os.replace(part, path)
        _flush_folder(path.parent)
    except OSError as error:
        if error.errno is None:  # not the system's: an encoder's, for instance
            raise
        raise WriteError(f"{shown(path)} cannot be written: {error.strerror or error}.") from error
    finally:
        with contextlib.suppress(OSError):
            part.unlink(missing_ok=True)


def hidden(path: Path, ending: str) -> Path:
    """`.NAME.ending`, next to `path`. Of a long name the beginning, so that any legal name has a hidden one."""
    name = os.fsencode(path.name)[:100].decode(errors="ignore")
    return path.with_name(f".{name}.{ending}")


def check_name(path: Path) -> None:
    """Raises WriteError when a path or its last name is longer than the file system allows."""
    for what, (key, longest) in LONGEST.items():
        size = len(os.fsencode(path.name if what == "name" else path))
        with contextlib.suppress(AttributeError, OSError, ValueError):  # Windows; a file system that does not say
            known = os.pathconf(path.parent, key)
            longest = known if known > 0 else longest  # -1: the system knows no limit
        limit = longest - 1 if what == "path" else longest  # a zero byte ends a path
        if size > limit:
            raise WriteError(
                f"{shown(path)} cannot be written: its {what} must be at most {limit} bytes long; got {size}. "
                "Choose a shorter one."
            )


def _flush_folder(folder: Path) -> None:
    """A new name, to the disk; systems and file systems that have no such call do without."""
    with contextlib.suppress(OSError):
        number = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(number)
        finally:
            os.close(number)
