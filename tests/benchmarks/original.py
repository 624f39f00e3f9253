"""Compare our training with the original program's: python tests/benchmarks/original.py data=folder data.root=DIR [...]

The program trains one stage twice, on the same photos, and measures both trainings on the same held-out photos.

    ours        the configured run, to its end
    original    a plain loop in one process, which decodes, resizes and crops every file again in every epoch

The original loop uses PyTorch's random start, ordinary BatchNorm, AdamW with a rate of 5e-4, and batches of 64. Both
trainings make their low pictures with the configured kernel, because both are measured on low pictures of this kernel.

The time of a training begins before the photos are read, and excludes the measurements. The program prints when each
training exceeds bilinear and bicubic for good, and draws both curves. With --curves, a later call adds its curves to
the curves of an earlier call.
"""

import argparse
import json
import math
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
import torch.nn.functional as F
from composed import composed
from omegaconf import DictConfig
from PIL import Image
from torch.utils.data import DataLoader, Dataset
from torchvision.transforms import v2

from upscale_lit import metrics, resample
from upscale_lit.launch.build import build_data, build_module
from upscale_lit.launch.facts import plain
from upscale_lit.launch.instantiate import instantiate
from upscale_lit.launch.run import SILENCED
from upscale_lit.launch.start import Start
from upscale_lit.models import Upsampler, upscale

FIRST, GROWTH = 2.0, 1.12  # seconds before the first measurement; the factor from each measurement's time to the next
Curve = list[tuple[float, int, float]]  # (seconds, steps, dB) of each measurement


class Clock:
    """A clock of training seconds. It calls `measure` at growing intervals, and stops while `measure` runs."""

    def __init__(self, measure: Callable[[torch.nn.Module], float], limit: float) -> None:
        self.measure, self.limit = measure, limit
        self.curve: Curve = []
        self.spent, self.began, self.due = 0.0, time.perf_counter(), FIRST

    def step(self, model: torch.nn.Module, steps: int, last: bool = False) -> bool:
        """Measure if a measurement is due, and return whether the time limit is reached. Call this after every step."""
        seconds = self.spent + time.perf_counter() - self.began
        if steps == 0 or last or seconds >= min(self.due, self.limit):
            self.spent, self.due = seconds, max(FIRST, seconds * GROWTH)
            self.curve.append((seconds, steps, self.measure(model)))
            print(f"{seconds:8.1f} s  {steps:6} steps  {self.curve[-1][2]:.3f} dB", flush=True)
            self.began = time.perf_counter()
        return seconds >= self.limit


class Files(Dataset[tuple[torch.Tensor, torch.Tensor]]):
    """Pairs (low, high), one for each file, decoded, resized and cropped again at each access."""

    def __init__(self, paths: list[Path], size: int, factor: int, kernel: str) -> None:
        self.paths = paths
        mode = v2.InterpolationMode(kernel)
        self.cut = v2.Compose(
            [v2.Resize(size + size // 8), v2.RandomCrop(size), v2.RandomHorizontalFlip(), v2.RandomVerticalFlip()]
        )
        self.low = v2.Resize(size // factor, mode)
        self.tensor = v2.PILToTensor()

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, torch.Tensor]:
        with Image.open(self.paths[index]) as image:
            high = self.cut(image.convert("RGB"))
        return resample.to_network(self.tensor(self.low(high))), resample.to_network(self.tensor(high))


def original(cfg: DictConfig, paths: list[Path], clock: Clock) -> None:
    files = Files(paths, cfg.stage.size, cfg.stage.factor, cfg.data.kernel)
    loader = DataLoader(files, batch_size=64, shuffle=True)
    model = Upsampler(start="random", batch_norm="batch")
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-4)
    steps = 0
    clock.step(model, steps)
    while True:
        for low, high in loader:
            optimizer.zero_grad()
            F.mse_loss(model(low), high).backward()
            optimizer.step()
            steps += 1
            if clock.step(model, steps):
                return


class Stop(pl.Callback):
    def __init__(self, clock: Clock) -> None:
        self.clock = clock

    def on_train_start(self, trainer: pl.Trainer, pl_module: Any) -> None:
        self.clock.step(pl_module.model, 0)

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        self.clock.step(pl_module.model, trainer.global_step, trainer.global_step == trainer.estimated_stepping_batches)


def ours(cfg: DictConfig, cache: str, clock: Clock) -> None:
    cfg.data.cache = cache
    data = build_data(cfg, Start())
    trainer = instantiate("trainer", plain(cfg.trainer), callbacks=[Stop(clock)], logger=[])
    trainer.fit(build_module(cfg, Start(), data), datamodule=data)


def passes(curve: Curve, level: float) -> float | None:
    """Return the seconds after which a curve stays above a level, or None if it ends below the level."""
    since = None
    for seconds, _, psnr in curve:
        since = (since if since is not None else seconds) if psnr > level else None
    return since


def draw(curves: dict[str, Curve], baselines: dict[str, float], path: Path) -> None:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7.5, 3.8), layout="constrained")
    axes = figure.add_subplot(xscale="log", xlabel="seconds of training", ylabel="PSNR (dB), held-out photos")
    for name, curve in curves.items():
        axes.plot([max(seconds, 0.5) for seconds, _, _ in curve], [psnr for _, _, psnr in curve], label=name)
    for (name, psnr), style in zip(baselines.items(), ("dotted", "dashed"), strict=True):
        axes.axhline(psnr, color="grey", linestyle=style, linewidth=1, label=name)
    axes.set_ylim(min(baselines.values()) - 8, None)
    axes.grid(alpha=0.3)
    axes.legend(loc="lower right")
    figure.savefig(path, dpi=110)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=60, help="time limit of the original training (default 60)")
    parser.add_argument(
        "--only", choices=["original", "ours"], help="the only one to train; --curves has the other curve"
    )
    parser.add_argument(
        "--curves", type=Path, default=Path("outputs/original.json"), help="file that keeps both curves"
    )
    parser.add_argument("--picture", type=Path, default=Path("outputs/original.png"))
    parser.add_argument("overrides", nargs="*", help="overrides, as for train.py")
    args = parser.parse_args()
    for message in SILENCED:
        warnings.filterwarnings("ignore", message)
    cfg = composed("trainer.check_val_every_n_epoch=1000000", *args.overrides)  # The clock validates instead.
    pl.seed_everything(cfg.seed, verbose=False)
    data = build_data(cfg, Start())
    pairs = [data.on_after_batch_transfer(square, 0) for square in data.squares]

    def score(upscaled: Callable[[torch.Tensor], torch.Tensor]) -> float:
        values = [metrics.psnr(upscaled(low), high, cfg.stage.factor).mean() for low, high in pairs]
        return float(torch.stack(values).mean())

    def measure(model: torch.nn.Module) -> float:
        training = model.training
        model.eval()
        value = score(lambda low: upscale(model, low))
        model.train(training)
        return value

    baselines = {
        kernel: score(lambda low, kernel=kernel: resample.interpolate(low, cfg.stage.factor, kernel))
        for kernel in ("bilinear", "bicubic")
    }
    print(f"{len(pairs)} held-out pairs: {baselines}")
    curves: dict[str, Curve] = json.loads(args.curves.read_text()) if args.curves.exists() else {}
    if args.only != "original":
        print("ours")
        with tempfile.TemporaryDirectory() as cache:  # An empty cache, so that our time includes decoding the photos.
            clock = Clock(measure, math.inf)
            ours(cfg, cache, clock)
        curves["ours"] = clock.curve
    if args.only != "ours":
        print("original")
        clock = Clock(measure, args.minutes * 60)
        original(cfg, [photo.path for photo in data.train_photos], clock)
        curves["original"] = clock.curve
    args.curves.parent.mkdir(parents=True, exist_ok=True)
    args.curves.write_text(json.dumps(curves))
    for name, level in baselines.items():
        times = {way: passes(curve, level) for way, curve in curves.items()}
        print(f"above {name}: " + ", ".join(
            f"{way} {f'after {since:.1f} s' if since is not None else f'not within {curves[way][-1][0]:.0f} s'}"
            for way, since in times.items()
        ))  # fmt: skip
    draw(curves, baselines, args.picture)


if __name__ == "__main__":
    main()
