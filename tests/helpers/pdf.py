"""What a PDF says."""

from __future__ import annotations

import subprocess
from pathlib import Path


def text_of(pdf: Path) -> str:
    made = subprocess.run(["pdftotext", "-layout", pdf, "-"], capture_output=True, text=True, check=True)
    return " ".join(made.stdout.split())
