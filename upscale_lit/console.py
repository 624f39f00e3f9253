"""Make standard output and standard error accept any text."""

import os
import sys


def ready_streams() -> None:
    """Write characters that a stream cannot encode as escapes, such as \\u732b. Discard the output of a closed stream.

    File names and tables can hold characters that a pipe, an older terminal or PYTHONIOENCODING cannot encode. Without
    this function, one such character would end a run after hours of training.
    """
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:  # the stream was closed before the program started
            setattr(sys, name, open(os.devnull, "w", errors="backslashreplace"))  # noqa: SIM115
        elif hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")
