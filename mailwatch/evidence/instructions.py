"""VERIFY.md: how to check the bundle, with MailWatch and without it; in the report's language."""

from __future__ import annotations

from importlib import resources
from typing import Any

NAMES = {"en": "VERIFY.md", "it": "VERIFICA.md"}


def page(language: str, statement: dict[str, Any]) -> tuple[str, bytes]:
    """Return the file's name and content."""
    name = NAMES[language]
    text = (resources.files("mailwatch.evidence") / "enclosed" / name).read_text(encoding="utf-8")
    if "window" in statement:
        text = text.replace("outage.json", "period.json")
    return name, text.replace("{ledger}", statement["ledger"]).encode()
