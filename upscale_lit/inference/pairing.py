"""Match pictures by the names of their files. Nothing is guessed, and each picture is matched at most once."""

import re
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path

Keys = Callable[[Path], list[str]]
Level = tuple[Keys, Keys]  # functions that return the keys of a truth, and of a picture

# A suffix begins with a separator, so x2 in fox2 is part of the name. A number alone is no suffix, since it counts
# pictures: cat.png, cat_2.png.
TRUTH = re.compile(r"[-_.](HR|GT)$", re.IGNORECASE)
USUAL = re.compile(r"[-_.](HR|GT|SR|LR|out|x\d|\dx|SRF[-_.]?\d+)$", re.IGNORECASE)
ANY = re.compile(r"[-_.](SRF[-_.]?\d+|[^-_.]*[^-_.\d][^-_.]*)$", re.IGNORECASE)
MOST = 8  # the largest number of suffixes that are removed


def match(
    truths: Sequence[Path], pictures: Sequence[Path], levels: Sequence[Level]
) -> tuple[dict[Path, Path], dict[Path, list[Path]]]:
    """Return (each matched truth with its picture, each truth that names do not decide with its candidates).

    Earlier levels decide first. Within a level, a truth and a picture match if they share a key with each other and
    with no other file. A file that shares a key with others
    but matches none of them is not compared at later levels.
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
    """Match high pictures with their low pictures.

    The levels are the complete name, the name without its ending, and names as in DIV2K: 0001.png and 0001x2.png.
    """
    return match(highs, lows, [*EXACT, (lambda path: [f"{path.stem}x{scale}"], _stem)])


def match_finished(
    truths: Sequence[Path], pictures: Sequence[Path], scale: int
) -> tuple[dict[Path, Path], list[Path], dict[Path, list[Path]]]:
    """Match truths with finished pictures. Equal names decide first.

    The later levels remove one of the usual suffixes from the picture's name, then two, and so on. The last levels also
    remove unusual suffixes.
    Return three values: the matches, the truths that match only without an unusual suffix, and the candidates of
    undecided truths. In cat_mynet.png, _mynet is an unusual suffix.
    """

    def of_truth(path: Path) -> list[str]:
        names = [path.stem, _without(path.stem, TRUTH, MOST)[-1]]
        return names + [f"{name}x{scale}" for name in names if name[-1:].isdigit()]  # 0801x2.png of DIV2K

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
    """Return a list of names: the name, then the name without its last suffix, without its last two, and so on.

    most: the largest number of suffixes to remove.
    """
    names = [name]
    while len(names) <= most and (found := suffix.search(names[-1])) and found.start():
        names.append(names[-1][: found.start()])
    return names
