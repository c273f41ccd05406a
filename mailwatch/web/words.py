"""The words of the pages, in English and Italian: en.yaml and it.yaml have the same keys, kept so by a test."""

from __future__ import annotations

from functools import cache
from importlib import resources
from typing import Any

import yaml

LANGUAGES = ("en", "it")
COOKIE = "mailwatch_lang"


@cache
def words(language: str) -> dict[str, Any]:
    """Return the texts of a language."""
    text = (resources.files("mailwatch.web") / f"{language}.yaml").read_text(encoding="utf-8")
    loaded: dict[str, Any] = yaml.safe_load(text)
    return loaded


def choose(asked: str, kept: str, accepted: str) -> str:
    """Choose a language: the one asked for, the one kept from before, or the browser's (RFC 9110, 12.5.4)."""
    for wanted in (asked, kept):
        if wanted in LANGUAGES:
            return wanted
    best, weight = LANGUAGES[0], 0.0
    for part in accepted[:400].split(","):
        tag, _, quality = part.strip().partition(";q=")
        language = tag.strip().lower().partition("-")[0]
        try:
            value = float(quality or 1)
        except ValueError:
            continue
        if language in LANGUAGES and value > weight:
            best, weight = language, value
    return best
