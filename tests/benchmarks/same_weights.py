"""Check that two checkouts of the project train the same weights, bit for bit.

python tests/benchmarks/same_weights.py OLD_CHECKOUT [KIND ...]

Each kind of run trains for four steps in both checkouts, one after the other, on this machine and with the same torch.
The program compares the weights in last.ckpt and the published weights. Run it before you merge a change that must not
change results.
"""

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import torch

HERE = Path(__file__).parents[2]
FEW = ["trainer.max_steps=4", "trainer.max_epochs=2", "data.val_pairs=2", "trainer.enable_progress_bar=false"]
TWO = ["trainer.max_steps=2", *FEW[1:]]
SMALL = ["data.batch_size=4", "data.examples_per_epoch=16"]
KINDS: dict[str, list[str]] = {
    "default": [],
    "compact": ["model=compact"],
    "original": ["experiment=original", "data.batch_size=8"],
    "previous": ["stage=128to256", "stage.inputs=previous", *SMALL],
    "blur_noise": ["stage=128to256", "degradation=blur_noise", *SMALL],
    "folder": ["data=folder", "data.root=photos", "data.small=enlarge", *SMALL],
    "shards": ["data=shards", "data.urls=shards", *SMALL, "data.uses=1"],
    "shards_workers": ["data=shards", "data.urls=shards", *SMALL, "data.uses=1", "data.num_workers=2"],
    "stack": ["stage=64to512", *SMALL],
    "levels": ["stage=64to512", "stage.level_weights=[0.2,0.5,1]", *SMALL],
    "at_once": ["stage=64to512_at_once", "model=compact", *SMALL],
    "compact_8x": ["stage=64to512_at_once", "model=compact_8x", "stage.level_weights=null", *SMALL],
    "ema": ["model=compact", "ema=0.9"],
    "rates": ["optimizer.lr=1e-3", "optimizer.layer_lr=[1,0.2,0.1,0.5,1,1]", "optimizer.schedule=linear"],
    "accumulated": ["model=compact", "trainer.accumulate_grad_batches=2", "loss=charbonnier"],
    "workers": ["data.num_workers=2", *SMALL],
    "two_processes": ["trainer=ddp", "trainer.devices=2", "trainer.accelerator=cpu", *SMALL],
}
RENAMED = {"degradation=blur_noise": "stage.inputs=augmented"}  # the spelling in checkouts that have no degradations


def train(checkout: Path, folder: Path, *words: str) -> None:
    if not (checkout / "conf" / "degradation").exists():
        words = tuple(RENAMED.get(word, word) for word in words)
    env = {**os.environ, "PYTHONPATH": str(checkout), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, str(checkout / "train.py"), *words]
    done = subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"{' '.join(command)}\n{done.stdout}{done.stderr}")


def prepare(folder: Path) -> None:
    """Make photos and shards from the sample photographs, and train the three stages, all with this checkout."""
    from PIL import Image
    from skimage import data

    (folder / "photos").mkdir(parents=True)
    for name in ("astronaut", "chelsea", "coffee", "rocket"):
        picture = Image.fromarray(getattr(data, name)())
        for number, side in enumerate((90, 160, 230)):
            box = (20 * number, 10 * number, 20 * number + side, 10 * number + side)
            picture.crop(box).save(folder / "photos" / f"{name}{number}.png")
    env = {**os.environ, "PYTHONPATH": str(HERE)}
    command = [sys.executable, "-m", "upscale_lit", "shard", "photos", "-o", "shards", "--photos", "6"]
    subprocess.run([*command, "--val-fraction", "0.3"], cwd=folder, env=env, check=True, stdout=subprocess.DEVNULL)
    for stage in ("64to128", "128to256", "256to512"):
        train(HERE, folder, f"stage={stage}", *SMALL, *TWO, f"hydra.run.dir=stages/{stage}", "checkpoints_dir=stages")


def tensors(path: Path) -> dict[str, torch.Tensor]:
    content = torch.load(path, weights_only=True)
    return dict(content.get("state_dict") or content["model_state_dict"])


def main() -> int:
    old, kinds = Path(sys.argv[1]).resolve(), sys.argv[2:] or [*KINDS]
    different = 0
    with tempfile.TemporaryDirectory() as work:
        prepare(Path(work))
        for kind in kinds:
            states = []
            for name, checkout in (("old", old), ("new", HERE)):
                run, published = Path(work, kind, name), Path(work, kind, f"{name}_published")
                published.mkdir(parents=True)
                for file in Path(work, "stages").glob("*.pt"):
                    (published / file.name).symlink_to(file)
                train(checkout, Path(work), *FEW, *KINDS[kind], f"hydra.run.dir={run}", f"checkpoints_dir={published}")
                files = [run / "checkpoints" / "last.ckpt", *run.glob("upscaler_*.pt")]
                states.append([(file.name, *item) for file in files for item in sorted(tensors(file).items())])
            before, after = states
            same = [item[:2] for item in before] == [item[:2] for item in after] and all(
                torch.equal(one[2], other[2]) for one, other in zip(before, after, strict=True)
            )
            different += not same
            print(f"{kind:15} {'the same' if same else 'DIFFERENT'}, {len(before)} tensors", flush=True)
    return 1 if different else 0


if __name__ == "__main__":
    sys.exit(main())
