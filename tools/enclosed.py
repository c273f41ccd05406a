"""Lists the scripts and instructions that bundles enclose, in standalone/releases.tsv: python -m tools.enclosed

`mailwatch verify` recognizes those of every version. Run it after a change of one of them: that replaces the rows
of what was never released. Run it with --release for a release: that gives those rows the version.
"""

from __future__ import annotations

import sys
from pathlib import Path

from mailwatch import __version__
from mailwatch.evidence.verify.enclosed import INSTRUCTIONS, SCRIPT, UNRELEASED, digest_of

STANDALONE = Path(__file__).parent.parent / "mailwatch" / "evidence" / "standalone"
TABLE = STANDALONE / "releases.tsv"


def current() -> dict[tuple[str, str], str]:
    """Return the files as they are now, in the form of `shipped`."""
    names = (SCRIPT, *INSTRUCTIONS)
    return {(name, digest_of(name, (STANDALONE / name).read_bytes(), "{ledger}")): UNRELEASED for name in names}


def table(rows: str, version: str) -> str:
    """Return the table with the current files; the rows that are not released yet get `version`."""
    kept = [row for row in rows.splitlines() if not row.startswith(UNRELEASED)]
    listed = {tuple(row.split("\t")[1:]) for row in kept}
    kept += [f"{version}\t{name}\t{digest}" for name, digest in current() if (name, digest) not in listed]
    return "".join(f"{row}\n" for row in kept)


if __name__ == "__main__":
    made = table(TABLE.read_text(encoding="utf-8"), __version__ if "--release" in sys.argv else UNRELEASED)
    TABLE.write_text(made, encoding="utf-8")
