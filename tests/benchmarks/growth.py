"""Measure how training starts with many photos: python tests/benchmarks/growth.py [--counts 1000 10000] [--where DIR]

For each count the program makes that number of small pictures: JPEG, 160x120, noise on a gradient, a few kB each. It
then measures `data.setup` and the first steps of a real training of stage 64to128. Each measurement has a separate
process. The program measures without a cache (photos in memory), with an empty cache and with a full cache.

The program prints the seconds from the start of reading to the first step, and images per second. It also prints the
process's anonymous memory next to its mapped memory, which belongs to the page cache. For a start with a full cache it
prints the number of calls that open or examine a picture.
"""

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

ROOT = Path(__file__).parents[2]
STEPS = 60  # steps that are measured, after the same number of steps to warm up


def make(folder: Path, numbers: range) -> None:
    import numpy as np
    from PIL import Image

    y, x = np.mgrid[0:120, 0:160]
    for number in numbers:
        random = np.random.default_rng(number)
        ramp = x[..., None] * random.uniform(-1, 1, 3) + y[..., None] * random.uniform(-1, 1, 3)
        image = ramp + random.normal(128, 12, (120, 160, 3))
        path = folder / f"{number // 1000:03}" / f"{number:06}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image.clip(0, 255).astype(np.uint8)).save(path, quality=80)


def once(root: Path, cache: str) -> None:
    """Run one training in this process, and print its figures as JSON."""
    sys.path.insert(0, str(ROOT))
    import logging
    import warnings

    import pytorch_lightning as pl
    from composed import composed

    from upscale_lit.launch.build import build_data, build_module
    from upscale_lit.launch.facts import plain
    from upscale_lit.launch.instantiate import instantiate
    from upscale_lit.launch.run import SILENCED
    from upscale_lit.launch.start import Start

    def memory(kind: str) -> float:
        lines = Path("/proc/self/status").read_text().splitlines()
        return next(int(line.split()[1]) / 1024 for line in lines if line.startswith(kind))

    for message in SILENCED:
        warnings.filterwarnings("ignore", message)
    logging.getLogger("pytorch_lightning").setLevel(logging.WARNING)
    figures: dict[str, float] = {}

    class Figures(pl.Callback):
        def on_train_batch_end(self, trainer: pl.Trainer, *arguments: object) -> None:
            if trainer.global_step == 1:
                figures["first step"] = time.perf_counter() - began
            if trainer.global_step == STEPS:
                self.began = time.perf_counter()
            if trainer.global_step == 2 * STEPS:
                figures["img/s"] = STEPS * cfg.data.batch_size / (time.perf_counter() - self.began)
                figures["own MB"], figures["mapped MB"] = memory("RssAnon"), memory("RssFile")
                trainer.should_stop = True

    overrides = [f"data.root='{root}'", f"data.cache={cache}", "trainer.enable_progress_bar=false"]
    cfg = composed("data=folder", "trainer.check_val_every_n_epoch=1000", *overrides)
    pl.seed_everything(cfg.seed, verbose=False)
    trainer = instantiate("trainer", plain(cfg.trainer), callbacks=[Figures()], logger=[])
    began = time.perf_counter()
    data = build_data(cfg, Start())
    trainer.fit(build_module(cfg, Start(), data), datamodule=data)
    print(json.dumps(figures))


WARM = """
import sys
from pathlib import Path
from upscale_lit.data.cache import load_photos
from upscale_lit.data.listing import find_photos
root = Path(sys.argv[1])
load_photos(find_photos(root)[0], root, 512, Path(sys.argv[2]), 50)
"""


def calls(root: Path, cache: Path) -> str:
    """Return a sentence on how often a start with a full cache opens and examines pictures, counted by strace."""
    if shutil.which("strace") is None:
        return "(calls are not counted: strace is not installed)"
    with tempfile.NamedTemporaryFile("r") as trace:
        strace = ["strace", "-f", "--seccomp-bpf", "-e", "trace=%file", "-o", trace.name]
        subprocess.run([*strace, sys.executable, "-c", WARM, str(root), str(cache)], check=True, cwd=ROOT)
        lines = [line for line in trace if ".jpg" in line]
    opened, examined = (sum(word in line for line in lines) for word in ("open", "stat"))
    return f"a start with a full cache opens {opened} pictures and examines {examined}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--counts", type=int, nargs="+", default=[1000, 10000, 50000])
    parser.add_argument("--where", type=Path, help="a folder with 5 GB free (default: the system's temporary folder)")
    parser.add_argument("--once", nargs=2, metavar=("ROOT", "CACHE"), help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.once:
        return once(Path(args.once[0]), args.once[1])
    with tempfile.TemporaryDirectory(dir=args.where) as work:
        print(f"{'pictures':>8}  {'cache':8} {'first step':>10}  {'img/s':>6}  {'own MB':>7}  {'mapped MB':>9}")
        for count in args.counts:
            root, cache = Path(work, f"{count}"), Path(work, f"cache {count}")
            with ProcessPoolExecutor() as pool:
                chunks = [range(first, min(first + 500, count)) for first in range(0, count, 500)]
                list(pool.map(make, [root] * len(chunks), chunks))
            for name, value in (("none", "null"), ("empty", f"'{cache}'"), ("full", f"'{cache}'")):
                command = [sys.executable, __file__, "--once", str(root), value]
                result = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
                figures = json.loads(result.stdout.splitlines()[-1])
                print(f"{count:8}  {name:8} {figures['first step']:8.1f} s  {figures['img/s']:6.0f}  "
                      f"{figures['own MB']:7.0f}  {figures['mapped MB']:9.0f}", flush=True)  # fmt: skip
            print(f"{count:8}  {calls(root, cache)}", flush=True)
            shutil.rmtree(root)
            shutil.rmtree(cache)


if __name__ == "__main__":
    main()
