"""The language of the terminal: texts are written in English in the code that prints them, and read in Italian.

JSON, CSV and log lines are for programs: they are always English.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from contextvars import ContextVar

from mailwatch import phrases
from mailwatch.i18n import environment_language

_CHOSEN: ContextVar[str] = ContextVar("language", default="")


def language() -> str:
    """Return the language of the terminal and of documents: Italian in an Italian locale, else English."""
    return _CHOSEN.get() or environment_language(os.environ)


@contextlib.contextmanager
def speaking(chosen: str) -> Iterator[None]:
    """Use another language than the environment's while the context lasts."""
    before = _CHOSEN.set(chosen)
    try:
        yield
    finally:
        _CHOSEN.reset(before)


def tr(text: str, /, **fields: object) -> str:
    """Return an English text in the language of the terminal, with its fields filled in."""
    text = phrases.phrase(text, language())
    return text.format(**fields) if fields else text


def word(kind: str, name: str) -> str:
    """Return the word of the terminal for a cause, phase, outcome or claim, which in English is its name."""
    return phrases.word(kind, name, language())


def translated(message: str) -> str:
    """Return a message, with its fields already filled in, in the language of the terminal, line by line."""
    return phrases.translated(message, language())
