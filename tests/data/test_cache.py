import errno
import json
import os
import pickle
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import made_by_pytest, picture
from test_sources import Nobody

from upscale_lit.data import cache as cache_file
from upscale_lit.data.cache import default_folder, load_photos
from upscale_lit.data.listing import find_photos
from upscale_lit.data.mapped import Pictures
from upscale_lit.data.photo import Photo, PhotoError, read_photo
from upscale_lit.errors import InputError

KEEP = 50


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    return tmp_path / "cache"


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Return a list to which each decoded file adds its name."""
    names = []

    def read(path: Path, keep: int | None) -> Any:
        names.append(path.name)
        return read_photo(path, keep)

    monkeypatch.setattr(cache_file, "read_photo", read)
    return names


def load(root: Path, cache: Path | None, limit: float = 1.0) -> tuple[list[Photo], list[PhotoError], Pictures]:
    photos, errors, store = load_photos(find_photos(root)[0], root, KEEP, cache, limit)
    return photos, errors, Pictures(store, photos)


def check_pixels(photos: list[Photo], pictures: Pictures) -> None:
    assert len(photos) == len(pictures) > 0
    for number, photo in enumerate(photos):
        expected = read_photo(photo.path, KEEP)[1]
        assert pictures.shapes(number) == tuple(level.shape[:2] for level in expected)
        assert all(np.array_equal(pictures.level(number, at), level) for at, level in enumerate(expected))


@pytest.mark.parametrize("cached", [True, False])
def test_the_cache_returns_the_pixels_of_the_files(folder: Path, cache: Path, cached: bool) -> None:
    photos, errors, pictures = load(folder, cache if cached else None)
    assert [photo.path for photo in photos] == find_photos(folder)[0]
    assert not errors
    check_pixels(photos, pictures)
    again = pickle.loads(pickle.dumps(pictures))
    check_pixels(photos, again)
    assert cache.exists() == cached
    if cached:
        assert len(pickle.dumps(pictures)) < 2000  # workers get the name of the pixel file, not its content
        assert isinstance(pictures.pixels.base, np.memmap)


def test_a_warm_start_decodes_nothing(folder: Path, cache: Path, reads: list[str]) -> None:
    (folder / "empty.png").touch()
    (folder / "link.png").symlink_to(folder / "nothing.png")
    cold = load(folder, cache)
    assert len(reads) == 14
    del reads[:]
    index = next(cache.glob("*/index.jsonl")).read_bytes()
    warm = load(folder, cache)
    assert reads == ["link.png"]  # the broken link is tried again
    assert next(cache.glob("*/index.jsonl")).read_bytes() == index
    (folder / "link.png").unlink()
    del reads[:]
    assert warm[0] == cold[0]
    assert len(warm[1]) == 2
    assert [str(error) for error in warm[1]] == [str(error) for error in cold[1]]
    check_pixels(warm[0], warm[2])
    os.chdir(folder.parent)
    load(Path("photos"), cache)  # another path of the same folder
    (folder.parent / "link").symlink_to(folder)
    load(folder.parent / "link", cache)
    assert reads == []


def test_changed_files_are_read_again(folder: Path, cache: Path, reads: list[str]) -> None:
    (folder / "bad.png").write_text("not yet")
    load(folder, cache)
    del reads[:]
    changed, gone = folder / "photo 0.png", folder / "photo 2.png"
    time_before = changed.stat().st_mtime_ns
    picture(90, 90, 77).save(changed)
    os.utime(changed, ns=(time_before, time_before))  # the size alone shows the change
    os.utime(folder / "photo 4.png", ns=(1, 1))  # the time alone shows the change
    gone.unlink()
    picture(90, 91, 78).save(folder / "bad.png")
    photos, errors, pictures = load(folder, cache)
    assert sorted(reads) == ["bad.png", "photo 0.png", "photo 4.png"]
    assert not errors
    assert gone not in [photo.path for photo in photos]
    check_pixels(photos, pictures)


def test_other_sizes_and_folders_are_kept_apart(folder: Path, cache: Path, reads: list[str]) -> None:
    load(folder, cache)
    paths = find_photos(folder)[0]
    for keep in (40, 60):
        photos, _, store = load_photos(paths, folder, keep, cache, 1.0)
        assert {min(Pictures(store, photos).level(number).shape[:2]) for number in range(12)} == {keep}
    assert len(reads) == 36
    load(folder / "more", cache)
    assert len(reads) == 42
    assert len(list(cache.iterdir())) == 4


def test_errors_that_may_pass_are_tried_again(folder: Path, cache: Path, reads: list[str]) -> None:
    (folder / "link.png").symlink_to(folder / "later.png")
    assert "link.png: the link leads to no file" in str(load(folder, cache)[1][0])
    picture(80, 80).save(folder / "later.png")
    del reads[:]
    assert len(load(folder, cache)[0]) == 14
    assert sorted(reads) == ["later.png", "link.png"]


KILLED = """
import os, signal, sys
from pathlib import Path
from upscale_lit.data import cache
cache.COMMIT_SECONDS = 0.0
read, count = cache.read_photo, 0
class Stop(dict): pass
def read_all(paths, keep):
    for number, path in enumerate(paths):
        if number == 7:
            os.kill(os.getpid(), signal.SIGKILL)
        yield read(path, keep)
cache.read_all = read_all
root = Path(sys.argv[1])
cache.load_photos(sorted(root.rglob("*.png")), root, 50, Path(sys.argv[2]), 1.0)
"""


def test_a_kill_costs_the_unfinished_part_only(folder: Path, cache: Path, reads: list[str]) -> None:
    killed = subprocess.run([sys.executable, "-c", KILLED, folder, cache], timeout=60)
    assert killed.returncode == -9
    index = next(cache.glob("*/index.jsonl"))
    pixels = next(cache.glob("*/pixels-*.u8"))
    with open(index, "a") as lines, open(pixels, "ab") as stray:  # as if killed while writing both files
        lines.write('{"name": "photo 11.png", "state": [1')
        stray.write(b"half a pict")
    photos, _, pictures = load(folder, cache)
    assert len(reads) == 5
    assert len(photos) == 12
    check_pixels(photos, pictures)
    del reads[:]
    check_pixels(*load(folder, cache)[::2])
    assert reads == []


def test_missing_pixels_are_read_again(folder: Path, cache: Path, reads: list[str]) -> None:
    load(folder, cache)
    pixels = next(cache.glob("*/pixels-*.u8"))
    os.truncate(pixels, pixels.stat().st_size // 2)
    check_pixels(*load(folder, cache)[::2])
    assert 12 < len(reads) < 24
    pixels.unlink()
    del reads[:]
    check_pixels(*load(folder, cache)[::2])
    assert len(reads) == 12


SLOW = """
import os, sys, time
from pathlib import Path
from upscale_lit.data import cache
from upscale_lit.data.mapped import Pictures
def read(path, keep, read=cache.read_photo):
    time.sleep(0.2)
    os.write(1, path.name.encode() + b"\\n")  # a single call, since threads write at the same time
    return read(path, keep)
cache.read_photo = read
root = Path(sys.argv[1])
photos, _, store = cache.load_photos(sorted(root.rglob("*.png")), root, 50, Path(sys.argv[2]), 1.0)
pictures = Pictures(store, photos)
print(sum(int(pictures.level(number).sum()) for number in range(len(photos))), file=sys.stderr)
"""


def test_parallel_jobs_decode_each_photo_once(folder: Path, cache: Path) -> None:
    jobs = [
        subprocess.Popen(
            [sys.executable, "-c", SLOW, folder, cache], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        for _ in range(3)
    ]
    outputs = [job.communicate(timeout=60) for job in jobs]
    assert all(job.returncode == 0 for job in jobs), outputs
    decoded = [name for stdout, _ in outputs for name in stdout.splitlines()]
    assert len(decoded) == len(set(decoded)) == 12
    assert len({stderr for _, stderr in outputs}) == 1


def test_a_waiting_run_logs_the_reason(folder: Path, cache: Path, caplog: pytest.LogCaptureFixture) -> None:
    job = subprocess.Popen([sys.executable, "-c", SLOW, folder, cache], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    while not list(cache.glob("*/pixels-*.u8")):
        time.sleep(0.02)
    caplog.set_level("INFO")
    photos = load(folder, cache)[0]
    assert len(photos) == 12
    assert f"Another run is reading the photos in {folder}; waiting for it." in caplog.messages
    job.communicate(timeout=60)


def test_the_error_of_a_full_cache(folder: Path, cache: Path, reads: list[str]) -> None:
    message = rf"in {cache} has reached data.cache_limit=3e-05 GB, and (\d+) photos of {folder} are not in it yet"
    with pytest.raises(InputError, match=message) as caught:
        load(folder, cache, limit=0.00003)
    assert "10 photos" in str(caught.value)
    assert "data.cache=null" in str(caught.value)
    assert sum(file.stat().st_size for file in cache.glob("*/pixels-*.u8")) <= 30000
    del reads[:]
    assert len(load(folder, cache)[0]) == 12
    assert len(reads) == 10  # the cache has kept two photos


def test_a_cache_that_cannot_be_written(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match=r"cache in .*file.* cannot be used: Not a directory\. Name another folder"):
        load(folder, tmp_path / "file" / "cache")

    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(InputError, match=r"cannot be used: No space left on device\. Free space on this disk, or name"):
        load(folder, tmp_path / "cache")
    monkeypatch.undo()
    assert len(load(folder, tmp_path / "cache")[0]) == 12


def test_a_full_cache_may_be_read_only(folder: Path, cache: Path) -> None:
    load(folder, cache)
    for path in (*cache.rglob("*"), cache, *made_by_pytest(cache)):
        path.chmod(0o555 if path.is_dir() else 0o444)
    for path in folder.rglob("*"):
        path.chmod(0o755)
    try:
        with Nobody():
            check_pixels(*load(folder, cache)[::2])
    finally:
        for path in (*made_by_pytest(cache), cache, *cache.rglob("*")):
            path.chmod(0o755)


def test_the_index_names_the_folder_of_its_photos(folder: Path, cache: Path) -> None:
    load(folder, cache)
    head = json.loads(next(cache.glob("*/index.jsonl")).read_text().splitlines()[0])
    assert head["root"] == str(folder)
    assert next(cache.iterdir()).name.startswith("photos-")


def test_a_damaged_index_is_made_again(folder: Path, cache: Path, reads: list[str]) -> None:
    load(folder, cache)
    index = next(cache.glob("*/index.jsonl"))
    lines = index.read_text().splitlines()
    for damaged in (b"{}\n", b"[" * 5000 + b"\n", b'{"pixels": 3}\n', b"\xff\xfe\n", b""):
        index.write_bytes(damaged)
        check_pixels(*load(folder, cache)[::2])
        assert len(list(cache.glob("*/pixels-*.u8"))) == 1
    good = index.read_text().splitlines()
    assert len(good) == len(lines)
    del reads[:]
    state = json.loads(good[2])["state"]
    assert json.loads(good[2])["name"] == "more/photo 1.png"
    load(folder, cache)
    assert reads == []
    wrong = {"name": "more/photo 1.png", "state": state, "end": 0, "photo": {"kept": 3}}
    index.write_text("\n".join([*good, json.dumps(wrong)]) + "\n")
    check_pixels(*load(folder, cache)[::2])
    assert reads == ["photo 1.png"]
    good = index.read_text().splitlines()
    del reads[:]
    bad = ["{}", '{"name": []}', '{"name": "photo 0.png", "state": [1, 2]}', "null", "3", '{"name": "a", "state": {}}']
    index.write_text("\n".join([good[0], *bad, *good[1:]]) + "\n")
    check_pixels(*load(folder, cache)[::2])
    assert reads == []


def test_the_error_of_a_cache_of_another_user(folder: Path, cache: Path) -> None:
    load(folder, cache)
    for path in (folder, *made_by_pytest(folder), *folder.rglob("*")):
        path.chmod(0o755)
    inside = next(cache.iterdir())
    for closed in (inside, *inside.glob("pixels*"), *inside.glob("index*")):
        closed.chmod(0)
        with Nobody(), pytest.raises(InputError, match=r"cannot be used: Permission denied\. Name another folder"):
            load(folder, cache)
        closed.chmod(0o755)


def test_a_large_photo_is_kept_in_a_smaller_size(tmp_path: Path, cache: Path) -> None:
    picture(3000, 2000).save(tmp_path / "large.jpg")
    load(tmp_path, cache)
    size = sum(file.stat().st_size for file in cache.glob("*/pixels-*.u8"))
    assert size == KEEP * 75 * 3 + 35 * 53 * 3  # two levels: the next one would be under 32 px


def test_the_default_folder_is_the_cache_of_the_user(user_cache: Path) -> None:
    assert default_folder() == user_cache
