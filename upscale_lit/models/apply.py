"""Apply a network to pictures of any size: pad the borders, convert the pixel range, and crop the result."""

import torch
from torch import Tensor, nn

from upscale_lit import resample


def continued(begin: int, end: int, size: int, device: torch.device | None = None) -> Tensor:
    """Return, for each position from `begin` to `end` - 1, which pixel of a line stands there: (end - begin,), int64.

    The line has `size` pixels, and is continued beyond both ends by reflection about its outermost pixels. If the line
    is too short for that, its first pixel is repeated.
    """
    # |p| reflects position p about pixel 0, and size - 1 - |size - 1 - q| reflects position q about pixel size - 1.
    mirrored = torch.arange(begin, end, device=device).abs()
    return (size - 1 - (size - 1 - mirrored).abs()).clamp(min=0)


def upscale(model: nn.Module, low: Tensor, padding: int | None = None) -> Tensor:
    """Run a model on complete pictures of any size, in validation and when an earlier stage makes low pictures.

    (N, 3, h, w), RGB, float in [0, 1] or uint8, on the model's device -> (N, 3, factor * h, factor * w), RGB, float,
    clamped to [0, 1], same device. Raises only the errors of the model.
    Zero padding inside the network would darken the borders of its output, unless the network has learned them
    (`own_borders`). Therefore `continued` extends the picture by `padding` low pixels on each side, and further to the
    model's multiple; the output is cropped again. With eight pixels no darkening is visible. `inference.Chain` pads by
    the exact reach of the network instead.
    padding: None for 8, or for 0 if the network has learned the borders.
    """
    if padding is None:
        padding = 0 if getattr(model, "own_borders", False) else 8
    factor = int(getattr(model, "factor", 2))
    multiple = int(getattr(model, "multiple", 1))
    height, width = low.shape[-2:]
    rows = continued(-padding, height + padding + -(height + 2 * padding) % multiple, height, low.device)
    columns = continued(-padding, width + padding + -(width + 2 * padding) % multiple, width, low.device)
    pred = resample.from_network(model(resample.to_network(low[..., rows[:, None], columns])))
    top = factor * padding
    return pred[..., top : top + factor * height, top : top + factor * width].clamp(0.0, 1.0)
