"""The cascade, level by level: python tests/benchmarks/cascade.py checkpoints_dir=DIR [data=folder data.root=DIR ...]

Measures the weights files of the three stages and of the fine-tuned stack in checkpoints_dir, each on its own stage's
validation pairs, beside bilinear, bicubic and Lanczos: 2x for each stage, 8x for the chained and the fine-tuned stages.
With `picture=FILE` 8x pictures of the sample's held-out photographs are written there, pixel by pixel: one row each for
input (bilinear), chained, fine-tuned, ground truth.
"""

import sys
from collections.abc import Callable
from pathlib import Path

import hydra
import torch
from torchvision.utils import make_grid, save_image

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT))

import train
from upscale_lit import metrics, resample
from upscale_lit.data.photo import read_photo
from upscale_lit.data.sources import sample_photos
from upscale_lit.inference.evaluate import lanczos
from upscale_lit.launch.start import load_checkpoints
from upscale_lit.models import STAGES, Upsampler8x, upscale
from upscale_lit.training import report
from upscale_lit.weights import load_weights

Method = Callable[[torch.Tensor], torch.Tensor]
SHOWN = 296  # px of each side: chelsea.png is 300 px high
# left, top and side of the square that is upscaled; left and top of what is shown of the result
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
    networks, _ = load_checkpoints({name: folder / f"upscaler_{part}.pt" for name, part in STAGES.items()})
    chained = Upsampler8x(**networks).eval()
    return {**methods, "chained": lambda low: upscale(chained, low), "fine-tuned": lambda low: upscale(model, low)}


@torch.no_grad()
def main(overrides: list[str]) -> None:
    picture = [word.partition("=")[2] for word in overrides if word.startswith("picture=")]
    overrides = [word for word in overrides if not word.startswith("picture=")]
    for stage in (*STAGES.values(), "64to512"):
        with hydra.initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
            cfg = hydra.compose("config", [f"stage={stage}", *overrides])
        data, factor = train.build("data", cfg.data), cfg.stage.factor
        data.setup("validate")
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
