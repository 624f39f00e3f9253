"""Files for contributors and their tools: continuous integration, hooks, the issue form and the version."""

import re
import tomllib
from pathlib import Path
from typing import Any

import yaml

import upscale_lit

ROOT = Path(__file__).parents[1]


def read(name: str) -> Any:
    return yaml.safe_load((ROOT / name).read_text())


def test_the_hooks_are_the_checks_of_the_ci() -> None:
    (repository,) = read(".pre-commit-config.yaml")["repos"]
    assert repository["repo"] == "local"
    assert {hook["language"] for hook in repository["hooks"]} == {"system"}
    checks = [line for line in (ROOT / ".ci/run").read_text().splitlines() if line.startswith(("ruff", "mypy"))]
    assert [hook["entry"] for hook in repository["hooks"]] == checks


def test_the_workflow_runs_the_ci() -> None:
    (job,) = read(".github/workflows/ci.yml")["jobs"].values()
    assert job["strategy"]["matrix"]["python"] == ["3.11", "3.13"]
    assert [step["run"] for step in job["steps"] if "run" in step] == [".ci/run"]


def test_the_issue_form_asks_for_the_log() -> None:
    form = read(".github/ISSUE_TEMPLATE/bug.yml")
    assert {"name", "description", "body"} <= set(form)
    assert [part["id"] for part in form["body"]] == ["command", "happened", "log", "versions"]
    assert "train.log" in [part["attributes"]["label"] for part in form["body"]]


def test_the_long_description_needs_no_other_file() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert not re.search(r"\]\(|<img|https?:", (ROOT / project["readme"]).read_text())


def test_the_version() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert upscale_lit.__version__ == project["version"]
