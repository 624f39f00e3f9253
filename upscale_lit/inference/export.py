"""Export networks for other programs, as ONNX or safetensors.

An ONNX file holds the computation of `Chain.forward` for pictures of any height and width. A safetensors file holds the
weights and their facts. Each written file is read again, and its output is compared with the output of the network.
"""

import importlib.util
import json
import logging
import os
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor, nn

from upscale_lit import shipped
from upscale_lit.errors import InputError
from upscale_lit.files import atomic, check_name
from upscale_lit.inference.tiling import Chain
from upscale_lit.weights import FACTS, load_weights

FORMATS = (".onnx", ".safetensors")
ONNX_PACKAGES = ("onnx", "onnxscript", "onnxruntime")
SIZES = ((37, 50), (64, 61), (3, 130), (1, 1))  # heights and widths in px of the pictures for the comparison
CLOSE = 1e-4  # the allowed difference of pixels from 0 to 1: a fortieth of an 8-bit level


def export(source: Path, target: Path | None = None, kind: str = ".onnx") -> tuple[Path, float]:
    """Write the network of a weights file to an ONNX or safetensors file.

    Return the path of the new file, and the largest difference between the outputs of the network and of the new file.
    source: the weights file.
    target: a file whose ending names the format, or a folder for the new file, or None. None stands for the folder of
        the source, or for the working folder if the source is a shipped model. In a folder, the new file is named
        after the source and the factor.
    kind: the ending of the new file, if the target is a folder or None.
    Raises InputError if the source cannot be read, the target cannot be written, or packages are missing. Raises
    InputError as well, and writes nothing, if the difference is above CLOSE.
    """
    model, facts = load_weights(source)
    chain = Chain([model])
    folder = Path(os.path.realpath(source)).parent
    model_of = [folder.name] if folder.parent == shipped.FOLDER.resolve() else []
    name = "_".join([*model_of, f"{source.stem}_x{chain.factor}{kind}"])
    if target is None:
        target = Path(name) if model_of else source.with_name(name)
    elif os.path.isdir(target):
        target = target / name
    if target.suffix.lower() not in FORMATS:
        raise InputError(
            f"The export's name must end in {' or '.join(FORMATS)}, or be an existing folder; got {target.name!r}."
        )
    check_name(target)
    if os.path.exists(target) and os.path.samefile(target, source):
        raise InputError(f"The export would overwrite its own source {target}. Name another file with -o.")
    del facts["sha256"]
    write = _onnx if target.suffix.lower() == ".onnx" else _safetensors
    try:
        with atomic(target) as part:
            difference = write(model, chain, facts, part)
            if not difference <= CLOSE:
                raise InputError(f"{target} is not written: its output differs from the network's by {difference:.2g}.")
    except SafetensorError as error:
        raise InputError(f"{target} cannot be written: {error}.") from error
    return target, difference


def _safetensors(model: nn.Module, chain: Chain, facts: dict[str, Any], path: Path) -> float:
    state = {name: value.contiguous() for name, value in model.state_dict().items()}
    save_file(state, path, {"format": "pt", "scale": str(chain.factor), FACTS: json.dumps(facts)})
    return _difference(chain, Chain([load_weights(path)[0]]))


def _onnx(model: nn.Module, chain: Chain, facts: dict[str, Any], path: Path) -> float:
    missing = [name for name in ONNX_PACKAGES if importlib.util.find_spec(name) is None]
    if missing:
        raise InputError(
            f'ONNX needs {", ".join(missing)}, which is not installed: pip install "upscale-lit[onnx]". In a clone of '
            'the repository: pip install -e ".[onnx]".'
        )
    import onnx
    import onnxruntime

    sides = {2: torch.export.Dim("height"), 3: torch.export.Dim("width")}
    with quiet("torch.onnx"):
        program = torch.onnx.export(
            chain, (torch.rand(1, 3, 37, 50),), dynamo=True, verbose=False, dynamic_shapes=(sides,),
            input_names=["low"], output_names=["high"],
        )  # fmt: skip
    assert program is not None
    proto, pixels = program.model_proto, "RGB in [0, 1]"
    properties = {"scale": str(chain.factor), "input": pixels, "output": pixels, FACTS: json.dumps(facts)}
    onnx.helper.set_model_props(proto, properties)
    onnx.save(proto, str(path))
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    return _difference(chain, lambda low: torch.from_numpy(session.run(None, {"low": low.numpy()})[0]))


@contextmanager
def quiet(logger: str) -> Iterator[None]:
    """Hide Python's warnings, and the lines of a logger below the level ERROR, inside the block.

    PyTorch's exporter reports internal steps in this way. These steps do not concern users.
    """
    log = logging.getLogger(logger)
    level = log.level
    log.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(action="ignore"):
            yield
    finally:
        log.setLevel(level)


def _difference(chain: Chain, other: Callable[[Tensor], Tensor]) -> float:
    """Return the largest difference between the outputs of `chain` and `other` on random pictures of all SIZES.

    Pixels are from 0 to 1.
    """
    random = torch.Generator().manual_seed(0)
    lows = [torch.rand(1, 3, height, width, generator=random) for height, width in SIZES]
    with torch.inference_mode():
        return max(float((chain(low) - other(low)).abs().max()) for low in lows)
