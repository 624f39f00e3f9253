"""Trained networks at work: BatchNorm folded, and pictures of any size, in tiles that fit into memory."""

import copy
import math
from collections.abc import Iterator, Sequence
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from upscale_lit import resample
from upscale_lit.allocator import KEPT
from upscale_lit.errors import InputError
from upscale_lit.models import continued

# The side of an automatic tile, in pixels that the last network is fed; on a CPU smaller, so that the widest layer's
# output has a block of memory that the allocator keeps (see `allocator`): 64 channels then take 0.6 of the time.
TILE = 640
FARTHEST = 512  # px that `reach` looks
WITHOUT_REACH = 8  # px of continuation for a network that sees the entire picture, as in models.upscale


def folded(model: nn.Module) -> nn.Module:
    """A copy for inference, in eval mode; a BatchNorm after a convolution in an nn.Sequential becomes part of it.

    Same outputs to rounding. What stands elsewhere stays as it is.
    """
    model = copy.deepcopy(model).eval()
    for part in list(model.modules()):
        if isinstance(part, nn.Sequential):
            for (_, layer), (name, norm) in pairwise(list(part.named_children())):
                if isinstance(layer, nn.Conv2d | nn.ConvTranspose2d) and isinstance(norm, nn.BatchNorm2d):
                    fused = fuse_conv_bn_eval(layer, norm, transpose=isinstance(layer, nn.ConvTranspose2d))
                    layer.weight, layer.bias = fused.weight, fused.bias
                    setattr(part, name, nn.Identity())
    return model


@torch.inference_mode()
def reach(model: nn.Module) -> int | None:
    """How far a pixel's influence goes, in input pixels: half the receptive field. None: farther than FARTHEST.

    Computed by sending NaN, which no layer swallows and no weight of zero stops, through the network: as a column and
    as a row, at each place that the network's strides tell apart. The model is on the CPU, in float32 and eval mode.
    """
    factor, multiple = int(getattr(model, "factor", 2)), int(getattr(model, "multiple", 1))
    short = math.ceil(32 / multiple) * multiple
    length = 4 * short
    while length <= 4 * FARTHEST:
        farthest = 0
        for place in range(length // 2, length // 2 + multiple):
            for axis in (2, 3):
                image = torch.zeros(1, 3, *((length, short) if axis == 2 else (short, length)))
                image.select(axis, place).fill_(math.nan)
                touched = model(image).isnan().any(dim=1).any(dim=4 - axis)[0].nonzero() // factor
                farthest = max([farthest, *(touched - place).abs().flatten().tolist()])
        if farthest < length // 2 - multiple:
            return farthest if farthest <= FARTHEST else None
        length *= 2
    return None


@torch.inference_mode()
def widest(model: nn.Module) -> float:
    """The largest output of any of its layers, in numbers for each input pixel. The model is on the CPU, in float32."""
    side = math.lcm(32, int(getattr(model, "multiple", 1)))
    sizes = [0]

    def note(layer: nn.Module, inputs: object, output: object) -> None:
        if isinstance(output, Tensor):
            sizes.append(output.numel())

    hooks = [layer.register_forward_hook(note) for layer in model.modules()]
    model(torch.zeros(1, 3, side, side))
    for hook in hooks:
        hook.remove()
    return max(sizes) / side**2


class Chain(nn.Module):
    """Networks run one after the other, on pictures of any size, tile by tile; every pixel as if there were no tiles.

    networks: each from (N, 3, h, w) to (N, 3, factor * h, factor * w) in the networks' pixel range; a stack counts as
    its stages. They are copied, `folded`, and moved to the device; half: in float16.

    A tile is fed with as much of its surroundings as the networks reach; beyond the picture they are `continued`.
    Between two networks what only the first one needed is cut off. Memory follows the tile: see TILE.

    factor: of all together. multiple: of a tile's side. tiled: False if a network sees the entire picture. side:
    of an automatic tile, in input pixels.
    """

    def __init__(self, networks: Sequence[nn.Module], device: torch.device | str = "cpu", half: bool = False) -> None:
        super().__init__()
        stages = [stage for network in networks for stage in getattr(network, "stages", (network,))]
        self.device, self.dtype = torch.device(device), torch.float16 if half else torch.float32
        self.factors = [int(getattr(stage, "factor", 2)) for stage in stages]
        self.factor = math.prod(self.factors)
        multiples = [int(getattr(stage, "multiple", 1)) for stage in stages]
        needs = (need // math.gcd(need, math.prod(self.factors[:number])) for number, need in enumerate(multiples))
        self.multiple = math.lcm(*needs)
        stages = [folded(stage).cpu().float() for stage in stages]
        reaches = [reach(stage) for stage in stages]
        self.tiled = None not in reaches
        # What each stage is fed around the part that is wanted, in pixels of its input; nothing is left after the last.
        # Multiples, so that a network's strides fall on the same pixels in every tile.
        self.margins = [0]
        for factor, multiple, far in reversed(list(zip(self.factors, multiples, reaches, strict=True))):
            needed = (WITHOUT_REACH if far is None else far) + math.ceil(self.margins[0] / factor)
            self.margins.insert(0, math.ceil(needed / multiple) * multiple)
        self.side = self._automatic_side(stages)
        self.stages = nn.ModuleList(stages).to(self.device, self.dtype)
        self.stages.to(memory_format=torch.channels_last)
        self.eval()

    def _automatic_side(self, stages: Sequence[nn.Module]) -> int:
        """Of a tile, in input pixels; see TILE. A stage is fed its margin with it, which is not to be most of that."""
        side = TILE * self.factors[-1] // self.factor
        if self.device.type == "cpu":
            for number, stage in enumerate(stages):
                fed, margin = math.sqrt(KEPT / 4 / max(widest(stage), 1)), self.margins[number]
                side = min(side, int(max(fed - 2 * margin, 2 * margin) / math.prod(self.factors[:number])))
        return max(side, 1)

    def tiles(self, low: Tensor, tile: int = 0) -> Iterator[tuple[int, int, Tensor]]:
        """The upscaled picture in parts: (top, left, part), in output pixels, from top to bottom.

        low: (1, C, h, w), uint8 or float in [0, 1], any device; C is 1 for grey, 2 for grey and alpha, 3 for RGB, 4
        for RGB and alpha. part: (1, C, ., .), float32 in [0, 1], clamped, on the chain's device.
        tile: the side of a tile in input pixels, rounded up to `multiple`; 0 chooses. If memory does not suffice, the
        tile is halved and the rest continues with smaller ones. Raises InputError when nothing is left to halve.
        """
        height, width = low.shape[-2:]
        side = (tile or self.side) if self.tiled else max(height, width)
        boxes = self._split(0, 0, height, width, side)[::-1]
        while boxes:
            top, left, bottom, right = boxes.pop()
            try:
                with torch.inference_mode():
                    part = self.part(low, top, left, bottom, right)
            except (RuntimeError, MemoryError) as error:
                if not out_of_memory(error):
                    raise
                part = None  # and the traceback, which keeps the tensors alive, ends here
            if part is not None:
                yield self.factor * top, self.factor * left, part
                continue
            if self.device.type == "cuda":
                torch.cuda.empty_cache()
            height, width = bottom - top, right - left
            if not self.tiled or max(height, width) <= self.multiple:
                raise InputError(f"The memory of {self.device} does not suffice for a tile of {width}x{height} px.")
            side = max(height, width) // 2
            boxes = [part for box in [*boxes, (top, left, bottom, right)] for part in self._split(*box, side)[::-1]]

    def _split(self, top: int, left: int, bottom: int, right: int, side: int) -> list[tuple[int, int, int, int]]:
        """(top, left, bottom, right) of tiles of about equal size, no side above `side` rounded up to the multiple."""
        side = math.ceil(side / self.multiple) * self.multiple

        def cuts(begin: int, end: int) -> list[tuple[int, int]]:
            count = math.ceil((end - begin) / side)
            step = math.ceil((end - begin) / count / self.multiple) * self.multiple
            return [(place, min(place + step, end)) for place in range(begin, end, step)]

        return [(y, x, y_end, x_end) for y, y_end in cuts(top, bottom) for x, x_end in cuts(left, right)]

    def forward(self, low: Tensor) -> Tensor:
        """A picture as a single tile: (N, 3, h, w) -> (N, 3, factor * h, factor * w), float in [0, 1], clamped.

        The pixel range, the continuation beyond the borders and the clamp are inside, so that it can be exported.
        """
        return self.part(low, 0, 0, low.shape[-2], low.shape[-1])

    def part(self, low: Tensor, top: int, left: int, bottom: int, right: int) -> Tensor:
        """One tile of `tiles`, given in input pixels: (N, C, factor * (bottom - top), factor * (right - left))."""
        height, width = bottom - top, right - left
        around, window = self.margins[0], low
        for axis, begin, end in ((-2, top, bottom), (-1, left, right)):
            end += -(end - begin) % self.multiple + around
            window = window.index_select(axis, continued(begin - around, end, low.shape[axis], low.device))
        window = window.to(self.device)
        channels = window.shape[1]
        parts = [self._run(window[:, : 3 if channels > 2 else 1], height, width)]
        if channels in (2, 4):
            parts.append(self._alpha(window[:, -1:], height, width))
        return torch.cat(parts, dim=1) if len(parts) > 1 else parts[0]

    def _run(self, window: Tensor, height: int, width: int) -> Tensor:
        """(1, 3 or 1, h, w) with its margin -> (1, 3 or 1, factor * height, factor * width), float32 in [0, 1]."""
        image = resample.to_network(window).to(self.dtype).expand(-1, 3, -1, -1)
        for number, stage in enumerate(self.stages):
            image = stage(image.contiguous(memory_format=torch.channels_last))
            cut = self.factors[number] * self.margins[number] - self.margins[number + 1]
            image = image[..., cut : image.shape[-2] - cut, cut : image.shape[-1] - cut]
        image = image[..., : self.factor * height, : self.factor * width].float()
        if window.shape[1] == 1:
            image = image.mean(dim=1, keepdim=True)
        return resample.from_network(image).clamp_(0.0, 1.0)

    def _alpha(self, window: Tensor, height: int, width: int) -> Tensor:
        """As `_run` for a grey picture, but without overshooting: within the range of the nearest 3x3 input pixels.

        So what was opaque or transparent all around stays exactly that.
        """
        around = self.margins[0]
        alpha = resample.to_float(window)
        if bool(alpha.min() == alpha.max()):
            return alpha[:1, :1, :1, :1].expand(1, 1, self.factor * height, self.factor * width)
        near = slice(around, around + height), slice(around, around + width)
        high, low = (
            (sign * F.max_pool2d(sign * alpha, 3, stride=1, padding=1))[..., near[0], near[1]]
            .repeat_interleave(self.factor, dim=2)
            .repeat_interleave(self.factor, dim=3)
            for sign in (1, -1)
        )
        return torch.minimum(torch.maximum(self._run(window, height, width), low), high)


def out_of_memory(error: BaseException) -> bool:
    """Whether an allocation failed: on a GPU, by PyTorch on a CPU (a RuntimeError), or in oneDNN."""
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    words = "allocate memory", "not enough memory", "could not create a memory", "could not create a primitive"
    return any(word in str(error) for word in words)
