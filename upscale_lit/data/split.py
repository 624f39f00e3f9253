"""Which photos are held out for validation."""

from collections.abc import Sequence
from pathlib import Path

from upscale_lit.data.photo import Photo
from upscale_lit.errors import InputError, shown

SMALLEST_VAL = 32  # the shortest side to validate on: under it SSIM's window of 11 px has no room left


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
    held_out = held_out or {in_order[0].digest}
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
