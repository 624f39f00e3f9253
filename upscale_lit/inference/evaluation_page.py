"""The page of an evaluation: its table and its pictures, with sliders."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from PIL import Image
from torch import Tensor

from upscale_lit import resample
from upscale_lit.errors import shown
from upscale_lit.inference.comparison import comparison
from upscale_lit.inference.sets import Pair
from upscale_lit.pages.page import LINKED, Comparison, linked, write_page


class EvaluationPage:
    """The page of an evaluation. In each set, the pictures with the lowest PSNR on Y come first.

    path: of the page. method: the name of the method whose PSNR decides the order.
    """

    def __init__(self, path: Path, method: str) -> None:
        self.path, self.method = path, method
        self.sets: dict[str, list[tuple[float, Comparison]]] = {}

    def add(self, name: str, pair: Pair, preds: Mapping[str, Tensor], measured: Mapping[str, Sequence[float]]) -> None:
        """Add a picture of the set `name`.

        preds: method -> uint8, (1, C, H, W). measured: method -> PSNR on Y, SSIM on Y and PSNR on RGB.
        Raises WriteError if the copies of the pictures cannot be written.
        """
        found = self.sets.setdefault(name, [])
        # A finished picture, which --compare scores, has no smaller input.
        low = [] if pair.low.shape == pair.high.shape else [("input", pair.low)]
        layers = [(label, image_of(tensor)) for label, tensor in [*low, *preds.items(), ("truth", pair.high)]]
        title = shown(Path(pair.name))
        made = comparison(title, layers, [], linked(self.path), f"{list(self.sets).index(name)}_{len(found)}")
        methods = list(preds)
        ours = len(low) + methods.index(self.method)
        left, right = (len(low) + methods.index("bicubic"), ours) if "bicubic" in methods else (ours, -1)
        rows = [[label, f"{y:.2f}", f"{ssim:.4f}", f"{rgb:.2f}"] for label, (y, ssim, rgb) in measured.items()]
        made = replace(
            made, left=left, right=right, rows=rows,
            heading=["method", "PSNR on Y", "SSIM on Y", "PSNR on RGB"],
        )  # fmt: skip
        psnr = measured[self.method][0]
        found.append((math.inf if math.isnan(psnr) else psnr, made))

    def write(self, heading: Sequence[str], rows: Sequence[Sequence[str]], convention: str) -> None:
        """Write the page. heading, rows, convention: of the table of the evaluation.

        Raises WriteError if the page cannot be written.
        """
        sections = [
            (shown(Path(name)), [made for _, made in sorted(found, key=lambda each: each[0])])
            for name, found in self.sets.items()
        ]
        order = f"In each set, the pictures with the lowest PSNR on Y of {self.method} come first."
        write_page(
            self.path, "pictures.html", title="Evaluation", images=LINKED, introduction=[convention, order],
            heading=heading, rows=rows, sections=sections,
        )  # fmt: skip


def image_of(tensor: Tensor) -> Image.Image:
    """Return a tensor, uint8 or float (1, C, H, W), as a picture of mode L or RGB."""
    return Image.fromarray(resample.to_uint8(tensor)[0].permute(1, 2, 0).squeeze(-1).cpu().numpy())
