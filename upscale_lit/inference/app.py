"""The page of `upscale-lit app`: drop a picture, and compare and download the result (the extra `app`).

The page is served to this computer only. Uploads and results are in a private folder, which is deleted at the end.
"""

import importlib.util
import os
import shutil
import signal
import tempfile
import threading
import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import quote

from PIL import Image

from upscale_lit.errors import InputError, shown
from upscale_lit.inference.choose import Network
from upscale_lit.inference.comparison import comparison, is_lossless
from upscale_lit.inference.jobs import result_name
from upscale_lit.inference.pictures import make_room, read_picture, save_picture
from upscale_lit.inference.runner import Runner
from upscale_lit.inference.upscaler import device_of
from upscale_lit.pages.page import encoded, render

HOST = "127.0.0.1"
# The signals that end the app, in addition to Ctrl-C: that of `kill`, and that of a closed terminal.
ENDING = [getattr(signal, name) for name in ("SIGTERM", "SIGHUP") if hasattr(signal, name)]
OLDEST = 3600  # seconds after which uploads and results are deleted, when the next picture is upscaled
AUTOMATIC = "from the file's header"


class StoppedError(Exception):
    """A visitor has pressed the button Stop."""


class App:
    """The work behind the page. Pictures are upscaled one after another.

    models: name -> networks, for the list of the page. folder: a private folder for results.
    device, fp32: see Upscaler.
    """

    def __init__(self, models: Mapping[str, Sequence[Network]], folder: Path, device: str, fp32: bool) -> None:
        self.models, self.folder, self.device, self.fp32 = models, folder, device, fp32
        self._stops: dict[str, threading.Event] = {}  # visitor with work to do -> whether it shall stop
        self._runners: dict[tuple[str, int, str], Runner] = {}

    def expect(self, visitor: str) -> None:
        """Note that a visitor has asked for work, which may begin later."""
        self._stops.setdefault(visitor, threading.Event())

    def stop(self, visitor: str) -> None:
        """Stop the work of a visitor, or prevent it if it has not begun."""
        if event := self._stops.get(visitor):
            event.set()

    def runner(self, model: str, scale: int, restore: str) -> Runner:
        """Return the networks for a choice. Raises InputError if they do not reach the scale."""
        key = model, scale, restore
        if key not in self._runners:
            amount = None if restore == AUTOMATIC else float(restore)
            self._runners[key] = Runner(self.models[model], scale, 0, self.device, self.fp32, amount)
        return self._runners[key]

    def upscale(
        self, source: Path, model: str, scale: int, restore: str, visitor: str, progress: Any
    ) -> tuple[str, Path, list[str]]:
        """Upscale a file. Return the comparison as HTML, the path of the result, and sentences on what was not kept.

        Raises InputError for a bad or too large picture, and StoppedError.
        """
        self.expect(visitor)
        folder = self.folder / uuid.uuid4().hex  # the name cannot be guessed
        try:
            self._delete_old()
            return self._upscale(source, folder, model, scale, restore, self._stops[visitor], progress)
        except BaseException:
            shutil.rmtree(folder, ignore_errors=True)
            raise
        finally:
            del self._stops[visitor]

    def _delete_old(self) -> None:
        for path in self.folder.glob("*/"):
            if time.time() - path.stat().st_mtime > OLDEST:
                shutil.rmtree(path, ignore_errors=True)

    def _upscale(
        self, source: Path, folder: Path, model: str, scale: int, restore: str, stop: threading.Event, progress: Any
    ) -> tuple[str, Path, list[str]]:
        begin = time.monotonic()

        def advance(part: float, words: str = "Upscaling") -> None:
            if stop.is_set():
                raise StoppedError
            progress(part, desc=words)

        advance(0)  # the visitor may have stopped while other visitors came first
        runner = self.runner(model, scale, restore)
        picture, notes = read_picture(source)
        target = folder / result_name(source, f"_x{scale}", None)
        make_room(target, (picture.width * scale, picture.height * scale))
        result = runner.upscale(picture, advance)
        notes += save_picture(result, target)
        caption = f"{shown(Path(source.name))}: {runner.facts(picture, result)}, {time.monotonic() - begin:.1f} s"
        layers = runner.layers(picture, result, partial(advance, words="Preparing the comparison"))

        def store(name: str, image: Image.Image, lossless: bool) -> str:
            data, ending = encoded(image, lossless)
            path = folder / f"{uuid.uuid4().hex}.{ending}"
            path.write_bytes(data)
            return f"/gradio_api/file={quote(str(path))}"

        made = comparison(target.name, layers, [caption], store, "", is_lossless(target))
        return render("figure.html", comparison=made), target, notes


@contextmanager
def private_folder() -> Iterator[Path]:
    """Yield a folder that only this user can read. It is deleted at the end, also after Ctrl-C, SIGTERM and SIGHUP."""
    before = {number: signal.signal(number, signal.default_int_handler) for number in ENDING}
    try:
        with tempfile.TemporaryDirectory(prefix="upscale_lit_") as name:
            yield Path(name)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def serve(
    models: Mapping[str, Sequence[Network]], port: int, device: str, fp32: bool, opened: bool, largest: int
) -> None:
    """Serve the page until Ctrl-C or SIGTERM, and print its address.

    models, device, fp32: see App. opened: whether to open the page in a browser. largest: the size in bytes above which
    uploads are refused.
    Raises InputError if gradio is missing, if the device is not available, or if the port is taken.
    """
    if importlib.util.find_spec("gradio") is None:
        raise InputError(
            'The app needs gradio, which is not installed: pip install "upscale-lit[app]". In a clone of the '
            'repository: pip install -e ".[app]".'
        )
    device_of(device)  # a wrong device ends the command before the first visitor
    with private_folder() as folder:
        # gradio reads these variables when it is imported, and httpx when gradio asks its own server for an answer.
        os.environ |= {
            "GRADIO_TEMP_DIR": str(folder), "GRADIO_ANALYTICS_ENABLED": "False", "HF_HUB_DISABLE_TELEMETRY": "1",
            "HF_HUB_OFFLINE": "1", "NO_PROXY": HOST, "no_proxy": HOST,
        }  # fmt: skip
        from upscale_lit.inference.app_page import launch

        try:
            page, address = launch(App(models, folder, device, fp32), port, opened, largest)
        except OSError as error:
            raise InputError(
                f"The port {port} must be free; got one that another program uses, or that needs an administrator. "
                f"Give another one: upscale-lit app --port {7870 if port < 7870 else 7860}"
            ) from error
        print(f"The app is at {address} (for this computer only). Ctrl-C ends it.", flush=True)
        try:
            threading.Event().wait()
        except KeyboardInterrupt:
            pass
        finally:
            page.close(verbose=False)
