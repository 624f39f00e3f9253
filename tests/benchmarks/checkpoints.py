"""Measure how much of the training time checkpoints take: python tests/benchmarks/checkpoints.py [overrides]

The program runs a real training with the given overrides. It prints the time spent on last.ckpt and on best.ckpt, as a
share of the time from the first step to the last. This time includes gathering the state, flushing the loggers, writing
the file and flushing the file to the disk.
"""

import json
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT))

import pytorch_lightning as pl
import pytorch_lightning.loggers

import train
from upscale_lit.training.callbacks import KeepLast
from upscale_lit.training.checkpoints import LAST

if __name__ == "__main__":
    spent: dict[str, list[float]] = {}

    def timed(method: Any, name_of: Any) -> Any:
        def call(self: Any, *args: Any, **kwargs: Any) -> None:
            for logger in (self if isinstance(self, pl.Trainer) else args[0]).loggers:
                if isinstance(logger, pl.loggers.TensorBoardLogger):
                    logger.experiment.flush()  # Its thread still computes checksums of the last image grid.
            began = time.perf_counter()
            method(self, *args, **kwargs)
            spent.setdefault(name_of(*args), []).append(time.perf_counter() - began)

        return call

    # KeepLast.write flushes the loggers before it calls Trainer.save_checkpoint. The time of last.ckpt includes both.
    KeepLast.write = timed(KeepLast.write, lambda trainer: LAST)  # type: ignore[method-assign]
    pl.Trainer.save_checkpoint = timed(pl.Trainer.save_checkpoint, lambda path, *_: f"{Path(path).name} alone")  # type: ignore
    with tempfile.TemporaryDirectory() as folder:
        run = Path(folder) / "run"
        sys.argv = ["train.py", *sys.argv[1:], f"hydra.run.dir={run}", f"checkpoints_dir={folder}/checkpoints"]
        train.main()
        seconds = json.loads((run / "metrics.json").read_text())["seconds"]
    for name, times in spent.items():
        share = sum(times) / seconds
        print(
            f"{name}: {len(times)} times, {1000 * sum(times) / len(times):.0f} ms each, {share:.2%} of {seconds:.0f} s"
        )
