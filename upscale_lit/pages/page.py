"""Write HTML pages that open from the disk: every script and style is inside, and nothing is loaded from a network."""

import base64
import hashlib
import os
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from io import BytesIO
from pathlib import Path
from typing import Any
from urllib.parse import quote

from markupsafe import Markup
from PIL import Image

from upscale_lit.errors import InputError, shown
from upscale_lit.files import atomic

QUALITY = 95  # of the WebP and JPEG pictures in pages
LARGEST = 16383  # px; WebP stores a side in 14 bits
FOLDER = Path(__file__).parent
GENERATOR = '<meta name="generator" content="upscale_lit">'
# The addresses of pictures that the content security policy of a page allows.
EMBEDDED, LINKED = "data:", "'self' file:"
# A function that stores a copy of a picture, (name, picture, whether without loss), and returns the copy's address.
Store = Callable[[str, Image.Image, bool], str]


@dataclass(frozen=True)
class Layer:
    """A version of a picture. name: the label. source: the address of the picture: a data: URL or a relative one."""

    name: str
    source: str


@dataclass(frozen=True)
class Comparison:
    """Versions of a picture, two of which are shown on both sides of a slider.

    title: the heading. width, height: the size in px at 100 %; smaller layers are enlarged to this size.
    captions: the paragraphs below the picture. left, right: the numbers of the layers that are shown first.
    heading, rows: a table below the captions. transparent: whether a checkerboard lies behind the picture.
    """

    title: str
    width: int
    height: int
    layers: Sequence[Layer]
    captions: Sequence[str] = ()
    left: int = 0
    right: int = -1
    heading: Sequence[str] = ()
    rows: Sequence[Sequence[str]] = ()
    transparent: bool = False


def embedded(name: str, image: Image.Image, lossless: bool) -> str:
    """Return a copy of a picture as a data: URL; see `encoded`."""
    data, ending = encoded(image, lossless)
    return f"data:image/{ending};base64,{base64.b64encode(data).decode()}"


def linked(page: Path) -> Store:
    """Return a function that writes copies to the folder PAGE_files next to a page, and returns relative URLs."""

    def store(name: str, image: Image.Image, lossless: bool) -> str:
        data, ending = encoded(image, lossless)
        path = files_of(page) / f"{name}.{ending}"
        with atomic(path) as part:
            part.write_bytes(data)
        return quote(path.relative_to(page.parent).as_posix(), errors="surrogateescape")

    return store


def files_of(page: Path) -> Path:
    """Return the folder of the pictures that a page links to."""
    return page.with_name(f"{page.stem}_files")


def encoded(image: Image.Image, lossless: bool) -> tuple[bytes, str]:
    """Return a copy of a picture, in the format `format_of_copy`: the bytes of a file without metadata, and its ending.

    image: mode L, LA, RGB or RGBA, in sRGB. lossless: whether every pixel must be equal. Otherwise, the quality is
    QUALITY.
    """
    image = image.copy()
    image.info = {}
    kind, file = format_of_copy(image, lossless), BytesIO()
    # method=2 takes a third of the time of the default, for files of equal size. Without loss, a higher "quality" only
    # takes more time.
    webp = {"lossless": lossless, "quality": 0 if lossless else QUALITY, "method": 2}
    image.save(file, kind, **{"WebP": webp, "JPEG": {"quality": QUALITY, "subsampling": 0}, "PNG": {}}[kind])
    return file.getvalue(), kind.lower()


def format_of_copy(image: Image.Image, lossless: bool) -> str:
    """Return the format in which pages show a picture: WebP, or for a larger side than LARGEST, JPEG or PNG."""
    if max(image.size) <= LARGEST:
        return "WebP"
    return "PNG" if lossless or image.mode in ("LA", "RGBA") else "JPEG"


def write_page(path: Path, template: str, **values: Any) -> None:
    """Write a page atomically. template: a file in the folder templates, which gets the values.

    Raises WriteError if the file cannot be written.
    """
    text = render(template, **values)
    with atomic(path) as part:
        part.write_text(text, encoding="utf-8", errors="surrogateescape")


def check_page(path: Path) -> None:
    """Raise InputError if a page would replace a file that this project has not written."""
    if not os.path.exists(path):
        return
    found = "a folder" if os.path.isdir(path) else "a file of another kind"
    with suppress(OSError), path.open("rb") as file:
        if GENERATOR.encode() in file.read(2000):
            return
    raise InputError(f"{shown(path)} must be a page of this program, or not exist; got {found}. Rename it first.")


def render(template: str, **values: Any) -> str:
    """Return a template with its values. Every value is escaped."""
    made: str = _environment().get_template(template).render(values)
    return made


def text(name: str) -> str:
    """Return the text of a file in this folder, such as compare.js."""
    return (FOLDER / name).read_text(encoding="utf-8")


@cache
def _environment() -> Any:
    from jinja2 import Environment, PackageLoader, StrictUndefined  # takes 30 ms, which most commands do not need

    environment = Environment(
        loader=PackageLoader("upscale_lit.pages"), autoescape=True, undefined=StrictUndefined, trim_blocks=True,
        lstrip_blocks=True,
    )  # fmt: skip
    style, script = Markup(text("page.css") + text("compare.css")), Markup(text("compare.js"))
    environment.globals |= {"style": style, "script": script, "generator": Markup(GENERATOR), "digest": _digest}
    return environment


def _digest(text: str) -> str:
    """Return the hash by which a content security policy allows an inline script or style."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"
