"""The card of an exported network: a JSON file with the fields that OpenModelDB asks for.

OpenModelDB (https://openmodeldb.info) lists models for chaiNNer, ComfyUI and other programs. Its schema is public:
src/lib/schema.ts in https://github.com/OpenModelDB/open-model-database.
"""

import datetime
import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import nn

from upscale_lit.errors import InputError
from upscale_lit.files import atomic
from upscale_lit.inference.srvgg import srvgg_size
from upscale_lit.models import Compact

# The platform and the type of a resource, by the ending of its file.
RESOURCES = {
    ".pth": ("pytorch", "pth"), ".safetensors": ("pytorch", "safetensors"), ".onnx": ("onnx", "onnx"),
    ".param": ("ncnn", "param"), ".bin": ("ncnn", "bin"),
}  # fmt: skip
ID = re.compile(r"[a-zA-Z0-9]+(?:-[a-zA-Z0-9]+)*")


def check_author(author: str | None) -> None:
    """Raise InputError if a card has no author, or if OpenModelDB does not accept the name as the id of a user."""
    if author is None:
        raise InputError("--card needs an author. Give the id of a user of OpenModelDB: --author NAME.")
    if not ID.fullmatch(author):
        raise InputError(f"--author must be letters, digits and single hyphens, such as jane-doe; got {author!r}.")


def write_card(
    path: Path, name: str, model: nn.Module, facts: Mapping[str, Any], files: Sequence[Path], author: str,
    licence: str | None, own_layout: bool,
) -> None:  # fmt: skip
    """Write the card of exported files.

    name: of the model, without its scale. facts: of the weights file. licence: an SPDX expression, or None.
    own_layout: whether the files hold the network's own layers instead of an equal SRVGGNetCompact.
    Raises WriteError if the card cannot be written.
    """
    scale, kernel = int(getattr(model, "factor", 2)), facts.get("kernel", "bicubic")
    degradation = facts.get("degradation", {}).get("name", "none")
    tags = ["photo", "general-upscaler"] if degradation == "none" else ["photo", "jpeg", "denoise"]
    sentences = [
        f"Upscales photographs by {scale}. It was trained with upscale_lit for the smallest error, so it invents no "
        f"detail. The low pictures of the training were made by antialiased {kernel} downscaling",
        "." if degradation == "none" else f", and then degraded ({degradation}).",
        *(f" PSNR on Y of {name}: {each['psnr_y']:.2f} dB." for name, each in facts.get("figures", {}).items()),
    ]
    if "restriction" in facts:
        sentences.append(f" {facts['restriction']}")
    content = {
        "name": re.sub(r"[^a-zA-Z0-9]+", "-", name).strip("-"),
        "author": author,
        "license": licence,
        "tags": tags,
        "description": "".join(sentences),
        "date": datetime.date.today().isoformat(),
        "architecture": "compact" if isinstance(model, Compact) else type(model).__name__.lower(),
        "size": srvgg_size(model) if isinstance(model, Compact) and not own_layout else None,
        "scale": scale,
        "inputChannels": 3,
        "outputChannels": 3,
        "resources": [_resource(file) for file in files],
        "images": [],
        "trainingOTF": degradation != "none",
        **({"trainingIterations": facts["steps"]} if facts.get("steps") else {}),
        **({"dataset": facts["restriction"]} if "restriction" in facts else {}),
    }
    with atomic(path) as part:
        part.write_text(json.dumps(content, indent=4, ensure_ascii=False) + "\n", encoding="utf-8")


def _resource(file: Path) -> dict[str, Any]:
    platform, kind = RESOURCES[file.suffix.lower()]
    data = file.read_bytes()
    digest = hashlib.sha256(data).hexdigest()
    return {"platform": platform, "type": kind, "size": len(data), "sha256": digest, "urls": []}
