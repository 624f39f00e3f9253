"""What a folder of photos is worth to a stage: what is wrong with which file, sizes, copies."""

from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from upscale_lit.data.cache import read_all
from upscale_lit.data.listing import find_photos
from upscale_lit.data.photo import FORMATS, Photo, PhotoError
from upscale_lit.data.split import SMALLEST_VAL, split_photos, without_copies
from upscale_lit.errors import InputError, shown

# The shorter side under which a stage does not train on a photo: data.crop in conf/stage/.
CROPS = {"64to128": 96, "128to256": 128, "256to512": 128, "64to512": 256}


def check(root: Path, val_root: Path | None, stage: str, crop: int, val_fraction: float) -> tuple[list[str], bool]:
    """(the report, line by line; whether a training would start).

    Every file is decoded and nothing is written. val_root: the photos to validate on; None: part of `root`, split as in
    training. Raises InputError when a folder is missing.
    """
    size = int(stage.split("to")[1])
    lines: list[str] = []
    counts: Counter[str] = Counter()
    train = everything = _read(root, lines, counts)
    val: Sequence[Photo] = []
    if val_root is not None:
        val = _read(val_root, lines, counts)
        everything = [*train, *val]
    else:
        with suppress(InputError):  # too few, as the last lines say
            train, val, _ = split_photos(train, val_fraction, crop)
    kept, across = without_copies(train, val)
    for photo, twin in across:
        lines.append(f"{shown(photo.path)}: the same picture as {shown(twin.path)} in validation; remove one of them.")
    repeated = len(everything) - len({photo.digest for photo in everything})
    usable = everything if val_root else [photo for photo in everything if photo.side >= SMALLEST_VAL]
    tiny = len(everything) - len(usable)
    large, enough = (sum(photo.side >= side for photo in usable) for side in (size, crop))
    trained = sum(photo.side >= crop for photo in kept)
    validated = sum(photo.side >= SMALLEST_VAL for photo in val)
    lines += [f"{count:7}  {kind}" for kind, count in (*counts.most_common(), ("pictures", len(everything)))]
    lines += [
        f"Of the pictures, for stage={stage} ({size} px out, data.crop={crop}), by their shorter side:",
        f"{large:7}  have {size} px or more",
        f"{enough - large:7}  have less and serve as they are, with smaller regions",
        f"{len(usable) - enough:7}  would have to be enlarged (data.small=enlarge), and are left out else",
        *([f"{tiny:7}  have less than {SMALLEST_VAL} px and are always left out"] if tiny else []),
        "Copies:",
        f"{repeated:7}  files repeat another one byte by byte; they stay on its side of the split",
        f"{len(across):7}  pictures to train on are also among the {len(val)} to validate on; training leaves them out",
        f"{trained} pictures to train on, {validated} to validate on.",
    ]
    if not (trained and validated):
        lines.append("That is not enough to train: it takes one of each, and two different ones to split a folder.")
    return lines, bool(trained and validated)


def _read(root: Path, lines: list[str], counts: Counter[str]) -> list[Photo]:
    """The pictures below a folder; adds to the lines about files in trouble, and to the counts of reasons."""
    paths, errors = find_photos(root)
    photos: list[Photo] = []
    for result in read_all(paths, keep=None):
        if isinstance(result, PhotoError):
            errors.append(result)
            continue
        photos.append(photo := result[0])
        if not photo.path.name.lower().endswith(FORMATS[photo.format]):
            counts["with another format's name (read all the same)"] += 1
            advice = f"it is read all the same, {FORMATS[photo.format][0]} would be its ending."
            lines.append(f"{shown(photo.path)}: holds {photo.format}, whatever its name says; {advice}")
    lines += sorted(str(error) for error in errors)
    counts.update(error.kind for error in errors)
    return photos
