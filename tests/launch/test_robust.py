"""Runs with a degradation: they measure clean and degraded pairs, choose by val/score, and resume exactly."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from conftest import Run

from upscale_lit.launch.publish import same_degradation

Runner = Callable[..., Run]
PHOTO = ["model=compact", "degradation=photo", "optimizer.schedule=constant"]


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return dict(torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"])


def assert_equal_weights(run: Run, other: Run) -> None:
    ours, theirs = weights(run.folder), weights(other.folder)
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(value, theirs[name]) for name, value in ours.items())


def test_both_kinds_of_pairs_are_measured(run: Runner) -> None:
    robust, clean = run(*PHOTO, name="robust"), run("model=compact", name="clean")
    assert robust.code == clean.code == 0, robust.stderr
    metrics = robust.metrics
    for name in ("psnr_degraded", "ssim_degraded", "psnr_degraded_bicubic", "ssim_degraded_bicubic", "gain_degraded"):
        assert f"val/{name}" in metrics
        assert f"val/{name}" not in clean.metrics
    assert metrics["val/score"] == pytest.approx((metrics["val/psnr"] + metrics["val/psnr_degraded"]) / 2)
    assert metrics["val/psnr_degraded_bicubic"] < metrics["val/psnr_bicubic"]
    assert metrics["val/psnr_bicubic"] == clean.metrics["val/psnr_bicubic"]
    assert "bicubic, degraded" in robust.log
    assert "held weights of degradation=photo. Weights of degradation=none replace them." in clean.log
    assert "(rows: input, output, degraded input, degraded output, truth)" in robust.log
    assert "val/psnr_degraded" in (robust.folder / "metrics.csv").read_text()


def test_the_identity_of_the_pairs_includes_the_degradation(run: Runner) -> None:
    """Other seeds measure on the same degraded pairs, other degradations on others."""
    pairs = [
        run("model=compact", *words, "train=false", name=str(number)).metrics["val_pairs"]
        for number, words in enumerate(
            [[], PHOTO[1:2], [PHOTO[1], "seed=7"], ["degradation=jpeg", "degradation.quality=[50,50]"]]
        )
    ]
    assert pairs[1] == pairs[2]
    assert len(set(pairs)) == 3
    assert all(each.startswith(f"{pairs[0]}+") for each in pairs[1:])


def test_the_score_chooses_the_best_weights(run: Runner) -> None:
    robust = run(*PHOTO, "trainer.max_epochs=2")
    content = torch.load(robust.folder / "checkpoints" / "last.ckpt", weights_only=True)
    (state,) = (state for name, state in content["callbacks"].items() if name.startswith("ModelCheckpoint"))
    assert state["monitor"] == "val/score"
    assert float(state["best_model_score"]) == pytest.approx(robust.metrics["val/score"], abs=1e-4)


def test_workers_and_resuming_change_nothing(run: Runner) -> None:
    complete = run(*PHOTO, "trainer.max_epochs=2", name="complete")
    assert complete.code == 0, complete.stderr
    assert_equal_weights(run(*PHOTO, "trainer.max_epochs=2", "data.num_workers=2", name="workers"), complete)
    run(*PHOTO, "trainer.max_epochs=1", name="resumed")
    resumed = run(*PHOTO, "trainer.max_epochs=2", "ckpt_path=last", name="resumed")
    assert_equal_weights(resumed, complete)
    assert resumed.metrics["val/score"] == complete.metrics["val/score"]
    refused = run(*PHOTO, "trainer.max_epochs=2", "ckpt_path=last", "degradation.quality=[50,95]", name="resumed")
    assert refused.code == 2
    assert "degradation.quality=[30, 95]" in refused.stderr


@pytest.mark.slow
def test_the_stack_measures_its_chained_stages_on_degraded_pairs(run: Runner) -> None:
    for stage in ("64to128", "128to256", "256to512"):
        assert run(f"stage={stage}", "model=compact", name=stage).code == 0
    stack = run("stage=64to512", *PHOTO, name="stack")
    assert stack.code == 0, stack.stderr
    assert {"val/psnr_chained", "val/psnr_degraded_chained", "val/score_chained"} <= stack.metrics.keys()
    assert stack.metrics["val/score"] >= stack.metrics["val/score_chained"] - 1e-6
    assert "fine-tuned, degraded" in stack.log


def test_impossible_values_end_in_a_sentence(run: Runner) -> None:
    refused = run("degradation=photo", "degradation.quality=[0,95]")
    assert refused.code == 2
    assert "degradation.quality must be the lowest and the highest quality, from 1 to 100" in refused.stderr


def test_a_sweep_shows_the_score(run: Runner) -> None:
    """Jobs with different degradations are not compared. The table has the numbers by which jobs are ordered."""
    sweep = run("-m", "model=compact", "degradation=none,photo", name="sweep")
    assert sweep.code == 0, sweep.stderr
    heading = (sweep.folder / "sweep.csv").read_text().splitlines()[0]
    assert heading == "degradation,val/score,val/psnr,val/gain,val/gain_degraded,seconds,run folder,error"
    published = torch.load(sweep.folder.parent / "checkpoints" / "upscaler_64to128.pt", weights_only=True)
    assert published["degradation"]["name"] == "photo"  # the last job


def test_weights_of_version_0_1_0_have_no_degradation() -> None:
    none, blur = {"inputs": "photos"}, {"inputs": "augmented"}
    assert same_degradation(none, {"degradation": {"name": "none"}})
    assert same_degradation(none, none)
    assert not same_degradation(blur, none)
    assert not same_degradation({"degradation": {"name": "photo"}}, none)
