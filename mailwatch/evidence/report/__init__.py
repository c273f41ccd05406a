"""report.pdf: the report on an outage for a judge to read, as PDF/A-3b with outage.json attached.

Its date is that of the last checkpoint, so that the same case gives the same bytes.
"""

from __future__ import annotations

from collections.abc import Iterable

from mailwatch.analysis.elapsed import Moment
from mailwatch.evidence.outage_case import OutageEvidence
from mailwatch.evidence.rendering import PROGRAM_KEYS, OutsideFacts, Rendering, outside_facts, outside_of
from mailwatch.evidence.report.facts import NodeFacts, ReportFacts, TokenFacts, collect_facts
from mailwatch.evidence.report.outage import outage_page
from mailwatch.evidence.report.typesetting import typeset
from mailwatch.store import Entry, Reader
from mailwatch.store.queries import anchor_of


def render_outage_report(evidence: OutageEvidence, facts: ReportFacts, statement: bytes) -> bytes:
    """Return the PDF, as the key `report` of the statement says. `statement`: outage.json as in the bundle."""
    how = Rendering.of(evidence.statement["report"])
    page = outage_page(evidence, facts, statement, how.place, how.language, how.zone)
    return typeset("report.typ", page, statement)


def read_report_facts(reader: Reader, evidence: OutageEvidence) -> ReportFacts:
    """Return the facts of a report from the ledger."""
    entries, reference = evidence.range.entries(reader), anchor_of(reader, evidence.record)
    stated = evidence.statement.get("report")
    outside = outside_facts(reader, evidence.range) if stated is None else outside_of(stated)
    return collect_report_facts(entries, evidence, reference, outside)


def collect_report_facts(
    entries: Iterable[Entry], evidence: OutageEvidence, reference: Moment | None, outside: OutsideFacts
) -> ReportFacts:
    """Return the facts of a report from the entries of its range, and from what is stated of those outside."""
    carried = {index for index, _ in evidence.range.carried}
    announced = evidence.range.announcement
    facts = collect_facts(entries, evidence.record, reference, carried, announced)
    if "program" in outside:
        facts.node_before = NodeFacts(*(outside["program"].get(key, "") for key in PROGRAM_KEYS))
    for token in evidence.range.tokens:
        if token.entry not in facts.tokens:
            # Its entry lies behind the range, after the checkpoint that the token is over.
            facts.tokens[token.entry] = TokenFacts.of_reply(
                token.reply, token.digest in outside.get("doubted", ())
            )
    return facts
