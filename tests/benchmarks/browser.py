"""Measure pages in a headless Chromium: python tests/benchmarks/browser.py [--picture FILE]

For a result of 2 megapixels, the program prints the size of the page next to that of the result. It prints the seconds
that `--html` adds, and the seconds until Chromium shows the picture. For the app, it prints the seconds from the upload
to the slider, and those of the command line. Each value is the median of five. --picture saves a screenshot instead.
"""

import argparse
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from PIL import Image
from playwright.sync_api import sync_playwright
from skimage import data as samples

from upscale_lit.tables import markdown_table

OPTIONS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update"]
UPSCALE = [sys.executable, "-m", "upscale_lit", "upscale"]
# Waits for the pictures that are shown. Hidden ones load only when they are needed.
DECODED = "Promise.all([...document.querySelectorAll('img:not([hidden])')].map((image) => image.decode()))"
SIDE = 724  # px; 2 * 724 squared is 2.1 megapixels


def seconds(work: Callable[[], Any]) -> float:
    """Return the median of the seconds of five calls."""
    times = []
    for _ in range(5):
        begin = time.perf_counter()
        work()
        times.append(time.perf_counter() - begin)
    return statistics.median(times)


def pages(browser: Any, folder: Path) -> str:
    rows = []
    for ending in ("jpg", "png"):
        low, high = folder / f"astronaut.{ending}", folder / f"astronaut_x2.{ending}"
        Image.fromarray(samples.astronaut()).resize((SIDE, SIDE)).save(low, quality=95)
        plain = seconds(lambda low=low: subprocess.run([*UPSCALE, low], check=True, capture_output=True))
        with_page = seconds(lambda low=low: subprocess.run([*UPSCALE, low, "--html"], check=True, capture_output=True))
        tab = browser.new_page(viewport={"width": 1400, "height": 900})

        def show(tab: Any = tab) -> None:
            tab.goto(f"file://{folder}/astronaut_x2.html")
            tab.evaluate(DECODED)

        size = (folder / "astronaut_x2.html").stat().st_size / high.stat().st_size
        rows.append([ending.upper(), f"{high.stat().st_size / 1e6:.2f} MB", f"{size:.2f}", f"{with_page - plain:.2f} s",
                     f"{seconds(show):.2f} s"])  # fmt: skip
    heading = ["result", "its file", "page / file", "`--html` adds", "until Chromium shows it"]
    return markdown_table(heading, rows)


def app(browser: Any, folder: Path) -> str:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    server = subprocess.Popen([sys.executable, "-m", "upscale_lit", "app", "--port", str(port)], stdout=subprocess.PIPE)
    assert server.stdout is not None
    server.stdout.readline()

    def visit() -> None:
        tab = browser.new_page()
        tab.goto(f"http://127.0.0.1:{port}/")
        tab.get_by_role("button", name="Upscale").wait_for()
        begin = time.perf_counter()
        with tab.expect_response(lambda response: "/upload?" in response.url):
            tab.locator("input[type=file]").set_input_files(folder / "astronaut.jpg")
        tab.get_by_text("astronaut").first.wait_for()
        tab.get_by_role("button", name="Upscale").click()
        tab.locator("compare-pictures .slider").wait_for()
        times.append(time.perf_counter() - begin)
        tab.close()

    times: list[float] = []
    seconds(visit)
    server.terminate()
    line = seconds(
        lambda: subprocess.run([*UPSCALE, folder / "astronaut.jpg", "--html"], check=True, capture_output=True)
    )
    rows = [["app, from the upload to the slider", f"{statistics.median(times):.2f} s"],
            ["`upscale-lit upscale photo.jpg --html`, the complete command", f"{line:.2f} s"]]  # fmt: skip
    return markdown_table(["", "seconds"], rows)


def screenshot(browser: Any, folder: Path, path: Path) -> None:
    """Save a screenshot: chelsea, halved and then upscaled by 4."""
    cat = Image.fromarray(samples.chelsea())
    cat.resize((cat.width // 2, cat.height // 2), Image.Resampling.BICUBIC).save(folder / "chelsea.png")
    subprocess.run([*UPSCALE, folder / "chelsea.png", "-s", "4", "--html"], check=True)
    tab = browser.new_page(viewport={"width": 932, "height": 800})
    tab.goto(f"file://{folder}/chelsea_x4.html")
    tab.evaluate(DECODED)
    tab.set_viewport_size({"width": 932, "height": 820})
    tab.locator("main").screenshot(path=path, **({"quality": 92} if path.suffix == ".jpg" else {}))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--picture", type=Path)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as name, sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=OPTIONS)
        if args.picture:
            screenshot(browser, Path(name), args.picture)
        else:
            print(pages(browser, Path(name)))
            print(f"\n{app(browser, Path(name))}")


if __name__ == "__main__":
    main()
