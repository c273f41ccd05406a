"""The letter of complaint to the provider (reclamo, or diffida e messa in mora), as PDF and as a document to edit.

content     the text of the letter, as blocks
blocks      paragraphs, tables and blanks
docx        the blocks as .docx; letter.typ lays them out as PDF
"""

from __future__ import annotations

from dataclasses import asdict
from importlib import resources
from zoneinfo import ZoneInfo

from mailwatch.analysis.outage_record import OutageRecord
from mailwatch.analysis.sla import Rule
from mailwatch.config.catalogue.sla import rule
from mailwatch.config.schema_claims import ClaimSection
from mailwatch.evidence.claims.evaluate import RULE_ZONE, sla_outage, sla_windows
from mailwatch.evidence.claims.owner_statement import owner_claim
from mailwatch.evidence.ledger_range import EvidenceError
from mailwatch.evidence.letter.blocks import Block, Table
from mailwatch.evidence.letter.content import (
    MIN_DISSOLVE_DAYS,
    Letter,
    LetterCase,
    OpenBlank,
    compose_letter,
    open_blanks,
    weaknesses,
)
from mailwatch.evidence.letter.docx import docx
from mailwatch.evidence.outage_case import OutageEvidence
from mailwatch.evidence.report import read_report_facts
from mailwatch.evidence.report.formatting import letter_texts, outage_formatter
from mailwatch.evidence.report.outage import outage_page
from mailwatch.evidence.report.typesetting import MAX_UNBROKEN_CHARS, compile_pdf, printable
from mailwatch.store import Reader, queries

MAX_NARROW_CHARS = 26
_BY_THE_MONTH = Rule(key="", name="", source_url="", seen_on="", verified=False)


def prepare_letter(
    reader: Reader,
    evidence: OutageEvidence,
    section: ClaimSection | None,
    place: str,
    language: str,
    zone: ZoneInfo,
    formal: bool,
    dissolve: int | None = None,
) -> Letter:
    """Collect the content of the letter. `section`: the claim in the config for this outage, if any.

    `dissolve`: days of a notice to perform. Raises EvidenceError if there is nothing left to perform.
    """
    if dissolve is not None and evidence.record.state != "open":
        raise EvidenceError("a notice to perform is for an outage that lasts; after its end, use --formal")
    facts = read_report_facts(reader, evidence)
    page = outage_page(evidence, facts, b"", place, language, zone)
    case = _letter_case(reader, evidence.record, section, language, zone, formal)
    weak = weaknesses(facts, case.outage, page.least_ms, case.writing)
    return Letter(case.outage, case.claim, case.others, case.writing, formal, page, weak, dissolve=dissolve)


def _letter_case(
    reader: Reader,
    outage: OutageRecord,
    section: ClaimSection | None,
    language: str,
    zone: ZoneInfo,
    formal: bool,
) -> LetterCase:
    claimed = owner_claim(section, outage) if section else None
    others = _others(reader, outage, rule(section.sla) if section and section.sla else None)
    return LetterCase(outage, claimed, others, outage_formatter(outage, language, zone), formal)


def letter_pdf(letter: Letter, blocks: list[Block]) -> bytes:
    """Return the letter as PDF. Its date is that of the record, so that the same case gives the same bytes."""
    w = letter_texts(letter.writing.language)
    folder = resources.files("mailwatch.evidence.letter")
    data = {
        "lang": letter.writing.language,
        "title": w[f"title{letter.style}"],
        "date": asdict(letter.page.head.date),
        "blocks": [_plain(block) for block in blocks],
    }
    return compile_pdf((folder / "letter.typ").read_bytes(), str(folder), data)


def _plain(block: Block) -> dict[str, object]:
    """Return a block as plain data for the template."""
    plain: dict[str, object] = asdict(block)
    if isinstance(block, Table):
        alone = len(block.rows) == 1 and not any(isinstance(run, str) for cell in block.rows[0] for run in cell)
        # A table with a head has narrow columns.
        fit: dict[str, object] = printable(plain, MAX_NARROW_CHARS if block.head else MAX_UNBROKEN_CHARS)
        return fit | {"kind": "table", "signature": alone}
    return plain | {"kind": "paragraph"}


def _others(reader: Reader, outage: OutageRecord, given: Rule | None) -> list[OutageRecord]:
    """Return the other outages of the same target in the same windows, oldest first."""
    case = sla_outage(outage)
    found = sla_windows(given or _BY_THE_MONTH, case.possible or case.sure, ZoneInfo(RULE_ZONE))
    others = []
    for record in queries.outage_records(reader, wanted=lambda head: head.target == outage.target):
        if record.id == outage.id:
            continue
        if record.first_bad < found[-1][1] and record.last_bad >= found[0][0]:
            others.append(record)
    return sorted(others, key=lambda one: one.first_bad)


__all__ = [
    "MIN_DISSOLVE_DAYS",
    "Letter",
    "OpenBlank",
    "compose_letter",
    "docx",
    "letter_pdf",
    "open_blanks",
    "prepare_letter",
]
