"""Plan which picture is upscaled into which file.

The plan is made before the first picture is upscaled, and refuses two pictures with the same target.
"""

import os
from collections import defaultdict
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from PIL import Image

from upscale_lit.data.listing import find_photos, list_photos, skipped
from upscale_lit.data.photo import MPO, SUFFIXES
from upscale_lit.errors import InputError, shown
from upscale_lit.inference.paths import STREAM, refuse_terminals
from upscale_lit.inference.pictures import format_of

INDEX = "index.html"  # the page of the results of a folder


@dataclass(frozen=True)
class Job:
    """A picture to upscale, and the file for the result.

    source: the path of the picture, or STREAM for standard input.
    target: the path of the result, or STREAM for standard output.
    ext: the ending, without a dot, of the format for standard output; None for the format of the source.
    index: the page of the results of a folder, to which this result belongs; None for a picture that is given itself.
    """

    source: Path
    target: Path
    ext: str | None = None
    index: Path | None = None

    @property
    def named(self) -> str:
        """The name of the source in messages."""
        return "standard input" if self.source == STREAM else shown(self.source)

    @property
    def sheet(self) -> Path:
        """The path of the sheet that compares the result with bicubic upscaling."""
        return self.target.with_stem(f"{self.target.stem}_sheet")

    @property
    def page(self) -> Path:
        """The path of the HTML page that compares the result with bicubic upscaling."""
        return self.index or self.target.with_suffix(".html")

    def targets(self, sheet: bool, html: bool) -> tuple[Path, ...]:
        """Return the paths of the files that only this job writes. sheet, html: whether it writes these."""
        return (self.target, *[self.sheet] * sheet, *[self.page] * (html and self.index is None))


def plan(
    inputs: Sequence[Path], out: Path | None, suffix: str, ext: str | None, recursive: bool, sheet: bool = False,
    html: bool = False,
) -> tuple[list[Job], list[str], list[Path]]:  # fmt: skip
    """Return the jobs in the order of the inputs, sentences about folders that cannot be read, and skipped files.

    inputs: files and folders, or STREAM to read a single picture from standard input.
    out: the place for the results. For a single file as the input, `out` may be a file with the ending of a picture.
        Otherwise, `out` is a folder. STREAM writes to standard output. With None, a result is written next to its
        source, the results for a folder go to a new folder next to it, and standard input goes to standard output.
    suffix: text after the name of each result, and after the name of the new folder next to an input folder.
    ext: the format of the results, such as "png"; None keeps the format of each source.
    recursive: include the subfolders of the input folders. The results are in the same subfolders of `out`.
    sheet, html: whether each job also writes a sheet or a page.

    If pictures would have the same target or page, the targets keep the endings of the sources: a.jpg_x2.png and
    a.tif_x2.png.
    Raises InputError if there is no picture, if the options contradict each other, or if two jobs still write the same
    file.
    """
    file = None
    if Path(f"a{suffix}").name != f"a{suffix}":
        raise InputError(f"--suffix must be a part of a file's name; got {suffix!r}. Name a folder with -o.")
    if out is not None and out.suffix.lower() in Image.registered_extensions() and not os.path.isdir(out):
        file, kind = out, format_of(out)
        if len(inputs) > 1 or os.path.isdir(inputs[0]):
            raise InputError(f"-o {out} names a file, but there can be several pictures. Name a folder with -o.")
        if ext and kind != format_of(Path(f"a.{ext}")):
            raise InputError(f"-o {out} and --ext {ext} ask for different formats. Omit one of them.")
    if STREAM in (*inputs, out):
        return [_streamed(inputs, out, file, ext)], [], []
    jobs: dict[str, Job] = {}
    troubles: list[str] = []
    others: list[Path] = []
    for given in inputs:
        if not os.path.isdir(given):
            target = file or (out or given.parent) / result_name(given, suffix, ext)
            jobs.setdefault(os.path.realpath(given), Job(given, target))
            continue
        named = given if given.name not in ("", "..") else _real(given)
        folder = out or named.with_name(named.name + suffix)
        made, read = _real(folder), _real(given)
        if made == read and not suffix:
            raise InputError(f"The results for {given} would overwrite their own sources. Name another folder with -o.")
        for path in _pictures(given, recursive, troubles, others):
            if made == read or made not in _real(path).parents:  # otherwise, `path` is an earlier result
                target = folder / path.relative_to(given).parent / result_name(path, suffix, ext)
                jobs.setdefault(os.path.realpath(path), Job(path, target, index=folder / INDEX))
    if not jobs:
        what = "--recursive found none in subfolders" if recursive else "--recursive searches subfolders, too"
        what += f". {skipped(others)}" if others else ""
        raise InputError(f"There is no picture ({' '.join(SUFFIXES)}) in {', '.join(map(str, inputs))}; {what}.")
    by_place: dict[str, list[str]] = defaultdict(list)
    for job in jobs.values():
        for target in job.targets(False, html):
            by_place[_place(target)].append(job.source.name)
    for key, job in jobs.items():
        shared = [by_place[_place(target)] for target in job.targets(False, html)]
        if any(1 < len(names) == len(set(names)) for names in shared):
            jobs[key] = replace(job, target=job.target.with_name(result_name(job.source, suffix, ext, full=True)))
    _refuse_clashes(jobs.values(), sheet, html)
    return list(jobs.values()), troubles, others


def _streamed(inputs: Sequence[Path], out: Path | None, file: Path | None, ext: str | None) -> Job:
    """Return the job that reads standard input or writes standard output.

    file: `out` if `out` names a file of a picture format, otherwise None.
    Raises InputError if there is more than one picture, or if a stream is closed or a terminal. Raises InputError as
    well if a picture from standard input would go to a folder.
    """
    if len(inputs) > 1 or os.path.isdir(inputs[0]):
        raise InputError(
            f"- stands for one picture, from standard input or to standard output; got {', '.join(map(str, inputs))}. "
            "Name a single picture, or write files into a folder: -o FOLDER."
        )
    target = file or out or STREAM
    if target not in (STREAM, file):
        raise InputError(
            f"A picture from standard input must go to a file or to standard output; got -o {out}. Name a file, such "
            "as -o big.png, or -o - for standard output."
        )
    refuse_terminals(reads=inputs[0] == STREAM, writes=target == STREAM)
    return Job(inputs[0], target, ext)


def _real(path: Path) -> Path:
    return Path(os.path.realpath(path))  # Path.resolve may raise an error for links in a circle


def _place(target: Path) -> str:
    """Return a text that is the same for all names of a file that may not exist yet."""
    return os.path.normcase(_real(target.parent) / target.name)


def _refuse_clashes(jobs: Collection[Job], sheet: bool, html: bool) -> None:
    """Raise InputError if two jobs would write the same file."""
    # The page of a folder belongs to several jobs, and no result may have its name.
    seen = {_place(job.index): shown(job.index.parent) for job in jobs if job.index and html}
    for job in jobs:
        for target in job.targets(sheet, html):
            if (other := seen.setdefault(_place(target), job.named)) != job.named:
                raise InputError(
                    f"The results for {other} and {job.named} would both be {shown(target)}. Nothing is written. "
                    "Run a separate command for each picture, with another -o or --suffix."
                )


def _pictures(folder: Path, recursive: bool, troubles: list[str], others: list[Path]) -> list[Path]:
    """Return the pictures in a folder.

    Append a sentence to `troubles` for each folder that cannot be read, and append the paths of other files to
    `others`.
    """
    if not recursive:
        paths, files = list_photos(folder)
        others += files
        return paths
    paths, errors = find_photos(folder)
    troubles += [str(error) for error in errors if error.kind in ("no permission", "unreadable")]
    others += [error.path for error in errors if error.kind == "other file"]
    return paths


def result_name(source: Path, suffix: str, ext: str | None, full: bool = False) -> str:
    """Return the file name of a result, such as photo_x2.jpg.

    suffix, ext: see `plan`. full: keep the ending of the source inside this name.
    """
    known = source.suffix if source.suffix.lower() in SUFFIXES else ".png"
    ending = f".{ext}" if ext else ".jpg" if known.lower() == MPO else known  # one picture of an MPO file is a JPEG
    return f"{source.name if full else source.stem}{suffix}{ending}"
