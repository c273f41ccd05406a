"""report.pdf: the outage for a judge to read, as PDF/A-3b with outage.json attached; by Typst.

Typst's own fonts only, and the date of the last checkpoint: the same case gives the same bytes.
"""

from __future__ import annotations

import json
from importlib import resources
from zoneinfo import ZoneInfo

import typst

from mailwatch.evidence.case import Case
from mailwatch.evidence.report.layout import layout
from mailwatch.evidence.report.sightings import sight
from mailwatch.store import Reader


def report(reader: Reader, case: Case, statement: bytes, place: str, language: str, zone: ZoneInfo) -> bytes:
    """Return the PDF. `statement` is outage.json as it stands in the bundle."""
    seen = sight(case.found.entries(reader), case.payload["target"], case.payload)
    data = layout(case, seen, statement, place, language, zone)
    template = resources.files("mailwatch.evidence.report") / "report.typ"
    made: bytes = typst.compile(
        template.read_bytes(),
        format="pdf",
        pdf_standards=["a-3b"],
        ignore_system_fonts=True,
        sys_inputs={"data": json.dumps(data, ensure_ascii=False), "statement": statement.decode()},
    )
    # A signature is appended, and needs the line to be ended.
    return made + b"\n"
