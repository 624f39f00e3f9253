"""Paths as users give them: never empty, ~ expanded, and - for standard input and output."""

import os
import re
import sys
from pathlib import Path
from typing import Any, BinaryIO

from upscale_lit.data.photo import BEGINNINGS, FORMATS
from upscale_lit.errors import InputError, WriteError, check_path, shown

STREAM = Path("-")  # standard input as an input, standard output as an output; a file of this name is given as ./-
# The system's own names for a process's open files; the shell's <(command) and >(command) are some of them.
OPEN_FILES = re.compile(r"/dev/(std(in|out|err)|fd/\d+)|/proc/[\w-]+(/task/\d+)?/fd/\d+")


def path_of(word: Any, stream: bool = False) -> Path:
    """A path, with ~ expanded. stream: accept "-", which gives STREAM.

    Raises InputError for an empty path, an unknown user's ~, other names of streams, and what is no path at all.
    """
    path, text = check_path("A path", word), str(word)
    if text == str(STREAM) and not isinstance(word, Path):
        if stream:
            return STREAM
        raise InputError("A path must name a file or a folder; got '-', which only `upscale` takes: INPUT and -o.")
    if OPEN_FILES.fullmatch(os.path.abspath(path)):
        raise InputError(
            f"A path must name a file or a folder; got {shown(path)}, a stream. `upscale` reads standard input and "
            "writes standard output under the name -: upscale-lit upscale - -o - < photo.jpg > big.jpg"
        )
    if text.startswith("~") and str(path) == str(Path(text)) and not os.path.lexists(path):
        raise InputError(f"There is no such home folder: {shown(path)}. A file of this name is ./{shown(path)}")
    return path.absolute() if path == STREAM else path


def target_of(word: Any, stream: bool = False) -> Path:
    """A path to write to, as `path_of` gives it.

    Raises InputError, too, for what is neither a file nor a folder, such as a pipe: a file would replace it.
    """
    path = path_of(word, stream)
    if path != STREAM and (what := special(path)):
        raise InputError(f"A path to write to must be that of a file or a folder; {shown(path)} is {what}.")
    return path


def special(path: Path) -> str | None:
    """What there is under a path if it is neither a file nor a folder, such as "a named pipe"; else None."""
    if os.path.isfile(path) or os.path.isdir(path) or not os.path.exists(path):
        return None
    return "a named pipe" if path.is_fifo() else "a device or a socket"


def refuse_terminals(reads: bool, writes: bool) -> None:
    """Raises InputError when a picture would be read from a terminal or written to one, or the stream is closed."""
    closed = {"input": sys.stdin is None, "output": sys.__stdout__ is None}
    for name, stream, wanted in (("input", sys.stdin, reads), ("output", sys.stdout, writes)):
        if wanted and (closed[name] or stream.isatty()):
            raise InputError(
                f"Standard {name} must be a file or a pipe; it is {'closed' if closed[name] else 'a terminal'}. "
                "Redirect it, or name files: upscale-lit upscale - -o - < photo.jpg > big.jpg"
            )


def read_standard_input() -> bytes:
    """A picture's bytes. Raises InputError when there is nothing to read."""
    stream: BinaryIO = sys.stdin.buffer
    try:
        begin = stream.read(12)
        if not BEGINNINGS.match(begin):  # it may have no end
            found = f"it begins with {begin[:8]!r}." if begin else "it is empty. Did the command before it fail?"
            raise InputError(f"Standard input must be a picture, {', '.join(FORMATS)}; {found}")
        return begin + stream.read()
    except OSError as error:
        raise InputError(f"Standard input cannot be read: {error.strerror or error}.") from error


def write_standard_output(data: bytes) -> None:
    """Raises WriteError, and BrokenPipeError if nobody reads any more."""
    try:
        sys.stdout.buffer.write(data)
        sys.stdout.buffer.flush()
    except BrokenPipeError:
        raise
    except OSError as error:
        raise WriteError(f"Standard output cannot be written: {error.strerror or error}.") from error
