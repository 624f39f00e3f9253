"""The formats of exported networks: how each is written, read again, and recognised.

onnx: the computation of `Chain.forward`, for pictures of any height and width.
safetensors: the weights of the network and their facts, which upscale_lit reads.
spandrel: the weights of an equal SRVGGNetCompact, which chaiNNer, ComfyUI and others read (see srvgg.py).
ncnn: the computation as two files, .param and .bin, which Upscayl and other programs on ncnn read.
"""

import importlib.util
import io
import json
import logging
import re
import shutil
import subprocess
import tempfile
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save
from torch import Tensor, nn

from upscale_lit import resample
from upscale_lit.errors import InputError, shown
from upscale_lit.inference.srvgg import srvgg, srvgg_state
from upscale_lit.inference.tiling import Chain
from upscale_lit.models import Compact
from upscale_lit.weights import FACTS, load_weights, read_file

# Numbers of pictures, heights and widths in px of the pictures for the comparison.
SIZES = ((2, 37, 50), (1, 64, 61), (1, 3, 130), (1, 1, 1))
SOURCE = "upscale_lit_source"  # the metadata key of the facts in a file whose tensors are not the network's own
# The first bytes of ncnn's text files, and of ONNX files: field 1 of ModelProto, a varint.
NCNN_MAGIC, ONNX_MAGIC = b"7767517", b"\x08"
Write = Callable[[nn.Module, dict[str, Any], Sequence[Path], str], float]


@dataclass(frozen=True)
class Format:
    """A format of exported networks.

    name: as the option --format takes it. endings: of the file that -o names. pattern: the name of a file without -o.
    write: (model, facts, parts, variant) -> difference. It writes the files `parts`, reads them again, and compares.
        The variant is "plain" for ONNX without the continuation at the borders, ".pth" for spandrel, or "".
    close: the allowed difference of pixels from 0 to 1. 1e-4 is a fortieth of an 8-bit level.
    files: the endings of the files, if there are several. packages: the packages that `write` needs.
    """

    name: str
    endings: tuple[str, ...]
    pattern: str
    write: Write
    close: float = 1e-4
    files: tuple[str, ...] = ()
    packages: tuple[str, ...] = ()

    def check(self, model: nn.Module, source: Path) -> None:
        """Raise InputError if packages are missing, or if the format cannot represent the network."""
        missing = [name for name in self.packages if importlib.util.find_spec(name) is None]
        if missing:
            raise InputError(
                f"The format {self.name} needs {', '.join(missing)}, which is not installed: pip install "
                f'"upscale-lit[{self.name}]". In a clone of the repository: pip install -e ".[{self.name}]".'
            )
        if self.name == "spandrel" and not isinstance(model, Compact):
            raise InputError(
                f"--format spandrel must have a network of class Compact; {shown(source)} holds a "
                f"{type(model).__name__}, which this format cannot represent. Give --format onnx."
            )
        if self.name == "ncnn" and (multiple := Chain([model]).multiple) > 1:
            raise InputError(
                f"--format ncnn must have a network for pictures of any size; the {type(model).__name__} in "
                f"{shown(source)} needs sides that are multiples of {multiple}. Give --format onnx."
            )


class Plain(nn.Module):
    """The networks of a chain without the continuation at the borders: (N, 3, h, w) -> (N, 3, factor * h, factor * w).

    RGB in [0, 1], clamped. The sides must be multiples of the chain's `multiple`.
    """

    def __init__(self, chain: Chain) -> None:
        super().__init__()
        self.stages = chain.stages

    def forward(self, low: Tensor) -> Tensor:
        # resample.to_network, written with the operators that all converters know
        image = low * (255 / resample.RANGE_SCALE) - resample.RANGE_MEAN / resample.RANGE_SCALE
        for stage in self.stages:
            image = stage(image)
        return resample.from_network(image).clamp(0.0, 1.0)


def _safetensors(model: nn.Module, facts: dict[str, Any], parts: Sequence[Path], variant: str) -> float:
    chain, state = Chain([model]), {name: value.contiguous() for name, value in model.state_dict().items()}
    parts[0].write_bytes(save(state, {"format": "pt", "scale": str(chain.factor), FACTS: json.dumps(facts)}))
    return difference(chain, Chain([load_weights(parts[0])[0]]))


def _spandrel(model: nn.Module, facts: dict[str, Any], parts: Sequence[Path], variant: str) -> float:
    assert isinstance(model, Compact)
    state, (part,) = srvgg_state(model), parts
    if variant == ".pth":
        buffer = io.BytesIO()  # torch.save would report a full disk with an error that does not name the cause
        torch.save({"params": state}, buffer)
        part.write_bytes(buffer.getbuffer())
        read = torch.load(part, "cpu", weights_only=True)["params"]
    else:
        part.write_bytes(save(state, {"format": "pt", "scale": str(model.factor), SOURCE: json.dumps(facts)}))
        read = load_file(part)
    return difference(Chain([model]), lambda low: srvgg(read, low), corners=2 * model.factor)


def _onnx(model: nn.Module, facts: dict[str, Any], parts: Sequence[Path], variant: str) -> float:
    import onnx
    import onnxruntime

    chain = Chain([model])
    network, multiple = (Plain(chain), chain.multiple) if variant == "plain" else (chain, 1)
    sides = {0: torch.export.Dim("batch")}
    sides |= {axis: multiple * torch.export.Dim(name) for axis, name in ((2, "height"), (3, "width"))}
    with quiet("torch.onnx"):
        program = torch.onnx.export(
            network, (torch.rand(2, 3, 36, 52),), dynamo=True, verbose=False, dynamic_shapes=(sides,),
            input_names=["low"], output_names=["high"],
        )  # fmt: skip
    assert program is not None
    proto, pixels = program.model_proto, "RGB in [0, 1]"
    properties = {"scale": str(chain.factor), "input": pixels, "output": pixels, FACTS: json.dumps(facts)}
    onnx.helper.set_model_props(proto, {**properties, "multiple": str(multiple)})
    onnx.save(proto, str(parts[0]))
    session = onnxruntime.InferenceSession(str(parts[0]), providers=["CPUExecutionProvider"])
    return difference(network, lambda low: torch.from_numpy(session.run(None, {"low": low.numpy()})[0]), multiple)


def _ncnn(model: nn.Module, facts: dict[str, Any], parts: Sequence[Path], variant: str) -> float:
    import ncnn
    import pnnx

    network = Plain(Chain([model]))
    with tempfile.TemporaryDirectory() as folder:  # pnnx writes further files next to its input
        traced, param, weights = (Path(folder, name) for name in ("network.pt", "network.param", "network.bin"))
        with quiet("torch"):  # the converter needs a trace, which PyTorch has deprecated
            torch.jit.trace(network, torch.rand(1, 3, 36, 52)).save(str(traced))  # type: ignore[no-untyped-call]
        shapes = ["inputshape=[1,3,36,52]f32", "inputshape2=[1,3,40,64]f32"]  # two sizes make the sides dynamic
        words = [pnnx.EXEC_PATH, traced, *shapes, f"ncnnparam={param}", f"ncnnbin={weights}", "fp16=0"]
        done = subprocess.run(words, cwd=folder, capture_output=True, text=True, errors="replace")
        if done.returncode or not param.exists():
            raise InputError(f"pnnx cannot convert a {type(model).__name__}: {done.stderr.strip()[-300:]}")
        # Upscayl feeds the blob `data` and reads the blob `output`.
        parts[0].write_text(re.sub(r"\bin0\b", "data", re.sub(r"\bout0\b", "output", param.read_text())))
        shutil.copyfile(weights, parts[1])
    net = ncnn.Net()
    net.opt.use_vulkan_compute = net.opt.use_fp16_arithmetic = net.opt.use_bf16_storage = False
    net.load_param(str(parts[0]))
    net.load_model(str(parts[1]))

    def read(low: Tensor) -> Tensor:
        made = []
        for image in low.contiguous().numpy():
            with net.create_extractor() as extractor:
                # ncnn frees its input early, so it gets a copy instead of numpy's memory.
                extractor.input("data", ncnn.Mat(image).clone())
                made.append(torch.from_numpy(np.array(extractor.extract("output")[1])))
        return torch.stack(made)

    return difference(network, read)


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


@torch.inference_mode()
def difference(
    ours: Callable[[Tensor], Tensor], other: Callable[[Tensor], Tensor], multiple: int = 1, corners: int = 0
) -> float:
    """Return the largest difference between two outputs on random pictures of all SIZES. Pixels are from 0 to 1.

    multiple: sides are rounded up to multiples of this number. corners: squares of this side at the four corners of an
    output, in px, are not compared.
    """
    random, largest = torch.Generator().manual_seed(0), [0.0]
    for count, height, width in SIZES:
        low = torch.rand(count, 3, *(-(-side // multiple) * multiple for side in (height, width)), generator=random)
        found = (ours(low) - other(low)).abs()
        if corners:
            inner = slice(corners, -corners)
            compared = [found[..., inner, :], found[..., inner]]
        else:
            compared = [found]
        largest += [float(part.max()) for part in compared if part.numel()]
    return max(largest)


def layout_of(path: Path) -> str | None:
    """Return the name of the format in which a file was exported, or None for another file."""
    with suppress(OSError):
        with path.open("rb") as file:
            begin = file.read(9)
        if begin.startswith(NCNN_MAGIC):
            return "ncnn"
        if begin[8:9] == b"{" or begin.startswith(b"PK"):
            with suppress(InputError):
                return _layout_of_tensors(read_file(path, "weights file"))
        elif path.suffix.lower() == ".bin" and path.with_suffix(".param").exists():
            return layout_of(path.with_suffix(".param"))
        elif begin.startswith(ONNX_MAGIC):
            return "onnx"
    return None


def _layout_of_tensors(content: Mapping[str, Any]) -> str | None:
    state = content.get("params", content.get("model_state_dict", {}))
    if isinstance(state, Mapping) and {"body.0.weight", "body.1.weight"} <= state.keys():
        return "spandrel"
    return "safetensors" if "model_state_dict" in content else None


FORMATS = {
    form.name: form
    for form in (
        Format("onnx", (".onnx",), "{name}_x{factor}.onnx", _onnx, packages=("onnx", "onnxscript", "onnxruntime")),
        Format("safetensors", (".safetensors",), "{name}_x{factor}.safetensors", _safetensors),
        Format("spandrel", (".safetensors", ".pth"), "{name}_x{factor}_compact.safetensors", _spandrel),
        Format(
            "ncnn", (".param",), "{name}-x{factor}.param", _ncnn, files=(".param", ".bin"), packages=("ncnn", "pnnx")
        ),
    )
}
