"""The source that reads shards: each place of a batch reads a separate stream, and every photo serves several times.

Which photo an example shows is a function of the seed and its number alone, so it does not depend on how many
processes or workers there are, and a run resumes in the middle of a shard.
"""

import hashlib
import heapq
import logging
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import count, islice
from pathlib import Path
from typing import Any

from upscale_lit.data.photo import PhotoError, decode_photo, limit_pixels
from upscale_lit.data.pyramid import Pixels, Pyramid
from upscale_lit.data.randoms import Stream, generator
from upscale_lit.data.shards import Shard, find_shards, read_shard
from upscale_lit.data.sources import PhotoFiles, Plan
from upscale_lit.data.split import SMALLEST_VAL
from upscale_lit.errors import InputError, check_whole

log = logging.getLogger(__name__)

WINDOW = 8  # photos that each place of a batch takes in turn
GIVE_UP = 1000  # unusable photos in a row


class PhotoStream:
    """The photos of one place of a batch, in blocks of WINDOW; each is decoded while the one before it is in use.

    open_at(number) yields them from that number on, and is run in `pool`.
    """

    def __init__(self, open_at: Callable[[int], Iterator[list[Pixels]]], pool: Executor) -> None:
        self.open_at, self.pool = open_at, pool
        self.coming_number = -2 * WINDOW  # far from every block
        self.decoded: list[list[Pixels]] = []  # of the block in use

    def photo(self, number: int) -> list[Pixels]:
        """The pyramid of a photo of the stream: of the block in use, of the next one, or at more cost of any other."""
        block = number - number % WINDOW
        if not block - WINDOW < self.coming_number <= block + WINDOW:
            self.photos, self.coming_number = self.open_at(block), block
            self.coming = self.pool.submit(next, self.photos)
        while self.coming_number <= number:
            if self.coming_number % WINDOW == 0:
                self.decoded.clear()
            self.decoded.append(self.coming.result())
            self.coming = self.pool.submit(next, self.photos)
            self.coming_number += 1
        return self.decoded[number % WINDOW]


@dataclass(kw_only=True)
class Shards(PhotoFiles):
    """Photos from shards (see shards.py), as they stream by.

    The example at place p of batch b (counted over all epochs) shows a photo of stream p. A stream takes WINDOW photos
    in turn, `uses` times each, and then the next ones; streams change theirs at different times, so that every batch
    decodes about batch_size / uses photos. Each pass deals all shards out to the streams in another order; if there are
    fewer shards than streams, several share one, each taking every n-th photo of it.
    A photo that is damaged or too small gives its turn to the next one.

    urls: as in `find_shards`. uses: examples that each photo gives before the next one comes. val_root: a folder of
    photos to validate on, instead of those held out in the shards. Raises InputError, and ShardError if a shard is
    missing or broken off, also in the middle of a run.
    """

    urls: str | Sequence[str]
    uses: int
    in_parts = True  # see `ResumableLoader`; otherwise every worker would decode every photo

    def __post_init__(self) -> None:
        super().__post_init__()
        check_whole("data.uses", self.uses)
        if self.urls is None:  # the YAML file's own value
            raise InputError("data=shards needs what upscale-lit shard has made: data.urls=SHARDS, a folder or a URL.")
        self.streams: dict[int, PhotoStream] = {}
        self.pool: Executor | None = None

    def open(self, plan: Plan) -> None:
        limit_pixels(self.max_megapixels)
        self.plan = plan
        sides = find_shards(self.urls)
        self.shards, self.count = sides["train"], sum(shard.photos for shard in sides["train"])
        if self.count < plan.batch_size:
            raise InputError(
                f"The shards hold {self.count} photos to train on, and each of the data.batch_size={plan.batch_size} "
                "places of a batch takes others: give a smaller batch, or data=folder."
            )
        self.parts = -(-plan.batch_size // len(self.shards))  # of each shard
        listed = "\n".join(f"{Path(shard.url).name} {shard.photos} {shard.bytes}" for shard in self.shards)
        digest = hashlib.sha256(listed.encode()).hexdigest()[:16]
        self.identifier = f"{self.count} in shards ({digest}, {self.uses} uses)"
        own = self.val_folder
        self.val = self._read_val(sides["val"]) if own is None else self.read_held_out(self.read_folder(own))

    def _read_val(self, shards: Sequence[Shard]) -> Sequence[Pixels]:
        files = (file for shard in shards for file in read_shard(shard))
        held_out = []
        for name, data in heapq.nsmallest(self.plan.val_photos, files):  # by their hashes, as of a folder
            try:
                held_out.append(decode_photo(name, data, self.plan.keep)[1][0])
            except PhotoError as error:
                self.left_out[error.kind] += 1
        large = [picture for picture in held_out if min(picture.shape[:2]) >= SMALLEST_VAL]
        if not large:
            raise InputError(
                f"No validation photo in the shards has {SMALLEST_VAL} px or more on its shorter side: name a folder "
                "by data.val_root=DIR."
            )
        return large

    def __getstate__(self) -> dict[str, Any]:
        return {**super().__getstate__(), "streams": {}, "pool": None}  # each process reads for itself

    def __len__(self) -> int:
        return self.count

    def pyramid(self, number: int) -> Pyramid:
        plan = self.plan
        epoch, within = divmod(number, plan.examples_per_epoch)
        batch, place = divmod(within, plan.batch_size)
        if place not in self.streams:
            self.pool = self.pool or ThreadPoolExecutor(1)  # a stream's photos are decoded one after the other
            self.streams[place] = PhotoStream(lambda first: self._usable(place, first), self.pool)
        batch += epoch * (plan.examples_per_epoch // plan.batch_size)
        turns = WINDOW * self.uses  # until a stream has new photos
        block, turn = divmod(batch + place * turns // plan.batch_size, turns)
        return Pyramid.of_levels(self.streams[place].photo(block * WINDOW + turn % WINDOW))

    def _usable(self, place: int, first: int) -> Iterator[list[Pixels]]:
        """Pyramids, one for each photo of a stream from number `first` on."""
        failed = 0
        for name, data in self._files(place, first):
            try:
                side, levels = decode_photo(name, data, self.plan.keep)
            except PhotoError as error:
                log.warning("%s The next photo takes its turn.", error)
                side = 0
            if side >= self.plan.smallest:
                yield from [levels] * (1 + failed)
            failed = 0 if side >= self.plan.smallest else failed + 1
            if failed >= GIVE_UP:
                raise InputError(
                    f"{failed} photos in a row are damaged or under data.crop={self.plan.smallest} px. Make shards of "
                    "other photos, or give data.small=enlarge or a smaller data.crop."
                )

    def _files(self, place: int, first: int) -> Iterator[tuple[str, bytes]]:
        """(name, bytes) of a stream's photos from number `first` on, over all passes."""
        for passed in count():
            shuffled = generator(self.plan.seed, Stream.SHARDS, passed)
            order = shuffled.permutation(len(self.shards) * self.parts).tolist()
            for unit in order[place :: self.plan.batch_size]:
                shard, part = self.shards[unit // self.parts], unit % self.parts
                photos = len(range(part, shard.photos, self.parts))
                if first < photos:
                    yield from islice(read_shard(shard), part + first * self.parts, None, self.parts)
                first = max(0, first - photos)
