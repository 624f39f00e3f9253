"""Weights files: small, self-describing, written whole or not at all, loaded without running anything inside them."""

import hashlib
import importlib
import io
import json
import logging
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock
from torch import Tensor, nn

from upscale_lit import models, resample
from upscale_lit.errors import DivergedError, InputError, WriteError, shown
from upscale_lit.files import hidden, whole

log = logging.getLogger(__name__)

FORMAT = 1
FACTS = "upscale_lit"  # where a safetensors or an ONNX file keeps our facts, as JSON
STAGES = {"upsample_64": "64to128", "upsample_128": "128to256", "upsample_256": "256to512"}  # the stack's parts
MODELS: dict[str, type[nn.Module]] = {
    "Upsampler": models.Upsampler, "Compact": models.Compact, "Upsampler8x": models.Upsampler8x,
}  # fmt: skip


def write_file(path: Path, content: Mapping[str, Any]) -> None:
    """torch.save, whole or not at all. Raises WriteError, and DivergedError where one of the weights is not finite."""
    for key in ("model_state_dict", "state_dict", "current_model_state"):
        if name := _infinite(content.get(key, {})):
            raise DivergedError(f"{shown(path)} is not written: its weights are not finite ({name}).")
    buffer = io.BytesIO()
    torch.save(dict(content), buffer)  # to a file it would turn a full disk into an error without a name
    with whole(path) as part:
        part.write_bytes(buffer.getbuffer())


def _infinite(state: Mapping[str, Any]) -> str | None:
    """The first tensor that holds a NaN or an infinity."""
    return next((name for name, value in state.items() if not bool(torch.isfinite(value).all())), None)


def save_weights(path: Path, model: nn.Module, facts: Mapping[str, Any]) -> None:
    """Write `model_state_dict`, as in the original program, beside plain facts that rebuild the network.

    facts: at least `model_args` (dict), `stage`, `factor`, `kernel`; plain types only.
    Raises DivergedError where a weight is not finite, WriteError where the file cannot be written.
    """
    state = {name: value.detach().cpu().contiguous().clone() for name, value in model.state_dict().items()}
    content = {
        "model_state_dict": state,
        "format": FORMAT,
        "model": type(model).__name__,
        "pixel_range": {"mean": resample.RANGE_MEAN, "scale": resample.RANGE_SCALE},
        **facts,
    }
    write_file(path, content)


def read_file(path: Path, what: str) -> dict[str, Any]:
    """torch.load on the CPU that refuses everything but tensors and plain types; adds the file's own `sha256`.

    A safetensors file gives the same: its tensors as `model_state_dict`, beside the facts in its header.
    Raises InputError, naming the file as `what`, when it is missing, damaged, or holds anything else.
    """
    try:
        data = path.read_bytes()  # at once: another run may put a new file in this one's place
        if data[8:9] == b"{":
            content = _safetensors(data)
        else:
            content = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise InputError(f"There should be a {what} at {path}; found nothing there.") from None
    except Exception as error:  # an unpickler that is fed any bytes raises anything
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise InputError(f"{path} should be a {what}; it is damaged or something else ({reason}).") from error
    if not isinstance(content, dict):
        raise InputError(f"{path} should be a {what}; found a {type(content).__name__} in it.")
    return {**content, "sha256": hashlib.sha256(data).hexdigest()}


def _safetensors(data: bytes) -> dict[str, Any]:
    """https://huggingface.co/docs/safetensors: eight bytes of length, a header in JSON, the tensors."""
    from safetensors.torch import load  # who has PyTorch alone can still read our own files

    length = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + length])
    return {**json.loads(header.get("__metadata__", {}).get(FACTS, "{}")), "model_state_dict": load(data)}


def know(name: str) -> None:
    """Let weights files name a class of networks of one's own, given as `module.Class`; it must be importable.

    A file never brings a class with it, nor says where one is. Raises InputError.
    """
    module, _, short = name.rpartition(".")
    try:
        found = getattr(importlib.import_module(module), short)
    except (ImportError, AttributeError, ValueError) as error:
        raise InputError(f"The network {name} cannot be imported: {error}. Name it as module.Class.") from error
    if not isinstance(found, type) or not issubclass(found, nn.Module):
        raise InputError(f"{name} should be a class of networks, a torch.nn.Module; found {found!r}.")
    if MODELS.setdefault(short, found) is not found:
        raise InputError(f"There is a network named {short} here already: give {name} another name.")


def build(model: str, model_args: Mapping[str, Any]) -> nn.Module:
    """A new network from the facts of a weights file. A stack's arguments are such facts, one pair for each stage.

    Raises InputError when the name is unknown or the arguments do not fit.
    """
    if not isinstance(model, str) or model not in MODELS:
        raise InputError(
            f"There is no network named {model!r} here; known: {', '.join(MODELS)}. One of your own is made known by "
            "--network module.Class."
        )
    try:
        if MODELS[model] is models.Upsampler8x:
            model_args = {name: build(facts["model"], facts["model_args"]) for name, facts in model_args.items()}
        return MODELS[model](**model_args)
    except (TypeError, KeyError, AttributeError, RecursionError) as error:
        raise InputError(f"{model} does not take the arguments {model_args}: {error}.") from error


def load_weights(path: Path) -> tuple[nn.Module, dict[str, Any]]:
    """Rebuild a network from its weights file: (model in eval mode on the CPU, the file's facts).

    A file without facts, such as the original program writes, is taken for the reference network, or for a stack of
    three of them. Raises InputError when the file is missing, damaged, or of another network or pixel range.
    """
    facts = read_file(path, "weights file")
    state = facts.pop("model_state_dict", None)
    if not isinstance(state, dict) or not all(isinstance(value, Tensor) for value in state.values()):
        raise InputError(f"{path} should be a weights file; it holds no model_state_dict of tensors.")
    written = facts.get("format", FORMAT)
    if written not in range(1, FORMAT + 1):
        raise InputError(
            f"{path} is of format {written!r}; this version of upscale_lit reads formats up to {FORMAT}. Update it."
        )
    if not isinstance(facts.get("stage", ""), str):
        raise InputError(f"{path} should name its stage, such as 64to128; found {facts['stage']!r}.")
    stack = any(str(key).startswith("upsample_64.") for key in state)
    name = facts.get("model", "Upsampler8x" if stack else "Upsampler")
    pixel_range = {"mean": resample.RANGE_MEAN, "scale": resample.RANGE_SCALE}
    if facts.get("pixel_range", pixel_range) != pixel_range:
        raise InputError(f"{path} works in the pixel range {facts['pixel_range']}; this program in {pixel_range}.")
    try:
        model = build(name, facts.get("model_args", {}))
    except InputError as error:
        raise InputError(f"{path} cannot be rebuilt. {error}") from error
    if difference := differing(model.state_dict(), state):
        raise InputError(f"{path} does not fit the network {name}: {difference}.")
    try:
        model.load_state_dict(state, strict=True)
    except (RuntimeError, TypeError, NotImplementedError) as error:
        raise InputError(f"{path} does not fit the network {name}: {' '.join(str(error).split())}") from error
    if bad := _infinite(model.state_dict()):
        raise InputError(f"{path} holds weights that are not finite ({bad}); train again, or take another file.")
    return model.eval(), facts


def differing(ours: Mapping[str, Tensor], theirs: Mapping[str, Tensor]) -> str | None:
    """How the tensors of a file differ from a network's by name and shape, in words; None where they do not."""
    shapes = [{str(name): tuple(value.shape) for name, value in state.items()} for state in (ours, theirs)]
    expected, found = shapes
    names = [name for name in [*expected, *(found.keys() - expected)] if expected.get(name) != found.get(name)]
    if not names:
        return None
    name = names[0]
    return (
        f"{len(names)} tensors differ, such as {name} with {found.get(name, 'nothing')} there and "
        f"{expected.get(name, 'nothing')} here"
    )


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


def hand_on(path: Path, folder: Path) -> Path:
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
