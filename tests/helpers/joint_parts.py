"""Bundles of several vantage points, to be merged."""

from __future__ import annotations

import contextlib
import io
import zipfile
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from mailwatch.evidence.bundle import File, pretty_json
from mailwatch.evidence.joint.bundle import write_joint
from mailwatch.evidence.joint.member import read_member
from mailwatch.evidence.joint.quorum import group_channels, joint_statement, partition_members
from mailwatch.evidence.period_case import ReportTarget, find_period_evidence, write_period_bundle
from mailwatch.evidence.rendering import Rendering
from mailwatch.evidence.verify import Trust
from mailwatch.ledger.checkpoint import origin_of
from mailwatch.model import Observation
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
    recorded_interval: Millis | None = None,
) -> Path:
    """Write a ledger of twelve hours unless it is there already, and a bundle of a part of it, without a PDF."""
    if not (folder / "keys").exists():
        patterns = {"a@example.org": pattern}

        def observe(target: str, mark: str, at: Millis) -> Observation:
            made = ledgers.observation_of(target, mark, at)
            return made if recorded_interval is None else replace(made, interval=recorded_interval)

        ledgers.write(
            folder, patterns, START, END, provider=provider, vantage=vantage, every=30, observe=observe
        ).close()
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


def joined(
    paths: Sequence[Path],
    made: Path,
    *,
    key: Ed25519PrivateKey | None = None,
    witnessed: bool = False,
    enclose: bool = True,
    change: Callable[[dict[str, Any]], None] = lambda _: None,
) -> Path:
    """Merge bundles as `mailwatch merge` does, with the least PDF in place of the report."""
    read = [read_member(path, Trust()) for path in paths]
    members, left_out = partition_members(read)
    assert not left_out, [reason for _, reason in left_out]
    how, merged_by = Rendering("en", ZoneInfo("UTC"), "").as_json(), key and origin_of(key.public_key())
    stated: dict[str, Any] = joint_statement(group_channels(members), members, [], how, merged_by)
    if witnessed:
        stated["witnessed"] = True
    change(stated)
    text, out = pretty_json(stated), io.BytesIO()
    files = [File("joint.json", text), File("report.pdf", least_pdf(text, "joint.json"))]
    write_joint(out, files, list(zip(read, paths, strict=True)), enclose=enclose, key=key)
    made.write_bytes(out.getvalue())
    return made


def least_pdf(attached: bytes, name: str) -> bytes:
    """The least PDF with a file attached to it."""
    objects = [
        b"<< /Type /Catalog /Pages 2 0 R /Names << /EmbeddedFiles << /Names [(%s) 4 0 R] >> >> >>" % name.encode(),
        b"<< /Type /Pages /Kids [3 0 R] /Count 1 >>",
        b"<< /Type /Page /Parent 2 0 R /MediaBox [0 0 595 842] >>",
        b"<< /Type /Filespec /F (%s) /UF (%s) /EF << /F 5 0 R >> >>" % (name.encode(), name.encode()),
        b"<< /Type /EmbeddedFile /Length %d >>\nstream\n%s\nendstream" % (len(attached), attached),
    ]
    made, places = b"%PDF-1.7\n", []
    for number, one in enumerate(objects, 1):
        places.append(len(made))
        made += b"%d 0 obj\n%s\nendobj\n" % (number, one)
    table = b"xref\n0 6\n0000000000 65535 f \n" + b"".join(b"%010d 00000 n \n" % place for place in places)
    return made + table + b"trailer\n<< /Size 6 /Root 1 0 R >>\nstartxref\n%d\n%%%%EOF\n" % len(made)
