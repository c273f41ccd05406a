"""Prints the release notes of a version: its section of CHANGELOG.md.

python -m supply.notes VERSION

Needs nothing but Python. Exits with 1 where the version is not the one that is being released, or has no section.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

from mailwatch import __version__

CHANGELOG = Path(__file__).parent.parent / "CHANGELOG.md"


def section(changelog: str, version: str) -> str:
    """Return what stands under the heading "## VERSION - DATE". Raises ValueError where there is nothing."""
    heading = rf"^## {re.escape(version)} - \d{{4}}-\d\d-\d\d\n(.*?)(?=^## |\Z)"
    found = re.search(heading, changelog, re.MULTILINE | re.DOTALL)
    if found is None or not found[1].strip():
        raise ValueError(f'CHANGELOG.md has no section "## {version} - YYYY-MM-DD" with changes in it')
    return found[1].strip() + "\n"


def main() -> None:
    """Print the notes of the version named on the command line."""
    if len(sys.argv) != 2:
        sys.exit("usage: python -m supply.notes VERSION")
    version = sys.argv[1]
    if version != __version__:
        sys.exit(f"the tag says {version}, and mailwatch/__init__.py says {__version__}")
    try:
        sys.stdout.write(section(CHANGELOG.read_text(encoding="utf-8"), version))
    except ValueError as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main()
