"""Compare a folder of JPEGs of 40 qualities with a folder of one quality: python tests/benchmarks/qualities.py

Each amount of restoration needs a network in memory, which is made when a picture first needs it. The program writes
1000 JPEGs of 40 qualities, and 1000 of the same pictures in one quality. Both folders are upscaled by 2 in turn, with
`upscale-lit upscale`, and the seconds of each turn are printed.
"""

import argparse
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from PIL import Image
from skimage import data

SIZE = (160, 120)
COUNT = 1000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--turns", type=int, default=3)
    args = parser.parse_args()
    photo = Image.fromarray(data.astronaut())
    with tempfile.TemporaryDirectory() as work:
        folders = {name: Path(work, name) for name in ("one", "forty")}
        for folder in folders.values():
            folder.mkdir()
        for number in range(COUNT):
            left, top = number * 7 % (photo.width - SIZE[0]), number * 11 % (photo.height - SIZE[1])
            part = photo.crop((left, top, left + SIZE[0], top + SIZE[1]))
            part.save(folders["one"] / f"{number}.jpg", quality=75)
            part.save(folders["forty"] / f"{number}.jpg", quality=57 + number % 40)
        for _ in range(args.turns):
            for name, folder in folders.items():
                begin = time.monotonic()
                command = [sys.executable, "-m", "upscale_lit", "upscale", str(folder), "-o", f"{work}/big", "-s", "2"]
                subprocess.run(command, check=True, capture_output=True)
                print(f"{name:5} {time.monotonic() - begin:.1f} s", flush=True)


if __name__ == "__main__":
    main()
