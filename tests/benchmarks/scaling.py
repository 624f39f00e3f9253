"""Compare one process with two, and shards with a folder: python tests/benchmarks/scaling.py PHOTOS SHARDS [overrides]

PHOTOS is a folder of photos. SHARDS are the shards that `upscale-lit shard` makes from it. Each way to train is a real
run of train.py, in one or two processes with one thread each. A run's images per second come from the times at which
its losses were logged, without the first. For comparison, the program starts two independent runs at the same time.
Their speed is the best that the machine can give to two processes.

The program prints a table of speeds. It also prints the largest difference between the weights of one process and of
two processes, and how many MB of gradients a step sends.
"""

import os
import re
import statistics
import subprocess
import sys
import tempfile
from itertools import pairwise
from pathlib import Path

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT))

from upscale_lit.weights import load_weights

TURNS = 3
STEPS = 240
TWO = ["trainer=ddp", "trainer.devices=2"]
CALL = [
    "trainer.enable_progress_bar=false", f"trainer.max_steps={STEPS}", "trainer.log_every_n_steps=20",
    "trainer.limit_val_batches=2", "checkpoint.every_minutes=null", "grid_columns=1",
]  # fmt: skip


def begin(folder: Path, *words: str) -> subprocess.Popen[bytes]:
    where = [f"hydra.run.dir={folder}", f"checkpoints_dir={folder}_checkpoints"]
    env = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, str(ROOT / "train.py"), *CALL, *words, *where]
    return subprocess.Popen(command, env=env, stdout=subprocess.DEVNULL)


def times(folder: Path) -> list[float]:
    """Return the times at which the run logged its loss, from TensorBoard's events."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(folder))
    events.Reload()
    return [event.wall_time for event in events.Scalars("train/loss")]


def speed(folder: Path, batch: int) -> float:
    """Return the run's images per second, from the median time between two logged losses (20 steps)."""
    lines = times(folder)[1:]
    return 20 * batch / statistics.median(after - before for before, after in pairwise(lines))


def main(photos: str, shards: str, *overrides: str) -> None:
    folder = ["data=folder", f"data.root={photos}"]
    ways = {
        "one process": [*folder],
        "two, the same batch": [*folder, *TWO],
        "two, twice the batch": [*folder, *TWO, "data.batch_size=TWICE"],
        "one, shards": ["data=shards", f"data.urls={shards}"],
    }
    batch = 0
    with tempfile.TemporaryDirectory() as name:
        work = Path(name)
        found: dict[str, list[float]] = {}
        for turn in range(TURNS):
            for way, words in ways.items():
                run = work / f"{way.replace(' ', '_').replace(',', '')}_{turn}"
                if begin(run, *(word.replace("TWICE", str(2 * batch)) for word in words), *overrides).wait():
                    sys.exit(f"The run of '{way}' failed.")
                config = (run / ".hydra" / "config.yaml").read_text()
                own = int(re.search(r"batch_size: (\d+)", config)[1])  # type: ignore[index]
                batch = batch or own
                found.setdefault(way, []).append(speed(run, own))
            apart = [begin(work / f"apart_{side}_{turn}", *folder, *overrides) for side in "ab"]
            ended = [each.wait() for each in apart]
            if any(ended):
                sys.exit("One of the two independent runs failed.")
            found.setdefault("two runs side by side", []).append(
                sum(speed(work / f"apart_{side}_{turn}", batch) for side in "ab")
            )
        print(f"{' '.join(overrides)}: batch {batch}, {STEPS} steps, {TURNS} turns, one thread for each process")
        for way, values in found.items():
            ratio = statistics.median(a / b for a, b in zip(values, found["one process"], strict=True))
            print(f"  {way:24} {statistics.median(values):7.1f} img/s   {ratio:.2f}")
        ends = [
            load_weights(next((work / f"{way}_0").glob("upscaler_*.pt")))[0].state_dict()
            for way in ("one_process", "two_the_same_batch")
        ]
        apart_by = max(float((value - ends[1][key]).abs().max()) for key, value in ends[0].items())
        sent = sum(value.numel() * 4 for value in ends[0].values()) / 1e6
        print(f"  weights after {STEPS} steps differ by {apart_by:.1g} at most; a step sums {sent:.2f} MB of gradients")


if __name__ == "__main__":
    main(*sys.argv[1:])
