"""The stack: three 2x networks, one after the other, as one network."""

import math

from torch import Tensor, nn

from upscale_lit.models.upsampler import Upsampler, freeze_statistics

FACTORS = (2, 8)  # of one stage, and of the stack or a network that takes its place
STAGES = {"upsample_64": "64to128", "upsample_128": "128to256", "upsample_256": "256to512"}  # the stack's parts


class Upsampler8x(nn.Module):
    """The stack: three 2x networks, one after the other, as one network.

    (N, 3, h, w) -> (N, 3, 8h, 8w), networks' pixel range throughout; h and w are multiples of `multiple`. The three may
    be different models; what is not given is the reference network. State-dict keys are those of the three behind
    `upsample_64.`, `upsample_128.`, `upsample_256.`, as in the original program.

    BatchNorm statistics stay as the stages left them, in training too: a batch of large pictures is too small to
    measure them by, and what one stage normalises differently the next one would have to undo.
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
        needs = (getattr(stage, "multiple", 1) for stage in self.stages)
        self.multiple = math.lcm(*(need // math.gcd(need, 2**level) for level, need in enumerate(needs)))
        self.train()

    @property
    def stages(self) -> tuple[nn.Module, nn.Module, nn.Module]:
        return self.upsample_64, self.upsample_128, self.upsample_256

    def train(self, mode: bool = True) -> "Upsampler8x":
        super().train(mode)
        freeze_statistics(self)
        return self

    def levels(self, low: Tensor) -> list[Tensor]:
        """The three outputs: (N, 3, 2h, 2w), (N, 3, 4h, 4w), (N, 3, 8h, 8w)."""
        outputs = [low]
        for stage in self.stages:
            outputs.append(stage(outputs[-1]))
        return outputs[1:]

    def forward(self, low: Tensor) -> Tensor:
        return self.levels(low)[-1]
