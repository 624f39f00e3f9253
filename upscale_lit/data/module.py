"""The Lightning data module: it yields batches of low and high pictures."""

import hashlib
import logging
from collections.abc import Sequence
from functools import cached_property
from typing import Any, NamedTuple

from pytorch_lightning import LightningDataModule
from torch import Tensor
from torch.utils.data import DataLoader

from upscale_lit.data.loader import ResumableLoader
from upscale_lit.data.low import LowPictures
from upscale_lit.data.regions import Batch, Regions
from upscale_lit.data.sources import Plan, Source
from upscale_lit.data.validation import share, val_squares
from upscale_lit.errors import InputError, are_numbers, check_choice, check_whole, refuse_unless

log = logging.getLogger(__name__)

# The shorter side of a kept photo is at most KEEP times the stage's output size: more detail is not needed.
# The side is also at most KEEP_AT_MOST px, or KEEP_AT_LEAST times the output size if this is larger.
# A 4:3 photo with a shorter side of 1024 px takes about 8 MB with its pyramid. All stages from 128to256 upwards share
# these photos.
KEEP, KEEP_AT_MOST, KEEP_AT_LEAST = 4, 1024, 2
LOW_MULTIPLE = 4  # the reference network accepts only low pictures whose sides are multiples of 4


class ValPair(NamedTuple):
    """A validation picture of a run with a degradation: uint8 (1, 3, S, S) and its degraded downscale."""

    high: Tensor
    degraded: Tensor


class UpscaleDataModule(LightningDataModule):
    """Training batches (low, high), and validation pairs.

    low is uint8 (N, 3, crop / factor, crop / factor), and high is uint8 (N, 3, crop, crop), both RGB in [0, 255]. If
    earlier networks make the low pictures, low is float in [0, 1]. A validation pair is a batch with N = 1; its size
    depends on the photo.

    source: where the photos come from. low: how low pictures are made.
    size: the side of the stage's output in pixels. crop: the side of a high training picture in pixels, at most `size`.
    region: the smallest and the largest side of a region, as fractions of the photo's shorter side. A region has at
        least `crop` pixels on each side, except in photos that are enlarged.
    small: whether training photos whose shorter side is under `crop` are left out ("skip") or enlarged ("enlarge").
    batch_size, examples_per_epoch: both count the examples of all processes together.
    val_pairs: the largest number of validation photos. If there are fewer than 16 photos, each gives several pairs, so
        that there are at least 16 pairs, or `val_pairs` if this is less.
    shown: the number of validation pairs in the image grids.
    Raises InputError if a value is out of range; `setup` raises InputError if there are no photos to use.
    """

    def __init__(
        self, source: Source, low: LowPictures, size: int, crop: int, region: Sequence[float], small: str,
        batch_size: int, examples_per_epoch: int, val_pairs: int, num_workers: int, shown: int, seed: int,
    ) -> None:  # fmt: skip
        super().__init__()
        counts = {"size": size, "crop": crop, "batch_size": batch_size, "examples_per_epoch": examples_per_epoch}
        for name, value in {**counts, "val_pairs": val_pairs, "shown": shown, "seed": seed}.items():
            check_whole(f"data.{name}", value, 0 if name in ("shown", "seed") else 1)
        check_whole("data.num_workers", num_workers, 0, 1024)  # each worker is a process
        multiple = LOW_MULTIPLE * low.factor
        expected = f"a multiple of {multiple} and at most the stage's output size, {size} px"
        refuse_unless(crop % multiple == 0 and crop <= size, "data.crop", expected, crop)
        if examples_per_epoch < batch_size:
            raise InputError(
                f"data.examples_per_epoch must be at least data.batch_size={batch_size}; got {examples_per_epoch}. "
                "Raise data.examples_per_epoch or lower data.batch_size."
            )
        expected = "the smallest and the largest fraction of a photo's shorter side, such as [0, 1]"
        refuse_unless(are_numbers(region, 2) and 0 <= region[0] <= region[1] <= 1, "data.region", expected, region)
        check_choice("data.small", small, ("skip", "enlarge"))
        self.source, self.low, self.num_workers, self.shown = source, low, num_workers, shown
        self.region, self.small = (float(region[0]), float(region[1])), small
        keep = min(KEEP * size, max(KEEP_AT_MOST, KEEP_AT_LEAST * size))
        stage = f"{size // low.factor}to{size}"
        self.plan = Plan(stage, keep, crop, small == "enlarge", batch_size, examples_per_epoch, val_pairs, seed)
        self.batch_size, self.size = batch_size, size
        self.squares: list[Tensor] = []  # high validation pictures, see `val_squares`
        self.degraded: list[Tensor] = []  # with a degradation, a degraded downscale of each of these pictures
        self._loader: ResumableLoader | None = None
        self._begin_after = 0

    def setup(self, stage: str) -> None:
        """Open the source and cut the validation squares, in the first call only. Log the number of photos."""
        if self.squares:
            return
        self.source.open(self.plan)
        held_out = self.source.held_out()
        self.squares = val_squares(held_out, self.size, min(16, self.plan.val_photos), self.low.factor)
        if self.low.fixed:
            self.degraded = [
                self.low.degraded_for_validation(square, number) for number, square in enumerate(self.squares)
            ]
        counts = len(self.source), len(held_out), len(self.squares)
        log.info("%d photos to train on, %d to validate on (%d pairs)%s", *counts, getattr(self.source, "report", ""))

    @property
    def val_digest(self) -> str:
        """Return a hash of the validation pairs. Two runs that validate on the same pictures have the same hash."""
        digest = hashlib.sha256(f"{self.low.factor} {self.low.kernel}".encode())
        for square in self.squares:
            digest.update(str(tuple(square.shape)).encode() + square.numpy().tobytes())
        for value in self.low.previous.state_dict().values():
            digest.update(value.cpu().numpy().tobytes())
        return digest.hexdigest()[:16]

    @property
    def degraded_digest(self) -> str:
        """A digest of the degraded validation pictures, or "" without a degradation."""
        digest = hashlib.sha256()
        for low in self.degraded:
            digest.update(low.numpy().tobytes())
        return digest.hexdigest()[:16] if self.degraded else ""

    @cached_property
    def facts(self) -> dict[str, Any]:
        """Return the values that determine the examples, by option or description. A resumed run must have the same."""
        return {
            "data.batch_size": self.batch_size,
            "data.crop": self.plan.crop,
            "data.examples_per_epoch": self.plan.examples_per_epoch,
            "data.inverted": self.low.inverted,
            "data.kernel": self.low.kernel,
            "data.region": list(self.region),
            "data.small": self.small,
            "seed": self.plan.seed,
            "photos": self.source.identifier,
            "validation pairs": f"{len(self.squares)} ({self.val_digest})",
            **({"degraded pairs": self.degraded_digest} if self.degraded else {}),
        }

    def state_dict(self) -> dict[str, Any]:
        """Return the facts and the position in the epoch, which Lightning saves in checkpoints.

        The position is saved by the data module and not by the loader, because only the trainer knows how many batches
        an epoch has (trainer.limit_train_batches).
        """
        assert self.trainer is not None
        batches = 0 if self._loader is None else self._loader.handed_out % int(self.trainer.num_training_batches)
        return {"facts": self.facts, "batches": batches}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Let the next epoch begin after the batches that a checkpoint counts as seen.

        Raises InputError if the checkpoint was made with other facts, that is, with other examples.
        """
        for name, ours in self.facts.items():
            found = state_dict["facts"].get(name, ours)
            if found != ours:
                hint = getattr(self.source, "hint", "") if name in ("photos", "validation pairs") else ""
                raise InputError(
                    f"The checkpoint was made with {name}={found}; this run has {name}={ours}. A run must resume with "
                    f"the same data: give the same options, or start another run.{hint}"
                )
        self._begin_after = int(state_dict["batches"])

    def train_dataloader(self) -> DataLoader[Batch]:
        plan = self.plan
        regions = Regions(self.source, self.low, plan.crop, self.region, plan.seed)
        in_parts = getattr(self.source, "in_parts", False)
        self._loader = ResumableLoader(regions, plan, *self._place(), self.num_workers, in_parts)
        self._loader.begin_after, self._begin_after = self._begin_after, 0
        return self._loader

    def val_dataloader(self) -> DataLoader[Tensor | ValPair]:
        # Validation takes one square at a time, because squares differ in size. Memory need hold only one.
        own = share(len(self.squares), *self._place(), self.shown)
        pairs = [*map(ValPair, self.squares, self.degraded)] or self.squares
        return DataLoader([pairs[number] for number in own], batch_size=None)  # type: ignore[arg-type]

    def _place(self) -> tuple[int, int]:
        """Return the rank of this process and the number of processes."""
        return (0, 1) if self.trainer is None else (self.trainer.global_rank, self.trainer.world_size)

    def on_after_batch_transfer(self, batch: Batch | ValPair, dataloader_idx: int) -> tuple[Tensor, ...]:
        """Make the low pictures, on the training device: (low, high), in validation also the degraded low picture."""
        if isinstance(batch, Tensor):
            return self.low.clean(batch), batch
        high, degraded = batch
        low = self.low.upscaled(degraded)
        return (self.low.clean(high), high, low) if isinstance(batch, ValPair) else (low, high)
