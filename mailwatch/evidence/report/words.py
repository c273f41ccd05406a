"""The report's words, in Italian and English: it.yaml and en.yaml have the same keys, kept so by a test."""

from __future__ import annotations

from functools import cache
from importlib import resources
from typing import Any

import yaml

LANGUAGES = ("en", "it")


@cache
def words(language: str, report: str = "", package: str = "mailwatch.evidence.report") -> dict[str, Any]:
    """Return the texts of a language; `causes`, `phases` and `reasons` by the values of the models.

    `report`: "" is the report of an outage; another ("period", "joint") has its own words on top of these.
    """
    name = f"{report}.{language}.yaml" if report else f"{language}.yaml"
    text = (resources.files(package) / name).read_text(encoding="utf-8")
    loaded: dict[str, Any] = yaml.safe_load(text)
    return words(language) | loaded if report else loaded
