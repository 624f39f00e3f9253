"""Complete runs of train.py with tiny settings."""

import csv
import io
import json
import os
import subprocess
import sys
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import ROOT, TINY, Run, data_module, pets, picture, user
from hydra import compose, initialize_config_dir
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from upscale_lit import resample
from upscale_lit.metrics import psnr
from upscale_lit.models import upscale
from upscale_lit.weights import load_weights, read_file

STAGES = ("64to128", "128to256", "256to512", "64to512")
Runner = Callable[..., Run]


def on(folder: Path) -> list[str]:
    return ["data=folder", f"data.root='{folder}'", "data.val_fraction=0.3"]


@pytest.mark.parametrize("stage", STAGES[:3])
def test_a_complete_run_of_each_stage(run: Runner, folder: Path, tmp_path: Path, stage: str) -> None:
    result = run(f"stage={stage}", *on(folder))
    assert result.code == 0, result.stderr
    metrics = result.metrics
    assert metrics["stage"] == stage
    assert metrics["model"] == "Upsampler"
    assert metrics["steps"] == 4
    assert metrics["seconds"] > 0
    for name in ("psnr", "ssim", "psnr_bilinear", "psnr_bicubic", "ssim_bicubic"):
        assert np.isfinite(metrics[f"val/{name}"])
    files = {str(path.relative_to(result.folder)) for path in result.folder.rglob("*")}
    assert {
        ".hydra/config.yaml", "train.log", "checkpoints/best.ckpt", "checkpoints/last.ckpt", "metrics.csv",
        f"upscaler_{stage}.pt", "grids/step_000000.png", "grids/step_000002.png", "grids/step_000004.png",
    } <= files  # fmt: skip
    assert len([name for name in files if "tfevents" in name]) >= 1
    published = tmp_path / "checkpoints" / f"upscaler_{stage}.pt"
    assert published.read_bytes() == (result.folder / f"upscaler_{stage}.pt").read_bytes()
    assert load_weights(published)[1]["metrics"]["val/psnr"] == metrics["val/psnr"]
    assert "Picture grid" in result.log
    following = dict(pairwise(STAGES))[stage]
    assert f"python {ROOT}/train.py stage={following}" in result.log


@pytest.mark.parametrize("options", [(), ("model=compact", "branches=true")])
def test_metrics_are_those_of_the_published_weights(run: Runner, tmp_path: Path, options: tuple[str, ...]) -> None:
    """The test measures the published file again, on the validation pairs of the sample."""
    result = run(*options)
    model, _ = load_weights(tmp_path / "checkpoints" / "upscaler_64to128.pt")
    data = data_module(size=128, batch_size=2, examples_per_epoch=4, val_pairs=2)
    data.setup("validate")
    with torch.no_grad():
        values = [psnr(upscale(model, resample.downscale(high, 2)), high, shave=2) for high in data.squares]
        bicubic = [psnr(resample.interpolate(resample.downscale(high, 2), 2), high, shave=2) for high in data.squares]
    assert result.metrics["val/psnr"] == pytest.approx(torch.stack(values).mean().item(), abs=0.01)
    assert result.metrics["val/psnr_bicubic"] == pytest.approx(torch.stack(bicubic).mean().item(), abs=0.01)
    assert result.metrics["val_pairs"] == f"{data.val_digest}/{len(data.squares)}"


def test_tensorboard_holds_curves_grids_and_hparams(run: Runner) -> None:
    result = run()
    events = EventAccumulator(str(result.folder), size_guidance={"images": 0, "scalars": 0})
    events.Reload()
    tags = events.Tags()
    assert {"val/psnr", "val/ssim", "val/psnr_bicubic"} <= set(tags["scalars"])
    assert sorted({event.step for event in events.Scalars("val/psnr")}) == [0, 2, 4]
    assert "config/text_summary" in tags["tensors"]
    assert "_hparams_/session_start_info" in events.summary_metadata
    grids = {event.step: event.encoded_image_string for event in events.Images("input_output_truth")}
    assert sorted(grids) == [0, 2, 4]
    png = result.folder / "grids" / "step_000002.png"
    import io

    grid = np.asarray(Image.open(io.BytesIO(grids[2])))
    assert np.array_equal(grid, np.asarray(Image.open(png)))
    # The grid has two columns and three rows of 128 px, with frames of 2 px. Compare its rows with the pairs.
    assert grid.shape == (3 * 130 + 2, 2 * 130 + 2, 3)
    cells = [[torch.from_numpy(grid[y : y + 128, x : x + 128].copy()).permute(2, 0, 1)[None] for x in (2, 132)]
             for y in (2, 132, 262)]  # fmt: skip
    for column in (0, 1):
        truth = cells[2][column]
        low = resample.downscale(truth, 2)
        bilinear = resample.to_uint8(resample.interpolate(low, 2, "bilinear"))
        assert torch.equal(cells[0][column], bilinear)
        assert psnr(cells[1][column], truth, 2) > psnr(cells[0][column], truth, 2)  # two steps after the bicubic start


def test_the_same_seed_repeats_a_run(run: Runner) -> None:
    first, second, other = run(name="a"), run(name="b"), run("seed=2", name="c")
    states = [load_weights(r.folder / "upscaler_64to128.pt")[0].state_dict() for r in (first, second, other)]
    assert all(torch.equal(states[0][key], states[1][key]) for key in states[0])
    assert not torch.equal(states[0]["fw.0.weight"], states[2]["fw.0.weight"])
    assert first.metrics["val/psnr"] == second.metrics["val/psnr"]


def test_resuming_for_more_epochs(run: Runner) -> None:
    run("trainer.max_epochs=1")
    result = run("ckpt_path=last", "trainer.max_epochs=3")
    assert result.code == 0, result.stderr
    assert result.metrics["steps"] == 6
    with (result.folder / "metrics.csv").open() as file:
        steps = [int(row["step"]) for row in csv.DictReader(file) if row["val/psnr"]]
    assert steps == sorted(steps)
    assert {0, 2, 4, 6} <= {step + step % 2 for step in steps}


def test_train_false_only_measures(run: Runner, tmp_path: Path) -> None:
    trained = run(name="a")
    result = run("train=false", f"ckpt_path={trained.folder}/checkpoints/best.ckpt", name="b")
    best = read_file(trained.folder / "checkpoints" / "best.ckpt", "checkpoint")["global_step"]
    assert result.metrics["steps"] == best
    assert result.metrics["val/psnr"] == pytest.approx(trained.metrics["val/psnr"], abs=1e-6)
    assert not (result.folder / "upscaler_64to128.pt").exists()


@pytest.mark.parametrize("overrides", [["trainer.max_steps=1"], ["trainer.max_steps=3"]])
def test_short_runs_are_measured_and_published(run: Runner, tmp_path: Path, overrides: list[str]) -> None:
    result = run(*overrides)
    assert result.code == 0, result.stderr
    assert result.metrics["steps"] == int(overrides[0][-1])
    assert (tmp_path / "checkpoints" / "upscaler_64to128.pt").exists()
    assert (result.folder / "checkpoints" / "last.ckpt").exists()


def test_fast_dev_run_publishes_nothing(run: Runner, tmp_path: Path) -> None:
    result = run("trainer.fast_dev_run=true")
    assert result.code == 0, result.stderr
    assert not (tmp_path / "checkpoints").exists()


def test_accumulation_and_clipping(run: Runner) -> None:
    result = run("trainer.accumulate_grad_batches=2", "trainer.gradient_clip_val=1", "trainer.limit_train_batches=2")
    assert result.metrics["steps"] == 2


def test_experiment_original(run: Runner) -> None:
    result = run("experiment=original", "data.crop=32", "data.batch_size=2")
    assert result.code == 0, result.stderr
    _, facts = load_weights(result.folder / "upscaler_64to128.pt")
    assert facts["model_args"] == {"start": "random", "batch_norm": "batch"}
    assert facts["kernel"] == "bilinear"


def test_a_bad_picture_among_good_ones(run: Runner, folder: Path) -> None:
    (folder / "broken.jpg").write_bytes(b"\xff\xd8 nothing more")
    result = run(*on(folder))
    assert result.code == 0, result.stderr
    assert "pairs); left out: 1 " in result.log
    assert f"upscale-lit check {folder} --stage 64to128 names them" in result.log


def test_the_second_run_finds_its_photos_in_the_cache(run: Runner, folder: Path, user_cache: Path) -> None:
    first, second = run(*on(folder)), run(*on(folder), name="second")
    assert "Reading 12 photos into" in first.log
    assert "Reading" not in second.log
    none = run(*on(folder), "data.cache=null", name="none")
    assert "Reading" not in none.log
    assert first.metrics["val/psnr"] == second.metrics["val/psnr"] == none.metrics["val/psnr"]
    assert list(user_cache.glob("photos-*-512px/index.jsonl"))
    assert run(*on(folder), "data.cache=elsewhere", name="named").code == 0
    assert list(Path("elsewhere").glob("*/index.jsonl"))


def test_oxford_pets(run: Runner, tmp_path: Path) -> None:
    """The test makes up photos in the layout of the Oxford pets, since tests run offline."""
    pets(tmp_path / "pets")
    result = run("data=oxford_pets", f"data.root={tmp_path / 'pets'}")
    assert result.code == 0, result.stderr
    assert "1 photos to train on, 1 to validate on" in result.log
    result = run("data=oxford_pets", f"data.root={tmp_path / 'pets'}", "data.pets=birds", name="birds")
    assert result.code == 2
    assert 'data.pets must be one of cats, dogs, all; got "birds"' in result.stderr


def mistakes() -> list[tuple[list[str], str]]:
    return [
        (["data=folder"], "data=folder needs a folder of photos. Name one with data.root=DIR"),
        (["data=folder", "data.root=nowhere"], "There is no folder of photos at nowhere (there is nothing)"),
        (
            ["data=folder", "data.root=empty"],
            "No picture in empty or its subfolders can be read: 0 files there end in",
        ),
        (
            ["data=folder", "data.root=texts"],
            ".tiff (the first: texts/a.jpg: its content must be one of",
        ),
        (
            ["data=folder", "data.root=tiny"],
            "at least 2 different photos of 32 px or more on their shorter side; got 0 of this size",
        ),
        (["data.batch_size=0"], "data.batch_size must be a whole number from 1 upwards; got 0"),
        (["data.num_workers=-2"], "got -2"),
        (["data.cache_limit=0"], "data.cache_limit must be a number above 0; got 0"),
        (["data.crop=200"], "at most the stage's output size, 128 px; got 200"),
        (["optimizer.lr=0"], "optimizer.lr must be a number above 0; got 0"),
        (["optimizer.lr=fast"], 'optimizer.lr must be a number above 0; got "fast"'),
        (["optimizer.layer_lr=[1,2]"], "one factor for each of the 6 convolutions of the 2x model; got [1, 2]"),
        (["seed=-1"], "seed must be a whole number from 0"),
        (["model.start=sharp"], 'model.start must be one of bicubic, random; got "sharp"'),
        (["trainer.accelerator=gpu"], "needs a GPU"),
        (["trainer.precision=7"], "Lightning's Trainer does not take these trainer.* options"),
        (["trainer.limit_val_batches=0"], "trainer.limit_val_batches must be a number of batches from 1"),
        (["ckpt_path=last"], "There is no checkpoint at"),
        (["ckpt_path=texts/a.jpg"], "damaged or of another kind"),
    ]


@pytest.mark.parametrize(("overrides", "message"), mistakes(), ids=lambda value: " ".join(value)[:40])
def test_errors_explain_mistakes(run: Runner, tmp_path: Path, overrides: list[str], message: str) -> None:
    if overrides == ["trainer.accelerator=gpu"] and torch.cuda.is_available():
        pytest.skip("this machine has a GPU")
    for name in ("empty", "texts", "tiny"):
        (tmp_path / name).mkdir()
    (tmp_path / "texts" / "a.jpg").write_text("a text")
    for seed in range(3):
        picture(24, 24, seed).save(tmp_path / "tiny" / f"{seed}.png")
    result = run(*overrides)
    assert result.code == 2
    assert message in result.stderr
    assert "Traceback" not in result.stderr
    assert message in result.log


def test_a_checkpoint_of_another_network_or_stage(run: Runner) -> None:
    first = run(name="a")
    ckpt = first.folder / "checkpoints" / "last.ckpt"
    other = run("stage=128to256", f"ckpt_path={ckpt}", name="b")
    assert other.code == 2
    assert "belongs to a run with stage=64to128; this run has stage=128to256" in other.stderr
    content = torch.load(ckpt, weights_only=True)
    content["state_dict"]["model.fw.0.weight"] = torch.zeros(8, 3, 5, 5)
    torch.save(content, ckpt)
    other = run(f"ckpt_path={ckpt}", name="c")
    assert other.code == 2
    assert "another network: 1 tensor(s) differ, such as model.fw.0.weight: (8, 3, 5, 5) in the file" in other.stderr


def choices() -> list[list[str]]:
    found: list[list[str]] = []
    for path in sorted((ROOT / "conf").rglob("*.yaml")):
        group = path.parent.name
        if path.parent.parent.name == "conf" and path.stem not in ("base", "files"):
            found.append([f"{group}={path.stem}"])
    return found


@pytest.mark.parametrize("overrides", choices(), ids=str)
def test_every_config_composes_and_names_its_command(overrides: list[str]) -> None:
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        cfg = compose("config", overrides)
    assert cfg.data.crop <= cfg.stage.size
    group, name = overrides[0].split("=")
    assert f"python train.py {group}={name}" in (ROOT / "conf" / group / f"{name}.yaml").read_text()


@pytest.mark.slow
def test_as_a_user_from_another_folder(tmp_path: Path) -> None:
    result = user(*TINY, "hydra.run.dir=run here", "checkpoints_dir=ck", cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    json.loads((tmp_path / "run here" / "metrics.json").read_text(), parse_constant=pytest.fail)
    for words in ("bilinear", "bicubic", "Upsampler", "tensorboard --logdir", f"python {ROOT}/train.py stage=128to256"):
        assert words in result.stdout
    assert "Warning" not in result.stdout + result.stderr


def test_help_shows_examples(tmp_path: Path) -> None:
    result = user("--help", cwd=tmp_path)
    assert result.returncode == 0
    assert "python train.py data=folder data.root=$HOME/photos" in result.stdout
    assert "stage: 128to256, 256to512, 64to128, 64to512" in result.stdout


def test_messages_of_hydra_keep_the_exit_code(run: Runner) -> None:
    result = run("stage=12to13")
    assert result.code == 2
    assert (
        "error: stage must be one of 128to256, 256to512, 64to128, 64to512, 64to512_at_once; got '12to13'."
        in result.stderr
    )


def stream(encoding: str) -> io.TextIOWrapper:
    return io.TextIOWrapper(io.BytesIO(), encoding=encoding, errors="strict", write_through=True)


def written(file: Any) -> str:
    return str(file.buffer.getvalue().decode(file.encoding))


@pytest.mark.parametrize(("kind", "encoding"), [("a run", "latin-1"), ("a sweep", "ascii"), ("a mistake", "cp1252")])
def test_streams_that_cannot_encode_everything(
    run: Runner, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, encoding: str, kind: str
) -> None:
    """A table and paths in other scripts go to both streams. The log file keeps the paths unchanged."""
    from upscale_lit.launch.callback import print_table

    monkeypatch.setattr(sys, "stdout", stream(encoding))
    monkeypatch.setattr(sys, "stderr", stream(encoding))
    words = {"a run": [], "a sweep": ["-m", "seed=1,2"], "a mistake": ["model.weights='犬'"]}[kind]
    result = run(*words, name="猫")
    out, err = written(sys.stdout), written(sys.stderr)
    assert result.code == (2 if kind == "a mistake" else 0), err
    if kind == "a mistake":
        assert "nor a shipped model named '\\u72ac'" in err
        return
    assert "bicubic" in out
    assert "\\u732b" in out
    log = result.job(0) if kind == "a sweep" else result
    assert f"{result.folder}/" in log.log
    if kind == "a sweep":
        print_table(result.folder)
        assert "\\u732b/sweep.md" in written(sys.stdout)


@pytest.mark.slow
def test_an_8_bit_encoding_in_a_separate_process(tmp_path: Path) -> None:
    env = {**os.environ, "PYTHONIOENCODING": "cp1252"}
    words = [*TINY, "trainer.max_steps=1", "hydra.run.dir=run", f"checkpoints_dir='{tmp_path}/猫'"]
    command = [sys.executable, str(ROOT / "train.py"), *words]
    done = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert b"| bicubic " in done.stdout
    assert b"\\u732b/upscaler_64to128.pt" in done.stdout
    composed = subprocess.run([*command, "--cfg", "job"], cwd=tmp_path, env=env, capture_output=True, timeout=300)
    assert composed.returncode == 0, composed.stderr
    assert b"\\u732b" in composed.stdout
