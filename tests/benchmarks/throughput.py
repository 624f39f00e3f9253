"""Training throughput beside a bare PyTorch loop: python tests/benchmarks/throughput.py stage=64to128 [more overrides]

They run in turn, a few dozen steps at a time, each in a process of its own that waits while another has its turn: a
real `trainer.fit` with loggers, progress bar and photographs; a loop over ready pairs in memory with the same network,
batch, layout and threads, as one would write it (AdamW as PyTorch sets it, set_to_none, no .item()); and that loop once
more with the allocator set as train.py sets it. Prints images per second, and the ratios as medians over the turns.
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
from upscale_lit.allocator import keep_freed_memory
from upscale_lit.models import Upsampler8x
from upscale_lit.training.module import UpscaleModule
from upscale_lit.training.optimizer import ScheduledAdamW

TURNS, READY = 15, 4  # turns of each; ready batches to cycle through
SECONDS = 1.5  # of each turn, about


class Bare:
    """The bare loop, in a process of its own, so that nothing of ours changes it; it waits while it has no turn."""

    def __init__(self, model: torch.nn.Module, ready: list[tuple[torch.Tensor, ...]], keep_memory: bool) -> None:
        context = torch.multiprocessing.get_context("spawn")
        self.pipe, other = context.Pipe()
        self.process = context.Process(target=bare, args=(other, model, ready, keep_memory), daemon=True)
        self.process.start()

    def __call__(self, steps: int) -> float:
        """Seconds for so many steps."""
        self.pipe.send(steps)
        return float(self.pipe.recv())


def bare(pipe: Any, model: torch.nn.Module, ready: list[tuple[torch.Tensor, ...]], keep_memory: bool) -> None:
    if keep_memory:
        keep_freed_memory()
    model = copy.deepcopy(model)  # out of memory that is shared between the processes
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
    """After every turn of training, as many steps of the bare loop."""

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
        else:  # warm-up is over: choose the length of a turn
            self.loops = [Bare(pl_module.model, self.ready, keep_memory) for keep_memory in (False, True)]
            seconds = [loop(5) + loop(5) for loop in self.loops]
            self.steps = max(5, round(SECONDS / (seconds[0] / 10)))
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
    keep_freed_memory()  # as train.run does
    pl.seed_everything(cfg.seed, workers=True, verbose=False)
    data = train.build("data", cfg.data)
    model = Upsampler8x() if cfg.stage.factor == 8 else train.new_network(cfg, None)[0]
    optimizer = ScheduledAdamW(**train.plain(cfg.optimizer))
    module = UpscaleModule(model, factor=cfg.stage.factor, loss=torch.nn.MSELoss(), optimizer=optimizer, facts={})
    turns = Turns()
    with tempfile.TemporaryDirectory() as folder:
        callbacks = [train.Progress(), turns]
        trainer = train.build_trainer(cfg, callbacks, train.loggers(Path(folder), None), Path(folder))
        trainer.fit(module, datamodule=data)
    ours = cfg.data.batch_size / statistics.median(turns.ours)
    print(f"\n{' '.join(overrides) or 'defaults'}: {ours:.1f} img/s "
          f"(batch {cfg.data.batch_size}, crop {cfg.data.crop}, {torch.get_num_threads()} threads)")  # fmt: skip
    for name, times in zip(("bare loop", "the same, allocator set"), zip(*turns.bare, strict=True), strict=True):
        ratio = statistics.median(bare / ours for ours, bare in zip(turns.ours, times, strict=True))
        print(f"  {name}: {cfg.data.batch_size / statistics.median(times):.1f} img/s, ratio {ratio:.3f}")


if __name__ == "__main__":
    main(sys.argv[1:])
