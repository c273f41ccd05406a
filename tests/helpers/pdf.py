"""What a PDF says."""

from __future__ import annotations

import subprocess
from pathlib import Path


def pages_of(pdf: Path) -> list[str]:
    """The text of each page, its words apart by one space."""
    made = subprocess.run(["pdftotext", "-layout", pdf, "-"], capture_output=True, text=True, check=True)
    return [" ".join(page.split()) for page in made.stdout.removesuffix("\f").split("\f")]


def text_of(pdf: Path) -> str:
    """The text of all pages, as one line."""
    return " ".join(pages_of(pdf))
