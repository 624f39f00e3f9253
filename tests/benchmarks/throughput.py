"""Compare training with a bare PyTorch loop: python tests/benchmarks/throughput.py stage=64to128 [more overrides]

Three trainings take turns of a few dozen steps. Each training has a separate process, which waits while it has no turn.

    ours            a real `trainer.fit` with loggers, progress bar and photographs
    bare loop       a usual PyTorch loop over ready pairs in memory
    allocator set   the bare loop, with the memory allocator set as in train.py

The bare loop has the same network, batch, memory layout and number of threads as ours. It uses AdamW with PyTorch's
defaults and set_to_none=True, and it never calls .item(). The program prints images per second, and the ratios of
speeds as medians over the turns.
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

import pytorch_lightning as pl
import torch
import torch.nn.functional as F
from composed import composed

from upscale_lit import resample
from upscale_lit.allocator import keep_freed_memory
from upscale_lit.launch.build import build_data, build_module
from upscale_lit.launch.facts import network, plain
from upscale_lit.launch.instantiate import instantiate
from upscale_lit.launch.run import SILENCED
from upscale_lit.launch.start import Start
from upscale_lit.training.report import Progress, loggers

TURNS, READY = 15, 4  # the turns of each training; the ready batches through which the bare loops cycle
SECONDS = 1.5  # the approximate length of a turn


class Bare:
    """The bare loop in a separate process, so that our settings do not affect it. It waits while it has no turn."""

    def __init__(self, model: torch.nn.Module, ready: list[tuple[torch.Tensor, ...]], keep_memory: bool) -> None:
        context = torch.multiprocessing.get_context("spawn")
        self.pipe, other = context.Pipe()
        self.process = context.Process(target=bare, args=(other, model, ready, keep_memory), daemon=True)
        self.process.start()

    def __call__(self, steps: int) -> float:
        """Run this number of steps, and return the seconds that they take."""
        self.pipe.send(steps)
        return float(self.pipe.recv())


def bare(pipe: Any, model: torch.nn.Module, ready: list[tuple[torch.Tensor, ...]], keep_memory: bool) -> None:
    if keep_memory:
        keep_freed_memory()
    model = copy.deepcopy(model)  # The copy is not in memory that the processes share.
    ready = [tuple(image.clone() for image in pair) for pair in ready]
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4)
    while True:
        batches = itertools.islice(itertools.cycle(ready), pipe.recv())
        began = time.perf_counter()
        for low, high in batches:
            optimizer.zero_grad(set_to_none=True)
            F.mse_loss(model(low), high).backward()
            optimizer.step()
        pipe.send(time.perf_counter() - began)


class Turns(pl.Callback):
    """A callback that gives each bare loop a turn of the same number of steps after every turn of our training."""

    def __init__(self) -> None:
        self.ready: list[tuple[torch.Tensor, ...]] = []
        self.ours: list[float] = []
        self.bare: list[list[float]] = []
        self.steps, self.left, self.began = 0, 5, 0.0

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
            self.bare.append([loop(self.steps) / self.steps for loop in self.loops])
        else:  # The warm-up is over. Choose the number of steps of a turn.
            self.loops = [Bare(pl_module.model, self.ready, keep_memory) for keep_memory in (False, True)]
            seconds = [loop(5) + loop(5) for loop in self.loops]
            self.steps = max(5, round(SECONDS / (seconds[0] / 10)))
        if len(self.ours) == TURNS:
            trainer.should_stop = True
        self.left, self.began = self.steps, time.perf_counter()


def main(overrides: list[str]) -> None:
    for message in SILENCED:
        warnings.filterwarnings("ignore", message)
    # The epoch is longer than the measurement, but finite: the schedule of the learning rate needs a last step.
    defaults = ["data.examples_per_epoch=10000000", "trainer.limit_val_batches=1", "+trainer.min_epochs=0"]
    cfg = composed(*defaults, *overrides)
    keep_freed_memory()  # as a run does
    pl.seed_everything(cfg.seed, workers=True, verbose=False)
    untrained = {name: instantiate("model", network(cfg)) for name in cfg.stage.earlier if cfg.stage.factor == 8}
    start = Start(None, untrained)
    data = build_data(cfg, start)
    module = build_module(cfg, start, data)
    turns = Turns()
    with tempfile.TemporaryDirectory() as folder:
        logger = loggers(Path(folder), None)
        trainer = instantiate("trainer", plain(cfg.trainer), callbacks=[Progress(), turns], logger=logger)
        trainer.fit(module, datamodule=data)
    ours = cfg.data.batch_size / statistics.median(turns.ours)
    print(f"\n{' '.join(overrides) or 'defaults'}: {ours:.1f} img/s "
          f"(batch {cfg.data.batch_size}, crop {cfg.data.crop}, {torch.get_num_threads()} threads)")  # fmt: skip
    for name, times in zip(("bare loop", "the same, allocator set"), zip(*turns.bare, strict=True), strict=True):
        ratio = statistics.median(bare / ours for ours, bare in zip(turns.ours, times, strict=True))
        print(f"  {name}: {cfg.data.batch_size / statistics.median(times):.1f} img/s, ratio {ratio:.3f}")


if __name__ == "__main__":
    main(sys.argv[1:])
