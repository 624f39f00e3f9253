"""AdamW with a learning rate for each layer, and the schedule of these rates."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from pytorch_lightning.utilities.types import OptimizerLRSchedulerConfig
from torch import nn

from upscale_lit.errors import InputError, are_numbers, check_choice, check_number, check_whole, refuse_unless
from upscale_lit.models import Upsampler8x

SCHEDULES: dict[str, Callable[[float], float]] = {  # completed share of the steps -> factor of the rate
    "cosine": lambda done: 0.5 * (1 + math.cos(math.pi * done)),
    "linear": lambda done: 1 - done,
    "constant": lambda done: 1.0,
}


@dataclass(frozen=True)
class ScheduledAdamW:
    """The settings of AdamW and of its schedule. `build` makes the optimizer of a model from these settings.

    lr: the learning rate after the warm-up.
    layer_lr: one factor for each convolution of the model, in order; the convolution's learning rate is this factor
        times `lr`. In a stack, the same factors apply to the convolutions of each stage. A factor also applies to a
        BatchNorm after the convolution. None gives all layers the same rate.
    warmup_steps: the number of optimizer steps in which the rate rises linearly. Step k of the warm-up, counted from
        0, has a rate of (k + 1) / (warmup_steps + 1) times the schedule's rate.
    schedule: "cosine" and "linear" decrease the rate to 0 at the last step; "constant" keeps the rate.
    Raises InputError if a value is out of range.
    """

    lr: float
    layer_lr: Sequence[float] | None
    warmup_steps: int
    schedule: str
    weight_decay: float
    betas: Sequence[float]

    def __post_init__(self) -> None:
        check_number("optimizer.lr", self.lr, above=0)
        check_number("optimizer.weight_decay", self.weight_decay, low=0)
        betas = are_numbers(self.betas, 2) and all(0 <= beta < 1 for beta in self.betas)
        refuse_unless(betas, "optimizer.betas", "two numbers from 0 and below 1, such as [0.9, 0.999]", self.betas)
        scales = self.layer_lr is None or (are_numbers(self.layer_lr) and min(self.layer_lr, default=-1) >= 0)
        expected = "a list with a factor of at least 0 for each convolution of the 2x model, or null for equal rates"
        refuse_unless(scales, "optimizer.layer_lr", expected, self.layer_lr)
        check_whole("optimizer.warmup_steps", self.warmup_steps, 0)
        check_choice("optimizer.schedule", self.schedule, SCHEDULES)

    def build(self, model: nn.Module, steps: float) -> OptimizerLRSchedulerConfig:
        """Return the optimizer of `model` and its schedule.

        steps: the number of optimizer steps in the run; infinity if only a time limit ends the run. With infinity, no
            schedule decreases the rate.
        """
        groups, betas = self.parameter_groups(model), tuple(self.betas)
        optimizer = torch.optim.AdamW(groups, lr=self.lr, betas=betas, weight_decay=self.weight_decay, fused=True)  # type: ignore[arg-type]

        def factor(step: int) -> float:
            rise = min(1.0, (step + 1) / (self.warmup_steps + 1))
            return rise * SCHEDULES[self.schedule](min(1.0, step / steps))

        scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, factor)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}

    def parameter_groups(self, model: nn.Module) -> list[dict[str, Any]]:
        """Return the parameters in groups, each with one learning rate.

        Raises InputError unless `layer_lr` has one factor for each convolution of the 2x model.
        """
        if self.layer_lr is None:
            return [{"params": list(model.parameters()), "lr": self.lr}]
        groups = []
        for stage in model.stages if isinstance(model, Upsampler8x) else [model]:
            layers: list[list[nn.Parameter]] = []
            for layer in stage.modules():
                parameters = list(layer.parameters(recurse=False))
                if isinstance(layer, (nn.Conv2d, nn.ConvTranspose2d)):
                    layers.append(parameters)
                elif parameters:
                    layers[-1] += parameters
            if len(layers) != len(self.layer_lr):
                raise InputError(
                    f"optimizer.layer_lr must have one factor for each of the {len(layers)} convolutions of the 2x "
                    f"model; got {list(self.layer_lr)}. Give null for equal rates."
                )
            for parameters, scale in zip(layers, self.layer_lr, strict=True):
                groups.append({"params": parameters, "lr": self.lr * scale})
        return groups

    def override(self, checkpoint: dict[str, Any], model: nn.Module) -> None:
        """Replace the optimizer settings in Lightning's `checkpoint` by these settings, in place.

        Otherwise AdamW and its schedule would take the settings of the run that wrote the checkpoint.
        Raises InputError if the checkpoint has another number of parameter groups.
        """
        rates = [group["lr"] for group in self.parameter_groups(model)]
        for state in checkpoint["optimizer_states"]:
            if len(state["param_groups"]) != len(rates):
                raise InputError(
                    f"The checkpoint has learning rates for {len(state['param_groups'])} groups of layers; this run "
                    f"has {len(rates)}. Give the optimizer.layer_lr with which the checkpoint's run was started."
                )
            for group, rate in zip(state["param_groups"], rates, strict=True):
                if group["initial_lr"]:
                    group["lr"] *= rate / group["initial_lr"]  # the quotient is exactly 1 if the rate has not changed
                else:
                    group["lr"] = rate
                group.update(initial_lr=rate, betas=tuple(self.betas), weight_decay=self.weight_decay)
        for schedule in checkpoint["lr_schedulers"]:
            schedule["base_lrs"] = rates
