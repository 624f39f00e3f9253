"""upscale-lit --restore: weights between those of a clean and of a robust network, chosen for each picture."""

import copy
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import picture
from PIL import Image
from torch import nn

from upscale_lit import Upscaler, shipped
from upscale_lit.cli import main
from upscale_lit.errors import InputError
from upscale_lit.inference import choose
from upscale_lit.inference.quality import Lossy
from upscale_lit.inference.restore import JPEG, UNKNOWN, WEBP, automatic, interpolated
from upscale_lit.models import Compact
from upscale_lit.weights import load_weights, save_weights

STAGES = "64to128", "128to256"


def network(seed: int, **options: int) -> Compact:
    """Return a small network whose output is not bicubic upscaling."""
    torch.manual_seed(seed)
    model = Compact(**{"width": 3, "depth": 1, **options})
    nn.init.normal_(model.body[-1].weight, std=0.01)  # type: ignore[arg-type]
    return model.eval()


def written(folder: Path, seed: int, stages: tuple[str, ...] = STAGES, **options: int) -> Path:
    folder.mkdir()
    for number, stage in enumerate(stages):
        facts = {"model_args": {"width": 3, "depth": 1, **options}, "stage": stage, "factor": 2, "kernel": "bicubic"}
        save_weights(folder / f"upscaler_{stage}.pt", network(seed + number, **options), facts)
    return folder


@pytest.fixture
def sets(tmp_path: Path) -> tuple[Path, Path]:
    return written(tmp_path / "clean", 0), written(tmp_path / "robust", 5)


def pixels(path: Path) -> Any:
    return np.array(Image.open(path))


def test_interpolated_weights() -> None:
    clean, robust = network(0), network(1)
    before = copy.deepcopy(clean.state_dict())
    for amount in (0.0, 0.3, 1.0):
        made = interpolated(clean, robust, amount)
        for name, value in made.state_dict().items():
            expected = (1 - amount) * before[name] + amount * robust.state_dict()[name]
            torch.testing.assert_close(value, expected)
            assert torch.equal(clean.state_dict()[name], before[name])


def test_the_counter_of_batch_norm() -> None:
    clean, robust = nn.BatchNorm2d(2), nn.BatchNorm2d(2)
    robust(torch.randn(4, 2, 8, 8))
    made = interpolated(clean, robust, 0.5)
    assert made.num_batches_tracked == 0
    torch.testing.assert_close(made.running_mean, robust.running_mean / 2)


def test_automatic_amounts() -> None:
    """Stronger compression never gets a smaller amount. Pictures without compression get 0."""
    assert {automatic(None, scale) for scale in (2, 3, 4, 8)} == {0.0}
    assert {automatic(Lossy(codec, None), 2) for codec in ("JPEG", "WebP")} == {UNKNOWN}
    for scale in (2, 4, 8):
        jpeg = [automatic(Lossy("JPEG", quality), scale) for quality in range(1, 101)]
        webp = [automatic(Lossy("WebP", index), scale) for index in range(128)]
        assert jpeg == sorted(jpeg, reverse=True)
        assert webp == sorted(webp)
        assert all(amount in [tenth / 10 for tenth in range(11)] for amount in (*jpeg, *webp))
        for codec, rows in (("JPEG", JPEG), ("WebP", WEBP)):
            for level, amount in rows[scale]:
                assert automatic(Lossy(codec, level), scale) == pytest.approx(amount, abs=0.05)


def test_the_command_line(sets: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    clean, robust = sets
    picture(40, 30).save(tmp_path / "a.png")
    picture(40, 30).save(tmp_path / "b.jpg", quality=60)
    picture(40, 30).convert("CMYK").save(tmp_path / "c.jpg", quality=60)
    files = [str(tmp_path / name) for name in ("a.png", "b.jpg", "c.jpg")]

    def upscaled(*words: str, scale: int = 2) -> list[Any]:
        assert main(["upscale", *files, "-s", f"{scale}", "-o", f"{tmp_path}/o", "--ext", "png", *words]) == 0
        names = [f"a_x{scale}.png", f"b_x{scale}.png", f"c_x{scale}.png"]
        return [pixels(tmp_path / "o" / name) for name in names]

    pair = ["-m", str(clean), "--restore-with", str(robust)]
    chosen = upscaled(*pair)
    log = capsys.readouterr().out
    assert "restore 0 (no lossy compression)" in log
    amount = automatic(Lossy("JPEG", 60), 2)
    assert log.count(f"restore {amount:g} (JPEG quality 60)") == 2
    for restore in (0.0, amount, 1.0):
        fixed = upscaled(*pair, "--restore", f"{restore}")
        assert capsys.readouterr().out.count(f", restore {restore:g},") == 3
        for number, own in ((0, 0.0), (1, amount), (2, amount)):
            assert np.array_equal(chosen[number], fixed[number]) == (restore == own)
    plain = upscaled("-m", str(clean))
    assert "restore" not in capsys.readouterr().out
    for made, expected in zip(upscaled(*pair, "--restore", "0"), plain, strict=True):
        assert np.array_equal(made, expected)
    for made, expected in zip(upscaled(*pair, "--restore", "1"), upscaled("-m", str(robust)), strict=True):
        assert np.array_equal(made, expected)
    mixed = upscaled(
        "-m", str(robust / "upscaler_64to128.pt"), str(clean / "upscaler_128to256.pt"), "--restore", "0", scale=4
    )
    for made, expected in zip(upscaled(*pair, "--restore", "1", scale=4), mixed, strict=True):
        assert np.array_equal(made, expected)  # only the first network of the chain restores


def test_amounts_are_rounded(sets: tuple[Path, Path]) -> None:
    clean, robust = sets
    upscaler = Upscaler.load(clean, restore=0.449, restore_with=robust)
    assert upscaler.amount(None) == 0.4
    image = picture(20, 20)
    upscaler(image)
    upscaler(image)
    assert len(upscaler._chains) == 1


def test_python(sets: tuple[Path, Path], tmp_path: Path) -> None:
    """A JPEG is restored if Pillow has opened it from a file. Arrays, and pictures without a file, are not."""
    clean, robust = sets
    path = tmp_path / "a.jpg"
    picture(40, 30).save(path, quality=50)
    low = pixels(path)
    chosen = Upscaler.load(clean, restore_with=[robust])
    amount = automatic(Lossy("JPEG", 50), 2)
    never, always = (Upscaler.load(clean, restore_with=robust, restore=value) for value in (0, amount))
    assert not np.array_equal(never(low), always(low))
    assert np.array_equal(chosen(low), never(low))
    assert np.array_equal(np.array(chosen(Image.fromarray(low))), never(low))
    assert np.array_equal(np.array(chosen(Image.open(path))), always(low))
    assert "lossy" not in chosen(Image.open(path)).info  # this describes the input, not the result
    assert np.array_equal(Upscaler.load(clean)(low), never(low))
    tensor = torch.from_numpy(low).permute(2, 0, 1)[None]
    assert torch.equal(chosen.tensor(tensor, Lossy("JPEG", 50)), always.tensor(tensor))


def test_the_shipped_sets() -> None:
    found = choose.find([])
    assert [each.path.parent.name for each in found] == [shipped.DEFAULT] * 4
    for each in found:
        expected, facts = load_weights(shipped.folder("compact_photo") / each.path.name)
        assert each.robust is not None
        assert facts["stage"] == each.stage
        for name, value in each.robust.state_dict().items():
            assert torch.equal(value, expected.state_dict()[name])
    assert all(each.robust is None for each in choose.find([Path("compact_photo")]))


def test_the_folder_of_the_shipped_set(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The robust set is found by any path to the clean set, but not for a folder that only has its name."""
    monkeypatch.chdir(shipped.FOLDER.parent)
    for place in ("trained/compact", "trained/compact/upscaler_64to128.safetensors"):
        assert all(each.robust is not None for each in choose.find([Path(place)]))
    (tmp_path / "trained").mkdir()
    copy_of = shutil.copytree(shipped.folder("compact"), tmp_path / "trained" / "compact")
    assert all(each.robust is None for each in choose.find([copy_of]))


@pytest.mark.parametrize("value", ["-0.1", "1.1", "nan", "x"])
def test_impossible_amounts(value: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main(["upscale", "a.png", f"--restore={value}"])
    assert stop.value.code == 2
    assert re.search(r"must be a number from 0 and up to 1; got", capsys.readouterr().err)
    for wrong in [value] if value == "x" else [value, float(value), np.float32(value)]:
        with pytest.raises(InputError, match=r"restore must be a number from 0 and up to 1; got"):
            Upscaler.load(restore=wrong)


def test_arguments_in_python() -> None:
    clean = network(0)
    assert Upscaler([clean], restore=0.04).amount(None) == 0  # rounded to 0, which needs no robust weights
    assert Upscaler([clean], robust=network(1), restore=np.float32(0.5)).amount(None) == 0.5
    for robust in (network(1, width=4), nn.Conv2d(3, 3, 3), "compact_photo"):
        with pytest.raises(InputError, match=r"robust must be a network like the first one, Compact; "):
            Upscaler([clean], robust=robust)  # type: ignore[arg-type]
    assert Upscaler.load(restore_with=None).robust is not None
    with pytest.raises(InputError, match=r"restore_with must be a path or a list of paths; got 5"):
        Upscaler.load(restore_with=5)  # type: ignore[arg-type]


def test_no_robust_weights(sets: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    picture(40, 30).save(tmp_path / "a.png")
    assert main(["evaluate", "--compare", str(tmp_path), str(tmp_path), "--restore", "0"]) == 2
    assert "Leave out everything else" in capsys.readouterr().err
    for command in ("upscale", "evaluate"):
        target = tmp_path / "a.png" if command == "upscale" else tmp_path
        assert main([command, str(target), "-m", str(sets[0]), "--restore", "0.5"]) == 2
        error = capsys.readouterr().err
        assert "restore must be 0 for networks without robust weights; got 0.5" in error
        assert "--restore-with WEIGHTS" in error


def test_robust_weights_that_do_not_fit(sets: tuple[Path, Path], tmp_path: Path) -> None:
    clean, robust = sets
    wider = written(tmp_path / "wider", 0, width=4)
    with pytest.raises(InputError, match=r"wider.*128\.pt must have the architecture of .*tensor\(s\) differ"):
        choose.find([clean], [wider])
    with pytest.raises(InputError, match=r"one network for the stage 128to256, as .*; got .*\(64to128\)\. Name"):
        choose.find([clean], [robust / "upscaler_64to128.pt"])
    with pytest.raises(InputError, match=r"one network for the stage 64to128, as"):
        choose.find([clean / "upscaler_64to128.pt"], [robust, robust])
    found = choose.find([clean / "upscaler_64to128.pt"], [robust])
    assert found[0].robust is not None


def test_evaluate(sets: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """evaluate measures what upscale does: the same choice, from the tables of the degraded picture."""
    clean, robust = sets
    (tmp_path / "set").mkdir()
    picture(96, 80).save(tmp_path / "set" / "a.png")

    def figures(*words: str) -> list[str]:
        pair = ["-m", str(clean / "upscaler_64to128.pt"), "--restore-with", str(robust)]
        assert main(["evaluate", str(tmp_path / "set"), "-s", "2", *pair, *words]) == 0
        return [line.split("|")[4] for line in capsys.readouterr().out.splitlines() if "upscaler_" in line]

    ways = ["clean", "jpeg:60", "webp:90", "noise:9"]
    chosen = figures("--degrade", *ways)
    fixed = {amount: figures("--degrade", *ways, "--restore", f"{amount}") for amount in np.arange(11) / 10}
    lossy = [None, Lossy("JPEG", 60), Lossy("WebP", 12), None]
    assert chosen == [fixed[automatic(each, 2)][number] for number, each in enumerate(lossy)]
    assert len({column[1] for column in fixed.values()}) > 1
