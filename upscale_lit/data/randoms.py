"""Random numbers of training examples: pure functions of the seed, a stream, and the number of an example.

A run therefore does not depend on the number of processes that make its examples, and it resumes exactly.
"""

from collections.abc import Sequence
from enum import IntEnum
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray


class Stream(IntEnum):
    """The purposes of random numbers. Never change the number of a stream: runs could not resume exactly."""

    EXAMPLE = 0  # eight numbers in [0, 1): photo, zoom, top, left, mirrored, upside down, inverted, channels
    DEGRADATION = 2  # eight numbers in [0, 1): the amounts of a degradation
    NOISE = 3
    SHARDS = 4  # its third argument is the number of a pass over the shards, not of an example


# Random numbers are drawn for blocks of examples, because a generator takes longer to create than to use.
BLOCK = 64


def uniform(seed: int, stream: Stream, numbers: Sequence[int]) -> NDArray[np.float64]:
    """Return eight numbers in [0, 1) for each example: float64, (len(numbers), 8)."""
    return np.stack([_block(seed, stream, number // BLOCK)[number % BLOCK] for number in numbers])


def photo_of(seed: int, number: int, count: int) -> int:
    """Return which of `count` photos the example `number` shows, from 0 to count - 1."""
    return int(_block(seed, Stream.EXAMPLE, number // BLOCK)[number % BLOCK, 0] * count)


def generator(seed: int, stream: Stream, number: int) -> np.random.Generator:
    """Return a generator for one example that needs more random numbers than `uniform` gives.

    The example's number is the second 64-bit word of Philox's counter. Two examples therefore have different random
    numbers for 2^64 steps of the counter.
    """
    return np.random.Generator(np.random.Philox(key=[seed, stream], counter=[0, number, 0, 0]))


@lru_cache(maxsize=64)
def _block(seed: int, stream: Stream, block: int) -> NDArray[np.float64]:
    """Return the numbers of a block of examples, (BLOCK, 8).

    Philox computes four numbers from a key and each value of a counter. An example needs eight numbers, that is, two
    values of the counter. A block of examples needs 2 * BLOCK values, and block b begins at 2 * BLOCK * b.
    """
    philox = np.random.Philox(key=[seed, stream], counter=2 * BLOCK * block)
    return np.random.Generator(philox).random((BLOCK, 8))
