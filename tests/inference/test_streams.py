"""Paths: - for standard input and output, other names of streams, empty paths, and ~."""

import io
import json
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import ROOT, picture
from PIL import Image

from upscale_lit.cli import main
from upscale_lit.errors import InputError
from upscale_lit.inference.paths import STREAM, path_of
from upscale_lit.inference.tiling import Chain

Call = Callable[..., tuple[int, bytes, str]]


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    picture(40, 30).save("a.jpg")
    picture(20, 30).save("b.png")
    return tmp_path


@pytest.fixture
def call(
    here: Path, networks: Path, monkeypatch: pytest.MonkeyPatch, capsysbinary: pytest.CaptureFixture[bytes]
) -> Call:
    """Return a function that runs `upscale`: call("-", stdin=b"...") returns (exit code, stdout, stderr)."""

    def call(*words: str, stdin: bytes = b"") -> tuple[int, bytes, str]:
        monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(stdin)))
        capsysbinary.readouterr()
        try:
            code = main(["upscale", *words, "-m", str(networks)])
        except SystemExit as stop:
            code = int(stop.code or 0)
        captured = capsysbinary.readouterr()
        return code, captured.out, captured.err.decode()

    return call


def opened(data: bytes) -> Image.Image:
    image = Image.open(io.BytesIO(data))
    image.load()
    return image


def encoded(image: Image.Image, kind: str) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind)
    return buffer.getvalue()


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "BMP", "TIFF"])
def test_the_output_has_the_format_of_the_input(call: Call, kind: str, here: Path) -> None:
    before = sorted(here.iterdir())
    code, out, err = call("-", "-o", "-", stdin=encoded(picture(40, 30), kind))
    assert code == 0
    assert (opened(out).format, opened(out).size) == (kind, (80, 60))
    assert "standard input -> standard output: 40x30 to 80x60 by upscaler_64to128" in err
    assert err.endswith("1 written, 0 failed\n")
    assert sorted(here.iterdir()) == before


def test_files_and_other_formats(call: Call, here: Path) -> None:
    stdin = (here / "b.png").read_bytes()
    assert opened(call("-", stdin=stdin)[1]).format == "PNG"  # -o is optional if stdout is not a terminal
    assert opened(call("-", "-o", "-", "--ext", "webp", stdin=stdin)[1]).format == "WEBP"
    assert opened(call("a.jpg", "-o", "-")[1]).size == (80, 60)
    code, out, _ = call("-i", "-", "-o", "big.jpg", "-s", "4", stdin=stdin)
    assert code == 0
    assert b"standard input -> big.jpg: 20x30 to 80x120" in out
    assert Image.open("big.jpg").size == (80, 120)
    (here / "wrong name.jpg").write_bytes(stdin)
    assert opened(call("wrong name.jpg", "-o", "-")[1]).format == "PNG"
    picture(40, 30).save("c.mpo", "MPO", save_all=True, append_images=[picture(40, 30, 1)])
    assert opened(call("c.mpo", "-o", "-")[1]).format == "JPEG"


def test_a_file_that_is_named_as_a_stream(call: Call, here: Path) -> None:
    (here / "b.png").rename(here / "-")
    assert call("./-", "-o", "c.png")[0] == 0
    assert Image.open("c.png").size == (40, 60)
    assert opened(call("-", stdin=(here / "a.jpg").read_bytes())[1]).format == "JPEG"  # stdin is read, not the file


@pytest.mark.parametrize(("words", "message"), [
    (["-", "-"], "- stands for one picture"),
    (["-", "a.jpg", "-o", "out"], "- stands for one picture"),
    (["a.jpg", "b.png", "-o", "-"], "- stands for one picture"),
    ([".", "-o", "-"], "- stands for one picture"),
    (["-", "--sheet"], "--sheet, --html and --skip-existing must have a file"),
    (["a.jpg", "-o", "-", "--skip-existing"], "--sheet, --html and --skip-existing must have a file"),
    (["-", "-o", "out"], "must go to a file or to standard output; got -o out"),
    (["-", "-o", "."], "must go to a file or to standard output; got -o ."),
    (["-", "-o", "x.png", "--ext", "jpg"], "ask for different formats"),
    (["-", "-o", "x.gif"], "The name of x.gif must end in"),
])  # fmt: skip
def test_wrong_commands(
    call: Call, here: Path, words: list[str], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Chain, "tiles", lambda *args: pytest.fail("A picture was upscaled."))
    before = sorted(here.iterdir())
    code, out, err = call(*words, stdin=(here / "a.jpg").read_bytes())
    assert (code, out) == (2, b"")
    assert message in err
    assert sorted(here.iterdir()) == before


@pytest.mark.parametrize(("data", "message"), [
    (b"", "Standard input must be a picture (JPEG, PNG, WEBP, BMP, TIFF); got nothing"),
    (b"<html>", "Standard input must be a picture (JPEG, PNG, WEBP, BMP, TIFF); got bytes that begin with b'<html>'"),
    (encoded(picture(40, 30), "PNG")[:700], "standard input: the picture is incomplete"),
])  # fmt: skip
def test_no_picture_on_standard_input(call: Call, data: bytes, message: str) -> None:
    code, out, err = call("-", "-o", "-", stdin=data)
    assert (code, out) == (1, b"")
    assert err.startswith(message)
    assert "remove" not in err


class Terminal(io.TextIOWrapper):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(("name", "words"), [("stdin", ["-", "-o", "x.png"]), ("stdout", ["a.jpg", "-o", "-"])])
def test_terminals(
    here: Path, name: str, words: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, name, Terminal(io.BytesIO()))
    assert main(["upscale", *words]) == 2
    assert f"Standard {name[3:]}put must be a file or a pipe; got a terminal" in capsys.readouterr().err


def test_in_a_pipeline(here: Path) -> None:
    """The command reads from a real pipe, and writes to a pipe that is closed at its other end."""
    line = f'cat a.jpg | {shlex.quote(sys.executable)} -m upscale_lit upscale - | true; echo "${{PIPESTATUS[1]}}"'
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    result = subprocess.run(["bash", "-c", line], cwd=here, env=env, capture_output=True, text=True, timeout=100)
    assert result.stdout == "1\n"
    assert re.fullmatch(r"2x by .*\n", result.stderr)  # and nothing else


def test_a_picture_is_not_written_over_itself(
    here: Path, networks: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    before = (here / "a.jpg").read_bytes()
    for name, mode, words in (
        ("stdin", "r", ["-", "-o", "a.jpg"]),
        ("stdout", "a", ["a.jpg", "-o", "-"]),
        ("stdout", "r+", ["a.jpg", "-o", "-"]),
    ):
        with monkeypatch.context() as patch, open("a.jpg", mode) as stream:
            patch.setattr(sys, name, stream)
            assert main(["upscale", *words, "-m", str(networks)]) == 1
        assert "The result would overwrite" in capsys.readouterr().err
        assert (here / "a.jpg").read_bytes() == before


def test_other_names_of_streams(call: Call, here: Path) -> None:
    """Errors for other names of streams advise the name -. A file never replaces such a path."""
    os.mkfifo("pipe.png")
    before = sorted(here.iterdir())
    for words in (
        ["/dev/stdin"], ["/dev/fd/0"], ["/proc/self/fd/0", "-o", "x.png"], [f"/proc/{os.getpid()}/fd/0"],
        ["a.jpg", "-o", "/dev/stdout"], ["a.jpg", "-o", "/dev/fd/1"], ["/dev/../dev//stdin"],
    ):  # fmt: skip
        code, _, err = call(*words)
        assert code == 2, words
        assert "under the name -: upscale-lit upscale - -o -" in err
        assert "remove" not in err
    code, _, err = call("pipe.png", "b.png")
    assert code == 1  # b.png is upscaled
    assert "pipe.png: This is a named pipe, not a file. To read a picture from a stream" in err
    (here / "b_x2.png").unlink()
    assert call("a.jpg", "-o", "pipe.png")[0] == 2
    assert main_code("evaluate", ".", "--json", "pipe.png") == 2
    # No command waits for data in the pipe.
    assert main_code("upscale", "a.jpg", "-m", "pipe.png") == main_code("export", "pipe.png") == 2
    assert sorted(here.iterdir()) == before


def main_code(*words: str) -> int:
    try:
        return main(list(words))
    except SystemExit as stop:
        return int(stop.code or 0)


EMPTY = [
    "upscale @", "upscale a.jpg -o @", "upscale -i @", "upscale a.jpg -m @", "evaluate @", "evaluate . -m @",
    "evaluate --compare @ .", "evaluate --compare . @", "evaluate . --json @", "evaluate . --save @", "export @",
    "export compact -o @", "check @", "check . --val-root @", "shard @ -o x", "shard . -o @",
]  # fmt: skip


@pytest.mark.parametrize("words", EMPTY)
def test_empty_paths(here: Path, words: str, capsys: pytest.CaptureFixture[str]) -> None:
    """An empty path, such as an unset shell variable, never means the current folder."""
    before = sorted(here.iterdir())
    option = next((word for word in reversed(words.split()) if word.startswith("-") and "@" not in word), "")
    for empty in ("", "  "):
        assert main_code(*(empty if word == "@" else word for word in words.split())) == 2
        error = capsys.readouterr().err.splitlines()[-1]
        assert f"A path must name a file or a folder; got {json.dumps(empty)}. Is it a shell" in error
        assert option in error or "shard: error: argument folder" in error
    assert sorted(here.iterdir()) == before


@pytest.mark.parametrize("words", [words for words in EMPTY if not words.startswith("upscale") or "-m" in words])
def test_streams_are_for_upscale(here: Path, words: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main_code(*words.replace("@", "-").split()) == 2
    assert "got '-', which only `upscale` accepts" in capsys.readouterr().err


def test_home(here: Path, monkeypatch: pytest.MonkeyPatch, networks: Path) -> None:
    """The program expands ~ in quotes and after =, which shells do not expand."""
    home = here / "home"
    (home / "photos").mkdir(parents=True)
    picture(40, 30).save(home / "photos" / "c.png")
    monkeypatch.setenv("HOME", str(home))
    (home / "networks").symlink_to(networks)
    assert main_code("upscale", "~/photos", "-o", "~/big", "-m", "~/networks") == 0
    assert (home / "big" / "c_x2.png").exists()
    words = ["~/photos", "-m", "~/networks/upscaler_64to128.pt", "--json=~/t.json", "--save", "~/saved", "-s", "2"]
    assert main_code("evaluate", *words) == 0
    # The folders are found, but they hold no pairs to compare.
    assert main_code("evaluate", "--compare", "~/photos", "~/photos", "-s", "2") == 2
    assert main_code("export", "~/networks/upscaler_64to128.pt", "-o", "~/w.safetensors") == 0
    assert main_code("check", "~/photos", "--val-root", "~/photos") == 1
    assert {"t.json", "saved", "w.safetensors"} <= {path.name for path in home.iterdir()}
    assert not any(path.name.startswith("~") for path in here.rglob("*"))


def test_a_path_that_begins_with_a_tilde(here: Path) -> None:
    (here / "~x.png").touch()
    assert path_of("~x.png") == Path("~x.png")  # a file with this name exists, a user does not
    with pytest.raises(InputError, match=r"no home folder ~nobody_at_all/x\.png\. Write \./~nobody_at_all/x\.png for"):
        path_of("~nobody_at_all/x.png")
    assert path_of("-", stream=True) is STREAM
    assert path_of("./-") == here / "-"
