"""The report's words, in Italian and English: it.yaml and en.yaml have the same keys, kept so by a test."""

from __future__ import annotations

from functools import cache
from importlib import resources
from typing import Any

import yaml

LANGUAGES = ("en", "it")


@cache
def words(language: str, package: str = "mailwatch.evidence.report") -> dict[str, Any]:
    """Return the texts of a language; `causes`, `phases` and `reasons` by the values of the models."""
    text = (resources.files(package) / f"{language}.yaml").read_text(encoding="utf-8")
    loaded: dict[str, Any] = yaml.safe_load(text)
    return loaded
