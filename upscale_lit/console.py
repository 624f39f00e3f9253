"""Standard output and standard error that take any text."""

import os
import sys


def ready_streams() -> None:
    """Let both streams write what they cannot encode as escapes, such as \\u732b; a closed one swallows all.

    The names of files and the lines of tables hold characters that a pipe, an older terminal or PYTHONIOENCODING may
    not know. Without this, they would end a run after hours of training.
    """
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:  # it was closed before the program began
            setattr(sys, name, open(os.devnull, "w", errors="backslashreplace"))  # noqa: SIM115
        elif hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")
