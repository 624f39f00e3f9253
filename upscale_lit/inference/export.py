"""Export weights for other programs: ONNX with free height and width, or safetensors, read back and compared.

What is exported is `Chain.forward`.
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
from upscale_lit.files import check_name, whole
from upscale_lit.inference.tiling import Chain
from upscale_lit.weights import FACTS, load_weights

FORMATS = (".onnx", ".safetensors")
ONNX_PACKAGES = ("onnx", "onnxscript", "onnxruntime")
SIZES = ((37, 50), (64, 61), (3, 130), (1, 1))  # h, w on which what was written is compared
CLOSE = 1e-4  # on pixels from 0 to 1: a fortieth of a grey level


def export(source: Path, target: Path | None = None, kind: str = ".onnx") -> tuple[Path, float]:
    """Write the network of a weights file; return (path, largest difference between our output and the export's).

    target: its ending says the format. A folder: a file in it, named after the source, with the scale in the name and
    `kind` as its ending. None: that next to the source; of a shipped model, in the working folder.
    Raises InputError when the file cannot be read or written, packages are missing, or the difference is above CLOSE.
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
        raise InputError(f"{target} would be written over itself; name another file with -o.")
    del facts["sha256"]
    write = _onnx if target.suffix.lower() == ".onnx" else _safetensors
    try:
        with whole(target) as part:
            difference = write(model, chain, facts, part)
            if not difference <= CLOSE:
                raise InputError(f"{target} is not written: read back, it differs from ours by {difference:.2g}.")
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
            f'ONNX needs {", ".join(missing)}, which is not installed: pip install "upscale-lit[onnx]", or in a clone '
            'pip install -e ".[onnx]".'
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
    """Within, neither warnings nor lines of a logger below ERROR: an exporter's own workings."""
    log = logging.getLogger(logger)
    level = log.level
    log.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(action="ignore"):
            yield
    finally:
        log.setLevel(level)


def _difference(chain: Chain, other: Callable[[Tensor], Tensor]) -> float:
    """The largest difference between our output and another runtime's, over SIZES; pixels are from 0 to 1."""
    random = torch.Generator().manual_seed(0)
    lows = [torch.rand(1, 3, height, width, generator=random) for height, width in SIZES]
    with torch.inference_mode():
        return max(float((chain(low) - other(low)).abs().max()) for low in lows)
