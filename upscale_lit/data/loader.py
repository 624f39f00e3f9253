"""The loader of training examples. An epoch of this loader can begin with any batch."""

import signal
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Sampler, default_convert

from upscale_lit.data.regions import Batch, Regions
from upscale_lit.data.sources import Plan
from upscale_lit.errors import ShardError
from upscale_lit.signals import SIGNALS


class Numbers(Sampler[int]):
    """A sampler of the numbers of an epoch's examples. The numbers count the examples of all epochs.

    Lightning calls `set_epoch`. Each of `ranks` processes gets a part of every batch. All processes together therefore
    see the same examples as a single process. Examples at the end of an epoch that do not fill a batch are left out.
    batch_size: the number of examples in a batch of all processes together.
    """

    def __init__(self, examples_per_epoch: int, batch_size: int, rank: int = 0, ranks: int = 1) -> None:
        self.examples_per_epoch, self.batch_size, self.rank = examples_per_epoch, batch_size, rank
        self.own = batch_size // ranks  # the examples of this process in each batch
        self.epoch = self.skipped = 0  # skipped: the number of batches to leave out at the start

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def __len__(self) -> int:
        return self.examples_per_epoch // self.batch_size * self.own

    def __iter__(self) -> Iterator[int]:
        for batch in range(self.skipped, self.examples_per_epoch // self.batch_size):
            first = self.epoch * self.examples_per_epoch + batch * self.batch_size + self.rank * self.own
            yield from range(first, first + self.own)


class ResumableLoader(DataLoader[Batch]):
    """A DataLoader over `Numbers` that can begin in the middle of an epoch, without making the earlier examples.

    in_parts: whether the workers divide each batch, so that a worker always makes the same positions of a batch. A
        source of streams needs this division. Otherwise, or if a batch cannot be divided equally, workers make complete
        batches.
    handed_out: the number of batches that this epoch has left out or returned. Workers may have made more batches.
    begin_after: the number of batches that the next epoch leaves out at its start.
    """

    def __init__(self, regions: Regions, plan: Plan, rank: int, ranks: int, workers: int, in_parts: bool) -> None:
        own = plan.batch_size // ranks
        self.parts = workers if in_parts and workers and own % workers == 0 else 1  # the number of parts of a batch
        self.numbers = Numbers(plan.examples_per_epoch, plan.batch_size, rank, ranks)
        self.handed_out = self.begin_after = 0
        super().__init__(
            regions, own // self.parts, sampler=self.numbers, collate_fn=default_convert, num_workers=workers,
            persistent_workers=workers > 0, worker_init_fn=_leave_signals_to_the_run,
            pin_memory=torch.cuda.is_available(),
        )  # fmt: skip

    def __len__(self) -> int:
        return super().__len__() // self.parts

    def __iter__(self) -> Any:
        # This method is a generator: it starts the workers when the first batch is requested. By then, Lightning has
        # set the epoch.
        self.handed_out, self.begin_after = self.begin_after, 0
        self.numbers.skipped = self.handed_out
        made = super().__iter__()
        try:
            for first in made:
                self.handed_out += 1
                yield _joined([first, *(next(made) for _ in range(self.parts - 1))])
        except ShardError as error:  # the message of an error in a worker contains the worker's traceback
            raise ShardError(str(error).rpartition("ShardError: ")[2].strip()) from None


def _joined(parts: list[Batch]) -> Batch:
    if len(parts) == 1:
        return parts[0]
    if isinstance(parts[0], Tensor):
        return torch.cat(parts)  # type: ignore[arg-type]
    return tuple(torch.cat(pictures) for pictures in zip(*parts, strict=True))  # type: ignore[return-value]


def _leave_signals_to_the_run(worker: int) -> None:
    signal.set_wakeup_fd(-1)  # a forked worker would otherwise write to the run's file descriptor
    # A terminal or a cluster sends signals to all processes of a run. The run itself ends its workers.
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN)
