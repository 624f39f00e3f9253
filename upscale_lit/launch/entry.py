"""The entry into a run: Hydra composes the configuration, and a wrong command becomes one sentence."""

import inspect
import os
import sys
from collections.abc import Callable
from functools import wraps
from typing import Any

import hydra
from hydra import errors
from hydra.core.utils import env_override
from omegaconf import DictConfig

from upscale_lit.console import ready_streams
from upscale_lit.errors import InputError, raised_in
from upscale_lit.launch.failures import JobFailed
from upscale_lit.launch.instantiate import WHITELIST
from upscale_lit.launch.search import config_dir
from upscale_lit.program import CONF

NOT_COMPOSED = errors.ConfigCompositionException, errors.OverrideParseException, errors.SearchPathException, ValueError
HINTS = {  # for options that the configuration does not have
    "stage.blur": "stage.blur has a new name: give degradation=blur_noise degradation.blur=SIGMA.",
    "stage.noise": "stage.noise has a new name: give degradation=blur_noise degradation.noise=LEVELS.",
    "data.root": "data.root belongs to data=folder: give data=folder data.root=DIR.",
    "data.urls": "data.urls belongs to data=shards: give data=shards data.urls=SHARDS.",
}


def command(task: Callable[[DictConfig], None]) -> Callable[[], None]:
    """Decorate the function of a run: Hydra calls it with the configuration in conf/, changed by the command line.

    Choices and modules of the user are found, too: those in the folder of --config-dir and in the working folder.
    If a configuration cannot be composed, the decorated function prints one sentence and exits with code 2. Hydra
    would exit with code 1 and shorten the tracebacks of our own bugs. With HYDRA_FULL_ERROR=1, Hydra raises errors.
    """
    # Hydra 1.4 limits the classes that a configuration can name, and warns of version_base, which Hydra 1.3 needs.
    limited = "execution_whitelist" in inspect.signature(hydra.main).parameters
    options: dict[str, Any] = {"execution_whitelist": WHITELIST} if limited else {"version_base": "1.3"}
    hydra_main = hydra.main(config_path=str(CONF), config_name="config", **options)(task)

    @wraps(hydra_main)
    def main() -> None:
        ready_streams()
        sys.path.append(os.getcwd())  # last, so that no file there replaces a module of a library
        try:
            with env_override({"HYDRA_FULL_ERROR": "1"}), config_dir():
                hydra_main()
        except JobFailed as error:
            print(error, file=sys.stderr)
            sys.exit(1)
        except InputError as error:
            print(f"error: {error}", file=sys.stderr)
            sys.exit(2)
        except NOT_COMPOSED as error:
            if not raised_in(error, "hydra"):
                raise
            print(f"error: {_sentence(error)}", file=sys.stderr)
            sys.exit(2)

    return main


def _sentence(error: Exception) -> str:
    if isinstance(error, errors.MissingConfigException) and error.missing_cfg_file and error.options:
        group, _, choice = str(error.missing_cfg_file).rpartition("/")
        choices = [name for name in error.options if name not in ("base", "files")]  # parts of other files
        return f"{group} must be one of {', '.join(choices)}; got {choice!r}."
    text = " ".join(f"{error} {error.__cause__ or ''}".split())
    return next((hint for key, hint in HINTS.items() if f"Could not override '{key}'" in text), text)
