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

from upscale_lit.data.listing import find_photos
from upscale_lit.data.photo import PhotoError, read_photo

COLOURS = picture(40, 30)


def pixels(path: Path) -> np.ndarray[Any, Any]:
    return read_photo(path)[1][0]


@pytest.mark.parametrize("suffix", ["jpg", "jpeg", "JPG", "jfif", "JPE", "mpo", "png", "webp", "bmp", "tif", "tiff"])
def test_formats(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"photo.{suffix}"
    options: dict[str, dict[str, Any]] = {
        "webp": {"lossless": True}, "mpo": {"save_all": True, "append_images": [COLOURS.rotate(90)]},
    }  # fmt: skip
    COLOURS.save(path, **options.get(suffix, {}))
    photo, levels = read_photo(path)
    assert find_photos(tmp_path) == ([path], [])
    assert (photo.width, photo.height, photo.side, photo.kept) == (40, 30, 30, (30, 40))
    assert levels[0].dtype == np.uint8
    error = np.abs(levels[0].astype(int) - np.asarray(COLOURS))
    assert error.max() == 0 if photo.format not in ("JPEG", "MPO") else error.mean() < 8


def alpha(colour: Image.Image, value: int) -> Image.Image:
    image = colour.convert("RGBA")
    image.putalpha(value)
    return image


GREY = np.asarray(COLOURS.convert("L")).astype(int)
WHITE = np.full((30, 40, 3), 255)
MODES: dict[str, tuple[str, Callable[[], Image.Image], Any, int]] = {  # file, picture, expected pixels, largest error
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
    import tifffile  # a dependency of scikit-image

    tifffile.imwrite(tmp_path / "a.tif", np.asarray(COLOURS).astype(np.uint16) * 257, photometric="rgb")
    assert np.array_equal(pixels(tmp_path / "a.tif"), np.asarray(COLOURS))


def test_grey_tiffs_of_12_bits_and_negatives(tmp_path: Path) -> None:
    import tifffile

    grey = np.asarray(COLOURS.convert("L"))
    tifffile.imwrite(tmp_path / "negative.tif", 65535 - grey.astype(np.uint16) * 257, photometric="miniswhite")
    assert np.array_equal(pixels(tmp_path / "negative.tif")[..., 0], grey)
    # tifffile needs another package to pack 12 bits. Here a pair of values is packed into three bytes.
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
    turns = {3: 2, 4: 2, 5: 1, 6: 3, 7: 3, 8: 1}  # quarter turns (EXIF standard); 2, 4, 5, 7 also mirror
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


def test_the_levels_of_a_pyramid(tmp_path: Path) -> None:
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
    """Return `content` with the bytes in its middle overwritten."""
    middle = len(content) // 2
    return content[:middle] + by + content[middle + len(by) :]


LARGE = picture(400, 300)
WRONG: dict[str, tuple[str, bytes, str]] = {  # file name, content, expected message
    "empty": ("a.jpg", b"", "the file is empty; copy it again"),
    "text": ("a.jpg", b"my cat is called Tom", "must be one of JPEG, PNG, .*begins with b'my cat i'; save it in"),
    "GIF by a JPEG's name": ("a.jpg", encoded(kind="GIF"), "one of JPEG, .*begins with b'GIF"),
    "cut JPEG": ("a.jpg", half(encoded(LARGE)), r"is incomplete \(.*truncated.*\); copy it again"),
    "cut progressive JPEG": ("a.jpg", half(encoded(LARGE, progressive=True)), "is incomplete"),
    "cut JPEG with an end": ("a.jpg", half(encoded(LARGE)) + b"\xff\xd9", "is incomplete"),
    "cut JPEG, zeros after it": ("a.jpg", half(encoded(LARGE)) + bytes(20000), "is incomplete"),
    "cut JPEG with restarts": ("a.jpg", half(encoded(LARGE, restart_marker_rows=1)) + b"\xff\xd9", "is incomplete"),
    "cut PNG": ("a.png", half(encoded(LARGE, "PNG")), "is incomplete"),
    "cut BMP": ("a.bmp", half(encoded(LARGE, "BMP")), "is incomplete"),
    "cut WebP": ("a.webp", half(encoded(LARGE, "WEBP")), "is incomplete|cannot be decoded|damaged"),
    "cut TIFF": ("a.tif", half(encoded(LARGE, "TIFF")), "is incomplete|cannot be decoded|damaged"),
    "cut packed TIFF": (
        "a.tif", half(encoded(LARGE, "TIFF", compression="tiff_lzw")), "is incomplete|cannot be decoded|damaged",
    ),
    "JPEG with a stray marker": ("a.jpg", spoilt(encoded(LARGE), b"\xff\x01"), "is incomplete"),
    "JPEG with a stray restart": ("a.jpg", spoilt(encoded(LARGE), b"\xff\xd3"), "is incomplete"),
    "restarts and a hole": ("a.jpg", spoilt(encoded(LARGE, restart_marker_rows=1), bytes(900)), "is incomplete"),
    "progressive JPEG with an end": ("a.jpg", half(encoded(LARGE, progressive=True)) + b"\xff\xd9", "is incomplete"),
    "PNG, zeros at its end": ("a.png", half(encoded(LARGE, "PNG")) + bytes(9000), "is incomplete"),
    "WebP, zeros at its end": ("a.webp", encoded(LARGE, "WEBP")[:-2000] + bytes(2000), "is incomplete"),
    "unknown TIFF": ("a.tif", b"II*\0" + bytes(60), "header is damaged, or its kind is not supported"),
    "header only": ("a.png", encoded(LARGE, "PNG")[:40], "is incomplete|cannot be decoded|damaged"),
    "damaged PNG": ("a.png", encoded(LARGE, "PNG")[:60] + bytes(4000), "cannot be decoded|is incomplete"),
    "32 bits": ("a.tif", encoded(Image.new("F", (40, 30)), "TIFF"), "pixels have 32 bits.*; save it with 8 or 16"),
    "bomb": ("a.png", b"", "exceeds limit of .* pixels.*; save it smaller"),
}  # fmt: skip


def bomb() -> bytes:
    """Return a PNG of a few bytes whose header claims 30000 x 30000 pixels."""
    content = encoded(Image.new("L", (1, 1)), "PNG")
    size = b"IHDR" + struct.pack(">II", 30000, 30000) + content[24:29]
    return content[:12] + size + struct.pack(">I", zlib.crc32(size)) + content[33:]


@pytest.mark.parametrize("name", WRONG)
def test_errors_explain_unreadable_files(tmp_path: Path, name: str) -> None:
    file, content, message = WRONG[name]
    path = tmp_path / file
    path.write_bytes(bomb() if name == "bomb" else content)
    with pytest.raises(PhotoError, match=f"^{tmp_path}/{file}: .*({message})") as caught:
        read_photo(path)
    assert "\n" not in str(caught.value)
    assert caught.value.lasting == (name != "bomb")  # the user may raise the limit


def test_a_complete_jpeg_is_not_reported_as_cut(tmp_path: Path) -> None:
    """The last rows of flat pictures take few bits. Each picture is written with several settings."""
    for number, image in enumerate((LARGE, Image.new("RGB", (640, 480)), Image.new("L", (64, 64), 9), COLOURS)):
        for settings in ({}, {"optimize": True}, {"progressive": True}, {"restart_marker_rows": 1}, {"quality": 1}):
            content = encoded(image, **settings)
            for more in (b"", bytes(3000), b"something else"):
                path = tmp_path / f"{number}.jpg"
                path.write_bytes(content + more)
                whole = np.asarray(Image.open(BytesIO(content)).convert("RGB"))
                assert np.array_equal(pixels(path), whole)


def test_special_and_missing_files(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.jpg")
    (tmp_path / "to nothing.jpg").symlink_to(tmp_path / "gone.jpg")
    (tmp_path / "circle.jpg").symlink_to(tmp_path / "round.jpg")
    (tmp_path / "round.jpg").symlink_to(tmp_path / "circle.jpg")
    for name, message in (
        ("pipe.jpg", "not an ordinary file; remove it"),
        ("to nothing.jpg", r"the link leads to no file \(no such file.*; remove or fix the link"),
        ("circle.jpg", "the link leads to no file .*symbolic links"),
        ("vanished.jpg", "it cannot be read .*no such file"),
    ):
        with pytest.raises(PhotoError, match=f"{name}: .*{message}") as caught:
            read_photo(tmp_path / name)
        assert not caught.value.lasting
