"""Training and fine-tuning of a stack by train.py: the files of its stages, its metrics, and its weights files."""

import os
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import ROOT, Run
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from upscale_lit import resample
from upscale_lit.data.photo import read_photo
from upscale_lit.data.sources import sample_photos
from upscale_lit.data.validation import val_squares
from upscale_lit.inference.upscaler import Upscaler
from upscale_lit.launch.start import load_stages
from upscale_lit.metrics import psnr
from upscale_lit.models import STAGES, Compact, Upsampler, Upsampler8x, upscale
from upscale_lit.weights import load_weights, read_file, save_weights

Runner = Callable[..., Run]
ONE = "data.val_pairs=1"


def stage_files(folder: Path, **changes: Any) -> dict[str, Path]:
    """Write weights files of the three stages. Each holds the bicubic start with slightly different values."""
    paths = {}
    for number, (name, stage) in enumerate(STAGES.items()):
        torch.manual_seed(number)
        model = Upsampler()
        with torch.no_grad():
            model.fw[15].weight.mul_(1 + 0.01 * number)
        paths[name] = folder / f"upscaler_{stage}.pt"
        facts = {"model_args": {"start": "bicubic", "batch_norm": "frozen"}, "stage": stage, "factor": 2}
        save_weights(paths[name], model, {**facts, "kernel": "bicubic", "metrics": {"val/psnr": 99.0}, **changes})
    return paths


@pytest.fixture
def files(tmp_path: Path) -> dict[str, Path]:
    return stage_files(tmp_path / "checkpoints")


def test_a_complete_fine_tuning(run: Runner, tmp_path: Path, files: dict[str, Path]) -> None:
    result = run("stage=64to512")
    assert result.code == 0, result.stderr
    metrics = result.metrics
    assert metrics["model"] == "Upsampler8x"
    assert metrics["steps"] == 4
    for name, path in files.items():
        digest = read_file(path, "weights file")["sha256"]
        assert metrics["checkpoints"][name] == {"path": str(path), "sha256": digest}
        assert f"{path}   (Upsampler, sha256 {digest[:12]}" in result.log
    # The test measures the baselines and the chained stages again, on the same pairs.
    chained = Upsampler8x(**load_stages(files).stages)
    photos = [read_photo(path)[1][0] for path in sample_photos()[1]]
    values: dict[str, list[torch.Tensor]] = {"bilinear": [], "bicubic": [], "chained": []}
    for high in val_squares(photos, 512, 2, factor=8):
        low = resample.downscale(high, 8)
        for kernel in ("bilinear", "bicubic"):
            values[kernel].append(psnr(resample.interpolate(low, 8, kernel), high, shave=8))
        with torch.no_grad():
            values["chained"].append(psnr(upscale(chained.eval(), low), high, shave=8))
    for name, value in values.items():
        assert metrics[f"val/psnr_{name}"] == pytest.approx(torch.stack(value).mean().item(), abs=0.01)
        assert f"val/ssim_{name}" in metrics
    assert "chained" in result.log
    assert "fine-tuned" in result.log
    model, facts = load_weights(tmp_path / "checkpoints" / "upscaler_64to512.pt")
    assert isinstance(model, Upsampler8x)
    assert (facts["stage"], facts["factor"]) == ("64to512", 8)
    # The rows of the grid are the input (bilinear), chained, fine-tuned and ground truth.
    events = EventAccumulator(str(result.folder), size_guidance={"images": 0})
    events.Reload()
    assert [event.step for event in events.Images("input_chained_fine-tuned_truth")] == [0, 2, 4]
    first, last = (Image.open(result.folder / "grids" / f"step_00000{step}.png") for step in (0, 4))
    row = 514
    assert first.size == (2 * row + 2, 4 * row + 2)

    def cell(image: Image.Image, number: int) -> bytes:
        return image.crop((row, row * number, 2 * row, row * (number + 1))).tobytes()  # the column of the astronaut

    assert cell(first, 1) == cell(first, 2) == cell(last, 1)  # before the first step both rows are the chained stages
    assert cell(last, 2) != cell(last, 1)
    assert cell(first, 0) != cell(first, 1) != cell(first, 3)


def test_fine_tuning_never_publishes_worse_weights(run: Runner, tmp_path: Path, files: dict[str, Path]) -> None:
    result = run("stage=64to512", ONE, "optimizer.lr=0.5", "optimizer.warmup_steps=0")
    assert result.metrics["val/psnr"] == pytest.approx(result.metrics["val/psnr_chained"], abs=1e-6)
    assert "No validation was better than the chained stages" in result.log
    published, _ = load_weights(tmp_path / "checkpoints" / "upscaler_64to512.pt")
    chained = Upsampler8x(**load_stages(files).stages)
    states = published.state_dict(), chained.state_dict()
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[1])


@pytest.mark.slow
def test_resuming_needs_no_stage_files(run: Runner, files: dict[str, Path]) -> None:
    first = run("stage=64to512", ONE, "trainer.max_epochs=1")
    for path in files.values():
        path.unlink()
    second = run("stage=64to512", ONE, "ckpt_path=last", "trainer.max_epochs=2")
    assert second.code == 0, second.stderr
    assert second.metrics["steps"] == 4
    assert second.metrics["checkpoints"] == first.metrics["checkpoints"]
    assert second.metrics["val/psnr_chained"] == pytest.approx(first.metrics["val/psnr_chained"], abs=1e-6)
    only = run("stage=64to512", ONE, "train=false", f"ckpt_path={second.folder}/checkpoints/last.ckpt", name="measured")
    assert only.metrics["val/psnr_chained"] == pytest.approx(first.metrics["val/psnr_chained"], abs=1e-6)


def test_another_file_for_a_stage(run: Runner, tmp_path: Path, files: dict[str, Path]) -> None:
    other = stage_files(tmp_path / "other")["upsample_128"]
    result = run("stage=64to512", f"stage.checkpoints.upsample_128={other}", ONE, "train=false")
    assert result.metrics["checkpoints"]["upsample_128"]["path"] == str(other)
    assert result.metrics["checkpoints"]["upsample_64"]["path"] == str(files["upsample_64"])
    assert result.metrics["steps"] == 0


class Bomb:
    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, ("exploded",)


def test_an_unsuitable_file_is_refused(run: Runner, tmp_path: Path, files: dict[str, Path]) -> None:
    path = files["upsample_128"]

    def refused(*overrides: str) -> str:
        result = run("stage=64to512", *overrides)
        assert result.code == 2
        assert "Traceback" not in result.stderr
        assert str(path) in result.stderr
        assert f"Train this stage with `python {ROOT}/train.py stage=128to256" in result.stderr
        assert "stage.checkpoints.upsample_128=FILE" in result.stderr
        return result.stderr

    whole = path.read_bytes()
    path.write_bytes(whole[:3000])
    assert "damaged" in refused()
    path.write_bytes(files["upsample_256"].read_bytes())
    assert "must hold weights of stage 128to256; it holds weights of stage 256to512" in refused()
    path.write_bytes(
        stage_files(tmp_path / "x", pixel_range={"mean": 0.0, "scale": 255.0})["upsample_128"].read_bytes()
    )
    assert "works in the pixel range" in refused()
    path.write_bytes(pickle.dumps({"model_state_dict": Bomb()}))
    assert "damaged or of another kind" in refused()
    torch.save({"model_state_dict": Bomb()}, path)
    assert "damaged or of another kind" in refused()
    assert not Path("exploded").exists()
    path.unlink()
    assert "There is no weights file at" in refused("seed=3")
    assert "stage=128to256" in refused("data.region=[0,0.5]")
    path = tmp_path / "own.pt"
    assert "There is no weights file at" in refused(f"stage.checkpoints.upsample_128={path}")


@pytest.mark.parametrize(
    ("stage", "names"), [("64to128", 0), ("128to256", 1), pytest.param("256to512", 2, marks=pytest.mark.slow)]
)
def test_inputs_from_previous_stages(run: Runner, files: dict[str, Path], stage: str, names: int) -> None:
    photos, previous = (run(f"stage={stage}", f"stage.inputs={i}", ONE, name=i) for i in ("photos", "previous"))
    assert previous.code == 0, previous.stderr
    assert list(previous.metrics["checkpoints"]) == list(files)[:names]
    assert photos.metrics["checkpoints"] == {}
    # Validation pairs differ if there are earlier stages, whose outputs are the inputs.
    assert (previous.metrics["val_pairs"] == photos.metrics["val_pairs"]) == (names == 0)
    for path in files.values():
        path.unlink(missing_ok=True)
    again = run(
        f"stage={stage}", "stage.inputs=previous", ONE, "ckpt_path=last", "trainer.max_epochs=3", name="previous"
    )
    assert again.code == 0, again.stderr
    assert again.metrics["val_pairs"] == previous.metrics["val_pairs"]


AT_ONCE = ["stage=64to512_at_once", "model=compact", "model.width=4", "model.depth=1", ONE]


def test_a_stack_from_untrained_networks(run: Runner, tmp_path: Path) -> None:
    joint = run(*AT_ONCE, name="joint")
    assert joint.code == 0, joint.stderr
    assert joint.metrics["steps"] == 4
    assert joint.metrics["checkpoints"] == {}
    assert "val/psnr_chained" not in joint.metrics
    assert "upsample_256  untrained   (Compact)" in joint.log
    model, facts = load_weights(tmp_path / "checkpoints" / "upscaler_64to512.pt")
    assert isinstance(model, Upsampler8x)
    assert (facts["stage"], facts["factor"]) == ("64to512", 8)
    for stage in model.stages:  # the last layer starts at zero: each stage has learnt
        assert stage.body[-1].weight.abs().max() > 0
    first, second, third = (stage.body[0].weight for stage in model.stages)
    assert not torch.equal(first, second)
    assert not torch.equal(second, third)
    # A loss at each level gives other weights than a loss at the last level alone.
    last = run(*AT_ONCE, "stage.level_weights=null", name="last")
    assert last.metrics["val/psnr"] != joint.metrics["val/psnr"]
    # A run that is stopped after two steps and resumed ends like an uninterrupted run.
    run(*AT_ONCE, "trainer.max_steps=2", "optimizer.schedule=constant", name="twice")
    twice = run(*AT_ONCE, "optimizer.schedule=constant", "ckpt_path=last", name="twice")
    once = run(*AT_ONCE, "optimizer.schedule=constant", name="once")
    assert twice.metrics["val/psnr"] == once.metrics["val/psnr"]
    other = run("stage=64to512", *AT_ONCE[1:], "ckpt_path=last", name="twice")
    assert "belongs to a run with stage.stack=untrained; this run has stage.stack=trained" in other.stderr
    # This stack can be fine-tuned, too. The metrics named chained are then those of the stack before fine-tuning.
    tuned = run("stage=64to512", *AT_ONCE[1:], f"model.weights={joint.folder}/upscaler_64to512.pt", name="tuned")
    assert tuned.code == 0, tuned.stderr
    assert tuned.metrics["val/psnr_chained"] == pytest.approx(joint.metrics["val/psnr"], abs=1e-6)


def test_one_network_from_64_to_512(run: Runner, tmp_path: Path) -> None:
    one = ["model=compact_8x", "model.width=8", "model.depth=1", ONE]
    result = run("stage=64to512_at_once", "stage.level_weights=null", *one, name="one")
    assert result.code == 0, result.stderr
    assert (result.metrics["model"], result.metrics["steps"]) == ("Compact", 4)
    assert result.metrics["model_args"] == {"width": 8, "depth": 1, "factor": 8}
    file = tmp_path / "checkpoints" / "upscaler_64to512.pt"
    model, _ = load_weights(file)
    picture = Image.new("RGB", (12, 9), (10, 200, 30))
    assert Upscaler.load(file)(picture).size == (96, 72)
    tuned = run("stage=64to512", *one, f"model.weights={file}", name="tuned")
    assert tuned.code == 0, tuned.stderr
    assert tuned.metrics["weights"]["path"] == str(file)
    assert isinstance(model, Compact)
    again = run("stage=64to512", *one, "ckpt_path=last", "trainer.max_epochs=3", name="tuned")
    assert again.metrics["steps"] == 6


@pytest.mark.parametrize(("overrides", "message"), [
    (["stage=64to128", "model=compact_8x"], "model.factor=8 does not fit stage=64to128, which enlarges pictures by 2"),
    (["stage=64to512_at_once", "model=compact_8x"], "stage.level_weights=[1, 1, 1] needs a stack"),
    (["stage=64to512", "stage.stack=new"], 'stage.stack must be one of trained, untrained; got "new"'),
    ([*AT_ONCE, "model.weights=compact"], "stage.stack=untrained must start without weights; got model.weights=com"),
    (["stage=64to512", "model=compact_8x", "stage.level_weights=[1]"], "Give stage.level_weights=null"),
])  # fmt: skip
def test_invalid_stacks(run: Runner, overrides: list[str], message: str) -> None:
    result = run(*overrides)
    assert result.code == 2
    assert message in result.stderr


@pytest.mark.slow
def test_other_ways_to_train(run: Runner, files: dict[str, Path]) -> None:
    augmented = run("stage=128to256", ONE, "degradation=blur_noise", name="a")
    clean = run("stage=128to256", ONE, name="b")
    assert augmented.metrics["val/psnr"] != clean.metrics["val/psnr"]
    assert augmented.metrics["val/psnr_bicubic"] == clean.metrics["val/psnr_bicubic"]  # the clean pairs are the same
    levels = run("stage=64to512", ONE, "stage.level_weights=[0.2,0.5,1]", name="c")
    last = run("stage=64to512", ONE, name="d")
    assert levels.code == last.code == 0
    assert levels.metrics["val/psnr"] != last.metrics["val/psnr"]
    accumulated = run("stage=64to512", ONE, "trainer.accumulate_grad_batches=2", name="e")
    assert accumulated.metrics["steps"] == 2
    for overrides, message in (
        (["stage=64to512", "stage.level_weights=[1,2]"], "for each of the 3 levels of a stack"),
        (["stage=128to256", "stage.inputs=guesses"], "stage.inputs must be one of photos, previous"),
        (["stage=64to512", "data.crop=40"], "data.crop must be a multiple of 32"),
    ):
        result = run(*overrides, name="mistake")
        assert result.code == 2
        assert message in result.stderr


@pytest.mark.parametrize(("name", "model", "changes"), [
    ("compact", "Compact", ["model.width=4"]),
    pytest.param("compact_large", "Compact", ["model.width=4"], marks=pytest.mark.slow),
    pytest.param("compact_photo", "Compact", [], marks=pytest.mark.slow),
    pytest.param("reference", "Upsampler", [], marks=pytest.mark.slow),
])  # fmt: skip
def test_one_command_trains_a_complete_set(
    run: Runner, tmp_path: Path, folder: Path, name: str, model: str, changes: list[str]
) -> None:
    sweep = f"hydra.sweep.dir={tmp_path / 'sweep'}"
    result = run(f"experiment={name}", f"data.root={folder}", sweep, "trainer.max_epochs=3", *changes)
    assert result.code == 0, result.stderr
    _, facts = load_weights(tmp_path / "checkpoints" / "upscaler_64to512.pt")
    assert [part["model"] for part in facts["model_args"].values()] == [model] * 3
    assert facts["steps"] == 6
    assert {path.name for path in (tmp_path / "checkpoints").glob("*.pt")} == {
        f"upscaler_{stage}.pt" for stage in (*STAGES.values(), "64to512")
    }
