import re
import subprocess
import sys
from pathlib import Path

import hydra
import pytest
from conftest import ROOT, picture
from PIL import Image

from upscale_lit.cli import main
from upscale_lit.data.check import CROPS


def report(capsys: pytest.CaptureFixture[str], *words: object) -> tuple[int, list[str]]:
    code = main(["check", *map(str, words)])
    captured = capsys.readouterr()
    return code, (captured.out + captured.err).splitlines()


def test_a_line_for_each_file_with_a_problem(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    whole = (folder / "photo 0.png").read_bytes()
    (folder / "cut.png").write_bytes(whole[: len(whole) // 2])
    (folder / "empty.jpg").touch()
    (folder / "text.jpg").write_text("not a picture " * 50)
    (folder / f"{'a very long name that no terminal holds in one line, 猫猫猫 ' * 3}.jpg").touch()
    (folder / "line\nbreak.gif").touch()
    (folder / "wrong name.jpg").write_bytes((folder / "photo 2.png").read_bytes())
    (folder / "circle.jpg").symlink_to(folder / "circle.jpg")
    code, lines = report(capsys, folder, "--crop", 64)
    assert code == 0
    text = "\n".join(lines)
    for start in (
        "cut.png: the picture is incomplete",
        "empty.jpg: the file is empty",
        "text.jpg: its content must be one of",
        "line\\nbreak.gif: files that end in .gif are not read",
        "circle.jpg: the link leads to no file",
        "wrong name.jpg: holds PNG, unlike its name; it is read, but its name should end in .png",
    ):
        assert sum(line.startswith(f"{folder}/{start}") for line in lines) == 1, start
    assert sum("猫猫猫" in line and line.endswith("copy it again from its source.") for line in lines) == 1
    for count in ("2  empty", "1  truncated", "1  no picture", "1  other file", "1  link", "13  pictures",
                  "1  with another format's name"):  # fmt: skip
        assert f"  {count}" in text
    assert "1  files are copies of another file, byte for byte" in text


def test_sizes_of_photos_for_a_stage(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for number, side in enumerate((60, 95, 96, 127, 128, 300)):
        picture(side, side + 10, number).save(tmp_path / f"{number}.png")
    code, lines = report(capsys, tmp_path)
    assert code == 0
    assert "      2  have 128 px or more" in lines
    assert "      2  are smaller and are used unchanged, with smaller regions" in lines
    assert any(line.startswith("      2  are used only if they are enlarged") for line in lines)
    assert re.fullmatch(r"\d pictures to train on, \d to validate on\.", lines[-1])
    code, lines = report(capsys, tmp_path, "--stage", "256to512")
    assert "      0  have 512 px or more" in lines
    assert any(line.startswith("      4  are used only if they are enlarged") for line in lines)


def test_copies_across_the_split(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    other = tmp_path / "val"
    other.mkdir()
    with Image.open(folder / "photo 0.png") as image:
        image.save(other / "same.bmp")
    picture(90, 90, 50).save(other / "another.png")
    code, lines = report(capsys, folder, "--val-root", other, "--crop", 64)
    assert code == 0
    line = f"{folder}/photo 0.png: the same picture as {other}/same.bmp in validation; remove one of them."
    assert line in lines
    assert any(line.startswith("      1  pictures to train on are also among the 2 to validate on") for line in lines)


def test_exit_codes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, lines = report(capsys, tmp_path)
    assert code == 1
    assert lines[-2:] == [
        "0 pictures to train on, 0 to validate on.",
        "That is not enough to train: a training needs one photo to train on and another one to validate on.",
    ]
    picture(128, 128).save(tmp_path / "one.png")
    assert report(capsys, tmp_path)[0] == 1
    picture(128, 128, 1).save(tmp_path / "two.png")
    assert report(capsys, tmp_path)[0] == 0
    assert report(capsys, tmp_path, "--crop", 129)[0] == 1
    code, lines = report(capsys, tmp_path / "none")
    assert code == 2
    assert lines[-1].startswith("error: There is no folder of photos at ")
    for words in (["--stage", "12to13"], ["--crop", "0"], ["--val-fraction", "5"]):
        with pytest.raises(SystemExit) as stop:
            main(["check", str(tmp_path), *words])
        assert stop.value.code == 2
    assert "got 5." in capsys.readouterr().err


def test_check_writes_nothing(folder: Path, user_cache: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = sorted(folder.rglob("*"))
    report(capsys, folder)
    assert sorted(folder.rglob("*")) == before
    assert not user_cache.exists()


@pytest.mark.parametrize("command", [["-m", "upscale_lit"], [str(Path(sys.executable).parent / "upscale-lit")]])
def test_both_commands_are_the_same(folder: Path, command: list[str]) -> None:
    words = [sys.executable, *command] if command[0] == "-m" else command
    result = subprocess.run([*words, "check", folder, "--crop", "64"], capture_output=True, text=True, timeout=120)
    assert result.returncode == 0
    assert re.search(r"\n\d+ pictures to train on, \d+ to validate on\.\n$", result.stdout)


@pytest.mark.parametrize("stage", CROPS)
def test_crops_are_those_of_the_configuration(stage: str) -> None:
    with hydra.initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        cfg = hydra.compose("config", [f"stage={stage}"])
    assert cfg.data.crop == CROPS[stage]
    assert cfg.stage.size == int(stage.split("to")[1])


def test_jpegs_under_their_other_names(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for seed, name in enumerate(("a.jfif", "b.JPE", "c.jpeg")):
        picture(128, 128, seed).save(tmp_path / name, "JPEG")
    picture(128, 128, 3).save(tmp_path / "d.mpo", "MPO", save_all=True, append_images=[picture(128, 128, 4)])
    picture(128, 128, 5).save(tmp_path / "e.jfif", "PNG")
    (tmp_path / "f.heic").touch()
    code, lines = report(capsys, tmp_path)
    assert code == 0
    assert "      5  pictures" in lines
    named = [line for line in lines if line.startswith(str(tmp_path))]
    assert [line.split(": ")[1].split(";")[0] for line in named] == [
        "holds PNG, unlike its name", "files that end in .heic are not read",
    ]  # fmt: skip
