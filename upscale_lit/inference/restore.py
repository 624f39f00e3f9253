"""Interpolate between the weights of a clean and of a robust network, and choose the amount for each picture.

The clean network has seen only clean pictures. The robust network was fine-tuned from it on compressed pictures.
Networks with weights between both then work, too: see "Deep Network Interpolation for Continuous Imagery Effect
Transition" (Wang et al. 2019).
"""

import copy

import numpy as np
import torch
from torch import nn

from upscale_lit.errors import InputError, check_number
from upscale_lit.inference.quality import Lossy
from upscale_lit.weights import differing

# The amounts that gave the highest PSNR on Y on held-out photos, by scale, measured by tests/benchmarks/restore.py.
# Each row is (level, amount), with the levels of Lossy. Between two rows the amount is linear.
JPEG = {
    2: ((75, 1.0), (90, 0.8), (95, 0.7), (98, 0.3), (100, 0.0)),
    4: ((75, 1.0), (90, 0.8), (95, 0.7), (98, 0.3), (100, 0.2)),
    8: ((60, 1.0), (75, 0.9), (90, 0.6), (95, 0.4), (98, 0.2), (100, 0.1)),
}
WEBP = {
    2: ((0, 0.1), (6, 0.1), (12, 0.3), (27, 0.9), (45, 0.9), (59, 1.0)),
    4: ((0, 0.3), (6, 0.6), (12, 0.7), (27, 0.8), (45, 1.0)),
    8: ((0, 0.2), (6, 0.2), (12, 0.4), (27, 0.7), (45, 0.8)),
}
UNKNOWN = 0.8  # for files whose level is unknown; this amount is best for a JPEG of quality 90


def automatic(lossy: Lossy | None, scale: int) -> float:
    """Return the amount of restoration, from 0 to 1 in steps of 0.1, for a picture.

    lossy: how the picture was compressed, or None if it was not. scale: by which the picture is upscaled; the rows of
    the nearest measured scale are used.
    """
    if lossy is None:
        return 0.0
    if lossy.level is None:
        return UNKNOWN
    rows = JPEG if lossy.codec == "JPEG" else WEBP
    levels, amounts = zip(*rows[min(rows, key=lambda known: abs(known - scale))], strict=True)
    return in_tenths(float(np.interp(lossy.level, levels, amounts)))


def check_restore(restore: float | None, clean: nn.Module, robust: nn.Module | None) -> None:
    """Raise InputError unless `restore` is None or a number from 0 to 1 that the networks allow.

    The robust network must have the type and the tensors of the clean one. Without it, only 0 is allowed.
    """
    if robust is not None:
        same = isinstance(robust, nn.Module) and type(robust) is type(clean)
        difference = differing(clean.state_dict(), robust.state_dict()) if same else f"got {type(robust).__name__}"
        if difference:
            raise InputError(f"robust must be a network like the first one, {type(clean).__name__}; {difference}.")
    if restore is None:
        return
    check_number("restore", restore, low=0, high=1)
    if in_tenths(restore) and robust is None:
        raise InputError(
            f"restore must be 0 for networks without robust weights; got {restore:g}. Name robust weights with "
            "--restore-with WEIGHTS (restore_with=WEIGHTS in Python), or leave this option out."
        )


def in_tenths(amount: float) -> float:
    """Round an amount to tenths. Few different amounts mean few different networks in memory."""
    return round(amount * 10) / 10


@torch.no_grad()
def interpolated(clean: nn.Module, robust: nn.Module, amount: float) -> nn.Module:
    """Return a network with the weights (1 - amount) * clean + amount * robust.

    robust: a network with the same names and shapes of tensors. amount: from 0 to 1. Whole numbers, such as the counter
    of a BatchNorm, are those of `clean`.
    """
    if amount == 0:
        return clean
    model, there = copy.deepcopy(clean), robust.state_dict()
    for name, value in model.state_dict().items():  # the tensors of a state_dict are those of the model
        if value.is_floating_point():
            value.lerp_(there[name], amount)
    return model
