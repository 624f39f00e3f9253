"""Find the photos in a folder by the names of its files."""

import os
from collections import Counter
from collections.abc import Iterable
from itertools import filterfalse
from pathlib import Path

from upscale_lit.data.photo import SUFFIXES, PhotoError, unreadable
from upscale_lit.errors import InputError, shown


def list_photos(folder: Path) -> tuple[list[Path], list[Path]]:
    """Return the pictures directly in a folder, sorted, and its other files. The endings of names decide.

    Hidden files are skipped. Raises InputError if the folder cannot be read.
    """
    try:
        files = sorted(path for path in folder.iterdir() if not path.name.startswith(".") and not path.is_dir())
    except OSError as error:
        raise InputError(f"The folder {shown(folder)} cannot be read: {error.strerror}.") from error
    return list(filter(_named_as_photo, files)), list(filterfalse(_named_as_photo, files))


def skipped(others: Iterable[Path]) -> str:
    """Return a line that counts the skipped files by the endings of their names, the most frequent first."""
    others = set(others)  # folders may be named twice
    endings = [shown(Path(path.suffix.lower())) if path.suffix else "without an ending" for path in others]
    counts = ", ".join(f"{count} {ending}" for ending, count in Counter(sorted(endings)).most_common())
    return f"{len(others)} {'file was' if len(others) == 1 else 'files were'} skipped: {counts}"


def find_photos(root: Path) -> tuple[list[Path], list[PhotoError]]:
    """Return all pictures below a folder, sorted, and an error for each other file. The endings of names decide.

    Hidden files and folders are skipped. Links are followed, but no folder is read twice.
    Raises InputError if there is no such folder.
    """
    if not os.path.isdir(root):  # unlike Path.is_dir, False if a parent folder must not be read
        found = "it is a file" if os.path.exists(root) else "there is nothing"
        raise InputError(f"There is no folder of photos at {shown(root)} ({found}). Name one with data.root=DIR.")
    paths: list[Path] = []
    troubles, seen = [], {os.stat(root)[1:3]}  # inode and device
    for folder, folders, names in os.walk(
        root, onerror=lambda error: troubles.append(unreadable(Path(error.filename), error)), followlinks=True
    ):
        below, files = ([Path(folder, name) for name in kind if not name.startswith(".")] for kind in (folders, names))
        folders.clear()
        for path in sorted(below, key=lambda path: (path.is_symlink(), path.name)):  # links last
            try:
                identity = os.stat(path)[1:3]
            except OSError as error:
                troubles.append(unreadable(path, error))
                continue
            if identity in seen:
                what = "the link leads to a folder that has been read" if path.is_symlink() else "it has been read"
                troubles.append(PhotoError(path, "link", what, "remove the link, or keep it: no folder is read twice"))
            else:
                seen.add(identity)
                folders.append(path.name)  # os.walk reads the folders in this list
        paths.extend(filter(_named_as_photo, files))
        for path in filterfalse(_named_as_photo, files):
            suffix = f"files that end in {shown(Path(path.suffix))}" if path.suffix else "files without an ending"
            remedy = f"if it is a photo, save it as one of {' '.join(SUFFIXES)}"
            troubles.append(PhotoError(path, "other file", f"{suffix} are not read", remedy))
    return sorted(paths), troubles


def _named_as_photo(path: Path) -> bool:
    return path.name.lower().endswith(SUFFIXES)
