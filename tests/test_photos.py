import os
import struct
import zlib
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import picture
from PIL import Image

from upscale_lit.errors import InputError
from upscale_lit.photos import (
    Photo,
    PhotoError,
    find_photos,
    oxford_pets,
    read_photo,
    sample_photos,
    shown,
    split_photos,
    without_copies,
)

COLOURS = picture(40, 30)


def read(root: Path) -> list[Photo]:
    return [read_photo(path)[0] for path in find_photos(root)[0]]


def pixels(path: Path) -> np.ndarray[Any, Any]:
    return read_photo(path)[1][0]


@pytest.mark.parametrize("suffix", ["jpg", "jpeg", "JPG", "png", "webp", "bmp", "tif", "tiff"])
def test_formats(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"photo.{suffix}"
    COLOURS.save(path, **({"lossless": True} if suffix == "webp" else {}))
    photo, levels = read_photo(path)
    assert find_photos(tmp_path) == ([path], [])
    assert (photo.width, photo.height, photo.side, photo.kept) == (40, 30, 30, (30, 40))
    assert levels[0].dtype == np.uint8
    error = np.abs(levels[0].astype(int) - np.asarray(COLOURS))
    assert error.max() == 0 if suffix.lower() not in ("jpg", "jpeg") else error.mean() < 8


def alpha(colour: Image.Image, value: int) -> Image.Image:
    image = colour.convert("RGBA")
    image.putalpha(value)
    return image


GREY = np.asarray(COLOURS.convert("L")).astype(int)
WHITE = np.full((30, 40, 3), 255)
MODES: dict[str, tuple[str, Callable[[], Image.Image], Any, int]] = {  # file, picture, what is read, largest error
    "grey": ("a.png", lambda: COLOURS.convert("L"), GREY[..., None], 0),
    "grey in JPEG": ("a.jpg", lambda: Image.new("L", (40, 30), 77), 77, 1),
    "bilevel": (
        "a.png",
        lambda: COLOURS.convert("1"),
        np.asarray(COLOURS.convert("1")).astype(int)[..., None] * 255,
        0,
    ),
    "grey and alpha": ("a.png", lambda: alpha(COLOURS.convert("L"), 0).convert("LA"), WHITE, 0),
    "16-bit grey PNG": ("a.png", lambda: Image.fromarray((GREY * 257).astype(np.uint16)), GREY[..., None], 0),
    "16-bit grey TIFF": ("a.tif", lambda: Image.fromarray((GREY * 257).astype(np.uint16)), GREY[..., None], 0),
    "palette": ("a.png", lambda: COLOURS.quantize(200), np.asarray(COLOURS.quantize(200).convert("RGB")), 0),
    "clear": ("a.webp", lambda: alpha(COLOURS, 0), WHITE, 0),
    "half clear": ("a.png", lambda: alpha(COLOURS, 128), (np.asarray(COLOURS) * 128.0 + 255 * 127) / 255, 2),
    "CMYK": ("a.jpg", lambda: Image.new("CMYK", (40, 30), (0, 255, 255, 0)), (255, 0, 0), 2),
    "CMYK TIFF": ("a.tif", lambda: Image.new("CMYK", (40, 30), (0, 255, 255, 0)), (255, 0, 0), 2),
}


@pytest.mark.parametrize("name", MODES)
def test_modes(tmp_path: Path, name: str) -> None:
    file, make, expected, tolerance = MODES[name]
    make().save(tmp_path / file, **({"lossless": True} if file.endswith("webp") else {}))
    assert np.abs(pixels(tmp_path / file).astype(float) - expected).max() <= tolerance


def test_a_palette_with_a_clear_colour(tmp_path: Path) -> None:
    image = Image.new("P", (40, 30), 1)
    image.putpalette([10, 20, 30, 200, 100, 50])
    image.paste(0, (0, 0, 20, 30))
    image.save(tmp_path / "a.png", transparency=0)
    assert (pixels(tmp_path / "a.png")[:, :20] == 255).all()
    assert (pixels(tmp_path / "a.png")[:, 20:] == (200, 100, 50)).all()


def test_16_bit_colour_is_read_as_8_bits(tmp_path: Path) -> None:
    import tifffile  # comes with scikit-image

    tifffile.imwrite(tmp_path / "a.tif", np.asarray(COLOURS).astype(np.uint16) * 257, photometric="rgb")
    assert np.array_equal(pixels(tmp_path / "a.tif"), np.asarray(COLOURS))


def test_grey_tiffs_of_12_bits_and_negatives(tmp_path: Path) -> None:
    import tifffile

    grey = np.asarray(COLOURS.convert("L"))
    tifffile.imwrite(tmp_path / "negative.tif", 65535 - grey.astype(np.uint16) * 257, photometric="miniswhite")
    assert np.array_equal(pixels(tmp_path / "negative.tif")[..., 0], grey)
    # tifffile packs no 12 bits without another package; Pillow reads them from rows of pairs in three bytes.
    values = (grey.astype(np.uint32) * 4095 // 255).reshape(-1, 2)
    packed = np.stack([values[:, 0] >> 4, (values[:, 0] & 15) << 4 | values[:, 1] >> 8, values[:, 1] & 255], -1)
    tags = [(256, 3, 40), (257, 3, 30), (258, 3, 12), (259, 3, 1), (262, 3, 1), (273, 4, 200), (277, 3, 1),
            (278, 3, 30), (279, 4, packed.size)]  # fmt: skip
    entries = b"".join(struct.pack("<HHII", tag, kind, 1, value) for tag, kind, value in tags)
    header = b"II*\0" + struct.pack("<IH", 8, len(tags)) + entries + bytes(4)
    (tmp_path / "12.tif").write_bytes(header.ljust(200, b"\0") + packed.astype(np.uint8).tobytes())
    assert np.abs(pixels(tmp_path / "12.tif")[..., 0].astype(int) - grey).max() <= 1


@pytest.mark.parametrize("orientation", range(1, 9))
def test_orientation(tmp_path: Path, orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    COLOURS.save(tmp_path / "turned.png", exif=exif)
    turns = {3: 2, 4: 2, 5: 1, 6: 3, 7: 3, 8: 1}  # by the EXIF standard; 2, 4, 5 and 7 are mirrored, too
    expected = np.asarray(COLOURS)
    expected = expected[:, ::-1] if orientation in (2, 4, 5, 7) else expected
    expected = np.rot90(expected, turns.get(orientation, 0))
    photo, levels = read_photo(tmp_path / "turned.png")
    assert np.array_equal(levels[0], expected)
    assert (photo.height, photo.width) == expected.shape[:2]


def test_a_damaged_header_keeps_the_picture(tmp_path: Path) -> None:
    COLOURS.save(tmp_path / "a.png", exif=b"Exif\0\0II*\0garbage")
    assert np.array_equal(pixels(tmp_path / "a.png"), np.asarray(COLOURS))


def test_keep_shrinks_large_photos_only(tmp_path: Path) -> None:
    picture(400, 300).save(tmp_path / "large.jpg")
    for keep, shape in ((100, (100, 133, 3)), (300, (300, 400, 3)), (301, (300, 400, 3))):
        photo, levels = read_photo(tmp_path / "large.jpg", keep)
        assert levels[0].shape == shape
        assert (photo.kept, photo.width, photo.height) == (shape[:2], 400, 300)


def test_a_pyramid_of_halves(tmp_path: Path) -> None:
    picture(400, 300).save(tmp_path / "a.png")
    levels = read_photo(tmp_path / "a.png")[1]
    shapes = [(300, 400), (212, 283), (150, 200), (106, 141), (75, 100), (53, 70), (37, 50)]
    assert [level.shape for level in levels] == [(*shape, 3) for shape in shapes]
    half = np.asarray(picture(400, 300).resize((200, 150), Image.Resampling.BICUBIC))
    assert np.array_equal(levels[2], half)


def encoded(image: Image.Image = COLOURS, kind: str = "JPEG", **settings: Any) -> bytes:
    stream = BytesIO()
    image.save(stream, kind, **settings)
    return stream.getvalue()


def half(content: bytes) -> bytes:
    return content[: len(content) // 2]


def spoilt(content: bytes, by: bytes) -> bytes:
    """Overwritten in the middle."""
    middle = len(content) // 2
    return content[:middle] + by + content[middle + len(by) :]


LARGE = picture(400, 300)
WRONG: dict[str, tuple[str, bytes, str]] = {  # file, content, what is said of it
    "empty": ("a.jpg", b"", "the file is empty; copy it again"),
    "text": ("a.jpg", b"my cat is called Tom", "content is none of JPEG, PNG, .*begins with b'my cat i'; save it as"),
    "GIF by a JPEG's name": ("a.jpg", encoded(kind="GIF"), "none of JPEG, .*begins with b'GIF"),
    "cut JPEG": ("a.jpg", half(encoded(LARGE)), r"breaks off \(.*truncated.*\); copy it again"),
    "cut progressive JPEG": ("a.jpg", half(encoded(LARGE, progressive=True)), "breaks off"),
    "cut JPEG with an end": ("a.jpg", half(encoded(LARGE)) + b"\xff\xd9", "breaks off"),
    "cut JPEG, zeros after it": ("a.jpg", half(encoded(LARGE)) + bytes(20000), "breaks off"),
    "cut JPEG with restarts": ("a.jpg", half(encoded(LARGE, restart_marker_rows=1)) + b"\xff\xd9", "breaks off"),
    "cut PNG": ("a.png", half(encoded(LARGE, "PNG")), "breaks off"),
    "cut BMP": ("a.bmp", half(encoded(LARGE, "BMP")), "breaks off"),
    "cut WebP": ("a.webp", half(encoded(LARGE, "WEBP")), "breaks off|cannot be decoded|damaged"),
    "cut TIFF": ("a.tif", half(encoded(LARGE, "TIFF")), "breaks off|cannot be decoded|damaged"),
    "cut packed TIFF": (
        "a.tif", half(encoded(LARGE, "TIFF", compression="tiff_lzw")), "breaks off|cannot be decoded|damaged",
    ),
    "JPEG with a stray marker": ("a.jpg", spoilt(encoded(LARGE), b"\xff\x01"), "breaks off"),
    "JPEG with a stray restart": ("a.jpg", spoilt(encoded(LARGE), b"\xff\xd3"), "breaks off"),
    "JPEG with restarts and a hole": ("a.jpg", spoilt(encoded(LARGE, restart_marker_rows=1), bytes(900)), "breaks off"),
    "cut progressive JPEG with an end": ("a.jpg", half(encoded(LARGE, progressive=True)) + b"\xff\xd9", "breaks off"),
    "PNG, zeros at its end": ("a.png", half(encoded(LARGE, "PNG")) + bytes(9000), "breaks off"),
    "WebP, zeros at its end": ("a.webp", encoded(LARGE, "WEBP")[:-2000] + bytes(2000), "breaks off"),
    "unknown TIFF": ("a.tif", b"II*\0" + bytes(60), "header is damaged, or of a kind that is not read"),
    "header only": ("a.png", encoded(LARGE, "PNG")[:40], "breaks off|cannot be decoded|damaged"),
    "damaged PNG": ("a.png", encoded(LARGE, "PNG")[:60] + bytes(4000), "cannot be decoded|breaks off"),
    "32 bits": ("a.tif", encoded(Image.new("F", (40, 30)), "TIFF"), "pixels have 32 bits.*; save it with 8 or 16"),
    "bomb": ("a.png", b"", "exceeds limit of .* pixels.*; save it smaller"),
}  # fmt: skip


def bomb() -> bytes:
    """A PNG of a few bytes that claims to hold 30000 x 30000 pixels."""
    content = encoded(Image.new("L", (1, 1)), "PNG")
    size = b"IHDR" + struct.pack(">II", 30000, 30000) + content[24:29]
    return content[:12] + size + struct.pack(">I", zlib.crc32(size)) + content[33:]


@pytest.mark.parametrize("name", WRONG)
def test_what_is_wrong_with_a_file(tmp_path: Path, name: str) -> None:
    file, content, message = WRONG[name]
    path = tmp_path / file
    path.write_bytes(bomb() if name == "bomb" else content)
    with pytest.raises(PhotoError, match=f"^{tmp_path}/{file}: .*({message})") as caught:
        read_photo(path)
    assert "\n" not in str(caught.value)
    assert caught.value.lasting


def test_a_whole_jpeg_is_no_cut_one(tmp_path: Path) -> None:
    """Flat pictures, whose last rows take hardly a bit, in every way to write them."""
    for number, image in enumerate((LARGE, Image.new("RGB", (640, 480)), Image.new("L", (64, 64), 9), COLOURS)):
        for settings in ({}, {"optimize": True}, {"progressive": True}, {"restart_marker_rows": 1}, {"quality": 1}):
            content = encoded(image, **settings)
            for more in (b"", bytes(3000), b"something else"):
                path = tmp_path / f"{number}.jpg"
                path.write_bytes(content + more)
                whole = np.asarray(Image.open(BytesIO(content)).convert("RGB"))
                assert np.array_equal(pixels(path), whole)


def test_what_is_no_file(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.jpg")
    (tmp_path / "to nothing.jpg").symlink_to(tmp_path / "gone.jpg")
    (tmp_path / "circle.jpg").symlink_to(tmp_path / "round.jpg")
    (tmp_path / "round.jpg").symlink_to(tmp_path / "circle.jpg")
    for name, message in (
        ("pipe.jpg", "not an ordinary file; remove it"),
        ("to nothing.jpg", r"the link leads to no file \(no such file.*; remove or mend the link"),
        ("circle.jpg", "the link leads to no file .*symbolic links"),
        ("vanished.jpg", "it cannot be read .*no such file"),
    ):
        with pytest.raises(PhotoError, match=f"{name}: .*{message}") as caught:
            read_photo(tmp_path / name)
        assert not caught.value.lasting


class Nobody:
    """Without the rights of the user who runs the tests, who may be root and read everything."""

    def __enter__(self) -> None:
        if os.geteuid() == 0:
            os.seteuid(65534)

    def __exit__(self, *error: object) -> None:
        if os.getuid() == 0:
            os.seteuid(0)


def test_no_permission(tmp_path: Path) -> None:
    for parent in (tmp_path, *tmp_path.parents[:2]):
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
            assert "shut: it may not be read (permission denied); give yourself the right to." in str(errors[0])
            with pytest.raises(PhotoError, match=r"a.png: it may not be read \(permission denied\)") as caught:
                read_photo(tmp_path / "a.png")
            assert not caught.value.lasting
    finally:
        (tmp_path / "shut").chmod(0o700)


def test_what_is_found(folder: Path) -> None:
    """Any script, hidden files, other files, and links: to a folder elsewhere, to one read already, in a circle."""
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
    assert "notes.txt: files that end in .txt are not read; where it is a photo, save it as one of .jpg" in text
    assert "LICENCE: files without an ending are not read" in text
    assert "up: the link leads to a folder that is read already" in text
    for path in paths:
        assert read_photo(path)[0].width
        assert shown(path).isprintable()
    assert shown(Path("line\nbreak")) == "line\\nbreak"
    assert shown(Path("猫")) == "猫"


def test_find_says_what_is_missing(folder: Path) -> None:
    with pytest.raises(InputError, match=rf"{folder}/none; found nothing\. .*data.root=DIR"):
        find_photos(folder / "none")
    with pytest.raises(InputError, match=r"photo 0.png; found a file"):
        find_photos(folder / "photo 0.png")


def test_split_moves_no_photo_when_others_come(folder: Path) -> None:
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
def test_an_empty_side_gets_the_nearest(folder: Path, fraction: float, train: int, val: int) -> None:
    photos = read(folder)
    on_train, on_val, moved = split_photos(photos, fraction)
    assert (len(on_train), len(on_val)) == (train, val)
    assert [moved] == (on_val if val == 1 else on_train)
    hashes = sorted(photo.digest for photo in photos)
    assert moved is not None
    assert moved.digest == (hashes[0] if val == 1 else hashes[-1])


def test_one_photo_is_too_few(tmp_path: Path) -> None:
    for name in ("a.png", "copy of a.png"):
        picture(64, 64).save(tmp_path / name)
    photos = read(tmp_path)
    with pytest.raises(InputError, match=r"at least 2 different photos; found 2 readable .*data.val_root"):
        split_photos(photos, 0.1)


def test_sample_is_there_and_apart() -> None:
    train, val = sample_photos()
    assert all(path.is_file() for path in train + val)
    assert {path.name for path in val} == {"chelsea.png", "astronaut.png"}
    assert sum("motorcycle" in path.name for path in train) == 2


def test_copies_are_found_by_their_pixels(folder: Path, tmp_path: Path) -> None:
    """The same pixels in files of other bytes: the hash of the file cannot keep them on one side."""
    with Image.open(folder / "photo 0.png") as image:
        image.save(tmp_path / "copy.bmp")
    train, (twin, _) = read(folder), read_photo(tmp_path / "copy.bmp")
    kept, copies = without_copies(train, [twin])
    assert [photo.path.name for photo, _ in copies] == ["photo 0.png"]
    assert len(kept) == 11
    assert without_copies(kept, [twin]) == (kept, [])


def pets(root: Path) -> None:
    """A small copy of the layout of the Oxford-IIIT Pet photographs."""
    for part in ("images", "annotations"):
        (root / "oxford-iiit-pet" / part).mkdir(parents=True)
    for split, names in (
        ("trainval", ["Abyssinian_1 1 1 1", "american_bulldog_2 5 2 4"]),
        ("test", ["Bengal_9 6 1 2"]),
    ):
        (root / "oxford-iiit-pet" / "annotations" / f"{split}.txt").write_text("".join(f"{name}\n" for name in names))
        for name in names:
            picture(120, 100, len(name)).save(root / "oxford-iiit-pet" / "images" / f"{name.split()[0]}.jpg")


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


def test_oxford_pets_cannot_be_had(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InputError, match=r"data\.pets is cats, dogs or all; found 'birds'"):
        oxford_pets(tmp_path, "birds")

    def offline(*args: object, **settings: object) -> None:
        raise OSError("no route to host")

    monkeypatch.setattr("torchvision.datasets.oxford_iiit_pet.download_and_extract_archive", offline)
    with pytest.raises(
        InputError, match=rf"in {tmp_path}/oxford-iiit-pet and cannot be had \(no route to host\)\. .*unpack"
    ):
        oxford_pets(tmp_path, "cats")
    pets(tmp_path)
    (tmp_path / "oxford-iiit-pet" / "annotations" / "test.txt").unlink()
    with pytest.raises(InputError, match=r"test.txt.*Delete that folder and try again"):
        oxford_pets(tmp_path, "cats")
