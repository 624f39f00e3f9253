"""Measure each network of a cascade next to the baselines.

python tests/benchmarks/cascade.py checkpoints_dir=DIR [data=folder data.root=DIR ...] [picture=FILE]

The program measures the weights files of the three stages and of the fine-tuned stack in checkpoints_dir. Each network
is measured on the validation pairs of its stage, next to bilinear, bicubic and Lanczos. Each 2x stage is measured at
2x. The chained stages and the fine-tuned stack are measured at 8x.

With `picture=FILE` the program writes an image of 8x results for the sample's held-out photographs, at 100 %. The image
has one row each for the input (bilinear), the chained stages, the fine-tuned stack and the ground truth.
"""

import sys
from collections.abc import Callable
from pathlib import Path

import torch
from composed import composed
from torchvision.utils import make_grid, save_image

from upscale_lit import metrics, resample
from upscale_lit.data.photo import read_photo
from upscale_lit.data.sources import sample_photos
from upscale_lit.inference.evaluate import lanczos
from upscale_lit.launch.build import build_data
from upscale_lit.launch.start import Start, load_stages
from upscale_lit.models import STAGES, Upsampler8x, upscale
from upscale_lit.training import report
from upscale_lit.weights import load_weights

Method = Callable[[torch.Tensor], torch.Tensor]
SHOWN = 296  # px, the side of each picture: chelsea.png is 300 px high, and 296 is a multiple of 8
# The left, top and side of the square that is upscaled; then the left and top of the part of it that is shown.
VIEWS = {"chelsea.png": (75, 2, 296, 0, 0), "astronaut.png": (0, 0, 512, 100, 0)}


def methods_of(stage: str, factor: int, folder: Path) -> dict[str, Method]:
    model, _ = load_weights(folder / f"upscaler_{stage}.pt")
    methods: dict[str, Method] = {
        "bilinear": lambda low: resample.interpolate(low, factor, "bilinear"),
        "bicubic": lambda low: resample.interpolate(low, factor, "bicubic"),
        "Lanczos": lambda low: lanczos(low, factor),
    }
    if factor == 2:
        return {**methods, type(model).__name__: lambda low: upscale(model, low)}
    start = load_stages({name: folder / f"upscaler_{part}.pt" for name, part in STAGES.items()})
    chained = Upsampler8x(**start.stages).eval()
    return {**methods, "chained": lambda low: upscale(chained, low), "fine-tuned": lambda low: upscale(model, low)}


@torch.no_grad()
def main(overrides: list[str]) -> None:
    picture = [word.partition("=")[2] for word in overrides if word.startswith("picture=")]
    overrides = [word for word in overrides if not word.startswith("picture=")]
    for stage in (*STAGES.values(), "64to512"):
        cfg = composed(f"stage={stage}", *overrides)
        data, factor = build_data(cfg, Start()), cfg.stage.factor
        methods = methods_of(stage, factor, Path(cfg.checkpoints_dir))
        values: dict[str, list[float]] = {}
        for high in data.squares:
            low = resample.downscale(high, factor, cfg.data.kernel)
            for name, method in methods.items():
                pred = method(low)
                values.setdefault(f"val/psnr_{name}", []).append(metrics.psnr(pred, high, factor).item())
                values.setdefault(f"val/ssim_{name}", []).append(metrics.ssim(pred, high, factor).item())
        means = {name: sum(value) / len(value) for name, value in values.items()}
        rows = {name: f"_{name}" for name in methods}
        print(
            f"stage={stage}\n{report.table(means, rows, len(data.squares), metrics.CONVENTION.format(shave=factor))}\n"
        )
    if picture:
        cells = []
        for name in ("bilinear", "chained", "fine-tuned", "truth"):
            for path in sample_photos()[1]:
                left, top, side, x, y = VIEWS[path.name]
                square = read_photo(path)[1][0][top : top + side, left : left + side].copy()
                high = torch.from_numpy(square).permute(2, 0, 1)[None]
                image = high if name == "truth" else methods[name](resample.downscale(high, 8))
                cells.append(resample.to_float(resample.to_uint8(image))[0, :, y : y + SHOWN, x : x + SHOWN])
        save_image(make_grid(torch.stack(cells), nrow=len(VIEWS), padding=2, pad_value=1.0), picture[0])


if __name__ == "__main__":
    main(sys.argv[1:])
