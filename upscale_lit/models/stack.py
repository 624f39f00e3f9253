"""The stack: three 2x networks in a row as one network."""

import math

from torch import Tensor, nn

from upscale_lit.models.upsampler import Upsampler, freeze_statistics

FACTORS = (2, 8)  # 2: one stage. 8: the stack, or a single network in place of the stack.
# The stack's submodules, and the stage of each submodule.
STAGES = {"upsample_64": "64to128", "upsample_128": "128to256", "upsample_256": "256to512"}


class Upsampler8x(nn.Module):
    """The stack: three 2x networks in a row as one network.

    (N, 3, h, w) -> (N, 3, 8h, 8w), float in the networks' pixel range, on the device of the weights. h and w must be
    multiples of `multiple`. The three networks may be of different classes; a missing network becomes the reference
    network. The state-dict keys are the keys of the three networks with the prefixes `upsample_64.`, `upsample_128.`
    and `upsample_256.`, as in the original program.

    BatchNorm keeps the statistics of the trained stages, also in training mode. A batch of large pictures is too small
    to measure statistics, and a change in one stage would disturb the input of the next stage.
    """

    factor = 8

    def __init__(
        self,
        upsample_64: nn.Module | None = None,
        upsample_128: nn.Module | None = None,
        upsample_256: nn.Module | None = None,
    ) -> None:
        super().__init__()
        self.upsample_64 = upsample_64 or Upsampler()
        self.upsample_128 = upsample_128 or Upsampler()
        self.upsample_256 = upsample_256 or Upsampler()
        # For an input with h rows, network k = 0, 1, 2 gets 2^k * h rows. `need` divides 2^k * h exactly when
        # need / gcd(need, 2^k) divides h. Columns follow the same rule.
        needs = (getattr(stage, "multiple", 1) for stage in self.stages)
        self.multiple = math.lcm(*(need // math.gcd(need, 2**level) for level, need in enumerate(needs)))
        self.train()

    @property
    def own_borders(self) -> bool:
        """Whether all stages upscale the borders of pictures themselves; see `Compact`."""
        return all(getattr(stage, "own_borders", False) for stage in self.stages)

    @property
    def stages(self) -> tuple[nn.Module, nn.Module, nn.Module]:
        return self.upsample_64, self.upsample_128, self.upsample_256

    def train(self, mode: bool = True) -> "Upsampler8x":
        super().train(mode)
        freeze_statistics(self)
        return self

    def levels(self, low: Tensor) -> list[Tensor]:
        """Return the outputs of the three networks: (N, 3, 2h, 2w), (N, 3, 4h, 4w), (N, 3, 8h, 8w)."""
        outputs = [low]
        for stage in self.stages:
            outputs.append(stage(outputs[-1]))
        return outputs[1:]

    def forward(self, low: Tensor) -> Tensor:
        return self.levels(low)[-1]
