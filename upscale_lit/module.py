"""One training step and one validation step; what they are *not* about: photos, folders, checkpoints."""

import logging
import math
import time
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from pytorch_lightning import LightningModule
from pytorch_lightning.utilities.types import OptimizerLRSchedulerConfig
from torch import Tensor, nn

from upscale_lit import metrics, resample
from upscale_lit.errors import InputError
from upscale_lit.models import upscale

log = logging.getLogger(__name__)

Batch = tuple[Tensor, Tensor]  # low (N, 3, h, w) and high (N, 3, factor * h, factor * w), RGB, float in [0, 1] or uint8


LOG_EVERY = 10  # steps between values of the loss: Lightning's log() takes half a millisecond, 2 % of a small step


class UpscaleModule(LightningModule):
    """MSE in the networks' pixel range, AdamW, a schedule over steps; PSNR and SSIM beside the baselines'.

    layer_lr: a factor on `lr` for each convolution of the model, in order, and the BatchNorm after it; None for equal
        rates. warmup_steps: the rate rises linearly from 0. schedule: "cosine" falls to 0 at the last step, "constant".
    facts: plain values to keep in checkpoints, so that a resumed run can be told from another one.
    Raises InputError when a value makes no sense.
    """

    def __init__(
        self,
        model: nn.Module,
        factor: int,
        lr: float,
        weight_decay: float,
        betas: Sequence[float],
        layer_lr: Sequence[float] | None,
        warmup_steps: int,
        schedule: str,
        facts: dict[str, Any],
    ) -> None:
        super().__init__()
        if not isinstance(lr, (int, float)) or lr <= 0:
            raise InputError(f"optimizer.lr is a positive number; found {lr!r}.")
        if not isinstance(warmup_steps, int) or warmup_steps < 0:
            raise InputError(f"optimizer.warmup_steps is a whole number, 0 or more; found {warmup_steps!r}.")
        if schedule not in ("cosine", "constant"):
            raise InputError(f"optimizer.schedule is cosine or constant; found {schedule!r}.")
        self.save_hyperparameters({"facts": facts}, logger=False)
        # channels_last: convolutions take less time: up to 1.8x measured on a CPU with AVX-512, never more.
        self.model = model.to(memory_format=torch.channels_last)
        self.factor, self.lr, self.weight_decay, self.betas = factor, lr, weight_decay, (betas[0], betas[1])
        self.layer_lr, self.warmup_steps, self.schedule = layer_lr, warmup_steps, schedule
        self.baselines: dict[int, dict[str, Tensor]] = {}  # by number of the pair: they never change within a run
        self.seconds = 0.0  # first to last training step, validation between included
        self._clock: float | None = None
        self.validated_step = -1  # the step of the latest validation

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        low, high = (resample.to_network(image).contiguous(memory_format=torch.channels_last) for image in batch)
        loss = F.mse_loss(self.model(low), high)
        if batch_idx % LOG_EVERY == 0:
            self.log("train/loss", loss, prog_bar=True)
        return loss

    def validation_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Logs the metrics and returns the prediction: (N, 3, H, W), RGB in [0, 1]."""
        low, high = batch
        pred = upscale(self.model, low).float()
        shave = self.factor
        if batch_idx not in self.baselines:
            self.baselines[batch_idx] = {
                f"val/{name}_{kernel}": measure(resample.interpolate(low, self.factor, kernel), high, shave)
                for kernel in ("bilinear", "bicubic")
                for name, measure in (("psnr", metrics.psnr), ("ssim", metrics.ssim))
            }
        values = {
            "val/psnr": metrics.psnr(pred, high, shave),
            "val/ssim": metrics.ssim(pred, high, shave),
            **self.baselines[batch_idx],
        }
        values["val/gain"] = values["val/psnr"] - values["val/psnr_bicubic"]
        for name, value in values.items():
            shown = name in ("val/psnr", "val/psnr_bicubic")
            self.log(name, value.mean(), prog_bar=shown, on_epoch=True, batch_size=len(high), sync_dist=True)
        self.log("step", float(self.trainer.global_step))  # Lightning's way to set the x-axis; it would be one less
        return pred

    def on_validation_epoch_end(self) -> None:
        self.validated_step = self.trainer.global_step
        values = self.trainer.callback_metrics
        log.info(
            "step %d: val/psnr %.2f dB, %+.2f over bicubic", self.validated_step, values["val/psnr"], values["val/gain"]
        )

    def configure_optimizers(self) -> OptimizerLRSchedulerConfig:
        optimizer = torch.optim.AdamW(
            self._parameter_groups(), lr=self.lr, betas=self.betas, weight_decay=self.weight_decay, fused=True
        )
        steps = self.trainer.estimated_stepping_batches  # infinite where only a clock ends the run
        last = float(steps) if self.schedule == "cosine" else math.inf

        def at(step: int) -> float:
            rise = min(1.0, (step + 1) / (self.warmup_steps + 1))
            fall = 1.0 if math.isinf(last) else 0.5 * (1 + math.cos(math.pi * min(1.0, step / last)))
            return rise * fall

        scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, at)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}

    def _parameter_groups(self) -> list[dict[str, Any]]:
        if self.layer_lr is None:
            return [{"params": list(self.model.parameters())}]
        groups: list[dict[str, Any]] = []
        convolutions = 0
        for layer in self.model.modules():
            parameters = list(layer.parameters(recurse=False))
            if isinstance(layer, (nn.Conv2d, nn.ConvTranspose2d)):
                convolutions += 1
                scale = self.layer_lr[convolutions - 1] if convolutions <= len(self.layer_lr) else 1.0
                groups.append({"params": parameters, "lr": self.lr * scale})
            elif parameters:
                groups[-1]["params"] += parameters
        if convolutions != len(self.layer_lr):
            raise InputError(
                f"optimizer.layer_lr has one factor for each convolution of the model, {convolutions} here; "
                f"found {list(self.layer_lr)}. Give null for equal rates."
            )
        return groups

    def on_train_batch_start(self, batch: Batch, batch_idx: int) -> None:
        self._clock = self._clock or time.monotonic()

    def on_train_batch_end(self, outputs: Any, batch: Batch, batch_idx: int) -> None:
        now = time.monotonic()
        assert self._clock is not None
        self.seconds += now - self._clock
        self._clock = now

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint["seconds"] = self.seconds

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        self.seconds = float(checkpoint.get("seconds", 0.0))
