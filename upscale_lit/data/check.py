"""Check a folder of photos for a stage, and report unusable files, the sizes of pictures, and copies."""

from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from upscale_lit.data.cache import read_all
from upscale_lit.data.listing import find_photos
from upscale_lit.data.photo import FORMATS, Photo, PhotoError
from upscale_lit.data.split import SMALLEST_VAL, split_photos, without_copies
from upscale_lit.errors import InputError, shown

# data.crop of each stage in conf/stage/. A stage does not train on photos whose shorter side is smaller.
CROPS = {"64to128": 96, "128to256": 128, "256to512": 128, "64to512": 256}


def check(root: Path, val_root: Path | None, stage: str, crop: int, val_fraction: float) -> tuple[list[str], bool]:
    """Return the lines of a report on a folder, and whether a training on this folder would start.

    The check decodes every file and writes nothing.
    val_root: the folder of photos to validate on. If it is None, a part of `root` is held out, as in a training.
    crop: the side of a training example in pixels. val_fraction: the part of `root` that is held out.
    Raises InputError if a folder is missing.
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
        with suppress(InputError):  # there are too few photos; the last lines of the report say so
            train, val, _ = split_photos(train, val_fraction, crop)
    kept, across = without_copies(train, val)
    for photo, copy in across:
        lines.append(f"{shown(photo.path)}: the same picture as {shown(copy.path)} in validation; remove one of them.")
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
        f"{enough - large:7}  are smaller and are used unchanged, with smaller regions",
        f"{len(usable) - enough:7}  are used only if they are enlarged (data.small=enlarge)",
        *([f"{tiny:7}  have less than {SMALLEST_VAL} px and are always left out"] if tiny else []),
        "Copies:",
        f"{repeated:7}  files are copies of another file, byte for byte; splitting a folder keeps copies together",
        f"{len(across):7}  pictures to train on are also among the {len(val)} to validate on; training skips them",
        f"{trained} pictures to train on, {validated} to validate on.",
    ]
    if not (trained and validated):
        lines.append(
            "That is not enough to train: a training needs one photo to train on and another one to validate on."
        )
    return lines, bool(trained and validated)


def _read(root: Path, lines: list[str], counts: Counter[str]) -> list[Photo]:
    """Decode the pictures in a folder and its subfolders, and return the usable pictures.

    Add a line to `lines` for each file that is unusable or has a wrong ending. Count these files by reason in `counts`.
    """
    paths, errors = find_photos(root)
    photos: list[Photo] = []
    for result in read_all(paths, keep=None):
        if isinstance(result, PhotoError):
            errors.append(result)
            continue
        photos.append(photo := result[0])
        if not photo.path.name.lower().endswith(FORMATS[photo.format]):
            counts["with another format's name (they are read)"] += 1
            advice = f"it is read, but its name should end in {FORMATS[photo.format][0]}."
            lines.append(f"{shown(photo.path)}: holds {photo.format}, unlike its name; {advice}")
    lines += sorted(str(error) for error in errors)
    counts.update(error.kind for error in errors)
    return photos
