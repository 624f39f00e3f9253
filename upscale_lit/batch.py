"""Many files upscaled one after the other: each named, none overwritten, a broken one passed by."""

import os
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TaskProgressColumn, TextColumn, TimeRemainingColumn

from upscale_lit import chains
from upscale_lit.errors import InputError, shown
from upscale_lit.photos import SUFFIXES
from upscale_lit.pictures import format_of, make_room, on_white, read_picture, save_picture, shallow
from upscale_lit.sources import find_photos
from upscale_lit.upscaler import Upscaler, device_of

CAPTION = 24  # px of height over the two pictures of a sheet


@dataclass(frozen=True)
class Job:
    """A picture, and the file that it becomes."""

    source: Path
    target: Path

    @property
    def sheet(self) -> Path:
        return self.target.with_stem(f"{self.target.stem}_sheet")


@dataclass(frozen=True)
class Settings:
    """How pictures are upscaled and written; see `upscale-lit upscale --help`."""

    scale: int
    tile: int = 0
    device: str = "auto"
    fp32: bool = False
    quality: int = 95
    strip: bool = False
    sheet: bool = False
    skip_existing: bool = False


def plan(
    inputs: Sequence[Path], out: Path | None, suffix: str, ext: str | None, recursive: bool
) -> tuple[list[Job], list[str]]:
    """(what becomes what, in the order given; folders that cannot be read, in sentences).

    out: a file for one input that is a file, else a folder; None: beside each file, and for a folder one beside it,
    named with the suffix. Below a folder its tree is kept. Raises InputError when nothing is there to upscale.
    """
    file = None
    if Path(f"a{suffix}").name != f"a{suffix}":
        raise InputError(f"--suffix is a part of a file's name; found {suffix!r}. Name a folder with -o.")
    if out is not None and out.suffix.lower() in Image.registered_extensions() and not out.is_dir():
        file, kind = out, format_of(out)
        if len(inputs) > 1 or inputs[0].is_dir():
            raise InputError(f"-o {out} names a file, but there is more than one picture to write; name a folder.")
        if ext and kind != format_of(Path(f"a.{ext}")):
            raise InputError(f"-o {out} and --ext {ext} ask for different formats; leave one of them out.")
    jobs: dict[str, Job] = {}
    troubles: list[str] = []
    for given in inputs:
        if not given.is_dir():
            target = file or (out or given.parent) / _name(given, suffix, ext)
            jobs.setdefault(os.path.realpath(given), Job(given, target))
            continue
        named = given if given.name not in ("", "..") else given.resolve()
        folder = out or named.with_name(named.name + suffix)
        made, read = folder.resolve(), given.resolve()
        if made == read and not suffix:
            raise InputError(f"The pictures of {given} would be written over themselves; name another folder with -o.")
        for path in _pictures(given, recursive, troubles):
            if made == read or made not in path.resolve().parents:  # else an earlier run made it
                target = folder / path.relative_to(given).parent / _name(path, suffix, ext)
                jobs.setdefault(os.path.realpath(path), Job(path, target))
    if not jobs:
        what = "not even below it: --recursive was given" if recursive else "--recursive looks below it, too"
        raise InputError(f"There is no picture ({' '.join(SUFFIXES)}) in {', '.join(map(str, inputs))}; {what}.")
    return list(jobs.values()), troubles


def _pictures(folder: Path, recursive: bool, troubles: list[str]) -> list[Path]:
    if recursive:
        paths, others = find_photos(folder)
        troubles += [str(error) for error in others if error.kind in ("no permission", "unreadable")]
        return paths
    try:
        return sorted(
            path
            for path in folder.iterdir()
            if path.name.lower().endswith(SUFFIXES) and not path.name.startswith(".") and not path.is_dir()
        )
    except OSError as error:
        raise InputError(f"The folder {shown(folder)} cannot be read: {error.strerror}.") from error


def _name(source: Path, suffix: str, ext: str | None) -> str:
    known = source.suffix if source.suffix.lower() in SUFFIXES else ".png"
    return f"{source.stem}{suffix}{f'.{ext}' if ext else known}"


class Batch:
    """The work on planned files. networks: those to choose from, for each picture by its size."""

    def __init__(self, networks: Sequence[chains.Network], settings: Settings) -> None:
        self.settings = settings
        device_of(settings.device)  # before the first file
        self.ways = chains.ways(networks, settings.scale)
        self.upscalers: dict[chains.Way, Upscaler] = {}
        self.console = Console(soft_wrap=True, highlight=False, markup=False, emoji=False)
        self.errors = Console(stderr=True, soft_wrap=True, highlight=False, markup=False, emoji=False)

    def run(self, jobs: Sequence[Job], troubles: Sequence[str] = ()) -> bool:
        """Upscale and write; True when nothing failed.

        A line for each file, or a progress bar where there is a terminal; failures are named on stderr.
        """
        written, skipped, failed = 0, 0, len(troubles)
        for trouble in troubles:
            self.errors.print(trouble)
        terminal = sys.stdout.isatty()
        taken = {identity: job.source for job in jobs if (identity := _identity(job.source))}
        targets: dict[str, Path] = {}
        name = TextColumn("{task.description}", markup=False)
        columns = name, BarColumn(), TaskProgressColumn(), TimeRemainingColumn()
        with Progress(*columns, console=self.console, disable=not terminal) as progress:
            task = progress.add_task("", total=len(jobs))
            for number, job in enumerate(jobs):
                progress.update(task, description=shown(Path(job.source.name)), completed=number)
                if self.settings.skip_existing and os.path.exists(job.target):  # False for a name that is too long
                    skipped += 1
                    continue
                try:
                    self._refuse_overwriting(job, taken, targets)
                    begin = time.monotonic()
                    line, notes = self._upscale(job, partial(_advance, progress, task, number))
                    written += 1
                    if not terminal:
                        self.console.print(f"{line}, {time.monotonic() - begin:.1f} s")
                    for note in notes:
                        self.errors.print(f"{shown(job.source)}: {note}.")
                except InputError as error:
                    failed += 1
                    named = str(error).startswith(shown(job.source))
                    self.errors.print(str(error) if named else f"{shown(job.source)}: {error}")
                except MemoryError:
                    failed += 1
                    self.errors.print(f"{shown(job.source)}: the memory here is too small for it; upscale it in parts.")
            progress.update(task, completed=len(jobs))
        self.console.print(f"{written} written, {failed} failed" + (f", {skipped} skipped" if skipped else ""))
        return failed == 0

    def _refuse_overwriting(self, job: Job, taken: dict[tuple[int, int], Path], targets: dict[str, Path]) -> None:
        """Raises InputError where a picture to upscale, or one made before in this batch, would be written over."""
        for target in (job.target, job.sheet) if self.settings.sheet else (job.target,):
            if source := taken.get(_identity(target) or (-1, -1)):
                raise InputError(f"would be written over {shown(source)}, which is to be upscaled; set -o or --suffix.")
            other = targets.setdefault(os.path.normcase(os.path.realpath(target)), job.source)
            if other != job.source:
                raise InputError(
                    f"would be written over {target}, which {shown(other)} became; set another --ext or -o."
                )

    def _upscale(self, job: Job, progress: Callable[[float], None]) -> tuple[str, list[str]]:
        picture, notes = read_picture(job.source)
        way = chains.nearest(self.ways, min(picture.size))
        settings = self.settings
        if way not in self.upscalers:
            self.upscalers[way] = Upscaler.of(way, settings.tile, settings.device, settings.fp32)
            self.console.print(f"{settings.scale}x by {way}, on {self.upscalers[way].device}")
        width, height = (side * settings.scale for side in picture.size)
        make_room(job.target, (width, height))
        if settings.sheet:
            make_room(job.sheet, sheet_size(width, height))
        result = self.upscalers[way].enlarge(picture, progress)
        notes += save_picture(result, job.target, settings.quality, settings.strip)
        if settings.sheet:
            save_picture(sheet(picture, result, way.name), job.sheet, settings.quality, strip=True)
        size = f"{picture.width}x{picture.height} to {result.width}x{result.height}"
        return f"{shown(job.source)} -> {shown(job.target)}: {size} by {way.name}", notes


def _advance(progress: Progress, task: TaskID, number: int, part: float) -> None:
    progress.update(task, completed=number + part)


def _identity(path: Path) -> tuple[int, int] | None:
    """What tells a file from others, by whatever name; None where there is none."""
    try:
        status = os.stat(path)
    except OSError:
        return None
    return status.st_dev, status.st_ino


def sheet_size(width: int, height: int) -> tuple[int, int]:
    return 2 * width + 2, height + CAPTION


def sheet(picture: Image.Image, result: Image.Image, name: str) -> Image.Image:
    """Bicubic upscaling beside a result, at full size and with captions, 8 bits, RGB."""
    pair = [shallow(on_white(image)).convert("RGB") for image in (picture, result)]
    pair[0] = pair[0].resize(result.size, Image.Resampling.BICUBIC)
    whole = Image.new("RGB", sheet_size(*result.size), "white")
    draw = ImageDraw.Draw(whole)
    for number, (image, caption) in enumerate(zip(pair, ("bicubic", name), strict=True)):
        left = number * (result.width + 2)
        draw.text((left + 4, 2), caption, "black", ImageFont.load_default(16))
        whole.paste(image, (left, CAPTION))
    if result.mode.startswith("RGB") and "icc_profile" in result.info:
        whole.info["icc_profile"] = result.info["icc_profile"]
    return whole
