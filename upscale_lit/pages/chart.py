"""A line chart for HTML pages, as SVG."""

import math
from collections.abc import Mapping, Sequence
from itertools import count, cycle, takewhile

from markupsafe import Markup

from upscale_lit.pages.page import render

WIDTH, HEIGHT = 800, 320  # of the drawing, in units of the SVG; a page scales it
LEFT, RIGHT, TOP, BOTTOM = 52, 12, 10, 36  # margins for the axes
DASHES = ("6 4", "2 3", "9 3 2 3", "1 5")  # lines differ by their dashes, and not only by colours
Points = Sequence[tuple[float, float]]


def line_chart(curve: Points, lines: Mapping[str, float], name: str, x_label: str, y_label: str) -> Markup:
    """Return a chart with a curve and horizontal lines, and a legend below it.

    curve: the points (x, y), at least one, in the order of x. lines: label -> y. name: the label of the curve.
    """
    xs, ys = [x for x, _ in curve], [y for _, y in curve]
    x_ticks = ticks(min(xs), max(xs), 8)
    y_ticks = ticks(min([*ys, *lines.values()]), max([*ys, *lines.values()]), 6)

    def place(x: float, y: float) -> tuple[float, float]:
        across = (x - x_ticks[0]) / (x_ticks[-1] - x_ticks[0])
        up = (y - y_ticks[0]) / (y_ticks[-1] - y_ticks[0])
        return round(LEFT + across * (WIDTH - LEFT - RIGHT), 1), round(
            HEIGHT - BOTTOM - up * (HEIGHT - TOP - BOTTOM), 1
        )

    bottom_left = x_ticks[0], y_ticks[0]
    svg = render(
        "chart.html",
        width=WIDTH, height=HEIGHT, left=LEFT, right=WIDTH - RIGHT, bottom=HEIGHT - BOTTOM, x_label=x_label,
        y_label=y_label, name=name, last=f"{ys[-1]:.2f}",
        points=[(*place(x, y), f"{x_label} {x:g}: {y:.2f}") for x, y in curve],
        lines=[
            (label, place(bottom_left[0], y)[1], dash, f"{y:.2f}")
            for (label, y), dash in zip(lines.items(), cycle(DASHES), strict=False)
        ],
        x_ticks=[(place(x, bottom_left[1])[0], f"{x:g}") for x in x_ticks],
        y_ticks=[(place(bottom_left[0], y)[1], f"{y:g}") for y in y_ticks],
    )  # fmt: skip
    return Markup(svg)  # the template has escaped the values


def ticks(low: float, high: float, most: int) -> list[float]:
    """Return at least two and about `most` round numbers in equal steps, of which the ends enclose low and high."""
    if high - low < 1e-9:
        low, high = low - 0.5, high + 0.5
    rough = (high - low) / (most - 1)
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(step for step in (power, 2 * power, 5 * power, 10 * power) if step >= rough * (1 - 1e-9))
    first = math.floor(low / step + 1e-9)
    numbers = takewhile(lambda number: (number - 1) * step < high - 1e-9 * step, count(first))
    return [round(number * step, 10) for number in numbers]
