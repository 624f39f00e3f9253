"""Find the photos in a folder by the names of its files."""

import os
from collections import Counter
from collections.abc import Iterable
from itertools import filterfalse
from pathlib import Path

from upscale_lit.data.photo import SUFFIXES, PhotoError, unreadable
from upscale_lit.errors import InputError, shown


def list_photos(folder: Path) -> tuple[list[Path], list[Path]]:
    """Return the pictures in a folder and the other files in this folder, both sorted by path.

    A file is a picture if its name has the ending of a picture. Subfolders and hidden files are skipped.
    Raises InputError if the folder cannot be read.
    """
    try:
        files = sorted(path for path in folder.iterdir() if not path.name.startswith(".") and not path.is_dir())
    except OSError as error:
        raise InputError(f"The folder {shown(folder)} cannot be read: {error.strerror}.") from error
    return list(filter(_named_as_photo, files)), list(filterfalse(_named_as_photo, files))


def skipped(others: Iterable[Path]) -> str:
    """Return a message that counts the skipped files by the endings of their names, the most frequent ending first."""
    others = set(others)  # the user may name a folder twice
    endings = [shown(Path(path.suffix.lower())) if path.suffix else "without an ending" for path in others]
    counts = ", ".join(f"{count} {ending}" for ending, count in Counter(sorted(endings)).most_common())
    return f"{len(others)} {'file was' if len(others) == 1 else 'files were'} skipped: {counts}"


def find_photos(root: Path) -> tuple[list[Path], list[PhotoError]]:
    """Return all pictures in a folder and its subfolders, sorted by path, and the errors of unread files and folders.

    A file is a picture if its name has the ending of a picture. Hidden files and folders are skipped without an error,
    and so are the folders of the pictures in HTML pages: NAME_files next to NAME.html.
    Links are followed, but no folder is read twice.
    Raises InputError if `root` is not a folder.
    """
    if not os.path.isdir(root):  # Path.is_dir may raise an error if a parent folder must not be read
        found = "it is a file" if os.path.exists(root) else "there is nothing"
        raise InputError(f"There is no folder of photos at {shown(root)} ({found}). Name one with data.root=DIR.")
    paths: list[Path] = []
    troubles, seen = [], {os.stat(root)[1:3]}  # inode and device
    for folder, folders, names in os.walk(
        root, onerror=lambda error: troubles.append(unreadable(Path(error.filename), error)), followlinks=True
    ):
        below, files = ([Path(folder, name) for name in kind if not name.startswith(".")] for kind in (folders, names))
        below = [path for path in below if not _of_a_page(path)]
        folders.clear()
        for path in sorted(below, key=lambda path: (path.is_symlink(), path.name)):  # links after folders
            try:
                identity = os.stat(path)[1:3]
            except OSError as error:
                troubles.append(unreadable(path, error))
                continue
            if identity in seen:
                what = (
                    "the link leads to a folder that has been read" if path.is_symlink() else "the folder has been read"
                )
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


def _of_a_page(folder: Path) -> bool:
    page = f"{folder.name.removesuffix('_files')}.html"
    return folder.name.endswith("_files") and os.path.exists(folder.with_name(page))


def _named_as_photo(path: Path) -> bool:
    return path.name.lower().endswith(SUFFIXES)
