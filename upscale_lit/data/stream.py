"""Training examples from shards: each place of a batch reads a stream of its own, and every photo serves several times.

Which photo an example shows is a function of the seed and its number alone, so it does not depend on how many
processes or workers there are, and a run goes on in the middle of a shard.
"""

import hashlib
import heapq
import logging
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from itertools import count, islice
from pathlib import Path
from typing import Any

import numpy as np

from upscale_lit.data.module import Regions, UpscaleDataModule
from upscale_lit.data.photo import PhotoError, Pixels, decode_photo
from upscale_lit.data.shards import Shard, find_shards, read_shard
from upscale_lit.data.sources import SMALLEST_VAL
from upscale_lit.errors import InputError, check_whole

log = logging.getLogger(__name__)

WINDOW = 8  # photos that each place of a batch takes in turn
GIVE_UP = 1000  # unusable photos in a row


class Stream:
    """The photos of one place of a batch, in blocks of WINDOW; each is decoded while the one before it is in use.

    open_at(number) yields them from that number on, and is run in `pool`.
    """

    def __init__(self, open_at: Callable[[int], Iterator[list[Pixels]]], pool: Executor) -> None:
        self.open_at, self.pool = open_at, pool
        self.block = -2  # none, and none before block 0
        self.decoded: list[list[Pixels]] = []

    def photo(self, block: int, which: int) -> list[Pixels]:
        """The pyramid of photo `which` of a block."""
        if block != self.block:
            if block == self.block + 1:  # as usual: what was not asked for is passed by
                for _ in range(WINDOW - len(self.decoded)):
                    self._next()
            else:
                self.photos = self.open_at(block * WINDOW)
                self.coming = self.pool.submit(next, self.photos)
            self.block, self.decoded = block, []
        while len(self.decoded) <= which:
            self.decoded.append(self._next())
        return self.decoded[which]

    def _next(self) -> list[Pixels]:
        photo: list[Pixels] = self.coming.result()
        self.coming = self.pool.submit(next, self.photos)
        return photo


class Streams:
    """The photos of training examples (see `Regions`), as they stream by.

    The example at place p of batch b (counted over all epochs) shows a photo of stream p. A stream takes WINDOW photos
    in turn, `uses` times each, and then the next ones; streams change theirs at different times, so that every batch
    decodes about batch_size / uses photos. Each pass deals all shards out to the streams, in an order of its own; where
    there are fewer shards than streams, several share one, each taking every n-th photo of it.
    A photo that is damaged, or under `smallest` pixels on its shorter side, gives its turn to the next one.
    keep: as in `read_photo`.
    """

    def __init__(
        self,
        shards: Sequence[Shard],
        keep: int,
        smallest: int,
        batch_size: int,
        examples_per_epoch: int,
        uses: int,
        seed: int,
    ) -> None:
        self.shards, self.keep, self.smallest, self.uses, self.seed = shards, keep, smallest, uses, seed
        self.batch_size, self.examples_per_epoch = batch_size, examples_per_epoch
        self.parts = -(-batch_size // len(shards))  # of each shard
        self.streams: dict[int, Stream] = {}
        self.pool: Executor | None = None

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "streams": {}, "pool": None}  # each process reads for itself

    def draw(self, number: int, which: float) -> tuple[Sequence[tuple[int, int]], Callable[[int], Pixels]]:
        """The shapes and the levels of the pyramid of an example's photo, whatever `which` is."""
        epoch, within = divmod(number, self.examples_per_epoch)
        batch, place = divmod(within, self.batch_size)
        if place not in self.streams:
            self.pool = self.pool or ThreadPoolExecutor(1)  # a stream's photos are decoded one after the other
            self.streams[place] = Stream(lambda first: self._usable(place, first), self.pool)
        batches = self.examples_per_epoch // self.batch_size
        turns = WINDOW * self.uses  # until a stream has new photos
        block, turn = divmod(epoch * batches + batch + place * turns // self.batch_size, turns)
        levels = self.streams[place].photo(block, turn % WINDOW)
        return tuple(level.shape[:2] for level in levels), levels.__getitem__

    def _usable(self, place: int, first: int) -> Iterator[list[Pixels]]:
        """Pyramids, one for each photo of a stream from number `first` on."""
        failed = 0
        for name, data in self._files(place, first):
            try:
                side, levels = decode_photo(name, data, self.keep)
            except PhotoError as error:
                log.warning("%s The next photo takes its turn.", error)
                failed += 1
            else:
                if side < self.smallest:
                    failed += 1
                else:
                    yield from [levels] * (1 + failed)
                    failed = 0
            if failed >= GIVE_UP:
                raise InputError(
                    f"{failed} photos in a row are damaged or under data.crop={self.smallest} px. Make shards of other "
                    "photos, or give data.small=enlarge or a smaller data.crop."
                )

    def _files(self, place: int, first: int) -> Iterator[tuple[str, bytes]]:
        """(name, bytes) of a stream's photos from number `first` on, over all passes."""
        for passed in count():
            shards = np.random.Generator(np.random.Philox(key=[self.seed, 4], counter=[0, passed, 0, 0]))
            order = shards.permutation(len(self.shards) * self.parts).tolist()
            for unit in order[place :: self.batch_size]:
                shard, part = self.shards[unit // self.parts], unit % self.parts
                photos = len(range(part, shard.photos, self.parts))
                if first < photos:
                    yield from islice(read_shard(shard), part + first * self.parts, None, self.parts)
                first = max(0, first - photos)


class ShardDataModule(UpscaleDataModule):
    """Batches as those of `UpscaleDataModule`, from shards (see shards.py).

    urls: as in `find_shards`. uses: examples that each photo gives before the next one comes. Raises InputError, and
    ShardError where a shard is missing or broken off, also in the middle of a run.
    """

    parted = True  # or every worker would decode every photo

    def __init__(self, urls: str | Sequence[str], uses: int, **settings: Any) -> None:
        super().__init__(**settings)
        check_whole("data.uses", uses)
        self.urls, self.uses = urls, uses

    def _load(self, left_out: Counter[str]) -> tuple[int, Sequence[Pixels]]:
        sides = find_shards(self.urls)
        photos = sum(shard.photos for shard in sides["train"])
        if photos < self.batch_size:
            raise InputError(
                f"The shards hold {photos} photos to train on, and each of the data.batch_size={self.batch_size} "
                "places of a batch takes others: give a smaller batch, or data=folder."
            )
        listed = "\n".join(f"{Path(shard.url).name} {shard.photos} {shard.bytes}" for shard in sides["train"])
        self.photos_fact = f"{photos} in shards ({hashlib.sha256(listed.encode()).hexdigest()[:16]}, {self.uses} uses)"
        smallest = self.crop if self.small == "skip" else 0
        streams = Streams(
            sides["train"], self.keep, smallest, self.batch_size, self.examples_per_epoch, self.uses, self.seed
        )
        self.regions = Regions(streams, self.crop, self.region, self.seed, self.augmentation)
        if self.val_root is not None:
            return photos, self._held_out(self._read_folder(self.val_root, left_out), left_out)
        files = (file for shard in sides["val"] for file in read_shard(shard))
        held_out = []
        for name, data in heapq.nsmallest(self.val_pairs, files):  # by their hashes, as of a folder
            try:
                held_out.append(decode_photo(name, data, self.keep)[1][0])
            except PhotoError as error:
                left_out[error.kind] += 1
        large = [picture for picture in held_out if min(picture.shape[:2]) >= SMALLEST_VAL]
        if not large:
            raise InputError(
                f"No validation photo in the shards has {SMALLEST_VAL} px or more on its shorter side: name a folder "
                "by data.val_root=DIR."
            )
        return photos, large


ShardDataModule.__qualname__ = UpscaleDataModule.__qualname__  # Lightning's key in checkpoints
