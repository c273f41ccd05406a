"""report.pdf: the outage for a judge to read, as PDF/A-3b with outage.json attached; by Typst.

Typst's own fonts only, and the date of the last checkpoint: the same case gives the same bytes.
"""

from __future__ import annotations

import json
from importlib import resources
from typing import Any
from zoneinfo import ZoneInfo

import typst

from mailwatch.evidence.outage_case import OutageEvidence
from mailwatch.evidence.report.facts import ReportFacts, collect_facts
from mailwatch.evidence.report.fonts import printable
from mailwatch.evidence.report.outage import page_data
from mailwatch.store import Reader
from mailwatch.store.queries import anchor_of


def render_outage_report(
    reader: Reader, evidence: OutageEvidence, statement: bytes, place: str, language: str, zone: ZoneInfo
) -> bytes:
    """Return the PDF. `statement` is outage.json as it stands in the bundle."""
    facts = collect_report_facts(reader, evidence)
    data = page_data(evidence, facts, statement, place, language, zone)
    return typeset("report.typ", data, statement)


def collect_report_facts(reader: Reader, evidence: OutageEvidence) -> ReportFacts:
    """Return what the range shows, with what the ledger says near it of the program and of the tokens."""
    reference = anchor_of(reader, evidence.payload)
    facts = collect_facts(evidence.range.entries(reader), evidence.payload["target"], evidence.payload, reference)
    for entry in reader.entries(kinds=["node"], to_index=evidence.range.start.size, descending=True, limit=1):
        facts.node_before = entry.payload
    for token in evidence.range.tokens:
        for entry in reader.entries(from_index=token.entry, to_index=token.entry + 1):
            facts.tokens[token.entry] = entry.payload
    return facts


def typeset(template: str, data: dict[str, Any], statement: bytes) -> bytes:
    """Return the PDF of a template. One that begins with `//+ FILE` has that file of this folder before it."""
    folder = resources.files("mailwatch.evidence.report")
    text = (folder / template).read_text(encoding="utf-8")
    if text.startswith("//+ "):
        text = (folder / text.split()[1]).read_text(encoding="utf-8") + text
    made: bytes = typst.compile(  # type: ignore[call-overload]  # Bytes, below a root that is a path.
        text.encode(),
        root=str(folder),  # Not the current folder, which may be gone.
        format="pdf",
        pdf_standards=["a-3b"],
        ignore_system_fonts=True,
        sys_inputs={"data": json.dumps(printable(data), ensure_ascii=False), "statement": statement.decode()},
    )
    # A signature is appended, and needs the line to be ended.
    return made + b"\n"
