"""A cache of decoded photos: a file of pixels, which is mapped into memory, and an index of these pixels.

The cache has a separate folder for each folder of photos and each size at which photos are kept. It contains:

    index.jsonl        the name of the file of pixels, and then a line for each file of the folder of photos: its name,
                       size and modification time, and the position of its pixels or the error
    pixels-*.u8        the pyramids of the photos, one after another, uint8
    lock               a file that the process that writes keeps locked

A process only appends to the index and to the file of pixels, and writes the pixels of a photo before the line in the
index. Readers therefore need no lock, and a killed process loses only the photos that are not in the index yet.
A photo is decoded again if the size or the modification time of its file has changed.
"""

import contextlib
import errno
import hashlib
import json
import logging
import os
import re
import time
import uuid
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, replace
from itertools import islice
from pathlib import Path
from typing import Any

import platformdirs
from filelock import FileLock, Timeout
from rich import get_console
from rich.progress import track

from upscale_lit.data.mapped import Store
from upscale_lit.data.photo import Photo, PhotoError, read_photo
from upscale_lit.data.pyramid import Pixels
from upscale_lit.errors import InputError, shown

log = logging.getLogger(__name__)

FORMAT = 3  # the version of the cache's files and of the decoding; each version uses separate folders
COMMIT_SECONDS = 1.0  # the interval between commits: a kill loses only the work since the last commit


def default_folder() -> Path:
    """Return the folder of the cache that is used unless the user names another one."""
    return Path(platformdirs.user_cache_dir("upscale_lit", appauthor=False))


def load_photos(
    paths: Sequence[Path], root: Path, keep: int, cache: Path | None, limit: float
) -> tuple[list[Photo], list[PhotoError], Store]:
    """Decode the photos that are not in the cache yet. Return the photos, the errors, and the store of the pixels.

    The photos and the errors have the order of the paths. A file that cannot be used gives a PhotoError.
    root: the folder that contains the paths. keep: as in `read_photo`. cache: a folder, or None to use memory instead.
    limit: the largest total size of all folders of the cache, in GB.
    Raises InputError if the cache cannot be used or would exceed the limit. The cache keeps what was written by then.
    """
    found: dict[Path, Photo | PhotoError] = {}
    store: Store
    if cache is None:
        store = bytearray()
        for path, result in zip(paths, read_all(paths, keep), strict=True):
            if isinstance(result, PhotoError):
                found[path] = result
            else:
                photo, levels = result
                found[path] = replace(photo, offset=len(store))
                store += b"".join(level.data for level in levels)
    else:
        folder = _Folder(cache, root, keep)
        try:
            found = folder.load(paths, limit)
        except OSError as error:
            name = "Free space on this disk, or name" if error.errno == errno.ENOSPC else "Name"
            advice = f"{name} another folder with data.cache=DIR. data.cache=null keeps the photos in memory."
            trouble = f"The cache in {shown(folder.path)} cannot be used: {error.strerror or error}"
            raise InputError(f"{trouble}. {advice}") from error
        store = folder.pixels
    changing = "the file changed while it was read", "start again when the file is complete", False
    results = [found.get(path) or PhotoError(path, "unreadable", *changing) for path in paths]
    photos = [result for result in results if isinstance(result, Photo)]
    return photos, [result for result in results if isinstance(result, PhotoError)], store


def read_all(paths: Sequence[Path], keep: int | None) -> Iterator[tuple[Photo, list[Pixels]] | PhotoError]:
    """Read files with `read_photo` on all cores, and yield the results in the order of the paths.

    A file that cannot be used yields its PhotoError. In a terminal, a progress bar is shown.
    """
    console, cores = get_console(), os.cpu_count() or 1
    with ThreadPoolExecutor(cores) as pool:  # threads run in parallel: Pillow releases Python's lock while it decodes
        upcoming = (pool.submit(_read, path, keep) for path in paths)
        waiting = deque(islice(upcoming, 4 * cores))  # limits the number of decoded photos in memory
        for _ in track(paths, "Reading photos", console=console, transient=True, disable=not console.is_terminal):
            result = waiting.popleft().result()
            waiting.extend(islice(upcoming, 1))
            yield result


def _read(path: Path, keep: int | None) -> tuple[Photo, list[Pixels]] | PhotoError:
    try:
        return read_photo(path, keep)
    except PhotoError as error:
        return error


class _Folder:
    """The folder of a cache that holds the photos of one folder, `root`, at one size, `keep`."""

    def __init__(self, cache: Path, root: Path, keep: int) -> None:
        name = re.sub(r"[^\w-]+", "_", root.resolve().name)[:40]
        place = hashlib.sha256(os.fsencode(root.resolve()) + bytes([FORMAT])).hexdigest()[:12]
        self.cache, self.root, self.keep = cache, root, keep
        self.path = cache / f"{name}-{place}-{keep}px"
        self.index = self.path / "index.jsonl"
        self.pixels = self.path / "none"
        self.prefix = f"{root}{os.sep}"

    def load(self, paths: Sequence[Path], limit: float) -> dict[Path, Photo | PhotoError]:
        """Return the results of all files. `fill` decodes the files that are missing in the cache."""
        found = self.find(paths)
        # A photo that cannot be opened is not cached. If every readable photo is in the cache, nothing is written, and
        # the cache may be read-only.
        closed = {path: error for path in paths if path not in found and (error := _closed(path, self.keep))}
        if len(found) + len(closed) < len(paths):
            found = self.fill([path for path in paths if path not in closed], limit)
        return found | closed

    def find(self, paths: Sequence[Path]) -> dict[Path, Photo | PhotoError]:
        """Return the results of the files that have not changed since they were cached."""
        records = self._records()
        size = 0
        with contextlib.suppress(FileNotFoundError), open(self.pixels, "rb") as pixels:  # checks the permission
            size = pixels.seek(0, os.SEEK_END)
        found: dict[Path, Photo | PhotoError] = {}
        for path in paths:
            record = records.get(str(path).removeprefix(self.prefix))
            if record is None or record["state"] != _state(path):
                continue
            with contextlib.suppress(KeyError, TypeError):  # another program has changed the line
                if "trouble" in record:
                    found[path] = PhotoError(path, **record["trouble"])
                elif record["end"] <= size:  # false only if another program has truncated the pixels
                    found[path] = Photo(path=path, **{**record["photo"], "kept": tuple(record["photo"]["kept"])})
        return found

    def fill(self, paths: Sequence[Path], limit: float) -> dict[Path, Photo | PhotoError]:
        """Decode the files that are missing in the cache, and return the results of all files.

        Only one process decodes at a time, and the other processes wait.
        Raises OSError if the cache cannot be written, and InputError if the cache would exceed the limit in GB.
        """
        self.path.mkdir(parents=True, exist_ok=True)
        lock = FileLock(self.path / "lock")
        try:
            held = lock.acquire(timeout=0)
        except Timeout:
            log.info("Another run is reading the photos in %s. This run waits for the other run.", shown(self.root))
            held = lock.acquire()
        with held:
            found = self.find(paths)  # another run may have read photos in the meantime
            missing = [path for path in paths if path not in found]
            if not missing:
                return found
            log.info("Reading %d photos into %s.", len(missing), shown(self.path))
            began = time.monotonic()
            passing = self._append(missing, limit)
            log.info("Reading the photos took %.0f s.", time.monotonic() - began)
            return self.find(paths) | passing

    def _append(self, paths: Sequence[Path], limit: float) -> dict[Path, Photo | PhotoError]:
        """Decode photos and append them to the cache. Return the temporary errors, which are not cached."""
        if not self.pixels.exists():
            self.pixels = self.path / f"pixels-{uuid.uuid4().hex[:8]}.u8"
            self.pixels.touch()
            part = self.index.with_suffix(".part")
            part.write_text(json.dumps({"pixels": self.pixels.name, "root": str(self.root)}) + "\n")
            part.replace(self.index)
            for file in self.path.glob("pixels-*.u8"):  # a file of pixels whose index is lost
                if file != self.pixels:
                    file.unlink()
        passing: dict[Path, Photo | PhotoError] = {}
        states = [_state(path) for path in paths]  # taken before reading, so that the next run notices a later change
        lines: list[str] = []
        used = sum(file.stat().st_size for file in self.cache.glob("*/pixels-*.u8"))
        with open(self.pixels, "ab") as pixels, open(self.index, "a", newline="\n") as index:

            def commit() -> None:
                pixels.flush()
                os.fsync(pixels.fileno())
                index.write("".join(lines))
                index.flush()
                os.fsync(index.fileno())
                lines.clear()

            index.write("\n")  # ends a line that a killed run left incomplete
            committed = time.monotonic()
            results = zip(paths, states, read_all(paths, self.keep), strict=True)
            for number, (path, state, result) in enumerate(results):
                record: dict[str, Any] = {"name": str(path).removeprefix(self.prefix), "state": state}
                if isinstance(result, PhotoError):
                    if not result.lasting:
                        passing[path] = result
                        continue
                    record["trouble"] = {"kind": result.kind, "what": result.what, "remedy": result.remedy}
                else:
                    photo, levels = result
                    used += sum(level.nbytes for level in levels)
                    if used > limit * 1e9:
                        commit()
                        raise InputError(
                            f"The cache in {shown(self.cache)} has reached data.cache_limit={limit:g} GB, and "
                            f"{len(paths) - number} photos of {shown(self.root)} are not in the cache yet. Set a "
                            "higher data.cache_limit, use fewer photos, or delete folders of the cache that you no "
                            "longer need. data.cache=null keeps the photos in memory."
                        )
                    record["photo"] = asdict(replace(photo, offset=pixels.tell()))
                    del record["photo"]["path"]
                    pixels.writelines(level.data for level in levels)
                    record["end"] = pixels.tell()
                lines.append(json.dumps(record) + "\n")
                if time.monotonic() > committed + COMMIT_SECONDS:
                    commit()
                    committed = time.monotonic()
            commit()
        return passing

    def _records(self) -> dict[str, dict[str, Any]]:
        """Read the index, and return the newest record of each file by its name. Set `pixels` as the index says."""
        try:
            first, *lines = self.index.read_bytes().split(b"\n")
        except (FileNotFoundError, NotADirectoryError):
            return {}
        if not (head := _parsed(first, {"pixels": str})):
            return {}
        self.pixels = self.path / head["pixels"]
        # The last of the lines is empty or incomplete: the index ends with a line break, unless a run was killed.
        records = [record for line in lines[:-1] if (record := _parsed(line, {"name": str, "state": list}))]
        return {record["name"]: record for record in records}


def _parsed(line: bytes, fields: dict[str, type]) -> dict[str, Any] | None:
    """Parse a line of the index. Return None if the line is damaged or lacks a field of the given type."""
    try:
        value = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) and all(isinstance(value.get(k), t) for k, t in fields.items()) else None


def _closed(path: Path, keep: int) -> PhotoError | None:
    """Return the error of a file that cannot be opened, or None if the file can be opened."""
    if os.path.isfile(path) and os.access(path, os.R_OK):
        return None
    result = _read(path, keep)
    return result if isinstance(result, PhotoError) else None


def _state(path: Path) -> list[int] | None:
    """Return the size of a file in bytes and its modification time in ns, or None if the file cannot be examined.

    A file whose size and time are unchanged is taken as unchanged.
    """
    try:
        status = os.stat(path)
    except OSError:
        return None
    return [status.st_size, status.st_mtime_ns]
