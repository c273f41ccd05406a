"""Columns of a run: whole numbers and texts that repeat from row to row, in few bytes and without loss.

A column of numbers is stored as what is left of it once a predictor is taken off: an earlier column (an end minus
its start), the row before, or both. What is left is stored from its smallest value on, in 0, 1, 2, 4 or 8 bytes
each, all first bytes before all second ones. Bytes that seem random go to `raw`, others to `packed`, which is
compressed.
"""

from __future__ import annotations

import re
import sys
from array import array
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import accumulate
from operator import add, sub
from typing import Any

NONE = -1
"""A predictor without another column."""
SAMPLED_ROWS = 48
"""Rows by which a predictor is chosen."""
RELATED = 1_000_000
"""Numbers below it are no times and no readings of a clock, so no column is predicted by them."""
MAX_DISTINCT = 255
_TYPES = {1: "B", 2: "H", 4: "I", 8: "Q"}
_HEX = re.compile(r'"(?:[0-9a-f]{2}){1,64}"')
Predictor = tuple[int, bool]
"""The index of the column to take off, or NONE; whether the row before is taken off too."""


@dataclass(slots=True)
class ColumnBytes:
    """The bytes of columns, as they are written and read: `packed` is compressed, `raw` is not."""

    packed: bytes = b""
    raw: bytes = b""
    _packed: list[bytes] = field(default_factory=list)
    _raw: list[bytes] = field(default_factory=list)
    _packed_at: int = 0
    _raw_at: int = 0

    def write(self, data: bytes, *, raw: bool = False) -> None:
        """Append bytes."""
        (self._raw if raw else self._packed).append(data)

    def finish(self) -> None:
        """Join what was written."""
        self.packed, self.raw = b"".join(self._packed), b"".join(self._raw)

    def read(self, length: int, *, raw: bool = False) -> bytes:
        """Return the next bytes. Raises ValueError where there are fewer."""
        if raw:
            data = self.raw[self._raw_at : self._raw_at + length]
            self._raw_at += length
        else:
            data = self.packed[self._packed_at : self._packed_at + length]
            self._packed_at += length
        if len(data) != length:
            raise ValueError("a column ends too early")
        return data


def choose_predictor(column: Sequence[int], others: Sequence[Sequence[int]]) -> Predictor:
    """Return the predictor that leaves the least of a column. `others`: the columns stored before it."""
    rows = column[:SAMPLED_ROWS]
    candidates = [NONE]
    if rows[0] >= RELATED:
        candidates += [number for number, other in enumerate(others) if other[0] >= RELATED]
    best, least = (NONE, False), sys.maxsize
    for number in candidates:
        left = rows if number == NONE else list(map(sub, rows, others[number]))
        for stepped in (False, True):
            size = _size(list(map(sub, left[1:], left)) if stepped else left)
            if size < least:
                best, least = (number, stepped), size
    return best


def _size(left: Sequence[int]) -> int:
    """Return how many bits the numbers take about their middle."""
    if not left:
        return 0
    middle = sorted(left)[len(left) // 2]
    return sum((one - middle).bit_length() for one in left)


def write_numbers(
    column: Sequence[int], predictor: Predictor, others: Sequence[Sequence[int]], to: ColumnBytes
) -> list[Any]:
    """Write a column of numbers; return its description for `read_numbers`."""
    number, stepped = predictor
    left = column if number == NONE else list(map(sub, column, others[number]))
    begin = 0
    if stepped:
        begin = left[0]
        left = [0, *map(sub, left[1:], left)]
    low = min(left)
    span = max(left) - low
    width = 0 if not span else 1 if span < 1 << 8 else 2 if span < 1 << 16 else 4 if span < 1 << 32 else 8
    if width:
        cells = array(_TYPES[width], [one - low for one in left])
        if sys.byteorder == "big":
            cells.byteswap()
        flat = cells.tobytes()
        raw = 0
        for place in range(width):
            plane = flat[place::width]
            is_raw = _is_random(plane)
            raw |= is_raw << place
            to.write(plane, raw=is_raw)
        return [number, int(stepped), begin, low, width, raw]
    return [number, int(stepped), begin, low]


def _is_random(plane: bytes) -> bool:
    """Return whether compressing these bytes would gain nothing."""
    count = len(plane)
    expected = 256 * (1 - (255 / 256) ** count)
    return len(set(plane)) > 0.8 * expected and count > 1


def read_numbers(
    described: Sequence[Any], count: int, others: Sequence[Sequence[int]], source: ColumnBytes
) -> list[int]:
    """Read a column of `count` numbers. Raises ValueError, TypeError, IndexError, KeyError for damage."""
    number, stepped, begin, low, *stored = described
    if stored:
        width, raw = stored
        flat = bytearray(count * width)
        for place in range(width):
            flat[place::width] = source.read(count, raw=bool(raw >> place & 1))
        cells = array(_TYPES[width])
        cells.frombytes(flat)
        if sys.byteorder == "big":
            cells.byteswap()
        left = [one + low for one in cells] if low else cells.tolist()
    else:
        left = [low] * count
    if stepped:
        left[0] = begin
        left = list(accumulate(left))
    return left if number == NONE else list(map(add, left, others[number]))


def write_texts(column: Sequence[str], to: ColumnBytes) -> list[Any]:
    """Write a column of texts without line breaks; return its description for `read_texts`."""
    distinct = list(dict.fromkeys(column))
    if len(distinct) <= min(MAX_DISTINCT, len(column) // 4 + 1):
        codes = {text: code for code, text in enumerate(distinct)}
        to.write(bytes(codes[text] for text in column))
        return ["few", distinct]
    length = len(column[0])
    if all(len(text) == length and _HEX.fullmatch(text) for text in column):
        to.write(bytes.fromhex("".join(text[1:-1] for text in column)), raw=True)
        return ["hex", length - 2]
    joined = "\n".join(column).encode()
    to.write(joined)
    return ["any", len(joined)]


def read_texts(described: Sequence[Any], count: int, source: ColumnBytes) -> list[str]:
    """Read a column of `count` texts. Raises ValueError, TypeError, IndexError for damage."""
    how, what = described
    if how == "few":
        return [what[code] for code in source.read(count)]
    if how == "hex":
        digits = source.read(count * what // 2, raw=True).hex()
        return [f'"{digits[at : at + what]}"' for at in range(0, count * what, what)]
    texts = source.read(what).decode().split("\n")
    if len(texts) != count:
        raise ValueError("a column of texts has another number of rows")
    return texts
