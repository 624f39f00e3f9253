"""Options of a wrong type or out of range: the error names the key, the value and the accepted values."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from conftest import Run, user

from upscale_lit.errors import InputError, check_choice, check_number, check_path, check_whole
from upscale_lit.launch.instantiate import check_targets, instantiate
from upscale_lit.launch.options import CLUSTER, check_trainer

Runner = Callable[..., Run]

# Each override, and a text that its error must contain.
WRONG = [
    ("trainer.max_steps=0", "trainer.max_steps must be a whole number from 1 upwards, or -1; got 0."),
    ("trainer.max_epochs=0", "trainer.max_epochs must be a whole number from 1 upwards, or -1, or null; got 0."),
    ("trainer.max_time=5", "trainer.max_time must be a time in the form days:hours:minutes:seconds, such as"),
    (
        "trainer.accumulate_grad_batches=0",
        "trainer.accumulate_grad_batches must be a whole number from 1 upwards; got 0.",
    ),
    (
        "trainer.val_check_interval=0",
        "trainer.val_check_interval must be a number of batches from 1, or a fraction above 0.0",
    ),
    ("trainer.limit_train_batches=0", "trainer.limit_train_batches must be a number of batches from 1"),
    ("trainer.log_every_n_steps=0", "trainer.log_every_n_steps must be a whole number from 1 upwards, or null; got 0."),
    ("+trainer.overfit_batches=1", "trainer.overfit_batches must be 0 or left out, since every epoch has new examples"),
    ("+trainer.logger=false", "train.py itself sets trainer.logger. Leave out this option."),
    ("+trainer.profiler._target_=os.getcwd", "trainer.profiler._target_ must name a class of one of the packages upsc"),
    ("trainer._target_=mine.Trainer", "trainer._target_ must name a class of one of the packages upscale_lit, pytorch"),
    ("+model.parts=[{_target_:mine.Part}]", 'torch.nn; got "mine.Part". Only the _target_ of model, loss, data, degr'),
    ("+stage.part._target_=torch.nnn.Part", "stage.part._target_ must name a class of one of the packages upscale_lit"),
    ("+loss.part._target_=3", "loss.part._target_ must name a class of one of the packages upscale_lit"),
    ("+trainer.patience=3", "Trainer: got an unexpected keyword argument 'patience'. Known options are accelerator"),
    ("trainer.accelerator=tpu", 'trainer.accelerator must be one of auto, cpu, gpu, cuda, mps; got "tpu".'),
    ("trainer.devices=0", 'trainer.devices must be a whole number from 1 upwards, or -1, or "auto"; got 0.'),
    ("trainer.enable_progress_bar=maybe", 'trainer.enable_progress_bar must be one of null, true, false; got "maybe".'),
    ("trainer.use_distributed_sampler=true", "trainer.use_distributed_sampler must be false"),
    # Lightning reports the following errors when it starts to train or to validate.
    (
        "trainer.val_check_interval=100",
        "Lightning's Trainer does not take these trainer.* options: `val_check_interval`",
    ),
    ("trainer.limit_train_batches=0.01", "options: You requested to check 0.01 of the `train_dataloader`"),
    ("trainer.limit_val_batches=0.01", "options: You requested to check 0.01 of the `val_dataloader`"),
    ("optimizer.betas=0.9", "optimizer.betas must be two numbers from 0 and below 1, such as [0.9, 0.999]; got 0.9."),
    ("optimizer.betas=[0.9,1]", "got [0.9, 1]."),
    ("optimizer.lr=nan", "optimizer.lr must be a number above 0; got NaN."),
    (
        "degradation=blur_noise degradation.blur=much",
        'degradation.blur must be a number from 0 and below 1; got "much".',
    ),
    ("degradation=blur_noise degradation.noise=-1", "degradation.noise must be a number from 0; got -1."),
    ("optimizer.lr=true", "optimizer.lr must be a number above 0; got true."),
    ("optimizer.weight_decay=-1", "optimizer.weight_decay must be a number from 0; got -1."),
    ("optimizer.layer_lr=5", "optimizer.layer_lr must be a list with a factor of at least 0 for each convolution"),
    ("+optimizer.eps=1e-8", "got an unexpected keyword argument 'eps'. Known options are lr, layer_lr, warmup_steps"),
    ("~optimizer.lr", "missing a required argument: 'lr'. Known options are lr, layer_lr, warmup_steps"),
    ("optimizer=null", "optimizer must be a group of options; got null."),
    ("optimizer.lr='${nothing}'", "The configuration cannot be resolved: Interpolation key 'nothing' not found"),
    ("data.region=0.5", "data.region must be the smallest and the largest fraction of a photo's shorter side"),
    ("data.region=[a,b]", 'got ["a", "b"].'),
    ("data=folder data.root=. data.val_fraction=half", "data.val_fraction must be a number above 0 and below 1"),
    ("data.max_megapixels=inf", "data.max_megapixels must be a number above 0; got Infinity."),
    ("data.root=photos", "data.root belongs to data=folder: give data=folder data.root=DIR."),
    ("~data.num_workers", "data does not fit upscale_lit.data.module.UpscaleDataModule: missing a required argument"),
    ("~data.kernel", "data.kernel must be one of bicubic, bilinear; got null."),
    ("+data.low=5", "data does not fit upscale_lit.data.sources.Sample: got an unexpected keyword argument 'low'"),
    ("~degradation", "degradation must be a group of options; got null."),
    ("~loss", "loss must be a group of options; got null."),
    ("data=folder data.root=null", "data=folder needs a folder of photos. Name one with data.root=DIR."),
    ("+data.shuffle=true", "data does not fit upscale_lit.data.sources.Sample"),
    ("data._target_=nowhere.Data", "data._target_=nowhere.Data must name a class or a function"),
    ("checkpoint.every_minutes=often", 'checkpoint.every_minutes must be a number above 0, or null; got "often".'),
    ("checkpoint.every_steps=true", "checkpoint.every_steps must be a whole number from 1 upwards, or null; got true."),
    ("stage.factor=3", "stage.factor must be one of 2, 8; got 3."),
    ("stage.name=null", "stage.name must be a name, such as 64to128; got null."),
    ("stage.level_weights=3", "stage.level_weights must be a list of numbers, or null; got 3."),
    ("seed=true", "seed must be a whole number from 0 to 4294967295; got true."),
    ("train=maybe", 'train must be true or false; got "maybe".'),
    ("branches=1", "branches must be true or false; got 1."),
    ("loss=luma_l1 loss.luma=2", "loss.luma must be a number from 0 and up to 1; got 2."),
    ("ema=1", "ema must be a number above 0 and below 1, or null; got 1."),
    ("grid_columns=0", "grid_columns must be a whole number from 1 upwards; got 0."),
    ("grid_columns=2.5", "grid_columns must be a whole number from 1 upwards; got 2.5."),
]


@pytest.mark.parametrize(("override", "sentence"), WRONG, ids=[override for override, _ in WRONG])
def test_errors_explain_wrong_values(run: Runner, override: str, sentence: str) -> None:
    result = run(*override.split())
    assert result.code == 2, result.stderr
    assert sentence in result.stderr
    assert "Traceback" not in result.stderr
    assert not (result.folder / "checkpoints").exists()


def test_valid_values_are_accepted(run: Runner) -> None:
    """Valid values of several types are accepted. Lightning parses some of these values."""
    words = ["trainer.max_time={minutes:5}", "trainer.val_check_interval='00:00:00:01'", "trainer.devices='1'"]
    words += ["trainer.limit_val_batches=null", "trainer.log_every_n_steps=null", "trainer.limit_train_batches=1"]
    words += ["trainer.check_val_every_n_epoch=null", "trainer.deterministic=warn"]
    assert run(*words).code == 0


def test_objects_of_lightning_are_built(run: Runner, tmp_path: Path) -> None:
    profiler = "_target_:pytorch_lightning.profilers.SimpleProfiler,dirpath:.,filename:profile"
    result = run(f"trainer.profiler={{{profiler}}}")
    assert result.code == 0, result.stderr
    assert "Profiler Report" in next(tmp_path.glob("*profile.txt")).read_text()


def test_your_own_classes_can_be_named() -> None:
    own = {group: {"_target_": "mine.Own"} for group in ("model", "loss", "data", "degradation")}
    check_targets({**own, "trainer": {"_target_": "pytorch_lightning.Trainer"}})
    with pytest.raises(InputError, match=r"optimizer\._target_ must name a class of one of the packages"):
        check_targets({**own, "optimizer": {"_target_": "mine.Own"}})


def test_hydra_gets_the_same_limits_if_it_supports_them(monkeypatch: pytest.MonkeyPatch) -> None:
    given: list[Any] = []

    def newer(options: Any, *, _execution_whitelist_: Any, **more: Any) -> None:
        given.append(_execution_whitelist_)

    monkeypatch.setattr("hydra.utils.instantiate", newer)
    for group in ("loss", "trainer"):
        instantiate(group, {"_target_": "collections.Counter"})
    ours = ["upscale_lit.*", "pytorch_lightning.*", "torch.nn.*"]
    assert given == [[*ours, "collections.Counter"], ours]


PATHS = [
    ("data.root=", "data=folder"), ("data.root=null", "data=folder"), ("data.root='  '", "data=sample"),
    ("data.val_root=", "data=sample"), ("data.cache=", "data=sample"), ("checkpoints_dir=", "data=sample"),
    ("checkpoints_dir=null", "data=sample"), ("ckpt_path=", "data=sample"), ("model.weights=", "data=sample"),
    ("stage.checkpoints.upsample_64=", "stage=64to512"), ("data.urls=", "data=shards"),
    ("data.urls=null", "data=shards"),
    ("hydra.run.dir=", "data=sample"), ("+trainer.default_root_dir=", "data=sample"),
]  # fmt: skip


@pytest.mark.parametrize(("override", "choice"), PATHS, ids=[" ".join(words) for words in PATHS])
def test_an_empty_path_is_not_the_current_folder(
    run: Runner, tmp_path: Path, folder: Path, override: str, choice: str
) -> None:
    """The current folder has photos, which must not be found."""
    folder.rename(tmp_path / "here")
    result = run(choice, override)
    assert result.code == 2, result.stderr
    assert override.lstrip("+").partition("=")[0] in result.stderr
    assert "Traceback" not in result.stderr
    assert {path.name for path in tmp_path.iterdir()} <= {"here", "run", "user cache"}


@pytest.mark.parametrize("override", ["hydra.sweep.dir=", "hydra.sweep.subdir="])
def test_an_empty_path_of_a_sweep(run: Runner, tmp_path: Path, override: str) -> None:
    result = run("-m", "seed=1,2", override)
    assert result.code == 2
    assert f'error: {override[:-1]} must name a file or a folder; got "".' in result.stderr
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("words", [[], ["-m", "seed=1,2"]], ids=["a run", "a sweep"])
def test_chdir_is_refused(run: Runner, tmp_path: Path, words: list[str]) -> None:
    result = run("hydra.job.chdir=true", *words)
    assert result.code == 2
    assert "hydra.job.chdir=true is not supported: relative paths start at the folder in which the" in result.stderr
    assert not list(tmp_path.iterdir())


def test_several_machines_need_a_launcher(run: Runner, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith(CLUSTER)]:
        monkeypatch.delenv(name)
    result = run("trainer.num_nodes=2")
    assert result.code == 2
    assert "trainer.num_nodes=2 needs train.py to be started on each machine" in result.stderr
    assert "torchrun --nnodes=2" in result.stderr
    for name in ("MASTER_ADDR", "SLURM_JOB_ID", "TORCHELASTIC_RUN_ID"):
        with monkeypatch.context() as context:
            context.setenv(name, "1")
            check_trainer({"num_nodes": 2})


@pytest.mark.parametrize(
    ("check", "value", "sentence"),
    [
        (lambda value: check_whole("a", value, 1, 5), 6, "a must be a whole number from 1 to 5; got 6."),
        (lambda value: check_whole("a", value), 1.0, "a must be a whole number from 1 upwards; got 1.0."),
        (lambda value: check_number("a", value, low=0, below=1), 1, "a must be a number from 0 and below 1; got 1."),
        (lambda value: check_choice("a", value, [None, "b", 2]), 3, "a must be one of null, b, 2; got 3."),
        (lambda value: check_choice("a", value, [1]), True, "a must be one of 1; got true."),
        (
            lambda value: check_path("a", value),
            "",
            'a must name a file or a folder; got "". Is it a shell variable that is not set?',
        ),
        (lambda value: check_path("a", value), 5, "a must name a file or a folder; got 5."),
    ],
)
def test_the_form_of_the_errors(check: Callable[[Any], None], value: Any, sentence: str) -> None:
    with pytest.raises(InputError) as caught:
        check(value)
    assert sentence in str(caught.value)


def test_a_folder_that_cannot_be_made(tmp_path: Path) -> None:
    """The parent of the folder is a broken link, as if a disk is not mounted."""
    (tmp_path / "outputs").symlink_to(tmp_path / "gone" / "disk")
    result = user("data.val_pairs=2", "trainer.max_steps=1", cwd=tmp_path)
    assert result.returncode == 2
    assert "cannot be written to" in result.stderr
