"""Markdown tables: each row takes one line, whatever its cells contain and however wide the terminal is."""

import pytest

from upscale_lit.tables import markdown_table


def test_cells_stay_cells(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "20")
    table = markdown_table(["name", "n"], [["a | b\nc", 1], ["[red]:cat:", 2.5], ["x" * 300, ""], ["\udcff", None]])
    heading, line, *rows = table.splitlines()
    assert [cell.strip() for cell in heading.strip("|").split("|")] == ["name", "n"]
    assert set(line) == {"|", "-"}
    assert rows[0].startswith(r"| a \| b c ")
    assert [row.strip("| ").split(" ")[0] for row in rows[1:]] == ["[red]:cat:", "x" * 300, "\udcff"]
    assert len({len(row) for row in (heading, line, *rows)}) == 1


def test_a_table_without_columns_or_rows() -> None:
    assert markdown_table([], []) == ""
    assert markdown_table(["a"], []).splitlines()[0] == "| a |"
