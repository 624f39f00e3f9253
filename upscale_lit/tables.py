"""Tables in Markdown that are easy to read as plain text, too."""

import io
from collections.abc import Iterable, Sequence

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

WIDEST = 100_000  # characters: no cell is wrapped or cut off


def markdown_table(heading: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """Return a Markdown table, without a line break at its end.

    Each cell becomes one line of text, with | escaped.
    """
    table = Table(box=box.MARKDOWN)
    for name in heading:
        table.add_column(_cell(name), no_wrap=True)
    for row in rows:
        table.add_row(*map(_cell, row))
    # A terminal, or a variable such as FORCE_COLOR, must not add colours.
    console = Console(file=io.StringIO(), width=WIDEST, force_terminal=False, color_system=None)
    with console.capture() as capture:
        console.print(table)
    return capture.get().strip()


def _cell(value: object) -> Text:
    return Text(" ".join(str(value).split()).replace("|", "\\|"))
