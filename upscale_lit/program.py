"""The program that trains: train.py. A clone has it next to the package, and a wheel inside the package."""

import os
import runpy
import sys
from collections.abc import Sequence
from pathlib import Path

PACKAGE = Path(__file__).parent
TOP = PACKAGE / "top"  # pyproject.toml puts train.py and conf/ into this folder of a wheel
PROGRAM = (TOP if TOP.exists() else PACKAGE.parent) / "train.py"
CONF = PROGRAM.parent / "conf"
# An environment variable names the program of printed commands. The processes that a run starts inherit it.
STARTED_AS = "UPSCALE_LIT_STARTED_AS"


def run_program(words: Sequence[str]) -> None:
    """Run train.py with these words, exactly as Python runs it. Raises SystemExit with the exit code of train.py.

    Its name is `__main__`: Lightning and joblib start further processes of a run from the main module and sys.argv.
    """
    os.environ[STARTED_AS] = "upscale-lit train"
    sys.argv = [str(PROGRAM), *words]
    runpy.run_path(str(PROGRAM), run_name="__main__")
