"""The source of shards. Each position of a batch reads a separate stream, and each photo gives several examples.

The photo of an example depends only on the seed and the example's number. The number of processes or workers therefore
does not change the examples, and a run can resume in the middle of a shard.
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

WINDOW = 8  # photos in a block; one position of a batch cycles through the photos of a block
GIVE_UP = 1000  # unusable photos in a row before the run ends with an error


class PhotoStream:
    """The photos of one position of a batch, in blocks of WINDOW photos. The next photo is decoded in the background.

    open_at: a function that yields the pyramids of the stream's photos, beginning with the photo of a given number.
    pool: the executor that decodes the photos.
    """

    def __init__(self, open_at: Callable[[int], Iterator[list[Pixels]]], pool: Executor) -> None:
        self.open_at, self.pool = open_at, pool
        self.coming_number = -2 * WINDOW  # a number that is in no block, so that the first call opens the stream
        self.decoded: list[list[Pixels]] = []  # the pyramids of the current block

    def photo(self, number: int) -> list[Pixels]:
        """Return the pyramid of a photo. The stream reopens for a photo outside the current and the next block."""
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
    """A source that reads the photos of shards in streams. For shards, see shards.py.

    The example at place p of a batch shows a photo of stream p. A stream cycles through a block of WINDOW photos until
    each photo has given `uses` examples. The stream then begins the next block. The streams begin their blocks at
    different times. Each batch therefore decodes about batch_size / uses photos.

    Each pass over the data distributes all shards to the streams in a different order. If there are fewer shards than
    streams, each shard is divided into n parts, and a part contains every n-th photo.
    The next usable photo of the stream replaces a photo that is damaged or too small.

    urls: see `find_shards`. uses: the number of examples from each photo of a pass. val_root: a folder of validation
    photos; None for the validation photos in the shards.
    Raises InputError if a value or the shards do not suit the run. Raises ShardError if a shard is missing or
    incomplete, which a run can notice in the middle of the training.
    """

    urls: str | Sequence[str]
    uses: int
    in_parts = True  # see `ResumableLoader`; without parts, every worker would decode every photo

    def __post_init__(self) -> None:
        super().__post_init__()
        check_whole("data.uses", self.uses)
        if self.urls is None:  # the default in the YAML file
            raise InputError("data=shards needs the output of upscale-lit shard. Name it with data.urls=FOLDER_OR_URL.")
        self.streams: dict[int, PhotoStream] = {}
        self.pool: Executor | None = None

    def open(self, plan: Plan) -> None:
        limit_pixels(self.max_megapixels)
        self.plan = plan
        sides = find_shards(self.urls)
        self.shards, self.count = sides["train"], sum(shard.photos for shard in sides["train"])
        if self.count < plan.batch_size:
            raise InputError(
                f"The shards must have at least data.batch_size={plan.batch_size} training photos, since each place of "
                f"a batch shows different photos; got {self.count}. Set a smaller data.batch_size, or use data=folder."
            )
        self.parts = -(-plan.batch_size // len(self.shards))  # parts of each shard: a / b rounded up is -(-a // b)
        listed = "\n".join(f"{Path(shard.url).name} {shard.photos} {shard.bytes}" for shard in self.shards)
        digest = hashlib.sha256(listed.encode()).hexdigest()[:16]
        self.identifier = f"{self.count} in shards ({digest}, {self.uses} uses)"
        own = self.val_folder
        self.val = self._read_val(sides["val"]) if own is None else self.read_held_out(self.read_folder(own))

    def _read_val(self, shards: Sequence[Shard]) -> Sequence[Pixels]:
        files = (file for shard in shards for file in read_shard(shard))
        held_out = []
        for name, data in heapq.nsmallest(self.plan.val_photos, files):  # by hash, as in a folder
            try:
                held_out.append(decode_photo(name, data, self.plan.keep)[1][0])
            except PhotoError as error:
                self.left_out[error.kind] += 1
        large = [picture for picture in held_out if min(picture.shape[:2]) >= SMALLEST_VAL]
        if not large:
            raise InputError(
                f"No validation photo in the shards has {SMALLEST_VAL} px or more on its shorter side. Name a folder "
                "of validation photos with data.val_root=DIR."
            )
        return large

    def __getstate__(self) -> dict[str, Any]:
        return {**super().__getstate__(), "streams": {}, "pool": None}  # each process opens its own streams

    def __len__(self) -> int:
        return self.count

    def pyramid(self, number: int) -> Pyramid:
        plan = self.plan
        epoch, within = divmod(number, plan.examples_per_epoch)
        batch, place = divmod(within, plan.batch_size)
        if place not in self.streams:
            self.pool = self.pool or ThreadPoolExecutor(1)  # one thread decodes the photos of all streams in turn
            self.streams[place] = PhotoStream(lambda first: self._usable(place, first), self.pool)
        batch += epoch * (plan.examples_per_epoch // plan.batch_size)
        # A stream begins a new block after `turns` batches. The offset place * turns // batch_size spreads the first
        # batches of the streams' blocks evenly over these `turns` batches.
        turns = WINDOW * self.uses
        block, turn = divmod(batch + place * turns // plan.batch_size, turns)
        return Pyramid.of_levels(self.streams[place].photo(block * WINDOW + turn % WINDOW))

    def _usable(self, place: int, first: int) -> Iterator[list[Pixels]]:
        """Yield a pyramid for each photo of a stream, beginning with photo number `first`."""
        failed = 0
        for name, data in self._files(place, first):
            try:
                side, levels = decode_photo(name, data, self.plan.keep)
            except PhotoError as error:
                log.warning("%s The next photo replaces this photo.", error)
                side = 0
            if side >= self.plan.smallest:
                yield from [levels] * (1 + failed)  # also in the place of the unusable photos before this one
            failed = 0 if side >= self.plan.smallest else failed + 1
            if failed >= GIVE_UP:
                raise InputError(
                    f"{failed} photos in a row are damaged or under data.crop={self.plan.smallest} px. Make shards of "
                    "other photos, or set data.small=enlarge or a smaller data.crop."
                )

    def _files(self, place: int, first: int) -> Iterator[tuple[str, bytes]]:
        """Yield (name, bytes) for each photo of a stream, over all passes, beginning with photo number `first`."""
        for passed in count():
            shuffled = generator(self.plan.seed, Stream.SHARDS, passed)
            order = shuffled.permutation(len(self.shards) * self.parts).tolist()
            for unit in order[place :: self.plan.batch_size]:
                shard, part = self.shards[unit // self.parts], unit % self.parts
                photos = len(range(part, shard.photos, self.parts))
                if first < photos:
                    yield from islice(read_shard(shard), part + first * self.parts, None, self.parts)
                first = max(0, first - photos)
