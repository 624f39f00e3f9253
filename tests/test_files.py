"""File names: each name that the file system allows can be written. A longer name is refused before the work."""

import os
from pathlib import Path

import pytest
from conftest import picture

from upscale_lit.cli import main
from upscale_lit.errors import WriteError
from upscale_lit.files import atomic, check_name, hidden
from upscale_lit.inference.pictures import save_picture
from upscale_lit.launch.publish import publish

LONG = ["y" * 251, "é" * 125, "猫" * 83, "😀" * 62, "a" + "😀" * 62]  # at most 251 bytes in UTF-8


@pytest.mark.parametrize("stem", LONG)
def test_long_names(tmp_path: Path, stem: str) -> None:
    path = tmp_path / f"{stem}.png"
    save_picture(picture(8, 8), path)
    assert os.listdir(tmp_path) == [path.name]
    with atomic(path) as part:
        assert not part.exists()
        assert part.name.startswith(".")
        assert part.name.endswith(".part")
        assert part.name != hidden(path, "part").name
        part.write_bytes(b"new")
        assert part in tmp_path.glob(".*.part")
    assert path.read_bytes() == b"new"


def test_names_that_are_no_text(tmp_path: Path) -> None:
    path = tmp_path / os.fsdecode(b"\xff" * 200)
    with atomic(path) as part:
        part.write_text("new")
    assert path.read_text() == "new"


@pytest.mark.parametrize(("stem", "size"), [("z" * 252, 256), ("é" * 126, 256), ("猫" * 84, 256)])
def test_names_that_are_too_long(tmp_path: Path, stem: str, size: int) -> None:
    path = tmp_path / "new" / f"{stem}.png"
    sentence = rf"cannot be written: its name must be at most 255 bytes long; got {size}\. Choose a shorter one\."
    with pytest.raises(WriteError, match=sentence):
        check_name(path)
    with pytest.raises(WriteError, match=sentence), atomic(path):
        raise AssertionError
    with pytest.raises(WriteError, match=sentence):
        save_picture(picture(8, 8), path)


def test_paths_that_are_too_long(tmp_path: Path) -> None:
    path = tmp_path.joinpath(*["d" * 200] * 21, "a.png")
    with pytest.raises(WriteError, match=r"its path must be at most 4095 bytes long; got 4\d\d\d\."):
        check_name(path)


def test_upscale(tmp_path: Path, networks: Path, capsys: pytest.CaptureFixture[str]) -> None:
    weights = ["-m", str(networks / "upscaler_64to128.pt")]
    fits, too_long = tmp_path / ("y" * 236 + ".png"), tmp_path / ("z" * 251 + ".png")
    for path in (fits, too_long):
        picture(12, 10).save(path)
    assert main(["upscale", str(fits), *weights]) == 0
    assert (tmp_path / ("y" * 236 + "_x2.png")).exists()
    for more in ([], ["--skip-existing"]):
        assert main(["upscale", str(too_long), *weights, *more]) == 1
        captured = capsys.readouterr()
        assert "its name must be at most 255 bytes long; got 258. Choose a shorter one." in captured.err
        assert "Traceback" not in captured.err
    for words in ([str(tmp_path / ("q" * 300))], [str(fits), "-o", str(tmp_path / ("q" * 300))]):
        assert main(["upscale", *words, *weights]) in (1, 2)
        assert "too long" in capsys.readouterr().err
    sheet = tmp_path / ("s" * 244 + ".png")  # the name of the result fits, but the name of the sheet is too long
    picture(12, 10).save(sheet)
    assert main(["upscale", str(sheet), *weights, "--sheet"]) == 1
    assert "got 257." in capsys.readouterr().err
    assert len(os.listdir(tmp_path)) == 4


def test_evaluate_and_export(tmp_path: Path, networks: Path, capsys: pytest.CaptureFixture[str]) -> None:
    weights = str(networks / "upscaler_64to128.pt")
    (tmp_path / "set").mkdir()
    picture(24, 20).save(tmp_path / "set" / ("y" * 251 + ".png"))
    words = ["evaluate", str(tmp_path / "set"), "-m", weights, "-s", "2"]
    assert main([*words, "--save", str(tmp_path / "saved"), "--json", str(tmp_path / ("j" * 250 + ".json"))]) == 0
    assert (tmp_path / ("j" * 250 + ".json")).exists()
    assert len(list((tmp_path / "saved").rglob("y*.png"))) == 4
    capsys.readouterr()
    assert main([*words, "--json", str(tmp_path / ("j" * 251 + ".json"))]) == 2
    captured = capsys.readouterr()
    assert "got 256." in captured.err
    assert "PSNR" not in captured.out
    assert main(["export", weights, "-o", str(tmp_path / ("w" * 243 + ".safetensors"))]) == 0
    assert main(["export", weights, "-o", str(tmp_path / ("w" * 244 + ".safetensors"))]) == 2
    assert "got 256." in capsys.readouterr().err


def test_weights_with_a_long_name(tmp_path: Path, networks: Path) -> None:
    path = tmp_path / ("w" * 252 + ".pt")
    path.write_bytes((networks / "upscaler_64to128.pt").read_bytes())
    assert publish(path, tmp_path / "published").exists()
