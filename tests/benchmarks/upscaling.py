"""Compare the speed of upscaling with other ways to upscale: python tests/benchmarks/upscaling.py [2X.pt 8X.pt]

    ours               the Upscaler of this package
    ours, float32      the same with fp32=True
    plain              the network as it was loaded, with the complete picture as one input, in inference mode
    onnxruntime        ONNX Runtime with the exported network
    openvino           OpenVINO with the exported network in float32, if `pip install openvino` was done
    openvino, bfloat16 the same in bfloat16; unlike ours, it also rounds the bicubic upscale
    bicubic, lanczos   Pillow's resize

The program measures output megapixels per second on the CPU, from a Pillow picture to a Pillow picture. It uses the two
weights files, or else the shipped networks. `reference` instead of the files uses untrained reference networks, which
take the same time as trained ones. A 2x network upscales 1024x768 px, and an 8x network upscales 320x240 px. The
methods take turns, each in a separate process. Ratios compare a method's median with the median of plain.

The program then measures the peak memory of `upscale-lit upscale`, for outputs of 1, 10 and 100 megapixels.
"""

import importlib.util
import multiprocessing
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
from PIL import Image
from skimage import data

from upscale_lit import Upscaler, resample, shipped
from upscale_lit.inference.export import export
from upscale_lit.models import STAGES, Upsampler, Upsampler8x
from upscale_lit.weights import load_weights, save_weights

TURNS = 9
SIZES = {2: (1024, 768), 8: (320, 240)}
OPENVINO = ("openvino", "openvino, bfloat16") if importlib.util.find_spec("openvino") else ()
METHODS = ("ours", "ours, float32", "plain", "onnxruntime", *OPENVINO, "bicubic", "lanczos")


def picture(width: int, height: int) -> Image.Image:
    return Image.fromarray(data.astronaut()).resize((width, height))


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

        def run(low: np.ndarray) -> np.ndarray:
            with torch.inference_mode():
                pred = model(resample.to_network(torch.from_numpy(low)))
                return resample.from_network(pred).clamp(0, 1).numpy()
    elif name.startswith("openvino"):
        import openvino

        target, _ = export(path, path.with_suffix(".onnx"))
        precision = "bf16" if name.endswith("bfloat16") else "f32"
        core = openvino.Core()
        compiled = core.compile_model(core.read_model(target), "CPU", {"INFERENCE_PRECISION_HINT": precision})

        def run(low: np.ndarray) -> np.ndarray:
            return np.asarray(compiled(low)[0])
    else:
        import onnxruntime

        target, _ = export(path, path.with_suffix(".onnx"))
        session = onnxruntime.InferenceSession(str(target), providers=["CPUExecutionProvider"])

        def run(low: np.ndarray) -> np.ndarray:
            (high,) = session.run(None, {"low": low})
            return np.asarray(high)

    def call(image: Image.Image) -> Image.Image:
        low = np.asarray(image, dtype=np.float32).transpose(2, 0, 1)[None] / 255
        high = (run(np.ascontiguousarray(low))[0] * 255).round().astype(np.uint8)
        return Image.fromarray(np.ascontiguousarray(high.transpose(1, 2, 0)))

    return call


def work(name: str, path: Path, size: tuple[int, int], pipe: Connection) -> None:
    """Run in a separate process: for each request from the pipe, upscale a picture and send the seconds."""
    image, upscale = picture(*size), method(name, path)
    upscale(image)  # warm-up
    pipe.send(0.0)
    while pipe.recv():
        begin = time.perf_counter()
        upscale(image)
        pipe.send(time.perf_counter() - begin)


def speed(path: Path, factor: int) -> None:
    context = multiprocessing.get_context("spawn")
    width, height = SIZES[factor]
    megapixels = width * height * factor**2 / 1e6
    pipes, seconds = {}, {}
    for name in METHODS:
        pipes[name], other = context.Pipe()
        context.Process(target=work, args=(name, path, (width, height), other), daemon=True).start()
        pipes[name].recv()
        seconds[name] = []
    for _ in range(TURNS):
        for name, pipe in pipes.items():
            pipe.send(True)
            seconds[name].append(pipe.recv())
    for pipe in pipes.values():
        pipe.send(False)
    rates = {name: megapixels / statistics.median(times) for name, times in seconds.items()}
    for name, rate in rates.items():
        print(f"| {factor}x | {name} | {rate:.1f} | {rate / rates['plain']:.2f} |", flush=True)


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
        print(f"{torch.get_num_threads()} threads\n\n| | method | MP/s | to plain |\n|---|---|---|---|")
        for factor, path in paths.items():
            speed(path, factor)
        print("\n| output | 1 MP | 10 MP | 100 MP |\n|---|---|---|---|")
        for factor, path in paths.items():
            memory(path, factor, folder)


if __name__ == "__main__":
    main(sys.argv[1:])
