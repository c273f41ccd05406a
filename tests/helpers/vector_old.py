"""Vectors of old records: entries with headers of version 1, which have wall times alone."""

from __future__ import annotations

from collections.abc import Iterator

from tests.helpers.paths import TESTDATA
from tests.helpers.vector_cases import Vector

FOLDER = TESTDATA / "old"
KEPT: dict[str, tuple[str, str, str]] = {
    "version-1": ("a-it", "", "headers of version 1, as 0.1.0 wrote them, with tokens"),
    "version-1-login": ("a-proven", "", "headers of version 1, and an outage of the login"),
    "bad-version-1-ahead": (
        "b-ahead",
        "outage",
        "headers of version 1; the wall clock was set ahead in the outage",
    ),
    "bad-version-1-back": ("b-stamped-back", "outage", "the same, set back, and with tokens"),
}
"""Bundles of releases: the file, the claim that must fail, and why."""


def old_vectors() -> Iterator[Vector]:
    """Make the vectors of this module."""
    for name, (file, fails, why) in KEPT.items():
        yield Vector(f"{name}.zip", (FOLDER / f"{file}.zip").read_bytes(), fails, f"{why} (tests/testdata/old)")
