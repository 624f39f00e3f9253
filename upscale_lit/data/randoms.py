"""Random numbers of training examples: pure functions of the seed, a stream, and the number of an example.

A run therefore does not depend on the number of processes that make its examples, and it resumes exactly.
"""

from collections.abc import Sequence
from enum import IntEnum
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray


class Stream(IntEnum):
    """The purposes of random numbers. A stream must keep its number, or old checkpoints could not resume exactly."""

    EXAMPLE = 0  # eight numbers in [0, 1): photo, zoom, top, left, mirrored, upside down, and two unused numbers
    DEGRADATION = 2  # eight numbers in [0, 1): the amounts of a degradation
    NOISE = 3
    SHARDS = 4  # numbered by passes over the shards, not by examples


BLOCK = 64  # examples whose numbers are drawn at once, because creating a generator takes longer than using it


def uniform(seed: int, stream: Stream, numbers: Sequence[int]) -> NDArray[np.float64]:
    """Return eight numbers in [0, 1) for each example: float64, (len(numbers), 8)."""
    return np.stack([_block(seed, stream, number // BLOCK)[number % BLOCK] for number in numbers])


def photo_of(seed: int, number: int, count: int) -> int:
    """Return which of `count` photos the example `number` shows, from 0 to count - 1."""
    return int(_block(seed, Stream.EXAMPLE, number // BLOCK)[number % BLOCK, 0] * count)


def generator(seed: int, stream: Stream, number: int) -> np.random.Generator:
    """Return a generator for one example, for more random numbers than `uniform` gives."""
    return np.random.Generator(np.random.Philox(key=[seed, stream], counter=[0, number, 0, 0]))


@lru_cache(maxsize=64)
def _block(seed: int, stream: Stream, block: int) -> NDArray[np.float64]:
    """Return the numbers of a block of examples, (BLOCK, 8).

    Philox computes four numbers from a key and a counter. Eight numbers for each example are 2 * BLOCK counts a block.
    """
    philox = np.random.Philox(key=[seed, stream], counter=2 * BLOCK * block)
    return np.random.Generator(philox).random((BLOCK, 8))
