"""Draw docs/report-it.png and docs/report-en.png anew: python -m tests.pictures (or `make pictures`).

Each is a page of the report of a made-up outage of five days, drawn by poppler's pdftoppm.
"""

from __future__ import annotations

import subprocess
import tempfile
from pathlib import Path

from tests.cases import make

DOCS = Path(__file__).parent.parent / "docs"
PAGES = (("it", 1), ("en", 2))
DPI = 80


def draw(folder: Path, docs: Path) -> list[Path]:
    """Write a picture of each page of PAGES."""
    made, drawn = make("five-days", folder), []
    for language, page in PAGES:
        pdf = folder / f"{language}.pdf"
        said = made.command("report", made.outage, "-o", str(pdf), "--lang", language)
        assert said.returncode == 0, said.stderr
        to = docs / f"report-{language}"
        one = ["-f", str(page), "-l", str(page), "-singlefile"]
        subprocess.run(["pdftoppm", "-r", str(DPI), "-png", *one, pdf, to], check=True)
        drawn.append(to.with_suffix(".png"))
    return drawn


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        draw(Path(folder) / "made", DOCS)
