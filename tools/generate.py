"""Write the generated pages of docs/reference anew: python -m tools.generate (`make docs-generate`).

With --check write nothing, name the pages that are stale, and exit 1 if there are any.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

from tests.helpers.faults.table import page as failures
from tools import commands, configuration, metrics
from tools import format as format_page

REFERENCE = Path(__file__).parent.parent / "docs" / "reference"
PAGES: dict[str, Callable[[], str]] = {
    "commands.md": commands.page,
    "configuration.md": configuration.page,
    "failures.md": failures,
    "format.md": format_page.page,
    "metrics.md": metrics.page,
}


def stale() -> list[str]:
    """Return the names of the pages that differ from what the code gives now."""
    return [
        name
        for name, page in PAGES.items()
        if not (REFERENCE / name).exists() or (REFERENCE / name).read_text(encoding="utf-8") != page()
    ]


def main(check: bool) -> int:
    """Write or check the pages, and return the exit status."""
    old = stale()
    for name in old:
        if check:
            print(f"docs/reference/{name} is stale; run: make docs-generate")
        else:
            (REFERENCE / name).write_text(PAGES[name](), encoding="utf-8")
            print(f"docs/reference/{name} is written anew")
    return int(check and bool(old))


if __name__ == "__main__":
    sys.exit(main("--check" in sys.argv[1:]))
