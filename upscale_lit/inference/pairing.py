"""Match pictures by the names of their files: never by a guess, and each picture at most once."""

import re
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path

Keys = Callable[[Path], list[str]]
Level = tuple[Keys, Keys]  # of a truth, of a picture: they belong together when they share a key

# A suffix needs a separator, so x2 in fox2 is a part of the name; a number alone counts pictures: cat.png, cat_2.png.
TRUTH = re.compile(r"[-_.](HR|GT)$", re.IGNORECASE)
USUAL = re.compile(r"[-_.](HR|GT|SR|LR|out|x\d|\dx|SRF[-_.]?\d+)$", re.IGNORECASE)
ANY = re.compile(r"[-_.](SRF[-_.]?\d+|[^-_.]*[^-_.\d][^-_.]*)$", re.IGNORECASE)
MOST = 8  # suffixes that are removed


def match(
    truths: Sequence[Path], pictures: Sequence[Path], levels: Sequence[Level]
) -> tuple[dict[Path, Path], dict[Path, list[Path]]]:
    """(each truth with its picture; each truth for which names decide nothing, with the pictures it may be).

    Earlier levels decide first. Within one, a truth must share a key with one picture, and that with no other truth.
    """
    matches: dict[Path, Path] = {}
    unclear: dict[Path, list[Path]] = {}
    left, free = list(truths), list(pictures)
    for of_truth, of_picture in levels:
        by_key = defaultdict(list)
        for picture in free:
            for key in of_picture(picture):
                by_key[key].append(picture)
        found = {path: [picture for key in dict.fromkeys(of_truth(path)) for picture in by_key[key]] for path in left}
        wanted = Counter(picture for candidates in found.values() for picture in candidates)
        for path, candidates in found.items():
            if len(candidates) == 1 and wanted[candidates[0]] == 1:
                matches[path] = candidates[0]
            elif candidates:
                unclear[path] = candidates
        left = [path for path in left if not found[path]]
        free = [picture for picture in free if not wanted[picture]]
    return matches, unclear


def match_low(
    highs: Sequence[Path], lows: Sequence[Path], scale: int
) -> tuple[dict[Path, Path], dict[Path, list[Path]]]:
    """`match` of high pictures and their low ones: the full name, the name without its ending, DIV2K's 0001x2.png."""
    return match(highs, lows, [*EXACT, (lambda path: [f"{path.stem}x{scale}"], _stem)])


def match_finished(
    truths: Sequence[Path], pictures: Sequence[Path], scale: int
) -> tuple[dict[Path, Path], list[Path], dict[Path, list[Path]]]:
    """`match` of truths and finished pictures: the same name first, then without the usual suffixes, one, then more.

    The list in the middle holds the truths that are matched only without some other suffix: cat.png, cat_mynet.png.
    """

    def of_truth(path: Path) -> list[str]:
        names = [path.stem, _without(path.stem, TRUTH, MOST)[-1]]
        return names + [f"{name}x{scale}" for name in names if name[-1:].isdigit()]  # DIV2K's 0801x2.png

    def of_picture(pattern: re.Pattern[str], count: int) -> Keys:
        return lambda path: _without(path.stem, pattern, count)[count:]

    usual: list[Level] = [*EXACT, *((of_truth, of_picture(USUAL, count)) for count in range(MOST))]
    matches, unclear = match(truths, pictures, usual)
    settled = {*matches.values(), *(picture for candidates in unclear.values() for picture in candidates)}
    more, further = match(
        [path for path in truths if path not in matches and path not in unclear],
        [picture for picture in pictures if picture not in settled],
        [(of_truth, of_picture(ANY, count)) for count in range(1, MOST)],
    )
    return matches | more, list(more), unclear | further


def _name(path: Path) -> list[str]:
    return [path.name]


def _stem(path: Path) -> list[str]:
    return [path.stem]


EXACT: list[Level] = [(_name, _name), (_stem, _stem)]


def _without(name: str, suffix: re.Pattern[str], most: int) -> list[str]:
    """A name, then without its last suffix, and so on, at most `most` times."""
    names = [name]
    while len(names) <= most and (found := suffix.search(names[-1])) and found.start():
        names.append(names[-1][: found.start()])
    return names
