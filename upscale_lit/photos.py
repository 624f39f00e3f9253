"""Photographs on disk: find them, open one safely, say what is wrong with a file, split them for good."""

import hashlib
import os
import stat
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import BinaryIO

import numpy as np
from filelock import FileLock
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

from upscale_lit.errors import InputError

# Each format with the endings of its files' names. MPO is what phones write that take two pictures at once: a JPEG.
FORMATS = {
    "JPEG": (".jpg", ".jpeg"),
    "PNG": (".png",),
    "WEBP": (".webp",),
    "BMP": (".bmp",),
    "TIFF": (".tif", ".tiff"),
}
SUFFIXES = tuple(suffix for suffixes in FORMATS.values() for suffix in suffixes)

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

SMALLEST_LEVEL = 32  # no picture of a pyramid has a side under this: smaller ones would be of use to nobody

Pixels = NDArray[np.uint8]  # (H, W, 3), RGB


@dataclass(frozen=True)
class Photo:
    """A file that holds a picture.

    digest: SHA-256 of the file's bytes. picture: that of the pixels kept. width, height: as the file has them, upright.
    kept: (height, width) of what is kept of them, and offset: where (see cache.py).
    """

    path: Path
    digest: str
    picture: str
    format: str
    width: int
    height: int
    kept: tuple[int, int]
    offset: int = 0

    @property
    def side(self) -> int:
        """The shorter side of the file's picture, in pixels."""
        return min(self.width, self.height)


class PhotoError(InputError):
    """A file or folder that gives no picture: one line with its path, what is wrong, and what can be done.

    kind: a word or two to count by. lasting: the reason lies in the file's content, so it holds until that changes.
    """

    def __init__(self, path: Path, kind: str, what: str, remedy: str, lasting: bool = True) -> None:
        super().__init__(f"{shown(path)}: {what}; {remedy}.")
        self.path, self.kind, self.what, self.remedy, self.lasting = path, kind, what, remedy, lasting


def shown(path: Path) -> str:
    """A path on one line: control characters, and bytes that are no text, as escapes."""
    return "".join(
        letter if letter.isprintable() else letter.encode("unicode_escape").decode("ascii") for letter in str(path)
    )


def read_photo(path: Path, keep: int | None = None) -> tuple[Photo, list[Pixels]]:
    """Decode one file: upright by its EXIF orientation, RGB, 8 bits, transparency laid over white.

    A picture whose shorter side exceeds `keep` pixels is shrunk to it, antialiased. Returns what is known of the file,
    and the picture as a pyramid: itself, half its size, a quarter, ... (see `pyramid_shapes`).
    Raises PhotoError when the file is not a whole picture of one of FORMATS.
    """
    try:
        status = os.stat(path)
        if not stat.S_ISREG(status.st_mode):  # opening a pipe would wait for ever
            raise PhotoError(path, "no file", "this is not an ordinary file", "remove it", lasting=False)
        if status.st_size == 0:
            raise PhotoError(path, "empty", "the file is empty", "copy it again from where it came")
        with open(path, "rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
            file.seek(0)
            begin = file.read(8)
            file.seek(0)
            return _decode(path, file, digest, begin, keep)
    except OSError as error:
        raise _unreadable(path, error) from error


def _decode(path: Path, file: BinaryIO, digest: str, begin: bytes, keep: int | None) -> tuple[Photo, list[Pixels]]:
    try:
        with Image.open(_unforgiving(file), formats=tuple(FORMATS)) as image:
            kind, (width, height) = image.format or "", image.size
            if image.mode in ("I", "F"):
                raise PhotoError(
                    path, "32 bits", "its pixels have 32 bits, which have no agreed black and white",
                    "save it with 8 or 16 bits",
                )  # fmt: skip
            if keep and min(image.size) > keep:
                image.draft("RGB", (keep, keep))  # JPEG decodes at a fraction of its size, not under what is asked for
            image.load()
            if _orientation(image) >= 5:  # to be turned by a quarter
                width, height = height, width
            upright = _rgb(ImageOps.exif_transpose(image) if _orientation(image) > 1 else image)
    except PhotoError:
        raise
    except Image.DecompressionBombError as error:
        raise PhotoError(path, "too many pixels", str(error), "save it smaller") from error
    except UnidentifiedImageError as error:
        formats = ", ".join(FORMATS)
        raise PhotoError(
            path, "no picture", f"its content is none of {formats}: it begins with {begin!r}",
            "save it as one of them, or remove it",
        ) from error  # fmt: skip
    except MemoryError as error:
        what = "the memory here is too small for it"
        raise PhotoError(path, "too many pixels", what, "save it smaller", lasting=False) from error
    except Exception as error:  # what decoders raise on damaged files has no end: SyntaxError, struct.error, ...
        if isinstance(error, OSError) and error.errno is not None:
            raise
        reason = str(error) or type(error).__name__
        cut = isinstance(error, EOFError) or "truncated" in reason.lower()
        what = f"the picture breaks off ({reason})" if cut else f"it cannot be decoded ({reason})"
        raise PhotoError(
            path, "truncated" if cut else "damaged", what.replace("\n", " "), "copy it again from where it came"
        ) from error
    if keep and min(upright.size) > keep:
        scale = keep / min(upright.size)
        size = (max(keep, round(upright.width * scale)), max(keep, round(upright.height * scale)))
        upright = upright.resize(size, Image.Resampling.BICUBIC, reducing_gap=3.0)
    levels: list[Pixels] = []
    for level_height, level_width in pyramid_shapes(upright.height, upright.width):
        # Antialiased, from one level to the next.
        upright = upright.resize((level_width, level_height), Image.Resampling.BICUBIC) if levels else upright
        levels.append(np.array(upright))
    picture = hashlib.sha256(str(levels[0].shape).encode() + levels[0].tobytes()).hexdigest()
    return Photo(path, digest, picture, kind, width, height, levels[0].shape[:2]), levels


def pyramid_shapes(height: int, width: int) -> Iterator[tuple[int, int]]:
    """(height, width) of a picture and of its halves, as long as no side falls under SMALLEST_LEVEL."""
    yield height, width
    while min(height, width) // 2 >= SMALLEST_LEVEL:
        height, width = height // 2, width // 2
        yield height, width


def _orientation(image: Image.Image) -> int:
    try:
        value = image.getexif().get(0x0112, 1)
    except Exception:  # whatever stands in a damaged header: the picture itself may be whole
        return 1
    return value if isinstance(value, int) and 1 <= value <= 8 else 1


def _unforgiving(file: BinaryIO) -> BinaryIO:
    """A JPEG with zeros for its end marker; any other file as it is.

    Where a JPEG's end marker comes before its last rows do, the decoder paints the rest grey and says nothing. Without
    the marker it asks for more data, and Pillow says that the file is truncated; a whole picture needs nothing after
    its last row but a few bytes to look ahead. That holds for a JPEG in one scan; progressive ones stay as they are.
    """
    if file.read(3) != b"\xff\xd8\xff":
        file.seek(0)
        return file
    file.seek(0)
    data = file.read()
    position, components = 2, 0
    while data[position : position + 1] == b"\xff":  # from segment to segment, up to the first scan
        marker, length = data[position + 1 : position + 2], int.from_bytes(data[position + 2 : position + 4])
        if marker in (b"\xc0", b"\xc1"):  # a sequential frame
            components = int.from_bytes(data[position + 9 : position + 10])
        if marker == b"\xda":
            end = data.find(b"\xff\xd9", position)
            if components and int.from_bytes(data[position + 4 : position + 5]) == components:
                # Zeros at the end of a file without the marker are what a broken-off download leaves.
                data = (data[:end] if end >= 0 else data.rstrip(b"\0")) + bytes(16)
            break
        position += 1 if marker == b"\xff" else 2 + length
    return BytesIO(data)


def _rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I;16"):  # convert("RGB") would clip it at 255
        grey = np.asarray(image).astype(np.float32)
        return Image.fromarray((grey / 257).round().astype(np.uint8)).convert("RGB")
    if image.has_transparency_data:
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, "white")
        return Image.alpha_composite(white, image).convert("RGB")
    return image.convert("RGB")


def _unreadable(path: Path, error: OSError) -> PhotoError:
    """What the system says of a file or a folder; it may say something else the next time."""
    reason = (error.strerror or str(error)).lower()
    if isinstance(error, PermissionError):
        return PhotoError(path, "no permission", f"it may not be read ({reason})", "give yourself the right to", False)
    if path.is_symlink():
        return PhotoError(path, "link", f"the link leads to no file ({reason})", "remove or mend the link", False)
    return PhotoError(path, "unreadable", f"it cannot be read ({reason})", "check the disk and the path", False)


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
        root, onerror=lambda error: troubles.append(_unreadable(Path(error.filename), error)), followlinks=True
    ):
        fresh = []
        for name in sorted(folders, key=lambda name: (Path(folder, name).is_symlink(), name)):  # what is real first
            if name.startswith("."):
                continue
            path = Path(folder, name)
            try:
                identity = _identity(path)
            except OSError as error:
                troubles.append(_unreadable(path, error))
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

    if pets not in (*SPECIES, "all"):
        raise InputError(f"data.pets is {', '.join(SPECIES)} or all; found {pets!r}.")
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


def split_photos(photos: Sequence[Photo], val_fraction: float) -> tuple[list[Photo], list[Photo], Photo | None]:
    """(training, validation, moved): each photo goes by the hash of its own bytes, whatever else is in the folder.

    So a photo stays on its side when others come or go, in every stage, and copies of a file stay together. Where a
    side would be empty, the photo whose hash lies nearest to the other side moves there and is returned as `moved`.
    Raises InputError when there are fewer than two different photos.
    """

    def position(photo: Photo) -> float:
        return int(photo.digest[:13], 16) / 16**13  # 52 bits: exact in a float, [0, 1)

    if len({photo.digest for photo in photos}) < 2:
        raise InputError(
            f"Training and validation need at least 2 different photos; found {len(photos)} readable "
            f"({', '.join(shown(photo.path) for photo in photos[:3])}). Add photos, or name others to validate on with "
            "data.val_root=DIR."
        )
    border = val_fraction
    moved = None
    nearest, farthest = min(photos, key=position), max(photos, key=position)
    if position(nearest) >= border:
        moved, border = nearest, float(np.nextafter(position(nearest), 1))
    elif position(farthest) < border:
        moved, border = farthest, position(farthest)
    train = [photo for photo in photos if position(photo) >= border]
    val = [photo for photo in photos if position(photo) < border]
    return train, val, moved


def without_copies(train: Sequence[Photo], val: Sequence[Photo]) -> tuple[list[Photo], list[tuple[Photo, Photo]]]:
    """(the training photos whose picture is not in validation, too; each of the others with its twin there)."""
    held_out = {photo.picture: photo for photo in val}
    kept = [photo for photo in train if photo.picture not in held_out]
    return kept, [(photo, held_out[photo.picture]) for photo in train if photo.picture in held_out]
