"""The page of `upscale-lit app` in a real browser, and what the server leaves, opens and asks for."""

import http.client
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import needs, sample
from PIL import ExifTags, Image

from upscale_lit.cli import main
from upscale_lit.inference import app as application
from upscale_lit.inference import choose

pytestmark = pytest.mark.browser
Visit = Callable[..., Any]
# Writes the addresses that the server connects to, and the names that it looks up, to a file.
AUDITED = """
import sys
def watch(event, arguments):
    if event in ("socket.connect", "socket.getaddrinfo"):
        address = arguments[1] if event == "socket.connect" else arguments[0]
        print(address[0] if isinstance(address, tuple) else address, file=log, flush=True)
log = open(sys.argv[1], "w")
sys.addaudithook(watch)
from upscale_lit.cli import main
sys.exit(main(sys.argv[2:]))
"""


class Server:
    """A running app. folder: its working folder. temporary: the folder for temporary files."""

    def __init__(self, folder: Path, *words: str) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.folder, self.temporary = folder / "work", folder / "temporary"
        for made in (self.folder, self.temporary):
            made.mkdir()
        self.asked = folder / "asked.txt"
        command = [sys.executable, "-c", AUDITED, str(self.asked), "app", "--port", str(self.port), *words]
        self.process = subprocess.Popen(
            command, cwd=self.folder, env={**os.environ, "TMPDIR": str(self.temporary)}, text=True,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        )  # fmt: skip
        assert self.process.stdout is not None
        self.greeting = self.process.stdout.readline()
        self.address = f"http://127.0.0.1:{self.port}/"

    def end(self, number: int) -> tuple[int, str]:
        """Send a signal. Return the exit code and what was printed after the greeting."""
        self.process.send_signal(number)
        out, _ = self.process.communicate(timeout=30)
        return self.process.returncode, out


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    needs("gradio", "playwright")
    server = Server(tmp_path_factory.mktemp("app"), "--max-megapixels", "1", "--max-megabytes", "5")
    yield server
    if server.process.poll() is None:
        server.process.kill()


@pytest.fixture(scope="module")
def photo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    exif = Image.Exif()
    exif[ExifTags.Base.Artist] = "Someone"
    path = tmp_path_factory.mktemp("photo") / "my cat <1>.jpg"
    sample("chelsea").save(path, quality=60, exif=exif)
    return path


def upload(page: Any, path: Path) -> None:
    with page.expect_response(lambda response: "/upload?" in response.url):
        page.locator("input[type=file]").set_input_files(path)
    page.get_by_text(path.stem).first.wait_for()


def start(page: Any) -> None:
    page.get_by_role("button", name="Upscale").click()


def result(page: Any) -> Any:
    slider = page.locator("compare-pictures .slider")
    slider.wait_for()
    return slider


@pytest.mark.parametrize(("width", "scheme"), [(1400, "light"), (390, "dark")])
def test_upload_compare_and_download(server: Server, visit: Visit, photo: Path, width: int, scheme: str) -> None:
    """The download equals the result of the command line."""
    page = visit(server.address, width, scheme)
    upload(page, photo)
    page.get_by_label("4x").check()
    start(page)
    slider = result(page)
    slider.press("Home")
    assert slider.get_attribute("aria-valuetext") == "0 % bicubic, 100 % compact, restore 1"
    page.get_by_role("button", name="100 %").click()
    assert page.locator(".stage").bounding_box()["width"] == 4 * 451
    page.wait_for_function("() => document.querySelector('.stage img:not([hidden])').naturalWidth === 4 * 451")
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    dark = page.locator(".bar button").first.evaluate("button => getComputedStyle(button).color")
    assert dark == ("rgb(0, 0, 0)" if scheme == "light" else "rgb(255, 255, 255)")
    with page.expect_download() as download:
        page.get_by_role("button", name="Download").click()
    assert download.value.suggested_filename == "my cat 1_x4.jpg"  # gradio leaves out some characters
    expected = photo.with_name("expected.jpg")
    assert main(["upscale", str(photo), "-s", "4", "-o", str(expected)]) == 0
    assert download.value.path().read_bytes() == expected.read_bytes()
    with Image.open(download.value.path()) as image:
        assert image.getexif()[ExifTags.Base.Artist] == "Someone"
    assert all(each.startswith((server.address, "data:", "blob:")) for each in page.asked)


def test_the_slider_is_accessible(server: Server, visit: Visit, photo: Path) -> None:
    from axe_playwright_python.sync_playwright import Axe

    for scheme in ("light", "dark"):
        page = visit(server.address, 390, scheme, reduced_motion="reduce")
        upload(page, photo)
        start(page)
        result(page)
        found = Axe().run(page, "compare-pictures").response["violations"]
        assert [(each["id"], [node["html"] for node in each["nodes"]]) for each in found] == []
        assert page.evaluate("document.getAnimations().length") == 0


def test_choices(server: Server, visit: Visit, photo: Path) -> None:
    """Restoration can be switched off. Then there are two versions, and the network is `compact`."""
    page = visit(server.address)
    upload(page, photo)
    page.get_by_label("Restore").click()
    page.get_by_role("option", name="0", exact=True).click()
    start(page)
    result(page)
    assert page.locator("compare-pictures select").count() == 0
    assert page.locator("figcaption").inner_text().count("restore 0") == 1


def test_a_file_without_a_known_ending(server: Server, visit: Visit, photo: Path, tmp_path: Path) -> None:
    """The result of a WebP that is named like a GIF is a PNG."""
    with Image.open(photo) as image:
        image.save(tmp_path / "cat.gif", "WEBP", quality=90)
    page = visit(server.address)
    upload(page, tmp_path / "cat.gif")
    start(page)
    result(page)
    assert page.get_by_role("button", name="Download cat_x2.png").count() == 1


def sentence(page: Any) -> str:
    toast = page.locator(".toast-body, [data-testid=toast-body]").first
    toast.wait_for()
    return str(toast.inner_text())


def test_bad_files(server: Server, visit: Visit, tmp_path: Path) -> None:
    page = visit(server.address)
    start(page)
    assert "Drop a picture first, or choose a file." in sentence(page)
    (tmp_path / "notes.jpg").write_text("no picture")
    Image.new("RGB", (1100, 1000)).save(tmp_path / "large.png")
    large = "large.png: Image size (1100000 pixels) exceeds limit of 1000000 pixels"
    for name, words in (("notes.jpg", "notes.jpg: "), ("large.png", large)):
        page.reload()
        upload(page, tmp_path / name)
        start(page)
        text = sentence(page)
        assert words in text
        assert str(server.temporary) not in text
    page.reload()
    (tmp_path / "huge.png").write_bytes(bytes(6_000_000))
    page.locator("input[type=file]").set_input_files(tmp_path / "huge.png")
    assert 'File(s) exceed the maximum allowed size of 5.0 Mb: "huge.png"' in sentence(page)


def test_stop(server: Server, visit: Visit, tmp_path: Path) -> None:
    sample("astronaut").resize((990, 990)).save(tmp_path / "a.png")
    page = visit(server.address)
    upload(page, tmp_path / "a.png")
    page.get_by_label("8x").check()
    start(page)
    page.get_by_text("Upscaling").first.wait_for()  # the progress bar
    start(page)  # a second click changes nothing
    page.wait_for_timeout(300)
    begin = time.monotonic()
    page.get_by_role("button", name="Stop").click()
    page.get_by_text("Stopped.").wait_for()
    assert time.monotonic() - begin < 10
    assert page.locator("compare-pictures").count() == 0
    page.get_by_label("2x").check()  # the page still works
    start(page)
    result(page)


def test_visitors_do_not_meet(server: Server, visit: Visit, tmp_path: Path) -> None:
    """Two sessions upload pictures of the same name at the same time. Each gets its own."""
    colours = {"red": (200, 30, 30), "blue": (30, 30, 200)}
    visitors = {}
    for name, colour in colours.items():
        (tmp_path / name).mkdir()
        Image.new("RGB", (300, 200), colour).save(tmp_path / name / "same.png")
        visitors[name] = visit(server.address)
        upload(visitors[name], tmp_path / name / "same.png")
    for page in visitors.values():
        start(page)
    for name, page in visitors.items():
        result(page)
        with page.expect_download() as download:
            page.get_by_role("button", name="Download").click()
        with Image.open(download.value.path()) as image:
            assert np.abs(np.asarray(image, int) - colours[name]).max() <= 2


def test_nothing_leaves_this_computer(server: Server) -> None:
    """The server listens on the loopback interface only, and neither connects to nor looks up another host."""
    assert f"http://127.0.0.1:{server.port}/" in server.greeting
    assert {*server.asked.read_text().split()} <= {"127.0.0.1", "::1", "localhost"}
    listening = [
        line.split() for name in ("tcp", "tcp6") for line in Path(f"/proc/net/{name}").read_text().splitlines()
    ]
    places = {words[1] for words in listening if words[1].endswith(f":{server.port:04X}") and words[3] == "0A"}
    assert places == {f"0100007F:{server.port:04X}"}


@pytest.mark.parametrize("headers", [{"Origin": "http://evil.example"}, {"Host": "evil.example"}])
def test_other_web_pages_cannot_use_the_app(server: Server, headers: dict[str, str]) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", server.port)
    connection.request("POST", "/gradio_api/upload", b"", headers)
    answer = connection.getresponse()
    assert (answer.status, answer.read()) == (403, b"Only the page of this app may send requests.")
    connection.request("GET", "/", headers={"Origin": f"http://127.0.0.1:{server.port}"})
    assert connection.getresponse().status == 200


def test_temporary_files_are_private_and_deleted(server: Server) -> None:
    """This test is the last one, because it ends the server."""
    (folder,) = server.temporary.glob("upscale_lit_*")
    assert folder.stat().st_mode & 0o777 == 0o700
    assert list(folder.rglob("*.png"))
    code, out = server.end(signal.SIGTERM)
    assert code == 0
    assert "Traceback" not in out
    assert list(server.temporary.iterdir()) == []
    assert list(server.folder.iterdir()) == []


def test_a_port_that_is_taken(tmp_path: Path) -> None:
    needs("gradio")
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        words = [sys.executable, "-m", "upscale_lit", "app", "--port", str(taken.getsockname()[1])]
        result = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert result.returncode == 2
    assert result.stderr.startswith("error: The port ")
    assert "Give another one: upscale-lit app --port 78" in result.stderr


def test_without_gradio(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(application.importlib.util, "find_spec", lambda name: None)
    assert main(["app"]) == 2
    assert 'pip install "upscale-lit[app]"' in capsys.readouterr().err


def test_stopped_before_the_work_begins(tmp_path: Path, photo: Path) -> None:
    """A visitor who waits for another one can stop, too."""
    app = application.App({"compact": choose.find([])}, tmp_path / "private", "cpu", False)
    (tmp_path / "private").mkdir()
    choice = photo, "compact", 2, application.AUTOMATIC, "me", lambda *part, **words: None
    app.stop("me")  # nothing to stop
    app.expect("me")
    app.stop("me")
    with pytest.raises(application.StoppedError):
        app.upscale(*choice)
    assert list((tmp_path / "private").iterdir()) == []
    assert app.upscale(*choice)[1].exists()  # the next picture is not stopped
    (old,) = (tmp_path / "private").iterdir()
    os.utime(old, (0, 0))
    app.upscale(*choice)
    assert not old.exists()


def test_a_device_that_is_missing(capsys: pytest.CaptureFixture[str]) -> None:
    needs("gradio")
    assert main(["app", "--device", "cuda:9"]) == 2
    assert "There is no device" in capsys.readouterr().err
