"""What the author of a verifier, who had the specification alone, found to pass; the rest is in tests/vectors."""

from __future__ import annotations

import io
import json
import zipfile
from pathlib import Path

import pytest

from mailwatch.evidence.verify import Trust, verify
from mailwatch.evidence.verify.entries import LedgerScan, scan
from mailwatch.ledger.canonical_json import canonical, digest
from mailwatch.ledger.merkle import CompactRange
from tests.helpers.vector_forms import Form, written
from tests.make_vectors import FOLDER

YEARS_MS = 30 * 365 * 86_400_000


def files_of(name: str) -> dict[str, bytes]:
    with zipfile.ZipFile(FOLDER / name) as opened:
        return {one: opened.read(one) for one in opened.namelist()}


def refused(raw: bytes, folder: Path) -> list[str]:
    path = folder / "bundle.zip"
    path.write_bytes(raw)
    return [claim.detail for claim in verify(path, Trust()) if not claim.valid]


def test_bytes_behind_the_end_of_packed_data_are_refused(tmp_path: Path) -> None:
    fine = files_of("outage.zip")
    assert refused(written(fine, Form(deflated=True)), tmp_path) == []
    assert (
        "bytes behind the end of its packed data"
        in refused(written(fine, Form(deflated=True, tail=b"hidden")), tmp_path)[0]
    )


def test_packed_data_that_is_cut_is_refused(tmp_path: Path) -> None:
    out = io.BytesIO(written(files_of("outage.zip"), Form(deflated=True)))
    raw = bytearray(out.getvalue())
    raw[30 + len("entries.jsonl")] = 0  # No longer the last block: data ends before the stream does.
    assert any("cannot be read" in detail for detail in refused(bytes(raw), tmp_path))


def test_a_wrong_crc_is_refused(tmp_path: Path) -> None:
    raw = written(files_of("outage.zip"), Form(crc_off=1))
    assert any("CRC-32" in detail for detail in refused(raw, tmp_path))


def scanned(event: str, milliseconds: int, pause: int) -> LedgerScan:
    """The scan of the vector whose clock is set, with another event in that place, after a pause."""
    lines = []
    for line in files_of("stepped.zip")["entries.jsonl"].splitlines():
        entry = json.loads(line)
        if entry["header"]["kind"] == "clock":
            entry["payload"] |= {"event": event, "milliseconds": milliseconds}
            entry["header"]["clock"] += pause
            entry["header"]["payload"] = digest(canonical(entry["payload"]))
        lines.append(canonical(entry).encode() + b"\n")
    return scan(lines, CompactRange(0, []), {}, (), lambda *_: None)


@pytest.mark.parametrize(
    ("event", "milliseconds", "pause", "most"),
    [
        ("suspend", YEARS_MS, 0, 180_000),
        ("suspend", 3_600_000, 3_600_000, 3_600_000),
        ("suspend", 5000, 0, 5000),
        ("step", -YEARS_MS, 0, YEARS_MS),
    ],
)
def test_no_sleep_is_longer_than_the_clock_that_advances_in_it(
    event: str, milliseconds: int, pause: int, most: int
) -> None:
    """A made-up sleep of 30 years would otherwise let the entries have any time between two tokens."""
    found = scanned(event, milliseconds, pause).clock_disturbance
    assert found == most if most == abs(milliseconds) else found <= most
