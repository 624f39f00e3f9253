import logging
import os
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from upscale_lit.errors import InputError
from upscale_lit.files import atomic
from upscale_lit.launch.publish import publish
from upscale_lit.launch.start import load_stages
from upscale_lit.models import MODELS, STAGES, Upsampler, Upsampler8x
from upscale_lit.weights import load_weights, save_weights

FACTS: dict[str, Any] = {
    "model_args": {"start": "bicubic", "batch_norm": "frozen"}, "stage": "64to128", "factor": 2, "kernel": "bicubic",
    "val_pairs": "abc", "metrics": {"val/psnr": 30.0},
}  # fmt: skip


def save(path: Path, **changes: Any) -> Upsampler:
    model = Upsampler("random")
    save_weights(path, model, {**FACTS, **changes})
    return model


def test_round_trip(tmp_path: Path) -> None:
    model = save(tmp_path / "w.pt")
    loaded, facts = load_weights(tmp_path / "w.pt")
    assert all(
        torch.equal(a, b) for a, b in zip(model.state_dict().values(), loaded.state_dict().values(), strict=True)
    )
    assert facts["stage"] == "64to128"
    assert not loaded.training
    assert os.listdir(tmp_path) == ["w.pt"]


def test_a_file_of_the_original_program(tmp_path: Path) -> None:
    model = Upsampler("random", "batch")
    torch.save({"epoch": 3, "model_state_dict": model.state_dict(), "optimizer_state_dict": {}}, tmp_path / "o.pt")
    loaded, _ = load_weights(tmp_path / "o.pt")
    assert torch.equal(loaded.state_dict()["fw.6.weight"], model.fw[6].weight)


class Original8x(nn.Module):
    """The stack of the original program, with its way of reading the files of the stages."""

    def __init__(self) -> None:
        super().__init__()
        self.upsample_64, self.upsample_128, self.upsample_256 = (Upsampler("random", "batch") for _ in range(3))

    def load_checkpoints(self, *paths: Path) -> None:
        for network, path in zip((self.upsample_64, self.upsample_128, self.upsample_256), paths, strict=True):
            network.load_state_dict(torch.load(path, map_location="cpu")["model_state_dict"])

    def forward(self, low: torch.Tensor) -> torch.Tensor:
        return self.upsample_256(self.upsample_128(self.upsample_64(low)))  # type: ignore[no-any-return]


def three(folder: Path, **changes: Any) -> dict[str, Path]:
    paths = {name: folder / f"upscaler_{stage}.pt" for name, stage in STAGES.items()}
    for name, path in paths.items():
        save(path, stage=STAGES[name], **changes)
    return paths


def stack_of(paths: dict[str, Path]) -> tuple[Upsampler8x, dict[str, dict[str, Any]]]:
    start = load_stages(paths)
    return Upsampler8x(**start.stages), start.origins


def test_stacks_go_both_ways_with_the_original_program(tmp_path: Path) -> None:
    low = torch.rand(1, 3, 8, 8) * 2 - 1
    # This package loads the original program's three files and its fine-tuned stack.
    theirs = Original8x().eval()
    paths = {name: tmp_path / f"{name}.pt" for name in STAGES}
    for name, path in paths.items():
        state = {"epoch": 9, "model_state_dict": getattr(theirs, name).state_dict(), "optimizer_state_dict": {}}
        torch.save(state, path)
    ours, facts = stack_of(paths)
    torch.save({"model_state_dict": theirs.state_dict()}, tmp_path / "stack.pt")
    whole_stack, _ = load_weights(tmp_path / "stack.pt")
    with torch.no_grad():
        assert torch.equal(ours.eval()(low), theirs(low))
        assert torch.equal(whole_stack(low), theirs(low))
    assert all(len(facts[name]["sha256"]) == 64 for name in STAGES)
    # The original program loads this package's three files and its stack.
    ours, _ = stack_of(three(tmp_path))
    theirs.load_checkpoints(*three_paths(tmp_path))
    with torch.no_grad():
        assert torch.equal(ours.eval()(low), theirs(low))
    one = {"model": "Upsampler", "model_args": FACTS["model_args"]}
    save_weights(tmp_path / "ours.pt", ours, {**FACTS, "stage": "64to512", "model_args": dict.fromkeys(STAGES, one)})
    theirs = Original8x().eval()
    theirs.load_state_dict(torch.load(tmp_path / "ours.pt")["model_state_dict"], strict=True)
    again, facts = load_weights(tmp_path / "ours.pt")
    with torch.no_grad():
        assert torch.equal(ours(low), theirs(low))
        assert torch.equal(ours(low), again(low))
    assert isinstance(again, Upsampler8x)
    assert facts["stage"] == "64to512"


def three_paths(folder: Path) -> list[Path]:
    return [folder / f"upscaler_{stage}.pt" for stage in STAGES.values()]


class Small(nn.Module):
    """Another 2x model, whose argument differs from those of the package's models."""

    factor, multiple = 2, 1

    def __init__(self, width: int) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(3, width, 3, padding=1), nn.Conv2d(width, 12, 1), nn.PixelShuffle(2))

    def forward(self, low: torch.Tensor) -> torch.Tensor:
        return self.body(low)  # type: ignore[no-any-return]


def test_each_file_rebuilds_its_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(MODELS, "Small", Small)
    paths = three(tmp_path)
    save_weights(paths["upsample_128"], Small(5), {**FACTS, "stage": "128to256", "model_args": {"width": 5}})
    stack, facts = stack_of(paths)
    assert isinstance(stack.upsample_128, Small)
    assert isinstance(stack.upsample_64, Upsampler)
    args = {name: {"model": facts[name]["model"], "model_args": facts[name]["model_args"]} for name in STAGES}
    save_weights(tmp_path / "stack.pt", stack, {**FACTS, "model_args": args})
    again, _ = load_weights(tmp_path / "stack.pt")
    low = torch.rand(1, 3, 8, 8)
    assert torch.equal(again(low), stack.eval()(low))


def test_a_file_of_another_stage(tmp_path: Path) -> None:
    save(tmp_path / "w.pt", stage="128to256")
    with pytest.raises(
        InputError, match=r"w\.pt must hold weights of stage 64to128; it holds weights of stage 128to256"
    ):
        load_stages({"upsample_64": tmp_path / "w.pt"})
    torch.save({"model_state_dict": Upsampler8x().state_dict()}, tmp_path / "8x.pt")
    with pytest.raises(InputError, match=r"8x\.pt must hold a 2x network of stage 64to128; it holds one of factor 8"):
        load_stages({"upsample_64": tmp_path / "8x.pt"})
    with pytest.raises(
        InputError, match=r"upsample_256 needs.*check the path\. Train this .*`python \S*train\.py stage=256to512`"
    ):
        load_stages({"upsample_256": tmp_path / "none.pt"})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model": "Mystery"}, "cannot be rebuilt. There is no network named 'Mystery'"),
        ({"model_args": {"depth": 3}}, r"cannot be rebuilt. Upsampler does not take the arguments \{'depth': 3\}"),
        ({"model": "Upsampler8x", "model_args": {"upsample_64": 3}}, "cannot be rebuilt. Upsampler8x does not take"),
        ({"pixel_range": {"mean": 0.0, "scale": 1.0}}, "works in the pixel range"),
    ],
)
def test_files_that_cannot_be_rebuilt(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    save(tmp_path / "w.pt", **changes)
    with pytest.raises(InputError, match=rf"w\.pt {message}"):
        load_weights(tmp_path / "w.pt")


class Bomb:
    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, ("exploded",)


def test_no_pickle_is_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save({"model_state_dict": Bomb()}, "bomb.pt")
    Path("plain.pt").write_bytes(pickle.dumps(Bomb()))
    for name in ("bomb.pt", "plain.pt"):
        with pytest.raises(InputError, match=rf"{name} must be a weights file; the file is damaged or of another kind"):
            load_weights(Path(name))
    assert not Path("exploded").exists()


def test_errors_explain_bad_files(tmp_path: Path) -> None:
    path = tmp_path / "w.pt"
    with pytest.raises(InputError, match=rf"There is no weights file at {path}"):
        load_weights(path)
    save(path)
    path.write_bytes(path.read_bytes()[:5000])
    with pytest.raises(InputError, match="damaged"):
        load_weights(path)
    torch.save({"model_state_dict": {"fw.0.weight": torch.zeros(1)}}, path)
    with pytest.raises(InputError, match=r"does not fit the network Upsampler.*fw\.0\.weight"):
        load_weights(path)
    save(path, pixel_range={"mean": 0.0, "scale": 255.0})
    with pytest.raises(InputError, match=r"pixel range \{'mean': 0\.0, 'scale': 255\.0\}"):
        load_weights(path)


def test_the_better_file_stays(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder = tmp_path / "checkpoints"

    def offer(psnr: float, **changes: Any) -> float:
        run = tmp_path / "run" / "w.pt"
        save(run, **{"metrics": {"val/psnr": psnr}, **changes})
        with caplog.at_level(logging.INFO):
            target = publish(run, folder)
        score: float = load_weights(target)[1]["metrics"]["val/psnr"]
        return score

    assert offer(30.0) == 30.0
    assert offer(29.0) == 30.0
    assert "stays: its val/psnr, 30.000 dB, is better than this run's 29.000 dB" in caplog.text
    assert offer(31.0) == 31.0
    assert offer(20.0, val_pairs="other pictures") == 20.0  # PSNR on other pairs cannot be compared
    assert offer(10.0, kernel="bilinear", val_pairs="other pictures") == 10.0
    assert offer(12.0, sweep="s", metrics={"val/psnr": 12.0, "val/gain": 2.0}) == 12.0
    same_sweep = {"sweep": "s", "kernel": "bilinear", "val_pairs": "third pictures"}
    assert offer(40.0, **same_sweep, metrics={"val/psnr": 40.0, "val/gain": 1.0}) == 12.0
    assert "its gain over bicubic, 2.000 dB, is better than this run's 1.000 dB in the same sweep" in caplog.text
    (folder / "w.pt").write_text("damaged")
    assert offer(5.0) == 5.0
    assert "cannot be compared" in caplog.text


def test_a_failed_write_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text("old")

    def write() -> None:
        with atomic(path) as part:
            part.write_text("half")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        write()
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["file"]
