"""Interrupted runs: a run that is resumed, from any step, ends bit for bit like an uninterrupted run."""

import csv
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import ROOT, Run
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from upscale_lit.data.module import UpscaleDataModule
from upscale_lit.training.module import UpscaleModule
from upscale_lit.weights import read_file

Runner = Callable[..., Run]
BATCHES = ["data.examples_per_epoch=8", "trainer.log_every_n_steps=1"]  # two epochs of four batches

KINDS = {
    "plain": [],
    "accumulation": ["trainer.accumulate_grad_batches=3"],  # a step after the third and the fourth batch of an epoch
    "validation within the epoch": ["trainer.val_check_interval=0.5"],
    "validation across epochs": ["trainer.val_check_interval=3", "trainer.check_val_every_n_epoch=null"],
    "validation in every second epoch": ["trainer.check_val_every_n_epoch=2"],
    "average": [
        "model=compact",
        "ema=0.9",
        "loss=charbonnier",
        "trainer.val_check_interval=3",
        "trainer.check_val_every_n_epoch=null",
    ],
    "branches": ["model=compact", "branches=true"],
    "max_steps": ["trainer.max_steps=9", "trainer.max_epochs=-1"],
}


def interrupt(monkeypatch: pytest.MonkeyPatch, batch: int, act: Callable[[], Any]) -> None:
    """Call `act` once, before the training batch number `batch`, counted from 1 over all epochs."""
    original = UpscaleModule.training_step
    seen = 0

    def step(self: UpscaleModule, images: Any, batch_idx: int) -> torch.Tensor:
        nonlocal seen
        seen += 1
        if seen == batch:
            act()
        return original(self, images, batch_idx)

    monkeypatch.setattr(UpscaleModule, "training_step", step)


def curves(result: Run) -> dict[str, list[tuple[int, float]]]:
    """Return the curves that TensorBoard shows, without times: pairs of step and value by name."""
    # TensorBoard reads files in the order of their names: second, host, process, number. The first three parts of the
    # names may be equal here. The links are therefore named in the order of the numbers.
    links = result.folder.parent / f"{result.folder.name} events"
    shutil.rmtree(links, ignore_errors=True)
    links.mkdir()
    files = result.folder.glob("events.out.tfevents.*")
    for number, file in enumerate(sorted(files, key=lambda file: int(file.suffix[1:]))):
        (links / f"events.out.tfevents.{number:04}").symlink_to(file)
    events = EventAccumulator(str(links), size_guidance={"scalars": 0})
    events.Reload()
    names = [name for name in events.Tags()["scalars"] if name != "val_final/seconds"]
    return {name: [(event.step, event.value) for event in events.Scalars(name)] for name in names}


def table(result: Run) -> list[dict[str, str]]:
    with (result.folder / "metrics.csv").open(newline="") as file:
        return [{name: value for name, value in row.items() if value} for row in csv.DictReader(file)]


def compare(result: Run, whole: Run) -> None:
    assert result.code == 0, result.stderr
    for name in (f"upscaler_{whole.metrics['stage']}.pt", "checkpoints/last.ckpt", "checkpoints/best.ckpt"):
        ours, theirs = (read_file(run.folder / name, "file") for run in (result, whole))
        for key in {"state_dict", "current_model_state", "model_state_dict"} & theirs.keys():
            assert all(torch.equal(ours[key][part], theirs[key][part]) for part in theirs[key]), name
    ours, theirs = ({**run.metrics, "seconds": 0, "overrides": []} for run in (result, whole))
    assert ours == theirs
    assert curves(result) == curves(whole)
    rows = [sorted(row.items()) for row in table(result)]
    assert sorted(rows) == sorted(sorted(row.items()) for row in table(whole))


@pytest.fixture(scope="module")
def finished() -> dict[tuple[str, ...], Run]:
    """Return a dictionary that the tests fill: uninterrupted runs by their overrides."""
    return {}


def cases() -> list[Any]:
    every = [(kind, batch) for kind in KINDS for batch in range(1, 9)]
    quick = [("plain", 1), *((kind, 4 if "validation" in kind else 6) for kind in KINDS)]
    return [pytest.param(*case, marks=[] if case in quick else pytest.mark.slow) for case in every]


@pytest.mark.parametrize(("kind", "batch"), cases())
def test_stopped_anywhere(
    run: Runner, monkeypatch: pytest.MonkeyPatch, kind: str, batch: int, finished: dict[tuple[str, ...], Run]
) -> None:
    overrides = [*BATCHES, *KINDS[kind]]
    if (key := tuple(overrides)) not in finished:
        finished[key] = run(*overrides, name="whole")
    whole = finished[key]
    interrupt(monkeypatch, batch, lambda: signal.raise_signal(signal.SIGTERM))
    stopped = run(*overrides)
    assert stopped.code == 143, stopped.stderr
    assert f"Stopped by SIGTERM. Resume this run with: python {ROOT}/train.py" in stopped.stderr
    compare(run(*overrides, "ckpt_path=last"), whole)


class Death(BaseException):
    pass


def die() -> None:
    raise Death


@pytest.mark.parametrize("stage", ["64to128", pytest.param("64to512", marks=pytest.mark.slow)])
@pytest.mark.parametrize("workers", [0, pytest.param(2, marks=pytest.mark.slow)])
def test_crashed_twice_and_then_stopped(
    run: Runner, monkeypatch: pytest.MonkeyPatch, networks: Path, stage: str, workers: int
) -> None:
    """Each crash comes some steps after the last checkpoint. Stacks and worker processes are tested, too."""
    overrides = [f"stage={stage}", *BATCHES, f"data.num_workers={workers}", "checkpoint.every_steps=3"]
    overrides += [
        f"stage.checkpoints.upsample_{size}={networks}/upscaler_{size}to{2 * size}.pt" for size in (64, 128, 256)
    ]
    whole = run(*overrides, name="whole")
    with monkeypatch.context() as context:
        interrupt(context, 3, die)  # only the checkpoint before the first step exists
        with pytest.raises(Death):
            run(*overrides)
    overrides += ["ckpt_path=last"]
    with monkeypatch.context() as context:
        interrupt(context, 6, die)  # within the second epoch
        with pytest.raises(Death):
            run(*overrides)
    assert read_file(whole.folder.parent / "run/checkpoints/last.ckpt", "file")["global_step"] == 3
    with monkeypatch.context() as context:
        interrupt(context, 2, lambda: signal.raise_signal(signal.SIGINT))
        assert run(*overrides).code == 130
    compare(run(*overrides), whole)


def test_a_kill_while_the_table_is_replaced(run: Runner, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = run(*BATCHES, name="whole")
    interrupt(monkeypatch, 5, lambda: signal.raise_signal(signal.SIGTERM))
    stopped = run(*BATCHES)
    history = stopped.folder / "metrics.csv"
    history.rename(stopped.folder / ".metrics.csv")  # as if a resumed run was killed after this step
    history.write_text("step\n")
    with (stopped.folder / ".metrics.csv").open("a") as file:
        file.write("0.1,5")
    compare(run(*BATCHES, "ckpt_path=last"), whole)
    assert not (stopped.folder / ".metrics.csv").exists()


def test_a_finished_run_ends_at_once_with_the_same_metrics(run: Runner) -> None:
    whole = run(*BATCHES, name="whole")
    before = run(*BATCHES)
    expected = [before.metrics, curves(before), table(before)]
    again = run(*BATCHES, "ckpt_path=last")
    compare(again, whole)
    assert [again.metrics, curves(again), table(again)] == expected


# At this learning rate the second of eight steps is the best.
WORSE = [
    *BATCHES, "model=compact", "model.width=8", "optimizer.lr=0.03", "optimizer.schedule=constant",
    "optimizer.warmup_steps=0", "trainer.val_check_interval=1",
]  # fmt: skip


def moved(folder: Path) -> Path:
    return folder.rename(folder.with_name("elsewhere"))


def copied(folder: Path) -> Path:
    return Path(shutil.copytree(folder, folder.with_name("elsewhere")))


def linked(folder: Path) -> Path:
    link = folder.with_name("elsewhere")
    link.symlink_to(moved(folder).rename(folder.with_name("real")))
    return link


@pytest.mark.parametrize(
    ("way", "batch"),
    [
        (moved, 5),
        (copied, None),
        *(pytest.param(*case, marks=pytest.mark.slow) for case in [(moved, None), (linked, 5)]),
    ],
    ids=lambda value: getattr(value, "__name__", str(value)),
)
def test_a_run_in_another_folder_keeps_its_best_weights(
    run: Runner,
    monkeypatch: pytest.MonkeyPatch,
    finished: dict[tuple[str, ...], Run],
    way: Callable[[Path], Path],
    batch: int | None,
) -> None:
    """The run is interrupted in its middle, or resumed after its end."""
    whole = finished[tuple(WORSE)] = finished.get(tuple(WORSE)) or run(*WORSE, name="whole")
    best = read_file(whole.folder / "checkpoints" / "best.ckpt", "file")
    assert best["global_step"] == 2
    if batch:
        interrupt(monkeypatch, batch, lambda: signal.raise_signal(signal.SIGTERM))
    before = run(*WORSE)
    published = before.folder.parent / "checkpoints" / "upscaler_64to128.pt"
    published.unlink(missing_ok=True)
    result = run(*WORSE, "ckpt_path=last", name=way(before.folder).name)
    compare(result, whole)
    assert read_file(result.folder / "checkpoints" / "best.ckpt", "file")["global_step"] == 2
    for file in (published, result.folder / "upscaler_64to128.pt"):
        weights = read_file(file, "file")["model_state_dict"]
        assert all(torch.equal(weights[name], best["state_dict"][f"model.{name}"]) for name in weights)


def test_a_run_that_resumes_from_the_checkpoint_of_another_folder(
    run: Runner, monkeypatch: pytest.MonkeyPatch, finished: dict[tuple[str, ...], Run]
) -> None:
    whole = finished[tuple(WORSE)] = finished.get(tuple(WORSE)) or run(*WORSE, name="whole")
    interrupt(monkeypatch, 5, lambda: signal.raise_signal(signal.SIGTERM))
    ckpt = run(*WORSE, name="first").folder / "checkpoints" / "last.ckpt"
    result = run(*WORSE, f"ckpt_path={ckpt}", name="second")
    assert result.code == 0, result.stderr
    assert read_file(result.folder / "checkpoints" / "best.ckpt", "file")["global_step"] == 2
    assert {**result.metrics, "seconds": 0, "overrides": []} == {**whole.metrics, "seconds": 0, "overrides": []}
    alone = ckpt.parents[2] / "last.ckpt"
    shutil.copy(ckpt, alone)  # the best weights are not next to this copy
    result = run(*WORSE, f"ckpt_path={alone}", name="third")
    assert result.code == 0, result.stderr
    assert "best.ckpt is missing. The best weights from this step on will be kept." in result.log
    assert read_file(result.folder / "checkpoints" / "best.ckpt", "file")["global_step"] > 5


@pytest.mark.parametrize(
    ("overrides", "sentence"),
    [
        (["stage=128to256"], "a run with stage=64to128; this run has stage=128to256. Give stage=64to128."),
        (["model.batch_norm=batch"], "this run has model.batch_norm=batch. Give model.batch_norm=frozen."),
        (["data.batch_size=1"], "The checkpoint was made with data.batch_size=2; this run has data.batch_size=1."),
        (["trainer.accumulate_grad_batches=2"], "belongs to a run with trainer.accumulate_grad_batches=1;"),
        (["loss=l1"], "belongs to a run with loss=mse; this run has loss=l1. Give loss=mse."),
        (["branches=true"], "belongs to a run with branches=false; this run has branches=true. Give branches=false."),
        (["ema=0.9"], "belongs to a run with ema=null; this run has ema=0.9. Give ema=null."),
        (["optimizer.layer_lr=null"], "rates for 6 groups of layers; this run has 1."),
        (["seed=2"], "The checkpoint was made with seed=1; this run has seed=2."),
        (["data.kernel=bilinear"], "made with data.kernel=bicubic; this run has data.kernel=bilinear"),
        (["data=folder", "data.root=photos"], "The checkpoint was made with photos=7 ("),
    ],
    ids=str,
)
def test_another_run_is_refused(
    run: Runner, folder: Path, monkeypatch: pytest.MonkeyPatch, overrides: list[str], sentence: str
) -> None:
    interrupt(monkeypatch, 3, lambda: signal.raise_signal(signal.SIGTERM))
    stopped = run(*BATCHES)
    ckpt = stopped.folder / "checkpoints" / "last.ckpt"
    before = ckpt.read_bytes()
    result = run(*BATCHES, *overrides, "ckpt_path=last")
    assert result.code == 2
    assert sentence in result.stderr
    assert ckpt.read_bytes() == before


@pytest.mark.parametrize("place", ["module", "data", "optimizer"])
def test_a_bug_keeps_its_traceback(run: Runner, monkeypatch: pytest.MonkeyPatch, place: str) -> None:
    """A bug that appears while a checkpoint is restored is not reported as a damaged checkpoint."""
    interrupt(monkeypatch, 3, lambda: signal.raise_signal(signal.SIGTERM))
    run(*BATCHES)
    owner, name = {
        "module": (UpscaleModule, "on_load_checkpoint"),
        "data": (UpscaleDataModule, "load_state_dict"),
        "optimizer": (UpscaleModule, "configure_optimizers"),
    }[place]

    def bug(*args: Any) -> None:
        raise ValueError("a bug")

    monkeypatch.setattr(owner, name, bug)
    result = run(*BATCHES, "ckpt_path=last")
    assert result.code == 1
    assert "in bug\n" in result.stderr
    assert "\nValueError: a bug\n" in result.stderr


def test_a_run_does_not_overwrite_another(run: Runner) -> None:
    first = run()
    result = run()
    assert result.code == 2
    assert f"{first.folder} already holds a run. Resume that run with ckpt_path=last" in result.stderr


def test_resuming_with_half_the_learning_rate(run: Runner, monkeypatch: pytest.MonkeyPatch) -> None:
    """The learning rate in the command replaces the rates in the checkpoint."""
    interrupt(monkeypatch, 4, lambda: signal.raise_signal(signal.SIGTERM))
    stopped = run(*BATCHES, "trainer.val_check_interval=0.5")
    result = run(*BATCHES, "trainer.val_check_interval=0.5", "optimizer.lr=5e-4", "ckpt_path=last")
    rates = dict(curves(result)["lr"])
    assert stopped.code == 143
    last = read_file(result.folder / "checkpoints" / "last.ckpt", "file")
    groups = last["optimizer_states"][0]["param_groups"]
    whole = dict(curves(run(*BATCHES, "trainer.val_check_interval=0.5", "optimizer.lr=5e-4", name="other"))["lr"])
    assert {step: rates[step] for step in range(5, 9)} == {step: whole[step] for step in range(5, 9)}
    assert groups[0]["initial_lr"] == 5e-4


def test_the_average_is_published(run: Runner) -> None:
    steady = [*BATCHES, "model=compact", "model.width=8", "optimizer.warmup_steps=0", "optimizer.schedule=constant"]
    result = run(*steady, "ema=0.5", "trainer.max_epochs=1", "trainer.max_steps=2", name="two")
    one = run(*steady, "trainer.max_steps=1", name="one")
    assert result.code == one.code == 0
    last = read_file(result.folder / "checkpoints" / "last.ckpt", "file")
    first = read_file(one.folder / "checkpoints" / "last.ckpt", "file")["state_dict"]
    for name, second in last["current_model_state"].items():  # the average starts after the first step
        torch.testing.assert_close(last["state_dict"][name], (first[name] + second) / 2)
    published = read_file(result.folder / "upscaler_64to128.pt", "file")["model_state_dict"]
    best = read_file(result.folder / "checkpoints" / "best.ckpt", "file")["state_dict"]
    assert all(torch.equal(published[name], best[f"model.{name}"]) for name in published)
    current = last["current_model_state"]
    assert any(not torch.equal(published[name], current[f"model.{name}"]) for name in published)
    logged = [float(row["val/psnr"]) for row in table(result) if "val/psnr" in row]
    # The first logged value was measured before training.
    assert result.metrics["val/psnr"] == pytest.approx(max(logged[1:]), abs=1e-4)


def test_an_invalid_average(run: Runner) -> None:
    result = run("ema=1.5")
    assert result.code == 2
    assert "ema must be a number above 0 and below 1, or null; got 1.5." in result.stderr
