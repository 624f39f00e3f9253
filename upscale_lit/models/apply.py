"""A network on pictures of any size: padding at the borders, pixel ranges, the crop of what is kept."""

import torch
from torch import Tensor, nn

from upscale_lit import resample


def continued(begin: int, end: int, size: int, device: torch.device | None = None) -> Tensor:
    """Where a line of `size` pixels, continued beyond its ends, takes pixels `begin` to `end`: (end - begin,), int64.

    By reflection about the outermost pixels; where the line is too short for that, by its end.
    """
    mirrored = torch.arange(begin, end, device=device).abs()
    return (size - 1 - (size - 1 - mirrored).abs()).clamp(min=0)


def upscale(model: nn.Module, low: Tensor, padding: int = 8) -> Tensor:
    """Run a model on whole pictures as they are: the way from a low to a predicted picture while training.

    (N, 3, h, w), RGB, float in [0, 1] or uint8 -> (N, 3, factor * h, factor * w), float in [0, 1], clamped; any size.
    The picture is `continued` for at least `padding` low pixels, and to the model's multiple; the network's own zero
    padding, which darkens borders, then falls outside what is kept. Eight pixels take all of it away that can be seen;
    `inference.Chain` takes as many as the network reaches.
    """
    factor = int(getattr(model, "factor", 2))
    multiple = int(getattr(model, "multiple", 1))
    height, width = low.shape[-2:]
    rows = continued(-padding, height + padding + -(height + 2 * padding) % multiple, height, low.device)
    columns = continued(-padding, width + padding + -(width + 2 * padding) % multiple, width, low.device)
    pred = resample.from_network(model(resample.to_network(low[..., rows[:, None], columns])))
    top = factor * padding
    return pred[..., top : top + factor * height, top : top + factor * width].clamp(0.0, 1.0)
