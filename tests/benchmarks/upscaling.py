"""Compare the speed of upscaling with other ways to upscale: python tests/benchmarks/upscaling.py [2X.pt 8X.pt]

    ours                the Upscaler of this package
    ours, float32       the same with fp32=True
    plain               the network as it was loaded, with the complete picture as one input, in inference mode
    onnxruntime         ONNX Runtime with the exported network
    openvino            OpenVINO with the exported network in float32
    openvino, bfloat16  the same, with the convolutions in bfloat16 and the bicubic upscale in float32, as ours
    ncnn                ncnn with the network, converted by pnnx; weights in float16
    ninasr              NinaSR-B0, untrained, in bfloat16, in place of the network
    ninasr, float32     the same in float32
    bicubic, lanczos    Pillow's resize

The last ways but Pillow's are measured if they are installed: pip install openvino ncnn pnnx; pip install --no-deps
torchsr.

The program measures output megapixels per second on the CPU, from a Pillow picture to a Pillow picture, and the peak
memory of the process. It uses the two weights files, or else the shipped networks. `reference` instead of the files
uses untrained reference networks, which take the same time as trained ones. A 2x network upscales 1024x768 px, and an
8x network upscales 320x240 px. The methods take turns, each in a separate process. Ratios compare a method's median
with the median of plain.

The program then measures the peak memory of `upscale-lit upscale`, for outputs of 1, 10 and 100 megapixels. At last it
compares `Upscaler` in Python with the command line, from JPEG files to JPEG files.
"""

import importlib.util
import multiprocessing
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from skimage import data

from upscale_lit import Upscaler, resample, shipped
from upscale_lit.allocator import raise_thresholds
from upscale_lit.inference.export import export
from upscale_lit.models import STAGES, Upsampler, Upsampler8x
from upscale_lit.weights import load_weights, save_weights

TURNS = 9
PICTURES = 9
SIZES = {2: (1024, 768), 8: (320, 240)}
TILE = 256  # px, for NinaSR
# The ways to upscale, and the packages that a way needs beyond the project's own.
METHODS = {
    "ours": (), "ours, float32": (), "plain": (), "onnxruntime": ("onnxruntime",),
    "openvino": ("openvino",), "openvino, bfloat16": ("openvino",), "ncnn": ("ncnn", "pnnx"), "ninasr": ("torchsr",),
    "ninasr, float32": ("torchsr",), "bicubic": (), "lanczos": (),
}  # fmt: skip
Run = Callable[[np.ndarray], np.ndarray]  # low (1, 3, h, w) -> high (1, 3, H, W), both float32 in [0, 1]


def picture(width: int, height: int) -> Image.Image:
    return Image.fromarray(data.astronaut()).resize((width, height))


def ninasr(factor: int, bfloat16: bool) -> Run:
    """Return NinaSR-B0 on tiles of TILE px. The tiles have no margin, and so they take the least time possible."""
    from torchsr.models.ninasr import ninasr_b0

    raise_thresholds()
    dtype = torch.bfloat16 if bfloat16 else torch.float32
    net = ninasr_b0(scale=factor, pretrained=False).to(dtype=dtype, memory_format=torch.channels_last)

    def run(low: np.ndarray) -> np.ndarray:
        image = torch.from_numpy(low).to(dtype=dtype, memory_format=torch.channels_last)
        with torch.inference_mode():
            rows = ([net(tile).float() for tile in row.split(TILE, -1)] for row in image.split(TILE, -2))
            return torch.cat([torch.cat(row, -1) for row in rows], -2).clamp(0, 1).numpy()

    return run


def plain(model: torch.nn.Module) -> Run:
    def run(low: np.ndarray) -> np.ndarray:
        with torch.inference_mode():
            pred = model(resample.to_network(torch.from_numpy(low)))
            return resample.from_network(pred).clamp(0, 1).numpy()

    return run


def onnxruntime(path: Path) -> Run:
    import onnxruntime

    target, _ = export(path, path.with_suffix(".onnx"))
    session = onnxruntime.InferenceSession(str(target), providers=["CPUExecutionProvider"])
    return lambda low: np.asarray(session.run(None, {"low": low})[0])


def openvino(path: Path) -> Run:
    import openvino

    target, _ = export(path, path.with_suffix(".onnx"))
    core = openvino.Core()
    compiled = core.compile_model(core.read_model(target), "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    return lambda low: np.asarray(compiled(low)[0])


class Rest(torch.nn.Module):
    """What a compact network does after its convolutions: the bicubic upscale, the sum and PixelShuffle."""

    def __init__(self, network: torch.nn.Module) -> None:
        super().__init__()
        self.bicubic, self.factor = network.bicubic, network.factor

    def forward(self, low: torch.Tensor, blocks: torch.Tensor) -> torch.Tensor:
        base = F.conv2d(F.pad(low, (2, 2, 2, 2), mode="replicate"), self.bicubic)
        return F.pixel_shuffle(blocks + base, self.factor)


def openvino_bfloat16(model: torch.nn.Module) -> Run:
    """Return OpenVINO's fastest way with a bicubic upscale in float32.

    OpenVINO has one precision for a model, so the convolutions of a compact network are one model, and the rest is
    another.
    """
    import openvino

    core = openvino.Core()

    def compiled(part: torch.nn.Module, precision: str, *channels: int) -> object:
        inputs = tuple(torch.zeros(1, count, 64, 64) for count in channels)
        converted = openvino.convert_model(part, example_input=inputs, input=[(1, count, -1, -1) for count in channels])
        return core.compile_model(converted, "CPU", {"INFERENCE_PRECISION_HINT": precision})

    stages = getattr(model, "stages", (model,))
    parts = [(compiled(s.body, "bf16", 3), compiled(Rest(s), "f32", 3, 3 * s.factor**2)) for s in stages]

    def run(low: np.ndarray) -> np.ndarray:
        image = resample.to_network(torch.from_numpy(low)).numpy()
        for body, rest in parts:
            image = rest((image, body(image)[0]))[0]
        return resample.from_network(torch.from_numpy(image)).clamp(0, 1).numpy()

    return run


def ncnn(model: torch.nn.Module, folder: Path, size: tuple[int, int]) -> Run:
    import ncnn
    import pnnx

    width, height = size
    low = torch.zeros(1, 3, height, width)
    here = Path.cwd()
    os.chdir(folder)  # pnnx writes files into the working folder
    try:
        pnnx.export(model, "ncnn.pt", inputs=(low,))
    finally:
        os.chdir(here)
    net = ncnn.Net()
    net.opt.num_threads = torch.get_num_threads()
    net.load_param(str(folder / "ncnn.ncnn.param"))
    net.load_model(str(folder / "ncnn.ncnn.bin"))

    def run(low: np.ndarray) -> np.ndarray:
        image = resample.to_network(torch.from_numpy(low[0])).numpy()
        with net.create_extractor() as extractor:
            extractor.input("in0", ncnn.Mat(image))
            _, high = extractor.extract("out0")
        return resample.from_network(torch.from_numpy(np.array(high)[None])).clamp(0, 1).numpy()

    return run


def method(name: str, path: Path) -> Callable[[Image.Image], Image.Image]:
    """Return a function from a picture to a larger picture, which upscales with the named method."""
    model, _ = load_weights(path)
    factor = int(model.factor)  # type: ignore[arg-type]
    if name.startswith("ours"):
        return Upscaler([model], device="cpu", fp32=name.endswith("float32"))
    if name in ("bicubic", "lanczos"):
        kernel = Image.Resampling[name.upper()]
        return lambda image: image.resize((image.width * factor, image.height * factor), kernel)
    if name == "plain":
        run = plain(model)
    elif name.startswith("ninasr"):
        run = ninasr(factor, bfloat16=not name.endswith("float32"))
    elif name == "ncnn":
        run = ncnn(model, path.parent, SIZES[factor])
    elif name == "onnxruntime":
        run = onnxruntime(path)
    else:
        run = openvino_bfloat16(model) if name.endswith("bfloat16") else openvino(path)

    def call(image: Image.Image) -> Image.Image:
        low = np.asarray(image, dtype=np.float32).transpose(2, 0, 1)[None] / 255
        high = (run(np.ascontiguousarray(low))[0] * 255).round().astype(np.uint8)
        return Image.fromarray(np.ascontiguousarray(high.transpose(1, 2, 0)))

    return call


def work(name: str, path: Path, size: tuple[int, int], pipe: Connection) -> None:
    """Run in a separate process: for each request from the pipe, upscale a picture and send the seconds.

    The answer to the last request, False, is the process's peak memory in GB.
    """
    image, upscale = picture(*size), method(name, path)
    upscale(image)  # warm-up
    pipe.send(0.0)
    while pipe.recv():
        begin = time.perf_counter()
        upscale(image)
        pipe.send(time.perf_counter() - begin)
    pipe.send(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9)


def speed(path: Path, factor: int) -> None:
    context = multiprocessing.get_context("spawn")
    width, height = SIZES[factor]
    megapixels = width * height * factor**2 / 1e6
    model = load_weights(path)[0]
    left_out = () if hasattr(getattr(model, "stages", (model,))[0], "bicubic") else ("openvino, bfloat16",)
    pipes, seconds = {}, {}
    for name, packages in METHODS.items():
        if name in left_out or not all(importlib.util.find_spec(package) for package in packages):
            continue
        pipes[name], other = context.Pipe()
        context.Process(target=work, args=(name, path, (width, height), other), daemon=True).start()
        pipes[name].recv()
        seconds[name] = []
    for _ in range(TURNS):
        for name, pipe in pipes.items():
            pipe.send(True)
            seconds[name].append(pipe.recv())
    rates = {name: megapixels / statistics.median(times) for name, times in seconds.items()}
    for name, rate in rates.items():
        pipes[name].send(False)
        ratio, memory = rate / rates["plain"], pipes[name].recv()
        print(f"| {factor}x | {name} | {rate:.1f} | {ratio:.2f} | {memory:.2f} GB |", flush=True)


def memory(path: Path, factor: int, folder: Path) -> None:
    cells = []
    for megapixels in (1, 10, 100):
        side = round(megapixels**0.5 * 1000 / factor)
        source, target = folder / f"{megapixels}.png", folder / f"{megapixels}.jpg"
        picture(side, side).save(source, compress_level=1)
        code = (
            "import resource, subprocess, sys; "
            f"subprocess.run([sys.executable, '-m', 'upscale_lit', 'upscale', {str(source)!r}, '-o', {str(target)!r}, "
            f"'-m', {str(path)!r}, '-s', '{factor}', '--device', 'cpu'], check=True, stdout=subprocess.DEVNULL); "
            "print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)"
        )
        begin = time.perf_counter()
        kibibytes = int(subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout)
        cells.append(f"{kibibytes / 1e6 * 1.024:.2f} GB, {time.perf_counter() - begin:.0f} s")
    print(f"| {factor}x | {' | '.join(cells)} |", flush=True)


def python_and_command_line(folder: Path) -> None:
    """Print how fast Python is, compared with the command line: the same pictures, in ten runs each, alternating.

    Only the pictures count: a run with all pictures minus a run with one picture.
    """
    sources = [folder / f"{number}.jpg" for number in range(PICTURES)]
    for source in sources:
        picture(1024, 768).save(source, quality=95)
    python = (
        "import sys; from PIL import Image; from upscale_lit import Upscaler; upscaler = Upscaler.load(device='cpu');"
        "[upscaler(Image.open(n)).save(n + '.out.jpg', quality=95, subsampling=0) for n in sys.argv[1:]]"
    )
    ways = {
        "python": [sys.executable, "-c", python],
        "command line": [sys.executable, "-m", "upscale_lit", "upscale", "--device", "cpu"],
    }
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(10):
        for name, command in ways.items():
            both = []
            for some in (sources[:1], sources):
                begin = time.perf_counter()
                subprocess.run([*command, *map(str, some)], check=True, capture_output=True)
                both.append(time.perf_counter() - begin)
            seconds[name].append(both[1] - both[0])
    megapixels = (len(sources) - 1) * 1024 * 768 * 4 / 1e6
    rates = {name: megapixels / statistics.median(times) for name, times in seconds.items()}
    ratio = statistics.median(theirs / ours for ours, theirs in zip(*seconds.values(), strict=True))
    print(f"\npython {rates['python']:.1f} MP/s, command line {rates['command line']:.1f} MP/s, ratio {ratio:.3f}")


def main(words: list[str]) -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        args = {"start": "bicubic", "batch_norm": "frozen"}
        parts = {part: {"model": "Upsampler", "model_args": args} for part in STAGES}
        paths = {2: folder / "2x.pt", 8: folder / "8x.pt"}
        if words == ["reference"]:
            save_weights(paths[2], Upsampler(**args), {"model_args": args, "factor": 2})
            save_weights(paths[8], Upsampler8x(), {"model_args": parts, "factor": 8})
        else:
            compact = shipped.folder(shipped.DEFAULT)
            files = words or [compact / f"upscaler_{stage}.safetensors" for stage in ("256to512", "64to512")]
            for path, given in zip(paths.values(), files, strict=True):
                path.write_bytes(Path(given).read_bytes())
        print(f"{torch.get_num_threads()} threads\n\n| | method | MP/s | to plain | memory |\n|---|---|---|---|---|")
        for factor, path in paths.items():
            speed(path, factor)
        print("\n| output | 1 MP | 10 MP | 100 MP |\n|---|---|---|---|")
        for factor, path in paths.items():
            memory(path, factor, folder)
        python_and_command_line(folder)


if __name__ == "__main__":
    main(sys.argv[1:])
