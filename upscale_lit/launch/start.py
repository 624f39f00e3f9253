"""What a run starts from: a checkpoint, weights, earlier stages, or nothing."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from torch import nn

from upscale_lit.errors import InputError
from upscale_lit.models import STAGES
from upscale_lit.weights import load_weights


def load_stage(path: Path, stage: str) -> tuple[nn.Module, dict[str, Any]]:
    """`load_weights` of a file that has to be of one 2x stage, such as "64to128"; one without facts passes for it."""
    model, facts = load_weights(path)
    if facts.get("stage", stage) != stage:
        raise InputError(f"{path} holds weights of stage {facts['stage']}; wanted here are those of stage {stage}.")
    if getattr(model, "factor", 2) != 2:
        raise InputError(f"{path} holds a network of factor {model.factor}; wanted here is a 2x network, {stage}.")
    return model, facts


def load_checkpoints(
    checkpoints: Mapping[str, Path], command: Callable[[str], str] = "python train.py stage={}".format
) -> tuple[dict[str, nn.Module], dict[str, dict[str, Any]]]:
    """The networks of several stages, each rebuilt from its own weights file, and the files' facts, by name.

    checkpoints: such as {"upsample_64": path, "upsample_128": path, "upsample_256": path}, for
    `Upsampler8x(**networks)`. command: stage -> what makes its file.
    Raises InputError when a file is missing, damaged, or of another stage or pixel range.
    """
    networks, facts = {}, {}
    for name, path in checkpoints.items():
        stage = STAGES[name]
        try:
            networks[name], facts[name] = load_stage(path, stage)
        except InputError as error:
            raise InputError(
                f"{name} needs the weights of stage {stage}. {error} Make them by `{command(stage)}`, or name another "
                f"file with stage.checkpoints.{name}=FILE."
            ) from error
    return networks, facts
