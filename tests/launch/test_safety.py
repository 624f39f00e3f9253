"""Safety of a run: values that are not finite, full or missing disks, signals, and other runs in the same place."""

import errno
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import ROOT, TINY, Run, picture
from test_resume import BATCHES, compare, curves, interrupt

from upscale_lit import weights
from upscale_lit.errors import DivergedError, InputError, WriteError
from upscale_lit.files import atomic
from upscale_lit.models import Upsampler
from upscale_lit.training.callbacks import KeepLast
from upscale_lit.training.checkpoints import SafeCheckpointIO, read_checkpoint
from upscale_lit.training.module import UpscaleModule
from upscale_lit.weights import load_weights, save_weights

Runner = Callable[..., Run]

# The losses of the first twenty steps of stage 64to128, with small crops and batches, on generated pictures. Relative
# differences between 1, 2 and 3 threads, and between AVX-512, AVX2 and SSE4.1, are 4e-7 at most. A learning rate 1 %
# lower changes the losses by 3e-4, and so do 99 warm-up steps. Doubling the weight decay changes the losses by 1.2e-5.
# Another order, crop or flip of the photos changes the losses by half.
GOLDEN = [
    0.0078395456, 0.009167023, 0.012124941, 0.011223746, 0.008531454, 0.0075918338, 0.010751634, 0.0064527462,
    0.0063321874, 0.0083351852, 0.0094410749, 0.008025947, 0.0086942753, 0.0073084887, 0.010581795, 0.0070614633,
    0.0083056996, 0.010357275, 0.0085345209, 0.007107439,
]  # fmt: skip
GOLDEN_TOLERANCE = 1e-5


def test_golden_run(run: Runner, folder: Path) -> None:
    """A refactoring must not change the losses. If a change of the losses is intended, update GOLDEN."""
    result = run("data=folder", f"data.root={folder}", "data.val_fraction=0.3", "data.examples_per_epoch=40",
                 "trainer.max_epochs=1", "trainer.log_every_n_steps=1")  # fmt: skip
    losses = [value for _, value in curves(result)["train/loss"]]
    assert losses == pytest.approx(GOLDEN, rel=GOLDEN_TOLERANCE)


def test_a_loss_that_is_not_finite_ends_the_run(run: Runner, monkeypatch: pytest.MonkeyPatch) -> None:
    module: list[UpscaleModule] = []
    setup = UpscaleModule.configure_optimizers
    monkeypatch.setattr(UpscaleModule, "configure_optimizers", lambda self: module.append(self) or setup(self))

    def spoil() -> None:
        with torch.no_grad():
            module[-1].model.fw[0].weight[0, 0, 0, 0] = torch.nan  # type: ignore[index,union-attr]

    overrides = [*BATCHES, "checkpoint.every_steps=1"]
    with monkeypatch.context() as context:
        interrupt(context, 6, spoil)
        result = run(*overrides)
    assert result.code == 2
    assert (
        "The loss is not finite: it is nan in step 6. Resume from the last checkpoint with half the learning rate: "
        in (result.stderr)
    )
    assert re.search(
        r"python \S+train\.py .* optimizer\.lr=0\.0005 hydra\.run\.dir=run ckpt_path=last\n", result.stderr
    )
    for file in result.folder.rglob("*.ckpt"):
        assert all(value.isfinite().all() for value in read_checkpoint(file)["state_dict"].values())
    assert read_checkpoint(result.folder / "checkpoints" / "last.ckpt")["global_step"] == 5
    assert not list(result.folder.glob("*.pt"))
    assert run(*overrides, "optimizer.lr=0.0005", "ckpt_path=last").code == 0


def test_weights_that_are_not_finite_are_never_saved(run: Runner, tmp_path: Path) -> None:
    model = Upsampler()
    save_weights(tmp_path / "w.pt", model, {"model_args": {}, "stage": "64to128", "factor": 2, "kernel": "bicubic"})
    before = (tmp_path / "w.pt").read_bytes()
    with torch.no_grad():
        model.fw[3].bias[0] = torch.inf  # type: ignore[index]
    with pytest.raises(DivergedError, match=r"w\.pt is not written: its weights are not finite \(fw\.3\.bias\)"):
        save_weights(tmp_path / "w.pt", model, {})
    with pytest.raises(DivergedError, match=r"c\.ckpt is not written"):
        SafeCheckpointIO(tmp_path).save_checkpoint({"state_dict": model.state_dict()}, tmp_path / "c.ckpt")
    assert (tmp_path / "w.pt").read_bytes() == before
    assert os.listdir(tmp_path) == ["w.pt"]
    # This learning rate makes the weights infinite after one step, but the loss of that step is still finite.
    result = run("optimizer.lr=1e38", "optimizer.warmup_steps=0", "trainer.max_steps=1", "trainer.max_epochs=-1")
    assert result.code == 2
    assert "not finite" in result.stderr
    assert "optimizer.lr=5e+37" in result.stderr


def full(path: Any, *args: Any) -> None:
    raise OSError(errno.ENOSPC, "No space left on device", str(path))


def test_a_full_disk(run: Runner, monkeypatch: pytest.MonkeyPatch) -> None:
    whole_run = run(*BATCHES, name="whole")
    with monkeypatch.context() as context:
        interrupt(context, 5, lambda: context.setattr("os.fsync", full))
        result = run(*BATCHES, "checkpoint.every_steps=2")
    assert result.code == 2
    assert "last.ckpt cannot be written: No space left on device. When the cause is fixed, resume this run: " in (
        result.stderr
    )
    assert not list(result.folder.rglob("*.part"))
    assert read_checkpoint(result.folder / "checkpoints" / "last.ckpt")["global_step"] == 4
    compare(run(*BATCHES, "ckpt_path=last"), whole_run)


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="ulimit is a command of Unix shells")
def test_a_file_that_cannot_grow(tmp_path: Path) -> None:
    """ulimit stops files at 4 MB, but a checkpoint after a step has 8.6 MB."""
    words = [sys.executable, str(ROOT / "train.py"), *TINY, "hydra.run.dir=run"]
    command = 'ulimit -f 4000; exec "$@"'
    done = subprocess.run(["bash", "-c", command, "bash", *words], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 2, done.stderr
    assert ".ckpt cannot be written: File too large. When the cause is fixed, resume this run: python" in done.stderr
    assert "Traceback" not in done.stderr
    assert not list(tmp_path.rglob("*.part"))
    assert read_checkpoint(tmp_path / "run" / "checkpoints" / "last.ckpt")["global_step"] == 0  # small: no AdamW state


def test_folders_that_cannot_be_written(run: Runner, tmp_path: Path) -> None:
    """A file has the name of the folder or of its parent, or nobody may make folders in the parent."""
    (tmp_path / "taken").write_text("a file")
    for place in ("taken", "taken/run", "/proc/run"):
        result = run(name=place)
        assert result.code == 2
        assert f"error: The folder {tmp_path / place} cannot be written to: " in result.stderr
        assert "Name another folder with hydra.run.dir=DIR" in result.stderr
        assert "Traceback" not in result.stderr
    with pytest.raises(WriteError, match=r"taken/w\.pt cannot be written: Not a directory|File exists"):
        save_weights(tmp_path / "taken" / "w.pt", Upsampler(), {})


def test_checkpoints_dir_that_cannot_be_written(run: Runner, tmp_path: Path) -> None:
    """The error comes at the end of the run. The weights are in the run folder, and resuming publishes them."""
    (tmp_path / "taken").write_text("a file")
    result = run(f"checkpoints_dir={tmp_path}/taken")
    assert result.code == 2
    assert "taken" in result.stderr
    assert "resume this run: python " in result.stderr
    assert load_weights(result.folder / "upscaler_64to128.pt")
    assert run("ckpt_path=last").code == 0
    assert load_weights(tmp_path / "checkpoints" / "upscaler_64to128.pt")


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")  # in a thread of TensorBoard
@pytest.mark.parametrize("every", ["every_steps=1", pytest.param("every_minutes=null", marks=pytest.mark.slow)])
def test_a_folder_that_vanishes(run: Runner, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, every: str) -> None:
    """The run folder is missing for a while, like a lost disk. When the folder is back, the run resumes."""
    whole_run = run(*BATCHES, name="whole")
    with monkeypatch.context() as context:
        interrupt(context, 6, lambda: (tmp_path / "run").rename(tmp_path / "elsewhere"))
        result = run(*BATCHES, "checkpoint.every_steps=5", f"checkpoint.{every}")
    assert result.code == 2
    assert "run" in result.stderr
    assert "When the cause is fixed, resume this run: " in result.stderr
    shutil.rmtree(tmp_path / "run", ignore_errors=True)
    (tmp_path / "elsewhere").rename(tmp_path / "run")
    compare(run(*BATCHES, "ckpt_path=last"), whole_run)


def test_two_processes_in_one_folder(run: Runner, tmp_path: Path) -> None:
    from filelock import FileLock

    (tmp_path / "run").mkdir()
    with FileLock(tmp_path / "run" / ".lock"):
        result = run()
    assert result.code == 2
    assert f"Another process is training in {tmp_path / 'run'}. Wait for that process, or end it." in result.stderr


@pytest.mark.slow
def test_runs_and_sweeps_that_start_in_the_same_second(tmp_path: Path) -> None:
    """Two runs and two sweeps start in the same second and choose different folders."""
    env = {**os.environ, "COLUMNS": "200"}
    quick = [*TINY, "train=false", "hydra.job.env_set={}"]
    second = ["outputs/64to128/2026-11-23_10-00-00", "outputs/sweeps/2026-11-23_10-00-00"]
    stopped_clock = (
        "import sys, time; real = time.strftime\n"
        "import omegaconf, hydra.core.utils as u\n"
        "setup = u.setup_globals\n"
        "def same():\n"
        "    setup()\n"
        "    omegaconf.OmegaConf.register_new_resolver('now', lambda p: '2026-11-23_10-00-00', replace=True)\n"
        "u.setup_globals = same\n"
        "import hydra._internal.hydra as h; h.setup_globals = same\n"
        f"sys.path.insert(0, {str(ROOT)!r}); sys.argv[0] = 'train.py'\n"
        "import train; train.main()\n"
    )
    processes = [
        subprocess.Popen([sys.executable, "-c", stopped_clock, *words, *quick], cwd=tmp_path, env=env,
                         stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
        for words in ([], [], ["-m", "seed=1,2"], ["-m", "seed=1,2"])
    ]  # fmt: skip
    for process in processes:
        _, stderr = process.communicate(timeout=120)
        assert process.returncode == 0, stderr
    for place in second:
        for folder in (tmp_path / place, tmp_path / f"{place}_2"):
            jobs = [folder / "0", folder / "1"] if "sweeps" in place else [folder]
            assert all((job / "metrics.json").is_file() for job in jobs), folder


PUBLISH = """
import sys
from pathlib import Path
from upscale_lit.launch.publish import publish
for number in range(6):
    publish(Path(sys.argv[1]) / f"{number}" / "upscaler_64to128.pt", Path(sys.argv[2]))
"""


@pytest.mark.slow
def test_eight_jobs_publish_at_once(tmp_path: Path) -> None:
    """Readers never see an incomplete file, and the file with the best weights stays."""
    model = Upsampler()
    scores = torch.linspace(20, 30, 48)[torch.randperm(48, generator=torch.Generator().manual_seed(1))].tolist()
    for job in range(8):
        for number in range(6):
            measured = {"val/psnr": scores.pop(), "val/gain": 1.0}
            facts = {"model_args": {}, "stage": "64to128", "factor": 2, "kernel": "bicubic", "val_pairs": "a"}
            save_weights(
                tmp_path / str(job) / str(number) / "upscaler_64to128.pt", model, {**facts, "metrics": measured}
            )
    shared = tmp_path / "shared"
    jobs = [
        subprocess.Popen([sys.executable, "-c", PUBLISH, str(tmp_path / str(job)), str(shared)]) for job in range(8)
    ]
    seen: list[float] = []
    while any(job.poll() is None for job in jobs):
        if (shared / "upscaler_64to128.pt").exists():
            seen.append(load_weights(shared / "upscaler_64to128.pt")[1]["metrics"]["val/psnr"])
        time.sleep(0.005)
    assert all(job.returncode == 0 for job in jobs)
    assert seen == sorted(seen)
    assert load_weights(shared / "upscaler_64to128.pt")[1]["metrics"]["val/psnr"] == 30
    assert not list(shared.glob(".*.part"))


def test_a_signal_before_the_first_step(run: Runner, monkeypatch: pytest.MonkeyPatch) -> None:
    """While photos are read, no checkpoint exists. The resume command then starts the run again."""
    from upscale_lit.data.module import UpscaleDataModule

    with monkeypatch.context() as context:
        context.setattr(UpscaleDataModule, "setup", lambda self, stage: signal.raise_signal(signal.SIGTERM))
        result = run()
    assert result.code == 143
    assert "hydra.run.dir=run ckpt_path=last" in result.stderr
    again = run("ckpt_path=last")
    assert again.code == 0, again.stderr
    assert "ended before its first step. This run starts from the beginning." in again.log


def test_a_second_signal_does_not_wait(run: Runner, monkeypatch: pytest.MonkeyPatch) -> None:
    def twice() -> None:
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)

    interrupt(monkeypatch, 3, twice)
    result = run(*BATCHES)
    assert result.code == 130
    assert read_checkpoint(result.folder / "checkpoints" / "last.ckpt")["global_step"] == 0
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_a_signal_ends_a_sweep(run: Runner, monkeypatch: pytest.MonkeyPatch) -> None:
    interrupt(monkeypatch, 12, lambda: signal.raise_signal(signal.SIGTERM))
    result = run("-m", "seed=1,2,3", *BATCHES)
    assert result.code == 143
    assert (result.folder / "0" / "metrics.json").exists()
    assert not (result.folder / "2").exists()
    found = re.search(r"Resume this run with: python \S+train\.py (.*)", result.stderr)
    assert found
    words = found[1].split()
    assert words[-2:] == [f"hydra.run.dir={result.folder.name}/1", "ckpt_path=last"]
    assert "Resume the complete sweep with: python" in result.stderr
    assert f"hydra.sweep.dir={result.folder.name} ckpt_path=last" in result.stderr
    monkeypatch.setattr(sys, "argv", ["train.py", *words])
    import train

    train.main()
    assert result.job(1).metrics["steps"] == 8
    assert result.job(1).metrics["seed"] == 2


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (
            {"every_steps": 0, "every_minutes": 1},
            "checkpoint.every_steps must be a whole number from 1 upwards, or null; got 0",
        ),
        (
            {"every_steps": None, "every_minutes": 0},
            "every_minutes must be a number above 0, or null; got 0",
        ),
    ],
)
def test_invalid_intervals(tmp_path: Path, values: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        KeepLast(tmp_path, **values)


@pytest.mark.parametrize(
    ("overrides", "steps"),
    [
        (["checkpoint.every_minutes=null"], [0, 8]),
        (["checkpoint.every_minutes=1e-9"], [0, 1, 2, 3, 4, 5, 6, 7, 8, 8]),  # the last step is saved again after fit
        (["checkpoint.every_steps=3"], [0, 3, 6, 8]),
        (["checkpoint.every_steps=2", "trainer.accumulate_grad_batches=3"], [0, 2, 4, 4]),
    ],
)
def test_intervals(run: Runner, monkeypatch: pytest.MonkeyPatch, overrides: list[str], steps: list[int]) -> None:
    written: list[int] = []
    save = SafeCheckpointIO.save_checkpoint

    def save_and_count(self: Any, checkpoint: dict[str, Any], path: Any, **options: Any) -> None:
        if Path(path).name == "last.ckpt":
            written.append(checkpoint["global_step"])
        save(self, checkpoint, path, **options)

    monkeypatch.setattr(SafeCheckpointIO, "save_checkpoint", save_and_count)
    assert run(*BATCHES, *overrides).code == 0
    assert written == steps


def test_a_failed_replacement_keeps_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "file"
    path.write_text("old")
    monkeypatch.setattr("os.replace", lambda *args: full(path))
    with pytest.raises(WriteError, match=r"file cannot be written: No space left on device\."), atomic(path) as part:
        part.write_text("new")
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["file"]


def test_the_log_is_enough_to_repeat_a_run(run: Runner) -> None:
    result = run("seed=3", "optimizer.lr=2e-4")
    log = result.log
    assert "seed 3" in log
    assert "train.py " in log
    assert "optimizer.lr=2e-4" in log
    assert re.search(r"torch \d.*, Lightning \d.*, Python \d.*, \d+ threads", log)
    assert "hydra-core 1." in log
    assert re.search(r"^  lr: 0\.0002$", log, re.MULTILINE)
    assert "${" not in log.split("The resolved configuration:")[1]
    assert "Device cpu" in log


def test_names_with_characters_that_are_special_to_shells_and_hydra(run: Runner, tmp_path: Path) -> None:
    photos = tmp_path / "it's = [a], {b} größer 猫"
    photos.mkdir()
    for seed in range(4):
        picture(80, 72, seed).save(photos / f"{seed}, = [x] 猫.png")
    quoted = str(photos).replace("'", "\\'")
    result = run("data=folder", f"data.root='{quoted}'", "data.val_fraction=0.4", f"checkpoints_dir='{quoted} out'")
    assert result.code == 0, result.stderr
    assert (Path(f"{photos} out") / "upscaler_64to128.pt").exists()
    assert weights.load_weights(Path(f"{photos} out") / "upscaler_64to128.pt")
