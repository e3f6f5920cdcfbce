"""What a file is whose suffix says something else, by its first bytes."""

from __future__ import annotations

import re
from pathlib import Path

_TEXT = re.compile(rb"\s*(#[^\r\n]*[\r\n]\s*)*", re.ASCII)
_STARTS = {
    ".ply": (rb"ply\s", "a PLY file"),
    ".stl": (rb"(?i:solid\b)", "an STL file"),
    ".off": (rb"(ST|C|N)*OFF\b", "an OFF file"),
    ".glb": (rb"glTF", "a GLB file"),
    ".npy": (rb"\x93NUMPY", "a numpy array"),
    ".las": (rb"LASF", "a LAS file"),
    ".e57": (rb"ASTM-E57", "an E57 file"),
    ".pcd": (rb"VERSION\s+0?\.\d[^\r\n]*\s+(FIELDS|COLUMNS)\b", "a PCD file"),
    ".obj": (
        rb"((mtllib|o|g|usemtl|s)[ \t][^\r\n]*[\r\n]\s*)*v[ \t]+[-+.\d]\S*[ \t]+[-+.\d]\S*[ \t]+[-+.\d]",
        "an OBJ file",
    ),
}
_ANY_TEXT = (".xyz", ".pts", ".txt", ".asc", ".csv")  # read in UTF-16 too, if a mark says so
_PACKED = {b"\x1f\x8b": "gzip", b"BZh": "bzip2", b"\xfd7zXZ": "xz", b"\x28\xb5\x2f\xfd": "zstd", b"7z\xbc\xaf": "7-Zip"}
_OTHERS = {b"\x89PNG": "a PNG picture", b"\xff\xd8\xff": "a JPEG picture", b"%PDF": "a PDF document"}


def what_it_is(path: Path) -> str | None:
    """The rest of a sentence that begins with the file's name, or None where its first bytes say nothing else.

    For files that could not be read: a suffix that is right, or a file that cannot be opened, gives None.
    """
    try:
        with path.open("rb") as file:
            head = file.read(1024)
    except OSError:
        return None
    suffix = path.suffix.lower()
    marked = head[:2] in (b"\xff\xfe", b"\xfe\xff")
    if (marked and suffix not in _ANY_TEXT) or _every_other_is_zero(head):
        return "is text in UTF-16, which is not read here; save it as UTF-8"
    if head.startswith(b"PK\x03\x04") and suffix != ".npz":
        return "is a zip archive; unpack it first (or rename it to .npz, if numpy wrote it)"
    for magic, name in (_PACKED | _OTHERS).items():
        if head.startswith(magic):
            return f"is packed by {name}; unpack it first" if magic in _PACKED else f"is {name}, not a shape"
    if re.match(rb"\s*<(!doctype\s+)?html", head, re.IGNORECASE):
        return "is a web page, not a shape; download the file itself"
    start = head.removeprefix(b"\xef\xbb\xbf")
    for right, (pattern, name) in _STARTS.items():
        aliases = (right, ".laz") if right == ".las" else (right,)
        if re.match(pattern, start[_comments(start) :]) or re.match(pattern, start):
            return None if suffix in aliases else f"starts like {name}; rename it to {right}"
    return None


def _comments(text: bytes) -> int:
    """Where the first line begins that is neither blank nor a comment."""
    found = _TEXT.match(text)
    return found.end() if found else 0


def _every_other_is_zero(head: bytes) -> bool:
    """Whether it is text of two bytes a letter without a mark that says so."""
    for zeros, letters in ((head[1:64:2], head[0:64:2]), (head[0:64:2], head[1:64:2])):
        if len(zeros) >= 16 and not any(zeros) and all(9 <= byte < 127 for byte in letters):
            return True
    return False
