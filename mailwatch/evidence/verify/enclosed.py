"""Recognizes the script and the instructions that a bundle encloses, by the digests of all that MailWatch shipped.

The operator can enclose any script, which a judge's expert then runs. `standalone/releases.tsv` lists version,
file and SHA-256; instructions are listed as shipped: with `{ledger}` for the ledger's name, about outage.json.
"""

from __future__ import annotations

import hashlib
from importlib import resources

from mailwatch.evidence.verify.archive import Archive

SCRIPT = "verify.py"
INSTRUCTIONS = ("VERIFY.md", "VERIFICA.md")
UNRELEASED = "unreleased"


class Note(str):
    """A finding that is information only: its claim holds, and a reader should know of it."""

    __slots__ = ()


def check_enclosed(archive: Archive, origin: str) -> str:
    """Return which release's script and instructions are enclosed, as a Note if one is of none. Raises
    VerificationError.
    """
    known = shipped()
    found, foreign = [], []
    for name in (SCRIPT, *INSTRUCTIONS):
        if name in archive.names:
            version = known.get((name, digest_of(name, archive.read(name), origin)))
            found.append(f"{name} ({version})")
            foreign += [] if version else [name]
    if foreign:
        return Note(
            f"{' and '.join(foreign)} is not what MailWatch ships, up to this version: do not run or follow it; "
            "take it from the project"
        )
    return f"as MailWatch ships them: {', '.join(found)}" if found else "the bundle encloses no script"


def digest_of(name: str, content: bytes, origin: str) -> str:
    """Return the SHA-256 by which a file is listed. `origin`: the ledger that instructions are about."""
    if name in INSTRUCTIONS:
        content = content.replace(origin.encode(), b"{ledger}").replace(b"period.json", b"outage.json")
    return hashlib.sha256(content).hexdigest()


def shipped() -> dict[tuple[str, str], str]:
    """Return the first version that shipped each file, by name and SHA-256."""
    text = (resources.files("mailwatch.evidence") / "standalone" / "releases.tsv").read_text(encoding="utf-8")
    rows = [line.split("\t") for line in text.splitlines()]
    return {(name, digest): version for version, name, digest in rows}
