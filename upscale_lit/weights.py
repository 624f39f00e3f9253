"""Weights files: small files that describe their own network. Writing is atomic, and loading runs no code from them."""

import hashlib
import io
import json
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from upscale_lit import resample
from upscale_lit.errors import DivergedError, InputError, shown
from upscale_lit.files import atomic
from upscale_lit.models import build

FORMAT = 1
PIXEL_RANGE = {"mean": resample.RANGE_MEAN, "scale": resample.RANGE_SCALE}
FACTS = "upscale_lit"  # the metadata key of the facts, as JSON, in safetensors and ONNX files


def file_name(stage: str) -> str:
    """Return the name of the weights file that a run of this stage publishes."""
    return f"upscaler_{stage}.pt"


def write_file(path: Path, content: Mapping[str, Any]) -> None:
    """Write `content` with torch.save, atomically.

    Raises WriteError if the file cannot be written, and DivergedError if a weight in `content` is not finite.
    """
    for key in ("model_state_dict", "state_dict", "current_model_state"):
        if name := _infinite(content.get(key, {})):
            raise DivergedError(f"{shown(path)} is not written: its weights are not finite ({name}).")
    # torch.save would report a full disk with an error that does not name the cause. So the bytes go to memory first.
    buffer = io.BytesIO()
    torch.save(dict(content), buffer)
    with atomic(path) as part:
        part.write_bytes(buffer.getbuffer())


def _infinite(state: Mapping[str, Any]) -> str | None:
    """Return the name of the first tensor that holds a NaN or an infinity, or None."""
    return next((name for name, value in state.items() if not bool(torch.isfinite(value).all())), None)


def save_weights(path: Path, model: nn.Module, facts: Mapping[str, Any]) -> None:
    """Write the weights of a network, together with the facts that rebuild the network.

    The weights have the key `model_state_dict`, as in the original program.
    facts: at least `model_args` (dict), `stage`, `factor` and `kernel`; plain types only.
    Raises DivergedError if a weight is not finite, and WriteError if the file cannot be written.
    """
    state = {name: value.detach().cpu().contiguous().clone() for name, value in model.state_dict().items()}
    ours = {"format": FORMAT, "model": type(model).__name__, "pixel_range": PIXEL_RANGE}
    write_file(path, {"model_state_dict": state, **ours, **facts})


def read_file(path: Path, what: str) -> dict[str, Any]:
    """Return the content of a PyTorch or safetensors file, and the hash of the file as `sha256`.

    Tensors are loaded to the CPU. PyTorch files may hold only tensors and plain types. The tensors of a safetensors
    file become `model_state_dict`, next to the facts in the header of the file.
    Raises InputError if the file is missing or damaged, or if it holds other types. The error calls the file `what`.
    """
    try:
        data = path.read_bytes()  # a single read: another run may replace the file
        safetensors = data[8:9] == b"{"
        with warnings.catch_warnings(action="ignore"):  # the error says what torch.load refuses
            content = _safetensors(data) if safetensors else torch.load(io.BytesIO(data), "cpu", weights_only=True)
    except FileNotFoundError:
        raise InputError(f"There is no {what} at {path}: check the path.") from None
    except Exception as error:  # on damaged files an unpickler can raise any exception
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise InputError(f"{path} must be a {what}; the file is damaged or of another kind ({reason}).") from error
    if not isinstance(content, dict):
        raise InputError(f"{path} must be a {what}; the file holds a {type(content).__name__}.")
    return {**content, "sha256": hashlib.sha256(data).hexdigest()}


def _safetensors(data: bytes) -> dict[str, Any]:
    """Return the tensors of a safetensors file as `model_state_dict`, and the facts in the header of the file.

    The file has eight bytes for the length of the header, the header in JSON, and the tensors.
    See https://huggingface.co/docs/safetensors.
    """
    from safetensors.torch import load  # PyTorch files can be read without this package

    length = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + length])
    return {**json.loads(header.get("__metadata__", {}).get(FACTS, "{}")), "model_state_dict": load(data)}


def load_weights(path: Path, content: Mapping[str, Any] | None = None) -> tuple[nn.Module, dict[str, Any]]:
    """Rebuild a network from its weights file. Return the network, in eval mode on the CPU, and the facts of the file.

    The original program writes files without facts. Such a file is loaded as the reference network, or as a stack of
    three reference networks.
    content: what `read_file` has returned for the file; None reads the file.
    Raises InputError if the file is missing or damaged, if the network or the pixel range does not fit, or if a weight
    is not finite.
    """
    facts = dict(content or read_file(path, "weights file"))
    state = facts.pop("model_state_dict", None)
    if not isinstance(state, dict) or not all(isinstance(value, Tensor) for value in state.values()):
        raise InputError(f"{path} must be a weights file; the file holds no model_state_dict of tensors.")
    if (written := facts.get("format", FORMAT)) not in range(1, FORMAT + 1):
        update = f"this version of upscale_lit reads formats up to {FORMAT}. Update upscale_lit."
        raise InputError(f"{path} has format {written!r}; {update}")
    if not isinstance(facts.get("stage", ""), str):
        raise InputError(f"{path} must name its stage, such as 64to128; got {facts['stage']!r}.")
    stack = any(str(key).startswith("upsample_64.") for key in state)
    name = facts.get("model", "Upsampler8x" if stack else "Upsampler")
    if facts.get("pixel_range", PIXEL_RANGE) != PIXEL_RANGE:
        raise InputError(
            f"The network in {path} works in the pixel range {facts['pixel_range']}, but must work in {PIXEL_RANGE}. "
            "Train the network again with this program."
        )
    try:
        model = build(name, facts.get("model_args", {}))
    except InputError as error:
        raise InputError(f"The network in {path} cannot be rebuilt. {error}") from error
    if difference := differing(model.state_dict(), state):
        raise InputError(f"The file {path} does not fit the network {name}: {difference}.")
    try:
        model.load_state_dict(state, strict=True)
    except (RuntimeError, TypeError, NotImplementedError) as error:
        raise InputError(f"The file {path} does not fit the network {name}: {' '.join(str(error).split())}") from error
    if bad := _infinite(model.state_dict()):
        raise InputError(f"{path} holds weights that are not finite ({bad}). Train again, or use another file.")
    return model.eval(), facts


def differing(ours: Mapping[str, Tensor], theirs: Mapping[str, Tensor]) -> str | None:
    """Describe how the names and shapes of tensors differ; return None if they do not.

    ours: the tensors of a network. theirs: the tensors of a file.
    """
    expected, found = ({str(name): tuple(value.shape) for name, value in state.items()} for state in (ours, theirs))
    names = [name for name in [*expected, *(found.keys() - expected)] if expected.get(name) != found.get(name)]
    if not names:
        return None
    there, here = (shapes.get(names[0], "nothing") for shapes in (found, expected))
    return f"{len(names)} tensor(s) differ, such as {names[0]}: {there} in the file, {here} in the network"
