"""Rewrite the snapshots: python -m tests.contracts --write. Without it, print which differ."""

from __future__ import annotations

import shutil
import sys
import tempfile
from pathlib import Path

from tests.contracts.snapshots import EXPECTED, difference, made_now, names


def main() -> int:
    """Make the snapshots, and compare or rewrite them; exit 1 where one differs and none is written."""
    with tempfile.TemporaryDirectory() as folder:
        now = Path(folder) / "now"
        made_now(now)
        known = sorted(names(EXPECTED) | names(now))
        differing = {
            name: difference_found
            for name in known
            if (difference_found := difference(EXPECTED / name, now / name))
        }
        for name, difference_found in differing.items():
            sys.stdout.write(f"{name}: {difference_found}\n")
        if sys.argv[1:] == ["--write"]:
            shutil.rmtree(EXPECTED, ignore_errors=True)
            shutil.copytree(now, EXPECTED)
            return 0
        return 1 if differing else 0


if __name__ == "__main__":
    raise SystemExit(main())
