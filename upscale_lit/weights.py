"""Weights files: small, self-describing, written whole or not at all, loaded without running anything inside them."""

import hashlib
import io
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from upscale_lit import resample
from upscale_lit.errors import DivergedError, InputError, shown
from upscale_lit.files import whole
from upscale_lit.models import build

FORMAT = 1
PIXEL_RANGE = {"mean": resample.RANGE_MEAN, "scale": resample.RANGE_SCALE}
FACTS = "upscale_lit"  # where a safetensors or an ONNX file keeps our facts, as JSON


def file_name(stage: str) -> str:
    """Of the weights file that a run of this stage publishes."""
    return f"upscaler_{stage}.pt"


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
    """Write `model_state_dict`, as in the original program, next to plain facts that rebuild the network.

    facts: at least `model_args` (dict), `stage`, `factor`, `kernel`; plain types only.
    Raises DivergedError where a weight is not finite, WriteError where the file cannot be written.
    """
    state = {name: value.detach().cpu().contiguous().clone() for name, value in model.state_dict().items()}
    ours = {"format": FORMAT, "model": type(model).__name__, "pixel_range": PIXEL_RANGE}
    write_file(path, {"model_state_dict": state, **ours, **facts})


def read_file(path: Path, what: str) -> dict[str, Any]:
    """torch.load on the CPU that refuses everything but tensors and plain types; adds the file's own `sha256`.

    A safetensors file gives the same: its tensors as `model_state_dict`, next to the facts in its header.
    Raises InputError, naming the file as `what`, when it is missing, damaged, or holds anything else.
    """
    try:
        data = path.read_bytes()  # at once: another run may put a new file in this one's place
        safetensors = data[8:9] == b"{"
        content = _safetensors(data) if safetensors else torch.load(io.BytesIO(data), "cpu", weights_only=True)
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


def load_weights(path: Path) -> tuple[nn.Module, dict[str, Any]]:
    """Rebuild a network from its weights file: (model in eval mode on the CPU, the file's facts).

    A file without facts, such as the original program writes, is taken for the reference network, or for a stack of
    three of them. Raises InputError when the file is missing, damaged, or of another network or pixel range.
    """
    facts = read_file(path, "weights file")
    state = facts.pop("model_state_dict", None)
    if not isinstance(state, dict) or not all(isinstance(value, Tensor) for value in state.values()):
        raise InputError(f"{path} should be a weights file; it holds no model_state_dict of tensors.")
    if (written := facts.get("format", FORMAT)) not in range(1, FORMAT + 1):
        update = f"this version of upscale_lit reads formats up to {FORMAT}. Update it."
        raise InputError(f"{path} is of format {written!r}; {update}")
    if not isinstance(facts.get("stage", ""), str):
        raise InputError(f"{path} should name its stage, such as 64to128; found {facts['stage']!r}.")
    stack = any(str(key).startswith("upsample_64.") for key in state)
    name = facts.get("model", "Upsampler8x" if stack else "Upsampler")
    if facts.get("pixel_range", PIXEL_RANGE) != PIXEL_RANGE:
        raise InputError(f"{path} works in the pixel range {facts['pixel_range']}; this program in {PIXEL_RANGE}.")
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
    expected, found = ({str(name): tuple(value.shape) for name, value in state.items()} for state in (ours, theirs))
    names = [name for name in [*expected, *(found.keys() - expected)] if expected.get(name) != found.get(name)]
    if not names:
        return None
    there, here = (shapes.get(names[0], "nothing") for shapes in (found, expected))
    return f"{len(names)} tensors differ, such as {names[0]} with {there} there and {here} here"
