"""Metadata of files: damaged metadata never prevent a picture from being read, and notes name lost metadata."""

import io
import os
import random
import struct
import time
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import picture, png_chunk
from PIL import ExifTags, Image, ImageCms, PngImagePlugin

from upscale_lit.data.photo import read_photo
from upscale_lit.inference.pictures import read_picture, save_picture, upright

COLOURS = picture(40, 30)
SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
XMP = b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><dc:creator>me</dc:creator></x:xmpmeta>'
LEFT_OUT = "metadata that are damaged or too large are left out: "


def encoded(image: Image.Image = COLOURS, kind: str = "PNG", **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def with_chunks(*chunks: bytes, image: Image.Image = COLOURS) -> bytes:
    data = encoded(image)
    return data[:33] + b"".join(chunks) + data[33:]


def with_segments(*segments: bytes) -> bytes:
    data = encoded(kind="JPEG", quality=95)
    return data[:2] + b"".join(segments) + data[20:]  # without Pillow's JFIF segment


def segment(marker: int, body: bytes) -> bytes:
    return bytes([0xFF, marker]) + struct.pack(">H", len(body) + 2) + body


def tiff(*entries: tuple[int, int, int, bytes]) -> bytes:
    """Return an 8-bit grey TIFF of 40x30 px with more tags.

    entries: for each tag its number, type, count, and the four bytes of its value or of the position of the value.
    """
    pixels = bytes(range(40)) * 30
    numbers = {256: 40, 257: 30, 258: 8, 259: 1, 262: 1, 273: 400, 277: 1, 278: 30, 279: len(pixels)}
    found = [(tag, 4, 1, struct.pack("<I", value)) for tag, value in numbers.items()] + list(entries)
    directory = b"".join(struct.pack("<HHI", *entry[:3]) + entry[3] for entry in sorted(found))
    head = b"II*\0" + struct.pack("<IH", 8, len(found)) + directory + bytes(4)
    return head.ljust(400, b"\0") + pixels


def webp(*chunks: bytes, cut: int = 0) -> bytes:
    data = encoded(kind="WEBP", lossless=True, exif=Image.Exif(), xmp=b"x")
    flags = bytes([data[20] | 0b101100]) + data[21:]
    body = data[:20] + flags[: len(flags) - 10] + b"".join(chunks)  # without its XMP chunk
    return body[:4] + struct.pack("<I", len(body) - 8) + body[8 : len(body) - cut]


def riff(name: bytes, body: bytes) -> bytes:
    return name + struct.pack("<I", len(body)) + body + bytes(len(body) % 2)


LONG_PROFILE = SRGB[:36] + SRGB[36:] + bytes(2_000_000)
PROFILE = struct.pack(">I", len(LONG_PROFILE)) + LONG_PROFILE[4:]  # valid: it begins with its length
WRONG_SUM = b"sum?"
DAMAGED: dict[str, tuple[str, bytes, list[str]]] = {  # file name, content, expected notes
    "random profile": (
        "a.png",
        encoded(icc_profile=os.urandom(1_200_000)),
        ["its colour profile is for an unknown colour space and is left out"],
    ),
    "profile over the limit": ("a.png", with_chunks(png_chunk(b"iCCP", b"p\0\0" + zlib.compress(bytes(17 << 20)))),
                               [f"{LEFT_OUT}colour profile (over 16 MB)"]),
    "profile, checksum": ("a.png", with_chunks(png_chunk(b"iCCP", b"p\0\0" + zlib.compress(SRGB), WRONG_SUM)),
                          [f"{LEFT_OUT}colour profile"]),
    "profile, no zlib": ("a.png", with_chunks(png_chunk(b"iCCP", b"p\0\0" + bytes(40))), [f"{LEFT_OUT}colour profile"]),
    "text of 1.2 MB": ("a.png", with_chunks(png_chunk(b"zTXt", b"w\0\0" + zlib.compress(b"x" * 1_200_000))), []),
    "text over the limit": ("a.png", with_chunks(png_chunk(b"zTXt", b"w\0\0" + zlib.compress(bytes(17 << 20)))),
                            [f"{LEFT_OUT}text 'w'"]),
    "text of no known method": ("a.png", with_chunks(png_chunk(b"zTXt", b"w\0\7abc")), [f"{LEFT_OUT}text 'w'"]),
    "text, checksum": ("a.png", with_chunks(png_chunk(b"tEXt", b"Title\0x", WRONG_SUM)), [f"{LEFT_OUT}text 'Title'"]),
    "XMP, checksum": ("a.png", with_chunks(png_chunk(b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0<x>", WRONG_SUM)),
                      [f"{LEFT_OUT}XMP"]),
    "EXIF, checksum": ("a.png", with_chunks(png_chunk(b"eXIf", b"II*\0", WRONG_SUM)), [f"{LEFT_OUT}EXIF"]),
    "short chunks": ("a.png", with_chunks(png_chunk(b"gAMA", b""), png_chunk(b"cHRM", b"x"), png_chunk(b"pHYs", b""),
                                          png_chunk(b"sRGB", b"")), [f"{LEFT_OUT}gAMA, cHRM, pHYs, sRGB"]),
    "unused chunks": ("a.png", with_chunks(png_chunk(b"tIME", b"", WRONG_SUM), png_chunk(b"prVt", b"", WRONG_SUM)), []),
    "short tRNS": ("a.png", with_chunks(png_chunk(b"tRNS", b"1")), [f"{LEFT_OUT}transparency"]),
    "texts named as Pillow's notes": (
        "a.png", with_chunks(*(png_chunk(b"tEXt", name + b"\0x") for name in
                               (b"transparency", b"bbox", b"interlace", b"dpi", b"icc_profile", b"xmp", b"gamma"))), []
    ),
    "after the pixels": ("a.png", encoded()[:-12] + png_chunk(b"zTXt", b"w\0\7abc", WRONG_SUM) + encoded()[-12:],
                          [f"{LEFT_OUT}text 'w'"]),
    "no chunk after the pixels": ("a.png", encoded()[:-12] + b"garbage!" + encoded()[-12:], []),
    "animation": ("a.png", with_chunks(png_chunk(b"acTL", b""), png_chunk(b"fcTL", b"12345")), []),
    "JFIF": ("a.jpg", with_segments(segment(0xE0, b"JFIF\0")), [f"{LEFT_OUT}JFIF"]),
    "Adobe": ("a.jpg", with_segments(segment(0xEE, b"Adobe")), [f"{LEFT_OUT}Adobe"]),
    "half a profile": ("a.jpg", with_segments(segment(0xE2, b"ICC_PROFILE\0\1\2half")), [f"{LEFT_OUT}colour profile"]),
    "no profile": ("a.jpg", with_segments(segment(0xE2, b"ICC_PROFILE\0")), [f"{LEFT_OUT}colour profile"]),
    "Photoshop": ("a.jpg", with_segments(segment(0xED, b"Photoshop 3.0\x008BIM\3\xed")), []),
    "index of pictures": ("a.jpg", with_segments(segment(0xE2, b"MPF\0II*\0\xff\xff\xff\xff")), []),
    "EXIF": ("a.jpg", with_segments(segment(0xE1, b"Exif\0\0II*\0\xff\xff")),
             ["the EXIF data are damaged and left out"]),
    "a part of EXIF": (
        "a.jpg", with_segments(segment(0xE1, b"Exif\0\0II*\0\x08\0\0\0\2\0" + struct.pack(
            "<HHIIHHII", 271, 2, 4, 0x6162, 272, 2, 99, 0xFFFFFF) + bytes(4))),
        ["a part of the EXIF data is damaged and left out"],
    ),
    "between segments": ("a.jpg", with_segments(segment(0xFE, b"hello"), b"junk\xff\xff"), []),
    "cut EXIF in WebP": ("a.webp", webp(riff(b"EXIF", bytes(200)), cut=100), [f"{LEFT_OUT}EXIF"]),
    "zeros in WebP": ("a.webp", webp(riff(b"EXIF", b"II*\0\x08\0\0\0\0\0" + bytes(200))), []),
    "flags without chunks": ("a.webp", webp(), []),
    "place of a tag": ("a.tif", tiff((270, 2, 99, b"\xff\xff\xff\x7f")), [f"{LEFT_OUT}tag ImageDescription"]),
    "type of a tag": ("a.tif", tiff((315, 99, 1, b"abcd")), [f"{LEFT_OUT}tag Artist"]),
    "profile and XMP as text": ("a.tif", tiff((700, 2, 4, b"<x/>"), (34675, 2, 4, b"prof")),
                                ["its colour profile is for an unknown colour space and is left out"]),
    "XMP as numbers": ("a.tif", tiff((700, 3, 2, b"<x/>")), []),
    "resolution": ("a.tif", tiff((282, 2, 4, b"much"), (283, 5, 1, b"\xff\xff\xff\xff"), (296, 3, 1, b"\7\0\0\0")),
                   [f"{LEFT_OUT}tag XResolution, tag YResolution, tag ResolutionUnit"]),
    "places of EXIF and GPS": ("a.tif", tiff((34665, 4, 1, b"\xff" * 4), (34853, 2, 4, b"here")),
                               [f"{LEFT_OUT}EXIF, GPS"]),
    "more tags than file": ("a.tif", tiff(*((number, 1, 1500, b"\0\0\0\0") for number in (270, 271))),
                            [f"{LEFT_OUT}tag Make"]),
}  # fmt: skip


@pytest.mark.parametrize("name", DAMAGED)
def test_pictures_with_damaged_metadata_are_read(tmp_path: Path, name: str) -> None:
    file, content, notes = DAMAGED[name]
    (tmp_path / file).write_bytes(content)
    result, said = read_picture(tmp_path / file)
    assert said == notes
    plain = {"a.png": COLOURS, "a.webp": COLOURS, "a.jpg": Image.open(io.BytesIO(encoded(kind="JPEG", quality=95)))}
    expected = plain[file] if file in plain else Image.open(io.BytesIO(tiff()))
    assert np.array_equal(np.asarray(result), np.asarray(expected))
    assert np.array_equal(read_photo(tmp_path / file)[1][0], np.asarray(expected.convert("RGB")))
    save_picture(result, tmp_path / f"b{Path(file).suffix}")
    assert read_picture(tmp_path / f"b{Path(file).suffix}")[1] == []


@pytest.mark.parametrize("name", ["transparency", "gamma", "dpi", "xmp", "comment", "chunks", "bits", "clear", "exif"])
def test_texts_of_an_image_that_pillow_opened(tmp_path: Path, name: str) -> None:
    with Image.open(io.BytesIO(with_chunks(png_chunk(b"tEXt", name.encode() + b"\0x")))) as image:
        result, _ = upright(image)
    assert np.array_equal(np.asarray(result), np.asarray(COLOURS))
    save_picture(result, tmp_path / "a.png")
    assert names(tmp_path / "a.png")[b"tEXt"] == name.encode() + b"\0x"


@pytest.mark.parametrize("text", ["dpi=96", "aspect=12", "bits=16", "bits=deep"])
def test_texts_of_a_picture_that_was_converted(text: str) -> None:
    """A converted picture is not a PNG, but `info` still holds the texts of the PNG."""
    content = text.replace("=", "\0").encode()
    with Image.open(io.BytesIO(with_chunks(png_chunk(b"tEXt", content)))) as image:
        result, notes = upright(image.convert("RGB"))
    assert np.array_equal(np.asarray(result), np.asarray(COLOURS))
    assert not notes
    assert not {"dpi", "aspect"} & set(result.info)


def names(path: Path) -> dict[bytes, bytes]:
    """Return the chunks of a PNG by their names."""
    data, position, found = path.read_bytes(), 8, {}
    while position < len(data):
        length = int.from_bytes(data[position : position + 4])
        found[data[position + 4 : position + 8]] = data[position + 8 : position + 8 + length]
        position += 12 + length
    return found


def test_exif_that_is_a_text(tmp_path: Path) -> None:
    """ImageMagick writes EXIF as a text of a PNG. The orientation is applied once."""
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6
    data = exif.tobytes()
    text = b"Raw profile type exif\0\0" + zlib.compress(b"\nexif\n%8d\n%s\n" % (len(data), data.hex().encode()))
    (tmp_path / "a.png").write_bytes(with_chunks(png_chunk(b"zTXt", text)))
    for _ in range(2):
        result, notes = read_picture(tmp_path / "a.png")
        assert (result.size, notes) == ((30, 40), [])
        save_picture(result, tmp_path / "a.png")


def test_large_metadata_are_kept(tmp_path: Path) -> None:
    text = "x" * 1_200_000
    info = PngImagePlugin.PngInfo()
    info.add_text("workflow", text, zip=True)
    info.add_itxt("Titre", text + "é", "fr", "titre", zip=True)
    COLOURS.save(tmp_path / "a.png", icc_profile=PROFILE, pnginfo=info)
    result, notes = read_picture(tmp_path / "a.png")
    assert notes == []
    assert result.info["icc_profile"] == PROFILE
    assert save_picture(result, tmp_path / "b.png", strip=False) == []
    del result.info["icc_profile"]  # Pillow cannot open a picture with a profile of this size
    save_picture(result, tmp_path / "b.png")
    with Image.open(tmp_path / "b.png") as again:
        again.load()
        assert again.text == {"workflow": text, "Titre": text + "é"}  # type: ignore[attr-defined]
        assert (again.text["Titre"].lang, again.text["Titre"].tkey) == ("fr", "titre")  # type: ignore[attr-defined]


def test_decompression_has_a_limit(tmp_path: Path) -> None:
    bomb = zlib.compress(bytes(15 << 20), 9)
    chunks = [png_chunk(b"zTXt", b"%d\0\0" % number + bomb) for number in range(300)]
    chunks += [png_chunk(b"iCCP", b"p\0\0" + zlib.compress(bytes(17 << 20)))] * 300
    (tmp_path / "a.png").write_bytes(with_chunks(*chunks))
    begin = time.process_time()
    result, notes = read_picture(tmp_path / "a.png")
    assert time.process_time() - begin < 2  # decompressing all 9.6 GB would take a minute
    assert len(notes) == 1
    assert notes[0].startswith(f"{LEFT_OUT}text '1', text '2', ")
    assert notes[0].endswith(" more")
    assert sum(len(content) for _, content in result.info["chunks"]) < 16 << 20


def fields(data: bytes, kind: str) -> list[int]:
    """Return the positions of all bytes of metadata in a file."""
    found: list[range] = []
    position = {"PNG": 8, "JPEG": 2, "WEBP": 12}[kind]
    while position + 8 <= len(data):
        name = data[position : position + 4] if kind == "WEBP" else data[position + 4 : position + 8]
        if kind == "JPEG":
            if data[position + 1] == 0xDA:
                break
            end = position + 2 + int.from_bytes(data[position + 2 : position + 4])
            used = 0xE0 <= data[position + 1] < 0xF0 or data[position + 1] == 0xFE
        elif kind == "PNG":
            end = position + 12 + int.from_bytes(data[position : position + 4])
            used = name not in (b"IHDR", b"IDAT", b"IEND")
        else:
            length = int.from_bytes(data[position + 4 : position + 8], "little")
            end, used = position + 8 + length + length % 2, name in (b"ICCP", b"EXIF", b"XMP ")
        if used:
            found.append(range(position + (4 if kind == "JPEG" else 8), end))
        position = end
    return [place for part in found for place in part]


def with_everything(kind: str) -> bytes:
    exif = Image.Exif()
    exif[ExifTags.Base.Make], exif[282], exif[283], exif[296] = "Maker", 300.0, 300.0, 2
    exif.get_ifd(ExifTags.IFD.Exif)[ExifTags.Base.ExposureTime] = 0.01
    exif.get_ifd(ExifTags.IFD.GPSInfo)[ExifTags.GPS.GPSLatitude] = (1.0, 2.0, 3.0)
    options: dict[str, Any] = {"icc_profile": SRGB, "exif": exif.tobytes(), "dpi": (300, 200)}
    if kind == "PNG":
        info = options["pnginfo"] = PngImagePlugin.PngInfo()
        info.add_text("Title", "a cat")
        info.add_text("Comment", "a cat" * 50, zip=True)
        info.add_itxt("XML:com.adobe.xmp", XMP.decode(), zip=True)
        info.add(b"gAMA", struct.pack(">I", 100000))
        info.add(b"cHRM", bytes(range(32)))
    else:
        options |= {"xmp": XMP, **({"comment": b"a cat"} if kind == "JPEG" else {"lossless": True})}
    return encoded(kind=kind, **options)


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP"])
def test_any_damage_to_metadata(tmp_path: Path, kind: str) -> None:
    """Damaged metadata do not change the values of pixels, and the result can be written."""
    data = with_everything(kind)
    places = fields(data, kind)
    path = tmp_path / f"a.{kind.lower()}"
    path.write_bytes(data)
    expected = read_photo(path)[1][0]
    for seed in range(150):
        choose, changed = random.Random(seed), bytearray(data)
        for place in choose.sample(places, choose.choice((1, 2, 5, 20))):
            changed[place] = choose.choice((0, 255, changed[place] ^ 1, choose.randrange(256)))
        path.write_bytes(changed)
        found = read_photo(path)[1][0]
        assert sorted(found.shape) == sorted(expected.shape)
        if found.shape == expected.shape:  # damage may make an orientation that turns the picture
            assert np.array_equal(found, expected) or np.array_equal(np.sort(found, None), np.sort(expected, None))
        save_picture(read_picture(path)[0], tmp_path / f"b.{choose.choice(('png', 'jpg', 'webp', 'tif', 'bmp'))}")


def test_an_odd_resolution(tmp_path: Path) -> None:
    """Pixels are far from square, but both numbers of the aspect ratio in a JPEG have only 16 bits."""
    Image.new("RGB", (32, 32)).save(tmp_path / "a.tif", dpi=(100.1, 0.4013))
    image, _ = read_picture(tmp_path / "a.tif")
    save_picture(image, tmp_path / "b.jpg")
    with Image.open(tmp_path / "b.jpg") as saved:
        across, down = saved.info["jfif_density"]
    assert across / down == pytest.approx(100.1 / 0.4013, rel=0.01)
