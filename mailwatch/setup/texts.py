"""The texts of the set-up that end up in config.yaml, and the bounds of others' texts."""

from __future__ import annotations

from mailwatch.i18n import Texts, load_texts

MAX_CHARS = 200
"""Most characters of another party's text."""


def texts(language: str) -> Texts:
    """Return the texts in a language."""
    return load_texts("mailwatch.setup", f"{language}.yaml")


def printable_text(text: object) -> str:
    """Return text from another party, such as a server, without control characters and at most 200 characters
    long.
    """
    return "".join(sign if sign.isprintable() else "?" for sign in str(text))[:MAX_CHARS]
