import os
import pty
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from conftest import ROOT, picture
from PIL import Image

from upscale_lit.cli import main
from upscale_lit.inference import sheets
from upscale_lit.inference.tiling import Chain
from upscale_lit.weights import load_weights


class Result:
    def __init__(self, code: int, out: str, err: str) -> None:
        self.code, self.out, self.err = code, out.splitlines(), err.splitlines()


@pytest.fixture
def run(tmp_path: Path, networks: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    """Return a function that runs `upscale`: run("photo.jpg", "-s", 4) returns a Result.

    The networks are those in outputs/checkpoints if -m is not among the arguments.
    """
    monkeypatch.chdir(tmp_path)
    (tmp_path / "outputs").mkdir()
    (tmp_path / "outputs" / "checkpoints").symlink_to(networks)

    def call(*words: object) -> Result:
        capsys.readouterr()
        try:
            code = main(["upscale", *map(str, words), *(() if "-m" in words else ("-m", "outputs/checkpoints"))])
        except SystemExit as stop:
            code = int(stop.code or 0)
        captured = capsys.readouterr()
        return Result(code, captured.out, captured.err)

    return call


def tree(folder: Path) -> set[str]:
    return {
        path.relative_to(folder).as_posix()
        for path in folder.rglob("*")
        if path.is_file() and "outputs" not in path.parts
    }


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    folder = tmp_path / "holiday"
    (folder / "day 2, 猫 [x]=1").mkdir(parents=True)
    picture(40, 30).save(folder / "a.jpg")
    picture(20, 30).save(folder / "b.PNG")
    picture(10, 10).save(folder / "day 2, 猫 [x]=1" / "c.webp")
    (folder / "notes.txt").write_text("hello")
    return folder


def opened(path: Path) -> Image.Image:
    with Image.open(path) as image:
        image.load()
    return image


def test_one_photo(run, photos: Path) -> None:
    result = run(photos / "a.jpg", "-m", "outputs/checkpoints/upscaler_64to128.pt")
    assert result.code == 0
    assert opened(photos / "a_x2.jpg").size == (80, 60)
    assert result.out[0] == "2x by outputs/checkpoints/upscaler_64to128.pt, on cpu"
    assert re.fullmatch(
        rf"{photos}/a\.jpg -> {photos}/a_x2\.jpg: 40x30 to 80x60 by upscaler_64to128 in \w+, [\d.]+ s", result.out[1]
    )
    assert result.out[2:] == ["1 written, 0 failed"]


@pytest.mark.parametrize(("scale", "by"), [
    (None, "2x by outputs/checkpoints/upscaler_64to128.pt"),
    (4, "4x by a chain of outputs/checkpoints/upscaler_64to128.pt, outputs/checkpoints/upscaler_128to256.pt"),
    (8, "8x by outputs/checkpoints/upscaler_64to512.pt"),
])  # fmt: skip
def test_scales(run, photos: Path, scale: int | None, by: str) -> None:
    result = run(photos / "a.jpg", *(("-s", scale) if scale else ()))
    assert result.code == 0
    assert result.out[0] == f"{by}, on cpu"
    factor = scale or 2
    assert opened(photos / f"a_x{factor}.jpg").size == (40 * factor, 30 * factor)


def test_a_run_folder_and_a_single_stack(run, photos: Path, networks: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / "upscaler_64to512.pt").write_bytes((networks / "upscaler_64to512.pt").read_bytes())
    assert run(photos / "a.jpg", "-m", folder).code == 0
    assert (photos / "a_x8.jpg").exists()
    result = run(photos / "a.jpg", "-m", folder, "-s", 2)
    assert result.code == 2
    assert "No network can upscale by 2" in result.err[0]


def test_a_folder(run, photos: Path, tmp_path: Path) -> None:
    result = run(photos, "-o", "bigger/", "--recursive", "-s", 4)
    assert result.code == 0
    assert tree(tmp_path / "bigger") == {"a_x4.jpg", "b_x4.PNG", "day 2, 猫 [x]=1/c_x4.webp"}
    assert result.out[-1] == "3 written, 0 failed"
    result = run(photos)
    assert tree(tmp_path / "holiday_x2") == {"a_x2.jpg", "b_x2.PNG"}
    again = run(photos, "-o", "bigger/", "--recursive", "-s", 4, "--skip-existing")
    assert again.out == ["0 written, 0 failed, 3 skipped"]


def test_inputs_by_flag_and_an_output_file(run, photos: Path, tmp_path: Path) -> None:
    assert run("-i", photos / "a.jpg", "-o", "big one.png").code == 0
    assert opened(tmp_path / "big one.png").format == "PNG"
    assert run("-i", photos / "a.jpg", photos / "b.PNG", "-o", "out", "--suffix", "", "--ext", ".WebP").code == 0
    assert tree(tmp_path / "out") == {"a.webp", "b.webp"}


def test_an_output_folder_inside_the_input_is_not_read_again(run, photos: Path) -> None:
    for _ in range(2):
        assert run(photos, "-o", photos / "bigger", "--recursive").out[-1] == "3 written, 0 failed"
    assert len(tree(photos / "bigger")) == 3


def test_options_of_files(run, photos: Path) -> None:
    sizes = []
    for quality in (95, 20):
        assert run(photos / "a.jpg", "--quality", quality).code == 0
        sizes.append((photos / "a_x2.jpg").stat().st_size)
    assert sizes[1] < sizes[0]


def test_tiles_make_no_difference(run, photos: Path) -> None:
    made = []
    for tile in (0, 8):
        run(photos / "b.PNG", "-t", tile)
        made.append(np.asarray(Image.open(photos / "b_x2.PNG")).astype(int))
    assert np.abs(made[0] - made[1]).max() <= 1


def test_a_sheet(run, photos: Path) -> None:
    assert run(photos / "b.PNG", "--sheet").out[-1] == "1 written, 0 failed"
    with Image.open(photos / "b_x2_sheet.PNG") as sheet, Image.open(photos / "b.PNG") as low:
        assert sheet.size == (2 * 40 + 2, 60 + sheets.CAPTION)
        values = np.asarray(sheet)[sheets.CAPTION :]
        assert np.array_equal(values[:, :40], np.asarray(low.resize((40, 60), Image.Resampling.BICUBIC)))
        assert np.array_equal(values[:, 42:], np.asarray(Image.open(photos / "b_x2.PNG")))


def test_strip(run, photos: Path) -> None:
    image = picture(40, 30)
    exif = Image.Exif()
    exif[0x010F] = "Maker"
    image.save(photos / "a.jpg", exif=exif)
    for words, kept in (((), True), (("--strip",), False)):
        assert run(photos / "a.jpg", *words).code == 0
        assert (opened(photos / "a_x2.jpg").getexif().get(0x010F) == "Maker") == kept


def test_a_broken_file_in_a_batch(run, photos: Path) -> None:
    (photos / "broken.png").write_bytes((photos / "b.PNG").read_bytes()[:300])
    (photos / "empty.jpg").touch()
    result = run(photos, photos / "missing.jpg", "-o", photos.parent / "out")
    assert result.code == 1
    assert result.out[-1] == "2 written, 3 failed"
    assert result.err[0] == "1 file was skipped: 1 .txt."
    assert [line.split(": ")[0] for line in result.err[1:]] == [
        f"{photos}/broken.png", f"{photos}/empty.jpg", f"{photos}/missing.jpg",
    ]  # fmt: skip
    assert "the picture is incomplete" in result.err[1]
    assert tree(photos.parent / "out") == {"a_x2.jpg", "b_x2.PNG"}


def test_nothing_is_computed_that_cannot_be_written(
    run, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Chain, "tiles", lambda *args: pytest.fail("A picture was upscaled."))
    Image.new("L", (9000, 2)).save(photos / "wide.webp")
    (tmp_path / "file").touch()
    for words, message in (
        ((photos / "wide.webp",), "a side of a WEBP file must be at most 16383 px; got 18000x4"),
        (
            (photos / "b.PNG", "-o", tmp_path / "file" / "x"),
            f"The folder {tmp_path}/file/x cannot be created: Not a dir",
        ),
        ((photos / "wide.webp", "--ext", "jpg", "--sheet", "-s", 4), "a side of a JPEG file must be at most 65500 px"),
    ):
        result = run(*words)
        assert (result.code, result.out[-1]) == (1, "0 written, 1 failed")
        assert message in result.err[0]


def test_lost_transparency_is_reported(run, photos: Path) -> None:
    Image.new("RGBA", (10, 10), (200, 0, 0, 100)).save(photos / "d.png")
    result = run(photos / "d.png", "--ext", "jpg")
    assert result.code == 0
    assert result.err == [f"{photos}/d.png: JPEG cannot hold transparency; the background is white."]


def snapshot(folder: Path) -> dict[str, bytes]:
    return {name: (folder / name).read_bytes() for name in tree(folder)}


def test_no_input_is_overwritten(run, photos: Path, tmp_path: Path) -> None:
    before = snapshot(photos)
    os.link(photos / "a.jpg", tmp_path / "a.jpg")
    (tmp_path / "link").symlink_to(photos)
    for words, code in (
        ((photos / "a.jpg", "-o", photos / "a.jpg"), 1),
        ((photos / "a.jpg", "--suffix", ""), 1),
        ((photos / "a.jpg", "-o", tmp_path, "--suffix", ""), 1),  # a hard link to the input
        ((photos / "a.jpg", "-o", tmp_path / "link", "--suffix", ""), 1),
        ((photos, "--suffix", ""), 2),
        ((photos, "-o", photos, "--suffix", ""), 2),
    ):
        result = run(*words)
        assert result.code == code, words
        assert snapshot(photos) == before, words
        assert "overwrite" in result.err[0], words


def test_a_result_that_is_an_input_too(run, photos: Path) -> None:
    picture(8, 8).save(photos / "a_x2.jpg")
    before = (photos / "a_x2.jpg").read_bytes()
    result = run(photos / "a.jpg", photos / "a_x2.jpg")
    assert result.code == 1
    assert result.err == [
        f"{photos}/a.jpg: The result would overwrite {photos}/a_x2.jpg, which is a source. Set -o or --suffix."
    ]
    assert (photos / "a_x2.jpg").read_bytes() == before
    assert (photos / "a_x2_x2.jpg").exists()


def test_names_that_differ_in_their_endings_only(run, photos: Path, tmp_path: Path) -> None:
    """Results with the same name get the full names of their inputs. Other results keep the usual names."""
    for name in ("b.jpg", "b.webp", "c.jpg"):
        picture(8, 8).save(photos / name)
    result = run(photos, "-o", "out", "--ext", "png")
    assert (result.code, result.out[-1]) == (0, "5 written, 0 failed")
    assert tree(tmp_path / "out") == {"a_x2.png", "b.PNG_x2.png", "b.jpg_x2.png", "b.webp_x2.png", "c_x2.png"}
    assert opened(tmp_path / "out" / "b.jpg_x2.png").size == (16, 16)
    assert run(photos, "-o", "out", "--ext", "png", "--skip-existing").out == ["0 written, 0 failed, 5 skipped"]
    assert run(photos / "b.jpg", photos / "b.webp", "--ext", "png").code == 0  # next to each file
    assert {"b.jpg_x2.png", "b.webp_x2.png"} <= tree(photos)
    picture(8, 8).save(photos / "b.unknown", "PNG")  # the result is a PNG, like that of b.png
    picture(8, 8).save(photos / "b.png")
    assert run(photos / "b.unknown", photos / "b.png", "-o", "unknown").code == 0
    assert tree(tmp_path / "unknown") == {"b.unknown_x2.png", "b.png_x2.png"}


def test_two_results_of_one_name_are_refused_before_anything_is_computed(
    run, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Chain, "tiles", lambda *args: pytest.fail("A picture was upscaled."))
    other = tmp_path / "other"
    other.mkdir()
    for name in ("a.jpg", "s.png", "s_sheet.png"):
        picture(8, 8).save(other / name)
    (tmp_path / "link").symlink_to(tmp_path / "other")
    for words, target in (
        ((photos, other, "-o", "out"), "out/a_x2.jpg"),
        ((photos / "a.jpg", photos / "b.PNG", other / "a.jpg", "-o", "out", "--ext", "png"), "out/a_x2.png"),
        ((photos, other, "-o", "out", "--recursive"), "out/a_x2.jpg"),
        ((other / "s.png", other / "s_sheet.png", "-o", "out", "--suffix", "", "--sheet"), "out/s_sheet.png"),
    ):
        result = run(*words)
        assert result.code == 2, words
        error = next(line for line in result.err if line.startswith("error: "))
        assert f" would both be {target}. Nothing is written. Run a separate command for each picture" in error
        assert not (tmp_path / "out").exists()


def test_two_names_of_the_same_file(run, photos: Path, tmp_path: Path) -> None:
    """Two names may refer to one file, through a link or if letter case is ignored. The second result is refused."""
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "b_x2.PNG").symlink_to(tmp_path / "out" / "a_x2.jpg")
    result = run(photos / "a.jpg", photos / "b.PNG", "-o", "out")
    assert (result.code, result.out[-1]) == (1, "1 written, 1 failed")
    assert f"{photos}/b.PNG: The result would overwrite out/b_x2.PNG, the result for {photos}/a.jpg." in result.err[0]
    assert opened(tmp_path / "out" / "a_x2.jpg").size == (80, 60)


def test_circular_links_and_names_that_are_too_long(run, photos: Path, tmp_path: Path) -> None:
    """Circular links and names that are too long are reported, and the other pictures are upscaled."""
    (photos / "circle.png").symlink_to(photos / "circle.png")
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    long = "y" * 300
    result = run(photos, f"{long}.png", "-o", "out")
    assert (result.code, result.out[-1]) == (1, "2 written, 2 failed")
    assert any("circle.png: the link leads to no file" in line for line in result.err)
    assert any(line.startswith(f"{long}.png: it cannot be read (file name too long)") for line in result.err)
    for words, code in (
        ((photos, "-o", "loop/x"), 1), ((photos / "a.jpg", "-o", f"{long}.png", "--skip-existing"), 1),
        ((photos / "a.jpg", "-m", f"{long}.pt"), 2), ((photos / "a.jpg", "-m", long), 2),
    ):  # fmt: skip
        assert run(*words).code == code, words


def others(folder: Path) -> None:
    """Write JPEG files with several endings, an .mpo, and files that are not read."""
    folder.mkdir()
    image = picture(40, 30)
    image.save(folder / "a.jpg")
    for name in ("b.jfif", "c.JPE"):
        image.save(folder / name, "JPEG")
    image.save(folder / "d.mpo", "MPO", save_all=True, append_images=[picture(40, 30, 1)])
    for name in ("e.gif", "f.GIF", "g.avif", "h.heic", "README", ".hidden.gif"):
        (folder / name).touch()
    (folder / "below").mkdir()
    (folder / "below" / "i.heic").touch()


def test_skipped_files_are_counted(run, tmp_path: Path) -> None:
    others(tmp_path / "in")
    result = run("in", "-o", "out")
    assert (result.code, result.out[-1]) == (0, "4 written, 0 failed")
    assert result.err == ["5 files were skipped: 2 .gif, 1 .avif, 1 .heic, 1 without an ending."]
    assert tree(tmp_path / "out") == {"a_x2.jpg", "b_x2.jfif", "c_x2.JPE", "d_x2.jpg"}
    for name in tree(tmp_path / "out"):
        assert opened(tmp_path / "out" / name).format == "JPEG"
    # The .mpo holds two pictures, of which the first is read.
    difference = np.asarray(opened(tmp_path / "out" / "d_x2.jpg"), int) - np.asarray(
        opened(tmp_path / "out" / "a_x2.jpg"), int
    )
    assert np.abs(difference).mean() < 5
    assert run("in", "-o", "out", "--recursive").err == [
        "6 files were skipped: 2 .gif, 2 .heic, 1 .avif, 1 without an ending."
    ]
    result = run("in/below")
    assert result.code == 2
    assert result.err[0].endswith("1 file was skipped: 1 .heic.")
    assert run("in/a.jpg").err == []


def test_an_mpo_is_not_written(run, tmp_path: Path) -> None:
    others(tmp_path / "in")
    result = run("in/d.mpo", "-o", "out.mpo")
    assert result.code == 2
    assert "out.mpo must end in .jpg .jpeg .jfif" in result.err[0]
    assert "invalid choice: 'mpo'" in run("in/d.mpo", "--ext", "mpo").err[-1]


@pytest.mark.parametrize(("words", "message"), [
    (["-s", "5"], r"invalid choice: 5"),
    (["a.jpg", "-t", "x"], r'The value must be a whole number from 0 upwards; got "x".'),
    (["a.jpg", "--quality", "101"], r"The value must be a whole number from 1 to 100; got 101."),
    ([], r"Name a picture or a folder to upscale"),
    (["-m", "w.pt", "a.jpg"], r"every word after -m counts as weights"),
    (["holiday", "-o", "x.jpg"], r"-o x\.jpg names a file, but there can be several pictures"),
    (["holiday/a.jpg", "-o", "x.jpg", "--ext", "png"], r"-o x\.jpg and --ext png ask for different formats"),
    (["holiday/a.jpg", "-o", "x.gif"], r"x\.gif must end in \.jpg .*; got the ending '\.gif'"),
    (["empty"], r"There is no picture \(.*\) in empty; --recursive searches subfolders, too"),
    (["holiday/a.jpg", "-m", "none.pt"], r"There is no weights file at none\.pt"),
    (["holiday/a.jpg", "-m", "holiday/a.jpg"], r"a\.jpg must be a weights file; the file is damaged or of"),
    (["holiday/a.jpg", "--device", "tpu9"], r"There is no device 'tpu9' here"),
])  # fmt: skip
def test_wrong_commands(run, photos: Path, tmp_path: Path, words: list[str], message: str) -> None:
    (tmp_path / "empty").mkdir()
    result = run(*words)
    assert result.code == 2
    assert re.search(message, "\n".join(result.err))
    assert "Traceback" not in "\n".join(result.err)


def test_an_unknown_name_of_a_model(run, photos: Path) -> None:
    result = run(photos / "a.jpg", "-m", "compcat")
    assert result.code == 2
    assert "error: There is neither a file nor a shipped model named 'compcat'; the shipped" in result.err[0]


def test_an_orientation_is_applied_once(run, tmp_path: Path) -> None:
    image, exif = picture(40, 24), Image.Exif()
    exif[0x0112] = 6
    image.save(tmp_path / "turned.png", exif=exif)
    image.transpose(Image.Transpose.ROTATE_270).save(tmp_path / "upright.png")
    run(tmp_path / "turned.png", tmp_path / "upright.png")
    turned, upright = (opened(tmp_path / f"{name}_x2.png") for name in ("turned", "upright"))
    assert turned.getexif().get(0x0112, 1) == 1
    assert np.array_equal(np.asarray(turned), np.asarray(upright))


def command(*words: object) -> list[str]:
    return [sys.executable, "-m", "upscale_lit", "upscale", *map(str, words)]


def test_a_terminal_gets_a_progress_bar(photos: Path, networks: Path) -> None:
    leader, follower = pty.openpty()
    words = command(photos, "-o", photos.parent / "out", "-m", networks)
    env = {name: value for name, value in os.environ.items() if not name.startswith("TTY_")}
    env |= {"TERM": "xterm", "COLUMNS": "120"}
    with subprocess.Popen(words, cwd=ROOT, env=env, stdout=follower, stderr=follower, close_fds=True) as process:
        os.close(follower)
        text = b""
        while True:
            try:
                chunk = os.read(leader, 4096)
            except OSError:  # Linux raises this error when the other end is closed
                break
            text += chunk
        assert process.wait() == 0
    assert b"100%" in text
    assert b"2 written, 0 failed" in text
    assert b"40x30 to 80x60" not in text


def test_closed_streams(photos: Path, networks: Path) -> None:
    words = [*command(photos / "a.jpg", "-m", networks), ">&-", "2>&-"]
    assert subprocess.run(" ".join(words), shell=True, cwd=ROOT).returncode == 0
    assert (photos / "a_x2.jpg").exists()
    result = subprocess.run(" ".join(command(photos, "-m", networks)) + " | head -1", shell=True, cwd=ROOT,
                            capture_output=True, text=True)  # fmt: skip
    assert result.stdout.startswith("2x by ")
    assert "Traceback" not in result.stderr


def test_ctrl_c_leaves_complete_files(photos: Path, networks: Path) -> None:
    for number in range(40):
        picture(300, 300, number).save(photos / f"{number}.png")
    out = photos.parent / "out"
    with subprocess.Popen(
        command(photos, "-o", out, "-m", networks), cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        deadline = time.monotonic() + 60
        while not list(out.glob("*.png")) and time.monotonic() < deadline:
            time.sleep(0.02)
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=60)
        assert process.returncode == 130
    assert "Interrupted. Every file written so far is complete." in err
    assert "Traceback" not in err
    assert 0 < len(list(out.glob("*"))) < 40
    for path in out.iterdir():
        Image.open(path).load()


def test_the_command_and_the_class_give_the_same_result(run, photos: Path, networks: Path) -> None:
    """`upscale` writes the picture that `Upscaler` returns."""
    from upscale_lit import Upscaler

    run(photos / "b.PNG", "-m", networks / "upscaler_64to128.pt")
    with Image.open(photos / "b.PNG") as low:
        expected = Upscaler([load_weights(networks / "upscaler_64to128.pt")[0]], device="cpu")(low)
    assert np.array_equal(np.asarray(Image.open(photos / "b_x2.PNG")), np.asarray(expected))
