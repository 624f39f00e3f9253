"""branches=true: parallel branches of convolutions, which fold into the weights."""

import copy

import pytest
import torch
from torch import nn

from upscale_lit.models import Compact, Upsampler, Upsampler8x, add_branches, without_branches


@pytest.mark.parametrize("model", [Compact(8, 3), Upsampler(), Upsampler8x(*(Compact(4, 1) for _ in range(3)))])
def test_branches_change_no_output_and_fold(model: nn.Module) -> None:
    low = torch.rand(1, 3, 16, 16) - 0.5
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.1)
    model.eval()
    plain, before = copy.deepcopy(model.state_dict()), model(low)
    add_branches(model)
    assert torch.allclose(model(low), before, atol=1e-4)
    assert sum(p.numel() for p in model.parameters()) > 2 * sum(value.numel() for value in plain.values())
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    model(low).square().mean().backward()
    assert all(p.grad is not None for p in model.parameters() if p.requires_grad)
    optimizer.step()
    folded = without_branches(model)
    assert folded.state_dict().keys() == plain.keys()
    assert torch.allclose(folded(low), model(low), atol=1e-4)
    assert not torch.allclose(folded(low), before, atol=1e-3)
    assert any("parametrizations" in name for name in model.state_dict())  # the trained network keeps its branches


def test_autocast_does_not_round_the_branches() -> None:
    model = Compact(4, 2)
    add_branches(model)
    weight = model.body[2].weight
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(model.body[2].weight, weight)
