"""Signals end a run even if its main thread waits inside PyTorch, where Python runs no signal handlers."""

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
from conftest import ROOT, TINY

# This program waits for a second process that never starts, as a run on two machines may do.
WAITING = """
import sys
from datetime import timedelta
from torch.distributed import TCPStore
from upscale_lit import signals

signals.GRACE = 0.5
with signals.Signals() as ours:
    ours.patient = sys.argv[1] == "patient"
    ours.farewells.append(lambda stopped: print(f"Farewell, {stopped}.", flush=True))
    print("waiting", flush=True)
    TCPStore("127.0.0.1", 0, 2, True, timedelta(seconds=60))
"""


def waiting(kind: str) -> subprocess.Popen[str]:
    process = subprocess.Popen(
        [sys.executable, "-c", WAITING, kind], cwd=ROOT, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    assert process.stdout
    assert process.stdout.readline() == "waiting\n"
    time.sleep(0.5)  # by now the process waits inside PyTorch
    return process


@pytest.mark.parametrize("number", [signal.SIGTERM, pytest.param(signal.SIGINT, marks=pytest.mark.slow)])
def test_a_signal_ends_a_wait(number: int) -> None:
    process = waiting("impatient")
    process.send_signal(number)
    out, err = process.communicate(timeout=30)
    assert process.returncode == 128 + number
    assert f"Farewell, {signal.Signals(number).name}." in out
    assert "Traceback" not in err


def test_the_second_signal_ends_an_endless_step() -> None:
    """The first signal lets the step finish, however long the step takes."""
    process = waiting("patient")
    process.send_signal(signal.SIGTERM)
    with pytest.raises(subprocess.TimeoutExpired):
        process.wait(2)
    process.send_signal(signal.SIGTERM)
    assert "Farewell, SIGTERM." in process.communicate(timeout=30)[0]
    assert process.returncode == 143


TOGETHER = """
import time
import torch
from upscale_lit import signals

signals.GRACE = 3
matrix = torch.rand(4000, 4000)
with signals.Signals() as ours:
    ours.patient = True
    print("waiting", flush=True)
    matrix @ matrix  # a single Python instruction that takes about a second
    for _ in range(50):  # as long as writing a checkpoint may take
        time.sleep(0.1)
    print("written", flush=True)
"""


@pytest.mark.slow
def test_two_equal_signals_within_one_step_are_one() -> None:
    """Some schedulers send two equal signals. Python calls the handler once, and the checkpoint is written."""
    process = subprocess.Popen([sys.executable, "-c", TOGETHER], cwd=ROOT, text=True, stdout=subprocess.PIPE)
    assert process.stdout
    assert process.stdout.readline() == "waiting\n"
    for _ in range(2):
        time.sleep(0.1)
        process.send_signal(signal.SIGTERM)
    assert "written" in process.communicate(timeout=30)[0]


def ended(group: int) -> bool:
    """Return whether all processes of the group `group` end within 20 s."""
    for _ in range(100):
        try:
            os.killpg(group, 0)
        except ProcessLookupError:
            return True
        time.sleep(0.2)
    return False


@pytest.mark.slow
@pytest.mark.parametrize("devices", [1, 2])
def test_a_run_that_waits_for_another_machine(tmp_path: Path, devices: int) -> None:
    """On two devices the run has started a second process, which must end as well."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    words = [*TINY, "trainer=ddp", "trainer.num_nodes=2", f"trainer.devices={devices}", "data.batch_size=4"]
    words += ["hydra.run.dir=run"]
    env = {**os.environ, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "NODE_RANK": "0"}
    with open(tmp_path / "log", "wb") as log:
        process = subprocess.Popen(
            [sys.executable, str(ROOT / "train.py"), *words], cwd=tmp_path, env=env, stdout=log, stderr=log,
            start_new_session=True,
        )  # fmt: skip
    until = time.monotonic() + 60
    while "MEMBER" not in (tmp_path / "log").read_text() and time.monotonic() < until:
        time.sleep(0.2)
    assert "MEMBER" in (tmp_path / "log").read_text()
    time.sleep(2)
    process.send_signal(signal.SIGTERM)
    assert process.wait(30) == 143
    text = (tmp_path / "log").read_text()
    assert "Stopped by SIGTERM. Resume this run with: python" in text
    assert "Traceback" not in text
    assert ended(process.pid)
