"""Check the paths that users give, expand ~, and handle - as standard input and output."""

import os
import re
import sys
from pathlib import Path
from typing import Any, BinaryIO

from upscale_lit.data.photo import BEGINNINGS, FORMATS
from upscale_lit.errors import InputError, WriteError, check_path, shown

STREAM = Path("-")  # standard input or standard output; a file of this name is given as ./-
# The system's names for the open files of a process. The shell's <(command) and >(command) give such names.
OPEN_FILES = re.compile(r"/dev/(std(in|out|err)|fd/\d+)|/proc/[\w-]+(/task/\d+)?/fd/\d+")


def path_of(word: Any, stream: bool = False) -> Path:
    """Return a path, with ~ expanded. stream: whether "-" is accepted, which gives STREAM.

    Raises InputError if the value is no path, an empty path, the home folder of an unknown user, or the name of a
    stream.
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
    """Return a path to write to, as `path_of` does.

    Also raises InputError if the path is neither a file nor a folder, such as a pipe, because a file would replace it.
    """
    path = path_of(word, stream)
    if path != STREAM and (what := special(path)):
        raise InputError(f"A path to write to must name a file or a folder; {shown(path)} is {what}.")
    return path


def special(path: Path) -> str | None:
    """Return what a path names, such as "a named pipe", or None for a file, a folder and nothing."""
    if os.path.isfile(path) or os.path.isdir(path) or not os.path.exists(path):
        return None
    return "a named pipe" if path.is_fifo() else "a device or a socket"


def refuse_terminals(reads: bool, writes: bool) -> None:
    """Check that a picture is not read from a terminal, from a closed stream, or written to one.

    Raises InputError otherwise.
    """
    closed = {"input": sys.stdin is None, "output": sys.__stdout__ is None}
    for name, stream, wanted in (("input", sys.stdin, reads), ("output", sys.stdout, writes)):
        if wanted and (closed[name] or stream.isatty()):
            raise InputError(
                f"Standard {name} must be a file or a pipe; it is {'closed' if closed[name] else 'a terminal'}. "
                "Redirect it, or name files: upscale-lit upscale - -o - < photo.jpg > big.jpg"
            )


def read_standard_input() -> bytes:
    """Return the bytes of a picture. Raises InputError if standard input holds no picture."""
    stream: BinaryIO = sys.stdin.buffer
    try:
        begin = stream.read(12)
        if not BEGINNINGS.match(begin):  # checked before reading on, because the stream may be endless
            found = f"it begins with {begin[:8]!r}." if begin else "it is empty. Did the command before it fail?"
            raise InputError(f"Standard input must be a picture, {', '.join(FORMATS)}; {found}")
        return begin + stream.read()
    except OSError as error:
        raise InputError(f"Standard input cannot be read: {error.strerror or error}.") from error


def write_standard_output(data: bytes) -> None:
    """Write bytes to standard output. Raises WriteError, or BrokenPipeError if the reader has closed the pipe."""
    try:
        sys.stdout.buffer.write(data)
        sys.stdout.buffer.flush()
    except BrokenPipeError:
        raise
    except OSError as error:
        raise WriteError(f"Standard output cannot be written: {error.strerror or error}.") from error
