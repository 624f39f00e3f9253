"""Pictures that tell the story: one row each for input (bilinear), output and ground truth."""

import logging
from pathlib import Path
from typing import Any

import torch
from pytorch_lightning import Callback, LightningModule, Trainer
from pytorch_lightning.loggers import TensorBoardLogger
from pytorch_lightning.utilities import rank_zero_only
from torch import Tensor
from torchvision.utils import make_grid, save_image

from upscale_lit import resample

log = logging.getLogger(__name__)

TAG = "input_output_truth"


class ImageGrid(Callback):
    """After every validation: a grid of the same pairs, to TensorBoard and as `folder`/step_NNNNNN.png.

    Columns are the first `columns` validation pairs, rows are input (bilinear), output, ground truth. Needs a module
    whose validation step takes (low, high) and returns the prediction, all RGB in [0, 1].
    """

    def __init__(self, folder: Path, columns: int, factor: int) -> None:
        self.folder, self.columns, self.factor = folder, columns, factor
        self.latest: Path | None = None
        self._triples: list[list[Tensor]] = []

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        if stage == "fit" and not _tensorboards(trainer) and trainer.loggers:
            log.warning("No TensorBoard logger: image grids go to %s only.", self.folder)

    def on_validation_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._triples = []

    def on_validation_batch_end(  # type: ignore[override]
        self, trainer: Trainer, pl_module: LightningModule, outputs: Tensor, batch: Any, batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:  # fmt: skip
        if len(self._triples) < self.columns:
            low, high = batch
            bilinear = resample.interpolate(low, self.factor, "bilinear")
            self._triples += [
                [resample.to_float(row).cpu() for row in rows] for rows in zip(bilinear, outputs, high, strict=True)
            ]

    @rank_zero_only
    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if not self._triples:
            return
        grid = self._grid()
        self.folder.mkdir(parents=True, exist_ok=True)
        self.latest = self.folder / f"step_{trainer.global_step:06d}.png"
        save_image(grid, self.latest)
        for logger in _tensorboards(trainer):
            logger.experiment.add_image(TAG, grid, trainer.global_step)

    def _grid(self) -> Tensor:
        """(3, H, W), RGB rounded to 8 bits. Pictures smaller than the largest stand on a white ground."""
        triples = self._triples[: self.columns]
        side = max(truth.shape[-1] for *_, truth in triples)
        cells = [_on_white(triple[row], side) for row in range(3) for triple in triples]
        grid: Tensor = make_grid(cells, nrow=len(triples), padding=2, pad_value=1.0)
        return resample.to_float(resample.to_uint8(grid))


def _on_white(image: Tensor, side: int) -> Tensor:
    """(3, h, w) -> (3, side, side)."""
    cell = torch.ones(3, side, side)
    cell[:, : image.shape[-2], : image.shape[-1]] = image
    return cell


def _tensorboards(trainer: Trainer) -> list[TensorBoardLogger]:
    return [logger for logger in trainer.loggers if isinstance(logger, TensorBoardLogger)]
