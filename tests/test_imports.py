"""The direction of imports: down the list of files, never back up, and neither Hydra nor OmegaConf in the package."""

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "upscale_lit"
# Each file with what it may import from the package.
ALLOWED = {
    "__init__": {"upscaler"},
    "errors": set(),
    "console": set(),
    "files": {"errors"},
    "allocator": set(),
    "resample": {"errors"},
    "models": {"errors", "resample"},
    "weights": {"errors", "files", "resample", "models"},
    "inference": {"allocator", "errors", "resample", "models"},
    "metrics": {"resample"},
    "containers": set(),
    "jpeg": {"containers"},
    "png": {"containers"},
    "tiff": {"containers"},
    "photos": {"errors", "containers", "jpeg", "png", "tiff"},
    "paths": {"errors", "photos"},
    "sources": {"errors", "photos"},
    "cache": {"errors", "photos"},
    "signals": set(),
    "data": {"signals", "errors", "resample", "models", "photos", "sources", "cache"},
    "shards": {"errors", "files", "photos", "sources", "cache"},
    "stream": {"errors", "photos", "sources", "shards", "data"},
    "module": {"errors", "resample", "models", "metrics"},
    "grids": {"resample", "files"},
    "checkpoints": {"errors", "files", "signals", "weights"},
    "shipped": {"errors"},
    "sweep": {"files"},
    "options": {"errors", "models"},
    "report": set(),
    "check": {"errors", "photos", "sources", "cache"},
    "metadata": {"containers", "png"},
    "pictures": {"errors", "files", "containers", "photos", "tiff", "metadata"},
    "chains": {"errors", "paths", "shipped", "weights"},
    "upscaler": {"errors", "paths", "resample", "inference", "pictures", "chains"},
    "jobs": {"errors", "paths", "photos", "sources", "pictures"},
    "batch": {"errors", "paths", "photos", "pictures", "chains", "upscaler", "jobs"},
    "pairing": set(),
    "evaluate": {
        "errors",
        "files",
        "resample",
        "metrics",
        "photos",
        "sources",
        "pictures",
        "chains",
        "upscaler",
        "pairing",
    },
    "export": {"errors", "files", "inference", "shipped", "weights"},
    "__main__": {
        "console",
        "errors",
        "files",
        "allocator",
        "weights",
        "paths",
        "photos",
        "sources",
        "shipped",
        "check",
        "chains",
        "upscaler",
        "jobs",
        "batch",
        "evaluate",
        "export",
        "shards",
    },
}
TORCH_ALONE = {"allocator", "errors", "files", "resample", "models", "inference", "weights"}


def imports(path: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def test_every_file_is_listed() -> None:
    assert {path.stem for path in PACKAGE.glob("*.py")} == set(ALLOWED)


@pytest.mark.parametrize("name", ALLOWED)
def test_direction(name: str) -> None:
    found = imports(PACKAGE / f"{name}.py")
    ours = {item.split(".")[1] for item in found if item.startswith("upscale_lit.")}
    assert ours <= ALLOWED[name]
    outside = {item.split(".")[0] for item in found}
    assert not outside & {"hydra", "omegaconf"}
    if name in TORCH_ALONE:
        assert not outside & {"pytorch_lightning", "PIL", "numpy", "torchvision", "torchmetrics"}
