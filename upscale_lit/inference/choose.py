"""Find weights files, and choose the networks that upscale by 2, 4 or 8.

A picture is upscaled by one network of that factor, by the networks of successive stages, or by one 2x network that
runs several times.
"""

import math
import os
import re
import shlex
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from torch import nn

from upscale_lit import shipped
from upscale_lit.errors import InputError, shown
from upscale_lit.inference.community import community_network, foreign_state
from upscale_lit.inference.paths import special
from upscale_lit.weights import differing, load_weights, read_file

SCALES = (2, 4, 8)  # of our own networks
NAMES = re.compile(r"upscaler_.*\.(pt|safetensors)", re.IGNORECASE)  # the names of weights files in a folder


@dataclass(frozen=True)
class Network:
    """A network and its weights file.

    stage: the stage that the weights file names, such as "64to128"; None if the file names no stage.
    arguments: the arguments of the model's class.
    foreign: whether another program has trained the network. It upscales only by its own factor.
    robust: a network for compressed pictures, of the same architecture and stage; None if there is no such network.
    """

    path: Path
    model: nn.Module
    stage: str | None
    arguments: dict[str, Any] = field(default_factory=dict, compare=False, repr=False)
    robust: nn.Module | None = None
    foreign: bool = False

    @property
    def factor(self) -> int:
        """The factor by which the network upscales. A model without the attribute `factor` counts as a 2x network."""
        return int(getattr(self.model, "factor", 2))

    @property
    def sides(self) -> tuple[int, int] | None:
        """The input and output sizes in px of the network's stage; None if the stage is unknown."""
        found = re.fullmatch(r"([1-9]\d{0,5})to([1-9]\d{0,5})", self.stage or "")
        return (int(found[1]), int(found[2])) if found else None


@dataclass(frozen=True)
class Way:
    """Networks that upscale by a scale when they run one after the other."""

    networks: tuple[Network, ...]

    @property
    def side(self) -> int | None:
        """The input size in px of the first network's stage; None if the stage is unknown."""
        sides = self.networks[0].sides
        return sides[0] if sides else None

    @property
    def name(self) -> str:
        """The names of the weights files without folders and suffixes, such as upscaler_64to128+upscaler_128to256."""
        return "+".join(network.path.stem for network in self.networks)

    def __str__(self) -> str:
        paths = [str(network.path) for network in self.networks]
        if len(set(paths)) > 1:
            return "a chain of " + ", ".join(paths)
        return f"{paths[0]}, {len(paths)} times" if len(paths) > 1 else paths[0]


def find(places: Sequence[Path], robust_places: Sequence[Path] = ()) -> list[Network]:
    """Load the networks of all weights files that `weights_files` finds.

    places: files, folders or names of shipped models. An empty list stands for the default shipped model.
    robust_places: the same for the networks that become `robust`. Without them, a shipped model that has a robust model
        gets it.
    Raises InputError if there is no weights file, if a weights file cannot be loaded, or if a robust network does not
    fit.
    """
    networks = [_load(path) for path in weights_files(places or [shipped.folder(shipped.DEFAULT)])]
    if robust_places:
        return with_robust(networks, [_load(path) for path in weights_files(robust_places)])
    found = []
    for network in networks:
        path = shipped.robust(network.path)
        found += with_robust([network], [_load(path)]) if path else [network]
    return found


def with_robust(networks: Sequence[Network], robust: Sequence[Network]) -> list[Network]:
    """Return the networks, each with the robust network of its stage.

    Raises InputError if a network has no robust network, or more than one, or if their architectures differ.
    """
    found = []
    for network in networks:
        same = [other for other in robust if other.stage == network.stage]
        if len(same) != 1:
            stage = f"for the stage {network.stage}" if network.stage else "without a stage"
            names = ", ".join(f"{other.path} ({other.stage or 'no stage'})" for other in robust)
            raise InputError(
                f"--restore-with (restore_with) must hold one network {stage}, as {network.path}; got {names}. Name "
                "weights that were trained for the same stages."
            )
        (other,) = same
        difference = differing(network.model.state_dict(), other.model.state_dict())
        if type(other.model) is not type(network.model) or other.arguments != network.arguments or difference:
            reason = difference or f"{_described(network)} and {_described(other)}"
            raise InputError(
                f"{other.path} must have the architecture of {network.path}, because --restore-with interpolates their "
                f"weights; got {reason}."
            )
        found.append(replace(network, robust=other.model))
    return found


def _described(network: Network) -> str:
    return f"{type(network.model).__name__} with {network.arguments}"


def weights_files(places: Sequence[Path]) -> list[Path]:
    """Return the paths of weights files, in the order of the places.

    places: each place is a weights file, a folder of weights files, or the name of a shipped model. Such a folder is
        the folder of a run, or outputs/checkpoints. The weights files of a folder are sorted by stage.
    Raises InputError if no weights file is found, if a folder cannot be read, or if a place is a pipe or a device.
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
            paths.append(place)  # load_weights reports a file that is missing or damaged
    if not paths:
        where = " or ".join(str(place) for place in places)
        raise InputError(
            f"There is no weights file (upscaler_*.pt or upscaler_*.safetensors) in {where}. "
            "Train a network first: upscale-lit train."
        )
    return paths


def only_file(place: Path) -> Path:
    """Return the path of the single weights file at a place.

    place: a weights file, a folder, or the name of a shipped model, as in `weights_files`.
    Raises InputError if there is no weights file, or more than one.
    """
    paths = weights_files([place])
    if len(paths) > 1:
        raise InputError(
            f"{shown(place)} must hold a single weights file; got {len(paths)}. Name one of them:\n"
            + "\n".join(f"upscale-lit export {shlex.quote(str(path))}" for path in paths)
        )
    return paths[0]


def _load(path: Path) -> Network:
    content = read_file(path, "weights file")
    if (state := foreign_state(content)) is not None:
        return Network(path, community_network(path, state), None, foreign=True)
    model, facts = load_weights(path, content)
    return Network(path, model, facts.get("stage"), facts.get("model_args", {}))


def scale_of(networks: Sequence[Network]) -> int:
    """Return the scale for users who request none: the factor of a single network, or 2 for several networks."""
    return networks[0].factor if len(networks) == 1 else 2


def ways(networks: Sequence[Network], scale: int) -> list[Way]:
    """Return all ways to upscale by a scale.

    Single networks of that factor come first, then chains of our 2x networks. In a chain, the output size of each stage
    is the input size of the next stage. Without such ways, our 2x networks run in the given order if their number fits
    the scale. If their number does not fit, each of them runs several times.
    Raises InputError if no network can reach the scale.
    """
    alone = [Way((network,)) for network in networks if network.factor == scale]
    steps = SCALES.index(scale) + 1 if scale in SCALES else 0
    doubling = [network for network in networks if network.factor == 2 and not network.foreign and steps]
    if steps > 1:
        alone += [Way(row) for first in doubling if len(row := _row(first, doubling, steps)) == steps]
    if not alone and doubling:
        alone = [Way(tuple(doubling))] if len(doubling) == steps else [Way((network,) * steps) for network in doubling]
    if not alone:
        found = ", ".join(f"{network.path} ({network.factor}x)" for network in networks)
        raise InputError(
            f"No network can upscale by {scale}; got {found}. Choose another scale with -s, or other networks with -m."
        )
    return alone


def _row(network: Network, others: Sequence[Network], steps: int) -> tuple[Network, ...]:
    """Return a row of at most `steps` networks that starts with `network`.

    The output size of each network's stage is the input size of the next network's stage.
    """
    row = [network]
    while len(row) < steps and (sides := row[-1].sides):
        following = [other for other in others if other.sides and other.sides[0] == sides[1]]
        if not following:
            break
        row.append(following[0])
    return tuple(row)


def nearest(found: Sequence[Way], side: int) -> Way:
    """Return the way that fits a picture best.

    A way with fewer networks is preferred. Among ways of the same length, the input size nearest to `side` wins. The
    distance is the logarithm of the ratio of both sizes. A way without a known input size has the distance 0.
    side: the shorter side of the picture in px.
    """
    return min(found, key=lambda way: (len(way.networks), abs(math.log2(side / way.side)) if way.side else 0.0))
