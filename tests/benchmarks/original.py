"""How much sooner than the original way: python tests/benchmarks/original.py data=folder data.root=DIR [more overrides]

Two trainings of one stage, one after the other, on the same photos, measured on the same held-out ones: ours, the
configured run to its end, then the original way, a plain loop in one process: every file is decoded, resized and
cropped again in every epoch; PyTorch's random start, ordinary BatchNorm, AdamW at 5e-4, batches of 64. Low pictures are
made by the configured kernel in both, since that is what both are measured on.

Time is that of training, from before the photos are read; the measurements in between are left out. Prints when each
way passes bilinear and bicubic for good, and draws both curves. With --curves a later call adds to an earlier one's.
"""

import argparse
import json
import math
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import hydra
import pytorch_lightning as pl
import torch
import torch.nn.functional as F
from omegaconf import DictConfig
from PIL import Image
from torch.utils.data import DataLoader, Dataset
from torchvision.transforms import v2

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT))

import train
from upscale_lit import metrics, resample
from upscale_lit.models import Upsampler, upscale
from upscale_lit.training.module import UpscaleModule
from upscale_lit.training.optimizer import ScheduledAdamW

FIRST, GROWTH = 2.0, 1.12  # seconds before the first measurement, and between one and the next, as a factor
Curve = list[tuple[float, int, float]]  # seconds, steps, dB


class Clock:
    """Seconds of training; calls `measure` at growing distances, with the clock stopped."""

    def __init__(self, measure: Callable[[torch.nn.Module], float], limit: float) -> None:
        self.measure, self.limit = measure, limit
        self.curve: Curve = []
        self.spent, self.began, self.due = 0.0, time.perf_counter(), FIRST

    def step(self, model: torch.nn.Module, steps: int, last: bool = False) -> bool:
        """After every step. True when time is up."""
        seconds = self.spent + time.perf_counter() - self.began
        if steps == 0 or last or seconds >= min(self.due, self.limit):
            self.spent, self.due = seconds, max(FIRST, seconds * GROWTH)
            self.curve.append((seconds, steps, self.measure(model)))
            print(f"{seconds:8.1f} s  {steps:6} steps  {self.curve[-1][2]:.3f} dB", flush=True)
            self.began = time.perf_counter()
        return seconds >= self.limit


class Files(Dataset[tuple[torch.Tensor, torch.Tensor]]):
    """(low, high) of one file, decoded, resized and cropped anew each time."""

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
    data = train.build("data", cfg.data, cache=cache)
    module = UpscaleModule(
        train.new_network(cfg, None)[0],
        factor=cfg.stage.factor,
        loss=torch.nn.MSELoss(),
        optimizer=ScheduledAdamW(**train.plain(cfg.optimizer)),
        facts={},
    )
    trainer = train.build_trainer(cfg, [Stop(clock)], [], Path("checkpoints"))
    trainer.fit(module, datamodule=data)


def passes(curve: Curve, level: float) -> float | None:
    """When a curve is above a level for good: the seconds, None where it never is."""
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
    parser.add_argument("--minutes", type=float, default=60, help="the original way is stopped after (default 60)")
    parser.add_argument("--only", choices=["original", "ours"], help="one of the two; the other's curve as in --curves")
    parser.add_argument("--curves", type=Path, default=Path("outputs/original.json"), help="both curves are kept here")
    parser.add_argument("--picture", type=Path, default=Path("outputs/original.png"))
    parser.add_argument("overrides", nargs="*", help="as for train.py")
    args = parser.parse_args()
    for message in train.SILENCED:
        warnings.filterwarnings("ignore", message)
    with hydra.initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        # Validation is done here.
        cfg = hydra.compose("config", ["trainer.check_val_every_n_epoch=1000000", *args.overrides])
    pl.seed_everything(cfg.seed, verbose=False)
    data = train.build("data", cfg.data)
    data.setup("fit")
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
        with tempfile.TemporaryDirectory() as cache:  # photos are decoded within our time, too
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
        print(f"past {name}: " + ", ".join(
            f"{way} {f'after {since:.1f} s' if since is not None else f'not within {curves[way][-1][0]:.0f} s'}"
            for way, since in times.items()
        ))  # fmt: skip
    draw(curves, baselines, args.picture)


if __name__ == "__main__":
    main()
