"""The words of code, configs and documents: phrases to avoid, and no sentence of more than 30 words."""

import ast
import inspect
import io
import re
import tokenize
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SUFFIXES = {".py", ".yaml", ".yml", ".toml", ".md"}
# Idioms that readers stumbled over.
AVOID = re.compile(
    r"\b(gone on|goes on with|go on with|handed on|hand on|is told|mend(s|ed|ing)?|by the clock|told|once more|beside|"
    r"anew|afresh|twins?|pixel by pixel|so many|so much)\b",
    re.IGNORECASE,
)
LONGEST = 30  # words


def files() -> list[Path]:
    """What git would commit; not this file, and not the recorded runs of an earlier version."""
    folders = [ROOT / name for name in (".github", "conf", "tests", "upscale_lit")]
    paths = [
        *ROOT.iterdir(),
        ROOT / "outputs" / "README.md",
        *(path for folder in folders for path in folder.rglob("*")),
    ]
    kept = (path for path in paths if path.suffix in SUFFIXES and path != Path(__file__))
    return sorted(path for path in kept if path.is_file() and not path.is_relative_to(ROOT / "tests" / "old_runs"))


def prose(path: Path) -> list[tuple[int, str]]:
    """The pieces of prose in a file, each with its line: a docstring's paragraph, a message, a comment, an item."""
    text = path.read_text(encoding="utf-8")
    if path.suffix == ".md":
        return paragraphs(text)
    return [*strings(text), *comments(text)] if path.suffix == ".py" else comments_of_lines(text)


def strings(text: str) -> list[tuple[int, str]]:
    found: list[tuple[int, str]] = []
    inside: set[ast.AST] = set()
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.JoinedStr):  # a value inside a message counts as one word
            inside.update(ast.walk(node))
            whole = "".join(str(part.value) if isinstance(part, ast.Constant) else "VALUE" for part in node.values)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and node not in inside:
            whole = node.value
        else:
            continue
        # paragraphs, and lines of lists, of definitions (name: text) and of examples
        found += [(node.lineno, part) for part in re.split(r"\n(?=\s|[\w, ]+:|[-*] )", inspect.cleandoc(whole))]
    return found


def comments(text: str) -> list[tuple[int, str]]:
    lines = [" " * (len(line) + 1) for line in text.splitlines()]
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type == tokenize.COMMENT:
            row, column = token.start
            alone = not token.line[:column].strip()
            lines[row - 1] = ("" if alone else "code ").ljust(column) + token.string
    return comments_of_lines("\n".join(lines))


def comments_of_lines(text: str) -> list[tuple[int, str]]:
    """Comments after `#`. One that stands alone in its line continues the comment of the line before."""
    found: list[tuple[int, str]] = []
    last = (0, 0)
    for number, line in enumerate(text.splitlines(), 1):
        if match := re.search(r"(?:^|\s)#\s+(.*)", line):
            place = (number, match.start(1))
            if place == (last[0] + 1, last[1]) and line.lstrip().startswith("#"):
                found[-1] = (found[-1][0], f"{found[-1][1]} {match[1]}")
            else:
                found.append((number, match[1]))
            last = place
    return found


def paragraphs(text: str) -> list[tuple[int, str]]:
    """Paragraphs, items and headings of Markdown; not its code and tables."""
    found: list[tuple[int, str]] = []
    code = fresh = False
    for number, line in enumerate(text.splitlines(), 1):
        code ^= line.startswith("```")
        if code or line.startswith("```") or not line.strip() or line.lstrip().startswith("|"):
            fresh = True
        elif fresh or re.match(r"\s*([-*]|\d+\.|#+)\s", line) or not found:
            found.append((number, line.strip()))
            fresh = False
        else:
            found[-1] = (found[-1][0], f"{found[-1][1]} {line.strip()}")
    return found


def sentences(piece: str) -> list[str]:
    piece = re.sub(r"`[^`]*`", "CODE", re.sub(r"\]\([^)]*\)", "]", piece))  # code, however long, is one word
    return [" ".join(part.split()) for part in re.split(r"(?<=[.!?])[\"')*]*\s+", piece)]


def length(sentence: str) -> int:
    return sum(bool(re.search(r"\w", word)) for word in sentence.split())


@pytest.mark.parametrize("path", files(), ids=lambda path: str(path.relative_to(ROOT)))
def test_words_and_sentences(path):
    lines = enumerate(path.read_text(encoding="utf-8").splitlines(), 1)
    bad = [f"{path}:{number}: {line.strip()}" for number, line in lines if AVOID.search(line)]
    counted = [(length(each), number, each) for number, piece in prose(path) for each in sentences(piece)]
    bad += [f"{path}:{number}: {count} words: {each}" for count, number, each in counted if count > LONGEST]
    assert not bad, "\n".join(bad)
