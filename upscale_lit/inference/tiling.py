"""Run trained networks on pictures of any size, tile by tile, with BatchNorm folded into the convolutions."""

import copy
import math
from collections.abc import Iterator, Sequence
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from upscale_lit import resample
from upscale_lit.allocator import raise_thresholds
from upscale_lit.errors import InputError
from upscale_lit.models import continued

# The side of an automatic tile, in input pixels of the last network. On a CPU, the tile is smaller: the output of its
# widest layer has at most LAYER bytes. The input and the output of a layer then fit into the memory that the allocator
# keeps (see allocator.py).
TILE = 640
LAYER = 7 * 2**22  # bytes; the largest output of a layer, in float32, for an automatic tile on a CPU
FARTHEST = 512  # px; `reach` does not measure a larger reach
WITHOUT_REACH = 8  # px of continuation for a network that sees the entire picture, as in models.upscale


def folded(model: nn.Module) -> nn.Module:
    """Return a copy for inference, in eval mode, with each BatchNorm folded into the convolution before it.

    The outputs stay equal up to rounding. Only a BatchNorm that follows its convolution in an nn.Sequential is folded.
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
    """Return how far a pixel influences the output, in input pixels: half the receptive field.

    None means farther than FARTHEST. The model must be on the CPU, in float32 and in eval mode.
    A row and a column of NaN are sent through the network. Each output that depends on them is NaN as well, since even
    0 * NaN is NaN. With strides, the reach depends on the place, so `multiple` neighbouring places are tried.
    """
    factor, multiple = int(getattr(model, "factor", 2)), int(getattr(model, "multiple", 1))
    short = math.ceil(8 / multiple) * multiple
    length = 16 * short
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
    """Return the size of the largest output of any layer, as a number of values for each input pixel.

    The model must be on the CPU, in float32.
    """
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
    """Networks in a row that upscale pictures of any size, tile by tile. Tiles do not change the result.

    networks: each maps (N, 3, h, w) to (N, 3, factor * h, factor * w) in the networks' pixel range. A stack is taken
        apart into its stages. The networks are copied, `folded`, and moved to the device.
    dtype: the precision in which the networks compute: float32, float16, or bfloat16. In bfloat16, only networks with a
        method `reduce_precision` compute, and each of them keeps a part in float32; the others compute in float32.

    The input of a tile includes a margin as wide as the networks' reach. Beyond the picture, the margin is `continued`.
    If all networks have learned the borders of pictures (see `Compact`), the margin ends where the picture ends. After
    each network, the margin that only this network needed is cut off. Memory depends on the tile (see TILE).

    factor: the factor of all networks together. multiple: sides of tiles are multiples of this number of input pixels.
    tiled: False if a network sees the entire picture and has no attribute `overlap`, a margin in its input pixels.
    side: the side of an automatic tile, in input pixels.
    precision: the names of the precisions in which the networks compute, such as "bfloat16".
    """

    def __init__(
        self, networks: Sequence[nn.Module], device: torch.device | str = "cpu", dtype: torch.dtype = torch.float32
    ) -> None:
        super().__init__()
        raise_thresholds()
        stages = [stage for network in networks for stage in getattr(network, "stages", (network,))]
        if not all(getattr(stage, "supports_half", True) for stage in stages):
            dtype = torch.float32
        # In bfloat16 the networks take and return float32.
        self.device, self.dtype = torch.device(device), dtype if dtype == torch.float16 else torch.float32
        self.factors = [int(getattr(stage, "factor", 2)) for stage in stages]
        self.factor = math.prod(self.factors)
        multiples = [int(getattr(stage, "multiple", 1)) for stage in stages]
        # A tile of this side is P * side wide in a stage's input, if P is the product of the factors before this stage.
        # P * side is a multiple of `need` exactly if `side` is a multiple of need / gcd(need, P).
        needs = (need // math.gcd(need, math.prod(self.factors[:number])) for number, need in enumerate(multiples))
        self.multiple = math.lcm(*needs)
        self.own_borders = self.multiple == 1 and all(getattr(stage, "own_borders", False) for stage in stages)
        stages = [folded(stage).cpu().float() for stage in stages]
        reaches = [far if (far := reach(stage)) is not None else getattr(stage, "overlap", None) for stage in stages]
        self.tiled = None not in reaches
        # margins[n] is the margin around the input of stage n, in pixels of that input; the last output has none. A
        # margin covers the reach of its stage and the next margin, which is `factor` times smaller in this input. It
        # is a multiple of the stage's stride, so that strides fall on the same pixels in every tile.
        self.margins = [0]
        for factor, multiple, far in reversed(list(zip(self.factors, multiples, reaches, strict=True))):
            needed = (WITHOUT_REACH if far is None else far) + math.ceil(self.margins[0] / factor)
            self.margins.insert(0, math.ceil(needed / multiple) * multiple)
        self.side = self._automatic_side(stages)
        self.stages = nn.ModuleList(stages).to(self.device, self.dtype)
        used = dict.fromkeys(_reduced(stage, dtype) for stage in stages)
        self.precision = " and ".join(str(each).removeprefix("torch.") for each in used)
        self.stages.to(memory_format=torch.channels_last)
        self.eval()

    def _automatic_side(self, stages: Sequence[nn.Module]) -> int:
        """Return the side of an automatic tile, in input pixels (see TILE).

        On a CPU, a stage's input of side s (the tile and its margins) satisfies 4 * s**2 * widest <= LAYER. If the
        margins are wide, the tile is still at least as wide as both margins together.
        """
        side = TILE * self.factors[-1] // self.factor
        if self.device.type == "cpu":
            for number, stage in enumerate(stages):
                fed, margin = math.sqrt(LAYER / 4 / max(widest(stage), 1)), self.margins[number]
                side = min(side, int(max(fed - 2 * margin, 2 * margin) / math.prod(self.factors[:number])))
        return max(side, 1)

    def tiles(self, low: Tensor, tile: int = 0) -> Iterator[tuple[int, int, Tensor]]:
        """Yield the upscaled picture in parts: (top, left, part), in output pixels, from top to bottom.

        low: (1, C, h, w), uint8 or float in [0, 1], on any device. C is 1 for grey, 2 for grey and alpha, 3 for RGB,
            and 4 for RGB and alpha.
        part: (1, C, height, width), float32 in [0, 1], clamped, on the chain's device.
        tile: the side of a tile in input pixels, rounded up to `multiple`; 0 for automatic. If memory runs out, the
            remaining tiles are halved. Raises InputError if a tile cannot be halved any further.
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
                part = None  # the `except` block must end first: its traceback keeps the tensors alive
            if part is not None:
                yield self.factor * top, self.factor * left, part
                continue
            if self.device.type == "cuda":
                torch.cuda.empty_cache()
            height, width = bottom - top, right - left
            if not self.tiled or max(height, width) <= self.multiple:
                raise InputError(
                    f"The memory of {self.device} is too small for a tile of {width}x{height} px. Use another device."
                )
            side = max(height, width) // 2
            boxes = [part for box in [*boxes, (top, left, bottom, right)] for part in self._split(*box, side)[::-1]]

    def _split(self, top: int, left: int, bottom: int, right: int, side: int) -> list[tuple[int, int, int, int]]:
        """Split a box into tiles (top, left, bottom, right) of about equal size.

        No side of a tile is larger than `side`, rounded up to the multiple.
        """
        side = math.ceil(side / self.multiple) * self.multiple

        def cuts(begin: int, end: int) -> list[tuple[int, int]]:
            count = math.ceil((end - begin) / side)
            step = math.ceil((end - begin) / count / self.multiple) * self.multiple
            return [(place, min(place + step, end)) for place in range(begin, end, step)]

        return [(y, x, y_end, x_end) for y, y_end in cuts(top, bottom) for x, x_end in cuts(left, right)]

    def forward(self, low: Tensor) -> Tensor:
        """Upscale a picture as a single tile: (N, 3, h, w) -> (N, 3, factor * h, factor * w), float in [0, 1], clamped.

        An export traces this method, so the method includes the pixel range, the continuation at the borders and the
        clamp.
        """
        return self.part(low, 0, 0, low.shape[-2], low.shape[-1])

    def part(self, low: Tensor, top: int, left: int, bottom: int, right: int) -> Tensor:
        """Upscale one tile of a picture. top, left, bottom and right are in input pixels.

        low: (N, C, h, w), uint8 or float in [0, 1], on any device, with C from 1 to 4 as in `tiles`. The result is (N,
        C, factor * (bottom - top), factor * (right - left)), float32 in [0, 1], clamped, on the chain's device.
        """
        height, width = bottom - top, right - left
        around, window = [self.margins[0]] * 4, low
        if self.own_borders:
            beyond = top, left, low.shape[-2] - bottom, low.shape[-1] - right  # the pixels of the picture on each side
            around = [min(each, self.margins[0]) for each in beyond]
            window = low[..., top - around[0] : bottom + around[2], left - around[1] : right + around[3]]
        else:
            for axis, begin, end in ((-2, top, bottom), (-1, left, right)):
                end += -(end - begin) % self.multiple + self.margins[0]
                places = continued(begin - self.margins[0], end, low.shape[axis], low.device)
                window = window.index_select(axis, places)
        window = window.to(self.device)
        channels = window.shape[1]
        parts = [self._run(window[:, : 3 if channels > 2 else 1], around, height, width)]
        if channels in (2, 4):
            parts.append(self._alpha(window[:, -1:], around, height, width))
        return torch.cat(parts, dim=1) if len(parts) > 1 else parts[0]

    def _run(self, window: Tensor, around: Sequence[int], height: int, width: int) -> Tensor:
        """Run the stages: (1, 3 or 1, h, w) with its margin -> (1, 3 or 1, factor * height, factor * width).

        around: the margin at the top, left, bottom and right, in pixels of the window. The result is float32 in [0, 1].
        """
        image = resample.to_network(window).to(self.dtype).expand(-1, 3, -1, -1)
        for number, stage in enumerate(self.stages):
            image = stage(image.contiguous(memory_format=torch.channels_last))
            # A side where the picture ends has no margin. The other sides keep the margin that the next stage needs.
            there = [self.factors[number] * each for each in around]
            around = [min(each, self.margins[number + 1]) for each in there]
            top, left, bottom, right = (each - kept for each, kept in zip(there, around, strict=True))
            image = image[..., top : image.shape[-2] - bottom, left : image.shape[-1] - right]
        image = image[..., : self.factor * height, : self.factor * width].float()
        if window.shape[1] == 1:
            image = image.mean(dim=1, keepdim=True)
        return resample.from_network(image).clamp_(0.0, 1.0)

    def _alpha(self, window: Tensor, around: Sequence[int], height: int, width: int) -> Tensor:
        """Run the stages on an alpha channel, and clamp each result to the range of the nearest 3x3 input pixels.

        (1, 1, h, w) with its margin -> (1, 1, factor * height, factor * width), float32 in [0, 1]. Opaque and
        transparent areas therefore stay exactly opaque and transparent.
        """
        alpha = resample.to_float(window)
        if bool(alpha.min() == alpha.max()):
            return alpha[:1, :1, :1, :1].expand(1, 1, self.factor * height, self.factor * width)
        near = slice(around[0], around[0] + height), slice(around[1], around[1] + width)
        # The upper and the lower limit: the minimum of a window is minus the maximum of the negated window.
        high, low = (
            (sign * F.max_pool2d(sign * alpha, 3, stride=1, padding=1))[..., near[0], near[1]]
            .repeat_interleave(self.factor, dim=2)
            .repeat_interleave(self.factor, dim=3)
            for sign in (1, -1)
        )
        return torch.minimum(torch.maximum(self._run(window, around, height, width), low), high)


def _reduced(stage: nn.Module, dtype: torch.dtype) -> torch.dtype:
    """Let a stage compute in bfloat16, if this is `dtype` and the stage can. Return the precision of the stage."""
    if dtype != torch.bfloat16:
        return dtype
    if not hasattr(stage, "reduce_precision"):
        return torch.float32
    stage.reduce_precision()  # type: ignore[operator]
    return dtype


def out_of_memory(error: BaseException) -> bool:
    """Return whether an allocation failed: on a GPU, in PyTorch on a CPU (a RuntimeError), or in oneDNN."""
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    words = "allocate memory", "not enough memory", "could not create a memory", "could not create a primitive"
    return any(word in str(error) for word in words)
