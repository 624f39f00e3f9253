"""Pages that compare results with bicubic upscaling by a slider."""

import hashlib
import io
import json
import os
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageCms

from upscale_lit.errors import shown
from upscale_lit.files import atomic
from upscale_lit.inference.jobs import Job
from upscale_lit.inference.pictures import format_of, shallow
from upscale_lit.pages.page import (
    EMBEDDED,
    LINKED,
    QUALITY,
    Comparison,
    Layer,
    Store,
    embedded,
    files_of,
    format_of_copy,
    linked,
    write_page,
)

Layers = Sequence[tuple[str, Image.Image]]  # versions of a picture, with their labels


def comparison(
    title: str, layers: Layers, captions: Sequence[str], store: Store, name: str, lossless: bool = False
) -> Comparison:
    """Return a comparison of pictures, which `store` has stored under names that begin with `name`.

    layers: the labels, and pictures of a mode that `upright` returns. The last picture sets the size, and is shown on
        the right.
    lossless: whether the page shows every pixel unchanged.
    """
    last = layers[-1][1]
    found = [
        Layer(label, store(f"{name}.{number}", for_browser(image), lossless))
        for number, (label, image) in enumerate(layers)
    ]
    kind = format_of_copy(last, lossless)
    loss = "without loss" if lossless or kind == "PNG" else f"quality {QUALITY}"
    notes = [f"The pictures in this page are copies ({kind}, {loss})."]
    if last.mode == "I;16":
        notes.append("The picture has 16 bits, and the copies have 8.")
    transparent = last.mode in ("LA", "RGBA")
    if transparent:
        notes.append("The checkerboard is behind transparent parts.")
    if profile_of(last) is not None:
        notes.append("The colours are converted to sRGB.")
    return Comparison(title, *last.size, found, [*captions, " ".join(notes)], transparent=transparent)


def is_lossless(path: Path) -> bool:
    """Return whether the format of a result keeps every pixel. A page then does so, too."""
    return format_of(path) not in ("JPEG", "WEBP")


def bicubic(picture: Image.Image, scale: int) -> Image.Image:
    """Return a picture, of a mode that `upright` returns, upscaled by Keys' bicubic kernel (a = -0.5) to 8 bits."""
    low = shallow(picture)
    size = low.width * scale, low.height * scale

    def enlarged(values: NDArray[np.float32]) -> NDArray[np.float32]:
        # Pillow rounds and clamps 8-bit pictures between the two directions, but not floats.
        return np.asarray(Image.fromarray(values).resize(size, Image.Resampling.BICUBIC))

    def rounded(values: NDArray[np.float32]) -> Image.Image:
        return Image.fromarray(values.clip(0, 255).round().astype(np.uint8))

    bands = [np.asarray(band, np.float32) for band in low.split()]
    if low.mode in ("LA", "RGBA"):  # transparent pixels must not add their colours to visible ones
        *colours, opacity = bands
        alpha = enlarged(opacity)
        made = [rounded(enlarged(band * opacity) / alpha.clip(1e-3)) for band in colours] + [rounded(alpha)]
    else:
        made = [rounded(enlarged(band)) for band in bands]
    high = Image.merge(low.mode, made)
    high.info = {name: value for name, value in picture.info.items() if name == "icc_profile"}
    return high


def for_browser(image: Image.Image) -> Image.Image:
    """Return a picture of a mode that `upright` returns as 8-bit sRGB. A damaged colour profile is ignored."""
    image, profile = shallow(image), profile_of(image)
    if profile is None:
        return image
    colours = image.convert(image.mode.removesuffix("A"))
    converted = ImageCms.profileToProfile(colours, profile, ImageCms.createProfile("sRGB"), outputMode="RGB")
    assert converted is not None  # None is returned only for a conversion in place
    if image.mode.endswith("A"):
        converted.putalpha(image.getchannel("A"))
    return converted


def profile_of(image: Image.Image) -> ImageCms.ImageCmsProfile | None:
    """Return the colour profile of a picture; None for no profile, or a damaged one."""
    try:
        return ImageCms.ImageCmsProfile(io.BytesIO(image.info["icc_profile"]))
    except (KeyError, OSError, ImageCms.PyCMSError):
        return None


def write_comparison(job: Job, layers: Layers, captions: Sequence[str]) -> None:
    """Write the page of a job, or the files from which `write_index` makes the page of the job's folder.

    Raises WriteError if a file cannot be written.
    """
    title, lossless = shown(Path(job.target.name)), is_lossless(job.target)
    if job.index is None:
        made = comparison(title, layers, captions, embedded, job.target.name, lossless)
        write_page(job.page, "pictures.html", title=title, images=EMBEDDED, sections=[("", [made])])
        return
    title = shown(job.target.relative_to(job.index.parent))
    record = record_of(job)
    made = comparison(title, layers, captions, linked(job.index), record.stem, lossless)
    with atomic(record) as part:
        part.write_text(json.dumps(asdict(made)), encoding="utf-8")


def write_index(index: Path, jobs: Iterable[Job]) -> None:
    """Write the page of a folder: the comparisons of all jobs that `write_comparison` has recorded.

    They may come from an earlier command. Raises WriteError if the page cannot be written.
    """
    found = []
    for job in jobs:
        # A record that is missing, damaged or of another version leaves its picture out.
        with suppress(OSError, ValueError, KeyError, TypeError):
            record = json.loads(record_of(job).read_text(encoding="utf-8"))
            found.append(Comparison(**{**record, "layers": [Layer(**layer) for layer in record["layers"]]}))
    if not found:
        return
    title = shown(Path(index.parent.resolve().name))
    count = f"{len(found)} picture{'s' if len(found) > 1 else ''}"
    introduction = [f"{count}. The folder {shown(Path(files_of(index).name))} belongs to this page."]
    write_page(index, "pictures.html", title=title, images=LINKED, introduction=introduction, sections=[("", found)])


def record_of(job: Job) -> Path:
    """Return the path of the file from which the page of the job's folder is made; for a single picture, its page.

    The name is a hash of the name of the result, and therefore never too long.
    """
    if job.index is None:
        return job.page
    name = os.fsencode(job.target.relative_to(job.index.parent))
    return files_of(job.index) / f"{hashlib.sha256(name).hexdigest()[:16]}.json"
