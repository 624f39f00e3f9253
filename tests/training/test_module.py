from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from upscale_lit import resample
from upscale_lit.errors import InputError
from upscale_lit.models import Upsampler, Upsampler8x
from upscale_lit.training.losses import Charbonnier, LumaL1
from upscale_lit.training.module import UpscaleModule
from upscale_lit.training.optimizer import ScheduledAdamW


def luma(image: torch.Tensor) -> torch.Tensor:
    red, green, blue = image.unbind(dim=1)
    return 0.299 * red + 0.587 * green + 0.114 * blue


def adamw(**changes: Any) -> ScheduledAdamW:
    settings: dict[str, Any] = {
        "lr": 1e-3, "weight_decay": 0.01, "betas": [0.9, 0.999], "layer_lr": None, "warmup_steps": 0,
        "schedule": "constant",
    }  # fmt: skip
    return ScheduledAdamW(**{**settings, **changes})


def module(model: nn.Module, **changes: Any) -> UpscaleModule:
    settings = {"factor": getattr(model, "factor", 2), "loss": nn.MSELoss(), "optimizer": adamw(), "facts": {}}
    return UpscaleModule(model, **{**settings, **changes})


def pair(factor: int, side: int = 64) -> tuple[torch.Tensor, torch.Tensor]:
    high = torch.randint(0, 256, (2, 3, side, side), dtype=torch.uint8)
    return resample.downscale(high, factor), high


def test_the_loss_is_mse_in_the_networks_range() -> None:
    low, high = pair(2)
    model = Upsampler("random")
    loss = module(model).training_step((low, high), 1)
    by_hand = F.mse_loss(model(resample.to_network(low)), resample.to_network(high))
    assert loss.item() == pytest.approx(by_hand.item(), rel=1e-5)


def test_a_loss_at_every_level() -> None:
    low, high = pair(8)
    stack = Upsampler8x()
    loss = module(stack, level_weights=[0.5, 0, 2.0]).training_step((low, high), 1)
    first, _, last = stack.levels(resample.to_network(low))
    smaller = F.interpolate(high, size=(16, 16), mode="bicubic", antialias=True)
    by_hand = 0.5 * F.mse_loss(first, resample.to_network(smaller)) + 2 * F.mse_loss(last, resample.to_network(high))
    assert loss.item() == pytest.approx(by_hand.item() / 2.5, rel=1e-5)
    alone = module(stack, level_weights=[0, 0, 3]).training_step((low, high), 1)
    assert alone.item() == pytest.approx(module(stack).training_step((low, high), 1).item(), rel=1e-5)


@pytest.mark.parametrize("weights", [[1, 1], [0, 0, 0], [1, -1, 1]])
def test_invalid_level_weights(weights: list[float]) -> None:
    with pytest.raises(InputError, match=rf"each of the 3 levels of a stack.*got \[{weights[0]}, {weights[1]}"):
        module(Upsampler8x(), level_weights=weights)


def test_rates_for_the_layers_of_each_stage() -> None:
    optimizer = adamw(lr=1.0, layer_lr=[1, 2, 3, 4, 5, 6])
    trained = module(Upsampler8x(), optimizer=optimizer, chained=Upsampler8x(), previous=[Upsampler()])
    trained.trainer = type("Trainer", (), {"estimated_stepping_batches": 10})()  # type: ignore[assignment]
    groups = trained.configure_optimizers()["optimizer"].param_groups
    assert [group["initial_lr"] for group in groups] == [1, 2, 3, 4, 5, 6] * 3
    optimized = {id(parameter) for group in groups for parameter in group["params"]}
    assert optimized == {id(parameter) for parameter in trained.model.parameters()}
    assert trained.chained is not None
    assert not any(parameter.requires_grad for parameter in trained.chained.parameters())


def test_other_losses() -> None:
    low, high = pair(2)
    model = Upsampler()
    difference = model(resample.to_network(low)) - resample.to_network(high)
    cases: list[tuple[nn.Module, torch.Tensor]] = [
        (nn.L1Loss(), difference.abs().mean()),
        (Charbonnier(), (difference**2 + 1e-3**2).sqrt().mean()),
        (LumaL1(0.25), 0.75 * difference.abs().mean() + 0.25 * luma(difference).abs().mean()),
        (Charbonnier(eps=0.1), (difference**2 + 0.1**2).sqrt().mean()),
    ]
    for loss, by_hand in cases:
        value = module(model, loss=loss).training_step((low, high), 1)
        assert value.item() == pytest.approx(by_hand.item(), rel=1e-5)


@pytest.mark.parametrize(
    ("schedule", "rates"),
    [("linear", [0.75, 0.5, 0.25, 0.0]), ("cosine", [0.854, 0.5, 0.146, 0.0]), ("constant", [1] * 4)],
)
def test_schedules(schedule: str, rates: list[float]) -> None:
    trained = module(Upsampler(), optimizer=adamw(schedule=schedule))
    trained.trainer = SimpleNamespace(estimated_stepping_batches=4)
    made = trained.configure_optimizers()
    seen = []
    for _ in rates:
        made["optimizer"].step()
        made["lr_scheduler"]["scheduler"].step()
        seen.append(made["optimizer"].param_groups[0]["lr"] / 1e-3)
    assert seen == pytest.approx(rates, abs=1e-3)
    with pytest.raises(InputError, match='schedule must be one of cosine, linear, constant; got "step"'):
        adamw(schedule="step")


def test_a_rate_of_zero_resumes() -> None:
    model = nn.Sequential(nn.Conv2d(3, 3, 1), nn.Conv2d(3, 3, 1))
    optimizer = adamw(layer_lr=[0, 1])
    groups = [
        {**group, "initial_lr": group["lr"], "lr": group["lr"] / 2} for group in optimizer.parameter_groups(model)
    ]
    checkpoint = {"optimizer_states": [{"param_groups": groups}], "lr_schedulers": [{}]}
    optimizer.override(checkpoint, model)
    assert [group["lr"] for group in groups] == [0, optimizer.lr / 2]
    adamw(layer_lr=[1, 1]).override(checkpoint, model)
    assert [group["lr"] for group in groups] == [optimizer.lr, optimizer.lr / 2]
