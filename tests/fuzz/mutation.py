"""Makes inputs out of seeds: bits, bytes, lines and words changed, moved, doubled and cut."""

from __future__ import annotations

import random
from collections.abc import Callable

from tests.fuzz.target import Target

ODD = (
    b"",
    b"\0",
    b"\n",
    b"\r\n",
    b"\r\n\r\n",
    b"\xff",
    b"\x80",
    b"\xed\xa0\x80",
    b"\xc3",
    b"\xe2\x80\xa8",
    b" ",
    b"\t",
    b"{",
    b"}",
    b"[",
    b"]",
    b"(",
    b")",
    b'"',
    b"'",
    b"\\",
    b"<",
    b">",
    b"%",
    b"%s",
    b"{0}",
    b"{target}",
    b"$",
    b"&",
    b"=",
    b"0",
    b"-1",
    b"1",
    b"65536",
    b"4294967296",
    b"9007199254740993",
    b"18446744073709551616",
    b"9" * 400,
    b"1e999",
    b"NaN",
    b"Infinity",
    b"null",
    b"true",
    b"[]",
    b"{}",
    b"\x1f\x8b",
    b"\x30\x80",
    b"\x02\x01\xff",
    b"A" * 300,
    b"\xf0\x9f\x98\x80",
    b"\xc2\x85",
    b"\x1e",
    b"\x1f",
    b":",
    b";",
    b",",
    b".",
    b"..",
    b"/",
    b"//",
    b"@",
    b"=?utf-8?b?gA?=",
)


def mutate(target: Target, chance: random.Random) -> bytes:
    """Return an input: a seed with a few changes, seldom one as it is."""
    if target.make is not None and chance.random() < 0.5:
        return target.make(chance)
    made = bytearray(chance.choice(target.seeds))
    for _ in range(min(12, int(chance.expovariate(0.4)))):
        _change(made, target, chance)
    del made[target.longest :]
    return bytes(made)


def _change(made: bytearray, target: Target, chance: random.Random) -> None:
    chance.choice(_CHANGES)(made, chance.randrange(len(made) + 1), target, chance)


def _flip(made: bytearray, at: int, _: Target, chance: random.Random) -> None:
    if at < len(made):
        made[at] ^= 1 << chance.randrange(8)


def _set(made: bytearray, at: int, _: Target, chance: random.Random) -> None:
    if at < len(made):
        made[at] = chance.randrange(256)


def _cut(made: bytearray, at: int, _: Target, chance: random.Random) -> None:
    del made[at : at + 1 + int(chance.expovariate(0.1))]


def _end(made: bytearray, at: int, _: Target, chance: random.Random) -> None:
    del made[at:]


def _word(made: bytearray, at: int, target: Target, chance: random.Random) -> None:
    made[at:at] = chance.choice(target.words) if target.words and chance.random() < 0.6 else chance.choice(ODD)


def _replace(made: bytearray, at: int, target: Target, chance: random.Random) -> None:
    word = chance.choice(target.words) if target.words and chance.random() < 0.5 else chance.choice(ODD)
    made[at : at + len(word)] = word


def _double(made: bytearray, at: int, _: Target, chance: random.Random) -> None:
    part = made[at : at + 1 + int(chance.expovariate(0.05))]
    made[at:at] = part * chance.choice((1, 1, 2, 8, 64))


def _splice(made: bytearray, at: int, target: Target, chance: random.Random) -> None:
    other = chance.choice(target.seeds)
    start = chance.randrange(len(other) + 1)
    made[at : at + chance.choice((0, 10, 10_000))] = other[start : start + 1 + int(chance.expovariate(0.02))]


def _lines(made: bytearray, _at: int, _: Target, chance: random.Random) -> None:
    lines = bytes(made).split(b"\n")
    first, second = chance.randrange(len(lines)), chance.randrange(len(lines))
    match chance.randrange(3):
        case 0:
            lines[first], lines[second] = lines[second], lines[first]
        case 1:
            lines.insert(first, lines[second])
        case _:
            del lines[first]
    made[:] = b"\n".join(lines)


def _digits(made: bytearray, at: int, _: Target, chance: random.Random) -> None:
    """Put another number in the place of the next one."""
    while at < len(made) and not 0x30 <= made[at] <= 0x39:
        at += 1
    end = at
    while end < len(made) and 0x30 <= made[end] <= 0x39:
        end += 1
    made[at:end] = str(chance.choice((0, 1, -1, 7, 2**31, 2**32, 2**53 + 1, 2**64, 10**20, 10**400))).encode()


_CHANGES: tuple[Callable[[bytearray, int, Target, random.Random], None], ...] = (
    _flip,
    _flip,
    _set,
    _cut,
    _end,
    _word,
    _word,
    _word,
    _replace,
    _replace,
    _double,
    _splice,
    _splice,
    _lines,
    _digits,
)
