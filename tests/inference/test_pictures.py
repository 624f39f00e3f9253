import io
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import picture
from PIL import ExifTags, Image, ImageCms, PngImagePlugin

from upscale_lit.data.photo import PhotoError
from upscale_lit.errors import InputError
from upscale_lit.inference.pictures import read_picture, save_picture, upright

COLOURS = picture(40, 30)
GREY = COLOURS.convert("L")
DEEP = Image.fromarray(np.asarray(GREY).astype(np.uint16) * 250 + 7)
SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
XMP = b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf tiff:Orientation="6"/><dc:creator>me</dc:creator></x:xmpmeta>'


def with_alpha(image: Image.Image) -> Image.Image:
    image = image.copy()
    image.putalpha(Image.linear_gradient("L").resize(image.size))
    return image


def clear_palette() -> Image.Image:
    image = COLOURS.quantize(16)
    image.info["transparency"] = 3
    return image


def grey_palette() -> Image.Image:
    image = GREY.convert("P")
    image.putpalette([value for value in range(256) for _ in range(3)])
    return image


@pytest.mark.parametrize(
    ("image", "mode"),
    [
        (COLOURS, "RGB"), (GREY, "L"), (COLOURS.convert("1"), "L"), (with_alpha(COLOURS), "RGBA"),
        (with_alpha(GREY), "LA"), (COLOURS.quantize(16), "RGB"), (clear_palette(), "RGBA"), (grey_palette(), "L"),
        (DEEP, "I;16"), (COLOURS.convert("YCbCr"), "RGB"), (with_alpha(COLOURS).convert("RGBa"), "RGBA"),
    ],
)  # fmt: skip
def test_modes(image: Image.Image, mode: str) -> None:
    result, notes = upright(image.copy())
    assert (result.mode, result.size, notes) == (mode, (40, 30), [])
    if mode != "I;16":
        assert np.array_equal(np.asarray(result), np.asarray(image.convert(mode)))
    else:
        assert np.array_equal(np.asarray(result), np.asarray(image))


def test_32_bits_are_refused() -> None:
    with pytest.raises(InputError, match=r"mode F defines no black and white. Convert"):
        upright(Image.new("F", (4, 4)))


@pytest.mark.parametrize("colours", ["RGB", "RGBA", "LA"])
def test_16_bit_colour_in_png_is_read_as_8_bits_with_a_note(tmp_path: Path, colours: str) -> None:
    values = np.asarray(with_alpha(COLOURS).convert(colours))
    rows = b"".join(b"\0" + row.tobytes() for row in (values.astype(">u2") * 257))
    header = struct.pack(">IIBBBBB", 40, 30, 16, {"RGB": 2, "RGBA": 6, "LA": 4}[colours], 0, 0, 0)
    chunks = [(b"IHDR", header), (b"IDAT", zlib.compress(rows)), (b"IEND", b"")]
    data = b"".join(
        struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body)) for name, body in chunks
    )
    (tmp_path / "a.png").write_bytes(b"\x89PNG\r\n\x1a\n" + data)
    result, notes = read_picture(tmp_path / "a.png")
    assert notes == ["its 16 bits for each colour are read as 8"]
    assert np.array_equal(np.asarray(result.convert(colours)), values)


def test_16_bit_colour_in_tiff_is_read_as_8_bits_with_a_note(tmp_path: Path) -> None:
    import tifffile  # a dependency of scikit-image

    for number, compression in enumerate((None, "zlib")):
        path = tmp_path / f"{number}.tif"
        values = np.asarray(COLOURS).astype(np.uint16) * 257
        tifffile.imwrite(path, values, photometric="rgb", compression=compression)
        result, notes = read_picture(path)
        assert notes == ["its 16 bits for each colour are read as 8"]
        assert np.array_equal(np.asarray(result), np.asarray(COLOURS))


def exif_of(orientation: int, suffix: str, xmp: bytes = b"") -> bytes:
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    exif[ExifTags.Base.Make] = "Maker"
    details = exif.get_ifd(ExifTags.IFD.Exif)
    details[ExifTags.Base.ExifImageWidth], details[ExifTags.Base.ExifImageHeight] = 40, 30
    if suffix != "tif":  # Pillow cannot write this group to a TIFF
        details[ExifTags.IFD.Interop] = {1: "R98"}  # cameras nest this group in the EXIF group
    details[ExifTags.Base.DateTimeOriginal] = "2020:02:02 10:00:00"
    exif.get_ifd(ExifTags.IFD.GPSInfo)[ExifTags.GPS.GPSLatitudeRef] = "N"
    if xmp:
        exif[700] = xmp  # the tag for XMP in a TIFF
    return exif.tobytes()


@pytest.mark.parametrize("suffix", ["png", "tif", "webp", "jpg"])
@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("mode", ["RGB", "I;16"])
def test_orientation(tmp_path: Path, suffix: str, orientation: int, mode: str) -> None:
    """In each format the orientation is applied once and its tag is removed."""
    if mode == "I;16" and suffix in ("webp", "jpg"):
        pytest.skip("the format has no 16 bits")
    # The members of Image.Transpose that undo the orientations 1 to 8 of the EXIF standard.
    turns = [None, 0, 3, 1, 5, 4, 6, 2]
    image = COLOURS if mode == "RGB" else DEEP
    path = tmp_path / f"a.{suffix}"
    options = {"webp": {"lossless": True}, "jpg": {"quality": 95, "subsampling": 0}}.get(suffix, {})
    image.save(path, exif=exif_of(orientation, suffix), **options)
    result, notes = read_picture(path)
    turn = turns[orientation - 1]
    expected = np.asarray(image if turn is None else image.transpose(Image.Transpose(turn))).astype(int)
    assert notes == []
    assert np.abs(np.asarray(result).astype(int) - expected).mean() < (4 if suffix == "jpg" else 1e-9)
    save_picture(result, tmp_path / f"b.{suffix}")
    with Image.open(tmp_path / f"b.{suffix}") as again:
        assert again.getexif().get(ExifTags.Base.Orientation, 1) == 1
        assert again.size == expected.shape[1::-1]
        again.load()
        assert again.size == expected.shape[1::-1]


@pytest.mark.parametrize("suffix", ["jpg", "png", "webp", "tif"])
def test_metadata_are_kept(tmp_path: Path, suffix: str) -> None:
    exif, options = exif_of(6, suffix, XMP if suffix == "tif" else b""), {}
    if suffix == "png":
        options["pnginfo"] = PngImagePlugin.PngInfo()
        options["pnginfo"].add_text("Title", "a cat")
        options["pnginfo"].add_itxt("Titre", "un château")
        options["pnginfo"].add_itxt("XML:com.adobe.xmp", XMP.decode())
    elif suffix != "tif":
        options["xmp"] = XMP
    if suffix == "jpg":
        options["comment"] = b"a comment"
    COLOURS.save(tmp_path / f"a.{suffix}", exif=exif, icc_profile=SRGB, dpi=(300, 300), **options)
    result, _ = read_picture(tmp_path / f"a.{suffix}")
    info = result.info
    large = result.resize((60, 80))
    large.info = info
    save_picture(large, tmp_path / f"b.{suffix}")
    with Image.open(tmp_path / f"b.{suffix}") as again:
        kept = again.getexif()
        assert again.info["icc_profile"] == SRGB
        assert kept[ExifTags.Base.Make] == "Maker"
        details = kept.get_ifd(ExifTags.IFD.Exif)
        assert (details[ExifTags.Base.ExifImageWidth], details[ExifTags.Base.ExifImageHeight]) == (60, 80)
        assert details[ExifTags.Base.DateTimeOriginal] == "2020:02:02 10:00:00"
        assert (ExifTags.IFD.Interop in details) == (suffix != "tif")
        if suffix != "tif":
            assert kept.get_ifd(ExifTags.IFD.Interop) == {1: "R98"}
        assert kept.get_ifd(ExifTags.IFD.GPSInfo) == {ExifTags.GPS.GPSLatitudeRef: "N"}
        assert b"<dc:creator>me</dc:creator>" in again.info["xmp"]
        assert b'Orientation="6"' not in again.info["xmp"]
        if suffix != "webp":
            assert tuple(round(float(value)) for value in again.info["dpi"]) == (300, 300)
        if suffix == "png":
            assert (again.text["Title"], again.text["Titre"]) == ("a cat", "un château")  # type: ignore[attr-defined]
        if suffix == "jpg":
            assert again.info["comment"] == b"a comment"


def test_strip_leaves_the_profile_alone(tmp_path: Path) -> None:
    COLOURS.save(tmp_path / "a.jpg", exif=exif_of(1, "jpg"), icc_profile=SRGB, comment=b"where I live", xmp=XMP)
    save_picture(read_picture(tmp_path / "a.jpg")[0], tmp_path / "b.jpg", strip=True)
    with Image.open(tmp_path / "b.jpg") as again:
        assert again.info["icc_profile"] == SRGB
        assert not again.info.get("comment")
        assert not {"exif", "xmp"} & set(again.info)
    assert b"Maker" not in (tmp_path / "b.jpg").read_bytes()


def test_metadata_in_another_format(tmp_path: Path) -> None:
    """TIFF tags that describe the storage of the pixels are not written to a JPEG."""
    COLOURS.save(tmp_path / "a.tif", exif=exif_of(1, "tif"))
    save_picture(read_picture(tmp_path / "a.tif")[0], tmp_path / "b.jpg")
    with Image.open(tmp_path / "b.jpg") as again:
        assert set(again.getexif()) == {ExifTags.Base.Make, ExifTags.IFD.Exif, ExifTags.IFD.GPSInfo}


def test_a_picture_with_damaged_metadata_is_read(tmp_path: Path) -> None:
    COLOURS.save(
        tmp_path / "a.jpg", exif=b"Exif\0\0II*\0\x08\0\0\0\xff\xff" + bytes(range(40)), icc_profile=b"no profile"
    )
    result, notes = read_picture(tmp_path / "a.jpg")
    assert result.size == (40, 30)
    assert any("profile is for an unknown colour space and is left out" in note for note in notes)
    assert save_picture(result, tmp_path / "b.jpg") == []


def test_cmyk_becomes_rgb(tmp_path: Path) -> None:
    Image.new("CMYK", (40, 30), (0, 255, 255, 0)).save(tmp_path / "a.jpg")
    result, notes = read_picture(tmp_path / "a.jpg")
    assert (result.mode, notes) == ("RGB", ["its print colours (CMYK) are converted to RGB"])
    assert np.abs(np.asarray(result).astype(int) - (255, 0, 0)).max() <= 2


def test_a_profile_of_other_colours_is_left_out(tmp_path: Path) -> None:
    GREY.save(tmp_path / "a.png", icc_profile=SRGB)
    result, notes = read_picture(tmp_path / "a.png")
    assert notes == ["its colour profile is for RGB and is left out"]
    assert "icc_profile" not in result.info


def test_only_the_first_of_several_pictures(tmp_path: Path) -> None:
    for suffix in ("png", "webp", "tif"):
        COLOURS.save(tmp_path / f"a.{suffix}", save_all=True, append_images=[COLOURS.rotate(180)])
        assert read_picture(tmp_path / f"a.{suffix}")[1] == ["only the first of its 2 pictures is read"]


SAVED: list[tuple[Image.Image, str, str, str]] = [  # picture, ending, mode in the file, expected note
    (with_alpha(COLOURS), "jpg", "RGB", "JPEG cannot hold transparency; the background is white"),
    (with_alpha(GREY), "jpg", "L", "JPEG cannot hold transparency; the background is white"),
    (with_alpha(COLOURS), "bmp", "RGB", "BMP cannot hold transparency; the background is white"),
    (DEEP, "jpg", "L", "JPEG cannot hold 16 bits; 8 bits are written"),
    (DEEP, "webp", "RGB", "WEBP cannot hold 16 bits; 8 bits are written"),
    (with_alpha(GREY), "webp", "RGBA", ""),
    (with_alpha(GREY), "png", "LA", ""),
    (with_alpha(GREY), "tif", "LA", ""),
    (with_alpha(COLOURS), "tif", "RGBA", ""),
    (DEEP, "png", "I;16", ""),
    (DEEP, "tif", "I;16", ""),
    (GREY, "jpg", "L", ""),
    (GREY, "bmp", "L", ""),
]


@pytest.mark.parametrize(("image", "suffix", "mode", "said"), SAVED)
def test_notes_name_what_a_format_cannot_hold(
    tmp_path: Path, image: Image.Image, suffix: str, mode: str, said: str
) -> None:
    notes = save_picture(image, tmp_path / f"a.{suffix}")
    assert notes == ([said] if said else [])
    with Image.open(tmp_path / f"a.{suffix}") as again:
        assert again.mode == mode
        if suffix in ("png", "tif"):
            assert np.array_equal(np.asarray(again), np.asarray(image))


def test_jpeg_keeps_its_chroma(tmp_path: Path) -> None:
    save_picture(COLOURS, tmp_path / "a.jpg")
    with Image.open(tmp_path / "a.jpg") as again:
        assert [layer[1:3] for layer in again.layer] == [(1, 1)] * 3  # type: ignore[attr-defined]
        error = np.abs(np.asarray(again).astype(int) - np.asarray(COLOURS))
    assert error.mean() < 2
    save_picture(COLOURS, tmp_path / "b.jpg", quality=30)
    assert (tmp_path / "b.jpg").stat().st_size < (tmp_path / "a.jpg").stat().st_size / 1.5


@pytest.mark.parametrize(("suffix", "limit"), [("webp", 16383), ("jpg", 65500)])
def test_pictures_that_are_too_large_for_a_format(tmp_path: Path, suffix: str, limit: int) -> None:
    with pytest.raises(InputError, match=rf"must be at most {limit} px; got {limit + 1}x1 px\. .*png"):
        save_picture(Image.new("L", (limit + 1, 1)), tmp_path / f"a.{suffix}")
    assert list(tmp_path.iterdir()) == []


def test_a_picture_is_written_atomically(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a.png").write_bytes(b"an older one")

    def fails(image: Image.Image, path: Path, *args: Any, **options: Any) -> None:
        Path(path).write_bytes(b"half of")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Image.Image, "save", fails)
    with pytest.raises(InputError, match=r"a\.png cannot be written: No space left on device\."):
        save_picture(COLOURS, tmp_path / "a.png")
    assert (tmp_path / "a.png").read_bytes() == b"an older one"
    assert [path.name for path in tmp_path.iterdir()] == ["a.png"]


def test_other_names(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"a\.gif must end in \.jpg .*; got the ending '\.gif'"):
        save_picture(COLOURS, tmp_path / "a.gif")


def test_a_broken_file(tmp_path: Path) -> None:
    buffer = io.BytesIO()
    COLOURS.save(buffer, "PNG")
    (tmp_path / "a.png").write_bytes(buffer.getvalue()[:400])
    with pytest.raises(PhotoError, match=r"a\.png: the picture is incomplete"):
        read_picture(tmp_path / "a.png")


def test_a_picture_is_written_without_invalid_metadata(tmp_path: Path) -> None:
    """The tag ResolutionUnit of the EXIF data holds a text, but must hold a number."""
    entry = struct.pack("<HHII", ExifTags.Base.ResolutionUnit, 2, 16, 26)  # type 2: text
    image = COLOURS.copy()
    image.info["exif"] = b"Exif\0\0II*\0" + struct.pack("<IH", 8, 1) + entry + bytes(4) + b"inches, I think\0"
    assert save_picture(image, tmp_path / "a.tif") == ["its metadata cannot be written and are left out"]
    with Image.open(tmp_path / "a.tif") as again:
        assert np.array_equal(np.asarray(again), np.asarray(COLOURS))


def test_bugs_are_not_reported_as_errors_of_an_encoder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("upscale_lit.inference.metadata.finish", lambda *args: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        save_picture(Image.new("RGB", (9, 9)), tmp_path / "a.png")
    assert not list(tmp_path.iterdir())
