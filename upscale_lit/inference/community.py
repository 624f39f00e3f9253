"""Networks that other programs have trained, in files that spandrel recognises (the extra `community`).

A weights file is recognised in this order:

1. It has the facts of upscale_lit, or it is a checkpoint of a run: it is our own.
2. Its tensors have the names of the reference network or of the stack: the original program has written it.
3. spandrel finds the architecture by the names and shapes of the tensors.

Files are always read by `weights.read_file`, which runs no code from them. spandrel gets only the tensors.
"""

import importlib.util
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from upscale_lit import resample
from upscale_lit.errors import InputError, shown
from upscale_lit.models import STAGES, Upsampler

SCALES = (1, 2, 3, 4, 8)
# The keys under which training programs store a network's tensors, besides none and `model_state_dict`.
WRAPPERS = ("params_ema", "params-ema", "params", "state_dict", "model", "net")


class Community(nn.Module):
    """A network of another program: (1, 3, h, w) -> (1, 3, factor * h, factor * w) in the networks' pixel range.

    descriptor: a spandrel.ImageModelDescriptor. It pads pictures that are too small for the network, and crops the
        output. A network for grey pictures runs on each colour. A network with an alpha channel gets an opaque picture.
    multiple: the sides of pictures must be multiples of this number.
    overlap: the margin of tiles, in low pixels, if the network sees the entire picture, for example through a mean over
        all pixels. Tiles then change the result a little.
    supports_half: whether the network can compute in float16.
    keeps_brightness: False, because the network may change the brightness on purpose.
    """

    keeps_brightness = False
    overlap = 32

    def __init__(self, descriptor: Any) -> None:
        super().__init__()
        self.descriptor, self.network = descriptor, descriptor.model
        self.factor, self.channels = int(descriptor.scale), int(descriptor.input_channels)
        self.multiple = int(descriptor.size_requirements.multiple_of)
        self.supports_half = bool(descriptor.supports_half)

    def forward(self, low: Tensor) -> Tensor:
        image = resample.from_network(low)
        if self.channels == 1:
            grey = torch.equal(image, image[:, :1].expand_as(image))
            colours = image[:, :1] if grey else image
            high = torch.cat([self.descriptor(colour) for colour in torch.split(colours, 1, dim=1)], dim=1)
            high = high.expand(-1, 3, -1, -1)
        elif self.channels == 4:
            high = self.descriptor(torch.cat([image, torch.ones_like(image[:, :1])], dim=1))[:, :3]
        else:
            high = self.descriptor(image)
        return resample.to_network(high)


def foreign_state(content: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return the tensors of another program's network; None for a file of upscale_lit or of the original program.

    content: as `weights.read_file` returns it.
    """
    state = content.get("model_state_dict")
    if "format" in content or "model_args" in content or "pytorch-lightning_version" in content:
        return None
    if isinstance(state, Mapping):
        own = {*Upsampler().state_dict(), *(f"{stage}." for stage in STAGES)}
        if any(str(key) in own or f"{str(key).partition('.')[0]}." in own for key in state):
            return None
    inner = (content[key] for key in ("model_state_dict", *WRAPPERS) if isinstance(content.get(key), Mapping))
    found = {key: value for key, value in next(inner, content).items() if key != "sha256"}
    return found if any(isinstance(value, Tensor) for value in found.values()) else None


def community_network(path: Path, state: dict[str, Any]) -> Community:
    """Return the network that spandrel builds for the tensors of a file.

    Raises InputError if spandrel is missing or does not know the architecture, or if the network does not map a single
    picture to a larger one of the same channels.
    """
    name = shown(path)
    if importlib.util.find_spec("spandrel") is None:
        raise InputError(
            f"{name} holds no network of upscale_lit. Networks of other programs need spandrel, which is not "
            'installed: pip install "upscale-lit[community]". In a clone of the repository: pip install -e '
            '".[community]".'
        )
    import spandrel

    try:
        descriptor = spandrel.ModelLoader("cpu").load_from_state_dict(spandrel.canonicalize_state_dict(state))
    except spandrel.UnsupportedModelError:
        raise InputError(
            f"{name} must hold a network of upscale_lit, or of an architecture that spandrel knows; its tensors begin "
            f"with {', '.join(list(map(str, state))[:3])}. Export it again, or use another file."
        ) from None
    except Exception as error:  # for incomplete weights, each architecture raises another error
        reason = " ".join(str(error).split())[:200]
        raise InputError(f"{name} does not fit the architecture that spandrel recognises in it: {reason}") from error
    kind = descriptor.architecture.name
    channels = descriptor.input_channels, descriptor.output_channels
    if not isinstance(descriptor, spandrel.ImageModelDescriptor):
        raise InputError(f"{name} must hold a network for single pictures; it holds a {kind}, which needs a mask, too.")
    if descriptor.scale not in SCALES:
        listed = ", ".join(map(str, SCALES))
        raise InputError(f"{name} must upscale by one of {listed}; it holds a {kind} for {descriptor.scale}.")
    if channels not in ((1, 1), (3, 3), (4, 4)):
        raise InputError(
            f"{name} must map grey, RGB or RGBA to the same; it holds a {kind} from {channels[0]} to {channels[1]} "
            "channels."
        )
    return Community(descriptor).eval()
