"""The record in the log: everything that is needed to repeat a run."""

import logging
import platform
import shlex
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import torch
from omegaconf import DictConfig, OmegaConf

from upscale_lit.errors import shown
from upscale_lit.launch.commands import program
from upscale_lit.launch.search import places, replaced_choices
from upscale_lit.program import PROGRAM

log = logging.getLogger(__name__)
to_file = logging.getLogger("train.record")  # writes to the log file only

PACKAGES = ("torchvision", "torchmetrics", "hydra-core", "omegaconf", "numpy", "pillow")  # besides torch and Lightning


def record(cfg: DictConfig, folder: Path) -> None:
    """Log the run folder, versions, seed, commit, and the shipped choices that files of the user replace.

    The command and the configuration go to the log file only.
    """
    log.info("Run folder: %s", folder)
    own = places().get("--config-dir")
    if own and (replaced := replaced_choices(own)):
        log.info("Files in %s replace the shipped choices %s", shown(own), ", ".join(replaced))
    versions = torch.__version__, metadata.version("pytorch-lightning"), platform.python_version()
    settings = torch.get_num_threads(), cfg.seed, commit()
    log.info("torch %s, Lightning %s, Python %s, %d threads, seed %d%s", *versions, *settings)
    to_file.info("Command in %s: %s %s", Path.cwd(), program(), shlex.join(sys.argv[1:]))
    packages = ", ".join(f"{name} {metadata.version(name)}" for name in PACKAGES)
    to_file.info("System: %s, %s, packages: %s", platform.platform(), sys.executable, packages)
    to_file.info("The resolved configuration:\n%s", OmegaConf.to_yaml(cfg, resolve=True))


def commit() -> str:
    """Return ", commit 0123456789ab with uncommitted changes" or similar; an empty text outside a clone.

    An installed package may lie in the work tree of another project, whose commit says nothing about this program.
    """
    git = ["git", "-C", str(PROGRAM.parent)]
    try:
        ask = [*git, "rev-parse", "--show-toplevel", "HEAD"]
        top, commit = subprocess.run(ask, capture_output=True, text=True, check=True).stdout.splitlines()
        if not PROGRAM.parent.samefile(top):
            return ""
        changes = subprocess.run([*git, "status", "--porcelain"], capture_output=True, text=True, check=True).stdout
    except (OSError, subprocess.CalledProcessError):
        return ""
    return f", commit {commit[:12]}{' with uncommitted changes' if changes else ''}"
