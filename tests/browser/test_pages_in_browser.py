"""Pages of results, evaluations and runs in a real browser: sliders, zoom, keys, touch and screenshots."""

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import picture, sample
from numpy.typing import NDArray
from PIL import Image

from upscale_lit.cli import main
from upscale_lit.inference.comparison import bicubic

pytestmark = pytest.mark.browser
Visit = Callable[..., Any]
SIZES = [(1400, "light"), (390, "dark"), (1400, "dark"), (390, "light")]


def pixels(element: Any) -> NDArray[np.int64]:
    return np.asarray(Image.open(io.BytesIO(element.screenshot())).convert("RGB"), int)


def check_accessibility(page: Any) -> None:
    from axe_playwright_python.sync_playwright import Axe

    found = Axe().run(page).response["violations"]
    assert [(each["id"], [node["html"] for node in each["nodes"]]) for each in found] == []


def set_slider(page: Any, value: float) -> None:
    page.locator(".slider").first.evaluate(
        "(slider, value) => { slider.value = value; slider.dispatchEvent(new Event('input')); }", value
    )


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make a_x2.html of a PNG, j_x2.html of a restored JPEG, and a folder with its page."""
    folder = tmp_path_factory.mktemp("pages")
    low = sample("chelsea").resize((220, 150))
    low.save(folder / "a.png")
    low.save(folder / "j.jpg", quality=40)
    (folder / "many").mkdir()
    for number in range(6):
        picture(120, 90, number).save(folder / "many" / f"p{number}.png")
    assert main(["upscale", str(folder / "a.png"), str(folder / "j.jpg"), "--html"]) == 0
    assert main(["upscale", str(folder / "many"), "--html"]) == 0
    return folder


@pytest.mark.parametrize(("width", "scheme"), SIZES)
def test_both_sides_of_the_slider(pages: Path, visit: Visit, width: int, scheme: str) -> None:
    """At 100 %, the screen shows the pixels of bicubic on the left and those of the result on the right."""
    page = visit(f"file://{pages}/a_x2.html", width, scheme)
    page.get_by_role("button", name="100 %").click()
    with Image.open(pages / "a_x2.png") as image, Image.open(pages / "a.png") as low:
        after, before = np.asarray(image, int), np.asarray(bicubic(low, 2), int)
    stage = page.locator(".view")
    shown = min(width - 32, 440)  # the padding of the page
    left = int(page.locator(".view").evaluate("view => view.scrollLeft"))  # the middle of a wider picture is shown
    before, after = before[:, left : left + shown], after[:, left : left + shown]
    set_slider(page, 0)
    assert np.abs(pixels(stage)[:, 30:] - after[:, 30:]).max() <= 1
    set_slider(page, 100)
    assert np.abs(pixels(stage)[:, :-30] - before[:, :-30]).max() <= 1
    set_slider(page, 50)
    middle, found = shown // 2, pixels(stage)
    assert np.abs(found[:, : middle - 30] - before[:, : middle - 30]).max() <= 1
    assert np.abs(found[:, middle + 30 :] - after[:, middle + 30 :]).max() <= 1
    assert np.abs(before - after).max() > 20
    assert page.locator("body").evaluate("body => getComputedStyle(body).backgroundColor") == (
        "rgb(255, 255, 255)" if scheme == "light" else "rgb(18, 18, 18)"
    )
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    check_accessibility(page)
    assert [each for each in page.asked if not each.startswith("data:")] == [f"file://{pages}/a_x2.html"]


def value(page: Any) -> float:
    return float(page.locator(".slider").first.input_value())


def test_mouse_keys_and_focus(pages: Path, visit: Visit) -> None:
    page = visit(f"file://{pages}/a_x2.html")
    frame, slider = page.locator(".frame"), page.get_by_role("slider")
    box = frame.bounding_box()
    page.mouse.move(box["x"] + box["width"] * 0.25, box["y"] + 50)
    page.mouse.down()
    assert value(page) == pytest.approx(25, abs=1)
    page.mouse.move(box["x"] + box["width"] * 0.8, box["y"] + 90)
    assert value(page) == pytest.approx(80, abs=1)
    page.mouse.up()
    page.mouse.move(box["x"] + 10, box["y"] + 10)
    assert value(page) == pytest.approx(80, abs=1)
    before = value(page)
    page.keyboard.press("ArrowLeft")  # the pointer has given the focus to the slider
    assert value(page) < before
    page.keyboard.press("Home")
    assert value(page) == 0
    assert slider.get_attribute("aria-valuetext") == "0 % bicubic, 100 % compact"
    assert slider.get_attribute("aria-label") == "Boundary between the two versions of a_x2.png"
    page.reload()
    for name in ("Fit", "100 %", "400 %"):
        page.keyboard.press("Tab")
        focused = page.locator(":focus")
        assert focused.inner_text() == name
        assert focused.evaluate("element => getComputedStyle(element).outlineStyle") == "solid"
    page.keyboard.press("Enter")
    assert page.get_by_role("button", name="400 %").get_attribute("aria-pressed") == "true"
    page.keyboard.press("Tab")  # the zoomed picture, which the arrow keys scroll
    scrolled = page.locator(".view").evaluate("view => view.scrollLeft")
    page.keyboard.press("ArrowRight")
    page.wait_for_function("from => document.querySelector('.view').scrollLeft > from", arg=scrolled)
    page.keyboard.press("Tab")
    page.keyboard.press("End")
    assert value(page) == 100


@pytest.mark.parametrize("zoom", [1, 4])
def test_zoom_keeps_both_sides_together(pages: Path, visit: Visit, zoom: int) -> None:
    page = visit(f"file://{pages}/a_x2.html", 390)
    middle = "view => (view.scrollLeft + view.clientWidth / 2) / view.scrollWidth"
    page.get_by_role("button", name=f"{zoom}00 %").click()
    assert page.locator(".view").evaluate(middle) == pytest.approx(0.5, abs=0.01)
    page.locator(".view").evaluate("view => view.scrollTo(100, 30)")
    boxes = [image.bounding_box() for image in page.locator(".stage img").all()]
    assert boxes[0] == boxes[1]
    assert boxes[0]["width"] == 440 * zoom
    rendering = page.locator(".stage img").first.evaluate("image => getComputedStyle(image).imageRendering")
    assert rendering == ("pixelated" if zoom == 4 else "auto")
    # The line stays, and the pictures move below it: the cut follows.
    cut = page.locator(".stage img").last.evaluate("image => image.style.clipPath")
    assert cut == f"inset(0px 0px 0px {min(100, 440 * zoom - 358) + 179}px)"
    # A pointer far from the line scrolls, and does not move the line.
    box = page.locator(".frame").bounding_box()
    page.mouse.click(box["x"] + 20, box["y"] + 20)
    assert value(page) == 50
    page.mouse.click(box["x"] + 179 + 20, box["y"] + 20)
    assert value(page) == pytest.approx(100 * 199 / 358, abs=0.5)


@pytest.mark.parametrize("zoom", ["Fit", "400 %"])
def test_touch(pages: Path, visit: Visit, zoom: str) -> None:
    page = visit(f"file://{pages}/a_x2.html", 390, has_touch=True)
    page.get_by_role("button", name=zoom).click()
    box = page.locator(".frame").bounding_box()
    session = page.context.new_cdp_session(page)

    def touch(kind: str, *part: float) -> None:
        points = [{"x": box["x"] + part[0] * box["width"], "y": box["y"] + 60}] if part else []
        session.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": points})

    touch("touchStart", 0.5)
    touch("touchMove", 0.3)
    touch("touchMove", 0.1)
    touch("touchEnd")
    assert value(page) == pytest.approx(10, abs=2)


def test_dense_screens_show_each_pixel(pages: Path, visit: Visit) -> None:
    page = visit(f"file://{pages}/a_x2.html", device_scale_factor=2)
    page.get_by_role("button", name="100 %").click()
    assert page.locator(".stage").bounding_box()["width"] == 220
    set_slider(page, 0)
    with Image.open(pages / "a_x2.png") as image:
        assert np.abs(pixels(page.locator(".view"))[:, 60:] - np.asarray(image, int)[:, 60:]).max() <= 1


def test_narrow_pictures(visit: Visit, tmp_path: Path) -> None:
    """The slider of a picture of 2x4000 px can be dragged."""
    picture(1, 2000).save(tmp_path / "a.png")
    assert main(["upscale", str(tmp_path / "a.png"), "--html"]) == 0
    page = visit(f"file://{tmp_path}/a_x2.html", 390)
    assert page.locator(".stage").bounding_box()["width"] == 1
    page.get_by_role("slider").scroll_into_view_if_needed()
    box = page.get_by_role("slider").bounding_box()
    assert box["width"] == 192
    page.mouse.click(box["x"] + 150, box["y"] + box["height"] / 2)
    assert value(page) == pytest.approx(78, abs=5)


def test_transparent_pictures_lie_on_a_checkerboard(visit: Visit, tmp_path: Path) -> None:
    Image.new("RGBA", (60, 40), (255, 0, 0, 0)).save(tmp_path / "a.png")
    assert main(["upscale", str(tmp_path / "a.png"), "--html"]) == 0
    page = visit(f"file://{tmp_path}/a_x2.html")
    found = pixels(page.locator(".view"))[:, 90:]  # right of the line
    assert {tuple(pixel) for pixel in found.reshape(-1, 3)} == {(153, 153, 153), (204, 204, 204)}


def test_a_restored_result_has_three_versions(pages: Path, visit: Visit) -> None:
    page = visit(f"file://{pages}/j_x2.html", 390)
    check_accessibility(page)
    set_slider(page, 100)
    page.get_by_role("button", name="100 %").click()
    bicubic_pixels = pixels(page.locator(".view"))
    page.get_by_label("Left").select_option("compact, restore 0")
    clean = pixels(page.locator(".view"))
    assert np.abs(bicubic_pixels - clean)[:, :-30].max() > 20
    assert page.get_by_role("slider").get_attribute("aria-valuetext").endswith("compact, restore 1")
    page.get_by_label("Right").select_option("compact, restore 0")  # the same version on both sides
    set_slider(page, 0)
    assert np.abs(pixels(page.locator(".view"))[:, 30:-30] - clean[:, 30:-30]).max() <= 1


def test_the_page_of_a_folder_loads_lazily(pages: Path, visit: Visit) -> None:
    page = visit(f"file://{pages}/many_x2/index.html", 390)
    page.set_viewport_size({"width": 390, "height": 300})
    check_accessibility(page)
    page.reload()
    page.wait_for_timeout(300)
    page.get_by_role("slider").last.scroll_into_view_if_needed()
    last = page.locator("img").last
    page.wait_for_function("() => [...document.images].at(-1).naturalWidth === 240")
    assert last.get_attribute("loading") == "lazy"
    assert all(each.startswith(f"file://{pages}/many_x2/index") for each in page.asked)


@pytest.mark.parametrize("name", ["a_x2.html", "many_x2/index.html"])
def test_the_policy_blocks_the_network(pages: Path, chromium: Any, name: str) -> None:
    page = chromium.new_context().new_page()
    page.goto(f"file://{pages}/{name}")
    blocked = page.evaluate(
        """async () => {
            const found = [];
            document.addEventListener("securitypolicyviolation", (event) => found.push(event.effectiveDirective));
            await fetch("http://127.0.0.1:9/").catch(() => {});
            const image = new Image();
            image.src = "http://127.0.0.1:9/a.png";
            document.body.insertAdjacentHTML("beforeend", "<p style='color: red'></p>");
            await new Promise((done) => setTimeout(done, 200));
            return found;
        }"""
    )
    assert sorted(blocked) == ["connect-src", "img-src", "style-src-attr"]


def test_nothing_moves_by_itself(pages: Path, visit: Visit) -> None:
    page = visit(f"file://{pages}/j_x2.html", reduced_motion="reduce")
    page.get_by_role("button", name="400 %").click()
    assert page.evaluate("document.getAnimations().length") == 0


def test_an_evaluation(pages: Path, visit: Visit, tmp_path: Path) -> None:
    assert main(["evaluate", str(pages / "many"), "--html", str(tmp_path / "r.html")]) == 0
    page = visit(f"file://{tmp_path}/r.html", 390, "dark")
    check_accessibility(page)
    first = page.locator("compare-pictures").first
    first.get_by_label("Left").select_option("input")
    first.get_by_label("Right").select_option("truth")
    low = first.locator("img").first
    low.scroll_into_view_if_needed()
    page.wait_for_function("() => document.querySelector('img').naturalWidth === 60")
    assert low.evaluate("image => getComputedStyle(image).imageRendering") == "pixelated"
    assert low.bounding_box() == first.locator("img").last.bounding_box()


def test_a_run(run: Any, visit: Visit) -> None:
    result = run()
    page = visit(f"file://{result.folder}/report.html")
    for scheme in ("dark", "light"):
        page.emulate_media(color_scheme=scheme)
        check_accessibility(page)
    slider, image = page.get_by_role("slider"), page.locator("step-grids img")
    assert str(image.get_attribute("src")) == "grids/step_000004.png"
    slider.press("Home")
    assert str(image.get_attribute("src")) == "grids/step_000000.png"
    page.wait_for_function("() => document.querySelector('step-grids img').naturalWidth > 0")
    assert page.locator("output").inner_text().startswith("step 0: ")
    page.set_viewport_size({"width": 390, "height": 900})
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    check_accessibility(page)
