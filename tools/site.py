"""Check that the built site loads nothing from elsewhere: python -m tools.site build/site; `make docs` runs it."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path

LOADS = {"src", "srcset", "data", "poster", "action"}
"""Attributes whose address a browser fetches by itself; a link (href of <a>) waits for a click."""


class _Loaded(HTMLParser):
    """Collects the addresses that a page makes a browser fetch."""

    def __init__(self) -> None:
        super().__init__()
        self.addresses: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        facts = dict(attrs)
        fetched = set(LOADS)
        if tag == "link" and facts.get("rel") not in ("canonical", "prev", "next", "alternate"):
            fetched.add("href")
        self.addresses += [value for name, value in attrs if name in fetched and value]


def outside(site: Path) -> Iterator[str]:
    """Yield each address outside the site that a page or a style sheet of it loads, with the file's name."""
    for page in sorted(site.rglob("*.html")):
        loaded = _Loaded()
        loaded.feed(page.read_text(encoding="utf-8"))
        for address in loaded.addresses:
            if re.match(r"(?:[a-z]+:)?//", address):
                yield f"{page.relative_to(site)}: {address}"
    for sheet in sorted(site.rglob("*.css")):
        for address in re.findall(
            r"(?:url\(|@import\s*)[\"']?((?:https?:)?//[^\"')\s]+)", sheet.read_text(encoding="utf-8")
        ):
            yield f"{sheet.relative_to(site)}: {address}"


def main(site: Path) -> int:
    """Print what is loaded from elsewhere, and return the exit status."""
    found = list(outside(site))
    for line in found:
        print(f"loads from elsewhere: {line}")
    if not (site / "index.html").exists():
        print(f"there is no site in {site}")
        return 1
    return int(bool(found))


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
