"""Imports between the parts of the package, and the parts that may import Hydra, Lightning or other packages."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "upscale_lit"
FILES = sorted(path.relative_to(PACKAGE) for path in PACKAGE.rglob("*.py"))
# Each folder and each top-level file of the package, with the parts of the package that it may import.
ALLOWED = {
    "errors": set(),
    "console": set(),
    "tables": set(),
    "signals": set(),
    "allocator": set(),
    "program": set(),
    "files": {"errors"},
    "pages": {"files", "errors"},
    "resample": {"errors"},
    "metrics": {"resample"},
    "models": {"resample", "errors"},
    "weights": {"models", "resample", "files", "errors"},
    "shipped": {"errors"},
    "data": {"models", "resample", "files", "signals", "errors"},
    "training": {"models", "weights", "metrics", "resample", "files", "signals", "errors"},
    "inference": {
        "data", "models", "weights", "shipped", "metrics", "resample", "files", "allocator", "tables", "pages",
        "errors",
    },
    "launch": {
        "training", "data", "models", "weights", "shipped", "resample", "metrics", "files", "signals", "allocator",
        "console", "program", "tables", "pages", "errors",
    },
    "commands": {"inference", "data", "weights", "shipped", "files", "allocator", "tables", "pages", "errors"},
    "cli": {"commands", "inference", "data", "models", "console", "program", "errors"},
    "__main__": {"cli"},
    "__init__": {"inference"},
}  # fmt: skip
TORCH_ALONE = {"allocator", "errors", "files", "resample", "models", "weights", "inference/tiling"}
FOREIGN = {"pytorch_lightning", "PIL", "numpy", "torchvision", "torchmetrics"}


def imports(path: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def part_of(file: Path) -> str:
    """Return the folder of the package that `file` belongs to, or the name of a top-level file."""
    return file.parts[0].removesuffix(".py")


def test_every_part_is_listed() -> None:
    assert {part_of(file) for file in FILES} == set(ALLOWED)


@pytest.mark.parametrize("file", FILES, ids=str)
def test_direction(file: Path) -> None:
    part, found = part_of(file), imports(PACKAGE / file)
    ours = {item.split(".")[1] for item in found if item.startswith("upscale_lit.")}
    assert ours - {part} <= ALLOWED[part]
    outside = {item.split(".")[0] for item in found}
    assert part == "launch" or not outside & {"hydra", "omegaconf"}
    if {part, str(file.with_suffix(""))} & TORCH_ALONE:
        assert not outside & FOREIGN


@pytest.mark.parametrize("words", [["--help"], ["upscale", "--help"], ["check", str(PACKAGE)]], ids=" ".join)
def test_the_command_line_starts_without_torch(words: list[str]) -> None:
    code = f"""
import atexit, sys
atexit.register(lambda: print("torch" in sys.modules, file=sys.stderr))
from upscale_lit.cli import main
main({words})
"""
    result = subprocess.run([sys.executable, "-c", code], cwd=PACKAGE.parent, capture_output=True, text=True)
    assert result.stderr == "False\n"
