"""Write files completely or not at all, under any name that the file system allows."""

import contextlib
import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from upscale_lit.errors import WriteError, shown

LONGEST = {"name": ("PC_NAME_MAX", 255), "path": ("PC_PATH_MAX", 4096)}  # bytes, for systems that report no limit


@contextmanager
def atomic(path: Path) -> Iterator[Path]:
    """Yield a temporary path next to `path`, and rename the written file to `path` after the block succeeds.

    The file is flushed to the disk before the renaming, so `path` never holds an incomplete file. Missing parent
    folders are created. Raises WriteError if the name is too long or the system refuses to write; `path` is then
    unchanged.
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
        if error.errno is None:  # raised by other code, such as an encoder, and not by the system
            raise
        raise WriteError(f"{shown(path)} cannot be written: {error.strerror or error}.") from error
    finally:
        with contextlib.suppress(OSError):
            part.unlink(missing_ok=True)


def hidden(path: Path, ending: str) -> Path:
    """Return the path `.NAME.ending` next to `path`. NAME is cut to 100 bytes, so that the result is never too long."""
    name = os.fsencode(path.name)[:100].decode(errors="ignore")
    return path.with_name(f".{name}.{ending}")


def check_name(path: Path) -> None:
    """Raise WriteError if a path, or the last name in the path, is longer than the file system allows."""
    for what, (key, longest) in LONGEST.items():
        size = len(os.fsencode(path.name if what == "name" else path))
        with contextlib.suppress(AttributeError, OSError, ValueError):  # on Windows, and when the limit is unknown
            known = os.pathconf(path.parent, key)
            longest = known if known > 0 else longest  # -1 means that no limit is known
        limit = longest - 1 if what == "path" else longest  # PC_PATH_MAX counts the final zero byte
        if size > limit:
            raise WriteError(
                f"{shown(path)} cannot be written: its {what} must be at most {limit} bytes long; got {size}. "
                "Choose a shorter one."
            )


def _flush_folder(folder: Path) -> None:
    """Flush a folder to the disk, so that a new name in it survives a crash. Ignore systems that cannot do so."""
    with contextlib.suppress(OSError):
        number = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(number)
        finally:
            os.close(number)
