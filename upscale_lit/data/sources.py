"""Sources of photos: a folder, the sample photographs, and the Oxford-IIIT Pets. For shards, see stream.py."""

import hashlib
import logging
import shlex
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from filelock import FileLock

from upscale_lit.data.cache import default_folder, load_photos
from upscale_lit.data.listing import find_photos
from upscale_lit.data.mapped import Pictures, Store
from upscale_lit.data.photo import RARE, SUFFIXES, Photo, limit_pixels
from upscale_lit.data.pyramid import Pixels, Pyramid
from upscale_lit.data.randoms import photo_of
from upscale_lit.data.split import SMALLEST_VAL, split_photos, without_copies
from upscale_lit.errors import InputError, check_choice, check_number, check_path, shown

log = logging.getLogger(__name__)

# Colour photographs that scikit-image contains. The motorcycle pair shows one scene, so both are training photos.
_PAIR = ("motorcycle_left.png", "motorcycle_right.png")
SAMPLE_TRAIN = ("coffee.png", "hubble_deep_field.jpg", "ihc.png", *_PAIR, "retina.jpg", "rocket.jpg")
SAMPLE_VAL = ("chelsea.png", "astronaut.png")

SPECIES = ("cats", "dogs")  # species 1 and 2 in the annotations of the Oxford-IIIT Pets


@dataclass(frozen=True)
class Plan:
    """The settings of a run that a source needs.

    stage: the name, such as 64to128, for messages. keep: larger photos may be shrunk to this number of px on their
    shorter side. crop: the side of a training example in px. Photos with a shorter side below `crop` are left out of
    training, unless `enlarge` is true. val_photos: the largest number of validation photos.
    """

    stage: str
    keep: int
    crop: int
    enlarge: bool
    batch_size: int
    examples_per_epoch: int
    val_photos: int
    seed: int

    @property
    def smallest(self) -> int:
        """The number of px that a training photo needs on its shorter side."""
        return 1 if self.enlarge else self.crop


class Source(Protocol):
    """A source of photos. Worker processes receive an open source by pickling.

    identifier: a text that depends on the training photos. A run resumes only if the checkpoint has the same text.
    A source may also have three optional attributes. `report` ends the log line that counts the photos. `hint` ends the
    error that refuses a checkpoint of other photos. For `in_parts`, see `ResumableLoader`.
    """

    identifier: str

    def open(self, plan: Plan) -> None:
        """Read the photos. Call this method once, before all others. Raises InputError if no photo is usable."""

    def __len__(self) -> int:
        """Return the number of training photos."""

    def pyramid(self, number: int) -> Pyramid:
        """Return the photo of a training example. The photo depends only on the plan and the example's number."""

    def held_out(self) -> Sequence[Pixels]:
        """Return the validation photos, RGB, uint8 (H, W, 3), 0 to 255, always in the same order."""


class Side(NamedTuple):
    """The training photos or the validation photos, and the memory or the cache file that holds their pixels."""

    photos: Sequence[Photo]
    store: Store


@dataclass(kw_only=True)
class PhotoFiles:
    """The common part of all sources of photo files. Each source reads its files in `_sides`.

    val_root: a folder of validation photos; None to hold out training photos. cache: a folder for the decoded photos,
    "auto" for a folder in the user's cache, None for memory. cache_limit: in GB, see `load_photos`.
    max_megapixels: larger pictures are refused. Raises InputError if a value is out of range.
    """

    val_root: str | None = None
    cache: str | None = "auto"
    cache_limit: float = 50.0
    max_megapixels: float = 180.0

    def __post_init__(self) -> None:
        check_number("data.cache_limit", self.cache_limit, above=0)
        check_number("data.max_megapixels", self.max_megapixels, above=0)
        self.val_folder = None if self.val_root is None else check_path("data.val_root", self.val_root)
        cache = default_folder() if self.cache == "auto" else self.cache
        self.cache_folder = None if cache is None else check_path("data.cache", cache)
        self.left_out: Counter[str] = Counter()  # the number of files and photos, by reason
        self.roots: list[Path] = []  # folders that the user names
        self.endings: set[str] = set()  # file name extensions

    def _sides(self) -> tuple[Side, Side]:
        """Return the training photos and the validation photos."""
        raise NotImplementedError

    def open(self, plan: Plan) -> None:
        limit_pixels(self.max_megapixels)
        self.plan = plan
        train, val = self._sides()
        photos, copies = without_copies(train.photos, val.photos)
        if not photos:
            raise InputError(
                f"All {len(copies)} training pictures are also validation pictures. Name other photos with "
                "data.val_root=DIR, or omit data.val_root to split data.root."
            )
        self.left_out["also in validation"] += len(copies)
        self.photos = self._large_enough(photos)
        digest = hashlib.sha256("".join(photo.picture for photo in self.photos).encode()).hexdigest()[:16]
        self.identifier = f"{len(self.photos)} ({digest})"
        self.pictures, self.val = Pictures(train.store, self.photos), self.read_held_out(val)

    def __len__(self) -> int:
        return len(self.photos)

    def pyramid(self, number: int) -> Pyramid:
        return self.pictures.pyramid(photo_of(self.plan.seed, number, len(self.photos)))

    def held_out(self) -> Sequence[Pixels]:
        return self.val

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "val": ()}  # worker processes need no validation photos

    @property
    def hint(self) -> str:
        """A reason why the training photos may differ from a checkpoint's photos; "" if there is none."""
        added = ", ".join(ending for ending in RARE if ending in self.endings)
        return added and f" Earlier versions did not read files that end in {added}."

    @property
    def report(self) -> str:
        """The end of a log line: counts of the omitted files by reason, and the command that names these files."""
        counts = ", ".join(f"{count} {kind}" for kind, count in (+self.left_out).most_common())
        if not counts or not self.roots:
            return counts and f"; left out: {counts}"
        words = ["upscale-lit", "check", shown(self.roots[0])]
        words += ["--val-root", shown(self.roots[1])] if len(self.roots) > 1 else []
        return f"; left out: {counts}. {shlex.join([*words, '--stage', self.plan.stage])} names them"

    def read_folder(self, root: Path) -> Side:
        """Read the photos in a folder that the user names, and in its subfolders."""
        paths, others = find_photos(root)
        self.left_out.update(other.kind for other in others)
        self.roots.append(root)
        return self.read(paths, root)

    def read(self, paths: Sequence[Path], root: Path) -> Side:
        photos, troubles, store = load_photos(paths, root, self.plan.keep, self.cache_folder, self.cache_limit)
        self.left_out.update(trouble.kind for trouble in troubles)
        self.endings |= {photo.path.suffix.lower() for photo in photos}
        if not photos:
            first = f" (the first: {troubles[0]})" if troubles else ""
            raise InputError(
                f"No picture in {shown(root)} or its subfolders can be read: {len(paths)} files there end in one of "
                f"{' '.join(SUFFIXES)}{first}. Name a folder of photos with data.root=DIR."
            )
        return Side(photos, store)

    def read_held_out(self, val: Side) -> Sequence[Pixels]:
        """Read the validation photos. Small photos and photos in excess of the plan's number are left out."""
        photos = [photo for photo in val.photos if photo.side >= SMALLEST_VAL]
        self.left_out[f"under {SMALLEST_VAL} px in validation"] += len(val.photos) - len(photos)
        if not photos:
            least = f"{SMALLEST_VAL} px or more on its shorter side"
            raise InputError(f"No validation photo has {least}. Add larger photos.")
        if len(photos) > self.plan.val_photos:  # the order of the hashes mixes subfolders and never changes
            photos = sorted(photos, key=lambda photo: photo.digest)[: self.plan.val_photos]
        pictures = Pictures(val.store, photos)
        return [pictures.level(number) for number in range(len(pictures))]

    def _large_enough(self, photos: Sequence[Photo]) -> Sequence[Photo]:
        crop = self.plan.crop
        large = [photo for photo in photos if photo.side >= crop]
        if self.plan.enlarge:
            if len(large) < len(photos):
                log.info("%d photos under data.crop=%d px are enlarged.", len(photos) - len(large), crop)
            return photos
        self.left_out[f"under data.crop={crop} px"] += len(photos) - len(large)
        if not large:
            largest = max((photo.side for photo in photos), default=0)
            raise InputError(
                f"Training photos must have data.crop={crop} px or more on their shorter side; the largest has "
                f"{largest} px. Give larger photos, data.crop={max(8, largest // 8 * 8)}, or data.small=enlarge."
            )
        return large


@dataclass(kw_only=True)
class Sample(PhotoFiles):
    """The sample photographs. chelsea, a cat, and astronaut are held out."""

    def _sides(self) -> tuple[Side, Side]:
        train, val = sample_photos()
        side = self.read(train, train[0].parent)
        return side, self.read_folder(self.val_folder) if self.val_folder else self.read(val, val[0].parent)


@dataclass(kw_only=True)
class Folder(PhotoFiles):
    """The photos in a folder and its subfolders. Without `val_root`, about `val_fraction` of them are held out."""

    root: str | None
    val_fraction: float = 0.1

    def __post_init__(self) -> None:
        super().__post_init__()
        check_number("data.val_fraction", self.val_fraction, above=0, below=1)
        if self.root is None:
            raise InputError("data=folder needs a folder of photos. Name one with data.root=DIR.")
        self.folder = check_path("data.root", self.root)

    def _sides(self) -> tuple[Side, Side]:
        return self.divided(self.read_folder(self.folder))

    def divided(self, side: Side) -> tuple[Side, Side]:
        """Divide photos into training and validation, unless `val_root` names the validation photos."""
        if self.val_folder is not None:
            return side, self.read_folder(self.val_folder)
        train, val, moved = split_photos(side.photos, self.val_fraction, self.plan.smallest)
        self.left_out[f"under {SMALLEST_VAL} px"] += len(side.photos) - len(train) - len(val)
        for photo in moved:
            log.warning(
                "The hashes leave no usable photo of %s for %s. The photo with the nearest hash, %s, moves there.",
                shown(photo.path.parent), "validation" if photo in val else "training", shown(photo.path),
            )  # fmt: skip
        return Side(train, side.store), Side(val, side.store)


@dataclass(kw_only=True)
class OxfordPets(Folder):
    """The Oxford-IIIT Pet photographs, downloaded into `root`; None for a folder in the user's cache.

    pets: "cats", "dogs" or "all". The data set is from Parkhi, Vedaldi, Zisserman, Jawahar: Cats and Dogs, CVPR 2012.
    Its page is https://www.robots.ox.ac.uk/~vgg/data/pets/.
    """

    root: str | None = None
    pets: str = "cats"

    def __post_init__(self) -> None:
        check_choice("data.pets", self.pets, (*SPECIES, "all"))
        named = self.root is not None
        self.root = str(default_folder() / "oxford_pets") if self.root is None else self.root
        super().__post_init__()
        if named:
            self.roots.append(self.folder)

    def _sides(self) -> tuple[Side, Side]:
        return self.divided(self.read(oxford_pets(self.folder, self.pets), self.folder))


def sample_photos() -> tuple[list[Path], list[Path]]:
    """Return the paths of the sample photographs for training and for validation."""
    import skimage  # imported here, since the import is slow and other sources do not need it

    folder = Path(skimage.__file__).parent / "data"
    return [folder / name for name in SAMPLE_TRAIN], [folder / name for name in SAMPLE_VAL]


def oxford_pets(root: Path, pets: str) -> list[Path]:
    """Return the files of the Oxford-IIIT Pets, from both official splits. Missing files are downloaded.

    Raises InputError if the files can be neither read nor downloaded.
    """
    from torchvision.datasets import OxfordIIITPet

    folder = root / "oxford-iiit-pet"  # the name is torchvision's
    try:
        root.mkdir(parents=True, exist_ok=True)
        with FileLock(root / "download.lock"):  # parallel jobs wait for one download
            OxfordIIITPet(root, download=True)
        lists = [(folder / "annotations" / f"{split}.txt").read_text() for split in ("trainval", "test")]
        rows = [line.split() for text in lists for line in text.splitlines()]
        names = [name for name, _, species, _ in rows if pets in ("all", SPECIES[int(species) - 1])]
        return sorted(folder / "images" / f"{name}.jpg" for name in names)
    except (OSError, RuntimeError, ValueError, IndexError) as error:
        raise InputError(
            f"The Oxford-IIIT Pets can be neither read in {shown(folder)} nor downloaded ({error}). Delete this folder "
            "and try again, or unpack images.tar.gz and annotations.tar.gz into it from "
            "https://www.robots.ox.ac.uk/~vgg/data/pets/. You can also name another place with data.root=DIR."
        ) from error
