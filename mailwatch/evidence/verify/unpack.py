"""Unpacks one file of a zip, of which every packed byte counts.

zipfile stops where the packed data ends by itself: bytes behind that end, up to the length in the directory, would
be signed by nothing and seen by nobody.
"""

from __future__ import annotations

import struct
import zipfile
import zlib
from typing import IO

_PACKED_BYTES = 1 << 17


class PackedFile:
    """The content of a file of a zip, in order. `file`: the zip, which nobody else reads meanwhile."""

    def __init__(self, file: IO[bytes], info: zipfile.ZipInfo) -> None:
        self._file, self._left, self._expected = file, info.compress_size, info.CRC
        file.seek(info.header_offset + 26)
        file.seek(sum(struct.unpack("<HH", file.read(4))), 1)
        self._inflate = zlib.decompressobj(-15) if info.compress_type == zipfile.ZIP_DEFLATED else None
        self._crc, self._ended = 0, False

    def read(self, most: int) -> bytes:
        """Return up to `most` bytes, b"" at the end. Raises ValueError or zlib.error."""
        part = b""
        while not part and not self._ended:
            part = self._stored(most) if self._inflate is None else self._inflated(most)
        self._crc = zlib.crc32(part, self._crc)
        if not part and self._crc != self._expected:
            raise ValueError("its CRC-32 is another one")
        return part

    def _stored(self, most: int) -> bytes:
        part = self._file.read(min(most, self._left))
        self._left -= len(part)
        self._ended = not part
        if self._ended and self._left:
            raise ValueError("it is cut")
        return part

    def _inflated(self, most: int) -> bytes:
        assert self._inflate is not None
        packed = self._inflate.unconsumed_tail
        if not packed:
            packed = self._file.read(min(_PACKED_BYTES, self._left))
            self._left -= len(packed)
        part = self._inflate.decompress(packed, most)
        self._ended = self._inflate.eof
        if self._ended and (self._left or self._inflate.unused_data):
            raise ValueError("there are bytes behind the end of its packed data")
        if not part and not packed and not self._ended:
            raise ValueError("its packed data is cut")
        return part
