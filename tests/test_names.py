"""Names and sizes: public names are unique in the package, and files, functions and classes are short."""

import ast
import inspect
from collections import Counter
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "upscale_lit"
FILES = sorted(PACKAGE.rglob("*.py"))


def lines_of(node: ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    return (node.end_lineno or node.lineno) - node.lineno + 1


def test_public_names_are_unique() -> None:
    names = Counter(
        node.name
        for path in FILES
        for node in ast.parse(path.read_text()).body
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef) and not node.name.startswith("_")
    )
    assert [name for name, count in names.items() if count > 1] == []


def test_no_file_is_long() -> None:
    lengths = {str(path.relative_to(PACKAGE)): len(path.read_text().splitlines()) for path in FILES}
    assert {name: length for name, length in lengths.items() if length > 300} == {}


def test_no_function_in_launch_is_long() -> None:
    lengths = {
        f"{path.name}: {node.name}": lines_of(node)
        for path in (PACKAGE / "launch").glob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    }
    assert {name: length for name, length in lengths.items() if length > 50} == {}


@pytest.mark.parametrize(("folder", "base"), [("training", "LightningModule"), ("data", "LightningDataModule")])
def test_lightning_classes_are_short(folder: str, base: str) -> None:
    classes = [
        node
        for path in (PACKAGE / folder).glob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.ClassDef) and any(ast.unparse(parent).endswith(base) for parent in node.bases)
    ]
    assert len(classes) == 1
    assert lines_of(classes[0]) <= 150


def test_the_data_module_has_few_parameters() -> None:
    import pytorch_lightning

    from upscale_lit.data import module

    (data_module,) = (
        value
        for value in vars(module).values()
        if inspect.isclass(value)
        and issubclass(value, pytorch_lightning.LightningDataModule)
        and value.__module__ == module.__name__
    )
    assert len(inspect.signature(data_module).parameters) <= 12
