"""The LightningModule of all stages: its training step, validation step and optimizer."""

import logging
import time
from collections.abc import Callable, Sequence
from typing import Any

import torch
from pytorch_lightning import LightningModule
from pytorch_lightning.utilities.types import OptimizerLRSchedulerConfig
from torch import Tensor, nn

from upscale_lit import resample
from upscale_lit.models import Upsampler8x, upscale
from upscale_lit.training.losses import check_level_weights
from upscale_lit.training.optimizer import ScheduledAdamW
from upscale_lit.training.validation import ValidationMetrics

log = logging.getLogger(__name__)

Batch = tuple[Tensor, Tensor]  # low (N, 3, h, w) and high (N, 3, factor * h, factor * w), RGB, float in [0, 1] or uint8
SHOW_EVERY = 10  # batches between two values in the progress bar: Lightning's log() takes 0.5 ms, 2 % of a small step


class UpscaleModule(LightningModule):
    """A model with its loss and its optimizer. Validation measures PSNR and SSIM of the model and of the baselines.

    loss: (pred, high) -> scalar, both in the networks' pixel range.
    facts: plain values that are saved in checkpoints and distinguish the checkpoints of different runs.
    level_weights: for a stack, one weight for the loss of each level's output. The target of a level is `high`,
        downscaled by `kernel` to the size of the output. None for the loss of the last output alone.
    chained: for a stack, a frozen copy of the stages before fine-tuning. Validation compares the model with this copy.
    previous: the frozen networks that make the low pictures. As they are submodules, checkpoints hold their weights.
    Raises InputError if `level_weights` does not fit the factor.
    """

    def __init__(
        self, model: nn.Module, factor: int, loss: Callable[[Tensor, Tensor], Tensor], optimizer: ScheduledAdamW,
        facts: dict[str, Any], kernel: str = "bicubic", level_weights: Sequence[float] | None = None,
        chained: nn.Module | None = None, previous: Sequence[nn.Module] = (),
    ) -> None:  # fmt: skip
        super().__init__()
        check_level_weights(level_weights, factor)
        self.save_hyperparameters({"facts": facts}, logger=False)
        # Convolutions are faster in channels_last: up to 1.8x on a CPU with AVX-512, and never slower in our timings.
        self.model = model.to(memory_format=torch.channels_last)
        self.chained = chained
        if chained is not None:
            chained.to(memory_format=torch.channels_last).requires_grad_(False).eval()
        self.previous = nn.ModuleList(previous)
        self.factor, self.kernel, self.level_weights = factor, kernel, level_weights
        self.loss, self.optimizer = loss, optimizer
        self.measured = ValidationMetrics(factor)
        self.seconds = 0.0  # of training, from the first step to the last, including validations in between
        self.validated_step = -1  # the step of the latest validation
        self.pairs = 0  # number of pairs in the latest validation, in all processes together
        self._clock = 0.0
        self._loss = torch.zeros(())  # the loss of the latest batch

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        low, high = batch
        if self.level_weights is None:
            loss = self.loss(self.model(_to_network(low)), _to_network(high))
        else:
            loss = self._loss_of_levels(_to_network(low), high, self.level_weights)
        self._loss = loss.detach()
        if batch_idx % SHOW_EVERY == 0:
            self.log("train/loss", loss, prog_bar=True, logger=False)
        return loss

    def _loss_of_levels(self, low: Tensor, high: Tensor, weights: Sequence[float]) -> Tensor:
        """Return the weighted mean of the levels' losses, a scalar.

        low: in the networks' pixel range. high: as in the batch.
        """
        assert isinstance(self.model, Upsampler8x)
        loss = low.new_zeros(())
        for output, weight in zip(self.model.levels(low), weights, strict=True):
            if weight:
                target = resample.downscale(high, high.shape[-1] // output.shape[-1], self.kernel)
                loss = loss + weight * self.loss(output, _to_network(target))
        return loss / sum(weights)

    def configure_optimizers(self) -> OptimizerLRSchedulerConfig:
        return self.optimizer.build(self.model, self.trainer.estimated_stepping_batches)

    def optimizer_step(self, *args: Any, **kwargs: Any) -> None:
        """Run Lightning's optimizer step, then log the loss and the learning rate.

        The values are logged here so that they are written before a checkpoint of this step.
        """
        super().optimizer_step(*args, **kwargs)
        step = self.trainer.global_step + 1
        if step % self.trainer.log_every_n_steps == 0:  # type: ignore[attr-defined]
            loss = self.trainer.strategy.reduce(self._loss, reduce_op="mean")
            rate = self.trainer.optimizers[0].param_groups[0]["lr"]
            for logger in self.trainer.loggers:
                logger.log_metrics({"train/loss": float(loss), "lr": rate}, step)

    def on_validation_epoch_start(self) -> None:
        self.measured.reset()

    def validation_step(self, batch: tuple[Tensor, ...], batch_idx: int) -> dict[str, Tensor]:
        """Measure a batch, and return the pictures of an image grid by name, each (N, 3, H, W), RGB, float in [0, 1].

        With a degradation, the batch is (low, high, degraded low), and both low pictures are measured.
        The baselines and the chained stages never change. The first validation alone computes and returns them.
        """
        low, high, *degraded = batch
        rows: dict[str, Tensor] = {}
        for name, suffix, image in [("", "", low), *(("degraded ", "_degraded", each) for each in degraded)]:
            others = {}
            if not self.measured.knows(batch_idx, suffix):
                kernels = ("bicubic",) if name else ("bilinear", "bicubic")
                others = {kernel: resample.interpolate(image, self.factor, kernel) for kernel in kernels}
                if name:
                    rows["degraded input"] = resample.interpolate(image, self.factor, "bilinear")
                if self.chained is not None:
                    others["chained"] = upscale(self.chained, image).float()
                    rows[f"{name}chained"] = others["chained"]
            pred = upscale(self.model, image).float()
            rows[f"{name}{'output' if self.chained is None else 'fine-tuned'}"] = pred
            self.measured.add(batch_idx, suffix, pred, others, high)
        return rows

    def on_validation_epoch_end(self) -> None:
        values, self.pairs = self.measured.means(self.trainer)
        for name, value in values.items():
            self.log(name, value, prog_bar=name in ("val/psnr", "val/psnr_bicubic"))
        self.validated_step = step = self.trainer.global_step
        self.log("step", float(step))  # sets Lightning's x-axis, which would otherwise be one step less
        text = f"step {step}: val/psnr {values['val/psnr']:.2f} dB, {values['val/gain']:+.2f} over bicubic"
        if "val/score" in values:
            psnr, gain = values["val/psnr_degraded"], values["val/gain_degraded"]
            text += f"; degraded {psnr:.2f} dB, {gain:+.2f}; val/score {values['val/score']:.2f} dB"
        log.info("%s", text)

    def on_train_batch_start(self, batch: Batch, batch_idx: int) -> None:
        self._clock = self._clock or time.monotonic()

    def on_train_batch_end(self, outputs: Any, batch: Batch, batch_idx: int) -> None:
        now = time.monotonic()
        self.seconds += now - self._clock
        self._clock = now

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint.update(seconds=self.seconds, validated_step=self.validated_step)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        self.seconds = float(checkpoint.get("seconds", 0.0))
        self.validated_step = int(checkpoint.get("validated_step", -1))
        self.optimizer.override(checkpoint, self.model)


def _to_network(image: Tensor) -> Tensor:
    """Convert pixels as in a batch to the networks' pixel range, in the models' memory format."""
    return resample.to_network(image).contiguous(memory_format=torch.channels_last)
