"""The words of the conversation, in English and Italian."""

from __future__ import annotations

from functools import cache
from importlib import resources
from typing import Any

import yaml


@cache
def words(language: str) -> dict[str, Any]:
    """Return the texts of a language."""
    read: dict[str, Any] = yaml.safe_load(
        (resources.files(__package__ or "") / f"{language}.yaml").read_text(encoding="utf-8")
    )
    return read


def clean(text: object) -> str:
    """Write something that a stranger may have chosen, a server for instance, so that it is text and no more."""
    return "".join(sign if sign.isprintable() else "?" for sign in str(text))[:200]
