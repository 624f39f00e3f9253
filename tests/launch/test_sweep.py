"""Sweeps: their tables, weights that a job takes from earlier jobs, failed jobs, and resuming."""

import csv
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from threading import Thread
from typing import Any

import pytest
from conftest import TINY, Run, user
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.custom_scalar.layout_pb2 import Layout
from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData

from upscale_lit.launch import sweep
from upscale_lit.models import STAGES
from upscale_lit.weights import load_weights, read_file

Runner = Callable[..., Run]
CASCADE = "stage=64to128,128to256,256to512,64to512"
SHORT = ["trainer.max_steps=1", "data.val_pairs=1"]


def job(folder: Path, **content: Any) -> None:
    folder.mkdir(parents=True)
    (folder / "metrics.json").write_text(json.dumps(content))


def rows(folder: Path) -> list[dict[str, str]]:
    with (folder / "sweep.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def test_the_table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "sweep"
    for number, (lr, gain) in enumerate((("1e-3", 0.5), ("5e-4", 0.75), ("2e-4", -0.25))):
        scores = {"val/psnr": 30 + gain, "val/gain": gain, "seconds": 61.3}
        job(folder / str(number), overrides=["data=folder", f"optimizer.lr={lr}", "seed=1"], **scores)
    (folder / "3").mkdir()
    sweep.record_failure(folder / "3", ["data=folder", "optimizer.lr=0", "seed=1"], ValueError("not | this\nrate"))
    sweep.write_table(folder)
    assert [row["optimizer.lr"] for row in rows(folder)] == ["5e-4", "1e-3", "2e-4", "0"]
    assert rows(folder)[0] == {
        "optimizer.lr": "5e-4", "val/psnr": "30.750", "val/gain": "+0.750", "seconds": "61",
        "run folder": "sweep/1", "error": "",
    }  # fmt: skip
    assert rows(folder)[3]["error"] == "ValueError: not | this\nrate"
    lines = (folder / "sweep.md").read_text().splitlines()
    assert len({len(line) for line in lines}) == 1
    heading = [cell.strip() for cell in lines[0].strip("|").split("|")]
    assert heading == ["optimizer.lr", "val/psnr", "val/gain", "seconds", "run folder", "error"]
    assert "ValueError: not \\| this rate" in lines[5]
    sweep.clear_failure(folder / "3")
    sweep.write_table(folder)
    assert len(rows(folder)) == 3
    assert "error" not in (folder / "sweep.md").read_text()


def test_files_of_earlier_jobs_have_the_same_model_and_seed(tmp_path: Path) -> None:
    args = {"start": "bicubic"}

    def trained(number: int, gain: float, **changes: Any) -> Path:
        facts = {"stage": "64to128", "model": "Upsampler", "model_args": args, "seed": 1, "overrides": []}
        job(tmp_path / str(number), **{**facts, "val/gain": gain, **changes})
        file = tmp_path / str(number) / "upscaler_64to128.pt"
        file.touch()
        return file

    def found(*overrides: str) -> Path | None:
        return sweep.own_file(
            tmp_path, "64to128", {"model": "Upsampler", "model_args": args}, 1, ["stage=64to512", *overrides]
        )

    assert found() is None
    trained(0, 9.0, seed=2)
    trained(1, 9.0, model="Other")
    trained(2, 9.0, model_args={"start": "random"})
    trained(3, 9.0, stage="128to256")
    assert found() is None
    first = trained(4, 1.0, overrides=["stage=64to128", "data.root=cats"])
    second = trained(5, 2.0, overrides=["stage=64to128", "data.root=dogs"])
    assert found() == second
    assert found("data.root=cats") == first  # not the file that was trained on other photos
    second.unlink()
    assert found("data.root=dogs") == first


def test_the_cascade_in_one_command(run: Runner, tmp_path: Path) -> None:
    older = run("stage=128to256", "seed=7", name="older")
    result = run("-m", CASCADE, "seed=1,2", *SHORT, name="sweep")
    assert result.code == 0, result.stderr
    for seed in (1, 2):
        # The jobs run stage by stage, each with both seeds.
        stacked = result.job(6 + seed - 1)
        assert (stacked.metrics["stage"], stacked.metrics["seed"]) == ("64to512", seed)
        for number, name in enumerate(STAGES):
            file = result.folder / str(2 * number + seed - 1) / f"upscaler_{STAGES[name]}.pt"
            digest = read_file(file, "weights file")["sha256"]
            assert stacked.metrics["checkpoints"][name] == {"path": str(file), "sha256": digest}
            assert str(file) in stacked.log
    assert older.code == 0
    table = rows(result.folder)
    assert len(table) == 8
    gains = [float(row["val/gain"]) for row in table]
    assert gains == sorted(gains, reverse=True)
    for row in table:
        metrics = json.loads((tmp_path / row["run folder"] / "metrics.json").read_text())
        assert (row["stage"], row["seed"]) == (metrics["stage"], str(metrics["seed"]))
        assert float(row["val/psnr"]) == pytest.approx(metrics["val/psnr"], abs=6e-4)


@pytest.mark.slow
def test_a_stack_takes_published_files_if_the_sweep_has_none(run: Runner, tmp_path: Path) -> None:
    run("-m", "stage=64to128,128to256,256to512", *SHORT, name="first")
    result = run("-m", "stage=64to128,64to512", "seed=2", *SHORT, name="second")
    assert result.code == 0, result.stderr
    origins = {name: origin["path"] for name, origin in result.job(1).metrics["checkpoints"].items()}
    assert origins == {
        "upsample_64": str(result.folder / "0" / "upscaler_64to128.pt"),
        "upsample_128": str(tmp_path / "checkpoints" / "upscaler_128to256.pt"),
        "upsample_256": str(tmp_path / "checkpoints" / "upscaler_256to512.pt"),
    }


@pytest.mark.slow
def test_the_best_job_is_published_and_hparams_show_the_table(run: Runner, tmp_path: Path) -> None:
    result = run("-m", "optimizer.lr=1e-5,1e-1,1e-4", "data.kernel=bicubic,bilinear", name="sweep")
    assert result.code == 0, result.stderr
    table = rows(result.folder)
    best = tmp_path / table[0]["run folder"]
    published = tmp_path / "checkpoints" / "upscaler_64to128.pt"
    assert published.read_bytes() == (best / "upscaler_64to128.pt").read_bytes()
    for row in table:
        events = EventAccumulator(str(tmp_path / row["run folder"]))
        events.Reload()
        assert events.Scalars("val_final/psnr")[-1].value == pytest.approx(float(row["val/psnr"]), abs=1e-3)
        assert events.Scalars("val_final/gain")[-1].value == pytest.approx(float(row["val/gain"]), abs=1e-3)
        assert events.Scalars("val_final/seconds")[-1].value == pytest.approx(float(row["seconds"]), abs=1)
        data = events.summary_metadata["_hparams_/session_start_info"].plugin_data.content
        columns = set(HParamsPluginData.FromString(data).session_start_info.hparams)
        assert {"stage", "model", "loss", "optimizer.lr", "data.crop", "data.kernel", "seed"} <= columns
        assert len(columns) <= 20  # 14 of each run, and those of this command
        text = events.Tensors("custom_scalars__config__")[0].tensor_proto.string_val[0]
        charts = {chart.title: chart.multiline.tag for chart in Layout.FromString(text).category[0].chart}
        assert charts == {"clean": ["^val/psnr$", "^val/psnr_bilinear$", "^val/psnr_bicubic$"]}
    assert max(events.Tags()["scalars"]) == "val_final/seconds"  # TensorBoard shows charts by name


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ([CASCADE, "hydra/launcher=joblib"], "joblib_launcher.JoblibLauncher may run all jobs at the same time"),
        (["stage=128to256,256to512", "stage.inputs=previous", "hydra/launcher=joblib"], "may run all jobs at the"),
        (["stage=64to512,64to128"], "Give stage=64to128,64to512"),
        (["stage=glob(*to512)", "stage.inputs=photos,previous", "hydra/launcher=joblib"], "256to512,64to512"),
    ],
)
def test_sweeps_that_cannot_work_are_refused(run: Runner, overrides: list[str], message: str) -> None:
    result = run("-m", *overrides)
    assert result.code == 2
    assert message in result.stderr
    assert not (result.folder / "0").exists()


def test_a_failed_job_leaves_its_error_and_the_other_jobs_run(tmp_path: Path) -> None:
    result = user("-m", *TINY, *SHORT, "data.crop=30,32", "hydra.sweep.dir=sweep", "checkpoints_dir=ck", cwd=tmp_path)
    assert result.returncode == 1
    assert "data.crop must be a multiple of 8" in result.stderr
    assert "Traceback" not in result.stderr
    good, bad = rows(tmp_path / "sweep")
    assert good["run folder"] == "sweep/1"
    assert float(good["val/psnr"]) > 0
    assert bad["error"].startswith("InputError: data.crop must be a multiple of 8")
    assert (tmp_path / "sweep" / "sweep.md").read_text() in result.stdout
    assert "error: data.crop must be a multiple of 8" in (tmp_path / "sweep" / "0" / "train.log").read_text()


def test_a_bug_in_a_job_keeps_its_traceback(run: Runner, monkeypatch: pytest.MonkeyPatch) -> None:
    import train

    def broken(*_: Any) -> None:
        raise ZeroDivisionError("made for this test")

    monkeypatch.setattr(train, "fit", broken)
    result = run("-m", "train=false,true", *SHORT)
    assert result.code == 1
    assert "Traceback" in result.job(1).log
    assert [row["error"] for row in rows(result.folder)] == ["", "ZeroDivisionError: made for this test"]


def test_a_sweep_resumes(run: Runner) -> None:
    words = ["-m", "seed=1,2,3", "data.val_pairs=1", "optimizer.schedule=constant"]
    missing = run(*words, "ckpt_path=last", name="sweep")
    assert missing.code == 2
    assert "sweep. Name the folder of the sweep with hydra.sweep.dir=DIR" in missing.stderr
    whole = run(*words, name="sweep")
    expected = [whole.job(number).metrics for number in range(3)]
    weights = [(whole.folder / str(number) / "upscaler_64to128.pt").read_bytes() for number in range(3)]
    # The sweep looks as if it was stopped in its second job: job 1 has a checkpoint of epoch 1, job 2 has not started.
    shutil.rmtree(whole.folder / "1")
    shutil.rmtree(whole.folder / "2")
    run("seed=2", *words[2:], "trainer.max_epochs=1", name="sweep/1")
    (whole.folder / "1" / "metrics.json").unlink()
    sweep.record_failure(whole.folder / "0", [], ValueError("of another try"))
    refused = run(*words, name="sweep")
    assert refused.code == 1
    assert "Resume that run with ckpt_path=last, or name another folder with hydra.sweep.dir=DIR." in refused.stderr
    shutil.rmtree(whole.folder / "2")
    again = run(*words, "ckpt_path=last", name="sweep")
    assert again.code == 0, again.stderr
    assert "This job has already finished in" in again.job(0).log
    assert "Resuming from" in again.job(1).log
    assert "Resuming from" not in again.job(2).log
    for number in range(3):
        timeless = [{**each, "seconds": 0, "overrides": 0} for each in (again.job(number).metrics, expected[number])]
        assert timeless[0] == timeless[1]
    assert (whole.folder / "0" / "upscaler_64to128.pt").read_bytes() == weights[0]
    assert len(rows(whole.folder)) == 3


@pytest.mark.slow
def test_parallel_jobs_publish_complete_files(tmp_path: Path) -> None:
    overrides = [*TINY, "seed=1,2,3,4", "hydra/launcher=joblib", "hydra.launcher.n_jobs=2"]
    result = user("-m", *overrides, "hydra.sweep.dir=sweep", "checkpoints_dir=ck", cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    table = rows(tmp_path / "sweep")
    assert sorted(row["seed"] for row in table) == ["1", "2", "3", "4"]
    assert (tmp_path / "sweep" / "sweep.md").read_text() in result.stdout
    published = tmp_path / "ck" / "upscaler_64to128.pt"
    best = tmp_path / table[0]["run folder"] / "upscaler_64to128.pt"
    assert load_weights(published)[1]["metrics"] == load_weights(best)[1]["metrics"]
    assert not [name for name in os.listdir(tmp_path / "ck") if name.endswith(".part")]


def test_each_job_has_a_separate_device(tmp_path: Path) -> None:
    with sweep.free_device(tmp_path, 2) as first, sweep.free_device(tmp_path, 2) as second:
        assert (first, second) == (0, 1)
        third: list[int] = []

        def wait() -> None:
            with sweep.free_device(tmp_path, 2) as number:
                third.append(number)

        waiting = Thread(target=wait)
        waiting.start()
        waiting.join(timeout=0.2)
        assert not third
    waiting.join(timeout=10)
    assert third in ([0], [1])


@pytest.mark.slow
def test_submitit_runs_jobs(tmp_path: Path) -> None:
    """The local executor of submitit pickles, starts and collects jobs as the SLURM executor does."""
    overrides = [*TINY, "seed=1,2", "hydra/launcher=submitit_local", "hydra.sweep.dir=sweep", "checkpoints_dir=best"]
    done = user("-m", *overrides, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert [row["run folder"] for row in rows(tmp_path / "sweep")] in (["sweep/0", "sweep/1"], ["sweep/1", "sweep/0"])
    _, facts = load_weights(tmp_path / "best" / "upscaler_64to128.pt")
    assert facts["metrics"]["val/gain"] == pytest.approx(float(rows(tmp_path / "sweep")[0]["val/gain"]), abs=1e-3)
