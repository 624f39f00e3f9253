"""Pages that compare results with bicubic upscaling by a slider."""

import io
import json
from collections.abc import Iterable, Mapping, Sequence
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


def comparison(
    title: str,
    layers: Mapping[str, Image.Image],
    captions: Sequence[str],
    store: Store,
    name: str,
    lossless: bool = False,
) -> Comparison:
    """Return a comparison of pictures, which `store` has stored under names that begin with `name`.

    layers: label -> picture of a mode that `upright` returns. The last one sets the size, and is shown on the right.
    lossless: whether the page shows every pixel unchanged.
    """
    *_, last = layers.values()
    found = [
        Layer(label, store(f"{name}.{number}", for_browser(image), lossless))
        for number, (label, image) in enumerate(layers.items())
    ]
    kind = format_of_copy(last, lossless)
    loss = "without loss" if lossless or kind == "PNG" else f"quality {QUALITY}"
    notes = [f"The pictures in this page are copies ({kind}, {loss})."]
    if last.mode == "I;16":
        notes.append("The picture has 16 bits, and the copies have 8.")
    if last.mode in ("LA", "RGBA"):
        notes.append("The checkerboard is behind transparent parts.")
    if "icc_profile" in last.info:
        notes.append("The colours are converted to sRGB.")
    return Comparison(title, *last.size, found, [*captions, " ".join(notes)])


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
    image, profile = shallow(image), image.info.get("icc_profile")
    if profile is None:
        return image
    colours = image.convert(image.mode.removesuffix("A"))
    with suppress(ImageCms.PyCMSError, OSError):
        srgb = ImageCms.createProfile("sRGB")
        converted = ImageCms.profileToProfile(colours, io.BytesIO(profile), srgb, outputMode="RGB")
        assert converted is not None  # None is returned only for a conversion in place
        if image.mode.endswith("A"):
            converted.putalpha(image.getchannel("A"))
        return converted
    return image


def write_comparison(job: Job, layers: Mapping[str, Image.Image], captions: Sequence[str]) -> None:
    """Write the page of a job, or the files from which `write_index` makes the page of the job's folder.

    Raises WriteError if a file cannot be written.
    """
    title, lossless = shown(Path(job.target.name)), is_lossless(job.target)
    if job.index is None:
        made = comparison(title, layers, captions, embedded, job.target.name, lossless)
        write_page(job.page, "pictures.html", title=title, images=EMBEDDED, sections=[("", [made])])
        return
    name = job.target.relative_to(job.index.parent)
    made = comparison(shown(name), layers, captions, linked(job.index), str(name), lossless)
    with atomic(_record(job)) as part:
        part.write_text(json.dumps(asdict(made)), encoding="utf-8")


def write_index(index: Path, jobs: Iterable[Job]) -> None:
    """Write the page of a folder: the comparisons of all jobs that `write_comparison` has recorded.

    They may come from an earlier command. Raises WriteError if the page cannot be written.
    """
    found = []
    for job in jobs:
        with suppress(FileNotFoundError):
            record = json.loads(_record(job).read_text(encoding="utf-8"))
            found.append(Comparison(**{**record, "layers": [Layer(**layer) for layer in record["layers"]]}))
    if not found:
        return
    title = shown(Path(index.parent.resolve().name))
    count = f"{len(found)} picture{'s' if len(found) > 1 else ''}"
    introduction = [f"{count}. The folder {shown(Path(files_of(index).name))} belongs to this page."]
    write_page(index, "pictures.html", title=title, images=LINKED, introduction=introduction, sections=[("", found)])


def _record(job: Job) -> Path:
    assert job.index is not None
    return files_of(job.index) / f"{job.target.relative_to(job.index.parent)}.json"
