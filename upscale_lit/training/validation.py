"""PSNR and SSIM on the validation pairs, for the model and for the baselines."""

from collections.abc import Mapping

import torch
from pytorch_lightning import Trainer
from torch import Tensor

from upscale_lit import metrics


class ValidationMetrics:
    """The means of PSNR and SSIM over all validation pairs, by their names in the logs.

    factor: the width in pixels of the border that is left out, see metrics.py.

    The names are val/psnr and val/ssim for the model, val/psnr_bicubic for bicubic upscaling, and val/gain for the
    difference of both. In a run with a degradation, there are also val/psnr_degraded, val/psnr_degraded_bicubic,
    val/gain_degraded and so on, which are measured on degraded low pictures.
    """

    def __init__(self, factor: int) -> None:
        self.factor = factor
        # The baselines and the chained stages never change within a run. The first validation alone measures them.
        self._others: dict[tuple[int, str], dict[str, Tensor]] = {}  # by batch number and suffix
        self.reset()

    def reset(self) -> None:
        """Start another validation."""
        self._totals: dict[str, float] = {}  # sums over the pairs of this process
        self._pairs = 0

    def knows(self, batch_idx: int, suffix: str = "") -> bool:
        """Return whether the other methods have been measured on this batch."""
        return (batch_idx, suffix) in self._others

    def add(self, batch_idx: int, suffix: str, pred: Tensor, others: Mapping[str, Tensor], high: Tensor) -> None:
        """Measure a batch. All images are (N, 3, H, W), RGB, float in [0, 1]; `high` may also be uint8.

        suffix: "" for clean low pictures, "_degraded" for degraded ones.
        others: the pictures of the other methods by name; ignored if `knows(batch_idx, suffix)`.
        """
        key = batch_idx, suffix
        if key not in self._others:
            measured = [self._measure(f"{suffix}_{method}", image, high) for method, image in others.items()]
            self._others[key] = {name: value for values in measured for name, value in values.items()}
        ours = self._measure(suffix, pred, high)
        gain = ours[f"val/psnr{suffix}"] - self._others[key][f"val/psnr{suffix}_bicubic"]
        for name, value in {f"val/gain{suffix}": gain, **ours, **self._others[key]}.items():
            self._totals[name] = self._totals.get(name, 0.0) + float(value.sum())
        self._pairs += 0 if suffix else len(high)

    def _measure(self, method: str, image: Tensor, high: Tensor) -> dict[str, Tensor]:
        return {
            f"val/psnr{method}": metrics.psnr(image, high, self.factor),
            f"val/ssim{method}": metrics.ssim(image, high, self.factor),
        }

    def means(self, trainer: Trainer) -> tuple[dict[str, float], int]:
        """Return the means by name and the number of pairs, both over all processes.

        With degraded pairs, val/score is the mean of val/psnr and val/psnr_degraded, and val/score_chained likewise.
        """
        totals = torch.tensor([*self._totals.values(), self._pairs], dtype=torch.float64)
        if trainer.world_size > 1:  # one process keeps its sums on the CPU: an Apple GPU has no float64
            totals = trainer.strategy.reduce(totals.to(trainer.strategy.root_device), reduce_op="sum").cpu()
        *sums, pairs = totals.tolist()
        means = {name: total / pairs for name, total in zip(self._totals, sums, strict=True)}
        for method in ("", "_chained"):
            if f"val/psnr_degraded{method}" in means:
                means[f"val/score{method}"] = (means[f"val/psnr{method}"] + means[f"val/psnr_degraded{method}"]) / 2
        return means, int(pairs)


def score_name(degraded: bool) -> str:
    """Return the name of the number by which a run chooses its best weights."""
    return "val/score" if degraded else "val/psnr"


def gain_of(metrics: Mapping[str, float]) -> float:
    """Return the gain over bicubic in dB; with a degradation, the mean of the gains on clean and degraded pairs."""
    gains = [metrics[name] for name in ("val/gain", "val/gain_degraded") if name in metrics]
    return sum(gains) / len(gains)
