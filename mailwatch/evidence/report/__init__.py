"""report.pdf: the report on an outage for a judge to read, as PDF/A-3b with outage.json attached.

Its date is that of the last checkpoint, so that the same case gives the same bytes.
"""

from __future__ import annotations

from zoneinfo import ZoneInfo

from mailwatch.evidence.outage_case import OutageEvidence
from mailwatch.evidence.report.facts import NodeFacts, ReportFacts, TokenFacts, collect_facts
from mailwatch.evidence.report.outage import outage_page
from mailwatch.evidence.report.typesetting import typeset
from mailwatch.store import Reader
from mailwatch.store.queries import anchor_of


def render_outage_report(
    reader: Reader, evidence: OutageEvidence, statement: bytes, place: str, language: str, zone: ZoneInfo
) -> bytes:
    """Return the PDF. `statement`: outage.json as in the bundle."""
    facts = collect_report_facts(reader, evidence)
    return typeset("report.typ", outage_page(evidence, facts, statement, place, language, zone), statement)


def collect_report_facts(reader: Reader, evidence: OutageEvidence) -> ReportFacts:
    """Return the facts of the range, with the ledger's entries about the program and the tokens near it."""
    reference = anchor_of(reader, evidence.record)
    facts = collect_facts(evidence.range.entries(reader), evidence.record, reference)
    for entry in reader.entries(kinds=["node"], to_index=evidence.range.start.size, descending=True, limit=1):
        facts.node_before = NodeFacts.of(entry)
    for token in evidence.range.tokens:
        for entry in reader.entries(from_index=token.entry, to_index=token.entry + 1):
            facts.tokens[token.entry] = TokenFacts.of(entry)
    return facts
