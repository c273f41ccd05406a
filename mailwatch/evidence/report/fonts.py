"""What the embedded fonts can show: what others wrote must not keep a report from being made.

A server chooses what it says. PDF/A refuses a letter that no embedded font has, so that a single one would be
the end of the report; marks that reorder text would let a line read otherwise than it was sent.

>>> printable({"said": "no \\u65e5 \\u202e ok è"})
{'said': 'no [U+65E5] [U+202E] ok è'}
"""

from __future__ import annotations

import re
import unicodedata
from typing import Any, overload

_PRINTABLE = re.compile("[\\n\\u00a0\\u200b -~¡-\u024f\u0370-\u03ff\u0400-\u045f\u2010-\u2027\u2030-\u203e€−≤≥→]")
"""Latin, Greek, Cyrillic and common marks: Libertinus Serif and DejaVu Sans Mono have them; a test keeps it so."""
MAX_UNBROKEN_CHARS = 45
"""A word longer than this would run out of its column; it may then be broken."""


@overload
def printable(data: str, long: int = MAX_UNBROKEN_CHARS) -> str: ...
@overload
def printable(data: dict[str, Any], long: int = MAX_UNBROKEN_CHARS) -> dict[str, Any]: ...
@overload
def printable(data: object, long: int = MAX_UNBROKEN_CHARS) -> object: ...


def printable(data: object, long: int = MAX_UNBROKEN_CHARS) -> object:
    """Return plain data with each text in it fit to be printed, words longer than `long` being breakable."""
    if isinstance(data, str):
        text = "".join(map(_printable_char, unicodedata.normalize("NFC", data)))
        return re.sub(rf"\S{{{long + 1},}}", lambda found: _breakable(found[0], long), text)
    if isinstance(data, dict):
        return {key: printable(value, long) for key, value in data.items()}
    if isinstance(data, list | tuple):
        return [printable(value, long) for value in data]
    return data


def _printable_char(char: str) -> str:
    is_printable = _PRINTABLE.match(char) and (char.isprintable() or char in "\n\u00a0\u200b")
    return char if is_printable else f"[U+{ord(char):04X}]"


def _breakable(word: str, long: int) -> str:
    # Addresses of pages break by themselves, and are copied.
    if word.startswith("http"):
        return word
    return "\u200b".join(word[at : at + long] for at in range(0, len(word), long))
