"""What a run publishes: the weights file that the next stage and upscale-lit look for."""

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from filelock import FileLock

from upscale_lit.errors import InputError, WriteError, shown
from upscale_lit.files import hidden, whole
from upscale_lit.weights import differing, read_file

log = logging.getLogger(__name__)


def publish(path: Path, folder: Path) -> Path:
    """Copy a run's weights file to the folder where the next stage looks, unless a better one lies there.

    The file there stays when it has the same model, kernel and validation pairs, and a better val/psnr; or when it
    comes from the same sweep and gained more over bicubic. The log says which. Returns the path in `folder`. Raises
    WriteError.
    """
    target = folder / path.name
    new = read_file(path, "weights file")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with FileLock(hidden(target, "lock")):
            if target.exists() and (reason := _better_job(path, new) or _better(target, new)):
                log.info("%s stays: %s.", target, reason)
            else:
                with whole(target) as part:
                    part.write_bytes(path.read_bytes())
                log.info("%s now holds the weights of this run.", target)
    except OSError as error:
        raise WriteError(f"{shown(target)} cannot be written: {error.strerror or error}.") from error
    return target


def _better_job(path: Path, new: Mapping[str, Any]) -> str | None:
    """The file of a job of the same sweep that gained more, whether or not it replaced what lies in the folder."""
    if not new.get("sweep"):
        return None
    for other in sorted(Path(new["sweep"]).rglob(path.name)):
        gain = read_file(other, "weights file")["metrics"]["val/gain"]
        if gain > new["metrics"]["val/gain"]:
            return f"{other} of the same sweep gained more over bicubic, {gain:.3f} dB"
    return None


def _better(target: Path, new: Mapping[str, Any]) -> str | None:
    """Why the file at `target` is to stay, or None."""
    try:
        old = read_file(target, "weights file")
        if new.get("sweep") and old.get("sweep") == new["sweep"]:
            score, same = "val/gain", True  # whatever the sweep varies; on equal pairs the gain orders as the PSNR does
        else:
            score, same = "val/psnr", all(old[key] == new[key] for key in ("kernel", "val_pairs"))
            same = same and differing(old["model_state_dict"], new["model_state_dict"]) is None
        theirs, ours = (float(facts["metrics"][score]) for facts in (old, new))
    except (InputError, KeyError, TypeError, ValueError, AttributeError) as error:
        log.warning("%s cannot be compared with this run's weights (%s) and is replaced.", target, error)
        return None
    if same and theirs > ours:
        where = "on the same pairs" if score == "val/psnr" else "in the same sweep"
        return f"its {score}, {theirs:.3f} dB, is better than this run's {ours:.3f} dB {where}"
    return None
