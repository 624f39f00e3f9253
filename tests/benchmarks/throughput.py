"""Training throughput beside a bare PyTorch loop: python tests/benchmarks/throughput.py stage=64to128 [more overrides]

Both run in turn inside one process, a few dozen steps at a time: a real `trainer.fit` with loggers, progress bar and
photographs, and a loop over ready pairs in memory with the same network, batch, layout and threads (no .item(),
set_to_none). Prints images per second of each and the ratio, as medians over the turns.
"""

import copy
import itertools
import statistics
import sys
import tempfile
import time
import warnings
from pathlib import Path
from typing import Any

import hydra
import pytorch_lightning as pl
import torch
import torch.nn.functional as F

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT))

import train
from upscale_lit import resample
from upscale_lit.models import Upsampler8x
from upscale_lit.module import UpscaleModule

TURNS, READY = 20, 4  # turns of each; ready batches to cycle through
SECONDS = 1.5  # of each turn, about


class Turns(pl.Callback):
    """After every turn of training, as many steps of the bare loop."""

    def __init__(self) -> None:
        self.ready: list[tuple[torch.Tensor, torch.Tensor]] = []
        self.ours: list[float] = []
        self.bare: list[float] = []
        self.steps, self.left, self.began = 0, 5, 0.0

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.model = copy.deepcopy(pl_module.model)
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=1e-4)

    def bare_steps(self, steps: int) -> float:
        batches = itertools.islice(itertools.cycle(self.ready), steps)
        began = time.perf_counter()
        for low, high in batches:
            self.optimizer.zero_grad(set_to_none=True)
            F.mse_loss(self.model(low), high).backward()
            self.optimizer.step()
        return time.perf_counter() - began

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        if len(self.ready) < READY:
            self.ready.append(
                tuple(resample.to_network(x).contiguous(memory_format=torch.channels_last).clone() for x in batch)
            )
        self.left -= 1
        if self.left:
            return
        if self.steps:
            self.ours.append((time.perf_counter() - self.began) / self.steps)
            self.bare.append(self.bare_steps(self.steps) / self.steps)
        else:  # warm-up is over: choose the length of a turn
            self.bare_steps(3)
            self.steps = max(5, round(SECONDS / (self.bare_steps(5) / 5)))
        if len(self.ours) == TURNS:
            trainer.should_stop = True
        self.left, self.began = self.steps, time.perf_counter()


def main(overrides: list[str]) -> None:
    for message in train.SILENCED:
        warnings.filterwarnings("ignore", message)
    with hydra.initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        # An epoch longer than the measurement; the schedule still sees an end.
        defaults = ["data.examples_per_epoch=10000000", "trainer.limit_val_batches=1", "+trainer.min_epochs=0"]
        cfg = hydra.compose("config", [*defaults, *overrides])
    pl.seed_everything(cfg.seed, workers=True, verbose=False)
    data = train.build(cfg.data)
    model = Upsampler8x() if cfg.stage.factor == 8 else train.build(cfg.model)
    module = UpscaleModule(model, factor=cfg.stage.factor, facts={}, **train.plain(cfg.optimizer))
    turns = Turns()
    with tempfile.TemporaryDirectory() as folder:
        callbacks = [train.Progress(), train.LearningRateMonitor("step"), turns]
        trainer = train.build_trainer(cfg, callbacks, train.loggers(Path(folder), None))
        trainer.fit(module, datamodule=data)
    ratio = statistics.median(bare / ours for ours, bare in zip(turns.ours, turns.bare, strict=True))
    ours, bare = (cfg.data.batch_size / statistics.median(times) for times in (turns.ours, turns.bare))
    print(f"\n{' '.join(overrides) or 'defaults'}: {ours:.1f} img/s, bare loop {bare:.1f} img/s, ratio {ratio:.3f} "
          f"(batch {cfg.data.batch_size}, crop {cfg.data.crop}, {torch.get_num_threads()} threads)")  # fmt: skip


if __name__ == "__main__":
    main(sys.argv[1:])
