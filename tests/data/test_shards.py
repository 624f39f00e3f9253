"""Shards: making, resuming, and reading them as a stream. Examples do not depend on the reader."""

import functools
import http.server
import shutil
import sys
import tarfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import Run, picture
from numpy.typing import NDArray

from upscale_lit.cli import main
from upscale_lit.data import shards
from upscale_lit.data.loader import ResumableLoader
from upscale_lit.data.low import LowPictures
from upscale_lit.data.photo import FORMATS, SUFFIXES, read_photo
from upscale_lit.data.regions import Regions
from upscale_lit.data.shards import find_shards, read_shard
from upscale_lit.data.sources import Plan
from upscale_lit.data.stream import Shards
from upscale_lit.errors import InputError, ShardError
from upscale_lit.weights import load_weights

Runner = Callable[..., Run]


@pytest.fixture
def made(folder: Path, tmp_path: Path) -> Path:
    """Make shards of the twelve photos of `folder`, with four photos in each shard."""
    assert main(["shard", str(folder), "-o", str(tmp_path / "shards"), "--photos", "4", "--val-fraction", "0.3"]) == 0
    return tmp_path / "shards"


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def opened(folder: Path, **changes: Any) -> Shards:
    """Return an opened source of shards with two examples of each photo."""
    settings = {"crop": 32, "batch_size": 4, "examples_per_epoch": 24, "seed": 1, **changes}
    source = Shards(urls=str(folder), uses=2)
    source.open(Plan("64to128", 512, enlarge=False, val_photos=32, **settings))
    return source


def regions(folder: Path, seed: int = 1) -> Regions:
    return Regions(opened(folder, seed=seed), LowPictures(2, "bicubic"), 32, (0.0, 1.0), seed)


def test_each_photo_is_in_one_shard(folder: Path, made: Path) -> None:
    sides = find_shards(str(made))
    found = {side: [file for shard in sides[side] for file in read_shard(shard)] for side in sides}
    assert found["train"]
    assert found["val"]
    photos = {read_photo(path)[0].digest: path.read_bytes() for path in folder.rglob("*.png")}
    together = [*found["train"], *found["val"]]
    assert {name.partition(".")[0]: data for name, data in together} == photos  # byte for byte
    assert len(together) == len(photos)
    for name, _ in found["val"]:
        assert int(name[:13], 16) / 16**13 < 0.3
    with tarfile.open(sides["train"][0].url) as plain:
        assert len(plain.getnames()) == sides["train"][0].photos


def test_every_ending_is_written_and_read(tmp_path: Path) -> None:
    root = tmp_path / "photos"
    root.mkdir()
    endings = [suffix.upper() if number % 2 else suffix for number, suffix in enumerate(SUFFIXES)]
    for seed, suffix in enumerate(endings):
        kind = next(name for name, suffixes in FORMATS.items() if suffix.lower() in suffixes)
        picture(90, 80, seed).save(root / f"{seed}{suffix}", kind)
    assert main(["shard", str(root), "-o", str(tmp_path / "shards"), "--val-fraction", "0.3"]) == 0
    sides = find_shards(str(tmp_path / "shards"))
    files = [file for shards in sides.values() for shard in shards for file in read_shard(shard)]
    assert sorted(Path(name).suffix for name, _ in files) == sorted(SUFFIXES)
    assert {data for _, data in files} == {path.read_bytes() for path in root.iterdir()}


def test_tiny_pictures_are_left_out(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """If only tiny pictures were held out, validation would have nothing to measure."""
    root = tmp_path / "photos"
    root.mkdir()
    for seed in range(8):
        picture(90, 80, seed).save(root / f"{seed}.png")
        picture(31, 40, seed).save(root / f"tiny {seed}.png")
    assert main(["shard", str(root), "-o", str(tmp_path / "shards"), "--val-fraction", "0.3"]) == 0
    assert "left out: 8 copies or photos under 32 px, 0 broken files" in capsys.readouterr().out
    sides = find_shards(str(tmp_path / "shards"))
    assert sum(shard.photos for side in sides.values() for shard in side) == 8


def test_folders_of_any_name(made: Path, tmp_path: Path) -> None:
    odd = made.rename(tmp_path / "a {b,c}.tar x = [2026] 猫")
    shards = find_shards(str(odd))
    assert [list(read_shard(shard)) for side in shards.values() for shard in side]


def test_broken_copied_and_large_files(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = tmp_path / "photos"
    root.mkdir()
    for seed in range(6):
        picture(90, 80, seed).save(root / f"{seed}.png")
    shutil.copy(root / "0.png", root / "copy.png")
    (root / "broken.jpg").write_bytes(b"\xff\xd8\xff")
    picture(200, 150, 9).save(root / "large.png")
    code = main(["shard", str(root), "-o", str(tmp_path / "to"), "--side", "100", "--val-fraction", "0.5"])
    printed = capsys.readouterr()
    assert code == 1
    assert "broken.jpg" in printed.err
    assert "left out: 1 copies or photos under 32 px, 1 broken files" in printed.out
    sides = find_shards(str(tmp_path / "to"))
    files = dict(file for side in sides.values() for shard in side for file in read_shard(shard))
    assert len(files) == 7
    (shrunk,) = [data for name, data in files.items() if name.endswith(".jpg")]
    (tmp_path / "shrunk.jpg").write_bytes(shrunk)
    assert read_photo(tmp_path / "shrunk.jpg")[0].side == 100


def test_making_shards_resumes(
    folder: Path, made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["shard", str(folder), "-o", str(tmp_path / "again"), "--photos", "4", "--val-fraction", "0.3"]
    chunks = 0

    def interrupted(*args: Any) -> Any:
        nonlocal chunks
        chunks += 1
        if chunks == 2:
            raise KeyboardInterrupt
        return original(*args)

    original = shards.read_all
    monkeypatch.setattr(shards, "read_all", interrupted)
    assert main(command) == 130
    with (tmp_path / "again" / "making.jsonl").open("a") as making:
        making.write('{"cut')
    monkeypatch.setattr(shards, "read_all", original)
    assert main(command) == 0
    assert "1 of 3 pairs of shards exist already" in capsys.readouterr().out
    assert contents(tmp_path / "again") == contents(made)
    assert main([*command[:-1], "0.4"]) == 2
    assert "contains shards of other photos, or shards from other options" in capsys.readouterr().err
    assert main(["shard", str(folder), "-o", str(folder)]) == 2
    assert "is not empty" in capsys.readouterr().err


def test_an_example_is_a_function_of_its_number(made: Path) -> None:
    """An example is the same if it is read in order, from the middle, or in the part of a batch of one rank."""

    def batch(reader: Regions, numbers: list[int]) -> NDArray[np.uint8]:
        high = reader.__getitems__(numbers)
        assert isinstance(high, torch.Tensor)
        return high.numpy()

    total = 40  # batches: several epochs and several passes over the photos
    reader = regions(made)
    inside = [4 * number for number in range(total)]
    expected = [batch(reader, list(range(first, first + 4))) for first in inside]
    middle = regions(made)
    for number in (17, 18, 19, 33, 5):
        assert np.array_equal(batch(middle, list(range(4 * number, 4 * number + 4))), expected[number])
    ranks = [regions(made), regions(made)]
    for first, whole in zip(inside, expected, strict=True):
        halves = [batch(ranks[rank], list(range(first + 2 * rank, first + 2 * rank + 2))) for rank in (0, 1)]
        assert np.array_equal(np.concatenate(halves), whole)
    assert not np.array_equal(batch(regions(made, seed=2), [0, 1, 2, 3]), expected[0])


def test_a_pass_shows_all_photos_equally_often(made: Path) -> None:
    reader = opened(made, batch_size=2)
    photos = sum(shard.photos for shard in reader.shards)
    files = [reader._files(place, 0) for place in range(2)]
    shown = [next(files[place])[0] for _ in range(60) for place in range(2)]
    counts = {name: shown.count(name) for name in shown}
    assert len(counts) == photos
    assert max(counts.values()) - min(counts.values()) <= 4  # the streams of a pass differ in length


@pytest.mark.parametrize("workers", [0, 2])
def test_workers_make_parts_of_each_batch(made: Path, workers: int) -> None:
    reader = regions(made)
    expected = [reader.__getitems__(list(range(first, first + 4))) for first in range(0, 24, 4)]
    loader = ResumableLoader(regions(made), reader.source.plan, 0, 1, workers, in_parts=True)  # type: ignore[attr-defined]
    assert len(loader) == 6
    assert loader.batch_size == 4 // (workers or 1)
    for batch, high in zip(loader, expected, strict=True):
        assert torch.equal(batch, high)
    loader.begin_after = 4
    assert torch.equal(next(iter(loader)), expected[4])


def test_unusable_photos_are_replaced_by_the_next(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    root = tmp_path / "photos"
    root.mkdir()
    for seed in range(8):
        picture(90, 80 if seed % 2 else 40, seed).save(root / f"{seed}.png")
    assert main(["shard", str(root), "-o", str(tmp_path / "to"), "--val-fraction", "0.2"]) == 0
    good = opened(tmp_path / "to", batch_size=1, crop=64)
    shapes = {tuple(level[0].shape[:2]) for level, _ in zip(good._usable(0, 0), range(12), strict=False)}
    assert shapes == {(80, 90)}
    nothing = opened(tmp_path / "to", batch_size=1, crop=128)
    with pytest.raises(InputError, match=r"photos in a row are damaged or under data.crop=128 px"):
        next(nothing._usable(0, 0))


def test_training_on_shards(run: Runner, made: Path, folder: Path) -> None:
    words = ["data=shards", f"data.urls={made}", "data.uses=2", "optimizer.schedule=constant"]
    whole = run(*words, name="whole")
    assert whole.code == 0, whole.stderr
    assert "photos to train on" in whole.log
    assert whole.metrics["val/psnr"] > 20
    assert run(*words, "trainer.max_epochs=1", name="resumed").code == 0
    resumed = run(*words, "ckpt_path=last", name="resumed")
    assert resumed.metrics["steps"] == whole.metrics["steps"] == 4
    weights = [load_weights(each.folder / "upscaler_64to128.pt")[0].state_dict() for each in (whole, resumed)]
    assert all(torch.equal(value, weights[1][name]) for name, value in weights[0].items())
    other = run("data=shards", f"data.urls='{made}/train-{{000000..000001}}.tar'", f"data.val_root={folder}", name="b")
    assert other.code == 0, other.stderr
    workers = run(*words, "data.num_workers=2", name="workers")
    assert (workers.folder / "upscaler_64to128.pt").exists()
    for name in ("val/psnr", "val/ssim"):
        assert workers.metrics[name] == whole.metrics[name]


@pytest.mark.parametrize("harm", ["missing", "cut in a photo", "cut between photos", "no tar"])
@pytest.mark.parametrize("workers", [0, 2])
def test_the_error_of_a_broken_shard(run: Runner, made: Path, harm: str, workers: int) -> None:
    shard = Path(find_shards(str(made))["train"][0].url)
    if harm == "missing":
        shard.unlink()
    elif harm == "no tar":
        shard.write_bytes(b"hello" * 300)
    else:
        with tarfile.open(shard) as tar:
            last = tar.getmembers()[-1]
        shard.write_bytes(shard.read_bytes()[: last.offset if harm == "cut between photos" else last.offset_data + 99])
    result = run(
        "data=shards", f"data.urls={made}", "data.uses=1", "trainer.max_epochs=30", f"data.num_workers={workers}"
    )
    assert result.code == 2
    errors = result.stderr[result.stderr.index("error: ") :]
    assert str(shard) in errors
    assert "Traceback" not in errors
    assert "When the cause is fixed, resume this run: " in errors


@pytest.mark.parametrize(("urls", "message"), [
    ("nowhere", "the list of the shards, cannot be read (No such file or directory)"),
    ("[]", "or some of its tar files; got []"),
    ("'{made}/train-{{000000..000009}}.tar'", "index.json (3 training shards, train-000000.tar to train-000002.tar)"),
    ("", "data=shards needs the output of upscale-lit shard"),
])  # fmt: skip
def test_missing_shards(run: Runner, made: Path, urls: str, message: str) -> None:
    result = run("data=shards", *([f"data.urls={urls.format(made=made)}"] if urls else []))
    assert result.code == 2
    assert message in result.stderr


@pytest.fixture
def server(made: Path) -> Iterator[str]:
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=str(made))
    handler.log_message = lambda *args: None  # type: ignore[attr-defined]
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as serving:
        threading.Thread(target=serving.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{serving.server_port}"
        serving.shutdown()


@pytest.mark.skipif(shutil.which("curl") is None, reason="webdataset reads URLs by curl")
def test_shards_on_a_server(made: Path, server: str) -> None:
    here, there = find_shards(str(made)), find_shards(server)
    assert [list(read_shard(shard)) for shard in there["train"]] == [list(read_shard(shard)) for shard in here["train"]]
    some = find_shards(f"pipe:curl -s -f {server}/train-{{000000..000001}}.tar")
    assert [shard.url for shard in some["train"]] == [f"pipe:curl -s -f {server}/train-00000{n}.tar" for n in (0, 1)]
    assert list(read_shard(some["val"][0])) == list(read_shard(here["val"][0]))
    made.joinpath("train-000000.tar").unlink()
    with pytest.raises(ShardError, match=r"train-000000\.tar cannot be read"):
        list(read_shard(some["train"][0]))


def test_without_the_library(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "webdataset", None)
    with pytest.raises(InputError, match=r'pip install "upscale-lit\[shards\]"'):
        list(shards.write_shards(folder, tmp_path / "to", 4, 1024, None))
