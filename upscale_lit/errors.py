"""The exceptions that are meant for the user's eyes, and how they name files."""

from pathlib import Path


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
    return "".join(
        letter if letter.isprintable() else letter.encode("unicode_escape").decode("ascii") for letter in str(path)
    )
