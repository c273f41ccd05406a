"""From a page of data to a PDF/A-3b, by Typst: its own fonts only, so that the same data gives the same bytes.

What others wrote must not keep a report from being made. A server chooses what it says. PDF/A refuses a letter
that no embedded font has, so that a single one would be the end of the report; marks that reorder text would let a
line read otherwise than it was sent.

>>> printable({"said": "no \\u65e5 \\u202e ok è"})
{'said': 'no [U+65E5] [U+202E] ok è'}
"""

from __future__ import annotations

import json
import re
import unicodedata
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from importlib import resources
from typing import overload

import typst

from mailwatch.i18n import Formatter, Texts
from mailwatch.times import Millis

_PRINTABLE = re.compile("[\\n\\u00a0\\u200b -~¡-\u024f\u0370-\u03ff\u0400-\u045f\u2010-\u2027\u2030-\u203e€−≤≥→]")
"""Latin, Greek, Cyrillic and common marks: Libertinus Serif and DejaVu Sans Mono have them; a test keeps it so."""
MAX_UNBROKEN_CHARS = 45
"""A word longer than this would run out of its column; it may then be broken."""


@dataclass(frozen=True, slots=True)
class PageDate:
    """The date of a document: that of its record, and not of the day on which it was made."""

    year: int
    month: int
    day: int


@dataclass(frozen=True, slots=True)
class PageHead:
    """What every report says of itself; `words` are the texts of its template, `attached` names its statement."""

    lang: str
    words: dict[str, str]
    title: str
    subtitle: str
    local_note: str
    author: str
    id: str
    date: PageDate
    attached: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Page:
    """What a template prints, which names the fields of the page and of its head."""

    head: PageHead


def page_date(at: Millis) -> PageDate:
    """Return the date of a time in UTC."""
    moment = datetime.fromtimestamp(at / 1000, UTC)
    return PageDate(moment.year, moment.month, moment.day)


def page_head(texts: Texts, writing: Formatter, author: str, name: str, at: Millis, attached: str) -> PageHead:
    """Return the head of a report with the name `name`, whose record ends at `at`."""
    return PageHead(
        lang=writing.language,
        words=texts.single(),
        title=texts["title"],
        subtitle=texts["subtitle"],
        local_note=texts["local_note"].format(zone=str(writing.zone)),
        author=author,
        id=name,
        date=page_date(at),
        attached=attached,
    )


def typeset(template: str, page: Page, statement: bytes) -> bytes:
    """Return the PDF of a template. One that begins with `//+ FILE` has that file of this folder before it."""
    folder = resources.files("mailwatch.evidence.report")
    text = (folder / template).read_text(encoding="utf-8")
    if text.startswith("//+ "):
        text = (folder / text.split()[1]).read_text(encoding="utf-8") + text
    data = asdict(page)
    head = data.pop("head")
    made = compile_pdf(text.encode(), str(folder), data | head, statement=statement.decode())
    # A signature is appended, and needs the line to be ended.
    return made + b"\n"


def compile_pdf(template: bytes, root: str, data: Mapping[str, object], **inputs: str) -> bytes:
    """Return the PDF of a template's text that reads `data`; files that it names lie below `root`."""
    made: bytes = typst.compile(  # type: ignore[call-overload]  # Bytes, below a root that is a path.
        template,
        root=root,  # Not the current folder, which may be gone.
        format="pdf",
        pdf_standards=["a-3b"],
        ignore_system_fonts=True,
        sys_inputs={"data": json.dumps(printable(data), ensure_ascii=False), **inputs},
    )
    return made


@overload
def printable(data: str, long: int = MAX_UNBROKEN_CHARS) -> str: ...
@overload
def printable(data: Mapping[str, object], long: int = MAX_UNBROKEN_CHARS) -> dict[str, object]: ...
@overload
def printable(data: object, long: int = MAX_UNBROKEN_CHARS) -> object: ...


def printable(data: object, long: int = MAX_UNBROKEN_CHARS) -> object:
    """Return plain data with each text in it fit to be printed, words longer than `long` being breakable."""
    if isinstance(data, str):
        text = "".join(map(_printable_char, unicodedata.normalize("NFC", data)))
        return re.sub(rf"\S{{{long + 1},}}", lambda found: _breakable(found[0], long), text)
    if isinstance(data, Mapping):
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
