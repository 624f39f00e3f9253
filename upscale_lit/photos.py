"""Photographs on disk: find them, open one safely, say what is wrong with a file, split them for good."""

import hashlib
import math
import os
import re
import stat
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from io import BytesIO
from pathlib import Path
from typing import BinaryIO

import numpy as np
from filelock import FileLock
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

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

SMALLEST_LEVEL = 32  # the shortest side in a pyramid: nobody trains on less

# Their first bytes; what begins otherwise is not even opened.
BEGINNINGS = re.compile(rb"\xff\xd8\xff|\x89PNG\r\n\x1a\n|RIFF....WEBP|BM|II\*\0|MM\0\*|II\+\0|MM\0\+", re.DOTALL)
MARKER = re.compile(rb"\xff+([^\x00\xff])")  # in a JPEG's scan; 0xFF as a value is followed by 0
RESTARTS = [bytes([value]) for value in range(0xD0, 0xD8)]
# What the EXIF orientations 2 to 8 ask for.
TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
RESAMPLING = Image.Resampling.BICUBIC

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
    and the picture as a `pyramid`.
    Raises PhotoError when the file is not a whole picture of one of FORMATS.
    """
    try:
        status = os.stat(path)
        if not stat.S_ISREG(status.st_mode):  # opening a pipe would wait for ever
            raise PhotoError(path, "no file", "this is not an ordinary file", "remove it", lasting=False)
        if status.st_size == 0:
            raise PhotoError(path, "empty", "the file is empty", "copy it again from where it came")
        with open(path, "rb") as file:
            begin = file.read(12)
            if not BEGINNINGS.match(begin):
                raise PhotoError(
                    path, "no picture", f"its content is none of {', '.join(FORMATS)}: it begins with {begin[:8]!r}",
                    "save it as one of them, or remove it",
                )  # fmt: skip
            file.seek(0)
            digest = hashlib.file_digest(file, "sha256").hexdigest()
            file.seek(0)
            kind, (width, height), levels = _decode(path, file, keep)
    except MemoryError as error:
        what = "the memory here is too small for it"
        raise PhotoError(path, "too many pixels", what, "save it smaller", lasting=False) from error
    except OSError as error:
        raise _unreadable(path, error) from error
    picture = hashlib.sha256(str(levels[0].shape).encode() + levels[0].tobytes()).hexdigest()
    return Photo(path, digest, picture, kind, width, height, levels[0].shape[:2]), levels


def _decode(path: Path, file: BinaryIO, keep: int | None) -> tuple[str, tuple[int, int], list[Pixels]]:
    """(format, (width, height), pyramid)"""
    try:
        with Image.open(_whole(file), formats=tuple(FORMATS)) as image:
            kind, (width, height) = image.format or "", image.size
            if image.mode in ("I", "F"):
                raise PhotoError(
                    path, "32 bits", "its pixels have 32 bits, which have no agreed black and white",
                    "save it with 8 or 16 bits",
                )  # fmt: skip
            if keep and min(image.size) > keep:
                image.draft("RGB", (keep, keep))  # JPEG decodes at a fraction of its size, not under what is asked for
            image.load()
            orientation = _orientation(image)
            upright = _rgb(image)
        if orientation > 1:
            upright = upright.transpose(TURNS[orientation])
        if orientation >= 5:  # turned by a quarter
            width, height = height, width
        if keep and min(upright.size) > keep:
            scale = keep / min(upright.size)
            size = (max(keep, round(upright.width * scale)), max(keep, round(upright.height * scale)))
            upright = upright.resize(size, RESAMPLING, reducing_gap=3.0)
        return kind, (width, height), pyramid(upright)
    except (PhotoError, MemoryError):
        raise
    except Image.DecompressionBombError as error:
        raise PhotoError(path, "too many pixels", str(error), "save it smaller") from error
    except UnidentifiedImageError as error:
        what = "its header is damaged, or of a kind that is not read"
        raise PhotoError(path, "damaged", what, "copy it again from where it came, or save it as PNG") from error
    except Exception as error:  # what decoders raise on damaged files has no end: SyntaxError, struct.error, ...
        if isinstance(error, OSError) and error.errno is not None:
            raise
        reason = " ".join(str(error).split()) or type(error).__name__
        cut = isinstance(error, EOFError) or "truncated" in reason.lower()
        what = f"the picture breaks off ({reason})" if cut else f"it cannot be decoded ({reason})"
        raise PhotoError(path, "truncated" if cut else "damaged", what, "copy it again from where it came") from error


def pyramid(picture: Image.Image) -> list[Pixels]:
    """A picture and smaller ones, each smaller by the square root of 2 than the one before (see `pyramid_shapes`)."""
    images: list[Image.Image] = []
    for height, width in pyramid_shapes(picture.height, picture.width):
        # Antialiased, and from the level before the last: by exact halves, and with half as many steps.
        image = images[max(len(images) - 2, 0)].resize((width, height), RESAMPLING) if images else picture
        images.append(image)
    return [np.array(image) for image in images]


@lru_cache(maxsize=4096)  # it is asked for every example
def pyramid_shapes(height: int, width: int) -> tuple[tuple[int, int], ...]:
    """(height, width) of a picture and of its smaller levels, down to the last with no side under SMALLEST_LEVEL."""
    shapes = [(height, width)]
    level = round(height / math.sqrt(2)), round(width / math.sqrt(2))
    while min(level) >= SMALLEST_LEVEL:
        shapes.append(level)
        level = shapes[-2][0] // 2, shapes[-2][1] // 2
    return tuple(shapes)


def _orientation(image: Image.Image) -> int:
    try:
        value = image.getexif().get(0x0112, 1)
    except Exception:  # whatever stands in a damaged header: the picture itself may be whole
        return 1
    return value if value in TURNS else 1


def _rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I;16"):  # convert("RGB") would clip it at 255
        tags = getattr(image, "tag_v2", {})  # of a TIFF
        white = 4095 if tags.get(258) == (12,) else 65535
        grey = np.asarray(image).astype(np.float32) * (255 / white)
        if tags.get(262) == 0:  # a negative: 0 is white
            grey = 255 - grey
        return Image.fromarray(grey.clip(0, 255).round().astype(np.uint8)).convert("RGB")
    if image.has_transparency_data:
        image = image.convert("RGBA")
        white_ground = Image.new("RGBA", image.size, "white")
        return Image.alpha_composite(white_ground, image).convert("RGB")
    return image.convert("RGB")


def _whole(file: BinaryIO) -> BinaryIO:
    """The file in memory, as the decoder should see it. Raises EOFError where one would paint over what is missing.

    They do so where a copy broke off and something else follows: zeros, in a file whose room was set aside before, or
    an end marker. In BMP and in TIFF without compression nothing tells such a picture from a black one.
    """
    data = file.read()
    if data.startswith(b"\xff\xd8\xff"):
        data = _whole_jpeg(data)
    elif data.startswith(b"\x89PNG") and b"IEND\xaeB`\x82" not in data:
        raise EOFError("it has no end")
    elif data.startswith(b"RIFF") and data.endswith(bytes(64)):
        raise EOFError("it ends in zeros")
    return BytesIO(data)


def _whole_jpeg(data: bytes) -> bytes:
    """Refuses a JPEG whose scans are not all there, by the rules of ITU T.81, annexes B and G.

    Of the usual JPEG in a single scan, what follows the scan is replaced by zeros: with the end marker before the last
    rows the decoder would paint the rest grey and say nothing; without it Pillow says that the file is truncated,
    while a whole picture needs nothing after its last row but a few bytes to look ahead.
    """
    position, parts, single, restarts = 2, 0, False, False
    missing: dict[int, list[int]] = {}  # for each component, and each of its 64 coefficients: bits still to come
    while data[position : position + 1] == b"\xff" and position + 4 <= len(data):
        marker, length = data[position + 1], int.from_bytes(data[position + 2 : position + 4])
        body = data[position + 4 : position + 2 + length].ljust(16, b"\0")
        if marker == 0xFF:
            position += 1
            continue
        if marker == 0xD9:
            break
        if marker in (0xC0, 0xC1, 0xC2):  # the frame
            parts, single = body[5], marker != 0xC2
        elif marker == 0xDD:
            restarts = body[:2] != b"\0\0"
        elif marker == 0xDA:  # a scan, up to the next marker that has no place in one
            count = body[0]
            begin, end = position + 2 + length, len(data)
            for found in MARKER.finditer(data, begin):
                if not restarts or found[1] not in RESTARTS:
                    end = found.start()
                    break
            order = [name[0] - 0xD0 for name in MARKER.findall(data, begin, end)]
            if order != [number % 8 for number in range(len(order))]:
                raise EOFError("parts of it are missing")
            if single and count == parts:
                # Zeros at the end of a file without an end marker are what a broken-off download leaves.
                scan = data[:end] if end < len(data) else data.rstrip(b"\0")
                return scan + bytes(16)
            first, last, low = body[1 + 2 * count : 4 + 2 * count].ljust(3, b"\0")
            for component in body[1 : 1 + 2 * count : 2]:
                planes = missing.setdefault(component, [16] * 64)
                planes[first : last + 1] = [low & 15] * len(planes[first : last + 1])
            position = end
            continue
        position += 2 + length
    if len(missing) < parts or any(any(planes) for planes in missing.values()):
        raise EOFError("its last scans are missing")
    return data


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
