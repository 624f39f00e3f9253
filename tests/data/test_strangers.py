"""Files from unknown sources: no file runs code or crashes the program, and errors name the file."""

import io
import json
import pickle
import random
import resource
import struct
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import Run, picture
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from PIL import Image

from upscale_lit import Upscaler
from upscale_lit.cli import main
from upscale_lit.data.photo import FORMATS, limit_pixels, read_photo
from upscale_lit.errors import InputError
from upscale_lit.inference.pictures import MODES, read_picture, save_picture, upright
from upscale_lit.launch.publish import publish
from upscale_lit.launch.sweep import own_file
from upscale_lit.training.checkpoints import read_checkpoint
from upscale_lit.weights import load_weights

Runner = Callable[..., Run]
QUICK = settings(
    max_examples=60, derandomize=True, deadline=5000, database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow, HealthCheck.data_too_large],
)  # fmt: skip


class Bomb:
    """An object that makes the folder `exploded` when it is unpickled."""

    def __reduce__(self) -> tuple[Any, ...]:
        return sys.modules["os"].mkdir, ("exploded",)


def bomb(path: Path, kind: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    if kind == "zip":
        torch.save({"model_state_dict": {"a": Bomb()}, "state_dict": Bomb(), "facts": Bomb()}, path)
    elif kind == "legacy":
        torch.save({"model_state_dict": Bomb()}, path, _use_new_zipfile_serialization=False)
    else:
        path.write_bytes(pickle.dumps(Bomb()))
    return path


@pytest.mark.parametrize("kind", ["zip", "legacy", "pickle"])
def test_nothing_in_a_weights_file_is_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], kind: str
) -> None:
    monkeypatch.chdir(tmp_path)
    picture(20, 20).save("a.png")
    for name in ("upscaler_64to128.pt", "upscaler_64to128.safetensors"):
        file = bomb(tmp_path / name, kind)
        for words in (
            ["upscale", "a.png", "-m", str(file)],
            ["evaluate", ".", "-m", str(file)],
            ["export", str(file)],
        ):
            assert main(words) == 2
            assert f"{file} must be a weights file; the file is damaged or of another kind" in capsys.readouterr().err
        with pytest.raises(InputError):
            Upscaler.load(file)
        with pytest.raises(InputError):
            publish(file, tmp_path / "checkpoints")
    bomb(Path("outputs/checkpoints/upscaler_64to128.pt"), kind)
    assert main(["upscale", "a.png", "-m", "outputs/checkpoints"]) == 2
    assert not Path("exploded").exists()


@pytest.mark.parametrize(
    "kind", ["zip", *(pytest.param(kind, marks=pytest.mark.slow) for kind in ("legacy", "pickle"))]
)
def test_nothing_that_a_training_reads_is_run(run: Runner, tmp_path: Path, kind: str) -> None:
    first = run(name="first")
    file = bomb(tmp_path / "some.ckpt", kind)
    for number, words in enumerate(
        (
            [f"ckpt_path={file}"],
            [f"ckpt_path={file}", "train=false"],
            ["stage=64to512", f"stage.checkpoints.upsample_64={file}"],
            ["stage=128to256", "stage.inputs=previous", f"stage.checkpoints.upsample_64={file}"],
        )
    ):
        result = run(*words, name=f"run {number}".replace(" ", ""))
        assert result.code == 2
        assert f"{file} must be a" in result.stderr
    bomb(first.folder / "checkpoints" / "last.ckpt", kind)
    assert run("ckpt_path=last", name="first").code == 2
    # At its end a run reads its best checkpoint, and compares its weights with the file that is published already.
    bomb(tmp_path / "checkpoints" / "upscaler_64to128.pt", kind)
    result = run(name="another")
    assert result.code == 0, result.stderr
    assert "cannot be compared with this run's weights" in result.log
    assert not (tmp_path / "exploded").exists()


def test_nothing_that_a_file_names_is_instantiated(run: Runner, tmp_path: Path, networks: Path) -> None:
    """Hydra's key `_target_` in a weights file or in a checkpoint calls nothing."""
    wish = {"_target_": "os.mkdir", "path": str(tmp_path / "exploded")}
    content = torch.load(networks / "upscaler_64to128.pt", weights_only=True)
    file = tmp_path / "w.pt"
    torch.save({**content, "model_args": wish}, file)
    result = run("stage=64to512", f"stage.checkpoints.upsample_64={file}")
    assert result.code == 2
    assert f"{file} cannot be rebuilt. Upsampler does not take the arguments" in result.stderr
    first = run(name="first")
    last = first.folder / "checkpoints" / "last.ckpt"
    content = torch.load(last, weights_only=True)
    facts = content["hyper_parameters"]["facts"]
    facts["earlier"] = {"upsample_64": {"model": "Upsampler", "model_args": wish, "path": "a", "sha256": "b"}}
    torch.save({**content, "hyper_parameters": {"facts": facts, **wish}}, last)
    assert run("ckpt_path=last", name="first").code == 2
    assert not (tmp_path / "exploded").exists()


def test_urls_are_not_opened(run: Runner) -> None:
    result = run("ckpt_path='https://example.com/last.ckpt'")
    assert result.code == 2
    assert "must name a file on this machine; got https://example.com/last.ckpt. Download the file" in result.stderr


PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8) | st.binary(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8) | st.integers(), inner, max_size=3),
    max_leaves=6,
)
KEYS = st.sampled_from(
    ["model", "model_args", "stage", "factor", "format", "pixel_range", "model_state_dict", "sha256"]
)


@pytest.fixture(scope="module")
def weights_file(networks: Path) -> tuple[dict[str, Any], bytes]:
    path = networks / "upscaler_64to128.pt"
    return torch.load(path, weights_only=True), path.read_bytes()


def offer(path: Path, data: bytes) -> None:
    """Write `data` to `path` and load the file as weights. It must load, or an error must name the file."""
    path.write_bytes(data)
    try:
        model, _ = load_weights(path)
    except InputError as error:
        assert str(path) in str(error)
    else:
        Upscaler.load(path)
        assert all(torch.isfinite(value).all() for value in model.state_dict().values())


def check_facts(path: Path, content: dict[str, Any], changes: dict[str, Any]) -> None:
    buffer = io.BytesIO()
    torch.save({**content, **changes}, buffer)
    offer(path, buffer.getvalue())


def check_bytes(path: Path, data: bytes, seed: int, cut: float) -> None:
    """Cut `data`, change up to eight bytes, and `offer` the result.

    Most changes are near the beginning or the end, where file formats keep their headers and tables.
    """
    choose = random.Random(seed)
    changed = bytearray(data[: int(cut * len(data))] if cut < 1 else data)
    for _ in range(choose.randint(0, 8)):
        if changed:
            place = choose.choice((choose.randrange(len(changed)), min(choose.randrange(400), len(changed) - 1)))
            place = choose.choice((place, len(changed) - 1 - place))
            changed[place] = choose.choice((0, 255, changed[place] ^ 1, choose.randrange(256)))
    offer(path, bytes(changed))


SEEDS, CUTS = st.integers(0, 2**32), st.one_of(st.just(1.0), st.floats(0, 1))


@QUICK
@given(changes=st.dictionaries(KEYS, PLAIN, max_size=3))
@example(changes={"format": 2})
@example(changes={"stage": "0to0"})
@example(changes={"stage": "9" * 5000 + "to1"})
def test_weights_with_other_facts(tmp_path: Path, weights_file: tuple[dict[str, Any], bytes], changes: Any) -> None:
    check_facts(tmp_path / "w.pt", weights_file[0], changes)


@QUICK
@given(seed=SEEDS, cut=CUTS)
def test_weights_with_other_bytes(
    tmp_path: Path, weights_file: tuple[dict[str, Any], bytes], seed: int, cut: float
) -> None:
    check_bytes(tmp_path / "w.pt", weights_file[1], seed, cut)


@QUICK
@given(seed=SEEDS, cut=CUTS)
def test_safetensors_with_other_bytes(tmp_path: Path, networks: Path, seed: int, cut: float) -> None:
    good = tmp_path / "good.safetensors"
    if not good.exists():
        assert main(["export", str(networks / "upscaler_64to128.pt"), "-o", str(good)]) == 0
    check_bytes(tmp_path / "w.safetensors", good.read_bytes(), seed, cut)


def test_errors_explain_unsuitable_weights(tmp_path: Path, weights_file: tuple[dict[str, Any], bytes]) -> None:
    content, _ = weights_file
    state = content["model_state_dict"]
    name = "fw.0.weight"
    without = {key: value for key, value in state.items() if key != name}
    for changes, sentence in (
        ({"format": 7}, "has format 7; this version of upscale_lit reads formats up to 1. Update upscale_lit."),
        ({"model_state_dict": without}, f"such as {name}: nothing in the file, (16, 3, 5, 5) in the network"),
        ({"model_state_dict": {**state, "more": torch.zeros(3)}}, "such as more: (3,) in the file, nothing in the"),
        ({"model_state_dict": {**state, name: torch.zeros(1)}}, f"1 tensor(s) differ, such as {name}: (1,) in the"),
        ({"model_state_dict": {**state, name: state[name] * torch.nan}}, f"weights that are not finite ({name})"),
        ({"model_state_dict": {**state, name: 3}}, "the file holds no model_state_dict of tensors"),
        ({"stage": 3}, "must name its stage, such as 64to128; got 3"),
    ):
        path = tmp_path / "w.pt"
        torch.save({**content, **changes}, path)
        with pytest.raises(InputError) as caught:
            load_weights(path)
        assert str(path) in str(caught.value)
        assert sentence in str(caught.value)


def test_incomplete_checkpoints(run: Runner, tmp_path: Path) -> None:
    last = run().folder / "checkpoints" / "last.ckpt"
    content = torch.load(last, weights_only=True)
    for name in ("loops", "optimizer_states", "callbacks", "hyper_parameters"):
        torch.save({**content, name: None}, tmp_path / "c.ckpt")
        with pytest.raises(InputError, match=rf"c\.ckpt must be a checkpoint of a run .*; it holds no {name}"):
            read_checkpoint(tmp_path / "c.ckpt")
    assert own_file(tmp_path, "64to128", {"model": "Upsampler", "model_args": {}}, 1, []) is None


KEPT = (
    "loops",
    "optimizer_states",
    "lr_schedulers",
    "callbacks",
    "UpscaleDataModule",
    "state_dict",
    "hyper_parameters",
)


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[] if name == "loops" else pytest.mark.slow) for name in (*KEPT, "epochs")]
)
def test_checkpoints_with_other_contents(run: Runner, name: str) -> None:
    """An entry of the checkpoint is empty, or has another content than Lightning expects."""
    last = run("trainer.max_steps=3", "trainer.max_epochs=-1").folder / "checkpoints" / "last.ckpt"
    content = torch.load(last, weights_only=True)
    empty = type(content[name])() if name in content else None
    for value in (empty, [{"param_groups": []}] if isinstance(empty, list) else {"facts": {}, "fit_loop": 3}):
        more = {"trainer.max_epochs=1"} if name == "epochs" else {"trainer.max_steps=4", "trainer.max_epochs=-1"}
        torch.save({**content, name: value}, last)
        result = run(*more, "ckpt_path=last")
        assert result.code in (0, 2), result.stderr
        assert "Traceback" not in result.stderr
        assert result.code == 0 or str(last) in result.stderr or "The checkpoint" in result.stderr


SMALL = 0.3  # megapixels; files that claim more are refused


@pytest.fixture
def small_limit() -> Any:
    limit_pixels(SMALL)
    yield
    limit_pixels(180)


def samples() -> dict[str, bytes]:
    """Return a small picture in each format and mode, and in variants that are decoded differently."""
    found = {}
    image = picture(37, 29)
    kinds: list[tuple[str, str, dict[str, Any]]] = [
        (format_, mode, {}) for format_ in FORMATS for mode in MODES[format_]
    ]
    kinds += [
        ("JPEG", "RGB", {"progressive": True}), ("JPEG", "CMYK", {}), ("PNG", "P", {}), ("PNG", "1", {}),
        ("TIFF", "RGB", {"compression": "tiff_lzw"}), ("TIFF", "CMYK", {}), ("TIFF", "1", {"compression": "group4"}),
        ("WEBP", "RGBA", {"lossless": True}), ("BMP", "P", {}), ("TIFF", "RGB", {"compression": "jpeg"}),
    ]  # fmt: skip
    exif = Image.Exif()
    exif[0x0112] = 6
    for format_, mode, options in kinds:
        grey = Image.fromarray(np.asarray(image.convert("L")).astype(np.uint16) * 257)
        buffer = io.BytesIO()
        (grey if mode == "I;16" else image.convert(mode)).save(buffer, format_, exif=exif, **options)
        found[" ".join([format_, mode, *map(str, options.values())])] = buffer.getvalue()
    return found


SAMPLES = samples()


def check_picture(folder: Path, name: str, seed: int, cut: float) -> None:
    """Damage a picture and read it as check, training and upscaling do: it is read, or an error names the file."""
    choose = random.Random(seed)
    data = SAMPLES[name]
    changed = bytearray(data[: int(cut * len(data))] if cut < 1 else data)
    for _ in range(choose.randint(0, 6)):
        if not changed:
            break
        place = min(choose.randrange(len(changed)), choose.randrange(2 * len(changed)))
        match choose.randrange(4):
            case 0:
                changed[place] = choose.randrange(256)
            case 1:  # sides and lengths are often numbers of four bytes
                changed[place : place + 4] = struct.pack(
                    choose.choice("<>") + "I", choose.choice((0, 1, 2**16, 2**31, 2**32 - 1))
                )
            case 2:
                del changed[place : place + choose.randint(1, 20)]
            case 3:
                changed[place:place] = changed[: choose.randint(1, 40)]
    path = folder / f"damaged.{name.split()[0].lower()}"
    path.write_bytes(changed)
    for read in (lambda: read_photo(path), lambda: read_photo(path, keep=32)):
        try:
            photo, levels = read()
        except InputError as error:
            assert str(path) in str(error)
        else:
            assert levels[0].dtype == np.uint8
            assert levels[0].shape[:2] == photo.kept
    try:
        image, _ = read_picture(path)
    except InputError as error:
        assert str(path) in str(error)
    else:
        assert image.mode in ("L", "LA", "RGB", "RGBA", "I;16")
        save_picture(image, folder / f"out{path.suffix}".replace("jpeg", "jpg"))


def damaged(limits: settings) -> Callable[[Any], Any]:
    return lambda test: limits(given(name=st.sampled_from(sorted(SAMPLES)), seed=SEEDS, cut=CUTS)(test))


@pytest.mark.usefixtures("small_limit")
@damaged(settings(QUICK, max_examples=300))
def test_damaged_pictures(tmp_path: Path, name: str, seed: int, cut: float) -> None:
    check_picture(tmp_path, name, seed, cut)


@pytest.mark.slow
@pytest.mark.usefixtures("small_limit")
def test_thousands_of_damaged_pictures(tmp_path: Path) -> None:
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss

    @damaged(settings(QUICK, max_examples=6000))
    def many(name: str, seed: int, cut: float) -> None:
        check_picture(tmp_path, name, seed, cut)

    many()
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 300e3  # KB


def test_a_folder_of_damaged_pictures(
    run: Runner, tmp_path: Path, networks: Path, capsys: pytest.CaptureFixture[str], small_limit: None
) -> None:
    """The commands check, train and upscale handle a folder of damaged pictures."""
    folder = tmp_path / "photos"
    folder.mkdir()
    for seed, name in enumerate(sorted(SAMPLES) * 3):
        check_picture(folder, name, seed, 1.0)
        damaged_file = next(folder.glob("damaged.*"))
        damaged_file.rename(folder / f"{seed}{damaged_file.suffix}")
        for leftover in folder.glob("out.*"):
            leftover.unlink()
    for seed in range(12):
        picture(80, 72, seed).save(folder / f"good {seed}.png")
    files = len(list(folder.iterdir()))
    assert main(["check", str(folder), "--crop", "32", "--val-fraction", "0.3"]) == 0
    words = ["data=folder", f"data.root={folder}", "data.val_fraction=0.3", "data.max_megapixels=0.3"]
    assert run(*words).code == 0
    capsys.readouterr()
    weights = str(networks / "upscaler_64to128.pt")
    assert main(["upscale", str(folder), "-o", str(tmp_path / "big"), "-m", weights, "--max-megapixels", "1"]) == 1
    captured = capsys.readouterr()
    counts = captured.out.splitlines()[-1].split()
    assert int(counts[0]) + int(counts[2]) == files
    assert len(list((tmp_path / "big").iterdir())) == int(counts[0]) >= 12
    assert int(counts[2]) >= 20
    assert "Traceback" not in captured.err


RAW = ("1", "L", "LA", "La", "P", "PA", "RGB", "RGBA", "RGBa", "RGBX", "CMYK", "YCbCr", "LAB", "HSV", "I;16", "I", "F")


@pytest.fixture(scope="module")
def upscaler(networks: Path) -> Upscaler:
    return Upscaler.load(networks / "upscaler_64to128.pt")


@settings(QUICK, max_examples=100)
@given(mode=st.sampled_from(RAW), width=st.integers(1, 40), height=st.integers(1, 40), seed=SEEDS)
def test_any_size_and_mode(upscaler: Upscaler, mode: str, width: int, height: int, seed: int) -> None:
    size = {"I;16": 2, "I": 4, "F": 4, "1": 1}.get(mode, len(Image.new(mode, (1, 1)).getbands()))
    count = (width + 7) // 8 * height if mode == "1" else width * height * size
    image = Image.frombytes(mode, (width, height), random.Random(seed).randbytes(count))
    try:
        result = upscaler(image)
    except InputError as error:
        assert mode in ("I", "F")
        assert f"mode {mode} defines no black and white" in str(error)
    else:
        assert result.size == (2 * width, 2 * height)
        assert result.mode == upright(image)[0].mode


def test_the_limit_of_pixels_can_be_set(tmp_path: Path, run: Runner, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "photos"
    folder.mkdir()
    for seed in range(3):
        picture(1100, 1000, seed).save(folder / f"{seed}.png")
    assert main(["check", str(folder), "--max-megapixels", "1"]) == 1
    assert "or raise the limit: data.max_megapixels, --max-megapixels" in capsys.readouterr().out
    assert main(["check", str(folder), "--max-megapixels", "2"]) == 0
    words = ["data=folder", f"data.root={folder}", "data.val_fraction=0.4"]
    refused = run(*words, "data.max_megapixels=1", name="refused")
    assert refused.code == 2
    assert "No picture in" in refused.stderr
    assert run(*words, "data.max_megapixels=2", name="taken").code == 0  # the cache does not keep the refusal


def test_outputs_stay_below_their_folder(tmp_path: Path, networks: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "in").mkdir()
    picture(20, 20).save(tmp_path / "in" / "a.png")
    weights = str(networks / "upscaler_64to128.pt")
    assert main(["upscale", str(tmp_path / "in"), "--suffix", "/../../b", "-m", weights]) == 2
    assert "--suffix must be a part of a file's name; got '/../../b'" in capsys.readouterr().err
    (tmp_path / "...pt").write_bytes(Path(weights).read_bytes())
    out = tmp_path / "saved" / "here"
    assert main(["evaluate", str(tmp_path / "in"), "-m", str(tmp_path / "...pt"), "--save", str(out)]) == 0
    files = {path.relative_to(tmp_path / "saved").parts[0] for path in (tmp_path / "saved").rglob("*.png")}
    assert files == {"here"}
    assert len(list((out / "in").iterdir())) == 4


@QUICK
@given(data=st.lists(st.binary(max_size=30) | PLAIN.map(lambda value: repr(value).encode()), max_size=4))
def test_a_damaged_cache_is_read_again(tmp_path: Path, data: list[bytes]) -> None:
    from upscale_lit.data.cache import load_photos

    photo = tmp_path / "photos" / "a.png"
    if not photo.exists():
        photo.parent.mkdir()
        picture(40, 40).save(photo)
    load_photos([photo], photo.parent, 64, tmp_path / "cache", 1.0)
    index = next((tmp_path / "cache").glob("*/index.jsonl"))
    lines = index.read_bytes().split(b"\n")
    index.write_bytes(b"\n".join([lines[0], *data, b""]))
    found, troubles, _ = load_photos([photo], photo.parent, 64, tmp_path / "cache", 1.0)
    assert len(found) == 1
    assert not troubles
    assert json.loads(lines[0])
