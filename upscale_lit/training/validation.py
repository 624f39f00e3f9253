"""PSNR and SSIM on the validation pairs, for the model and for the baselines."""

from collections.abc import Mapping, Sequence

import torch
from pytorch_lightning import Trainer
from torch import Tensor

from upscale_lit import metrics


class ValidationMetrics:
    """The means of PSNR and SSIM over all validation pairs, by their names in the logs.

    factor: the width in pixels of the border that is left out, see metrics.py.
    others: the names of the methods to compare with, such as "bicubic". The pictures of these methods never change
        within a run, so the methods are measured in the first validation only.
    """

    def __init__(self, factor: int, others: Sequence[str]) -> None:
        self.factor = factor
        self._others: dict[int, dict[str, Tensor]] = {}  # the other methods' values by batch number
        methods = ["", *(f"_{method}" for method in others)]
        self._names = ["val/gain", *(f"val/{name}{method}" for method in methods for name in ("psnr", "ssim")), "pairs"]
        self.reset()

    def reset(self) -> None:
        """Start another validation."""
        self._totals = dict.fromkeys(self._names, 0.0)  # sums over the pairs of this process

    def knows(self, batch_idx: int) -> bool:
        """Return whether the other methods have been measured on this batch."""
        return batch_idx in self._others

    def add(self, batch_idx: int, pred: Tensor, others: Mapping[str, Tensor], high: Tensor) -> None:
        """Measure a batch. All images are (N, 3, H, W), RGB, float in [0, 1]; `high` may also be uint8.

        others: the pictures of the other methods by name; ignored if `knows(batch_idx)`.
        """
        if not self.knows(batch_idx):
            measured = [self._measure(f"_{method}", image, high) for method, image in others.items()]
            self._others[batch_idx] = {name: value for values in measured for name, value in values.items()}
        values = {**self._measure("", pred, high), **self._others[batch_idx], "pairs": torch.ones(len(high))}
        values["val/gain"] = values["val/psnr"] - values["val/psnr_bicubic"]
        for name, value in values.items():
            self._totals[name] += float(value.sum())

    def _measure(self, method: str, image: Tensor, high: Tensor) -> dict[str, Tensor]:
        return {
            f"val/psnr{method}": metrics.psnr(image, high, self.factor),
            f"val/ssim{method}": metrics.ssim(image, high, self.factor),
        }

    def means(self, trainer: Trainer) -> tuple[dict[str, float], int]:
        """Return the means by name and the number of pairs, both over all processes."""
        totals = torch.tensor([*self._totals.values()], dtype=torch.float64)
        if trainer.world_size > 1:  # one process keeps its sums on the CPU: an Apple GPU has no float64
            totals = trainer.strategy.reduce(totals.to(trainer.strategy.root_device), reduce_op="sum").cpu()
        *sums, pairs = totals.tolist()
        return {name: total / pairs for name, total in zip(self._names, sums, strict=False)}, int(pairs)
