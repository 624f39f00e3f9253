"""Upscale one file after another.

Each file is reported, and a broken file is skipped. No source, and no earlier result of the batch, is overwritten.
"""

import os
import stat
import sys
import tempfile
import time
from argparse import Namespace
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from PIL import Image
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TaskProgressColumn, TextColumn, TimeRemainingColumn

from upscale_lit.data.photo import FORMATS
from upscale_lit.errors import InputError, shown
from upscale_lit.inference import choose
from upscale_lit.inference.comparison import record_of, write_comparison, write_index
from upscale_lit.inference.jobs import Job
from upscale_lit.inference.paths import STREAM, read_standard_input, special, write_standard_output
from upscale_lit.inference.pictures import make_room, read_picture, save_picture
from upscale_lit.inference.runner import Runner
from upscale_lit.inference.sheets import sheet, sheet_size
from upscale_lit.pages.page import check_page


class Batch:
    """A runner for the jobs of a plan, each of which upscales a file.

    networks: the available networks. The size of each picture decides which of the networks upscale this picture.
    scale: 2, 4 or 8.
    settings: the options that `upscale-lit upscale --help` lists.
    Raises InputError if the device is not available, if no networks reach the scale, or if they cannot restore.
    """

    def __init__(self, networks: Sequence[choose.Network], scale: int, settings: Namespace) -> None:
        self.settings = settings
        options = settings.tile, settings.device, settings.fp32, settings.restore
        self.runner = Runner(networks, scale, *options)
        self.announced: set[choose.Way] = set()
        self.written: dict[tuple[int, int] | None, Job] = {}
        self.console = Console(soft_wrap=True, highlight=False, markup=False, emoji=False)
        self.errors = Console(stderr=True, soft_wrap=True, highlight=False, markup=False, emoji=False)

    def run(self, jobs: Sequence[Job], troubles: Sequence[str] = ()) -> bool:
        """Upscale the pictures and write the results. Return whether nothing failed.

        On a terminal, the method shows a progress bar. Otherwise, the method prints a line for each file. Failures are
        printed to standard error.
        troubles: sentences about folders that cannot be read. Each of these sentences counts as a failure.
        """
        done, there, failed = 0, 0, len(troubles)
        for trouble in troubles:
            self.errors.print(trouble)
        if any(job.target == STREAM for job in jobs):  # standard output receives only the picture
            self.console = self.errors
        terminal = self.console.file.isatty()
        self.taken = {identity: job for job in jobs if (identity := _identity(job.source, sys.stdin))}
        name = TextColumn("{task.description}", markup=False)
        columns = name, BarColumn(), TaskProgressColumn(), TimeRemainingColumn()
        with (
            Progress(*columns, console=self.console, disable=not terminal) as progress,
            self._indexes(jobs) as unwritten,
        ):
            task = progress.add_task("", total=len(jobs))
            for number, job in enumerate(jobs):
                progress.update(task, description=shown(Path(job.source.name)), completed=number)
                # os.path.exists raises no error for a name that is too long.
                made = (job.target, record_of(job)) if self.settings.html else (job.target,)
                if self.settings.skip_existing and all(map(os.path.exists, made)):
                    there += 1
                    continue
                try:
                    self._refuse_overwriting(job)
                    begin = time.monotonic()
                    line, notes = self._upscale(job, partial(_advance, progress, task, number))
                    done += 1
                    self.written |= {
                        _identity(target): job for target in job.targets(self.settings.sheet, self.settings.html)
                    }
                    if not terminal:
                        self.console.print(f"{line}, {time.monotonic() - begin:.1f} s")
                    for note in notes:
                        self.errors.print(f"{job.named}: {note}.")
                except InputError as error:
                    failed += 1
                    named = str(error).lower().startswith(job.named.lower())
                    self.errors.print(str(error) if named else f"{job.named}: {error}")
                except MemoryError:
                    failed += 1
                    self.errors.print(f"{job.named}: There is too little memory for this picture. Upscale it in parts.")
            progress.update(task, completed=len(jobs))
        failed += len(unwritten)
        self.console.print(f"{done} written, {failed} failed" + (f", {there} skipped" if there else ""))
        return failed == 0

    def _refuse_overwriting(self, job: Job) -> None:
        """Raise InputError if the result would overwrite a source or an earlier result of this batch.

        `plan` gives each result a separate name, but some file systems treat two different names as the same name.
        """
        for target in job.targets(self.settings.sheet, self.settings.html):
            identity = _identity(target, sys.stdout)
            if identity and (source := self.taken.get(identity)):
                raise InputError(f"The result would overwrite {source.named}, which is a source. Set -o or --suffix.")
            if identity and (other := self.written.get(identity)):
                raise InputError(f"The result would overwrite {target}, the result for {other.named}. Set another -o.")

    def _upscale(self, job: Job, progress: Callable[[float], None]) -> tuple[str, list[str]]:
        begin = time.monotonic()
        picture, notes = _read(job.source)
        settings, runner, way = self.settings, self.runner, self.runner.way(picture)
        if way not in self.announced:
            self.announced.add(way)
            self.console.print(f"{runner.scale}x by {way}, on {runner.upscaler(picture).device}")
        width, height = (side * runner.scale for side in picture.size)
        with _file_of(job, picture.format) as target:
            make_room(target, (width, height))
            if settings.sheet:
                make_room(job.sheet, sheet_size(width, height))
            if settings.html:
                check_page(job.page)
            result = runner.upscale(picture, progress)
            notes += save_picture(result, target, settings.quality, settings.strip)
        facts = runner.facts(picture, result)
        if settings.sheet:
            save_picture(sheet(picture, result, way.name), job.sheet, settings.quality, strip=True)
        if settings.html:
            caption = f"{shown(Path(job.source.name))}: {facts}, {time.monotonic() - begin:.1f} s"
            write_comparison(job, runner.layers(picture, result, progress), [caption])
        made = "standard output" if job.target == STREAM else shown(job.target)
        return f"{job.named} -> {made}: {facts}", notes

    @contextmanager
    def _indexes(self, jobs: Sequence[Job]) -> Iterator[list[Path]]:
        """Write the page of each folder after the `with` block, even if Ctrl-C ends the block.

        Yield a list that then receives the pages which could not be written.
        """
        unwritten: list[Path] = []
        try:
            yield unwritten
        finally:
            for index in dict.fromkeys(job.index for job in jobs if job.index and self.settings.html):
                try:
                    check_page(index)
                    write_index(index, [job for job in jobs if job.index == index])
                except InputError as error:
                    unwritten.append(index)
                    self.errors.print(str(error))


def _read(source: Path) -> tuple[Image.Image, list[str]]:
    """Read a picture from a file or from standard input. Return the result of `read_picture`."""
    if source == STREAM:
        return read_picture(Path("standard input"), read_standard_input())
    if what := special(source):
        raise InputError(
            f"This is {what}, not a file. To read a picture from a stream, redirect the stream to standard input: "
            f"upscale-lit upscale - -o big.jpg < {shown(source)}"
        )
    return read_picture(source)


@contextmanager
def _file_of(job: Job, kind: str | None) -> Iterator[Path]:
    """Yield the path to write a result to. For standard output, this path is a temporary file.

    kind: the format of the source. A result for standard output has this format unless the job names another.
    """
    if job.target != STREAM:
        yield job.target
        return
    usual = FORMATS.get(kind or "", (".png",))[0]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, f"standard output{f'.{job.ext}' if job.ext else usual}")
        yield path
        write_standard_output(path.read_bytes())


def _advance(progress: Progress, task: TaskID, number: int, part: float) -> None:
    progress.update(task, completed=number + part)


def _identity(path: Path, stream: Any = None) -> tuple[int, int] | None:
    """Return the device and inode numbers, which are the same for all names of a file; None if there is no file.

    stream: the open file that the path STREAM stands for.
    """
    try:
        status = os.fstat(stream.fileno()) if path == STREAM and stream else os.stat(path)
    except OSError:
        return None
    return (status.st_dev, status.st_ino) if stat.S_ISREG(status.st_mode) else None
