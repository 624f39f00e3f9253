"""The entry into a run: Hydra composes the configuration, and a wrong command becomes one sentence."""

import sys
from collections.abc import Callable
from functools import wraps

from hydra import errors
from hydra.core.utils import env_override

from upscale_lit.console import ready_streams
from upscale_lit.errors import raised_in
from upscale_lit.launch.failures import JobFailed

NOT_COMPOSED = errors.ConfigCompositionException, errors.OverrideParseException, errors.SearchPathException, ValueError
HINTS = {  # for options that the configuration does not have
    "stage.blur": "stage.blur has a new name: give degradation=blur_noise degradation.blur=SIGMA.",
    "stage.noise": "stage.noise has a new name: give degradation=blur_noise degradation.noise=LEVELS.",
    "data.root": "data.root belongs to data=folder: give data=folder data.root=DIR.",
    "data.urls": "data.urls belongs to data=shards: give data=shards data.urls=SHARDS.",
}


def command(hydra_main: Callable[[], None]) -> Callable[[], None]:
    """Decorate the function that `hydra.main` returns.

    If a configuration cannot be composed, the decorated function prints one sentence and exits with code 2. Hydra
    would exit with code 1 and shorten the tracebacks of our own bugs. With HYDRA_FULL_ERROR=1, Hydra raises errors.
    """

    @wraps(hydra_main)
    def main() -> None:
        ready_streams()
        try:
            with env_override({"HYDRA_FULL_ERROR": "1"}):
                hydra_main()
        except JobFailed as error:
            print(error, file=sys.stderr)
            sys.exit(1)
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
