"""Markdown tables that are also easy to read as plain text."""

import io
from collections.abc import Iterable, Sequence

from rich import box
from rich.console import Console
from rich.table import Table

WIDEST = 100_000  # characters: wide enough that no cell is wrapped or cut


def markdown_table(heading: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """Return a Markdown table without a final line break.

    Each cell becomes one line of text, with | escaped.
    """
    table = Table(*map(_one_line, heading), box=box.MARKDOWN)
    for row in rows:
        table.add_row(*map(_one_line, row))
    text = io.StringIO()
    # These options keep a terminal, or a variable such as FORCE_COLOR, from adding colours.
    Console(file=text, width=WIDEST, force_terminal=False, color_system=None, markup=False, emoji=False).print(table)
    return text.getvalue().strip()


def _one_line(value: object) -> str:
    return " ".join(str(value).split()).replace("|", "\\|")
