"""Sources of photos: a folder, the sample photographs, the Oxford-IIIT Pet photographs. Shards: see stream.py."""

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

# The colour photographs inside scikit-image's wheel. chelsea is a cat. The motorcycle pair is one scene seen twice.
_PAIR = ("motorcycle_left.png", "motorcycle_right.png")
SAMPLE_TRAIN = ("coffee.png", "hubble_deep_field.jpg", "ihc.png", *_PAIR, "retina.jpg", "rocket.jpg")
SAMPLE_VAL = ("chelsea.png", "astronaut.png")

SPECIES = ("cats", "dogs")  # their numbers in the annotations of the Oxford-IIIT Pet photographs are 1 and 2


@dataclass(frozen=True)
class Plan:
    """What a run asks of its source.

    keep: larger photos may be shrunk to this number of pixels on their shorter side. crop: smaller photos are left out
    of training, unless `enlarge`. val_photos: at most. stage: such as 64to128, for messages.
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
        """Pixels that a training photo needs on its shorter side."""
        return 1 if self.enlarge else self.crop


class Source(Protocol):
    """Where photos come from. It is pickled, once it is open, if worker processes make the examples.

    identifier: names the training photos; a checkpoint is resumed only with the same ones.
    A source may also have `report`, the end of the line in the log that says how many photos there are; `hint`, the end
    of the sentence that refuses a checkpoint with other photos; and `in_parts`, see `ResumableLoader`.
    """

    identifier: str

    def open(self, plan: Plan) -> None:
        """Read what is needed, once, before anything else is asked. Raises InputError if there is nothing to use."""

    def __len__(self) -> int:
        """The number of photos to train on."""

    def pyramid(self, number: int) -> Pyramid:
        """The photo that a training example shows, as a pure function of the plan and the example's number."""

    def held_out(self) -> Sequence[Pixels]:
        """The photos to validate on, uint8 (H, W, 3), RGB, in the same order each time."""


class Side(NamedTuple):
    """The photos to train or to validate on, and where their pixels are."""

    photos: Sequence[Photo]
    store: Store


@dataclass(kw_only=True)
class PhotoFiles:
    """What sources of photo files have in common; each reads its files in `_sides`.

    val_root: a folder of photos to validate on, instead of photos that are held out.
    cache: a folder for the decoded photos, "auto" for one of the user's cache, None for memory. cache_limit: GB, as in
    `load_photos`. max_megapixels: larger pictures are refused. Raises InputError for values out of range.
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
        self.left_out: Counter[str] = Counter()  # files and photos, by reason
        self.roots: list[Path] = []  # the folders that the user has named
        self.endings: set[str] = set()  # of the names of files

    def _sides(self) -> tuple[Side, Side]:
        """(training, validation)"""
        raise NotImplementedError

    def open(self, plan: Plan) -> None:
        limit_pixels(self.max_megapixels)
        self.plan = plan
        train, val = self._sides()
        photos, copies = without_copies(train.photos, val.photos)
        if not photos:
            raise InputError(
                f"All {len(copies)} pictures to train on are also among those to validate on: name other photos with "
                "data.val_root=DIR, or leave it out to have data.root split."
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
        return {**self.__dict__, "val": ()}  # which worker processes do not need

    @property
    def hint(self) -> str:
        """Why a checkpoint may have been made with other photos."""
        added = ", ".join(ending for ending in RARE if ending in self.endings)
        return added and f" Files that end in {added} were not read by earlier versions, and now are."

    @property
    def report(self) -> str:
        """What is left out, counted by reason, and the command that names it: the end of a line in the log."""
        counts = ", ".join(f"{count} {kind}" for kind, count in (+self.left_out).most_common())
        if not counts or not self.roots:
            return counts and f"; left out: {counts}"
        words = ["upscale-lit", "check", shown(self.roots[0])]
        words += ["--val-root", shown(self.roots[1])] if len(self.roots) > 1 else []
        return f"; left out: {counts}. {shlex.join([*words, '--stage', self.plan.stage])} names them"

    def read_folder(self, root: Path) -> Side:
        """The photos below a folder that the user has named."""
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
        """Those of a side that are large enough to validate on, and not too many."""
        photos = [photo for photo in val.photos if photo.side >= SMALLEST_VAL]
        self.left_out[f"under {SMALLEST_VAL} px in validation"] += len(val.photos) - len(photos)
        if not photos:
            least = f"{SMALLEST_VAL} px or more on its shorter side"
            raise InputError(f"No validation photo has {least}: add larger photos.")
        if len(photos) > self.plan.val_photos:  # chosen by their hashes: from all over the folder, and always the same
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
                f"Every photo to train on is too small: the largest has {largest} px on its shorter side, "
                f"data.crop={crop}. Give larger photos, data.crop={max(8, largest // 8 * 8)}, or data.small=enlarge."
            )
        return large


@dataclass(kw_only=True)
class Sample(PhotoFiles):
    """The sample photographs; chelsea and astronaut are held out."""

    def _sides(self) -> tuple[Side, Side]:
        train, val = sample_photos()
        side = self.read(train, train[0].parent)
        return side, self.read_folder(self.val_folder) if self.val_folder else self.read(val, val[0].parent)


@dataclass(kw_only=True)
class Folder(PhotoFiles):
    """The photos below a folder; without `val_root`, val_fraction of them are held out, by their hashes."""

    root: str | None
    val_fraction: float = 0.1

    def __post_init__(self) -> None:
        super().__post_init__()
        check_number("data.val_fraction", self.val_fraction, above=0, below=1)
        if self.root is None:
            raise InputError("data=folder needs a folder of photos: data.root=DIR.")
        self.folder = check_path("data.root", self.root)

    def _sides(self) -> tuple[Side, Side]:
        return self.divided(self.read_folder(self.folder))

    def divided(self, side: Side) -> tuple[Side, Side]:
        """(training, validation), of photos that may be both."""
        if self.val_folder is not None:
            return side, self.read_folder(self.val_folder)
        train, val, moved = split_photos(side.photos, self.val_fraction, self.plan.smallest)
        self.left_out[f"under {SMALLEST_VAL} px"] += len(side.photos) - len(train) - len(val)
        for photo in moved:
            log.warning(
                "The split left no photo of %s for %s; %s, the nearest by its hash, went there.",
                shown(photo.path.parent), "validation" if photo in val else "training", shown(photo.path),
            )  # fmt: skip
        return Side(train, side.store), Side(val, side.store)


@dataclass(kw_only=True)
class OxfordPets(Folder):
    """The Oxford-IIIT Pet photographs of cats, dogs or all, downloaded into `root`; None: a folder of the user's cache.

    Parkhi, Vedaldi, Zisserman, Jawahar: Cats and Dogs, CVPR 2012; https://www.robots.ox.ac.uk/~vgg/data/pets/.
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
    """The sample photographs: (training, validation)."""
    import skimage  # only here: who trains on a folder does not wait for it

    folder = Path(skimage.__file__).parent / "data"
    return [folder / name for name in SAMPLE_TRAIN], [folder / name for name in SAMPLE_VAL]


def oxford_pets(root: Path, pets: str) -> list[Path]:
    """The files of the Oxford-IIIT Pet photographs, from both of their splits; downloaded if they are missing.

    Raises InputError if they can be neither found nor downloaded.
    """
    from torchvision.datasets import OxfordIIITPet

    folder = root / "oxford-iiit-pet"  # torchvision's name for it
    try:
        root.mkdir(parents=True, exist_ok=True)
        with FileLock(root / "download.lock"):  # parallel jobs
            OxfordIIITPet(root, download=True)
        lists = [(folder / "annotations" / f"{split}.txt").read_text() for split in ("trainval", "test")]
        rows = [line.split() for text in lists for line in text.splitlines()]
        names = [name for name, _, species, _ in rows if pets in ("all", SPECIES[int(species) - 1])]
        return sorted(folder / "images" / f"{name}.jpg" for name in names)
    except (OSError, RuntimeError, ValueError, IndexError) as error:
        raise InputError(
            f"The Oxford-IIIT Pet photographs should be in {shown(folder)} and cannot be had ({error}). Delete that "
            "folder and try again, or unpack images.tar.gz and annotations.tar.gz from "
            "https://www.robots.ox.ac.uk/~vgg/data/pets/ there; data.root=DIR names another place."
        ) from error
