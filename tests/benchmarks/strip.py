"""Draw the strip of pictures in README.md.

python tests/benchmarks/strip.py outputs/checkpoints/upscaler_64to128.pt .github/strip.png

The strip shows regions of the held-out sample photographs. It has one row each for the input (bilinear), the output and
the ground truth. The pictures are shown at twice their size, so that single pixels are visible.
"""

import sys
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torchvision.utils import make_grid, save_image

from upscale_lit import resample
from upscale_lit.data.photo import read_photo
from upscale_lit.data.sources import sample_photos
from upscale_lit.models import upscale
from upscale_lit.weights import load_weights

SIDE = 128
REGIONS = {  # (left, top, side) of each region in its photograph
    "chelsea.png": [(90, 30, 250), (130, 60, 128)],
    "astronaut.png": [(110, 0, 250), (150, 70, 128)],
}


def main(weights: str, target: str) -> None:
    model, facts = load_weights(Path(weights))
    rows: list[list[torch.Tensor]] = [[], [], []]
    for path in sample_photos()[1]:
        photo = Image.fromarray(read_photo(path)[1][0])
        for left, top, side in REGIONS[path.name]:
            square = photo.resize((SIDE, SIDE), Image.Resampling.BICUBIC, (left, top, left + side, top + side))
            high = torch.from_numpy(np.array(square)).permute(2, 0, 1)[None]
            low = resample.downscale(high, 2, facts["kernel"])
            with torch.no_grad():
                pictures = resample.interpolate(low, 2, "bilinear"), upscale(model, low), resample.to_float(high)
            for row, picture in zip(rows, pictures, strict=True):
                row.append(picture.repeat_interleave(2, -1).repeat_interleave(2, -2))
    cells = torch.cat([picture for row in rows for picture in row])
    save_image(make_grid(cells, nrow=len(rows[0]), padding=4, pad_value=1.0), target)


if __name__ == "__main__":
    main(*sys.argv[1:])
