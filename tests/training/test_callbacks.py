"""KeepLast in several processes: they agree in every tenth batch, and write after the next optimizer step."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from upscale_lit.signals import Signals, Stopped
from upscale_lit.training.callbacks import KeepLast


class TwoProcesses(SimpleNamespace):
    """A trainer of the first of two processes, with what KeepLast reads of it."""

    def __init__(self, accumulate: int) -> None:
        super().__init__(
            world_size=2, global_step=0, fast_dev_run=False, loggers=[], written=[], accumulate=accumulate,
            is_last_batch=False, should_stop=False, check_val_every_n_epoch=1, current_epoch=0, val_check_batch=10**9,
            strategy=SimpleNamespace(reduce=lambda states, reduce_op: states),
        )  # fmt: skip

    def save_checkpoint(self, path: Path) -> None:
        self.written.append(self.global_step)


@pytest.mark.parametrize("accumulate", [1, 2, 3, 4, 5, 6])
def test_a_signal_ends_a_run_that_accumulates_gradients(accumulate: int, tmp_path: Path) -> None:
    trainer: Any = TwoProcesses(accumulate)
    keep = KeepLast(tmp_path, None, None, Signals())
    outputs = {"loss": torch.tensor(0.5)}

    def batches() -> int:
        for batch in range(40):
            trainer.global_step += (batch + 1) % accumulate == 0
            if batch == 8:
                keep.signals.received = 15
            try:
                keep.on_train_batch_end(trainer, trainer, outputs, None, batch)
            except Stopped:
                return batch
        return 40

    assert batches() in range(10, 10 + accumulate)
    assert trainer.written == [trainer.global_step]
