"""Typesets page data as PDF/A-3b with Typst: embedded fonts only, so that the same data gives the same bytes.

Text from others, such as a server's replies, must not prevent a report. PDF/A forbids characters that no embedded
font has, so a single one would make the report fail. Control characters that reorder text would make a line read
differently from what was sent.

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
"""Latin, Greek, Cyrillic and common punctuation, all in Libertinus Serif and DejaVu Sans Mono; a test checks
this.
"""
MAX_UNBROKEN_CHARS = 45
"""Longest word that fits a column; longer words are made breakable."""


@dataclass(frozen=True, slots=True)
class PageDate:
    """The date of a document: that of its record, not the day on which it was made."""

    year: int
    month: int
    day: int


@dataclass(frozen=True, slots=True)
class PageHead:
    """Data common to all reports. `words`: the texts of its template. `attached`: the name of its statement."""

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
    """The data of a template, which refers to the fields of the page and its head."""

    head: PageHead


def page_date(at: Millis) -> PageDate:
    """Return the UTC date of a time."""
    moment = datetime.fromtimestamp(at / 1000, UTC)
    return PageDate(moment.year, moment.month, moment.day)


def page_head(texts: Texts, writing: Formatter, author: str, name: str, at: Millis, attached: str) -> PageHead:
    """Return the head of the report `name`, whose record ends at `at`."""
    return PageHead(
        lang=writing.language,
        words=texts.single(),
        title=texts["title"],
        subtitle=texts["subtitle"],
        local_note=_local_note(texts, writing, page_date(at).year),
        author=author,
        id=name,
        date=page_date(at),
        attached=attached,
    )


def _local_note(texts: Texts, writing: Formatter, year: int) -> str:
    key = "local_note_utc" if writing.is_utc(year) else "local_note"
    return f"{texts[key].format(zone=str(writing.zone))} {texts['local_note_rounded']}"


def typeset(template: str, page: Page, statement: bytes) -> bytes:
    """Return the PDF of a template. If it begins with `//+ FILE`, that file of this folder is prepended."""
    folder = resources.files("mailwatch.evidence.report")
    text = (folder / template).read_text(encoding="utf-8")
    if text.startswith("//+ "):
        text = (folder / text.split()[1]).read_text(encoding="utf-8") + text
    data = asdict(page)
    head = data.pop("head")
    made = compile_pdf(text.encode(), str(folder), data | head, statement=statement.decode())
    # A signature is appended after this line end.
    return made + b"\n"


def compile_pdf(template: bytes, root: str, data: Mapping[str, object], **inputs: str) -> bytes:
    """Return the PDF of a template's text, which reads `data`; files that it names are below `root`."""
    made: bytes = typst.compile(  # type: ignore[call-overload]  # Bytes as the template, with a root path.
        template,
        root=root,  # Not the current folder, which may not exist.
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
    """Return plain data with all texts printable, and words longer than `long` breakable."""
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
    # URLs break by themselves, and are copied by readers.
    if word.startswith("http"):
        return word
    return "\u200b".join(word[at : at + long] for at in range(0, len(word), long))
