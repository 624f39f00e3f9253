"""Pairs of low and high pictures: which photos, which regions of them, and the low twin made on the training device."""

import hashlib
import logging
import math
import shlex
import signal
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from pytorch_lightning import LightningDataModule
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, Sampler

from upscale_lit import resample
from upscale_lit.data.cache import Pictures, Store, default_folder, load_photos
from upscale_lit.data.photo import SUFFIXES, Photo, Pixels, limit_pixels
from upscale_lit.data.sources import SMALLEST_VAL, find_photos, oxford_pets, sample_photos, split_photos, without_copies
from upscale_lit.errors import (
    InputError,
    ShardError,
    are_numbers,
    check_choice,
    check_number,
    check_path,
    check_whole,
    refuse_unless,
    shown,
)
from upscale_lit.models import FACTORS, upscale
from upscale_lit.signals import SIGNALS

log = logging.getLogger(__name__)

# Photos are kept at up to four times the stage's output size, since more is detail that no example can show, and at
# most at 1024 px, where that still is twice the output: some 5 MB each, shared by all stages from 128to256 upwards.
KEEP, KEEP_AT_MOST, KEEP_AT_LEAST = 4, 1024, 2
ADDED = (".jfif", ".jpe", ".mpo")  # endings that earlier versions did not read
LOW_MULTIPLE = 4  # sides of low training examples: the reference network takes no others
SIDE_MULTIPLE = 8  # sides of validation squares: they have low twins at 1/2, 1/4 and 1/8


class Photos(Protocol):
    """Where examples come from: the photo of example `number`, chosen by `which` in [0, 1) or by the number itself."""

    def draw(self, number: int, which: float) -> tuple[Sequence[tuple[int, int]], Callable[[int], Pixels]]:
        """((height, width) of each level of the photo's pyramid, the largest first; the levels)"""


class Regions(Dataset[tuple[Tensor, ...]]):
    """Training examples: random square regions of random photos, each a pure function of (seed, number).

    `number` counts examples over all epochs. A region's side lies between region[0] and region[1] of its photo's
    shorter side: it is a square of `crop` pixels of a level of the photo's pyramid, a level that shows twice as much
    being drawn twice as often, so that sides spread evenly. Where no level fits the range, and for photos with a side
    under `crop`, a square is resized, antialiased.
    """

    def __init__(
        self,
        photos: Photos,
        crop: int,
        region: tuple[float, float],
        seed: int,
        augmentation: tuple[int, float, float] | None = None,
    ) -> None:
        """augmentation: for `augment`, the low side and the largest sigmas of blur (pixels) and noise (grey levels)."""
        self.photos, self.crop, self.region, self.seed = photos, crop, region, seed
        self.augmentation = augmentation

    def __getitems__(self, numbers: list[int]) -> tuple[Tensor, ...]:
        """A whole batch at once: high (N, 3, crop, crop), uint8 RGB, and flips (N, 2), bool, still to be done.

        With an augmentation also the blur's sigmas, (N, 1, 1, 1), and the noise, (N, 3, low side, low side).
        """
        draws = self._draws(numbers, 6)
        regions = np.empty((len(numbers), self.crop, self.crop, 3), np.uint8)
        for row, number, draw in zip(regions, numbers, draws[:, :4].tolist(), strict=True):
            row[:] = self._region(*self.photos.draw(number, draw[0]), *draw[1:])
        high = torch.from_numpy(regions).permute(0, 3, 1, 2)
        flips = torch.from_numpy(draws[:, 4:6] < 0.5)
        if self.augmentation is None:
            return high, flips
        side, blur, noise = self.augmentation
        sigmas = self._draws(numbers, 2, stream=2).astype(np.float32)[:, :, None, None, None]
        fields = [np.random.Generator(np.random.Philox(key=[self.seed, 3], counter=[0, n, 0, 0])) for n in numbers]
        normal = np.stack([field.standard_normal((3, side, side), dtype=np.float32) for field in fields])
        return high, flips, torch.from_numpy(blur * sigmas[:, 0]), torch.from_numpy(noise * sigmas[:, 1] * normal)

    def _draws(self, numbers: list[int], count: int, stream: int = 0) -> NDArray[np.float64]:
        """(len(numbers), count), in [0, 1): a function of (seed, stream, number)."""
        first = min(numbers)
        if max(numbers) - first >= 4 * len(numbers):  # far apart, as where a sampler has shuffled them
            return np.concatenate([self._draws([number], count, stream) for number in numbers])
        # Philox is a function of a key and a counter, which counts in fours.
        generator = np.random.Generator(np.random.Philox(key=[self.seed, stream], counter=2 * first))
        return generator.random((max(numbers) - first + 1, 8))[np.array(numbers) - first, :count]

    def _region(
        self, shapes: Sequence[tuple[int, int]], level_of: Callable[[int], Pixels], zoom: float, top: float, left: float
    ) -> Pixels:
        """A photo's pyramid and three numbers in [0, 1) -> uint8 (crop, crop, 3)."""
        crop, (smallest, largest) = self.crop, self.region
        fitting = _fitting(shapes, crop, self.region)
        if fitting:  # a level shows sqrt(2) as much as the one before it, along each side
            level = fitting[0] + int(2 * math.log2(1 + zoom * (2 ** (len(fitting) / 2) - 1)))
            size = crop
        else:
            sides = [min(shape) for shape in shapes]
            part = min(1.0, max(crop / sides[0], smallest + (largest - smallest) * zoom))
            level = max((level for level, side in enumerate(sides) if part * side >= crop), default=0)
            size = max(1, round(part * sides[level]))
        image = level_of(level)
        height, width, _ = image.shape
        y, x = int(top * (height - size + 1)), int(left * (width - size + 1))
        square = image[y : y + size, x : x + size]
        return square if size == crop else _resize(square, crop, crop)[0].permute(1, 2, 0).numpy()


@lru_cache(maxsize=4096)
def _fitting(shapes: Sequence[tuple[int, int]], crop: int, region: tuple[float, float]) -> list[int]:
    """The levels of a pyramid of which `crop` pixels are a part of the shorter side within the region's range."""
    return [level for level, shape in enumerate(shapes) if region[0] <= crop / min(shape) <= region[1]]


def augment(low: Tensor, blur: Tensor, noise: Tensor) -> Tensor:
    """A little blur, then noise, as an imperfect earlier stage might leave them.

    low: uint8 (N, 3, h, w). blur: (N, 1, 1, 1), sigma in pixels of a Gaussian cut off after its nearest neighbours, so
    well under 1. noise: (N, 3, h, w), to be added, in grey levels. Returns the shape and type of `low`.
    """
    side = torch.exp(-0.5 / blur.square().clamp(min=1e-6))  # a neighbour's weight, the centre's being 1
    image = low.float()
    for axes in ((-1, (1, 1, 0, 0)), (-2, (0, 0, 1, 1))):
        padded = F.pad(image, axes[1], mode="replicate")
        size = image.shape[axes[0]]
        before, after = padded.narrow(axes[0], 0, size), padded.narrow(axes[0], 2, size)
        image = (image + side * (before + after)) / (1 + 2 * side)
    return (image + noise).clamp_(0.0, 255.0).round_().byte()


class Numbers(Sampler[int]):
    """The numbers of an epoch's examples, counted over all epochs; Lightning calls `set_epoch`.

    Each of `ranks` processes gets its part of every batch: together they see what one alone would. What is left over
    at an epoch's end makes no batch.
    """

    def __init__(self, examples_per_epoch: int, batch_size: int, rank: int = 0, ranks: int = 1) -> None:
        self.examples_per_epoch, self.batch_size, self.rank = examples_per_epoch, batch_size, rank
        self.own = batch_size // ranks  # of each batch
        self.epoch = self.skipped = 0  # skipped: batches

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def __len__(self) -> int:
        return self.examples_per_epoch // self.batch_size * self.own

    def __iter__(self) -> Iterator[int]:
        for batch in range(self.skipped, self.examples_per_epoch // self.batch_size):
            first = self.epoch * self.examples_per_epoch + batch * self.batch_size + self.rank * self.own
            yield from range(first, first + self.own)


class ResumableLoader(DataLoader[tuple[Tensor, ...]]):
    """A DataLoader over `Numbers` that can begin in the middle of an epoch, without making what was seen before.

    handed_out: batches of this epoch; workers may have made more. begin_after: so many, in the next epoch only.
    parts: where batch_size is that part of a batch, so many in a row are put together: each worker makes the same
    places of all batches.
    """

    handed_out = 0
    begin_after = 0
    parts = 1

    def __len__(self) -> int:
        return super().__len__() // self.parts

    def __iter__(self) -> Any:
        # A generator begins with its first batch, when Lightning has set the epoch; workers would begin before.
        self.handed_out, self.begin_after = self.begin_after, 0
        self.sampler.skipped = self.handed_out  # type: ignore[attr-defined]
        made = super().__iter__()
        try:
            for first in made:
                self.handed_out += 1
                rest = [next(made) for _ in range(self.parts - 1)]
                yield tuple(torch.cat(parts) for parts in zip(first, *rest, strict=True)) if rest else first
        except ShardError as error:  # a worker's comes with its traceback
            raise ShardError(str(error).rpartition("ShardError: ")[2].strip()) from None


def _resize(region: Pixels, height: int, width: int) -> Tensor:
    """uint8 (H, W, 3) -> uint8 (1, 3, height, width), bicubic, antialiased."""
    return resample.resize(torch.from_numpy(region.copy()).permute(2, 0, 1)[None], height, width)


def val_squares(photos: Sequence[Pixels], size: int, at_least: int) -> list[Tensor]:
    """The squares to validate on: as large as the photos allow, at most `size` px, always the same.

    photos: uint8 (H, W, 3). Returns uint8 (1, 3, S, S) with S <= size, S a multiple of 8. Each photo gives one square,
    its largest; where that makes fewer than `at_least`, each gives several, regions that go evenly from its whole
    shorter side down to half of it, on a path from corner to corner. Regions larger than `size` are resized to it,
    antialiased; smaller ones stay as they are.
    """
    views = -(-at_least // len(photos))
    squares = []
    for view in range(views):  # views outside, photos inside: the first columns of a grid show different photos
        along = view / (views - 1) if views > 1 else 0.5
        for photo in photos:
            height, width, _ = photo.shape
            side = round(min(height, width) * (1 - along / 2)) if views > 1 else min(height, width)
            target = min(size, side) // SIDE_MULTIPLE * SIDE_MULTIPLE
            side = side if side > size else target
            top, left = round((height - side) * along), round((width - side) * along)
            squares.append(_resize(photo[top : top + side, left : left + side], target, target).contiguous())
    return squares


def share(pairs: int, rank: int, ranks: int, shown: int) -> range:
    """Which validation pairs a process measures: each pair is one process's, and the first one has at least the first
    `shown`, those of the image grids. Where there are too few for that, all measure all: the mean is the same."""
    first = max(shown, -(-pairs // ranks))
    rest = pairs - first
    if ranks == 1 or rest < ranks - 1:
        return range(pairs)
    if rank == 0:
        return range(first)
    return range(first + rest * (rank - 1) // (ranks - 1), first + rest * rank // (ranks - 1))


class _Side(NamedTuple):
    """The photos to train or to validate on, and where their pixels are."""

    photos: Sequence[Photo]
    store: Store


class UpscaleDataModule(LightningDataModule):
    """Batches (low, high): (N, 3, crop / factor, crop / factor) and (N, 3, crop, crop), RGB, uint8.

    root: folder of photos; None for the sample photographs. val_root: folder to validate on; None to split `root`.
    pets: "cats", "dogs" or "all": the Oxford-IIIT Pet photographs instead, downloaded into `root` (None: a folder of
    the user's cache). cache: folder for the decoded photos, "auto" for one of the user's cache, None for memory.
    cache_limit: GB, as in `load_photos`. max_megapixels: larger pictures are refused.
    size: the stage's output side in pixels. crop: the high side of a training example, at most `size`.
    region: the smallest and the largest region, as fractions of a photo's shorter side (never under `crop`).
    batch_size: of all processes together, as examples_per_epoch. shown: pairs that the image grids show.
    small: "skip" or "enlarge" training photos whose shorter side is under `crop`.
    blur, noise: the largest amounts of `augment` in training, in low pixels and grey levels.
    previous: 2x networks that make low from a smaller picture, in training and validation; low is then float.
    Raises InputError when a value makes no sense, and in `setup` when the photos do not serve.
    """

    parted = False  # each worker makes a part of every batch, instead of whole ones in turn

    def __init__(
        self,
        root: str | None,
        val_root: str | None,
        size: int,
        factor: int,
        crop: int,
        batch_size: int,
        examples_per_epoch: int,
        region: Sequence[float],
        kernel: str,
        small: str,
        val_fraction: float,
        val_pairs: int,
        num_workers: int,
        seed: int,
        pets: str | None = None,
        cache: str | None = None,
        cache_limit: float = 50.0,
        max_megapixels: float = 180.0,
        shown: int = 6,
        blur: float = 0.0,
        noise: float = 0.0,
        previous: Sequence[nn.Module] = (),
    ) -> None:
        super().__init__()
        counts = {"size": size, "crop": crop, "batch_size": batch_size, "examples_per_epoch": examples_per_epoch}
        for name, value in {**counts, "val_pairs": val_pairs}.items():
            check_whole(f"data.{name}", value)
        check_whole("data.num_workers", num_workers, 0, 1024)  # each is a process
        for name, value in {"shown": shown, "seed": seed}.items():
            check_whole(f"data.{name}", value, 0)
        check_choice("data.factor", factor, FACTORS)
        refuse_unless(
            crop % (LOW_MULTIPLE * factor) == 0 and crop <= size, "data.crop",
            f"a multiple of {LOW_MULTIPLE * factor} and at most the stage's output size, {size} px", crop,
        )  # fmt: skip
        if examples_per_epoch < batch_size:
            raise InputError(
                f"An epoch of data.examples_per_epoch={examples_per_epoch} examples holds no batch of "
                f"data.batch_size={batch_size}: lower the one or raise the other."
            )
        refuse_unless(
            are_numbers(region, 2) and 0 <= region[0] <= region[1] <= 1, "data.region",
            "the smallest and the largest part of a photo's shorter side, such as [0, 1]", region,
        )  # fmt: skip
        check_choice("data.kernel", kernel, resample.KERNELS)
        check_choice("data.small", small, ("skip", "enlarge"))
        check_number("data.val_fraction", val_fraction, above=0, below=1)
        check_number("data.cache_limit", cache_limit, above=0)
        check_number("data.max_megapixels", max_megapixels, above=0)
        self.max_megapixels = max_megapixels
        self.root, self.val_root, self.pets = _folder("root", root), _folder("val_root", val_root), pets
        self.cache = default_folder() if cache == "auto" else _folder("cache", cache)
        self.cache_limit = cache_limit
        self.size, self.factor, self.crop, self.kernel, self.small = size, factor, crop, kernel, small
        self.batch_size, self.examples_per_epoch, self.num_workers = batch_size, examples_per_epoch, num_workers
        self.region = (float(region[0]), float(region[1]))
        self.val_fraction, self.val_pairs, self.shown, self.seed = val_fraction, val_pairs, shown, seed
        self.augmentation = (crop // factor, float(blur), float(noise)) if blur or noise else None
        self.previous = previous
        self.regions: Regions | None = None
        self.train_photos: Sequence[Photo] = []
        self.photos_fact = ""  # how many, and a hash that names them
        self.endings: set[str] = set()  # of the photos' files
        self.squares: list[Tensor] = []
        self._loader: ResumableLoader | None = None
        self._begin_after = 0

    def setup(self, stage: str) -> None:
        """Find, read and split the photos, once. One line in the log says what is left out."""
        if self.regions is not None:
            return
        limit_pixels(self.max_megapixels)
        left_out: Counter[str] = Counter()
        count, held_out = self._load(left_out)
        self.squares = val_squares(held_out, self.size, min(16, self.val_pairs))
        log.info(
            "%d photos to train on, %d to validate on (%d pairs)%s",
            count, len(held_out), len(self.squares), self._told(+left_out),
        )  # fmt: skip

    def _load(self, left_out: Counter[str]) -> tuple[int, Sequence[Pixels]]:
        """Sets `regions` and `photos_fact`. Returns (the number of photos to train on, the pictures to validate on)."""
        train, val, moved = self._sides(left_out)
        for photo in moved:
            side = "validation" if photo in val.photos else "training"
            log.warning(
                "The split left no photo of %s for %s; %s, the nearest by its hash, went there.",
                shown(photo.path.parent), side, shown(photo.path),
            )  # fmt: skip
        photos, copies = without_copies(train.photos, val.photos)
        if not photos:
            raise InputError(
                f"All {len(copies)} pictures to train on are also among those to validate on: name other photos with "
                "data.val_root=DIR, or leave it out to have data.root split."
            )
        left_out["also in validation"] += len(copies)
        chosen = self._large_enough(photos)
        left_out[f"under data.crop={self.crop} px"] += len(photos) - len(chosen)
        self.train_photos = chosen
        digest = hashlib.sha256("".join(photo.picture for photo in chosen).encode()).hexdigest()[:16]
        self.photos_fact = f"{len(chosen)} ({digest})"
        self.regions = Regions(Pictures(train.store, chosen), self.crop, self.region, self.seed, self.augmentation)
        return len(chosen), self._held_out(val, left_out)

    def _held_out(self, val: _Side, left_out: Counter[str]) -> Sequence[Pixels]:
        """The pictures to validate on."""
        held_out = [photo for photo in val.photos if photo.side >= SMALLEST_VAL]
        left_out[f"under {SMALLEST_VAL} px in validation"] += len(val.photos) - len(held_out)
        if not held_out:
            raise InputError(
                f"No validation photo has {SMALLEST_VAL} px or more on its shorter side: add larger photos."
            )
        if len(held_out) > self.val_pairs:  # chosen by their hashes: from all over the folder, and always the same
            held_out = sorted(held_out, key=lambda photo: photo.digest)[: self.val_pairs]
        pictures = Pictures(val.store, held_out)
        return [pictures.level(number) for number in range(len(pictures))]

    def _told(self, left_out: Counter[str]) -> str:
        """What is left out, counted by reason."""
        if not left_out:
            return ""
        roots = [root for root in (self.root, self.val_root) if root is not None]
        words = ["upscale-lit", "check", shown(roots[0]) if roots else ""]
        words += ["--val-root", shown(roots[1])] if len(roots) > 1 else []
        counts = ", ".join(f"{count} {kind}" for kind, count in left_out.most_common())
        command = shlex.join([*words, "--stage", f"{self.size // self.factor}to{self.size}"])
        return f"; left out: {counts}" + (f". {command} names them" if roots else "")

    def _sides(self, left_out: Counter[str]) -> tuple[_Side, _Side, Sequence[Photo]]:
        """(training, validation, the photos that the split moved)."""
        sample_train, sample_val = ([], []) if self.root is not None or self.pets is not None else sample_photos()
        if self.pets is not None:
            root = self.root or default_folder() / "oxford_pets"
            side = self._read(oxford_pets(root, self.pets), root, left_out)
        elif self.root is not None:
            side = self._read_folder(self.root, left_out)
        else:
            side = self._read(sample_train, sample_train[0].parent, left_out)
        if self.val_root is not None:
            return side, self._read_folder(self.val_root, left_out), ()
        if sample_val:
            return side, self._read(sample_val, sample_val[0].parent, left_out), ()
        train, val, moved = split_photos(side.photos, self.val_fraction, self.crop if self.small == "skip" else 1)
        left_out[f"under {SMALLEST_VAL} px"] += len(side.photos) - len(train) - len(val)
        return _Side(train, side.store), _Side(val, side.store), moved

    def _read_folder(self, root: Path, left_out: Counter[str]) -> _Side:
        paths, others = find_photos(root)
        left_out.update(other.kind for other in others)
        return self._read(paths, root, left_out)

    @property
    def keep(self) -> int:
        """Larger photos are shrunk to so many pixels on their shorter side."""
        return min(KEEP * self.size, max(KEEP_AT_MOST, KEEP_AT_LEAST * self.size))

    def _read(self, paths: Sequence[Path], root: Path, left_out: Counter[str]) -> _Side:
        photos, troubles, store = load_photos(paths, root, self.keep, self.cache, self.cache_limit)
        left_out.update(trouble.kind for trouble in troubles)
        self.endings |= {photo.path.suffix.lower() for photo in photos}
        if not photos:
            first = f" (the first: {troubles[0]})" if troubles else ""
            raise InputError(
                f"No picture in {shown(root)} or its subfolders can be read: {len(paths)} files there end in one of "
                f"{' '.join(SUFFIXES)}{first}. Name a folder of photos with data.root=DIR."
            )
        return _Side(photos, store)

    def _large_enough(self, photos: Sequence[Photo]) -> Sequence[Photo]:
        large = [photo for photo in photos if photo.side >= self.crop]
        if self.small == "enlarge":
            if len(large) < len(photos):
                log.info("%d photos under data.crop=%d px are enlarged.", len(photos) - len(large), self.crop)
            return photos
        if not large:
            largest = max((photo.side for photo in photos), default=0)
            raise InputError(
                f"Every photo to train on is too small: the largest has {largest} px on its shorter side, "
                f"data.crop={self.crop}. Give larger photos, data.crop={max(8, largest // 8 * 8)}, or "
                "data.small=enlarge."
            )
        return large

    @property
    def val_digest(self) -> str:
        """Names the validation pairs: equal for two runs that measure on the same pictures."""
        digest = hashlib.sha256(f"{self.factor} {self.kernel}".encode())
        for square in self.squares:
            digest.update(str(tuple(square.shape)).encode() + square.numpy().tobytes())
        for network in self.previous:
            for value in network.state_dict().values():
                digest.update(value.cpu().numpy().tobytes())
        return digest.hexdigest()[:16]

    @cached_property
    def facts(self) -> dict[str, Any]:
        """What decides which examples there are, by the options that set it."""
        return {
            "data.batch_size": self.batch_size,
            "data.crop": self.crop,
            "data.examples_per_epoch": self.examples_per_epoch,
            "data.kernel": self.kernel,
            "data.region": list(self.region),
            "data.small": self.small,
            "seed": self.seed,
            "photos": self.photos_fact,
            "validation pairs": f"{len(self.squares)} ({self.val_digest})",
        }

    def state_dict(self) -> dict[str, Any]:
        """Lightning keeps it in checkpoints."""
        assert self.trainer is not None
        batches = 0 if self._loader is None else self._loader.handed_out % int(self.trainer.num_training_batches)
        return {"facts": self.facts, "batches": batches}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Continue after the batches that were seen. Raises InputError when those were not examples of this run."""
        for name, ours in self.facts.items():
            found = state_dict["facts"].get(name)
            if found != ours:
                added = ", ".join(ending for ending in ADDED if ending in self.endings)
                by_photos = name in ("photos", "validation pairs")
                raise InputError(
                    f"The checkpoint was made with {name}={found}; here it is {ours}. A run continues with the data "
                    "that it began with: give what it had, or start another run."
                    + (
                        f" Files that end in {added} were not read by earlier versions, and now are."
                        if added and by_photos
                        else ""
                    )
                )
        self._begin_after = int(state_dict["batches"])

    def train_dataloader(self) -> DataLoader[tuple[Tensor, ...]]:
        assert self.regions is not None
        rank, ranks = self._place()
        own = self.batch_size // ranks
        parts = self.num_workers if self.parted and self.num_workers and own % self.num_workers == 0 else 1
        self._loader = ResumableLoader(
            self.regions,
            batch_size=own // parts,
            sampler=Numbers(self.examples_per_epoch, self.batch_size, rank, ranks),
            collate_fn=_as_is,
            num_workers=self.num_workers,
            persistent_workers=self.num_workers > 0,
            worker_init_fn=_leave_signals_to_the_run,
            pin_memory=torch.cuda.is_available(),
        )
        self._loader.parts = parts
        self._loader.begin_after, self._begin_after = self._begin_after, 0
        return self._loader

    def val_dataloader(self) -> DataLoader[Tensor]:
        # One square at a time: their sizes differ, and memory stays at what one picture needs.
        own = share(len(self.squares), *self._place(), self.shown)
        return DataLoader([self.squares[number] for number in own], batch_size=None)  # type: ignore[arg-type]

    def _place(self) -> tuple[int, int]:
        """This process, and how many there are."""
        return (0, 1) if self.trainer is None else (self.trainer.global_rank, self.trainer.world_size)

    def on_after_batch_transfer(self, batch: Tensor | tuple[Tensor, ...], dataloader_idx: int) -> tuple[Tensor, Tensor]:
        """On the training device: flips and the low twin, for the whole batch."""
        if isinstance(batch, Tensor):
            return self._low(batch), batch
        high, flips, *augmentation = batch
        high = _flipped(high, flips)
        low = self._low(high)
        return augment(low, *augmentation) if augmentation else low, high

    @torch.no_grad()
    def _low(self, high: Tensor) -> Tensor:
        low = resample.downscale(high, self.factor * 2 ** len(self.previous), self.kernel)
        for network in self.previous:
            low = upscale(network.to(high.device), low)
        return low


def _flipped(high: Tensor, flips: Tensor) -> Tensor:
    """uint8 (N, 3, S, S) with columns and rows reversed where flips, bool (N, 2), says so; on CPUs in place."""
    if high.device.type == "cpu":  # one by one: an example fits a core's cache, and most need one flip or none
        for example, (columns, rows) in zip(high, flips.tolist(), strict=True):
            if axes := [-1] * columns + [-2] * rows:
                example.copy_(example.flip(axes))
        return high
    for number, axis in enumerate((-1, -2)):
        high = torch.where(flips[:, number, None, None, None], high.flip(axis), high)
    return high


def _folder(option: str, path: str | None) -> Path | None:
    return None if path is None else check_path(f"data.{option}", path)


def _leave_signals_to_the_run(worker: int) -> None:
    signal.set_wakeup_fd(-1)  # the run's own, if this process was forked
    for number in SIGNALS:  # they go to all processes of a terminal, or of a cluster's job; the run ends its workers
        signal.signal(number, signal.SIG_IGN)


def _as_is(batch: Any) -> Any:
    return batch
