"""One training step and one validation step; what they are *not* about: photos, folders, checkpoints."""

import logging
import math
import time
from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from pytorch_lightning import LightningModule
from pytorch_lightning.utilities.types import OptimizerLRSchedulerConfig
from torch import Tensor, nn

from upscale_lit import metrics, resample
from upscale_lit.errors import InputError, are_numbers, check_choice, check_number, check_whole, refuse_unless
from upscale_lit.models import Upsampler8x, upscale

log = logging.getLogger(__name__)

Batch = tuple[Tensor, Tensor]  # low (N, 3, h, w) and high (N, 3, factor * h, factor * w), RGB, float in [0, 1] or uint8
SHOW_EVERY = 10  # batches between values in the bar: Lightning's log() takes half a millisecond, 2 % of a small step


def charbonnier(pred: Tensor, target: Tensor) -> Tensor:
    """The mean of sqrt(difference ** 2 + 1e-6): L1 with a round bottom (Lai et al. 2017, LapSRN; epsilon 1e-3)."""
    return torch.sqrt((pred - target).square() + 1e-6).mean()


LOSSES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "mse": F.mse_loss, "l1": F.l1_loss, "charbonnier": charbonnier,
}  # fmt: skip
SCHEDULES: dict[str, Callable[[float], float]] = {  # the part of the steps that is done -> a factor on the rate
    "cosine": lambda done: 0.5 * (1 + math.cos(math.pi * done)), "linear": lambda done: 1 - done,
    "constant": lambda done: 1.0,
}  # fmt: skip


class UpscaleModule(LightningModule):
    """A loss in the networks' pixel range, AdamW, a schedule over steps; PSNR and SSIM beside the baselines'.

    loss: one of LOSSES.
    layer_lr: a factor on `lr` for each convolution of the model (in a stack: of each stage), in order, and the
        BatchNorm after it; None for equal rates. warmup_steps: the rate rises linearly from 0. schedule: "cosine" and
        "linear" fall to 0 at the last step, "constant" stays.
    level_weights: for a stack, weights of the loss at each level's output, against `high` downscaled to its size by
        `kernel`; None for the last output alone.
    chained: for a stack, its stages as they were before fine-tuning: one more method to measure beside the baselines.
    previous: the networks that make the inputs. Neither is trained; both lie here to travel in checkpoints.
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
        loss: str = "mse",
        kernel: str = "bicubic",
        level_weights: Sequence[float] | None = None,
        chained: nn.Module | None = None,
        previous: Sequence[nn.Module] = (),
    ) -> None:
        super().__init__()
        check_number("optimizer.lr", lr, above=0)
        check_number("optimizer.weight_decay", weight_decay, low=0)
        refuse_unless(
            are_numbers(betas, 2) and all(0 <= beta < 1 for beta in betas), "optimizer.betas",
            "two numbers from 0 and below 1, such as [0.9, 0.999]", betas,
        )  # fmt: skip
        refuse_unless(
            layer_lr is None or (are_numbers(layer_lr) and min(layer_lr, default=-1) >= 0), "optimizer.layer_lr",
            "a list with a factor from 0 for each convolution of the 2x model, or null for equal rates", layer_lr,
        )  # fmt: skip
        check_whole("optimizer.warmup_steps", warmup_steps, 0)
        check_choice("optimizer.schedule", schedule, SCHEDULES)
        check_choice("loss", loss, LOSSES)
        levels = int(math.log2(factor))
        refuse_unless(
            level_weights is None
            or (are_numbers(level_weights, levels) and min(level_weights) >= 0 and sum(level_weights) > 0),
            "stage.level_weights", f"a list with a weight from 0 for each of the {levels} levels of a stack, not "
            "only zeros, or null for the loss of the last output alone", level_weights,
        )  # fmt: skip
        self.save_hyperparameters({"facts": facts}, logger=False)
        # channels_last: convolutions take less time: up to 1.8x measured on a CPU with AVX-512, never more.
        self.model = model.to(memory_format=torch.channels_last)
        self.factor, self.lr, self.weight_decay, self.betas = factor, lr, weight_decay, (betas[0], betas[1])
        self.layer_lr, self.warmup_steps, self.schedule = layer_lr, warmup_steps, SCHEDULES[schedule]
        self.loss = LOSSES[loss]
        self.chained = None if chained is None else _frozen(chained)
        self.previous = nn.ModuleList(_frozen(network) for network in previous)
        self.kernel, self.level_weights = kernel, level_weights
        self.baselines: dict[int, dict[str, Tensor]] = {}  # by number of the pair: they never change within a run
        self.seconds = 0.0  # first to last training step, validation between included
        self._clock: float | None = None
        self.validated_step = -1  # the step of the latest validation
        self.pairs = 0  # of the latest validation, of all processes
        self._totals: dict[str, float] = {}  # of this process's pairs: the sums of their metrics
        self._loss: Tensor | None = None  # of the latest batch

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        low, high = (_to_network(image) for image in batch)
        loss = self.loss(self.model(low), high) if self.level_weights is None else self._loss_of_levels(low, batch[1])
        self._loss = loss.detach()
        if batch_idx % SHOW_EVERY == 0:
            self.log("train/loss", loss, prog_bar=True, logger=False)
        return loss

    def optimizer_step(self, *args: Any, **kwargs: Any) -> None:
        """Lightning's, then a line for the loggers: here, so that a checkpoint of this step comes after it."""
        super().optimizer_step(*args, **kwargs)
        step = self.trainer.global_step + 1
        if step % self.trainer.log_every_n_steps == 0:  # type: ignore[attr-defined]
            assert self._loss is not None
            loss = self.trainer.strategy.reduce(self._loss, reduce_op="mean")
            rate = self.trainer.optimizers[0].param_groups[0]["lr"]
            for logger in self.trainer.loggers:
                logger.log_metrics({"train/loss": float(loss), "lr": rate}, step)

    def _loss_of_levels(self, low: Tensor, high: Tensor) -> Tensor:
        """low in the networks' range, high as in the batch."""
        assert self.level_weights is not None
        assert isinstance(self.model, Upsampler8x)
        loss = low.new_zeros(())
        for output, weight in zip(self.model.levels(low), self.level_weights, strict=True):
            if weight:
                target = resample.downscale(high, high.shape[-1] // output.shape[-1], self.kernel)
                loss = loss + weight * self.loss(output, _to_network(target))
        return loss / sum(self.level_weights)

    def validation_step(self, batch: Batch, batch_idx: int) -> dict[str, Tensor]:
        """Measures, and returns the predictions by name, each (N, 3, H, W), RGB in [0, 1].

        That of the chained stages never changes; it is made and returned for the first validation only.
        """
        low, high = batch
        pred = upscale(self.model, low).float()
        shave = self.factor
        shown = {"output" if self.chained is None else "fine-tuned": pred}
        if batch_idx not in self.baselines:
            others = {kernel: resample.interpolate(low, self.factor, kernel) for kernel in ("bilinear", "bicubic")}
            if self.chained is not None:
                others["chained"] = upscale(self.chained, low).float()
                shown = {"chained": others["chained"], **shown}
            self.baselines[batch_idx] = {
                f"val/{name}_{method}": measure(image, high, shave)
                for method, image in others.items()
                for name, measure in (("psnr", metrics.psnr), ("ssim", metrics.ssim))
            }
        values = {
            "val/psnr": metrics.psnr(pred, high, shave),
            "val/ssim": metrics.ssim(pred, high, shave),
            **self.baselines[batch_idx],
        }
        values["val/gain"] = values["val/psnr"] - values["val/psnr_bicubic"]
        for name, value in {**values, "pairs": torch.ones(len(high))}.items():
            self._totals[name] = self._totals.get(name, 0.0) + float(value.sum())
        return shown

    def on_validation_epoch_start(self) -> None:
        self._totals = {}

    def on_validation_epoch_end(self) -> None:
        """Logs the means over the pairs of all processes."""
        methods = ["", "_bilinear", "_bicubic", *([] if self.chained is None else ["_chained"])]
        names = ["val/gain", *(f"val/{name}{method}" for method in methods for name in ("psnr", "ssim")), "pairs"]
        totals = torch.tensor([self._totals.get(name, 0.0) for name in names], dtype=torch.float64)
        if self.trainer.world_size > 1:
            totals = self.trainer.strategy.reduce(totals.to(self.device), reduce_op="sum").cpu()
        self.pairs = int(totals[-1])
        values = {name: total / self.pairs for name, total in zip(names[:-1], totals.tolist(), strict=False)}
        for name, value in values.items():
            self.log(name, value, prog_bar=name in ("val/psnr", "val/psnr_bicubic"))
        self.log("step", float(self.trainer.global_step))  # Lightning's way to set the x-axis; it would be one less
        self.validated_step = self.trainer.global_step
        log.info(
            "step %d: val/psnr %.2f dB, %+.2f over bicubic", self.validated_step, values["val/psnr"], values["val/gain"]
        )

    def configure_optimizers(self) -> OptimizerLRSchedulerConfig:
        optimizer = torch.optim.AdamW(
            self._parameter_groups(), lr=self.lr, betas=self.betas, weight_decay=self.weight_decay, fused=True
        )
        steps = self.trainer.estimated_stepping_batches  # infinite where only a clock ends the run

        def at(step: int) -> float:
            rise = min(1.0, (step + 1) / (self.warmup_steps + 1))
            return rise * self.schedule(min(1.0, step / steps))

        scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, at)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}

    def _parameter_groups(self) -> list[dict[str, Any]]:
        if self.layer_lr is None:
            return [{"params": list(self.model.parameters())}]
        stages = self.model.stages if isinstance(self.model, Upsampler8x) else [self.model]
        return [group for stage in stages for group in self._groups_of(stage, self.layer_lr)]

    def _groups_of(self, model: nn.Module, layer_lr: Sequence[float]) -> list[dict[str, Any]]:
        groups: list[dict[str, Any]] = []
        convolutions = 0
        for layer in model.modules():
            parameters = list(layer.parameters(recurse=False))
            if isinstance(layer, (nn.Conv2d, nn.ConvTranspose2d)):
                convolutions += 1
                scale = layer_lr[convolutions - 1] if convolutions <= len(layer_lr) else 1.0
                groups.append({"params": parameters, "lr": self.lr * scale})
            elif parameters:
                groups[-1]["params"] += parameters
        if convolutions != len(layer_lr):
            raise InputError(
                f"optimizer.layer_lr has one factor for each convolution of the 2x model, {convolutions} here; "
                f"found {list(layer_lr)}. Give null for equal rates."
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
        checkpoint["validated_step"] = self.validated_step

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        self.seconds = float(checkpoint.get("seconds", 0.0))
        self.validated_step = int(checkpoint.get("validated_step", -1))
        # Rates and decay are what the command says: AdamW and the schedule would take them from the checkpoint.
        groups = self._parameter_groups()
        rates = [float(group.get("lr", self.lr)) for group in groups]
        for optimizer in checkpoint["optimizer_states"]:
            if len(optimizer["param_groups"]) != len(groups):
                raise InputError(
                    f"The checkpoint has learning rates for {len(optimizer['param_groups'])} groups of layers; this is "
                    f"a run with {len(groups)}. Give the optimizer.layer_lr with which that run was started."
                )
            for group, rate in zip(optimizer["param_groups"], rates, strict=True):
                group["lr"] *= rate / group["initial_lr"]
                group.update(initial_lr=rate, betas=self.betas, weight_decay=self.weight_decay)
        for schedule in checkpoint["lr_schedulers"]:
            schedule["base_lrs"] = rates


def _to_network(image: Tensor) -> Tensor:
    return resample.to_network(image).contiguous(memory_format=torch.channels_last)


def _frozen(network: nn.Module) -> nn.Module:
    return network.to(memory_format=torch.channels_last).requires_grad_(False).eval()
