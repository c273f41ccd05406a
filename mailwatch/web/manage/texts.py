"""The texts of the set-up and management pages, in English and Italian."""

from __future__ import annotations

from mailwatch.i18n import Texts, load_texts


def texts(language: str) -> Texts:
    """Return the texts in a language."""
    return load_texts("mailwatch.web.manage", f"{language}.yaml")
