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
    """Return a user's path, with ~ expanded. stream: whether "-" is accepted; if so, the result for "-" is STREAM.

    Raises InputError if the value is no path, an empty path, the home folder of an unknown user, or the name of a
    stream.
    """
    path, text = check_path("A path", word), str(word)
    if text == str(STREAM) and not isinstance(word, Path):
        if stream:
            return STREAM
        raise InputError("A path must name a file or a folder; got '-', which only `upscale` accepts, as INPUT or -o.")
    if OPEN_FILES.fullmatch(os.path.abspath(path)):
        raise InputError(
            f"A path must name a file or a folder; got {shown(path)}, a stream. `upscale` reads standard input and "
            "writes standard output under the name -: upscale-lit upscale - -o - < photo.jpg > big.jpg"
        )
    if text.startswith("~") and str(path) == str(Path(text)) and not os.path.lexists(path):
        raise InputError(f"There is no home folder {shown(path)}. Write ./{shown(path)} for a file of this name.")
    return path.absolute() if path == STREAM else path


def target_of(word: Any, stream: bool = False) -> Path:
    """Return a path to write to, as `path_of` does.

    Raises InputError also if the path names a pipe or a device, because the written file would replace the pipe.
    """
    path = path_of(word, stream)
    if path != STREAM and (what := special(path)):
        raise InputError(f"A path to write to must name a file or a folder; got {shown(path)}, {what}.")
    return path


def special(path: Path) -> str | None:
    """Return "a named pipe" or "a device or a socket" if the path names one.

    Return None if the path names a file, a folder, or nothing that exists.
    """
    if os.path.isfile(path) or os.path.isdir(path) or not os.path.exists(path):
        return None
    return "a named pipe" if path.is_fifo() else "a device or a socket"


def refuse_terminals(reads: bool, writes: bool) -> None:
    """Raise InputError if a stream that is needed for a picture is closed or a terminal.

    reads: whether standard input is needed. writes: whether standard output is needed.
    """
    closed = {"input": sys.stdin is None, "output": sys.__stdout__ is None}
    for name, stream, wanted in (("input", sys.stdin, reads), ("output", sys.stdout, writes)):
        if wanted and (closed[name] or stream.isatty()):
            raise InputError(
                f"Standard {name} must be a file or a pipe; got {'a closed stream' if closed[name] else 'a terminal'}. "
                "Redirect the stream, or name files: upscale-lit upscale - -o - < photo.jpg > big.jpg"
            )


def read_standard_input() -> bytes:
    """Return the bytes of the picture on standard input.

    Raises InputError if standard input cannot be read, or does not begin like a picture of one of FORMATS.
    """
    stream: BinaryIO = sys.stdin.buffer
    try:
        begin = stream.read(12)
        if not BEGINNINGS.match(begin):  # do not read the rest, which may be endless
            found = (
                f"bytes that begin with {begin[:8]!r}." if begin else "nothing. Did the command before the pipe fail?"
            )
            raise InputError(f"Standard input must be a picture ({', '.join(FORMATS)}); got {found}")
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
