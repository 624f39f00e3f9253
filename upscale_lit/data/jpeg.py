"""Take a JPEG file apart into pixels and metadata, and check that its pixels are complete."""

import re

from upscale_lit.data.containers import LABELS, Parts

SEGMENT = re.compile(rb"\xff+([^\xff])(..)", re.DOTALL)  # marker and length; several 0xFF may precede the marker
MARKER = re.compile(rb"\xff+([^\x00\xff])")  # a marker inside a scan, where a value of 0xFF is followed by 0
NEXT = re.compile(rb"\xff[\xc0-\xcf\xda-\xfe]")  # the beginning of a segment
RESTARTS = [bytes([value]) for value in range(0xD0, 0xD8)]
EXIF, XMP, ICC = b"Exif\0\0", b"http://ns.adobe.com/xap/1.0/\0", b"ICC_PROFILE\0"


def jpeg(data: bytes) -> Parts:
    """Take a JPEG file apart.

    Pillow gets only two of the application segments: JFIF, and Adobe, which defines the colour space. The index of a
    file with several pictures is removed, so that Pillow reads the first picture. Raises EOFError if pixels are missing
    (see `_complete`).
    """
    parts = Parts(data)
    info, lost = parts.info, parts.lost
    profile: list[bytes] = []
    kept, position, checked = [data[:2]], 2, True
    while segment := SEGMENT.match(data, position):
        marker, begin, end = segment[1], segment.end(), segment.start(2) + int.from_bytes(segment[2])
        position = segment.start(1) - 1
        if marker < b"\xc0" or marker in (b"\xd8", b"\xd9", b"\xda", *RESTARTS) or not begin <= end <= len(data):
            break
        body = data[begin:end]
        if not (b"\xe0" <= marker < b"\xf0" or marker == b"\xfe"):
            kept.append(data[position:end])
            position = end
            continue
        if marker == b"\xfe":
            info["comment"] = body
        elif (marker == b"\xe0" and body.startswith(b"JFIF")) or (marker == b"\xee" and body.startswith(b"Adobe")):
            if len(body) >= 12:
                kept.append(data[position:end])
            else:
                lost.append("JFIF" if marker == b"\xe0" else "Adobe")
        elif marker == b"\xe1" and body.startswith(EXIF):
            info["exif"] = info.get("exif", EXIF) + body[len(EXIF) :]
        elif marker == b"\xe1" and body.startswith(XMP):
            info["xmp"] = body[len(XMP) :]
        elif marker == b"\xe2" and body.startswith(ICC):
            profile.append(body[len(ICC) :])
        position = end
        if data[position : position + 1] != b"\xff" and (found := NEXT.search(data, position)):
            # The segment is longer than its length says. Decoders skip the rest, but `_complete` would fail on it.
            position, checked = found.start(), False
    profile.sort()  # each part begins with its number and the number of parts
    count = len({part[:1] for part in profile})
    if profile and count == len(profile) and all(len(part) > 1 and part[1] == count for part in profile):
        info["icc_profile"] = b"".join(part[2:] for part in profile)
    elif profile:
        lost.append(LABELS["icc_profile"])
    pixels = b"".join(kept) + data[position:]
    parts.pixels = _complete(pixels) if checked else pixels
    return parts


def _complete(data: bytes) -> bytes:
    """Check that all scans of a JPEG are present (ITU T.81, annexes B and G), and return the bytes to decode.

    In the usual JPEG with a single scan, the bytes after the scan are replaced by zeros. If rows are missing, an end
    marker would make the decoder paint them grey without an error. Without the marker, Pillow reports a truncated file.
    A complete picture only needs a few bytes after its last row, because the decoder looks ahead.
    Raises EOFError if parts of a scan, or scans, are missing.
    """
    position, components, single, restarts = 2, 0, False, False
    # The number of missing bits for each component and each of its 64 coefficients, which scans deliver in parts.
    missing: dict[int, list[int]] = {}
    while segment := SEGMENT.match(data, position):
        marker, position = segment[1][0], segment.start(2) + int.from_bytes(segment[2])
        body = data[segment.end() : position].ljust(16, b"\0")
        if marker == 0xD9:
            break
        if marker in (0xC0, 0xC1, 0xC2):  # the frame
            components, single = body[5], marker != 0xC2
        elif marker == 0xDD:
            restarts = body[:2] != b"\0\0"
        elif marker == 0xDA:  # a scan, which ends at the first marker that cannot be inside a scan
            count, markers = body[0], MARKER.finditer(data, position)
            ends = (found.start() for found in markers if not restarts or found[1] not in RESTARTS)
            end = next(ends, len(data))
            order = [name[0] - 0xD0 for name in MARKER.findall(data, position, end)]
            if order != [number % 8 for number in range(len(order))]:
                raise EOFError("parts of it are missing")
            if single and count == components:
                # An incomplete download may leave zeros at the end of a file without an end marker.
                return (data[:end] if end < len(data) else data.rstrip(b"\0")) + bytes(16)
            first, last, low = body[1 + 2 * count : 4 + 2 * count].ljust(3, b"\0")
            for component in body[1 : 1 + 2 * count : 2]:
                planes = missing.setdefault(component, [16] * 64)
                planes[first : last + 1] = [low & 15] * len(planes[first : last + 1])
            position = end
    if len(missing) < components or any(any(planes) for planes in missing.values()):
        raise EOFError("its last scans are missing")
    return data
