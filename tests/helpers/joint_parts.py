"""Bundles of several vantage points, to be merged."""

from __future__ import annotations

import contextlib
import zipfile
from collections.abc import Callable
from pathlib import Path

from mailwatch.evidence.period_case import ReportTarget, find_period_evidence, write_period_bundle
from mailwatch.store import Reader, Tokens
from mailwatch.store.keys import load_keys as load_keys
from mailwatch.times import Millis
from tests.helpers import ledger_factory as ledgers
from tests.helpers.ledger_factory import HOUR

START = 1_767_225_600_000
END = START + 12 * HOUR


def part_of(
    folder: Path,
    pattern: Callable[[Millis], str],
    vantage: str,
    *,
    provider: str = "libero",
    start: Millis = START,
    end: Millis = END,
) -> Path:
    """Write a ledger of twelve hours unless it is there already, and a bundle of a part of it, without a PDF."""
    if not (folder / "keys").exists():
        patterns = {"a@example.org": pattern}
        ledgers.write(folder, patterns, START, END, provider=provider, vantage=vantage, every=30).close()
    keys, watched = load_keys(folder), [ReportTarget("a@example.org", provider, "imap")]
    path = folder.with_suffix(f".{start - START}.zip")
    with contextlib.closing(Reader.open(folder)) as reader:
        case = find_period_evidence(reader, Tokens(folder), keys, (start, end), watched, vantage)
        with path.open("wb") as out:
            write_period_bundle(out, reader, keys, case, "en", [])
    return path


def down(begin: float, end: float) -> Callable[[Millis], str]:
    """Down in the hours from `begin` to `end`."""
    return lambda at: "-" if begin * HOUR <= at - START < end * HOUR else "+"


def without_an_observation(path: Path, made: Path) -> Path:
    """The bundle without one of its observations."""
    with zipfile.ZipFile(path) as opened, zipfile.ZipFile(made, "w", zipfile.ZIP_DEFLATED) as out:
        for name in opened.namelist():
            content = opened.read(name)
            if name == "entries.jsonl":
                lines = content.splitlines(keepends=True)
                content = b"".join(lines[:100] + lines[101:])
            out.writestr(name, content)
    return made
