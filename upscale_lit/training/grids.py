"""Image grids: one row for the input (bilinear), one for each output, and one for the ground truth."""

from pathlib import Path
from typing import Any

import torch.nn.functional as F
from pytorch_lightning import Callback, LightningModule, Trainer
from pytorch_lightning.utilities import rank_zero_only
from torch import Tensor
from torchvision.utils import make_grid, save_image

from upscale_lit import resample
from upscale_lit.files import atomic
from upscale_lit.training.report import tensorboards


class ImageGrid(Callback):
    """A callback that makes a grid of the same validation pairs after every validation.

    The grid is logged to TensorBoard and saved as `folder`/step_NNNNNN.png, named after the optimizer step.
    The columns are the first `columns` validation pairs. The rows are the input, enlarged by `factor` (bilinear), the
    predictions, and the ground truth. The module's validation step must take (low, high, ...) and return the rows by
    name, RGB, float in [0, 1]. A row that later validations leave out keeps its pictures.
    """

    def __init__(self, folder: Path, columns: int, factor: int) -> None:
        self.folder, self.columns, self.factor = folder, columns, factor
        self.latest: Path | None = None
        self._batches: dict[int, dict[str, Tensor]] = {}

    @property
    def rows(self) -> list[str]:
        """The names of the rows, from top to bottom."""
        return list(next(iter(self._batches.values()), {}))

    def on_validation_batch_end(  # type: ignore[override]
        self, trainer: Trainer, pl_module: LightningModule, outputs: dict[str, Tensor], batch: Any, batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:  # fmt: skip
        if batch_idx not in self._batches:
            if sum(len(rows["truth"]) for rows in self._batches.values()) >= self.columns:
                return
            low, high, *_ = batch
            outputs = {"input": resample.interpolate(low, self.factor, "bilinear"), **outputs, "truth": high}
            self._batches[batch_idx] = {}
        self._batches[batch_idx].update((name, resample.to_uint8(image).cpu()) for name, image in outputs.items())

    @rank_zero_only
    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if not self._batches:
            return
        grid = self._grid()
        self.latest = self.folder / f"step_{trainer.global_step:06d}.png"
        with atomic(self.latest) as part:
            save_image(grid, part, format="png")
        for logger in tensorboards(trainer):
            logger.experiment.add_image("_".join(self.rows), grid, trainer.global_step)

    def _grid(self) -> Tensor:
        """Return the grid: (3, H, W), RGB, float in [0, 1], rounded to 8 bits.

        All cells have the side of the largest picture. Smaller pictures are padded with white.
        """
        batches = self._batches.values()
        rows = [[image for batch in batches for image in batch[name]][: self.columns] for name in self.rows]
        side = max(truth.shape[-1] for truth in rows[-1])
        cells = [
            resample.to_float(F.pad(image, (0, side - image.shape[-1], 0, side - image.shape[-2]), value=255))
            for row in rows
            for image in row
        ]
        grid: Tensor = make_grid(cells, nrow=len(rows[0]), padding=2, pad_value=1.0)
        return grid
