"""Which networks upscale by 2, 4 or 8: of the weights files at hand the stack, stages in a row, or one repeatedly."""

import math
import os
import re
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from torch import nn

from upscale_lit import shipped
from upscale_lit.errors import InputError, shown
from upscale_lit.inference.paths import special
from upscale_lit.weights import load_weights

SCALES = (2, 4, 8)
NAMES = re.compile(r"upscaler_.*\.(pt|safetensors)", re.IGNORECASE)  # of weights files, when a folder is named


@dataclass(frozen=True)
class Network:
    """A weights file, loaded. stage: such as "64to128", or None if the file has no such fact."""

    path: Path
    model: nn.Module
    stage: str | None

    @property
    def factor(self) -> int:
        return int(getattr(self.model, "factor", 2))

    @property
    def sides(self) -> tuple[int, int] | None:
        """The sizes that its stage is for, in and out."""
        found = re.fullmatch(r"([1-9]\d{0,5})to([1-9]\d{0,5})", self.stage or "")
        return (int(found[1]), int(found[2])) if found else None


@dataclass(frozen=True)
class Way:
    """Networks that upscale by a scale when they run one after the other."""

    networks: tuple[Network, ...]

    @property
    def side(self) -> int | None:
        """The size of picture that the first one is for."""
        sides = self.networks[0].sides
        return sides[0] if sides else None

    @property
    def name(self) -> str:
        """Short: upscaler_64to128+upscaler_128to256."""
        return "+".join(network.path.stem for network in self.networks)

    def __str__(self) -> str:
        paths = [str(network.path) for network in self.networks]
        if len(set(paths)) > 1:
            return "a chain of " + ", ".join(paths)
        return f"{paths[0]}, {len(paths)} times" if len(paths) > 1 else paths[0]


def find(places: Sequence[Path]) -> list[Network]:
    """The networks of weights files, see `weights_files`; without any place, those of the default shipped model."""
    return [_load(path) for path in weights_files(places or [shipped.folder(shipped.DEFAULT)])]


def weights_files(places: Sequence[Path]) -> list[Path]:
    """The weights files that are named, and those in folders that are named (of a run, or outputs/checkpoints).

    A name that is neither is that of a shipped model. A folder's files are sorted by stage. Raises InputError.
    """
    paths: list[Path] = []
    for place in map(shipped.place, places):
        if os.path.isdir(place):
            try:
                paths += shipped.by_stage(path for path in sorted(place.iterdir()) if NAMES.fullmatch(path.name))
            except OSError as error:
                raise InputError(f"The folder {shown(place)} cannot be read: {error.strerror}.") from error
        elif what := special(place):
            raise InputError(f"{shown(place)} must be a weights file; got {what}.")
        else:
            paths.append(place)  # load_weights says what is wrong with it
    if not paths:
        where = " or ".join(str(place) for place in places)
        raise InputError(
            f"There should be a weights file (upscaler_*.pt or upscaler_*.safetensors) in {where}; found none. "
            "Train some by `python train.py`."
        )
    return paths


def only_file(place: Path) -> Path:
    """What `weights_files` finds for one name, to export it. Raises InputError when there are several files."""
    paths = weights_files([place])
    if len(paths) > 1:
        raise InputError(
            f"{shown(place)} must be a single weights file; it holds {len(paths)}. Name one of them:\n"
            + "\n".join(f"upscale-lit export {shlex.quote(str(path))}" for path in paths)
        )
    return paths[0]


def _load(path: Path) -> Network:
    model, facts = load_weights(path)
    return Network(path, model, facts.get("stage"))


def scale_of(networks: Sequence[Network]) -> int:
    """The scale if the user requests none: the factor of a single network, or 2."""
    return networks[0].factor if len(networks) == 1 else 2


def ways(networks: Sequence[Network], scale: int) -> list[Way]:
    """All ways to a scale, best first: a network of that factor, stages in a row; else 2x networks as they are given,
    else each 2x network several times.

    Raises InputError when there is none.
    """
    alone = [Way((network,)) for network in networks if network.factor == scale]
    doubling = [network for network in networks if network.factor == 2]
    steps = round(math.log2(scale))
    if steps > 1:
        alone += [Way(row) for first in doubling if len(row := _row(first, doubling, steps)) == steps]
    if not alone:
        alone = [Way(tuple(doubling))] if len(doubling) == steps else [Way((network,) * steps) for network in doubling]
    if not alone:
        found = ", ".join(f"{network.path} ({network.factor}x)" for network in networks)
        raise InputError(f"None of the networks can upscale by {scale}; found {found}. Choose another -s, or other -m.")
    return alone


def _row(network: Network, others: Sequence[Network], steps: int) -> tuple[Network, ...]:
    """Up to `steps` networks, each for the size that the one before it returns."""
    row = [network]
    while len(row) < steps and (sides := row[-1].sides):
        following = [other for other in others if other.sides and other.sides[0] == sides[1]]
        if not following:
            break
        row.append(following[0])
    return tuple(row)


def nearest(found: Sequence[Way], side: int) -> Way:
    """The way whose input size is nearest, by ratio, to a picture's shorter side; a single network before a chain."""
    return min(found, key=lambda way: (len(way.networks), abs(math.log2(side / way.side)) if way.side else 0.0))
