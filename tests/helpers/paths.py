"""Where things lie in the repository."""

from __future__ import annotations

import os
from pathlib import Path

ROOT = Path(__file__).parents[2]
"""The repository."""
TESTS = ROOT / "tests"
TESTDATA = TESTS / "testdata"


def _memory() -> Path | None:
    """Return a folder in memory with room for a whole run, None where there is none, as in most containers."""
    place = Path("/dev/shm")
    if not place.is_dir() or not os.access(place, os.W_OK):
        return None
    room = os.statvfs(place)
    return place if room.f_bavail * room.f_frsize > 1 << 31 else None


MEMORY = _memory()
"""Where a commit waits for no disk. What is killed loses nothing there either; what a power cut leaves is for the
store's own tests."""
