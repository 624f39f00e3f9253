"""Which picture becomes which file: planned before anything is computed, so that no two become the same."""

import os
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from PIL import Image

from upscale_lit.data.listing import find_photos, list_photos, skipped
from upscale_lit.data.photo import MPO, SUFFIXES
from upscale_lit.errors import InputError, shown
from upscale_lit.inference.paths import STREAM, refuse_terminals
from upscale_lit.inference.pictures import format_of


@dataclass(frozen=True)
class Job:
    """A picture, and the file that it becomes. ext: the format of standard output; None for that of the picture."""

    source: Path
    target: Path
    ext: str | None = None

    @property
    def named(self) -> str:
        """The source, in words for the user."""
        return "standard input" if self.source == STREAM else shown(self.source)

    @property
    def sheet(self) -> Path:
        return self.target.with_stem(f"{self.target.stem}_sheet")

    def targets(self, sheet: bool) -> tuple[Path, ...]:
        return (self.target, self.sheet) if sheet else (self.target,)


def plan(
    inputs: Sequence[Path], out: Path | None, suffix: str, ext: str | None, recursive: bool, sheet: bool = False
) -> tuple[list[Job], list[str], list[Path]]:
    """(what becomes what, in the order given; folders that cannot be read, in sentences; files that are skipped).

    out: a file for one input that is a file, else a folder; None: next to each file, and for a folder one next to it,
    named with the suffix. Below a folder its tree is kept. STREAM as the input reads standard input; as out, and for
    that input None as well, it writes standard output. Pictures that would become one file keep their full names:
    a.jpg_x2.png, a.tif_x2.png. Raises InputError when nothing is there to upscale, or two pictures would still become
    one file, sheets included.
    """
    file = None
    if Path(f"a{suffix}").name != f"a{suffix}":
        raise InputError(f"--suffix must be a part of a file's name; got {suffix!r}. Name a folder with -o.")
    if out is not None and out.suffix.lower() in Image.registered_extensions() and not os.path.isdir(out):
        file, kind = out, format_of(out)
        if len(inputs) > 1 or os.path.isdir(inputs[0]):
            raise InputError(f"-o {out} names a file, but there is more than one picture to write; name a folder.")
        if ext and kind != format_of(Path(f"a.{ext}")):
            raise InputError(f"-o {out} and --ext {ext} ask for different formats; leave one of them out.")
    if STREAM in (*inputs, out):
        return [_streamed(inputs, out, file, ext)], [], []
    jobs: dict[str, Job] = {}
    troubles: list[str] = []
    others: list[Path] = []
    for given in inputs:
        if not os.path.isdir(given):
            target = file or (out or given.parent) / _name(given, suffix, ext)
            jobs.setdefault(os.path.realpath(given), Job(given, target))
            continue
        named = given if given.name not in ("", "..") else _real(given)
        folder = out or named.with_name(named.name + suffix)
        made, read = _real(folder), _real(given)
        if made == read and not suffix:
            raise InputError(f"The pictures of {given} would be written over themselves; name another folder with -o.")
        for path in _pictures(given, recursive, troubles, others):
            if made == read or made not in _real(path).parents:  # else an earlier run made it
                target = folder / path.relative_to(given).parent / _name(path, suffix, ext)
                jobs.setdefault(os.path.realpath(path), Job(path, target))
    if not jobs:
        what = "not even below it: --recursive was given" if recursive else "--recursive looks below it, too"
        what += f". {skipped(others)}" if others else ""
        raise InputError(f"There is no picture ({' '.join(SUFFIXES)}) in {', '.join(map(str, inputs))}; {what}.")
    by_place: dict[str, list[str]] = defaultdict(list)
    for job in jobs.values():
        by_place[_place(job.target)].append(job.source.name)
    for key, job in jobs.items():
        names = by_place[_place(job.target)]
        if 1 < len(names) == len(set(names)):
            jobs[key] = replace(job, target=job.target.with_name(_name(job.source, suffix, ext, full=True)))
    _refuse_clashes(jobs.values(), sheet)
    return list(jobs.values()), troubles, others


def _streamed(inputs: Sequence[Path], out: Path | None, file: Path | None, ext: str | None) -> Job:
    """The job when standard input is read or standard output is written. file: `out`, if it names a file."""
    if len(inputs) > 1 or os.path.isdir(inputs[0]):
        raise InputError(
            f"- stands for one picture, from standard input or to standard output; got {', '.join(map(str, inputs))}. "
            "Upscale one picture with it, or write files into a folder: -o FOLDER."
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
    return Path(os.path.realpath(path))  # unlike Path.resolve, for links in a circle, too


def _place(target: Path) -> str:
    """What is the same for two names of one new file."""
    return os.path.normcase(_real(target.parent) / target.name)


def _refuse_clashes(jobs: Iterable[Job], sheet: bool) -> None:
    """Raises InputError when two pictures would become the same file."""
    seen: dict[str, Job] = {}
    for job in jobs:
        for target in job.targets(sheet):
            if (other := seen.setdefault(_place(target), job)) is not job:
                raise InputError(
                    f"{other.named} and {job.named} would both become {shown(target)}. Upscale them one after the "
                    "other, with another -o or --suffix for each; nothing has been written."
                )


def _pictures(folder: Path, recursive: bool, troubles: list[str], others: list[Path]) -> list[Path]:
    """The pictures in a folder. Adds folders that cannot be read to `troubles`, and to `others` the other files."""
    if not recursive:
        paths, files = list_photos(folder)
        others += files
        return paths
    paths, errors = find_photos(folder)
    troubles += [str(error) for error in errors if error.kind in ("no permission", "unreadable")]
    others += [error.path for error in errors if error.kind == "other file"]
    return paths


def _name(source: Path, suffix: str, ext: str | None, full: bool = False) -> str:
    """A result's name. full: the source's ending is a part of it."""
    known = source.suffix if source.suffix.lower() in SUFFIXES else ".png"
    ending = f".{ext}" if ext else ".jpg" if known.lower() == MPO else known  # a single picture of an MPO is a JPEG
    return f"{source.name if full else source.stem}{suffix}{ending}"
