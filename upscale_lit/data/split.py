"""The split of the photos: which ones are used for training and which ones are held out for validation."""

from collections.abc import Sequence
from pathlib import Path

from upscale_lit.data.photo import Photo
from upscale_lit.errors import InputError, shown

SMALLEST_VAL = 32  # px; on a smaller photo, SSIM's window of 11 px has too little room


def position(photo: Photo) -> float:
    """Return the hash of a file's bytes as a number in [0, 1).

    A photo is held out for validation if this number is below the held-out fraction.
    """
    return int(photo.digest[:13], 16) / 16**13  # 13 hexadecimal digits are 52 bits, which a float holds exactly


def split_photos(
    photos: Sequence[Photo], val_fraction: float, crop: int = 1
) -> tuple[list[Photo], list[Photo], list[Photo]]:
    """Split photos into training and validation by the hash of each file's bytes.

    Returns (training, validation, moved).
    val_fraction: the fraction of the photos that is held out for validation, roughly.
    crop: the side in px that a photo needs for training examples of full size.

    The hash of a photo does not depend on the other photos. A photo that is held out therefore stays held out in every
    stage, and when other photos are added or removed. Copies of a file are never divided between the two lists.

    Photos move between training and validation in three exceptional cases. The list `moved` contains these photos.
    - A folder of at least 1 / val_fraction photos has at least one photo in validation. If the hashes hold out none,
      the photo with the smallest hash is held out.
    - If validation is still empty, the photo with the smallest hash is held out.
    - If no photo of at least `crop` px on its shorter side is left for training, the photo of this size with
      the largest hash moves to training, together with its copies.

    Photos under SMALLEST_VAL px on their shorter side are in neither list.
    Raises InputError if fewer than two different photos are large enough.
    """
    everything, photos = photos, [photo for photo in photos if photo.side >= SMALLEST_VAL]
    if len({photo.picture for photo in photos}) < 2:
        smaller = len(everything) - len(photos)
        raise InputError(
            f"Training and validation need at least 2 different photos of {SMALLEST_VAL} px or more on their shorter "
            f"side; got {len(photos)} of this size ({', '.join(shown(photo.path) for photo in photos[:3])}) and "
            f"{smaller} smaller ones. Add photos, or name a folder of validation photos with data.val_root=DIR."
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
    pictures = {photo.picture for photo in photos if photo.digest in held_out}  # no run trains on copies
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
    """Leave out the training photos whose picture is also in validation.

    Returns the remaining training photos, and pairs of an omitted training photo and the same picture in validation.
    """
    held_out = {photo.picture: photo for photo in val}
    kept = [photo for photo in train if photo.picture not in held_out]
    return kept, [(photo, held_out[photo.picture]) for photo in train if photo.picture in held_out]
