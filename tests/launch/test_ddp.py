"""A run on several processes: it equals a run on one process, and it ends when one of its processes dies."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from itertools import chain
from pathlib import Path

import pytest
import torch
from conftest import ROOT, TINY, Run, user

from upscale_lit.data.loader import Numbers
from upscale_lit.data.validation import share
from upscale_lit.weights import load_weights

Runner = Callable[..., Run]
LONGER = [
    *TINY,
    "data.examples_per_epoch=24",
    "data.batch_size=4",
    "data.val_pairs=16",
    "model=compact",
    "grid_columns=3",
]
TWO = ["trainer=ddp", "trainer.devices=2"]


@pytest.mark.parametrize("ranks", [1, 2, 4])
@pytest.mark.parametrize("skipped", [0, 2])
def test_together_the_processes_see_the_examples_of_one_process(ranks: int, skipped: int) -> None:
    def batches(rank: int, of: int) -> list[list[int]]:
        numbers = Numbers(27, 8, rank, of)
        numbers.set_epoch(3)
        numbers.skipped = skipped
        found = list(numbers)
        assert len(found) == len(numbers) - skipped * numbers.own
        return [found[first : first + numbers.own] for first in range(0, len(found), numbers.own)]

    parts = zip(*(batches(rank, ranks) for rank in range(ranks)), strict=True)
    assert [list(chain(*part)) for part in parts] == batches(0, 1)


@pytest.mark.parametrize("pairs", [1, 2, 6, 7, 16, 32])
@pytest.mark.parametrize("ranks", [1, 2, 3, 8, 64])
def test_each_validation_pair_counts_equally(pairs: int, ranks: int) -> None:
    shares = [list(share(pairs, rank, ranks, shown=6)) for rank in range(ranks)]
    assert all(shares)
    assert shares[0][:6] == list(range(min(pairs, 6)))
    together = sorted(chain(*shares))
    assert together in (list(range(pairs)), sorted(list(range(pairs)) * ranks))


def trained(folder: Path, *overrides: str) -> Run:
    where = [f"hydra.run.dir={folder}", f"checkpoints_dir={folder}_checkpoints"]
    done = user(*LONGER, *where, *overrides, cwd=folder.parent)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("Weights  ") == 1  # one process speaks
    return Run(0, folder, done.stderr)


def assert_equal_weights(one: Run, other: Run) -> None:
    """Check that weights, which are about 0.1, agree to 1e-6: sums in another order are rounded differently."""
    first, second = (load_weights(each.folder / "upscaler_64to128.pt")[0].state_dict() for each in (one, other))
    for name, value in first.items():
        torch.testing.assert_close(second[name], value, atol=1e-6, rtol=0)


@pytest.mark.slow
def test_two_processes_train_the_same_weights_as_one(tmp_path: Path) -> None:
    one, two = trained(tmp_path / "one"), trained(tmp_path / "two", *TWO)
    assert_equal_weights(one, two)
    assert "sync_dist" not in two.log
    for name, value in one.metrics.items():
        if name.startswith("val/"):
            assert two.metrics[name] == pytest.approx(value, abs=1e-3)
    assert (one.metrics["pairs"], one.metrics["val_pairs"]) == (two.metrics["pairs"], two.metrics["val_pairs"])
    grids = [sorted(path.name for path in (each.folder / "grids").iterdir()) for each in (one, two)]
    assert grids[0] == grids[1]
    assert (one.folder / "grids" / grids[0][0]).read_bytes() == (two.folder / "grids" / grids[0][0]).read_bytes()
    lines = [(each.folder / "metrics.csv").read_text().count("\n") for each in (one, two)]
    assert lines[0] == lines[1]


@pytest.mark.slow
def test_another_number_of_processes_resumes(tmp_path: Path) -> None:
    steady = ["optimizer.schedule=constant", "model=compact"]
    whole = trained(tmp_path / "whole", *steady)
    trained(tmp_path / "resumed", *TWO, *steady, "trainer.max_epochs=1")
    assert_equal_weights(whole, trained(tmp_path / "resumed", *steady, "ckpt_path=last"))


@pytest.mark.slow
def test_a_process_that_dies_ends_the_run_which_can_be_resumed(tmp_path: Path) -> None:
    words = [*LONGER, *TWO, "trainer.max_epochs=500", "hydra.run.dir=run", "checkpoints_dir=checkpoints"]
    run = subprocess.Popen(
        [sys.executable, str(ROOT / "train.py"), *words, "checkpoint.every_steps=5"], cwd=tmp_path,
        stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True,
    )  # fmt: skip
    last = tmp_path / "run" / "checkpoints" / "last.ckpt"
    while not last.exists():
        assert run.poll() is None
        time.sleep(0.1)
    children = Path(f"/proc/{run.pid}/task/{run.pid}/children").read_text().split()
    others = [pid for pid in children if b"train.py" in Path(f"/proc/{pid}/cmdline").read_bytes()]
    assert len(others) == 1
    os.kill(int(others[0]), signal.SIGKILL)
    _, stderr = run.communicate(timeout=60)
    assert run.returncode != 0
    assert "Another process of this run has ended" in stderr
    assert "ckpt_path=last" in stderr
    again = user(*LONGER, "hydra.run.dir=run", "checkpoints_dir=checkpoints", "ckpt_path=last", cwd=tmp_path)
    assert again.returncode == 0, again.stderr


@pytest.mark.slow
def test_torchrun(tmp_path: Path) -> None:
    launch = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--standalone",
        "--nproc-per-node=2",
        str(ROOT / "train.py"),
    ]
    words = [*LONGER, *TWO, "checkpoints_dir=checkpoints"]
    options = {"cwd": tmp_path, "capture_output": True, "text": True, "timeout": 300}
    nowhere = subprocess.run([*launch, *words], **options)  # type: ignore[call-overload]
    assert nowhere.returncode != 0
    assert "2 processes start this run. Give all processes the same folder with hydra.run.dir=DIR" in nowhere.stderr
    done = subprocess.run([*launch, *words, "hydra.run.dir=run"], **options)  # type: ignore[call-overload]
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "run" / "metrics.json").exists()
    assert (tmp_path / "run" / "train.log").read_text().count("now holds the weights") == 1


@pytest.mark.slow
def test_slurm(tmp_path: Path) -> None:
    """Processes get the variables that srun sets. A job that is queued again resumes with the same command."""
    job = {
        "SLURM_JOB_ID": "4242", "SLURM_JOB_NAME": "upscale", "SLURM_NTASKS": "2", "SLURM_NTASKS_PER_NODE": "2",
        "SLURM_NNODES": "1", "SLURM_NODEID": "0", "SLURM_NODELIST": "127.0.0.1", "SLURM_JOB_NODELIST": "127.0.0.1",
    }  # fmt: skip
    words = [*LONGER, *TWO, "checkpoints_dir=checkpoints", "hydra.run.dir=run"]

    def srun(*more: str, **changes: str) -> None:
        ranks = [
            subprocess.Popen(
                [sys.executable, str(ROOT / "train.py"), *words, *more], cwd=tmp_path,
                env={**os.environ, **job, "SLURM_PROCID": rank, "SLURM_LOCALID": rank, **changes},
            )
            for rank in "01"
        ]  # fmt: skip
        assert [rank.wait(timeout=200) for rank in ranks] == [0, 0]

    srun("trainer.max_epochs=1")
    srun("trainer.max_epochs=2", SLURM_RESTART_COUNT="1")
    log = (tmp_path / "run" / "train.log").read_text()
    assert log.count("now holds the weights") == 2
    assert log.count("last.ckpt, after step 6") == 1
    assert Run(0, tmp_path / "run", "").metrics["steps"] == 12


@pytest.mark.parametrize(("overrides", "message"), [
    (["-m", "seed=1,2", *TWO], "hydra/launcher=submitit_slurm hydra.launcher.tasks_per_node=DEVICES"),
    ([*TWO, "data.batch_size=3"], "must be a multiple of 2; got 3. Give data.batch_size=4."),
    ([*TWO, "model.batch_norm=batch"], "model.batch_norm=batch needs the statistics of complete batches"),
])  # fmt: skip
def test_what_several_processes_cannot_do(run: Runner, overrides: list[str], message: str) -> None:
    result = run(*overrides)
    assert result.code == 2
    assert message in result.stderr
