import json
import math
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import picture
from PIL import Image

from upscale_lit import metrics, resample
from upscale_lit.cli import main
from upscale_lit.inference.evaluate import lanczos, self_ensemble
from upscale_lit.inference.quality import Lossy


def evaluate(capsys: pytest.CaptureFixture[str], *words: object) -> tuple[int, list[list[str]], list[str], str]:
    """Run `evaluate`. Return (exit code, rows of the table as cells, lines of stderr, the last line of stdout)."""
    capsys.readouterr()
    code = main(["evaluate", *map(str, words)])
    captured = capsys.readouterr()
    lines = captured.out.splitlines()
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines if line.startswith("|")]
    return code, rows[2:], captured.err.splitlines(), lines[-1] if lines else ""


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    folder = tmp_path / "Set2"
    folder.mkdir()
    picture(70, 61, 1).save(folder / "a.png")
    picture(50, 64, 2).convert("L").save(folder / "b.png")
    return folder


def test_luma_by_hand() -> None:
    image = torch.tensor([[255, 0, 0], [0, 255, 0], [0, 0, 255], [255, 255, 255], [0, 0, 0], [10, 200, 30]])
    expected = [16 + 65.481, 16 + 128.553, 16 + 24.966, 235.0, 16.0, 16 + (654.81 + 25710.6 + 748.98) / 255]
    values = metrics.luma(image.to(torch.uint8).T.reshape(1, 3, 6, 1))
    assert values.shape == (1, 1, 6, 1)
    assert values.flatten().tolist() == pytest.approx(expected, abs=1e-9)
    assert metrics.luma(torch.full((1, 1, 2, 2), 77, dtype=torch.uint8)).unique().item() == 77


def test_psnr_on_y_by_hand() -> None:
    """The two outermost pixels do not count, Y is not rounded, and the peak is 255."""
    high = torch.zeros(1, 3, 20, 20, dtype=torch.uint8)
    pred = high.clone()
    pred[:, 0, 2:-2, 2:-2] = 10  # red, so Y differs by 10 * 65.481 / 255
    pred[:, :, :2] = 255
    expected = 20 * math.log10(255 / (10 * 65.481 / 255))
    assert metrics.psnr_y(pred, high, shave=2).item() == pytest.approx(expected, abs=1e-5)
    assert metrics.psnr_y(high, high, shave=2).item() == 100


def test_ssim_on_y_by_hand() -> None:
    """SSIM equals the formula of Wang et al. 2004, here computed in plain loops at each window inside the picture."""
    random = np.random.default_rng(0)
    a, b = (random.integers(0, 256, (1, 1, 18, 17)) for _ in range(2))
    offsets = np.arange(11) - 5
    line = np.exp(-(offsets**2) / (2 * 1.5**2))
    window = np.outer(line, line) / line.sum() ** 2
    x, y = (value[0, 0, 2:-2, 2:-2].astype(float) for value in (a, b))
    values = []
    for top in range(x.shape[0] - 10):
        for left in range(x.shape[1] - 10):
            p, q = (value[top : top + 11, left : left + 11] for value in (x, y))
            mean_p, mean_q = (window * p).sum(), (window * q).sum()
            var_p, var_q = (window * (p - mean_p) ** 2).sum(), (window * (q - mean_q) ** 2).sum()
            covariance = (window * (p - mean_p) * (q - mean_q)).sum()
            c1, c2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
            values.append(
                (2 * mean_p * mean_q + c1) * (2 * covariance + c2)
                / ((mean_p**2 + mean_q**2 + c1) * (var_p + var_q + c2))
            )  # fmt: skip
    pair = [torch.from_numpy(value.astype(np.uint8)) for value in (a, b)]
    assert metrics.ssim_y(*pair, shave=2).item() == pytest.approx(np.mean(values), abs=1e-9)


def test_a_folder_of_photos(photos: Path, networks: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, rows, errors, convention = evaluate(
        capsys, photos, "-s", 2, "-m", networks / "upscaler_64to128.pt", networks / "upscaler_256to512.pt",
        "--json", tmp_path / "table.json", "--save", tmp_path / "saved",
    )  # fmt: skip
    assert (code, errors) == (0, [])
    methods = ["bilinear", "bicubic", "lanczos", "upscaler_64to128", "upscaler_256to512"]
    assert [row[:3] for row in rows] == [["Set2", method, "2"] for method in methods]
    written = json.loads((tmp_path / "table.json").read_text())
    assert written["convention"] == convention
    assert "BT.601" in convention
    assert "2 px are shaved" in convention
    assert "antialiased bicubic downscaling" in convention
    for row, shown in zip(written["rows"], rows, strict=True):
        assert list(row) == ["set", "method", "scale", "psnr_y", "ssim_y", "psnr_rgb", "images"]
        assert row["images"] == 2
        assert [f"{row['psnr_y']:.3f}", f"{row['ssim_y']:.4f}", f"{row['psnr_rgb']:.3f}", "2"] == shown[3:]
    # The table shows means over the pictures. High pictures are cropped to even sides, and grey pictures stay grey.
    expected = []
    for name in ("a", "b"):
        values = np.array(Image.open(photos / f"{name}.png"))
        high = torch.from_numpy(values.reshape(*values.shape[:2], -1)).permute(2, 0, 1)[None][:, :, :60]
        if name == "b":
            high = torch.from_numpy(values)[None, None]
        pred = resample.interpolate(resample.downscale(high, 2), 2)
        expected.append(metrics.psnr_y(pred, high, 2).item())
        saved = np.array(Image.open(tmp_path / "saved" / "Set2" / "bicubic" / f"{name}.png"))
        assert np.array_equal(saved, resample.to_uint8(pred)[0].permute(1, 2, 0).squeeze(-1).numpy())
    assert written["rows"][1]["psnr_y"] == pytest.approx(sum(expected) / 2)
    assert {row["method"]: row["psnr_y"] for row in written["rows"]}["bilinear"] < written["rows"][1]["psnr_y"]


def benchmark(folder: Path, name: str = "{}") -> Path:
    """Write a folder in the layout of common benchmarks. Its low pictures are of one colour, to recognise their use."""
    (folder / "HR").mkdir(parents=True)
    (folder / "LR_bicubic_x2").mkdir()
    for number in range(2):
        picture(60 + number, 50, number).save(folder / "HR" / f"{number}.png")
        Image.new("RGB", (30, 25), (10, 20, 30)).save(folder / "LR_bicubic_x2" / f"{name.format(number)}.png")
    return folder


@pytest.mark.parametrize("name", ["{}", "{}x2"])
def test_a_benchmark(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    folder = benchmark(tmp_path / "Set2", name)
    code, rows, errors, convention = evaluate(capsys, folder, "-s", 2)
    assert (code, errors) == (0, [])
    assert [row[1] for row in rows][:4] == ["bilinear", "bicubic", "lanczos", "upscaler_64to128"]  # the shipped models
    assert "Low pictures: LR_bicubic_x2." in convention
    high = torch.from_numpy(np.array(Image.open(folder / "HR" / "1.png"))).permute(2, 0, 1)[None, ..., :60]
    flat = torch.tensor([10, 20, 30], dtype=torch.uint8).view(1, 3, 1, 1).expand_as(high)
    other = torch.from_numpy(np.array(Image.open(folder / "HR" / "0.png"))).permute(2, 0, 1)[None]
    expected = sum(metrics.psnr(flat, image, 2).item() for image in (high, other)) / 2
    assert {row[5] for row in rows} == {f"{expected:.3f}"}
    _, _, _, convention = evaluate(capsys, folder, "-s", 4)  # the folder has no low pictures for 4x
    assert "antialiased" in convention


def test_8x_and_several_folders(
    photos: Path, networks: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    other = tmp_path / "other"
    other.mkdir()
    picture(90, 99).save(other / "c.jpg")
    code, rows, _, _ = evaluate(capsys, photos, other, "-s", 8, "-m", networks, "--self-ensemble")
    assert code == 0
    chain = "upscaler_64to128+upscaler_128to256+upscaler_256to512"
    methods = ["bilinear", "bicubic", "lanczos", "upscaler_64to512 (self-ensemble)", f"{chain} (self-ensemble)"]
    assert [row[:2] for row in rows] == [[name, method] for name in ("Set2", "other") for method in methods]
    assert [row[6] for row in rows] == ["2"] * 5 + ["1"] * 5


def test_files_of_one_name(photos: Path, networks: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    paths = [tmp_path / run / "upscaler_64to128.pt" for run in ("a", "b")]
    for path in paths:
        path.parent.mkdir()
        path.write_bytes((networks / path.name).read_bytes())
    _, rows, _, _ = evaluate(capsys, photos, "-m", *paths)
    assert [row[1] for row in rows[3:]] == [str(path) for path in paths]


def test_self_ensemble_by_hand() -> None:
    low = torch.rand(1, 3, 4, 6)
    views: list[torch.Tensor] = []

    def method(view: torch.Tensor, lossy: Lossy | None) -> torch.Tensor:
        views.append(view)
        return view.repeat_interleave(2, 2).repeat_interleave(2, 3)

    expected = low.repeat_interleave(2, 2).repeat_interleave(2, 3)
    assert torch.allclose(self_ensemble(method)(low, None), expected)  # the result of each view is turned back
    assert len({tuple(view.flatten().tolist()) for view in views}) == 8

    def brighter_on_the_right(view: torch.Tensor, lossy: Lossy | None) -> torch.Tensor:
        return method(view, lossy) * torch.linspace(0, 1, 2 * view.shape[3])

    sided = self_ensemble(brighter_on_the_right)
    symmetric = sided(torch.ones(1, 1, 4, 4), None)
    assert torch.allclose(symmetric, symmetric.flip(3))
    assert torch.allclose(symmetric, symmetric.transpose(2, 3))


def test_lanczos_equals_pillow() -> None:
    for image in (picture(20, 15), picture(20, 15).convert("L")):
        values = np.array(image)
        low = torch.from_numpy(values.reshape(15, 20, -1)).permute(2, 0, 1)[None]
        expected = np.array(image.resize((40, 30), Image.Resampling.LANCZOS)).reshape(30, 40, -1)
        assert np.array_equal(lanczos(low, 2)[0].permute(1, 2, 0).numpy(), expected)


def test_compare_finished_pictures(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Pairs are found in one folder by the endings _HR and _SR, and in two folders by their names."""
    both, truth, made = tmp_path / "both", tmp_path / "truth", tmp_path / "made"
    for folder in (both, truth, made):
        folder.mkdir()
    expected = []
    for name in ("cat", "dog"):
        high, pred = (np.array(picture(40, 30, seed)) for seed in (1, 2))
        high, pred = high // 2, high // 2 + (pred > 128)
        for path in (both / f"{name}_HR.png", truth / f"{name}.png"):
            Image.fromarray(high).save(path)
        for path in (both / f"{name}_SR.png", made / f"{name}_x2.png"):
            Image.fromarray(pred).save(path)
        pair = [torch.from_numpy(values).permute(2, 0, 1)[None] for values in (pred, high)]
        expected.append(metrics.psnr_y(*pair, 2).item())
    for words, name in (((both, both), "both"), ((truth, made), "truth")):
        code, rows, errors, _ = evaluate(capsys, "--compare", *words, "-s", 2)
        assert (code, errors) == (0, [])
        assert [row[:4] + row[6:] for row in rows] == [[name, words[1].name, "2", f"{np.mean(expected):.3f}", "2"]]


def test_compare_reports_pictures_without_a_pair(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    truth, made = tmp_path / "truth", tmp_path / "made"
    for folder in (truth, made):
        folder.mkdir()
    for name in ("a", "b", "c"):
        picture(40, 30).save(truth / f"{name}.png")
    picture(40, 30).save(made / "a.png")
    picture(36, 30).save(made / "b.png")
    code, rows, errors, _ = evaluate(capsys, "--compare", truth, made, "-s", 2)
    assert code == 1
    assert rows[0][6] == "1"
    assert errors == [
        f"{truth}/c.png: {made} must hold one picture that belongs to this file; got none.",
        f"{truth}/b.png: its size is 40x30, but the other picture of the pair needs 36x30; "
        "check the scale (-s), and check that both pictures belong together.",
    ]


def test_compare_does_not_confuse_names(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    truth, made = tmp_path / "truth", tmp_path / "made"
    for folder in (truth, made):
        folder.mkdir()
    picture(40, 30).save(truth / "fox2.png")
    picture(40, 30, 1).save(made / "fox4_SR.png")
    code, _, errors, _ = evaluate(capsys, "--compare", truth, made)
    assert code == 2
    assert f"{truth}/fox2.png: {made} must hold one picture that belongs to this file; got none." in errors[0]
    picture(40, 30, 1).save(truth / "fox4.png")
    picture(40, 30).save(made / "fox2_mynet.png")
    code, rows, errors, _ = evaluate(capsys, "--compare", truth, made)
    assert (code, rows[0][3], rows[0][6]) == (0, "100.000", "2")  # each picture is paired with its copy
    assert errors == [
        f"Paired although only the beginnings of the names agree: {truth}/fox2.png with {made}/fox2_mynet.png."
    ]
    for name in ("fox2_x2.png", "fox2_SR.png"):
        picture(40, 30).save(made / name)
    code, rows, errors, _ = evaluate(capsys, "--compare", truth, made)
    assert (code, rows[0][6]) == (1, "1")
    assert errors == [
        f"{truth}/fox2.png: {made} must hold one picture that belongs to this file; got fox2_SR.png, fox2_x2.png."
    ]


def test_compare_a_folder_with_itself(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """No picture is compared with itself, however its folder is written. In two folders, truths need no _HR."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "both").mkdir()
    for name, seed in (("a_HR", 1), ("a_SR", 2)):
        picture(40, 30, seed).save(tmp_path / "both" / f"{name}.png")
    code, rows, _, _ = evaluate(capsys, "--compare", "both", tmp_path / "both")
    assert code == 0
    assert float(rows[0][3]) < 30
    (tmp_path / "truth").mkdir()
    for name in ("a_HR", "b"):
        picture(40, 30, 2).save(tmp_path / "truth" / f"{name}.png")
    code, rows, errors, _ = evaluate(capsys, "--compare", "truth", "both")
    assert code == 1
    assert errors == [
        "truth/b.png: both must hold one picture that belongs to this file; got none."
    ]  # it is not left out silently


def saved(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


def test_names_that_differ_in_their_endings_only(
    tmp_path: Path, networks: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    for seed, name in enumerate(("a.jpg", "a.png", "A.webp", "b.png")):
        picture(60, 50, seed).save(folder / name)
    words = folder, "-s", 2, "-m", networks / "upscaler_64to128.pt", "--save", tmp_path / "saved"
    code, rows, errors, _ = evaluate(capsys, *words)
    assert (code, errors, rows[0][6]) == (0, [], "4")
    for method in ("bilinear", "bicubic", "lanczos", "upscaler_64to128"):
        assert saved(tmp_path / "saved" / "in" / method) == {"a.jpg.png", "a.png.png", "A.webp.png", "b.png.png"}
    first, second = (np.array(Image.open(tmp_path / "saved" / "in" / "bicubic" / f"a.{e}.png")) for e in ("jpg", "png"))
    assert np.abs(first.astype(int) - second).mean() > 10


def test_sets_with_the_same_name(
    tmp_path: Path, networks: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for seed, name in enumerate(("one/test", "two/test", "two/x/test", "Test", "single")):
        (tmp_path / name).mkdir(parents=True)
        picture(60, 50, seed).save(tmp_path / name / "a.png")
    folders = ["one/test", "two/test", "two/x/test", "Test", "single", "single/../one/test"]
    words = *folders, "-s", 2, "-m", networks / "upscaler_64to128.pt", "--save", "saved", "--json", "t.json"
    code, rows, _, _ = evaluate(capsys, *words)
    assert code == 0
    assert [row[0] for row in rows[::4]] == ["one/test", "two/test", "x/test", "Test", "single"]
    assert len({row["psnr_y"] for row in json.loads(Path("t.json").read_text())["rows"]}) == 20
    assert {name for name in saved(tmp_path / "saved") if "bicubic" in name} == {
        f"{folder}/bicubic/a.png" for folder in ("one_test", "two_test", "x_test", "Test", "single")
    }


def test_methods_with_the_same_name(
    photos: Path, networks: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Paths give the same folder name, names differ in letter case only, or a file has the name of a baseline."""
    monkeypatch.chdir(tmp_path)
    paths = [Path(path) for path in ("a/b/w.pt", "a_b/w.pt", "n.pt", "N.pt", "bicubic.pt")]
    for path in paths:
        path.parent.mkdir(exist_ok=True, parents=True)
        path.write_bytes((networks / "upscaler_64to128.pt").read_bytes())
    code, rows, _, _ = evaluate(capsys, photos, "-s", 2, "-m", *paths, "--save", "saved")
    assert code == 0
    assert [row[1] for row in rows] == [
        "bilinear", "bicubic", "lanczos", "a/b/w.pt", "a_b/w.pt", "n", "N", "bicubic.pt",
    ]  # fmt: skip
    folders = {path.name for path in (tmp_path / "saved" / "Set2").iterdir()}
    assert folders == {
        "bilinear", "bicubic", "lanczos", "a_b_w.pt", "a_b_w.pt (2)", "n", "N (2)", "bicubic.pt",
    }  # fmt: skip


def test_low_pictures_that_share_a_name(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The full name decides. If the full name does not decide, no picture is chosen."""
    folder = benchmark(tmp_path / "Set2")
    Image.new("RGB", (30, 25), "white").save(folder / "LR_bicubic_x2" / "0.jpg")
    picture(60, 50).save(folder / "HR" / "c.png")
    for ending in ("bmp", "webp"):
        Image.new("RGB", (30, 25)).save(folder / "LR_bicubic_x2" / f"c.{ending}")
    (folder / "HR" / "d.gif").touch()
    code, rows, errors, _ = evaluate(capsys, folder, "-s", 2)
    assert (code, rows[0][6]) == (1, "2")
    assert errors == [
        "1 file was skipped: 1 .gif.",
        f"{folder}/HR/c.png: {folder}/LR_bicubic_x2 must hold one picture that belongs to this file; "
        "got c.bmp, c.webp.",
    ]


def test_skipped_files_are_counted(photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("x.heic", "y.AVIF", ".hidden.gif"):
        (photos / name).touch()
    picture(60, 50).save(photos / "c.jfif", "JPEG")
    (photos / "folder.png").mkdir()
    made = tmp_path / "made"
    made.mkdir()
    for name in ("a.png", "b.png", "c.jpe"):
        picture(60, 50).save(made / name, None if name.endswith("png") else "JPEG")
    (made / "notes").touch()
    code, rows, errors, _ = evaluate(capsys, photos, "-s", 2)
    assert (code, rows[0][6], errors) == (0, "3", ["2 files were skipped: 1 .avif, 1 .heic."])
    _, _, errors, _ = evaluate(capsys, "--compare", photos, made)
    assert errors[0] == "3 files were skipped: 1 .avif, 1 .heic, 1 without an ending."


def test_a_broken_picture_is_named(photos: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (photos / "broken.png").write_bytes((photos / "a.png").read_bytes()[:300])
    picture(12, 12).save(photos / "tiny.png")
    code, rows, errors, _ = evaluate(capsys, photos, "-s", 2)
    assert code == 1
    assert {row[6] for row in rows} == {"2"}
    assert [line.split(": ")[0].rpartition("/")[2] for line in errors] == ["broken.png", "tiny.png"]
    assert "with 12x12 px it is too small to measure; use pictures of at least 17 px per side" in errors[1]


@pytest.mark.parametrize(("words", "message"), [
    ([], r"Name a folder of pictures before -m, or use --compare"),
    (["nowhere"], r"There is no folder of pictures at nowhere\. Check the path\."),
    (["one", "nowhere", "--save", "file/x"], r"There is no folder of pictures at nowhere"),  # nothing is computed
    (["n" * 300], r"There is no folder of pictures at n+\. Check the path\."),
    (["empty"], r"empty must hold pictures \(.*\); got none\."),
    (["--compare", "empty", "empty"], r"empty must hold pictures"),
    (["--compare", "one", "other"], r"No picture in other belongs to a picture in one; their names must be equal"),
    (["--compare", "one", "none"], r"There is no folder of pictures at none"),
    (["one", "--compare", "one", "other"], r"--compare scores finished pictures: it takes two folders"),
    (["one", "-m", "no.pt"], r"There is no weights file at no\.pt"),
    (["one", "--json", "file/x.json"], r"file/x\.json cannot be written"),
])  # fmt: skip
def test_wrong_commands(
    tmp_path: Path, words: list[str], message: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("empty", "one", "other"):
        (tmp_path / name).mkdir()
    picture(40, 30).save(tmp_path / "one" / "a.png")
    picture(40, 30).save(tmp_path / "other" / "b.png")
    (tmp_path / "file").touch()
    code, _, errors, _ = evaluate(capsys, *words)
    assert code == 2
    assert re.search(message, "\n".join(errors))
