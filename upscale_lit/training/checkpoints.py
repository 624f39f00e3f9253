"""Checkpoints of a run: reading, checking and writing them.

A resumed run ends with the same weights as one that was not interrupted: next to Lightning's own state, checkpoints
include the position of the loader, and random choices are functions of an example's number.
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
from upscale_lit.errors import InputError, WriteError, check_path, shown
from upscale_lit.files import whole

log = logging.getLogger(__name__)

LAST, BEST = "last.ckpt", "best.ckpt"
DATA = "UpscaleDataModule"  # Lightning's key for the state of the data module: the name of its class
# What every checkpoint holds, by Lightning's names.
PARTS = {
    "state_dict": dict, "loops": dict, "callbacks": dict, "optimizer_states": list, "lr_schedulers": list,
    "hyper_parameters": dict, "epoch": int, "global_step": int, "pytorch-lightning_version": str,
}  # fmt: skip


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint that has been read and checked. content: by Lightning's names, see `read_checkpoint`."""

    path: Path
    content: dict[str, Any]

    @property
    def steps(self) -> int:
        """Optimizer steps that its weights have seen."""
        return int(self.content["global_step"])

    @property
    def facts(self) -> dict[str, Any]:
        """What tells its run from other runs: options by name, and where the weights of earlier stages come from."""
        return dict(self.content["hyper_parameters"]["facts"])


class SafeCheckpointIO(TorchCheckpointIO):
    """Replaces a checkpoint's file atomically, and reads only tensors and plain types, whatever Lightning asks for.

    folder: the run's folder of checkpoints; what is read is `relocated` to it.
    Raises DivergedError if a weight is not finite, WriteError if the system refuses, InputError as `read_checkpoint`.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any | None = None) -> None:
        if not Path(path).parent.parent.is_dir():
            raise WriteError(f"{shown(Path(path))} cannot be written: the run's folder has vanished.")
        weights.write_file(Path(path), checkpoint)

    def load_checkpoint(
        self, path: Any, map_location: Any | None = None, weights_only: bool | None = None
    ) -> dict[str, Any]:
        return relocated(read_checkpoint(Path(path)), self.folder)


def find_checkpoint(ckpt_path: str | None, folder: Path) -> Checkpoint | None:
    """The checkpoint that ckpt_path names; None if it is None, or if the run in `folder` ended before it had one.

    ckpt_path: a path, or "last" for last.ckpt in the run's `folder`.
    Raises InputError if the file is missing, and as `read_checkpoint`.
    """
    if ckpt_path is None:
        return None
    named = check_path("ckpt_path", ckpt_path)
    if re.match(r"\w+://", ckpt_path):
        raise InputError(f"ckpt_path is a file here; found {ckpt_path}. Download it first.")
    path = folder / "checkpoints" / LAST if ckpt_path == "last" else named
    if path.is_file():
        return Checkpoint(path, read_checkpoint(path))
    if ckpt_path == "last" and (log_file := folder / "train.log").is_file() and log_file.stat().st_size:
        log.warning("The run in %s ended before its first step: it starts again.", folder)
        return None
    way = (
        "ckpt_path=last looks in the run folder: name the run to resume by hydra.run.dir=RUN_FOLDER."
        if ckpt_path == "last"
        else "Give the path of a last.ckpt or best.ckpt in some run's checkpoints folder."
    )
    raise InputError(f"There is no checkpoint at {path}. {way}")


def read_checkpoint(path: Path) -> dict[str, Any]:
    """The contents of a run's checkpoint, in today's form. Tensors are on the CPU.

    Raises InputError if the file is missing, damaged, or not a checkpoint of a run.
    """
    content = weights.read_file(path, "checkpoint")
    for name, kind in PARTS.items():
        if not isinstance(content.get(name), kind):
            raise InputError(f"{path} should be a checkpoint of a run (best.ckpt, last.ckpt); it holds no {name}.")
    if not all(isinstance(value, Tensor) for value in content["state_dict"].values()):
        raise InputError(f"{path} should be a checkpoint of a run; its state_dict does not hold tensors only.")
    if not isinstance(content["hyper_parameters"].get("facts"), dict):
        raise InputError(f"{path} is a checkpoint of another program: it does not say what it was trained for.")
    data = content.get("ShardDataModule", content.get(DATA, {"facts": {}, "batches": 0}))
    read_by_us = [(data, {"facts", "batches"})]  # of what Lightning restores
    for state in content["optimizer_states"]:
        groups = state.get("param_groups", [None]) if isinstance(state, dict) else [None]
        read_by_us += [(group, {"lr", "initial_lr"}) for group in groups]
    for part, keys in read_by_us:
        if not isinstance(part, dict) or not keys <= part.keys():
            raise InputError(f"{path} is damaged, or of another version: it lacks {' and '.join(sorted(keys))}.")
    return upgraded(content)


def upgraded(content: dict[str, Any]) -> dict[str, Any]:
    """Bring the contents of a checkpoint of version 0.1.0, in place, into today's form, and return them.

    - The state of the data module for shards, then a class of its own, moves from ShardDataModule to UpscaleDataModule.
    - The fact stage.inputs=augmented becomes stage.inputs=photos and degradation=blur_noise. The amounts of blur and
      noise become degradation.blur and degradation.noise; they followed the low picture's side in a fact of the data.
      Other runs get degradation=none.
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
    return content


def relocated(content: dict[str, Any], folder: Path) -> dict[str, Any]:
    """A checkpoint whose state of Lightning's ModelCheckpoint names best.ckpt in `folder`, wherever it was written.

    ModelCheckpoint forgets its best score if the folder has another path than before, as it has when the folder of a
    run was moved or copied. If best.ckpt is not in `folder`, that score would keep all later weights from becoming the
    best ones, so the state is left out.
    """
    path = folder.resolve() / BEST
    callbacks = {}
    for name, state in content["callbacks"].items():
        if isinstance(state, dict) and state.get("best_model_score") is not None:
            if not path.exists():
                log.warning("%s is not there. The best weights from here on will be kept.", shown(path))
                continue
            state = {key: value for key, value in state.items() if key != "dirpath"}
            state |= {"best_model_path": str(path), "kth_best_model_path": str(path), "last_model_path": ""}
            state["best_k_models"] = {str(path): state["best_model_score"]}
        callbacks[name] = state
    return {**content, "callbacks": callbacks}


def bring_best(ckpt: Path, folder: Path) -> None:
    """Copy best.ckpt from the folder of the checkpoint `ckpt` that a run resumes, if the run's own `folder` has none.

    Only the one that the checkpoint refers to: a later one belongs to steps that the run has yet to repeat.
    """
    best = ckpt.with_name(BEST)
    if best.exists() and not (folder / BEST).exists() and _best_score(best) == _best_score(ckpt):
        with whole(folder / BEST) as part:
            shutil.copyfile(best, part)


def _best_score(ckpt: Path) -> float | None:
    states = read_checkpoint(ckpt)["callbacks"].values()
    scores = (state.get("best_model_score") for state in states if isinstance(state, dict))
    return next((float(score) for score in scores if score is not None), None)


def check_facts(checkpoint: Checkpoint, facts: Mapping[str, Any]) -> None:
    """Raises InputError if a checkpoint is that of another run: of another stage, other inputs, another model ...

    facts: this run's, by the options that set them. Those that an older checkpoint lacks are not compared.
    """
    recorded = checkpoint.facts
    for name, ours in facts.items():
        theirs = recorded.get(name, ours)
        if theirs != ours:
            raise InputError(
                f"{checkpoint.path} belongs to {name}={theirs}; this is {name}={ours}. Give {name}={theirs}."
            )


def check_network(checkpoint: Checkpoint, module: LightningModule) -> None:
    """Raises InputError if a checkpoint is of another network."""
    if difference := weights.differing(module.state_dict(), checkpoint.content["state_dict"]):
        raise InputError(
            f"{checkpoint.path} is a checkpoint of another network: {difference}. Give the model=... with which that "
            "run was started."
        )
