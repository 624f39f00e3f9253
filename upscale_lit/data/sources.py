"""Which photographs: those of a folder, the sample, the Oxford pets; and which of them are held out for validation."""

import os
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

from filelock import FileLock

from upscale_lit.data.photo import SUFFIXES, Photo, PhotoError, unreadable
from upscale_lit.errors import InputError, check_choice, shown

# The colour photographs inside scikit-image's wheel. chelsea is a cat. The motorcycle pair is one scene seen twice.
SAMPLE_TRAIN = (
    "coffee.png",
    "hubble_deep_field.jpg",
    "ihc.png",
    "motorcycle_left.png",
    "motorcycle_right.png",
    "retina.jpg",
    "rocket.jpg",
)
SAMPLE_VAL = ("chelsea.png", "astronaut.png")

SPECIES = ("cats", "dogs")  # their numbers in the annotations of the Oxford-IIIT Pet photographs are 1 and 2

SMALLEST_VAL = 32  # the shortest side to validate on: under it SSIM's window of 11 px has no room left


def list_photos(folder: Path) -> tuple[list[Path], list[Path]]:
    """In a folder, not below it: (the files whose names end like a picture's, sorted; the other files).

    Hidden files are skipped. Raises InputError when it cannot be read.
    """
    try:
        files = sorted(path for path in folder.iterdir() if not path.name.startswith(".") and not path.is_dir())
    except OSError as error:
        raise InputError(f"The folder {shown(folder)} cannot be read: {error.strerror}.") from error
    paths = [path for path in files if path.name.lower().endswith(SUFFIXES)]
    return paths, [path for path in files if not path.name.lower().endswith(SUFFIXES)]


def skipped(others: Iterable[Path]) -> str:
    """How many files are skipped for the endings of their names, in one line by ending, the most frequent first."""
    others = set(others)  # folders may be named twice
    endings = Counter(shown(Path(path.suffix.lower())) if path.suffix else "without an ending" for path in others)
    counts = ", ".join(f"{count} {ending}" for ending, count in sorted(endings.items(), key=lambda e: (-e[1], e[0])))
    return f"{len(others)} {'file was' if len(others) == 1 else 'files were'} skipped: {counts}"


def find_photos(root: Path) -> tuple[list[Path], list[PhotoError]]:
    """Below a folder: (all files whose names end like a picture's, sorted; what else is there).

    Hidden files and folders are passed by; links are followed, but no folder is read twice.
    Raises InputError when there is no such folder.
    """
    if not os.path.isdir(root):  # unlike Path.is_dir, False where a folder above it is closed to us
        found = "a file" if os.path.exists(root) else "nothing"
        raise InputError(
            f"There should be a folder of photos at {shown(root)}; found {found}. Name one with data.root=DIR."
        )
    paths, troubles, seen = [], [], {_identity(root)}
    for folder, folders, names in os.walk(
        root, onerror=lambda error: troubles.append(unreadable(Path(error.filename), error)), followlinks=True
    ):
        fresh = []
        for name in sorted(folders, key=lambda name: (Path(folder, name).is_symlink(), name)):  # what is real first
            if name.startswith("."):
                continue
            path = Path(folder, name)
            try:
                identity = _identity(path)
            except OSError as error:
                troubles.append(unreadable(path, error))
                continue
            if identity in seen:
                what = "the link leads to a folder that is read already" if path.is_symlink() else "it is read already"
                troubles.append(PhotoError(path, "link", what, "remove the link, or leave it: nothing is read twice"))
            else:
                seen.add(identity)
                fresh.append(name)
        folders[:] = fresh
        for name in names:
            if name.startswith("."):
                continue
            path = Path(folder, name)
            if name.lower().endswith(SUFFIXES):
                paths.append(path)
            else:
                suffix = f"files that end in {shown(Path(path.suffix))}" if path.suffix else "files without an ending"
                troubles.append(
                    PhotoError(
                        path, "other file", f"{suffix} are not read",
                        f"where it is a photo, save it as one of {' '.join(SUFFIXES)}",
                    )
                )  # fmt: skip
    return sorted(paths), troubles


def _identity(folder: Path) -> tuple[int, int]:
    status = os.stat(folder)
    return status.st_dev, status.st_ino


def sample_photos() -> tuple[list[Path], list[Path]]:
    """The sample photographs: (training, validation)."""
    import skimage  # only here: who trains on a folder does not wait for it

    folder = Path(skimage.__file__).parent / "data"
    return [folder / name for name in SAMPLE_TRAIN], [folder / name for name in SAMPLE_VAL]


def oxford_pets(root: Path, pets: str) -> list[Path]:
    """The Oxford-IIIT Pet photographs of cats, dogs or all, from both of their splits; downloaded where missing.

    Parkhi, Vedaldi, Zisserman, Jawahar: Cats and Dogs, CVPR 2012; https://www.robots.ox.ac.uk/~vgg/data/pets/.
    Raises InputError when `pets` is something else, or the photographs can be neither found nor downloaded.
    """
    from torchvision.datasets import OxfordIIITPet

    check_choice("data.pets", pets, (*SPECIES, "all"))
    folder = root / "oxford-iiit-pet"  # torchvision's name for it
    try:
        root.mkdir(parents=True, exist_ok=True)
        with FileLock(root / "download.lock"):  # parallel jobs
            OxfordIIITPet(root, download=True)
        lines = [
            line.split()
            for split in ("trainval", "test")
            for line in (folder / "annotations" / f"{split}.txt").read_text().splitlines()
        ]
        return sorted(
            folder / "images" / f"{name}.jpg"
            for name, _, species, _ in lines
            if pets == "all" or SPECIES[int(species) - 1] == pets
        )
    except (OSError, RuntimeError, ValueError, IndexError) as error:
        raise InputError(
            f"The Oxford-IIIT Pet photographs should be in {shown(folder)} and cannot be had ({error}). Delete that "
            "folder and try again, or unpack images.tar.gz and annotations.tar.gz from "
            "https://www.robots.ox.ac.uk/~vgg/data/pets/ there; data.root=DIR names another place."
        ) from error


def position(photo: Photo) -> float:
    """Where the hash of a file's bytes lies in [0, 1): under the part that is held out, it goes to validation."""
    return int(photo.digest[:13], 16) / 16**13  # 52 bits: exact in a float


def split_photos(
    photos: Sequence[Photo], val_fraction: float, crop: int = 1
) -> tuple[list[Photo], list[Photo], list[Photo]]:
    """(training, validation, moved): each photo goes by the hash of its own bytes, whatever else is in the folder.

    So a photo stays on its side when others come or go, in every stage, and copies of a file stay together. A folder
    with enough photos for one to be held out (1 / val_fraction) shows each kind of photos in validation: if none of
    its own is there, the photo whose hash is nearest moves there. If a side is empty, the nearest photo that can serve
    moves there: to train on, one of at least `crop` px on its shorter side. `moved` lists the photos that have moved.
    Photos under SMALLEST_VAL px are on neither side. Raises InputError when there are fewer than two different ones.
    """
    everything, photos = photos, [photo for photo in photos if photo.side >= SMALLEST_VAL]
    if len({photo.picture for photo in photos}) < 2:
        smaller = len(everything) - len(photos)
        raise InputError(
            f"Training and validation need at least 2 different photos of {SMALLEST_VAL} px or more on their shorter "
            f"side; found {len(photos)} readable ({', '.join(shown(photo.path) for photo in photos[:3])}) and "
            f"{smaller} smaller ones. Add photos, or name others to validate on with data.val_root=DIR."
        )
    in_order = sorted(photos, key=position)
    by_hash = {photo.digest for photo in photos if position(photo) < val_fraction}
    held_out = set(by_hash)
    folders: dict[Path, list[Photo]] = {}
    for photo in in_order:
        folders.setdefault(photo.path.parent, []).append(photo)
    for folder in folders.values():
        if len(folder) * val_fraction >= 1 and not any(photo.digest in held_out for photo in folder):
            held_out.add(folder[0].digest)
    if not held_out:
        held_out.add(in_order[0].digest)
    pictures = {photo.picture for photo in photos if photo.digest in held_out}  # a copy of one is not trained on
    serving = [photo for photo in in_order if photo.side >= crop]
    if serving and all(photo.picture in pictures for photo in serving):
        back = serving[-1].picture
        held_out -= {photo.digest for photo in photos if photo.picture == back}
        if not held_out:
            held_out.add(next(photo.digest for photo in in_order if photo.picture != back))
    moved = {photo.digest: photo for photo in in_order if (photo.digest in held_out) != (photo.digest in by_hash)}
    train = [photo for photo in photos if photo.digest not in held_out]
    val = [photo for photo in photos if photo.digest in held_out]
    return train, val, list(moved.values())


def without_copies(train: Sequence[Photo], val: Sequence[Photo]) -> tuple[list[Photo], list[tuple[Photo, Photo]]]:
    """(the training photos whose picture is not in validation, too; each of the others with its twin there)."""
    held_out = {photo.picture: photo for photo in val}
    kept = [photo for photo in train if photo.picture not in held_out]
    return kept, [(photo, held_out[photo.picture]) for photo in train if photo.picture in held_out]
