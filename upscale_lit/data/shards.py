"""Photographs in tar files (shards), for more of them than fit here: written once, then read in a stream.

A folder, or a URL under which one is served:

    index.json              the shards, and how many photos each holds
    train-000000.tar ...    photos to train on, each file named by the SHA-256 of its source's bytes
    val-000000.tar ...      photos that are held out
    making.jsonl            what has been done: a line for each pair of shards; only whoever writes reads it

webdataset writes and reads the tar files: plain ones that every tar program opens, from disks, HTTP, and through pipes
from whatever else stores files.
"""

import hashlib
import json
import logging
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

from PIL import Image

from upscale_lit.data.cache import read_all
from upscale_lit.data.listing import find_photos
from upscale_lit.data.photo import SUFFIXES, PhotoError, unreadable
from upscale_lit.data.pyramid import Pixels
from upscale_lit.data.split import SMALLEST_VAL, position
from upscale_lit.errors import InputError, ShardError, WriteError, check_path, shown
from upscale_lit.files import whole

log = logging.getLogger(__name__)

INDEX, MAKING, FORMAT = "index.json", "making.jsonl", 1
HELD_OUT = 256  # photos at most, about, unless a part is named
TAR = re.compile(r"[^/\s]+\.tar(?=\s|$)")  # in a URL or a command
QUALITY = 95  # of JPEGs that are written here, with whole chroma


@dataclass(frozen=True)
class Shard:
    """A tar file: where it is, the photos in it, its bytes."""

    url: str
    photos: int
    bytes: int

    def __str__(self) -> str:
        return shown(Path(self.url)) if "://" not in self.url else self.url


def webdataset() -> Any:
    """The library. Raises InputError where it is not installed."""
    try:
        import webdataset as library
    except ImportError:
        raise InputError('Shards are read and written by webdataset: pip install -e ".[shards]"') from None
    return library


def find_shards(urls: str | Sequence[str]) -> dict[str, list[Shard]]:
    """The shards of each side, "train" and "val".

    urls: the folder or the URL that index.json lies in; or some of its shards to train on, as a list or with braces:
    "https://host/photos/train-{000000..000041}.tar", "pipe:aws s3 cp s3://bucket/train-{000000..000041}.tar -".
    Raises ShardError where there is no index or it cannot be reached, InputError where it does not list what is named.
    """
    library = webdataset()
    given = [urls] if isinstance(urls, str) or not isinstance(urls, Sequence) else list(urls)
    for url in given:
        check_path("data.urls", url)
    named: list[str] = []
    if isinstance(urls, str) and (not TAR.search(urls) or Path(urls).expanduser().is_dir()):
        folder = urls.rstrip("/") if re.match(r"\w+:", urls) else str(Path(urls).expanduser().absolute())
    else:
        from braceexpand import braceexpand  # webdataset's own

        named = [url for word in given for url in braceexpand(str(word))]
        if not named or not all(TAR.search(url) for url in named):
            expected = "the folder or the URL that holds index.json, or some of its tar files"
            raise InputError(f"data.urls names {expected}; found {urls if isinstance(urls, str) else given}.")

    def sibling(name: str) -> str:
        """The URL of a file in the folder that was named, or of the first shard that was."""
        if not named:
            return f"{folder}/{name}"
        url = TAR.sub(lambda _: name, named[0])
        return url if re.match(r"\w+:", url) else os.path.expanduser(url)

    try:
        with library.gopen(sibling(INDEX)) as stream:
            index = json.loads(stream.read())
        sides = {
            side: {
                tar["name"]: Shard(sibling(tar["name"]), int(tar["photos"]), int(tar["bytes"])) for tar in index[side]
            }
            for side in ("train", "val")
        }
    except Exception as error:  # of every kind of store
        advice = "Give the folder or the URL that upscale-lit shard has filled as data.urls."
        trouble = f"{sibling(INDEX)} should list the shards and cannot be read ({_reason(error)})"
        raise ShardError(f"{trouble}. {advice}") from error
    known = sides["train"]
    chosen = [TAR.findall(url)[0] for url in named] or list(known)
    if others := sorted(set(chosen) - set(known)):
        listed = f"{len(known)} shards to train on, {min(known, default='none')} to {max(known, default='none')}"
        raise InputError(f"data.urls names {', '.join(others[:3])}; {sibling(INDEX)} lists {listed}.")
    return {"train": [known[name] for name in dict.fromkeys(chosen)], "val": list(sides["val"].values())}


def read_shard(shard: Shard) -> Iterator[tuple[str, bytes]]:
    """(name, the file's bytes) of each photo in a shard, in its order.

    Raises ShardError where it is missing, breaks off or cannot be reached; by then webdataset has tried what it tries
    (for http: curl, 30 times).
    """
    number = 0
    try:
        for sample in webdataset().tarfile_samples([{"url": shard.url}]):
            if suffix := next((suffix for suffix in SUFFIXES if suffix[1:] in sample), None):
                yield f"{sample['__key__']}{suffix}", sample[suffix[1:]]
                number += 1
    except (GeneratorExit, InputError):
        raise
    except Exception as error:  # of every kind of store, and of tarfile
        trouble = f"cannot be read beyond photo {number} of {shard.photos}"
        raise ShardError(f"{shard} {trouble}: {_reason(error)}.") from error
    if number < shard.photos:
        raise ShardError(f"{shard} breaks off: it holds {number} photos, {INDEX} says {shard.photos}. Copy it again.")


def _reason(error: Exception) -> str:
    reason = getattr(error, "strerror", None) or (error.args[0] if error.args else error)
    return " ".join(str(reason).split()).rstrip(".") or type(error).__name__


def write_shards(
    root: Path, target: Path, photos: int, side: int, val_fraction: float | None
) -> Iterator[tuple[str, Sequence[PhotoError]]]:
    """Write the photos below `root` as shards into `target`; one that is there already from an earlier try is kept.

    photos: how many files go to each pair of shards. side: larger pictures are shrunk to this number of pixels on
    their shorter side and written as JPEG; others are copied byte for byte. val_fraction: the part that is held out, by
    the hash of each file's bytes; None for a tenth, or about HELD_OUT of many. Files come in an order that mixes
    folders, always the same. Broken files, pictures seen before and those under SMALLEST_VAL px are left out.
    Yields after each pair a line of progress, and the files in trouble. Raises InputError where nothing can be read,
    `target` holds something else or nothing is held out, WriteError where it cannot be written.
    """
    library = webdataset()
    paths, troubles = find_photos(root)
    names = {path: path.relative_to(root).as_posix() for path in paths}
    # By the hash of their names: photos that lie next to one another are often alike, and a reader goes in order.
    paths.sort(key=lambda path: hashlib.sha256(os.fsencode(names[path])).digest())
    part = min(0.1, HELD_OUT / max(1, len(paths))) if val_fraction is None else val_fraction
    listed = hashlib.sha256("\n".join(sorted(names.values())).encode(errors="surrogateescape")).hexdigest()
    plan = {"format": FORMAT, "files": listed, "photos": photos, "side": side, "val_fraction": part}
    done, pairs = _begun(target, plan), -(-len(paths) // photos)
    seen = {picture for line in done for picture in line["pictures"]}
    yield f"{len(paths)} files; {len(done)} of {pairs} pairs of shards are there already", troubles
    for number in range(len(done), pairs):
        chunk = paths[number * photos : (number + 1) * photos]
        line: dict[str, Any] = {"pictures": [], "left_out": 0}
        failed: list[PhotoError] = []
        sides: dict[str, list[tuple[str, str, bytes]]] = {"train": [], "val": []}
        for path, result in zip(chunk, read_all(chunk, side), strict=True):
            if isinstance(result, PhotoError):
                failed.append(result)
                continue
            photo, levels = result
            if (picture := photo.picture[:16]) in seen or photo.side < SMALLEST_VAL:
                line["left_out"] += 1
                continue
            try:
                suffix, data = _file(path, photo.side > side, levels[0])
            except OSError as error:
                failed.append(unreadable(path, error))
                continue
            seen.add(picture)
            line["pictures"].append(picture)
            sides["val" if position(photo) < part else "train"].append((photo.digest, suffix, data))
        for kind, files in sides.items():
            line[kind] = {"name": f"{kind}-{number:06}.tar", "photos": len(files), "bytes": 0}
            if not files:
                continue
            with whole(target / line[kind]["name"]) as unfinished:
                # mtime: so that the same photos make the same bytes.
                with open(unfinished, "wb") as file, library.TarWriter(file, encoder=False, mtime=0) as tar:
                    for digest, suffix, data in files:
                        tar.write({"__key__": digest, suffix: data})
                line[kind]["bytes"] = unfinished.stat().st_size
        try:
            with open(target / MAKING, "a") as making:
                making.write(json.dumps(line) + "\n")
        except OSError as error:
            raise WriteError(f"{shown(target / MAKING)} cannot be written: {error.strerror or error}.") from error
        done.append(line)
        progress = (
            f"{number + 1} of {pairs}: {line['train']['photos']} photos to train on, "
            f"{line['val']['photos']} held out, {line['left_out']} copies or under {SMALLEST_VAL} px and "
            f"{len(failed)} broken files left out, {sum(line[kind]['bytes'] for kind in sides) / 1e6:.1f} MB"
        )
        yield progress, failed
    counts = {kind: sum(line[kind]["photos"] for line in done) for kind in ("train", "val")}
    if not counts["train"] or not counts["val"]:
        raise InputError(
            f"Of {len(paths)} files {counts['train']} photos are to be trained on and {counts['val']} held out; it "
            "takes one of each. Add photos, or hold out another part (--val-fraction); then begin with an empty folder."
        )
    index = {kind: [line[kind] for line in done if line[kind]["photos"]] for kind in ("train", "val")}
    with whole(target / INDEX) as unfinished:
        unfinished.write_text(json.dumps({"format": FORMAT, "side": side, **index}, indent=1) + "\n")
    yield f"{counts['train']} photos to train on, {counts['val']} held out: data=shards data.urls={target}", ()


def _begun(target: Path, plan: Mapping[str, Any]) -> list[dict[str, Any]]:
    """What an earlier try with the same plan has finished. Begins the list of it where there is none."""
    making = target / MAKING
    finished: list[str] = []
    if making.exists():
        head, *lines = making.read_text().splitlines(keepends=True)
        if json.loads(head) != plan:
            others = "holds shards of other photos, or made with other options"
            raise InputError(f"{shown(target)} {others}. Name another folder, or remove it.")
        finished = [line for line in lines if line.endswith("\n")]  # a kill may have cut the last
    elif target.is_dir() and any(target.iterdir()):
        raise InputError(f"{shown(target)} is not empty: name a new folder for the shards.")
    with whole(making) as unfinished:
        unfinished.write_text("".join([json.dumps(plan) + "\n", *finished]))
    return [json.loads(line) for line in finished]


def _file(path: Path, shrunk: bool, picture: Pixels) -> tuple[str, bytes]:
    """(the ending without its dot, the bytes) of a photo's file in a shard."""
    if not shrunk:
        return path.suffix[1:].lower(), path.read_bytes()
    buffer = BytesIO()
    Image.fromarray(picture).save(buffer, "JPEG", quality=QUALITY, subsampling=0)
    return "jpg", buffer.getvalue()
