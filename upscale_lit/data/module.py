"""The data module, which makes batches of low and high pictures."""

import hashlib
import logging
from collections.abc import Sequence
from functools import cached_property
from typing import Any

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

# Photos are kept at up to four times the stage's output size, since no example can show finer detail. The size is
# limited to 1024 px, or to twice the output size if that is more. All stages from 128to256 on then share photos of
# about 5 MB each.
KEEP, KEEP_AT_MOST, KEEP_AT_LEAST = 4, 1024, 2
LOW_MULTIPLE = 4  # sides of low training examples are multiples of this, because the reference network needs it


class UpscaleDataModule(LightningDataModule):
    """A data module of batches (low, high): (N, 3, crop / factor, crop / factor) and (N, 3, crop, crop), RGB, uint8.

    source: where photos come from. low: how low pictures are made; with earlier networks, low pictures are float.
    size: the side of the stage's output in pixels. crop: the side of a high training example, at most `size`.
    region: the smallest and the largest region, as fractions of a photo's shorter side (never under `crop`).
    small: whether training photos with a shorter side under `crop` are left out ("skip") or enlarged ("enlarge").
    batch_size, examples_per_epoch: the numbers of all processes together.
    val_pairs: the largest number of validation photos. Fewer than 16 photos give several pairs each, 16 in all.
    shown: the number of pairs that the image grids show.
    Raises InputError if a value is out of range, and in `setup` if no photo can be used.
    """

    def __init__(
        self, source: Source, low: LowPictures, size: int, crop: int, region: Sequence[float], small: str,
        batch_size: int, examples_per_epoch: int, val_pairs: int, num_workers: int, shown: int, seed: int,
    ) -> None:  # fmt: skip
        super().__init__()
        counts = {"size": size, "crop": crop, "batch_size": batch_size, "examples_per_epoch": examples_per_epoch}
        for name, value in {**counts, "val_pairs": val_pairs, "shown": shown, "seed": seed}.items():
            check_whole(f"data.{name}", value, 0 if name in ("shown", "seed") else 1)
        check_whole("data.num_workers", num_workers, 0, 1024)  # each is a process
        multiple = LOW_MULTIPLE * low.factor
        expected = f"a multiple of {multiple} and at most the stage's output size, {size} px"
        refuse_unless(crop % multiple == 0 and crop <= size, "data.crop", expected, crop)
        if examples_per_epoch < batch_size:
            raise InputError(
                f"data.examples_per_epoch must be at least data.batch_size={batch_size}; got {examples_per_epoch}. "
                "Raise the former or lower the latter."
            )
        expected = "the smallest and the largest part of a photo's shorter side, such as [0, 1]"
        refuse_unless(are_numbers(region, 2) and 0 <= region[0] <= region[1] <= 1, "data.region", expected, region)
        check_choice("data.small", small, ("skip", "enlarge"))
        self.source, self.low, self.num_workers, self.shown = source, low, num_workers, shown
        self.region, self.small = (float(region[0]), float(region[1])), small
        keep = min(KEEP * size, max(KEEP_AT_MOST, KEEP_AT_LEAST * size))
        stage = f"{size // low.factor}to{size}"
        self.plan = Plan(stage, keep, crop, small == "enlarge", batch_size, examples_per_epoch, val_pairs, seed)
        self.batch_size, self.size = batch_size, size
        self.squares: list[Tensor] = []  # to validate on: high pictures, see `val_squares`
        self._loader: ResumableLoader | None = None
        self._begin_after = 0

    def setup(self, stage: str) -> None:
        """Open the source, once. Log in one line which photos are left out."""
        if self.squares:
            return
        self.source.open(self.plan)
        held_out = self.source.held_out()
        self.squares = val_squares(held_out, self.size, min(16, self.plan.val_photos), self.low.factor)
        counts = len(self.source), len(held_out), len(self.squares)
        log.info("%d photos to train on, %d to validate on (%d pairs)%s", *counts, getattr(self.source, "report", ""))

    @property
    def val_digest(self) -> str:
        """A digest of the validation pairs, equal for two runs that measure on the same pictures."""
        digest = hashlib.sha256(f"{self.low.factor} {self.low.kernel}".encode())
        for square in self.squares:
            digest.update(str(tuple(square.shape)).encode() + square.numpy().tobytes())
        for value in self.low.previous.state_dict().values():
            digest.update(value.cpu().numpy().tobytes())
        return digest.hexdigest()[:16]

    @cached_property
    def facts(self) -> dict[str, Any]:
        """The facts that determine the examples, by the options that set them."""
        return {
            "data.batch_size": self.batch_size,
            "data.crop": self.plan.crop,
            "data.examples_per_epoch": self.plan.examples_per_epoch,
            "data.kernel": self.low.kernel,
            "data.region": list(self.region),
            "data.small": self.small,
            "seed": self.plan.seed,
            "photos": self.source.identifier,
            "validation pairs": f"{len(self.squares)} ({self.val_digest})",
        }

    def state_dict(self) -> dict[str, Any]:
        """Return the state that Lightning saves in checkpoints.

        It includes the loader's position. Lightning's own state of a loader does not fit, because only the trainer
        knows where an epoch ends (trainer.limit_train_batches).
        """
        assert self.trainer is not None
        batches = 0 if self._loader is None else self._loader.handed_out % int(self.trainer.num_training_batches)
        return {"facts": self.facts, "batches": batches}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Continue after the batches of the checkpoint. Raises InputError if its run had other examples."""
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

    def val_dataloader(self) -> DataLoader[Tensor]:
        # One square at a time, because the sizes of squares differ. Memory is then limited to one picture.
        own = share(len(self.squares), *self._place(), self.shown)
        return DataLoader([self.squares[number] for number in own], batch_size=None)  # type: ignore[arg-type]

    def _place(self) -> tuple[int, int]:
        """Return the rank of this process and the number of processes."""
        return (0, 1) if self.trainer is None else (self.trainer.global_rank, self.trainer.world_size)

    def on_after_batch_transfer(self, batch: Batch, dataloader_idx: int) -> tuple[Tensor, Tensor]:
        """Make the low pictures, on the training device."""
        if isinstance(batch, Tensor):
            return self.low.clean(batch), batch
        high, degraded = batch
        return self.low.upscaled(degraded), high
