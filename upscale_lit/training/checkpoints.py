"""Read, check and write the checkpoints of a run.

A resumed run ends with the same weights as an uninterrupted run, for two reasons. Checkpoints include the position of
the loader next to Lightning's own state. All random choices are functions of an example's number.
"""

import logging
import re
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pytorch_lightning import LightningModule
from pytorch_lightning.plugins.io import TorchCheckpointIO
from torch import Tensor

from upscale_lit import weights
from upscale_lit.errors import InputError, WriteError, as_written, check_path, shown
from upscale_lit.files import atomic

log = logging.getLogger(__name__)

LAST, BEST = "last.ckpt", "best.ckpt"
DATA = "UpscaleDataModule"  # the data module's key in a checkpoint; Lightning uses the class name as the key
# The entries of every checkpoint, by Lightning's names, with their types.
PARTS = {
    "state_dict": dict, "loops": dict, "callbacks": dict, "optimizer_states": list, "lr_schedulers": list,
    "hyper_parameters": dict, "epoch": int, "global_step": int, "pytorch-lightning_version": str,
}  # fmt: skip


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint that has been read and checked. content: its entries by Lightning's names, see `read_checkpoint`."""

    path: Path
    content: dict[str, Any]

    @property
    def steps(self) -> int:
        """The number of optimizer steps before the checkpoint was written."""
        return int(self.content["global_step"])

    @property
    def facts(self) -> dict[str, Any]:
        """The facts that distinguish the checkpoint's run from other runs.

        The facts are options by name, the origins of earlier stages, and the weights file with which the run started.
        """
        return dict(self.content["hyper_parameters"]["facts"])


class SafeCheckpointIO(TorchCheckpointIO):
    """A safe plugin with which Lightning reads and writes checkpoint files. A file is replaced atomically.

    The plugin reads only tensors and plain types, even if Lightning asks for other objects.
    folder: the run's folder of checkpoints. A checkpoint that is read is `relocated` to this folder.
    Raises DivergedError if a weight is not finite, WriteError if the file cannot be written, and the errors of
    `read_checkpoint`.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any | None = None) -> None:
        if not Path(path).parent.parent.is_dir():
            raise WriteError(f"{shown(Path(path))} cannot be written: the run's folder does not exist any more.")
        weights.write_file(Path(path), checkpoint)

    def load_checkpoint(
        self, path: Any, map_location: Any | None = None, weights_only: bool | None = None
    ) -> dict[str, Any]:
        return relocated(read_checkpoint(Path(path)), self.folder)


def find_checkpoint(ckpt_path: str | None, folder: Path) -> Checkpoint | None:
    """Return the checkpoint that ckpt_path names, or None if the run starts without a checkpoint.

    ckpt_path: a path, "last" for last.ckpt in the run's `folder`, or None for no checkpoint.
    With "last", the result is also None if the run in `folder` ended before its first step.
    Raises InputError if the file is missing, and the errors of `read_checkpoint`.
    """
    if ckpt_path is None:
        return None
    named = check_path("ckpt_path", ckpt_path)
    if re.match(r"\w+://", ckpt_path):
        raise InputError(f"ckpt_path must name a file on this machine; got {ckpt_path}. Download the file first.")
    path = folder / "checkpoints" / LAST if ckpt_path == "last" else named
    if path.is_file():
        return Checkpoint(path, read_checkpoint(path))
    if ckpt_path == "last" and (log_file := folder / "train.log").is_file() and log_file.stat().st_size:
        log.warning("The run in %s ended before its first step. This run starts from the beginning.", folder)
        return None
    way = (
        "ckpt_path=last resumes the run in hydra.run.dir: name the folder of that run with hydra.run.dir=RUN_FOLDER."
        if ckpt_path == "last"
        else "Give the path of a last.ckpt or best.ckpt in the checkpoints folder of a run."
    )
    raise InputError(f"There is no checkpoint at {path}. {way}")


def read_checkpoint(path: Path) -> dict[str, Any]:
    """Return the contents of a run's checkpoint in the present format. Tensors are on the CPU.

    Raises InputError if the file is missing, damaged, or not a checkpoint of a run.
    """
    content = weights.read_file(path, "checkpoint")
    for name, kind in PARTS.items():
        if not isinstance(content.get(name), kind):
            raise InputError(f"{path} must be a checkpoint of a run (best.ckpt, last.ckpt); it holds no {name}.")
    if not all(isinstance(value, Tensor) for value in content["state_dict"].values()):
        raise InputError(f"{path} must be a checkpoint of a run; its state_dict holds other objects than tensors.")
    if not isinstance(content["hyper_parameters"].get("facts"), dict):
        raise InputError(f"{path} is a checkpoint of another program: it does not record the facts of its run.")
    data = content.get("ShardDataModule", content.get(DATA, {"facts": {}, "batches": 0}))
    read_by_us = [(data, {"facts", "batches"})]  # parts that Lightning restores, and the keys that our own code reads
    for state in content["optimizer_states"]:
        groups = state.get("param_groups", [None]) if isinstance(state, dict) else [None]
        read_by_us += [(group, {"lr", "initial_lr"}) for group in groups]
    for part, keys in read_by_us:
        if not isinstance(part, dict) or not keys <= part.keys():
            raise InputError(f"{path} is damaged or of another version: it lacks {' and '.join(sorted(keys))}.")
    return upgraded(content)


def upgraded(content: dict[str, Any]) -> dict[str, Any]:
    """Convert the contents of a checkpoint of version 0.1.0 to the present format, in place, and return them.

    - Version 0.1.0 had a separate data module for shards. Its state moves from the key ShardDataModule to
      UpscaleDataModule.
    - The fact stage.inputs=augmented becomes stage.inputs=photos and degradation=blur_noise. The amounts of blur and
      noise become the facts degradation.blur and degradation.noise. In version 0.1.0, a fact of the data held these
      amounts after the low picture's side.
    - All other checkpoints without a degradation get the fact degradation=none.
    - A run with a degradation chooses its best weights by val/score. Version 0.1.0 compared val/psnr, so the state of
      that comparison is left out.
    """
    if "ShardDataModule" in content:
        content[DATA] = content.pop("ShardDataModule")
    facts = content["hyper_parameters"]["facts"]
    if "degradation" not in facts:
        facts["degradation"] = "none"
        amounts = content.get(DATA, {}).get("facts", {}).pop("stage.blur, stage.noise", [])
        if facts.get("stage.inputs") == "augmented":
            facts.update({"stage.inputs": "photos", "degradation": "blur_noise"})
            facts.update(zip(("degradation.blur", "degradation.noise"), amounts[1:], strict=False))
    if facts["degradation"] != "none" and any("'val/psnr'" in name for name in content["callbacks"]):
        log.warning(
            "An earlier version chose the best weights of this run by val/psnr. From now on, val/score decides."
        )
        content["callbacks"] = {name: state for name, state in content["callbacks"].items() if "'val/psnr'" not in name}
    return content


def relocated(content: dict[str, Any], folder: Path) -> dict[str, Any]:
    """Return the contents of a checkpoint, changed so that best.ckpt in `folder` is the best checkpoint of the run.

    Lightning's ModelCheckpoint forgets its best score if the run folder was moved or copied, because the path in the
    checkpoint is then wrong. This function replaces the path, so that ModelCheckpoint keeps the score.
    If best.ckpt is not in `folder`, the state of ModelCheckpoint is left out. Otherwise its score could prevent all
    later weights from becoming the best weights.
    """
    path = folder.resolve() / BEST
    callbacks = {}
    for name, state in content["callbacks"].items():
        if isinstance(state, dict) and state.get("best_model_score") is not None:
            if not path.exists():
                log.warning("%s is missing. The best weights from this step on will be kept.", shown(path))
                continue
            state = {key: value for key, value in state.items() if key != "dirpath"}
            state |= {"best_model_path": str(path), "kth_best_model_path": str(path), "last_model_path": ""}
            state["best_k_models"] = {str(path): state["best_model_score"]}
        callbacks[name] = state
    return {**content, "callbacks": callbacks}


def bring_best(ckpt: Path, folder: Path) -> None:
    """Copy best.ckpt to the run's `folder` from the folder of the checkpoint `ckpt`, which the run resumes.

    Nothing is copied if `folder` already has a best.ckpt, or if `ckpt` refers to another best.ckpt. A later best.ckpt
    belongs to steps that the run has yet to repeat.
    """
    best = ckpt.with_name(BEST)
    if best.exists() and not (folder / BEST).exists() and _best_score(best) == _best_score(ckpt):
        with atomic(folder / BEST) as part:
            shutil.copyfile(best, part)


def _best_score(ckpt: Path) -> float | None:
    states = read_checkpoint(ckpt)["callbacks"].values()
    scores = (state.get("best_model_score") for state in states if isinstance(state, dict))
    return next((float(score) for score in scores if score is not None), None)


def check_facts(checkpoint: Checkpoint, facts: Mapping[str, Any]) -> None:
    """Check that a checkpoint fits this run: the same stage, inputs, model and so on.

    facts: the facts of this run, by the options that set them. A fact that an older checkpoint lacks is not compared.
    Raises InputError if a fact differs.
    """
    recorded = checkpoint.facts
    for name, ours in facts.items():
        theirs = recorded.get(name, ours)
        if theirs != ours:
            raise InputError(
                f"{checkpoint.path} belongs to a run with {name}={_override(theirs)}; this run has "
                f"{name}={_override(ours)}. Give {name}={_override(theirs)}."
            )


def _override(value: Any) -> str:
    """Return a value as the command line of train.py takes it: null for None, a text without quotes."""
    return value if isinstance(value, str) else as_written(value)


def check_network(checkpoint: Checkpoint, module: LightningModule) -> None:
    """Check that a checkpoint holds the network of `module`. Raises InputError if the network is another one."""
    if difference := weights.differing(module.state_dict(), checkpoint.content["state_dict"]):
        raise InputError(
            f"{checkpoint.path} is a checkpoint of another network: {difference}. Give the option model=... "
            "with which the checkpoint's run was started."
        )
