"""Whether every byte of a zip belongs to its files or its directory, one after the other.

Readers of zips differ in where they begin to read and in what they skip: of a zip with a second directory, or with
bytes before, between or behind its files, one may show other files than another.
"""

from __future__ import annotations

import struct
import zipfile
from collections.abc import Iterable
from typing import IO

_END = 22
_ZIP64_END = 56 + 20
_DESCRIPTORS = (12, 16, 20, 24)


def fault(file: IO[bytes], infos: Iterable[zipfile.ZipInfo], start: int, size: int) -> str:
    """Say what is wrong with the layout, "" for nothing. `start` is where the directory begins."""
    infos = sorted(infos, key=lambda info: info.header_offset)
    file.seek(max(0, size - _END))
    end = file.read(_END)
    directory = sum(46 + len(info.orig_filename.encode()) + len(info.extra) + len(info.comment) for info in infos)
    if not end.startswith(b"PK\5\6") or size - _END - start - directory not in (0, _ZIP64_END):
        return "there are other bytes in or behind its directory"
    if struct.unpack("<HH", end[8:12]) != (len(infos), len(infos)):
        return "its directory does not list as many files as it says"
    at = 0
    for info, following in zip(infos, [*(info.header_offset for info in infos[1:]), start], strict=True):
        if info.header_offset != at:
            return f"there are other bytes before {info.filename}"
        file.seek(at)
        head = file.read(30)
        if not head.startswith(b"PK\3\4") or len(head) < 30:
            return f"{info.filename} has no header"
        at += 30 + sum(struct.unpack("<HH", head[26:])) + info.compress_size
        if info.flag_bits & 0x8 and following - at in _DESCRIPTORS:
            at = following
    return "" if at == start else "there are other bytes before its directory"
