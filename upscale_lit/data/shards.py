"""Shards: tar files of photographs. Shards are written once and read as a stream, for data sets larger than this disk.

Shards are in a folder, or at a URL that serves this folder. The folder contains these files:

    index.json              a list of the shards, with the number of photos in each
    train-000000.tar ...    training photos; a photo's name is the SHA-256 of the bytes of its original file
    val-000000.tar ...      photos that are held out for validation
    making.jsonl            the progress of the writing, one line for each pair of shards; no reader needs this file

The library webdataset writes and reads the shards, which are plain tar files: from a disk, over HTTP, or through a pipe
from any other store.
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
from upscale_lit.files import atomic

log = logging.getLogger(__name__)

INDEX, MAKING, FORMAT = "index.json", "making.jsonl", 1
HELD_OUT = 256  # about the largest number of held-out photos, unless the user gives a fraction
TAR = re.compile(r"[^/\s]+\.tar(?=\s|$)")  # the name of a tar file in a URL or a command
QUALITY = 95  # of the JPEGs that are written here, without chroma subsampling


@dataclass(frozen=True)
class Shard:
    """A tar file. url: its path, URL or command. photos: the number of photos in it. bytes: its size in bytes."""

    url: str
    photos: int
    bytes: int

    def __str__(self) -> str:
        return shown(Path(self.url)) if "://" not in self.url else self.url


def webdataset() -> Any:
    """Import the library webdataset. Raises InputError if the library is not installed."""
    try:
        import webdataset as library
    except ImportError:
        raise InputError(
            'Shards need the library webdataset. Install it with: pip install "upscale-lit[shards]"'
        ) from None
    return library


def find_shards(urls: str | Sequence[str]) -> dict[str, list[Shard]]:
    """Return the shards for training and for validation, under the keys "train" and "val".

    urls: the folder or the URL of index.json, or a selection of the training shards. A selection is a list, or a text
    with braces such as "https://host/photos/train-{000000..000041}.tar". A command begins with "pipe:", for example
    "pipe:aws s3 cp s3://bucket/train-{000000..000041}.tar -". Validation always uses all "val" shards.
    Raises ShardError if the index cannot be read, and InputError if the index does not list a shard of the selection.
    """
    library = webdataset()
    given = [urls] if isinstance(urls, str) or not isinstance(urls, Sequence) else list(urls)
    for url in given:
        check_path("data.urls", url)
    named: list[str] = []
    if isinstance(urls, str) and (not TAR.search(urls) or Path(urls).expanduser().is_dir()):
        folder = urls.rstrip("/") if re.match(r"\w+:", urls) else str(Path(urls).expanduser().absolute())
    else:
        from braceexpand import braceexpand  # a dependency of webdataset

        named = [url for word in given for url in braceexpand(str(word))]
        if not named or not all(TAR.search(url) for url in named):
            expected = "the folder or the URL of index.json, or some of its tar files"
            raise InputError(f"data.urls must name {expected}; got {urls if isinstance(urls, str) else given}.")

    def sibling(name: str) -> str:
        """Return the URL of a file in the named folder, or in the folder of the first named shard."""
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
    except Exception as error:  # each kind of store raises different errors
        advice = "Set data.urls to the folder or the URL that upscale-lit shard wrote to."
        trouble = f"{sibling(INDEX)}, the list of the shards, cannot be read ({_reason(error)})"
        raise ShardError(f"{trouble}. {advice}") from error
    known = sides["train"]
    chosen = [TAR.findall(url)[0] for url in named] or list(known)
    if others := sorted(set(chosen) - set(known)):
        listed = f"{len(known)} training shards, {min(known, default='none')} to {max(known, default='none')}"
        raise InputError(f"data.urls must name shards of {sibling(INDEX)} ({listed}); got {', '.join(others[:3])}.")
    return {"train": [known[name] for name in dict.fromkeys(chosen)], "val": list(sides["val"].values())}


def read_shard(shard: Shard) -> Iterator[tuple[str, bytes]]:
    """Yield (file name, bytes of the file) for each photo in a shard, in the order of the shard.

    Raises ShardError if the shard is missing, incomplete or not reachable. webdataset first repeats failed downloads
    over HTTP, with up to 30 attempts by curl.
    """
    number = 0
    try:
        for sample in webdataset().tarfile_samples([{"url": shard.url}]):
            if suffix := next((suffix for suffix in SUFFIXES if suffix[1:] in sample), None):
                yield f"{sample['__key__']}{suffix}", sample[suffix[1:]]
                number += 1
    except (GeneratorExit, InputError):
        raise
    except Exception as error:  # each kind of store raises different errors, and so does tarfile
        trouble = f"cannot be read beyond photo {number} of {shard.photos}"
        raise ShardError(f"{shard} {trouble}: {_reason(error)}.") from error
    if number < shard.photos:
        raise ShardError(f"{shard} is incomplete: it has {number} photos, {INDEX} lists {shard.photos}. Copy it again.")


def _reason(error: Exception) -> str:
    reason = getattr(error, "strerror", None) or (error.args[0] if error.args else error)
    return " ".join(str(reason).split()).rstrip(".") or type(error).__name__


def write_shards(
    root: Path, target: Path, photos: int, side: int, val_fraction: float | None
) -> Iterator[tuple[str, Sequence[PhotoError]]]:
    """Write the photos in `root` and its subfolders as shards into `target`.

    If an earlier call was interrupted, the pairs of shards that it finished are kept.
    photos: the number of files for each pair of a training shard and a validation shard.
    side: larger pictures are shrunk to this number of px on their shorter side and written as JPEG. Other files are
        copied byte by byte.
    val_fraction: the fraction of the photos that is held out, by the hash of each file's bytes. None for a tenth, but
        not more than about HELD_OUT photos.

    The order of the files mixes subfolders and is always the same. Broken files, repeated pictures and pictures under
    SMALLEST_VAL px on their shorter side are left out.
    Yields a line about the progress and the errors of broken files, first for the search and then for each pair.
    Raises InputError if no photo can be read, if `target` has other content, or if training or validation is empty.
    Raises WriteError if a shard cannot be written.
    """
    library = webdataset()
    paths, troubles = find_photos(root)
    names = {path: path.relative_to(root).as_posix() for path in paths}
    # Neighbouring files are often similar, and a stream is read in order. The hash of the names mixes the files.
    paths.sort(key=lambda path: hashlib.sha256(os.fsencode(names[path])).digest())
    part = min(0.1, HELD_OUT / max(1, len(paths))) if val_fraction is None else val_fraction
    listed = hashlib.sha256("\n".join(sorted(names.values())).encode(errors="surrogateescape")).hexdigest()
    plan = {"format": FORMAT, "files": listed, "photos": photos, "side": side, "val_fraction": part}
    done, pairs = _begun(target, plan), -(-len(paths) // photos)
    seen = {picture for line in done for picture in line["pictures"]}
    yield f"{len(paths)} files; {len(done)} of {pairs} pairs of shards exist already", troubles
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
            with atomic(target / line[kind]["name"]) as unfinished:
                # A fixed mtime gives equal shards for equal photos.
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
            f"{number + 1} of {pairs}: {line['train']['photos']} training photos, {line['val']['photos']} held out; "
            f"left out: {line['left_out']} copies or photos under {SMALLEST_VAL} px, {len(failed)} broken files; "
            f"{sum(line[kind]['bytes'] for kind in sides) / 1e6:.1f} MB"
        )
        yield progress, failed
    counts = {kind: sum(line[kind]["photos"] for line in done) for kind in ("train", "val")}
    if not counts["train"] or not counts["val"]:
        raise InputError(
            f"Shards must have at least 1 training photo and 1 held-out photo; got {counts['train']} and "
            f"{counts['val']} from {len(paths)} files. Add photos or change --val-fraction, and give -o a new folder."
        )
    index = {kind: [line[kind] for line in done if line[kind]["photos"]] for kind in ("train", "val")}
    with atomic(target / INDEX) as unfinished:
        unfinished.write_text(json.dumps({"format": FORMAT, "side": side, **index}, indent=1) + "\n")
    yield f"{counts['train']} training photos, {counts['val']} held out. Train with data=shards data.urls={target}", ()


def _begun(target: Path, plan: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the pairs that an earlier call with the same plan has finished. Create making.jsonl if it is missing."""
    making = target / MAKING
    finished: list[str] = []
    if making.exists():
        head, *lines = making.read_text().splitlines(keepends=True)
        if json.loads(head) != plan:
            others = "contains shards of other photos, or shards from other options"
            raise InputError(f"{shown(target)} {others}. Name another folder, or remove this folder.")
        finished = [line for line in lines if line.endswith("\n")]  # a kill can cut the last line
    elif target.is_dir() and any(target.iterdir()):
        raise InputError(f"{shown(target)} is not empty. Name a new folder for the shards.")
    with atomic(making) as unfinished:
        unfinished.write_text("".join([json.dumps(plan) + "\n", *finished]))
    return [json.loads(line) for line in finished]


def _file(path: Path, shrunk: bool, picture: Pixels) -> tuple[str, bytes]:
    """Return the bytes that a shard stores for a photo. Their extension comes first, without a dot."""
    if not shrunk:
        return path.suffix[1:].lower(), path.read_bytes()
    buffer = BytesIO()
    Image.fromarray(picture).save(buffer, "JPEG", quality=QUALITY, subsampling=0)
    return "jpg", buffer.getvalue()
