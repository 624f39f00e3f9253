"""Random numbers of training examples: pure functions of the seed, a stream, and the number of an example.

So a run does not depend on how many processes make its examples, and resumes exactly.
"""

from collections.abc import Sequence
from enum import IntEnum
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray


class Stream(IntEnum):
    """What random numbers are for. A checkpoint can only be resumed exactly if the number of its stream stays."""

    EXAMPLE = 0  # eight numbers in [0, 1): photo, zoom, top, left, mirrored, upside down, and two that are not used
    DEGRADATION = 2  # eight numbers in [0, 1): how much of each part of a degradation
    NOISE = 3
    SHARDS = 4  # by the number of a pass over the shards, not of an example


BLOCK = 64  # examples whose numbers are made at once: making a generator takes longer than using it


def uniform(seed: int, stream: Stream, numbers: Sequence[int]) -> NDArray[np.float64]:
    """(len(numbers), 8), in [0, 1)."""
    return np.stack([_block(seed, stream, number // BLOCK)[number % BLOCK] for number in numbers])


def photo_of(seed: int, number: int, count: int) -> int:
    """Which of `count` photos the example `number` shows: from 0 to count - 1."""
    return int(_block(seed, Stream.EXAMPLE, number // BLOCK)[number % BLOCK, 0] * count)


def generator(seed: int, stream: Stream, number: int) -> np.random.Generator:
    """For more random numbers of one example than `uniform` gives."""
    return np.random.Generator(np.random.Philox(key=[seed, stream], counter=[0, number, 0, 0]))


@lru_cache(maxsize=64)
def _block(seed: int, stream: Stream, block: int) -> NDArray[np.float64]:
    """(BLOCK, 8): Philox is a function of a key and a counter, of which each step gives four numbers."""
    philox = np.random.Philox(key=[seed, stream], counter=2 * BLOCK * block)
    return np.random.Generator(philox).random((BLOCK, 8))
