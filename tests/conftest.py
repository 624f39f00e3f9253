"""Fixtures and helpers: small generated pictures, and train.py run in the process of the tests."""

import atexit
import importlib
import importlib.util
import json
import os
import shutil
import struct
import subprocess
import sys
import traceback
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

os.environ["OMP_NUM_THREADS"] = "1"  # set before PyTorch is imported: test processes share the cores

from upscale_lit.data.low import LowPictures
from upscale_lit.data.module import UpscaleDataModule
from upscale_lit.data.sources import Folder, Sample
from upscale_lit.models import STAGES, Upsampler, Upsampler8x
from upscale_lit.weights import save_weights

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

TINY = [
    "trainer.max_epochs=2", "trainer.enable_progress_bar=false", "trainer.accelerator=cpu",
    "data.crop=32", "data.batch_size=2", "data.examples_per_epoch=4", "data.val_pairs=2",
]  # fmt: skip

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
# Chromium contacts servers of its own without these options, and root needs --no-sandbox.
BROWSER_OPTIONS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]


def picture(width: int, height: int, seed: int = 0) -> Image.Image:
    """Return an RGB picture with smooth colours and a few hard edges, on which upscalers differ."""
    random = np.random.default_rng(seed)
    y, x = np.mgrid[0:height, 0:width] / 17
    waves = [np.sin(x * a + y * b + c) for a, b, c in random.uniform(0.2, 2, (3, 3))]
    image = np.stack(waves, -1) * 90 + 128
    for _ in range(6):
        top, left = random.integers(0, height), random.integers(0, width)
        image[top : top + height // 4, left : left + width // 4] = random.integers(0, 256, 3)
    return Image.fromarray(image.clip(0, 255).astype(np.uint8))


def extra(*packages: str) -> Any:
    """Import the packages of an extra: a module, or a list of several. Without them the test is skipped, but not in CI.

    CI installs all extras and sets UPSCALE_LIT_ALL_EXTRAS.
    """
    needs(*packages)
    found = [importlib.import_module(name) for name in packages]
    return found[0] if len(found) == 1 else found


def needs(*packages: str) -> None:
    """Skip the test if packages of an extra are missing, but not in CI. Nothing is imported."""
    missing = [name for name in packages if importlib.util.find_spec(name) is None]
    if missing and not os.environ.get("UPSCALE_LIT_ALL_EXTRAS"):
        pytest.skip(f"{', '.join(missing)} is not installed")


def sample(name: str) -> Image.Image:
    """Return a photograph of scikit-image, such as chelsea."""
    from skimage import data

    return Image.fromarray(getattr(data, name)())


def png_chunk(name: bytes, content: bytes, checksum: bytes | None = None) -> bytes:
    """Return a chunk of a PNG. The checksum is right unless `checksum` is given."""
    check = struct.pack(">I", zlib.crc32(name + content)) if checksum is None else checksum
    return struct.pack(">I", len(content)) + name + content + check


def pets(root: Path) -> None:
    """Write a few pictures to `root` in the layout of the Oxford-IIIT Pet data set."""
    for part in ("images", "annotations"):
        (root / "oxford-iiit-pet" / part).mkdir(parents=True)
    for split, names in (
        ("trainval", ["Abyssinian_1 1 1 1", "american_bulldog_2 5 2 4"]),
        ("test", ["Bengal_9 6 1 2"]),
    ):
        (root / "oxford-iiit-pet" / "annotations" / f"{split}.txt").write_text("".join(f"{name}\n" for name in names))
        for name in names:
            picture(120, 100, len(name)).save(root / "oxford-iiit-pet" / "images" / f"{name.split()[0]}.jpg")


def made_by_pytest(path: Path) -> list[Path]:
    """Return the folders above `path` that pytest has made. Other users may not enter these folders."""
    return [parent for parent in path.parents if any(part.startswith("pytest-of-") for part in parent.parts)]


def user(*words: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    """Run train.py in a separate process."""
    env = {**os.environ, "COLUMNS": "200"}
    return subprocess.run(
        [sys.executable, str(ROOT / "train.py"), *words], cwd=cwd, env=env, capture_output=True, text=True, timeout=300
    )


def data_module(root: Path | None = None, **changes: Any) -> UpscaleDataModule:
    """Return a data module for the folder `root`, or for the sample photographs.

    changes: options of the data module, of its source, and of LowPictures.
    """
    options: dict[str, Any] = {
        "size": 64, "crop": 32, "region": [0, 1], "small": "skip", "batch_size": 4, "examples_per_epoch": 12,
        "val_pairs": 32, "num_workers": 0, "shown": 6, "seed": 1, "val_root": None, "cache": None, "factor": 2,
        "kernel": "bicubic", "degradation": None, "previous": (), **changes,
    }  # fmt: skip
    low = LowPictures(*(options.pop(name) for name in ("factor", "kernel", "degradation", "previous")))
    source: dict[str, Any] = {name: options.pop(name) for name in ("val_root", "cache")}
    fraction = {"val_fraction": options.pop("val_fraction", 0.3)}
    photos = Sample(**source) if root is None else Folder(root=str(root), **source, **fraction)
    return UpscaleDataModule(photos, low, **options)


@pytest.fixture(autouse=True)
def user_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Replace the user's cache folder, which platformdirs names, by a temporary folder."""
    path = tmp_path / "user cache"
    monkeypatch.setattr("platformdirs.user_cache_dir", lambda *args, **settings: str(path))
    return path


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Make a folder with twelve photos in nested folders."""
    root = tmp_path / "photos"
    (root / "more").mkdir(parents=True)
    for seed in range(12):
        picture(80 + seed, 72, seed).save((root / "more" if seed % 2 else root) / f"photo {seed}.png")
    return root


@pytest.fixture(scope="session")
def networks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make a folder with weights files of the three stages and of the stack. All are untrained: bicubic upscalers."""
    folder = tmp_path_factory.mktemp("networks")
    args = {"start": "bicubic", "batch_norm": "frozen"}
    for stage in STAGES.values():
        facts = {"model_args": args, "stage": stage, "factor": 2, "kernel": "bicubic"}
        save_weights(folder / f"upscaler_{stage}.pt", Upsampler(**args), facts)
    parts = {name: {"model": "Upsampler", "model_args": args} for name in STAGES}
    facts = {"model_args": parts, "stage": "64to512", "factor": 8, "kernel": "bicubic"}
    save_weights(folder / "upscaler_64to512.pt", Upsampler8x(), facts)
    return folder


class Run:
    """The result of one call of train.py: exit code, run folder and standard error."""

    def __init__(self, code: int, folder: Path, stderr: str) -> None:
        self.code, self.folder, self.stderr = code, folder, stderr

    def job(self, number: int) -> "Run":
        return Run(self.code, self.folder / str(number), self.stderr)

    @property
    def metrics(self) -> dict[str, Any]:
        return dict(json.loads((self.folder / "metrics.json").read_text()))

    @property
    def log(self) -> str:
        return (self.folder / "train.log").read_text()


def train_here(monkeypatch: pytest.MonkeyPatch, *words: str) -> int:
    """Run train.py in this process and return its exit code."""
    import train
    from upscale_lit.launch.callback import print_table

    in_order = sorted(words, key=lambda word: not word.startswith("-"))  # argparse needs options first
    monkeypatch.setattr(sys, "argv", ["train.py", *in_order])
    monkeypatch.setattr(sys, "path", [*sys.path])  # the program appends the working folder
    try:
        train.main()
    except SystemExit as stop:
        return int(stop.code or 0)
    except Exception:  # a bug in the program: Python would print the same traceback
        traceback.print_exc()
        return 1
    finally:
        atexit.unregister(print_table)  # otherwise pytest would print the tables of all sweeps at its end
    return 0


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., Run]:
    """Return a function that runs train.py: run("stage=64to128", name="a") returns a Run.

    The settings are tiny, and the run folder and checkpoints_dir are temporary. With "-m" the folder of the Run is the
    folder of the sweep, and job(0) is the first job.
    """
    monkeypatch.chdir(tmp_path)

    def call(*overrides: str, name: str = "run") -> Run:
        target = tmp_path / name
        where = "hydra.sweep.dir" if "-m" in overrides else "hydra.run.dir"
        defaults = [f"{where}='{target}'", f"checkpoints_dir={tmp_path / 'checkpoints'}", *TINY]
        capsys.readouterr()
        code = train_here(monkeypatch, *defaults, *overrides)
        return Run(code, target, capsys.readouterr().err)

    return call


@pytest.fixture(scope="session")
def chromium() -> Iterator[Any]:
    """Start a headless Chromium of the system. Without it, the test is skipped, but not in CI."""
    needs("playwright", "axe_playwright_python")
    if CHROMIUM is None and not os.environ.get("UPSCALE_LIT_ALL_EXTRAS"):
        pytest.skip("Chromium is not installed")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=BROWSER_OPTIONS)
        yield browser
        browser.close()


@pytest.fixture
def visit(chromium: Any) -> Iterator[Callable[..., Any]]:
    """Return a function that opens an address in a new session. The page fails its test after an error or a message.

    Every address that the page asks for is in the attribute `asked` of the page.
    """
    contexts, troubles = [], []

    def call(address: str, width: int = 1400, scheme: str = "light", **options: Any) -> Any:
        context = chromium.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme, **options)
        contexts.append(context)
        page = context.new_page()
        page.asked = []
        page.on("request", lambda request: page.asked.append(request.url))
        page.on("pageerror", lambda error: troubles.append(str(error)))
        page.on("console", lambda message: message.type == "error" and troubles.append(message.text))
        page.goto(address)
        return page

    yield call
    for context in contexts:
        context.close()
    assert troubles == []
