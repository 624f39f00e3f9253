"""The folder of a user's choices, --config-dir: its files come before the shipped files of the same name."""

import argparse
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import ClassVar

from hydra.core.config_search_path import ConfigSearchPath
from hydra.core.hydra_config import HydraConfig
from hydra.core.plugins import Plugins
from hydra.plugins.search_path_plugin import SearchPathPlugin

from upscale_lit.errors import InputError, shown
from upscale_lit.program import CONF


class ChoicesFirst(SearchPathPlugin):
    """A plugin of Hydra that searches the folder of --config-dir before conf/. Hydra alone searches it after conf/."""

    folder: ClassVar[Path | None] = None

    def manipulate_search_path(self, search_path: ConfigSearchPath) -> None:
        if self.folder is not None:
            search_path.prepend("upscale_lit", f"file://{self.folder}", anchor="main")


@contextmanager
def config_dir() -> Iterator[None]:
    """Let the choices in the folder of --config-dir win inside a `with` block.

    Raises InputError if --config-dir does not name a folder, or if the folder has a config.yaml.
    """
    given = option_of(sys.argv[1:])
    folder = None if given is None else Path(given).absolute()
    if folder is not None and not folder.is_dir():
        raise InputError(f"--config-dir must name a folder of YAML files; got {shown(folder)}. Correct the path.")
    if folder is not None and (folder / "config.yaml").exists() and folder.resolve() != CONF.resolve():
        raise InputError(
            f"--config-dir must name a folder without config.yaml; got {shown(folder)}. That file would replace the "
            f"program's own. Move its options to {shown(folder / 'experiment' / 'mine.yaml')} below the line "
            "`# @package _global_`, and give experiment=mine."
        )
    Plugins.instance().register(ChoicesFirst)
    ChoicesFirst.folder = folder
    try:
        yield
    finally:
        ChoicesFirst.folder = None


def option_of(words: Sequence[str]) -> str | None:
    """Return the value of --config-dir. The parser knows similar options, too, since argparse accepts abbreviations."""
    parser = argparse.ArgumentParser(add_help=False)
    for names in (("--config-dir", "-cd"), ("--config-path", "-cp"), ("--config-name", "-cn"), ("--cfg", "-c")):
        parser.add_argument(*names)
    found: str | None = parser.parse_known_args(words)[0].config_dir
    return found


def places() -> dict[str, Path]:
    """Return the folders in which this run finds its configuration: the value of each option of Hydra.

    A folder is missing if it is the shipped one.
    """
    options = {"main": "--config-path", "command-line": "--config-dir"}
    sources = HydraConfig.get().runtime.config_sources
    found = {options[source.provider]: Path(source.path) for source in sources if source.provider in options}
    return {option: place for option, place in found.items() if place.resolve() != CONF.resolve()}


def replaced_choices(folder: Path) -> list[str]:
    """Return the shipped choices that a folder of a user's choices replaces, such as ["model=compact"]."""
    files = sorted(file.relative_to(folder) for file in folder.rglob("*.yaml"))
    return [f"{file.parent.as_posix()}={file.stem}" for file in files if (CONF / file).exists()]
