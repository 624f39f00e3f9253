import logging
import os
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch

from upscale_lit.errors import InputError
from upscale_lit.models import Upsampler
from upscale_lit.weights import hand_on, load_weights, save_weights, whole

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


class Bomb:
    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, ("exploded",)


def test_no_pickle_is_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save({"model_state_dict": Bomb()}, "bomb.pt")
    Path("plain.pt").write_bytes(pickle.dumps(Bomb()))
    for name in ("bomb.pt", "plain.pt"):
        with pytest.raises(InputError, match=rf"{name} should be a weights file; it is damaged or something else"):
            load_weights(Path(name))
    assert not Path("exploded").exists()


def test_bad_files_are_sentences(tmp_path: Path) -> None:
    path = tmp_path / "w.pt"
    with pytest.raises(InputError, match=rf"There should be a weights file at {path}"):
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
        save(run, metrics={"val/psnr": psnr}, **changes)
        with caplog.at_level(logging.INFO):
            target = hand_on(run, folder)
        score: float = load_weights(target)[1]["metrics"]["val/psnr"]
        return score

    assert offer(30.0) == 30.0
    assert offer(29.0) == 30.0
    assert "stays: its val/psnr, 30.000 dB, is better than this run's 29.000 dB" in caplog.text
    assert offer(31.0) == 31.0
    assert offer(20.0, val_pairs="other pictures") == 20.0  # not comparable
    assert offer(10.0, kernel="bilinear", val_pairs="other pictures") == 10.0
    (folder / "w.pt").write_text("damaged")
    assert offer(5.0) == 5.0
    assert "cannot be compared" in caplog.text


def test_a_failed_write_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text("old")

    def write() -> None:
        with whole(path) as part:
            part.write_text("half")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        write()
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["file"]
