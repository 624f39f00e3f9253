"""Every command in every document is composed or parsed, every Python block runs, every relative link is followed."""

import itertools
import re
import shlex
import shutil
import subprocess
import tomllib
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import DictConfig, OmegaConf
from tensorboard import program
from torch.distributed.run import get_args_parser

from upscale_lit import shipped
from upscale_lit.cli import parser
from upscale_lit.data.sources import sample_photos
from upscale_lit.weights import load_weights, save_weights

ROOT = Path(__file__).parents[1]
FOLDERS = ("", "conf", "outputs", "tests/benchmarks", "upscale_lit", "upscale_lit/*", "upscale_lit/trained/*")
DOCUMENTS = sorted(path for folder in FOLDERS for path in ROOT.glob(f"{folder}/*.md".lstrip("/")))
FENCE = re.compile(r"^ *```(\w*)\n(.*?)^ *```$", re.DOTALL | re.MULTILINE)
SPAN = re.compile(r"(?<!`)`([^`]+)`(?!`)")
OVERRIDES = {"cascade.py", "checkpoints.py", "gap.py", "original.py", "throughput.py"}  # benchmarks that take them
EXTRAS = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]


def name_of(path: Path) -> str:
    return str(path.relative_to(ROOT))


def blocks(path: Path, *languages: str) -> list[str]:
    return [block for language, block in FENCE.findall(path.read_text(encoding="utf-8")) if language in languages]


def spans(path: Path) -> list[str]:
    """Inline code, with line breaks as spaces."""
    return [" ".join(span.split()) for span in SPAN.findall(FENCE.sub("", path.read_text(encoding="utf-8")))]


def commands(path: Path) -> Iterator[list[str]]:
    """The words of each command in the shell blocks and in inline code of a document."""
    lines = [line for block in blocks(path, "sh", "bash") for line in block.replace("\\\n", " ").splitlines()]
    lines += [span for span in spans(path) if re.match(r"(python|upscale-lit|pip|tensorboard) [\w-]", span)]
    for line in lines:
        lexer = shlex.shlex(line, posix=True, punctuation_chars=";&")
        lexer.whitespace_split = True
        for separator, part in itertools.groupby(lexer, lambda word: word in ("&&", ";", "then", "fi", "if")):
            if not separator and (command := list(part)):
                yield command


def check_command(words: list[str], folder: Path) -> None:
    """Raises an error unless a command's program exists and takes these words. folder: more configs."""
    match words:
        case ["srun", *rest]:
            check_command(rest, folder)
        case ["python", "train.py", *rest]:
            check_overrides(rest, folder)
        case ["torchrun", *rest]:
            check_overrides(get_args_parser().parse_args(rest).training_script_args, folder)
        case ["python", script, *rest] if script.startswith("tests/benchmarks/"):
            text = (ROOT / script).read_text()
            assert all(f'"{word}"' in text for word in rest if word.startswith("--"))
            if Path(script).name in OVERRIDES:
                check_overrides([word for word in rest if "=" in word and not word.startswith("picture=")], folder)
        case ["upscale-lit", "train", *rest]:
            check_overrides(rest, folder)
        case ["upscale-lit", *rest] | ["python", "-m", "upscale_lit", *rest]:
            rest = rest[: next((n for n, word in enumerate(rest) if word in "<>"), None)]  # the shell's part
            if len(rest) == 1 or rest[1:] == ["--help"]:  # the command is only named
                rest = [rest[0], *(["x"] if rest[0] not in ("models", "app") else [])]
            parser().parse_args(rest)
        case ["pip", "install", "-e", target]:
            check_extra(target, r"\.")
        case ["pip", "install", target] if target.startswith("upscale-lit["):
            check_extra(target, "upscale-lit")
        case ["pip", "install", "upscale_lit-*.whl"] | ["python", "-m", "build"] | ["twine", "check", *_]:
            pass  # tests/test_wheel.py builds and installs the package
        case ["tensorboard", *rest]:
            program.TensorBoard().configure(["tensorboard", *rest])
        case ["python", "-m", "pytest", *rest]:
            assert rest in ([], ["-m", ""], ["-m", "browser"], ["-n", "0"])
        case [".ci/run"]:
            assert (ROOT / ".ci" / "run").stat().st_mode & 0o100
        case ["pre-commit", "install"]:
            assert (ROOT / ".pre-commit-config.yaml").exists()
        case ["[", *_] | ["scontrol", "requeue", "$SLURM_JOB_ID"]:
            pass  # `bash -n` checks the block
        case _:
            raise AssertionError(f"This test does not know the command {shlex.join(words)}")


def check_extra(target: str, name: str) -> None:
    """Check the target of pip, such as ".[dev]". name: a regular expression."""
    extra = re.fullmatch(rf"{name}(?:\[([\w,]+)\])?", target)
    assert extra
    assert set((extra[1] or "dev").split(",")) <= set(EXTRAS)


def composed(*overrides: str) -> DictConfig:
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        return compose("config", list(overrides), return_hydra_config=True)


def check_overrides(words: list[str], folder: Path) -> None:
    """Compose the configuration of `python train.py WORDS`, of a sweep for each of its jobs."""
    assert {word for word in words if word.startswith("-")} <= {"-m", "--help", "--cfg", "--config-dir=conf"}
    overrides = OverridesParser.create().parse_overrides([word for word in words if word[0] != "-" and word != "job"])
    each = [
        [f"{override.get_key_element()}={value}" for value in override.sweep_string_iterator()]
        if override.is_sweep_override()
        else [override.input_line]
        for override in overrides
    ]
    own = [f"hydra.searchpath=[file://{folder}]"] if "--config-dir=conf" in words else []
    for job in itertools.product(*each):
        composed(*job, *own)


@pytest.mark.parametrize("path", DOCUMENTS, ids=name_of)
def test_commands(path: Path, tmp_path: Path) -> None:
    for block in blocks(path, "yaml"):
        if named := re.match(r"# conf/(\S+)\n", block):
            (tmp_path / named[1]).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / named[1]).write_text(block.partition("\n")[2])  # the package has to stand in the first line
    for words in commands(path):
        try:
            check_command(words, tmp_path)
        except (Exception, SystemExit) as error:
            pytest.fail(f"{name_of(path)}: {shlex.join(words)}\n{error!r}")
    for block in blocks(path, "sh", "bash"):
        subprocess.run(["bash", "-n"], input=block, text=True, check=True)


def test_commands_in_the_help(tmp_path: Path) -> None:
    text = (ROOT / "conf/hydra/help/train.yaml").read_text().replace("$$", "$")
    text = text.replace("${.app_name}", "python train.py")
    lines = re.findall(r"^ +(python train\.py .*?)(?:  |$)", text, re.MULTILINE)
    assert len(lines) > 10
    for line in lines:
        check_command([word for word in shlex.split(line) if word != "..."], tmp_path)


def test_wrong_commands_are_found(tmp_path: Path) -> None:
    for line in (
        "python train.py stage=64to129",
        "python train.py -m stage=64to128,64to129",
        "python train.py data.rot=x",
        "upscale-lit train stage=64to129",
        "python tests/benchmarks/growth.py --count 3",
        "upscale-lit upscale x -y 3",
        "pip install -e .[onyx]",
        "unknown",
    ):
        with pytest.raises((Exception, SystemExit)):
            check_command(shlex.split(line), tmp_path)


@pytest.fixture(scope="module")
def workplace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with what Python blocks read: a photo, and published weights."""
    folder = tmp_path_factory.mktemp("documents")
    _, (photo, *_) = sample_photos()
    shutil.copy(photo, folder / "photo.jpg")
    published = folder / "outputs" / "checkpoints"
    published.mkdir(parents=True)
    for file in shipped.files("compact"):
        model, facts = load_weights(file)
        save_weights(published / f"{file.stem}.pt", model, facts)
    return folder


@pytest.mark.parametrize("path", [path for path in DOCUMENTS if blocks(path, "python")], ids=name_of)
def test_python_blocks(path: Path, workplace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(workplace)
    for block in blocks(path, "python"):
        exec(compile(block, name_of(path), "exec"), {"__name__": "block"})


def anchors(path: Path) -> set[str]:
    """The anchors that GitHub gives to the headings of a document."""
    headings = re.findall(r"^#+ (.*)$", FENCE.sub("", path.read_text(encoding="utf-8")), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("path", DOCUMENTS, ids=name_of)
def test_links_and_paths(path: Path) -> None:
    text = FENCE.sub("", path.read_text(encoding="utf-8"))
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if not re.match(r"https?://", target):
            file, _, anchor = target.partition("#")
            linked = path.parent / file if file else path
            assert linked.exists(), target
            assert not anchor or anchor in anchors(linked), target
    for span in spans(path):
        if re.fullmatch(r"[\w.-]+(/[\w.-]+)+\.(py|md|yaml)", span):
            assert (ROOT / span).exists() or (path.parent / span).exists(), span


@cache  # the same for all documents
def keys_of_configurations() -> set[str]:
    keys = set()
    for choice in (
        "data=folder",
        "data=shards",
        "data=oxford_pets",
        "degradation=blur_noise",
        "degradation=photo",
        "trainer=ddp",
    ):
        found = [("", OmegaConf.to_container(composed(choice)))]
        while found:
            prefix, value = found.pop()
            for key, below in value.items() if isinstance(value, dict) else ():
                keys.add(f"{prefix}{key}")
                found.append((f"{prefix}{key}.", below))
    return keys


@pytest.mark.parametrize("path", DOCUMENTS, ids=name_of)
def test_keys_in_sentences(path: Path) -> None:
    keys = keys_of_configurations()
    groups = r"(?:data|stage|model|optimizer|checkpoint|trainer|degradation|hydra)\."
    for span in spans(path):
        if key := re.fullmatch(rf"({groups}[\w.]+)(?:=.*)?", span):
            assert key[1] in keys, f"{name_of(path)}: there is no key {key[1]}"


def test_the_first_document_stays_short() -> None:
    lines = (ROOT / "README.md").read_text(encoding="utf-8").splitlines()
    assert len(lines) <= 200
    assert lines.index("## Upscale your pictures") < 60
    tables = "".join("|" if line.startswith("|") else " " for line in lines).split()
    assert max(map(len, tables)) <= 2 + 8  # heading, rule, and eight rows
