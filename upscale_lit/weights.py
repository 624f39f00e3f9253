"""Weights files: small, self-describing, written whole or not at all, loaded without running anything inside them."""

import logging
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock
from torch import nn

from upscale_lit import models, resample
from upscale_lit.errors import InputError

log = logging.getLogger(__name__)

FORMAT = 1
MODELS: dict[str, type[nn.Module]] = {"Upsampler": models.Upsampler}


@contextmanager
def whole(path: Path) -> Iterator[Path]:
    """Yields a path beside `path` to write to; what was written takes the place of `path` only when all went well."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        yield part
        with open(part, "r+b") as file:
            os.fsync(file.fileno())
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)


def save_weights(path: Path, model: nn.Module, facts: Mapping[str, Any]) -> None:
    """Write `model_state_dict`, as in the original program, beside plain facts that rebuild the network.

    facts: at least `model_args` (dict), `stage`, `factor`, `kernel`; plain types only.
    """
    state = {name: value.detach().cpu().contiguous().clone() for name, value in model.state_dict().items()}
    content = {
        "model_state_dict": state,
        "format": FORMAT,
        "model": type(model).__name__,
        "pixel_range": {"mean": resample.RANGE_MEAN, "scale": resample.RANGE_SCALE},
        **facts,
    }
    with whole(path) as part:
        torch.save(content, part)


def read_file(path: Path, what: str) -> dict[str, Any]:
    """torch.load on the CPU that refuses everything but tensors and plain types.

    Raises InputError, naming the file as `what`, when it is missing, damaged, or holds anything else.
    """
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise InputError(f"There should be a {what} at {path}; found nothing there.") from None
    except Exception as error:  # an unpickler that is fed any bytes raises anything
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise InputError(f"{path} should be a {what}; it is damaged or something else ({reason}).") from error
    if not isinstance(content, dict):
        raise InputError(f"{path} should be a {what}; found a {type(content).__name__} in it.")
    return content


def load_weights(path: Path) -> tuple[nn.Module, dict[str, Any]]:
    """Rebuild a network from its weights file: (model in eval mode on the CPU, the file's facts).

    A file without facts, such as the original program writes, is taken for the reference network. Raises InputError
    when the file is missing, damaged, or of another network or pixel range.
    """
    facts = read_file(path, "weights file")
    state = facts.pop("model_state_dict", None)
    if not isinstance(state, dict):
        raise InputError(f"{path} should be a weights file; it holds no model_state_dict.")
    name = facts.get("model", "Upsampler")
    if name not in MODELS:
        raise InputError(f"{path} holds a network named {name!r}; known here: {', '.join(MODELS)}.")
    pixel_range = {"mean": resample.RANGE_MEAN, "scale": resample.RANGE_SCALE}
    if facts.get("pixel_range", pixel_range) != pixel_range:
        raise InputError(f"{path} works in the pixel range {facts['pixel_range']}; this program in {pixel_range}.")
    model = MODELS[name](**facts.get("model_args", {}))
    try:
        model.load_state_dict(state, strict=True)
    except (RuntimeError, TypeError, AttributeError) as error:
        raise InputError(f"{path} does not fit the network {name}: {' '.join(str(error).split())}") from error
    return model.eval(), facts


def hand_on(path: Path, folder: Path) -> Path:
    """Copy a run's weights file to the folder where the next stage looks, unless a better one lies there.

    The file there stays when it has the same model, kernel and validation pairs, and a better val/psnr; the log says
    which. Returns the path in `folder`.
    """
    target = folder / path.name
    new = read_file(path, "weights file")
    folder.mkdir(parents=True, exist_ok=True)
    with FileLock(folder / f".{path.name}.lock"):
        if target.exists() and (reason := _better(target, new)):
            log.info("%s stays: %s.", target, reason)
        else:
            with whole(target) as part:
                part.write_bytes(path.read_bytes())
            log.info("%s now holds the weights of this run.", target)
    return target


def _better(target: Path, new: Mapping[str, Any]) -> str | None:
    """Why the file at `target` is to stay, or None."""
    try:
        old = read_file(target, "weights file")
        psnr_old, psnr_new = (float(facts["metrics"]["val/psnr"]) for facts in (old, new))
        same = all(old[key] == new[key] for key in ("model", "kernel", "val_pairs"))
    except (InputError, KeyError, TypeError, ValueError) as error:
        log.warning("%s cannot be compared with this run's weights (%s) and is replaced.", target, error)
        return None
    if same and psnr_old > psnr_new:
        return f"its val/psnr, {psnr_old:.3f} dB, is better than this run's {psnr_new:.3f} dB on the same pairs"
    return None
