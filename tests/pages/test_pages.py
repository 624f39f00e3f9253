"""Pages of upscaled and measured pictures: their pictures, words and files. tests/browser opens such pages."""

import base64
import csv
import hashlib
import io
import json
import re
import shlex
import signal
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import picture
from PIL import ExifTags, Image, ImageCms

from upscale_lit import resample
from upscale_lit.cli import main
from upscale_lit.data.listing import find_photos
from upscale_lit.inference.batch import Batch
from upscale_lit.inference.comparison import bicubic, for_browser
from upscale_lit.inference.jobs import Job
from upscale_lit.pages import page
from upscale_lit.pages.chart import ticks
from upscale_lit.training.callbacks import KeepLast

SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
# A profile whose red and blue are exchanged: an sRGB profile with exchanged names of tags.
SWAPPED = SRGB.replace(b"rXYZ", b"tXYZ").replace(b"bXYZ", b"rXYZ").replace(b"tXYZ", b"bXYZ")


class Page(HTMLParser):
    """The elements of a page, as a browser finds them."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[tuple[str, str]] = []
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        if data.strip() and self.elements:
            self.texts.append((self.elements[-1][0], data.strip()))

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.elements if name == tag]

    def text(self, tag: str) -> list[str]:
        return [text for name, text in self.texts if name == tag]

    def embedded(self) -> Iterator[Image.Image]:
        for image in self.all("img"):
            kind, _, data = str(image["src"]).partition(";base64,")
            assert kind == "data:image/webp"
            yield Image.open(io.BytesIO(base64.b64decode(data)))


@pytest.fixture
def weights(networks: Path) -> list[str]:
    return ["-m", str(networks)]


def test_a_page(tmp_path: Path, weights: list[str]) -> None:
    """The page embeds bicubic and the result."""
    picture(40, 30).save(tmp_path / "a.png")
    assert main(["upscale", str(tmp_path / "a.png"), "--html", *weights]) == 0
    assert sorted(path.name for path in tmp_path.glob("a*")) == ["a.png", "a_x2.html", "a_x2.png"]
    found = Page(tmp_path / "a_x2.html")
    before, after = (np.asarray(image.convert("RGB"), int) for image in found.embedded())
    with Image.open(tmp_path / "a_x2.png") as image:
        assert np.array_equal(after, np.asarray(image))  # a PNG is shown without loss
    assert np.array_equal(before, np.asarray(bicubic(picture(40, 30), 2)))
    assert [image["alt"] for image in found.all("img")] == ["a_x2.png: bicubic", "a_x2.png: upscaler_64to128"]
    caption, note = found.text("p")[-2:]
    assert re.fullmatch(r"a\.png: 40x30 to 80x60 by upscaler_64to128 in float32, \d\.\d s", caption)
    assert note == "The pictures in this page are copies (WebP, without loss)."
    assert main(["upscale", str(tmp_path / "a.png"), "--html", "--ext", "jpg", *weights]) == 0
    found = Page(tmp_path / "a_x2.html")
    with Image.open(tmp_path / "a_x2.jpg") as image:
        for shown in found.embedded():
            assert np.abs(np.asarray(shown.convert("RGB"), int) - np.asarray(image, int)).mean() < 3
    assert found.text("p")[-1] == "The pictures in this page are copies (WebP, quality 95)."


def test_the_policy_forbids_everything_else(tmp_path: Path, weights: list[str]) -> None:
    picture(20, 20).save(tmp_path / "a.png")
    assert main(["upscale", str(tmp_path / "a.png"), "--html", *weights]) == 0
    text = (tmp_path / "a_x2.html").read_text()
    policy = next(meta["content"] for meta in Page(tmp_path / "a_x2.html").all("meta") if "http-equiv" in meta)
    hashes = {
        name: base64.b64encode(
            hashlib.sha256(re.search(f"<{name}>(.*?)</{name}>", text, re.DOTALL)[1].encode()).digest()
        )  # type: ignore[index]
        for name in ("style", "script")
    }
    style, script = (f"{name}-src 'sha256-{value.decode()}'" for name, value in hashes.items())
    assert policy == f"default-src 'none'; base-uri 'none'; form-action 'none'; img-src data:; {style}; {script}"
    assert "http:" not in text
    assert "https:" not in text


def test_names_are_escaped(tmp_path: Path, weights: list[str]) -> None:
    name = "<script>alert(1)<&'\".png"
    picture(20, 20).save(tmp_path / name)
    assert main(["upscale", str(tmp_path / name), "--html", *weights]) == 0
    found = Page(tmp_path / "<script>alert(1)<&'\"_x2.html")
    assert len(found.all("script")) == 1
    assert found.text("h1") == ["<script>alert(1)<&'\"_x2.png"]


def test_no_metadata_are_in_a_page(tmp_path: Path, weights: list[str]) -> None:
    exif = Image.Exif()
    exif[ExifTags.Base.Make] = "Secret camera"
    exif.get_ifd(ExifTags.IFD.GPSInfo)[ExifTags.GPS.GPSLatitude] = (48.0, 8.0, 14.0)
    picture(40, 30).save(tmp_path / "a.jpg", exif=exif, icc_profile=SRGB, comment=b"Secret comment", quality=60)
    assert main(["upscale", str(tmp_path / "a.jpg"), "--html"]) == 0  # restored: three pictures
    images = list(Page(tmp_path / "a_x2.html").embedded())
    assert len(images) == 3
    for image in images:
        assert not image.getexif()
        assert not image.info.keys() & {"exif", "xmp", "icc_profile", "comment"}
    with Image.open(tmp_path / "a_x2.jpg") as result:
        assert result.getexif()[ExifTags.Base.Make] == "Secret camera"
    for index in Page(tmp_path / "a_x2.html").all("img"):
        data = base64.b64decode(str(index["src"]).partition("base64,")[2])
        assert b"Secret" not in data


def test_restored_results_are_compared_with_the_clean_network(tmp_path: Path) -> None:
    picture(40, 30).save(tmp_path / "a.jpg", quality=50)
    assert main(["upscale", str(tmp_path / "a.jpg"), "--html"]) == 0
    found = Page(tmp_path / "a_x2.html")
    assert [image["data-name"] for image in found.all("img")] == ["bicubic", "compact, restore 0", "compact, restore 1"]
    assert main(["upscale", str(tmp_path / "a.jpg"), "--restore", "0", "-o", str(tmp_path / "clean.png")]) == 0
    clean = np.asarray(list(found.embedded())[1].convert("RGB"), int)
    with Image.open(tmp_path / "clean.png") as image:
        assert np.abs(clean - np.asarray(image, int)).mean() < 3  # the page of a JPEG has copies of quality 95


@pytest.mark.parametrize("scale", [2, 8])
@pytest.mark.parametrize("mode", ["L", "RGB"])
def test_bicubic_is_the_baseline(mode: str, scale: int) -> None:
    low = picture(33, 21).convert(mode)
    tensor = torch.from_numpy(np.asarray(low).reshape(21, 33, -1).copy())[None].permute(0, 3, 1, 2)
    expected = resample.to_uint8(resample.interpolate(tensor, scale))[0].permute(1, 2, 0).numpy()
    found = np.asarray(bicubic(low, scale)).reshape(expected.shape)
    assert np.abs(found.astype(int) - expected).max() <= 1


@pytest.mark.parametrize("mode", ["RGB", "RGBA"])
def test_the_profile_is_applied(mode: str) -> None:
    image = picture(8, 8).convert(mode)
    image.info["icc_profile"] = SWAPPED
    shown = for_browser(image)
    assert shown.mode == mode
    expected = np.asarray(image)[..., [2, 1, 0, *([3] if mode == "RGBA" else [])]]
    assert np.abs(np.asarray(shown).astype(int) - expected).max() <= 2
    image.info["icc_profile"] = b"damaged"
    assert for_browser(image).tobytes() == image.tobytes()


def test_deep_and_transparent_pictures(tmp_path: Path, weights: list[str]) -> None:
    deep = np.linspace(0, 65535, 900).reshape(30, 30).astype(np.uint16)
    Image.fromarray(deep).save(tmp_path / "deep.png")
    clear = picture(30, 30).convert("RGBA")
    clear.putalpha(Image.fromarray(np.linspace(0, 255, 900).reshape(30, 30).astype(np.uint8)))
    clear.save(tmp_path / "clear.png")
    assert main(["upscale", str(tmp_path / "deep.png"), str(tmp_path / "clear.png"), "--html", *weights]) == 0
    page = Page(tmp_path / "deep_x2.html")
    assert page.text("p")[-1].endswith("The picture has 16 bits, and the copies have 8.")
    for image in page.embedded():
        assert np.asarray(image.convert("L"), int)[:, 30] == pytest.approx(np.linspace(2, 253, 60), abs=5)
    page = Page(tmp_path / "clear_x2.html")
    assert page.text("p")[-1].endswith("The checkerboard is behind transparent parts.")
    for image in page.embedded():
        assert image.mode == "RGBA"
        assert np.asarray(image)[:, 30, 3] == pytest.approx(np.linspace(2, 253, 60), abs=5)


def test_copies_of_large_pictures() -> None:
    assert page.format_of_copy(Image.new("L", (16383, 1)), lossless=False) == "WebP"
    wide = Image.new("L", (16384, 1))
    assert page.encoded(wide, lossless=False)[1] == "jpeg"
    assert page.encoded(wide, lossless=True)[1] == page.encoded(wide.convert("LA"), lossless=False)[1] == "png"


def test_pages_of_equal_names(tmp_path: Path, weights: list[str]) -> None:
    for name in ("a.jpg", "a.png"):
        picture(20, 20).save(tmp_path / name)
    assert main(["upscale", str(tmp_path / "a.jpg"), str(tmp_path / "a.png"), "--html", *weights]) == 0
    assert {path.name for path in tmp_path.glob("*.html")} == {"a.jpg_x2.html", "a.png_x2.html"}


def test_a_foreign_page_is_not_replaced(tmp_path: Path, weights: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "out").mkdir()
    picture(20, 20).save(tmp_path / "in" / "a.png")
    (tmp_path / "out" / "index.html").write_text("my page")
    words = ["upscale", str(tmp_path / "in"), "-o", str(tmp_path / "out"), "--html", *weights]
    assert main(words) == 1
    assert (
        "index.html must be a page of this program, or not exist; got a file of another kind."
        in capsys.readouterr().err
    )
    assert (tmp_path / "out" / "index.html").read_text() == "my page"
    assert main(["evaluate", str(tmp_path / "in"), "--html", str(tmp_path / "out" / "index.html")]) == 2
    (tmp_path / "out" / "index.html").unlink()
    (tmp_path / "out" / "index.html").mkdir()
    assert main(["evaluate", str(tmp_path / "in"), "--html", str(tmp_path / "out" / "index.html")]) == 2
    assert "got a folder." in capsys.readouterr().err
    (tmp_path / "out" / "index.html").rmdir()
    assert main(words) == 0
    assert main(words) == 0  # an earlier page of ours is replaced


def test_a_page_needs_files(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["upscale", "-", "--html"]) == 2
    assert "--html" in capsys.readouterr().err


def names_in(index: Path) -> list[str]:
    found = Page(index)
    for image in found.all("img"):
        assert image["loading"] == "lazy"
        with Image.open(index.parent / str(image["src"]).replace("%20", " ")) as copy:
            assert (str(copy.width), str(copy.height)) == (image["width"], image["height"])
    return found.text("h2")


def test_the_page_of_a_folder(folder: Path, tmp_path: Path, weights: list[str]) -> None:
    """A later command adds pictures, and keeps those that it skips."""
    out = tmp_path / "big"
    assert main(["upscale", str(folder), "-o", str(out), "--html", *weights]) == 0
    first = [f"photo {number}_x2.png" for number in (0, 10, 2, 4, 6, 8)]
    assert sorted(names_in(out / "index.html")) == first
    words = ["upscale", str(folder), "-o", str(out), "--html", "--recursive", "--skip-existing", *weights]
    assert main(words) == 0
    nested = [f"more/photo {number}_x2.png" for number in (1, 11, 3, 5, 7, 9)]
    assert set(names_in(out / "index.html")) == {*nested, *first}
    assert not list(out.glob("*_x2.html"))


def test_an_interrupted_folder_has_a_page(
    folder: Path, tmp_path: Path, weights: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """With --skip-existing, the next command adds the pictures that have no page yet."""

    def interrupt(batch: Batch, job: Job) -> None:
        if len(batch.written) == 2:
            raise KeyboardInterrupt

    words = ["upscale", str(folder), "-o", str(tmp_path / "big"), "--html", *weights]
    with monkeypatch.context() as context:
        context.setattr(Batch, "_refuse_overwriting", interrupt)
        assert main(words) == 130
    index = tmp_path / "big" / "index.html"
    assert len(names_in(index)) == 2
    assert main(words[:4]) == 0  # six results, but only two of them are on the page
    assert main([*words, "--skip-existing"]) == 0
    assert len(names_in(index)) == 6


def test_long_names_and_damaged_records(tmp_path: Path, weights: list[str]) -> None:
    for name in ("a", "b", "M" * 248):
        picture(20, 20).save(tmp_path / f"{name}.png")
    words = ["upscale", str(tmp_path), "-o", str(tmp_path / "out"), "--html", *weights]
    assert main(words) == 0
    index = tmp_path / "out" / "index.html"
    assert len(names_in(index)) == 3
    records = sorted((tmp_path / "out" / "index_files").glob("*.json"))
    for record, content in zip(records, ("{", '{"title": 1}', "[]"), strict=True):
        record.write_text(content)
    index.unlink()
    assert main([*words, "--skip-existing"]) == 0
    assert not index.exists()
    assert main(words) == 0
    assert len(names_in(index)) == 3


def test_the_copies_are_no_photos(folder: Path, weights: list[str]) -> None:
    """A second command with the same folder does not read the copies of the first one, and neither does training."""
    words = ["upscale", str(folder), "-o", str(folder), "--html", "--recursive", *weights]
    assert main(words) == 0
    assert len(list((folder / "index_files").glob("*.webp"))) == 24
    assert len(find_photos(folder)[0]) == 24
    (folder / "index.html").unlink()
    assert len(find_photos(folder)[0]) == 48


def test_the_page_of_a_folder_is_not_replaced(
    folder: Path, tmp_path: Path, weights: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    picture(20, 20).save(tmp_path / "index.png")
    words = ["upscale", str(tmp_path / "index.png"), str(folder), "-o", str(tmp_path / "out"), "--suffix", ""]
    assert main([*words, "--html", *weights]) == 2
    assert "index.html. Nothing is written." in capsys.readouterr().err
    assert main([*words, *weights]) == 0


def test_the_page_of_an_evaluation(tmp_path: Path, weights: list[str]) -> None:
    """Each picture has its own figures, and the worst comes first."""
    (tmp_path / "Set3").mkdir()
    for seed in range(3):
        picture(48, 40, seed).save(tmp_path / "Set3" / f"p{seed}.png")
    report = tmp_path / "report.html"
    assert (
        main(["evaluate", str(tmp_path / "Set3"), "--html", str(report), "--json", str(tmp_path / "a.json"), *weights])
        == 0
    )
    rows = json.loads((tmp_path / "a.json").read_text())["rows"]
    found = Page(report)
    cells, count = found.text("td"), len(rows)
    assert [cells[6 * row + 2] for row in range(count)] == [f"{row['psnr_y']:.3f}" for row in rows]
    figures = np.array([float(cell) for cell in cells[6 * count :]]).reshape(3, count, 3)
    assert figures.mean(axis=0)[:, 0] == pytest.approx([row["psnr_y"] for row in rows], abs=0.006)
    method = [row["method"] for row in rows].index("upscaler_64to128")
    assert list(figures[:, method, 0]) == sorted(figures[:, method, 0])
    layers = [image["data-name"] for image in found.all("img")][: count + 2]
    assert layers == ["input", *(row["method"] for row in rows), "truth"]
    for image in found.all("img"):
        with Image.open(tmp_path / str(image["src"])) as copy:
            assert copy.size == ((24, 20) if image["data-name"] == "input" else (48, 40))


@pytest.mark.parametrize("name", ["made", "truth"])
def test_the_page_of_finished_pictures(tmp_path: Path, name: str) -> None:
    for folder in ("high", name):
        (tmp_path / folder).mkdir()
        picture(48, 40).save(tmp_path / folder / "a.png")
    folders = [str(tmp_path / "high"), str(tmp_path / name)]
    assert main(["evaluate", "--compare", *folders, "--html", str(tmp_path / "r.html")]) == 0
    assert [image["data-name"] for image in Page(tmp_path / "r.html").all("img")] == [name, "truth"]


@pytest.mark.parametrize(("low", "high"), [(0, 800), (28.4, 31.26), (30, 30), (-0.3, 0.2), (1e5, 2.4e6)])
def test_ticks_are_round_and_enclose_the_values(low: float, high: float) -> None:
    found = ticks(low, high, 6)
    steps = np.diff(found)
    assert 2 <= len(found) <= 8
    assert found[0] <= low
    assert high <= found[-1]
    assert steps == pytest.approx(np.full(len(steps), steps[0]))
    assert f"{steps[0]:.0e}"[0] in "125"


def test_the_page_of_a_run(run) -> None:
    """The page has the curve with its baselines, a grid for each validation, the table and a command."""
    result = run("seed=3")
    found = Page(result.folder / "report.html")
    rows = [row for row in csv.DictReader((result.folder / "metrics.csv").open()) if row["val/psnr"]]
    assert len(found.all("circle")) == len(rows) == 3
    grids = [attributes["data-source"] for attributes in found.all("span") if "data-step" in attributes]
    assert grids == [f"grids/step_{int(row['step']):06d}.png" for row in rows]
    assert all((result.folder / str(grid)).exists() for grid in grids)
    lines = found.all("svg")[0]["aria-label"]
    assert f"bicubic {result.metrics['val/psnr_bicubic']:.2f}" in str(lines)
    assert f"bilinear {result.metrics['val/psnr_bilinear']:.2f}" in str(lines)
    assert f"{result.metrics['val/psnr']:.2f}" in found.text("td")
    (command,) = found.text("code")
    assert command.startswith("python ")
    assert command.endswith(" seed=3")
    assert "hydra.run.dir" not in command


def test_the_page_of_an_interrupted_run(run, monkeypatch: pytest.MonkeyPatch) -> None:
    """It says how to resume the run. After that, the page is that of a run without interruption."""
    assert run(name="complete").code == 0
    with monkeypatch.context() as context:

        def stop(writer: KeepLast, trainer: object) -> None:
            write(writer, trainer)  # type: ignore[arg-type]
            if trainer.global_step == 2:  # type: ignore[attr-defined] # after the validation of the first epoch
                signal.raise_signal(signal.SIGTERM)

        write = KeepLast.write
        context.setattr(KeepLast, "write", stop)
        stopped = run("checkpoint.every_steps=1")
    assert stopped.code == 128 + signal.SIGTERM
    page = Page(stopped.folder / "report.html")
    assert page.text("p")[1] == "The latest validation was at step 2 of 4. The run has not finished."
    resume, repeat = page.text("code")
    assert resume.endswith(f"hydra.run.dir={stopped.folder.name} ckpt_path=last")
    assert resume.startswith(repeat.partition(" checkpoint.every_steps=1")[0])
    found = run("ckpt_path=last", "checkpoint.every_steps=1")
    assert found.code == 0
    pages = [Page(folder / "report.html") for folder in (found.folder, found.folder.with_name("complete"))]
    curves = [page.all("polyline")[0]["points"] for page in pages]
    assert curves[0] == curves[1]


def test_the_command_on_the_page_repeats_a_run(run) -> None:
    """An experiment usually starts a sweep. The commands of its single runs start single runs."""
    words = ["experiment=compact", "data=sample", "model.width=4", "stage=64to128", "stage.max_epochs=1"]
    first = run("-m", *words)
    (command,) = Page(first.folder / "0" / "report.html").text("code")
    program, script, *again = shlex.split(command)
    assert (program, Path(script).name) == ("python", "train.py")
    assert set(words) < set(again)
    second = run(*again, name="again")
    assert second.code == 0
    assert second.metrics["val/psnr"] == first.job(0).metrics["val/psnr"]
    assert re.search(r"Next stage .* stage=128to256 .* hydra\.mode=RUN$", second.log, re.MULTILINE)
    (second.folder / "metrics.json").unlink()
    assert run(*again, f"hydra.run.dir={second.folder}", "ckpt_path=last", name="again").code == 0
    assert (second.folder / "metrics.json").exists()


def test_a_page_that_cannot_be_written(run, tmp_path: Path) -> None:
    """The training continues."""
    (tmp_path / "run" / "report.html").mkdir(parents=True)
    result = run()
    assert result.code == 0
    assert "report.html cannot be written: Is a directory. The training continues." in result.log
    assert result.metrics["steps"] == 4


def test_the_page_of_a_run_with_a_degradation(run) -> None:
    found = Page(run("degradation=jpeg", "trainer.max_epochs=1").folder / "report.html")
    assert found.text("h2")[:2] == ["PSNR on the validation pairs", "PSNR on the validation pairs, degraded"]
