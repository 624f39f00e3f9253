"""`upscale-lit evaluate --degrade`: degraded low pictures, the same in every run, with a label in each row."""

import json
from pathlib import Path

import numpy as np
import pytest
from conftest import picture
from PIL import Image

from upscale_lit.cli import main
from upscale_lit.data.compression import jpeg_file, webp_file
from upscale_lit.errors import InputError
from upscale_lit.inference.degrade import degrade_of
from upscale_lit.inference.quality import Lossy, lossy_of

PIXELS = np.array(picture(64, 48))


@pytest.mark.parametrize(
    ("word", "quality", "subsampled"), [("jpeg:75", 75, True), ("jpeg:75:420", 75, True), ("jpeg:1:444", 1, False)]
)
def test_jpeg(word: str, quality: int, subsampled: bool) -> None:
    made, lossy = degrade_of(word)(PIXELS, "a")
    assert np.array_equal(made, np.array(jpeg_file(PIXELS, quality, subsampled)))
    assert lossy == Lossy("JPEG", quality)


def test_webp() -> None:
    made, lossy = degrade_of("webp:90")(PIXELS, "a")
    assert np.array_equal(made, np.array(webp_file(PIXELS, 90)))
    assert lossy == lossy_of(webp_file(PIXELS, 90))
    grey, _ = degrade_of("webp:60")(PIXELS[..., 0], "a")
    assert grey.shape == PIXELS.shape[:2]  # the format has no grey pictures
    assert np.abs(grey.astype(int) - PIXELS[..., 0]).mean() < 12


def test_noise_depends_on_the_name_alone() -> None:
    grey = np.full((200, 200), 128, np.uint8)
    noise = degrade_of("noise:10")
    made, lossy = noise(grey, "a")
    assert lossy is None
    assert np.array_equal(made, noise(grey, "a")[0])
    assert not np.array_equal(made, noise(grey, "b")[0])
    assert made.std() == pytest.approx(10, rel=0.05)
    assert made.mean() == pytest.approx(128, abs=0.2)
    assert degrade_of("noise:10+noise:10")(grey, "a")[0].std() == pytest.approx(200**0.5, rel=0.05)


def test_steps_are_done_in_their_order() -> None:
    twice = np.array(jpeg_file(np.array(jpeg_file(PIXELS, 40, True)), 95, True))
    made, lossy = degrade_of("jpeg:40+jpeg:95")(PIXELS, "a")
    assert np.array_equal(made, twice)
    assert lossy == Lossy("JPEG", 95)  # the header shows only the last compression
    made, lossy = degrade_of("clean")(PIXELS, "a")
    assert np.array_equal(made, PIXELS)
    assert lossy is None


@pytest.mark.parametrize("word", [
    "jpeg", "jpeg:0", "jpeg:101", "jpeg:x", "jpeg:75:422", "webp:0", "webp:75:444", "noise:0", "noise:256",
    "noise:nan", "blur:1", "",
])  # fmt: skip
def test_impossible_values(word: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(InputError, match=r"The value must be clean, jpeg:QUALITY"):
        degrade_of(word)
    with pytest.raises(SystemExit) as stop:
        main(["evaluate", "x", "--degrade", word])
    assert stop.value.code == 2
    assert f"got {word!r}" in capsys.readouterr().err


def test_sides_that_a_format_cannot_hold() -> None:
    with pytest.raises(InputError, match=r"sides of at most 16383 px for webp; got \(2, 16384\)"):
        degrade_of("webp:50")(np.zeros((2, 16384), np.uint8), "a")


def test_every_row_is_labelled(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "set").mkdir()
    Image.fromarray(PIXELS).save(tmp_path / "set" / "colour.png")
    Image.fromarray(PIXELS[..., 1]).save(tmp_path / "set" / "grey.png")
    (tmp_path / "set" / "broken.png").write_bytes(b"broken")
    words = ["evaluate", str(tmp_path / "set"), "-m", "compact", "-s", "2", "--json", str(tmp_path / "t.json")]
    assert main([*words, "--save", str(tmp_path / "made"), "--degrade", "clean", "jpeg:30", "noise:20"]) == 1
    assert capsys.readouterr().err.count("broken.png") == 1
    rows = json.loads((tmp_path / "t.json").read_text())["rows"]
    psnr = {(row["set"], row["method"]): row["psnr_y"] for row in rows}
    assert {name for name, _ in psnr} == {"set, clean", "set, jpeg:30", "set, noise:20"}
    for method in ("bilinear", "bicubic", "lanczos", "upscaler_64to128"):
        assert psnr["set, clean", method] > max(psnr["set, jpeg:30", method], psnr["set, noise:20", method])
    assert (tmp_path / "made" / "set, jpeg_30" / "bicubic" / "grey.png").exists()
    main(words)
    plain = {row["method"]: row["psnr_y"] for row in json.loads((tmp_path / "t.json").read_text())["rows"]}
    assert all(psnr["set, clean", method] == value for method, value in plain.items())
    assert main(["evaluate", "--compare", "a", "b", "--degrade", "clean"]) == 2
