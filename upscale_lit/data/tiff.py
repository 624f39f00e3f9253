"""TIFF files: the choice of the page that holds the picture, and the removal of tags that break decoding.

A TIFF file holds a chain of pages. A page is described by a directory, which is a list of tags.
"""

import struct
from collections.abc import Iterator, Mapping, Sequence
from typing import Literal, NamedTuple

from PIL import TiffTags

from upscale_lit.data.containers import LABELS, Parts

Order = Literal["<", ">"]
NAMES: dict[Order, Literal["little", "big"]] = {"<": "little", ">": "big"}
# The bytes of one value, by the type of the tag.
SIZES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4, 16: 8, 17: 8, 18: 8}
RATIONAL, BYTES = 5, 7  # types of tags: a fraction (two numbers), and bytes of any meaning
KIND, OLD_KIND, COLOURS, XMP, PROFILE = 254, 255, 262, 700, 34675
RESOLUTION, UNIT = (282, 283), 296
# Tags whose value is the place of another directory.
GROUPS = {34665: LABELS["exif"], 34853: "GPS", 40965: LABELS["exif"]}
# Pillow needs these tags to decode the pixels correctly.
OF_PIXELS = {
    *range(254, 260), 262, 266, 273, 274, 277, 278, 279, 284, *range(290, 294), 301, 317, *range(320, 326), 332, 333,
    *range(338, 344), 347, *range(512, 522), 529, 530, 531, 532, 559,
}  # fmt: skip


class Entry(NamedTuple):
    """A tag in a directory.

    type: the type of the values, a key of SIZES. values: the number of values. size: the length of all values in bytes.
    place: the offset of the values in the file. raw: the bytes of the directory's entry.
    """

    tag: int
    type: int
    values: int
    size: int
    place: int
    raw: bytes


class Page(NamedTuple):
    """A directory of tags. place: its offset in the file. complete: whether the file contains the full directory."""

    place: int
    entries: list[Entry]
    complete: bool


def tiff(data: bytes) -> Parts:
    """Reduce a TIFF file to one page: the first page that is a picture.

    A smaller copy of a picture or a mask is chosen only if no page is a picture. The bytes of the file are unchanged if
    the file has no directory, or if the directory of the chosen page is incomplete.
    """
    order: Order = "<" if data[:2] == b"II" else ">"
    pages = list(_pages(data, order))
    if not pages:
        return Parts(data)
    chosen, notes = choose([rank({tag.tag: _number(data, order, tag) for tag in page.entries}) for page in pages])
    pixels, lost = _with_page(data, order, pages[chosen]) if pages[chosen].complete else (data, [])
    return Parts(pixels, lost=lost, notes=notes)


def rank(tags: Mapping[int, object]) -> int:
    """Return what the tags say about a page: 0 is a picture, 1 is a smaller copy of a picture, and 2 is a mask.

    In tag 254, bit 0 marks a smaller copy and bit 2 marks a mask. In the older tag 255, the value 2 marks a smaller
    copy. In tag 262, the value 4 marks a mask. The numbers are from the TIFF 6.0 specification.
    """
    kind = tags.get(KIND)
    bits = kind if isinstance(kind, int) else 0
    return 2 if bits & 4 or tags.get(COLOURS) == 4 else int(bits & 1 or tags.get(OLD_KIND) == 2)


def choose(ranks: Sequence[int]) -> tuple[int, list[str]]:
    """Choose a page from the ranks of all pages. The lowest rank wins, and among equal ranks the first page wins.

    Returns the index of this page, from 0, and notes for the user on the pages that are not read.
    """
    chosen, notes = ranks.index(min(ranks)), []
    if chosen:
        notes.append(f"page {chosen + 1} of {len(ranks)} is read: the pages before it are smaller copies or masks")
    if (pictures := ranks.count(0)) > 1:
        notes.append(f"only the first of its {pictures} pictures is read")
    return chosen, notes


def _pages(data: bytes, order: Order) -> Iterator[Page]:
    """Yield the directories of the chain, in order, up to the first directory that is outside the file."""
    big = data[2:4] in (b"+\0", b"\0+")
    at, width = (8, 8) if big else (4, 4)
    place, seen, budget = int.from_bytes(data[at : at + width], NAMES[order]), set(), len(data)
    while 0 < place < len(data) and place not in seen and budget > 0:
        seen.add(place)
        head = 8 if big else 2
        count = int.from_bytes(data[place : place + head], NAMES[order])
        entry, start = (20 if big else 12), place + head
        # Directories that do not overlap are together no longer than the file. A malicious file can hold directories
        # that overlap, whose reading would take very long.
        budget -= entry * count
        entries = []
        for position in range(start, min(start + entry * count, len(data) - entry + 1), entry):
            raw = data[position : position + entry]
            tag, kind, values = struct.unpack(order + ("HHQ" if big else "HHI"), raw[:-width])
            size = SIZES.get(kind, 0) * values
            where = position + entry - width if size <= width else int.from_bytes(raw[-width:], NAMES[order])
            entries.append(Entry(tag, kind, values, size, where, raw))
        end = start + entry * count
        yield Page(place, entries, len(entries) == count and end + width <= len(data))
        place = int.from_bytes(data[end : end + width], NAMES[order])


def _with_page(data: bytes, order: Order, page: Page) -> tuple[bytes, list[str]]:
    """Leave only one page in a file, and in this page only the tags that Pillow can read.

    Returns the changed bytes of the file, and the names of the tags that are left out.
    """
    big = data[2:4] in (b"+\0", b"\0+")
    kept, lost = [], []
    # Pillow skips a tag if the tags up to it are together longer than the file. The tags in OF_PIXELS have priority.
    room = len(data) - sum(entry.size for entry in page.entries if entry.tag in OF_PIXELS)
    for entry in page.entries:
        complete = 0 < entry.size <= room and entry.place + entry.size <= len(data)
        if entry.tag in OF_PIXELS:
            kept.append(entry.raw)
        elif complete and _fits(data, order, entry):
            raw = entry.raw
            if entry.tag in (XMP, PROFILE):  # another type, such as text, would not give Pillow bytes
                raw = struct.pack(order + ("HHQ" if big else "HHI"), entry.tag, BYTES, entry.size) + raw[8 + 4 * big :]
            kept.append(raw)
            room -= entry.size
        elif entry.values:
            lost.append(_label(entry.tag))
    width = 8 if big else 4
    directory = len(kept).to_bytes(8 if big else 2, NAMES[order]) + b"".join(kept) + bytes(width)
    changed = bytearray(data)
    changed[page.place : page.place + len(directory)] = directory
    changed[width : 2 * width] = page.place.to_bytes(width, NAMES[order])
    return (data if changed == data else bytes(changed)), lost


def _fits(data: bytes, order: Order, entry: Entry) -> bool:
    """Return whether a tag has a value of the kind that Pillow expects. All values must be inside the file."""
    value = _number(data, order, entry)
    if entry.tag in GROUPS:
        return value is not None and 0 < value < len(data)
    if entry.tag == UNIT:
        return value in (1, 2, 3)
    if entry.tag in RESOLUTION and entry.type == RATIONAL and entry.values == 1:
        return 0 not in struct.unpack(f"{order}II", data[entry.place : entry.place + 8])
    return entry.tag not in RESOLUTION or bool(value)


def _number(data: bytes, order: Order, entry: Entry) -> int | None:
    """Return the value of a tag that holds one integer; None for any other tag."""
    if entry.values != 1 or entry.type not in (3, 4, 13, 16, 18):
        return None
    return int.from_bytes(data[entry.place : entry.place + entry.size], NAMES[order])


def _label(tag: int) -> str:
    known = {XMP: LABELS["xmp"], PROFILE: LABELS["icc_profile"], **GROUPS}
    return known.get(tag) or f"tag {TiffTags.lookup(tag).name}" + (f" {tag}" if tag not in TiffTags.TAGS_V2 else "")
