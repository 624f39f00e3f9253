import hashlib
import os
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from conftest import Run, made_by_pytest, pets, picture
from PIL import Image

from upscale_lit.data.listing import find_photos
from upscale_lit.data.photo import Photo, PhotoError, read_photo
from upscale_lit.data.sources import OxfordPets, oxford_pets, sample_photos
from upscale_lit.data.split import split_photos, without_copies
from upscale_lit.errors import InputError, shown

COLOURS = picture(40, 30)


def read(root: Path) -> list[Photo]:
    return [read_photo(path)[0] for path in find_photos(root)[0]]


class Nobody:
    """A context without the rights of root. Tests that root runs could otherwise read files without permission."""

    def __enter__(self) -> None:
        if os.geteuid() == 0:
            os.seteuid(65534)

    def __exit__(self, *error: object) -> None:
        if os.getuid() == 0:
            os.seteuid(0)


def test_no_permission(tmp_path: Path) -> None:
    for parent in (tmp_path, *made_by_pytest(tmp_path)):
        parent.chmod(0o755)
    (tmp_path / "shut").mkdir()
    for path in (tmp_path / "a.png", tmp_path / "shut" / "b.png"):
        COLOURS.save(path)
        path.chmod(0)
    (tmp_path / "shut").chmod(0)
    try:
        with Nobody():
            paths, errors = find_photos(tmp_path)
            assert paths == [tmp_path / "a.png"]
            assert "shut: it may not be read (permission denied); change its permissions." in str(errors[0])
            with pytest.raises(PhotoError, match=r"a.png: it may not be read \(permission denied\)") as caught:
                read_photo(tmp_path / "a.png")
            assert not caught.value.lasting
    finally:
        (tmp_path / "shut").chmod(0o700)


def test_photos_that_are_found(folder: Path) -> None:
    """Names in any script and links to other folders are read. Hidden and other files and circular links are not."""
    elsewhere = folder.parent / "elsewhere"
    elsewhere.mkdir()
    names = ["猫.png", "кошка ☂.PNG", "a=b, [c] {d}.png", "line\nbreak.png", os.fsdecode(b"latin \xe9.png")]
    for name in names:
        COLOURS.save(elsewhere / name, "PNG")
    for name in (".hidden.png", "notes.txt", "movie.mp4", "LICENCE"):
        (folder / name).touch()
    (folder / ".trash").mkdir()
    COLOURS.save(folder / ".trash" / "old.png")
    (folder / "link").symlink_to(elsewhere, target_is_directory=True)
    (folder / "more" / "up").symlink_to(folder, target_is_directory=True)
    (folder / "again").symlink_to(folder / "more", target_is_directory=True)
    paths, errors = find_photos(folder)
    assert [path.name for path in paths if path.parent.name == "link"] == sorted(names)
    assert len(paths) == 12 + len(names)
    assert paths == sorted(paths)
    assert {error.path.name for error in errors} == {
        "notes.txt", "movie.mp4", "LICENCE", "up", "again",
    }  # fmt: skip
    text = "\n".join(map(str, errors))
    assert "notes.txt: files that end in .txt are not read; if it is a photo, save it as one of .jpg" in text
    assert "LICENCE: files without an ending are not read" in text
    assert "up: the link leads to a folder that has been read" in text
    for path in paths:
        assert read_photo(path)[0].width
        assert shown(path).isprintable()
    assert shown(Path("line\nbreak")) == "line\\nbreak"
    assert shown(Path("猫")) == "猫"


def test_errors_of_a_missing_folder(folder: Path) -> None:
    with pytest.raises(InputError, match=rf"{folder}/none \(there is nothing\)\. .*data.root=DIR"):
        find_photos(folder / "none")
    with pytest.raises(InputError, match=r"photo 0.png \(it is a file\)"):
        find_photos(folder / "photo 0.png")


def test_added_photos_do_not_move_others_between_the_sides(folder: Path) -> None:
    photos = read(folder)
    _, val, _ = split_photos(photos, 0.4)
    for seed in range(100, 120):
        picture(64, 64, seed).save(folder / f"new {seed}.png")
    more = read(folder)
    _, more_val, _ = split_photos(more, 0.4)
    old = {photo.path for photo in photos}
    assert {photo.path for photo in more_val} & old == {photo.path for photo in val}
    assert len(more_val) > len(val)


@pytest.mark.parametrize(("fraction", "train", "val"), [(1e-9, 11, 1), (1 - 1e-9, 1, 11)])
def test_an_empty_side_gets_the_nearest_photo(folder: Path, fraction: float, train: int, val: int) -> None:
    photos = read(folder)
    on_train, on_val, moved = split_photos(photos, fraction)
    assert (len(on_train), len(on_val)) == (train, val)
    assert moved == (on_val if val == 1 else on_train)
    hashes = sorted(photo.digest for photo in photos)
    assert moved[0].digest == (hashes[0] if val == 1 else hashes[-1])


def test_a_large_enough_folder_has_a_photo_in_validation(tmp_path: Path) -> None:
    """A folder holds out the same photo whether or not there are other folders."""
    seeds = iter(range(1000))
    for name, count in (("many", 30), ("few", 3)):
        (tmp_path / name).mkdir()
        while len(list((tmp_path / name).iterdir())) < count:
            path = tmp_path / name / f"{next(seeds)}.png"
            picture(48, 48, int(path.stem)).save(path)
            # 1/8 of all hashes are below "2". They include the hashes that val_fraction=0.1 holds out.
            if hashlib.sha256(path.read_bytes()).hexdigest() < "2":
                path.unlink()
    together, alone = read(tmp_path), read(tmp_path / "many")
    train, val, moved = split_photos(together, 0.1)
    assert len(train) == 32
    assert val == moved == split_photos(alone, 0.1)[1]
    assert moved[0].digest == min(photo.digest for photo in alone)


def test_one_photo_is_too_few(tmp_path: Path) -> None:
    for name in ("a.png", "copy of a.png"):
        picture(64, 64).save(tmp_path / name)
    photos = read(tmp_path)
    with pytest.raises(InputError, match=r"at least 2 different photos .*; got 2 of this size .*data.val_root"):
        split_photos(photos, 0.1)


def test_the_sample_has_separate_photos_for_validation() -> None:
    train, val = sample_photos()
    assert all(path.is_file() for path in train + val)
    assert {path.name for path in val} == {"chelsea.png", "astronaut.png"}
    assert sum("motorcycle" in path.name for path in train) == 2


def test_copies_are_found_by_their_pixels(folder: Path, tmp_path: Path) -> None:
    """Files with the same pixels may have different bytes. Hashes of files would then not find the copies."""
    with Image.open(folder / "photo 0.png") as image:
        image.save(tmp_path / "copy.bmp")
    train, (copy, _) = read(folder), read_photo(tmp_path / "copy.bmp")
    kept, copies = without_copies(train, [copy])
    assert [photo.path.name for photo, _ in copies] == ["photo 0.png"]
    assert len(kept) == 11
    assert without_copies(kept, [copy]) == (kept, [])


@pytest.mark.parametrize(
    ("which", "names"),
    [
        ("cats", ["Abyssinian_1.jpg", "Bengal_9.jpg"]),
        ("dogs", ["american_bulldog_2.jpg"]),
        ("all", ["Abyssinian_1.jpg", "Bengal_9.jpg", "american_bulldog_2.jpg"]),
    ],
)
def test_oxford_pets(tmp_path: Path, which: str, names: list[str]) -> None:
    pets(tmp_path)
    paths = oxford_pets(tmp_path, which)
    assert [path.name for path in paths] == names
    assert all(path.is_file() for path in paths)


def test_oxford_pets_cannot_be_downloaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InputError, match=r'data\.pets must be one of cats, dogs, all; got "birds"'):
        OxfordPets(pets="birds")

    def offline(*args: object, **settings: object) -> None:
        raise OSError("no route to host")

    monkeypatch.setattr("torchvision.datasets.oxford_iiit_pet.download_and_extract_archive", offline)
    with pytest.raises(
        InputError, match=rf"in {tmp_path}/oxford-iiit-pet nor downloaded \(no route to host\)\. .*unpack"
    ):
        oxford_pets(tmp_path, "cats")
    pets(tmp_path)
    (tmp_path / "oxford-iiit-pet" / "annotations" / "test.txt").unlink()
    with pytest.raises(InputError, match=r"test.txt.*Delete this folder and try again"):
        oxford_pets(tmp_path, "cats")


def photo(place: float, side: int, name: str = "", folder: str = "photos") -> Photo:
    """Return a photo whose hash has the position `place` in [0, 1)."""
    digest = f"{int(place * 16**13):013x}" + "0" * 51
    return Photo(Path(folder, f"{place}.png"), digest, name or digest, "PNG", side, side, (side, side))


def places(photos: Sequence[Photo]) -> list[float]:
    return [float(photo.path.stem) for photo in photos]


@pytest.mark.parametrize(
    ("sizes", "train", "val"),
    [
        # By its hash only a tiny picture would be held out. The photo with the lowest hash is held out instead.
        ({0.05: 20, **{0.2 + number / 100: 128 for number in range(17)}}, 16, [0.2]),
        # The same holds for few photos, and if the hashes hold out several tiny pictures.
        ({0.01: 31, 0.05: 20, 0.5: 128, 0.6: 128}, 1, [0.5]),
        # A photo under the crop, but of at least 32 px, stays in validation.
        ({0.05: 40, 0.5: 128, 0.6: 128}, 2, [0.05]),
        # By the hashes all photos of at least the crop are held out. The photo with the highest hash moves to training.
        ({0.01: 128, 0.04: 128, 0.05: 40, 0.5: 40, 0.6: 40}, 3, [0.01, 0.05]),
        # The only photo of at least the crop moves to training, and the next photo replaces it in validation.
        ({0.01: 128, 0.5: 40, 0.6: 40}, 2, [0.5]),
        # The only photo of at least the crop stays in training.
        ({0.2: 128, 0.5: 40}, 1, [0.5]),
    ],
)
def test_the_nearest_suitable_photo_moves(sizes: dict[float, int], train: int, val: list[float]) -> None:
    photos = [photo(place, side) for place, side in sizes.items()]
    trained, validated, moved = split_photos(photos, 0.1, crop=96)
    assert places(validated) == val
    assert len(trained) == train
    assert any(photo.side >= 96 for photo in trained)
    assert not {photo.digest for photo in trained} & {photo.digest for photo in validated}
    assert {photo.path for photo in moved} == {
        photo.path for photo in photos if photo.side >= 32 and (photo in validated) != (float(photo.path.stem) < 0.1)
    }


def test_copies_by_pixels_do_not_empty_a_side() -> None:
    """One picture has two files, one on each side of the split. Without a move, no photo would be left to train on."""
    photos = [photo(0.01, 128, "a"), photo(0.05, 128, "b"), photo(0.5, 128, "b")]
    train, val, _ = split_photos(photos, 0.1, crop=96)
    assert places(train) == [0.05, 0.5]
    assert places(val) == [0.01]
    with pytest.raises(InputError, match=r"at least 2 different photos .* got 2 of this size .* and 1 smaller ones"):
        split_photos([photo(0.01, 128, "a"), photo(0.5, 128, "a"), photo(0.6, 31, "c")], 0.1)


def test_files_that_earlier_versions_did_not_read(run: Callable[..., Run], folder: Path) -> None:
    """The error of a run that began without .jfif files names the reason why the run cannot be resumed."""
    words = "data=folder", f"data.root={folder}", "data.val_fraction=0.3", "data.cache=null"
    assert run(*words).code == 0
    for seed in range(20, 24):
        picture(90, 80, seed).save(folder / f"{seed}.jfif", "JPEG")
    result = run(*words, "ckpt_path=last")
    assert result.code == 2
    assert "Earlier versions did not read files that end in .jfif." in result.stderr
    assert run(*words, name="new").code == 0
