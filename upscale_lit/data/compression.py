"""Compress pictures and decode them again, to make low pictures as people have them."""

from io import BytesIO

import numpy as np
from PIL import Image

from upscale_lit.data.pyramid import Pixels


def jpeg_file(pixels: Pixels, quality: int, subsampled: bool) -> Image.Image:
    """Compress pixels with Pillow's JPEG encoder, and open the file: uint8, (h, w, 3), or (h, w) for grey.

    quality: from 1 to 100. subsampled: whether colours are stored at half the resolution (4:2:0 instead of 4:4:4).
    """
    return _file(pixels, "JPEG", quality=quality, subsampling=2 if subsampled else 0)


def webp_file(pixels: Pixels, quality: int) -> Image.Image:
    """Compress pixels with Pillow's lossy WebP encoder, and open the file: uint8, (h, w, 3), or (h, w) for grey.

    quality: from 1 to 100. The decoded picture is RGB.
    """
    return _file(pixels, "WEBP", quality=quality)


def _file(pixels: Pixels, kind: str, **options: int) -> Image.Image:
    file = BytesIO()
    Image.fromarray(np.ascontiguousarray(pixels)).save(file, kind, **options)
    return Image.open(file)
