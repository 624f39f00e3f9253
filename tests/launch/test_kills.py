"""Runs in separate processes that real signals end, and that the printed command resumes."""

import contextlib
import os
import random
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from conftest import ROOT, TINY

from upscale_lit.training.checkpoints import read_checkpoint
from upscale_lit.weights import load_weights, read_file

ENV = {**os.environ, "COLUMNS": "200"}
LONG = [*TINY, "data.examples_per_epoch=50", "trainer.max_epochs=4", "trainer.log_every_n_steps=1"]
STEPS = 100  # 4 epochs of 25 batches of 2 examples


def start(folder: Path, *words: str) -> subprocess.Popen[str]:
    command = [sys.executable, str(ROOT / "train.py"), *LONG, "checkpoints_dir=published", *words]
    return subprocess.Popen(
        command, cwd=folder, env=ENV, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True
    )


def wait_for(condition: Path, process: subprocess.Popen[str]) -> None:
    until = time.monotonic() + 60
    while not condition.exists() and process.poll() is None and time.monotonic() < until:
        time.sleep(0.01)


def same_weights(one: Path, other: Path) -> None:
    states = [load_weights(file)[0].state_dict() for file in (one, other)]
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[1])


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the weights file of a run that no signal interrupts."""
    folder = tmp_path_factory.mktemp("uninterrupted")
    process = start(folder, "hydra.run.dir=run")
    assert process.communicate()[0]
    assert process.returncode == 0
    return folder / "run" / "upscaler_64to128.pt"


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_the_printed_command_resumes(tmp_path: Path, uninterrupted: Path, number: int) -> None:
    """The name of the run folder has characters that are special to the shell and to Hydra."""
    name = "a run's = [1, 2] größer 猫"
    quoted = name.replace("'", "\\'")
    process = start(tmp_path, f"hydra.run.dir='{quoted}'")
    wait_for(tmp_path / name / "checkpoints" / "last.ckpt", process)
    os.killpg(process.pid, number)  # Ctrl-C and clusters signal all processes of a job
    _, stderr = process.communicate(timeout=60)
    assert process.returncode == 128 + number, stderr
    assert "Traceback" not in stderr
    found = re.search(r"Stopped by \w+\. Resume this run with: (.*)", stderr)
    assert found
    command = found[1].replace("python", sys.executable, 1)
    done = subprocess.run(["bash", "-c", command], cwd=tmp_path, env=ENV, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    same_weights(tmp_path / name / "upscaler_64to128.pt", uninterrupted)
    same_weights(tmp_path / "published" / "upscaler_64to128.pt", uninterrupted)


@pytest.mark.slow
@pytest.mark.parametrize("seed", [1, 2])
def test_killed_at_random_moments(tmp_path: Path, uninterrupted: Path, seed: int) -> None:
    """SIGKILL ends the run again and again. After each kill, all files with final names are complete.

    Each start resumes the killed run. The run writes a checkpoint after each step, and many kills interrupt a write.
    """
    moments = random.Random(seed)
    run = tmp_path / "run"
    last = run / "checkpoints" / "last.ckpt"
    kills = steps = 0
    while kills < 26:
        before = last.stat().st_mtime_ns if last.exists() else 0
        log = run / "train.log"
        on = ["ckpt_path=last"] if log.exists() and log.stat().st_size else []
        process = start(tmp_path, "hydra.run.dir=run", "checkpoint.every_steps=1", *on)
        if moments.random() < 0.8:  # otherwise the kill may come during the start
            until = time.monotonic() + 60
            while time.monotonic() < until and process.poll() is None:
                if last.exists() and last.stat().st_mtime_ns != before:
                    break
                time.sleep(0.005)
            time.sleep(moments.random() * 0.15)
        else:
            time.sleep(moments.random() * 6)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        _, stderr = process.communicate()
        assert process.returncode in (0, -signal.SIGKILL), stderr
        kills += process.returncode != 0
        for file in run.rglob("*.ckpt"):
            now = read_checkpoint(file)["global_step"]
            if file == last:
                assert now >= steps
                steps = now
        for file in tmp_path.rglob("*.pt"):
            load_weights(file)
        if steps == STEPS:  # the run is complete: start a new one in the same folder
            run.rename(tmp_path / f"done {kills}")
            steps = 0
    process = start(tmp_path, "hydra.run.dir=run", *(["ckpt_path=last"] if steps else []))
    _, stderr = process.communicate(timeout=300)
    assert process.returncode == 0, stderr
    same_weights(run / "upscaler_64to128.pt", uninterrupted)
    assert not list(run.rglob("checkpoints/.*.part"))
    assert read_file(last, "checkpoint")["global_step"] == STEPS
