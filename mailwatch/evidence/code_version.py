"""Which code makes the pages of a report: the version, and a digest of what the pages depend on.

The version alone does not say it: between two releases the words change, and a report made by yesterday's code
would seem forged today. With another digest a different text proves nothing.
"""

from __future__ import annotations

import hashlib
from functools import cache
from importlib import resources
from importlib.resources.abc import Traversable

import mailwatch

PARTS = ("analysis", "evidence", "config/catalogue", "i18n.py", "phrases.py", "phrases.it.yaml")
SUFFIXES = (".py", ".typ", ".yaml", ".md")


def code_version() -> str:
    """Return the version of this MailWatch and the digest of its code, such as "0.3.0+1a2b3c4d"."""
    return f"{mailwatch.__version__}+{code_digest()}"


@cache
def code_digest() -> str:
    """Return the first 8 hex digits of SHA-256 over the files that the pages depend on."""
    found = hashlib.sha256()
    for part in PARTS:
        for name, file in _files(part, resources.files("mailwatch").joinpath(part)):
            found.update(f"{name}\n".encode() + hashlib.sha256(file.read_bytes()).digest())
    return found.hexdigest()[:8]


def _files(name: str, place: Traversable) -> list[tuple[str, Traversable]]:
    if place.is_file():
        return [(name, place)] if name.endswith(SUFFIXES) else []
    inside = sorted(place.iterdir(), key=lambda one: one.name)
    return [pair for one in inside for pair in _files(f"{name}/{one.name}", one)]
