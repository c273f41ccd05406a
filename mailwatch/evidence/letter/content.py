"""The letter of complaint: measured facts, the owner's statement, and blanks for facts that only the owner knows.

It cites a provider's promise only if the rule is verified, covers the channel, and was possibly broken. It states
no other law and no other amount.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from mailwatch.analysis.outage_record import OutageRecord
from mailwatch.analysis.sla import Rule
from mailwatch.config.catalogue.operators import operator
from mailwatch.config.schema_claims import ClaimSection, HolderSection
from mailwatch.evidence.claims.evaluate import SlaReading, evaluate, sla_outage
from mailwatch.evidence.claims.owner_statement import OwnerClaim
from mailwatch.evidence.letter.blocks import Blank, Block, Line, Paragraph, Run, fill_template, table
from mailwatch.evidence.report import contract
from mailwatch.evidence.report.facts import ReportFacts
from mailwatch.evidence.report.formatting import (
    company_text,
    letter_texts,
    mailbox_of,
    provider_name,
    sources_text,
    texts,
)
from mailwatch.evidence.report.outage import OutagePage
from mailwatch.i18n import Formatter, Texts
from mailwatch.times import Millis

MAX_REPLIES = 3
MIN_DISSOLVE_DAYS = 15
"""Art. 1454 c.c.: the time to perform is not under fifteen days, unless the parties agreed otherwise."""
MIN_SENSIBLE_MS = 600_000
"""Ten minutes: where a promise has a minimum (Google, Zoho), it is this."""


@dataclass(frozen=True, slots=True)
class LetterCase:
    """What a letter is about. `others`: outages in the same windows of the rule.

    `dissolve`: the days after which the contract is dissolved (art. 1454 c.c.); None for the other letters.
    """

    outage: OutageRecord
    claim: OwnerClaim | None
    others: list[OutageRecord]
    writing: Formatter
    formal: bool
    dissolve: int | None = field(default=None, kw_only=True)

    @property
    def style(self) -> str:
        """The suffix of the texts that the kinds of letter have of their own."""
        return "_dissolve" if self.dissolve else "_formal" if self.formal else ""

    @property
    def owner(self) -> ClaimSection | None:
        """The owner's statement about the contract."""
        return None if self.claim is None else self.claim.owner

    @property
    def holder(self) -> HolderSection | None:
        """The contract holder, if the owner states one."""
        return None if self.owner is None else self.owner.holder


@dataclass(frozen=True, slots=True)
class Letter(LetterCase):
    """The content of a letter. `page`: what the report prints. `warnings`: what makes the complaint weak."""

    page: OutagePage
    warnings: list[str] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class OpenBlank:
    """A blank that the owner still has to fill in. `heading`: the part of the letter, "" for its first lines."""

    heading: str
    label: str


def compose_letter(letter: Letter) -> list[Block]:
    """Return the blocks of the letter."""
    w = letter_texts(letter.writing.language)
    parts = (
        _head(letter, w), _contract(letter, w), _facts(letter, w), _state(letter, w), _measured(letter, w),
        _method(letter, w), _promise(letter, w), _earlier(letter, w), _requests(letter, w), _end(letter, w),
        _small_print(letter, w),
    )  # fmt: skip
    return [block for part in parts for block in part]


def open_blanks(case: LetterCase) -> list[OpenBlank]:
    """Return the blanks of the letter in their order, each label once, without the facts that were measured.

    All that has blanks is composed from the case alone, so that no entries of the ledger are read.
    """
    w = letter_texts(case.writing.language)
    found: dict[str, OpenBlank] = {}
    heading = ""
    for part in (_head, _contract, _outage_heading, _state, _promise, _earlier, _requests, _end):
        for block in part(case, w):
            if isinstance(block, Paragraph) and block.style == "heading":
                heading = "".join(run for run in block.line if isinstance(run, str))
            for label in _labels(block):
                found.setdefault(label, OpenBlank(heading, label))
    return list(found.values())


def weaknesses(facts: ReportFacts, outage: OutageRecord, least: Millis, writing: Formatter) -> list[str]:
    """Return what a provider would answer first to a complaint about this outage, for the owner's eyes."""
    w = letter_texts(writing.language)
    found = []
    if least < MIN_SENSIBLE_MS:
        found.append(w["weak_short"].format(least=writing.format_duration(least)))
    if not facts.guarded and not outage.proven_afterwards:
        found.append(w["weak_line"])
    if facts.degraded:
        found.append(w["weak_clock"])
    return found


def _labels(block: Block) -> Iterator[str]:
    lines = [block.line] if isinstance(block, Paragraph) else [cell for row in block.rows for cell in row]
    for line in lines:
        yield from (run.label for run in line if isinstance(run, Blank))


def combined_reading(letter: LetterCase) -> SlaReading | None:
    """Return the result of all outages on record in this outage's windows; None without a rule."""
    if letter.claim is None or letter.claim.rule is None:
        return None
    outages = [sla_outage(one) for one in (letter.outage, *letter.others)]
    return evaluate(letter.claim.rule, letter.outage.kind, outages, letter.claim.fee)


def _head(letter: LetterCase, w: Texts) -> Iterator[Block]:
    holder = letter.holder
    name, tax_code, address = (None,) * 3 if holder is None else (holder.name, holder.tax_code, holder.address)
    for key, known in (("name", name), ("tax_code", tax_code), ("address", address)):
        yield Paragraph((known or Blank(w[key]),), "tight")
    yield Paragraph(((holder and (holder.pec or holder.email)) or Blank(w["contact"]),))
    yield Paragraph((w["to"],), "to")
    for line in _addressee(letter, w):
        yield Paragraph((line,), "right")
    yield Paragraph(fill_template(w["by"], means=Blank(w["means"])), "by")
    subject = w[f"subject{letter.style}"]
    yield Paragraph((subject.format(service=_service(letter, w, "of"), when=_days(letter, w)),), "title")
    yield Paragraph(fill_template(w["undersigned"], name=name or Blank(w["name"])))


def _addressee(letter: LetterCase, w: Texts) -> Iterator[Run]:
    """Yield the company; what was not seen in the company's own terms is a blank that proposes it."""
    company, writing = operator(letter.outage.provider), letter.writing
    if company is None:
        yield provider_name(letter.outage.provider)
        yield Blank(w["company"])
        yield Blank(w["company_pec"])
        return
    head = [fact for fact in (company.legal_name, company.registered_office) if fact is not None]
    if len(head) == 2 and all(fact.checked for fact in head):
        yield from (fact.value for fact in head)
    else:
        yield provider_name(letter.outage.provider)
        known = company_text(company, texts(writing.language))
        yield Blank(w["company_unchecked"].format(company=known, source=sources_text(company, writing)))
    pec = company.pec
    yield pec.value if pec is not None and pec.checked else Blank(w["company_pec"])


def _contract(letter: LetterCase, w: Texts) -> Iterator[Block]:
    yield Paragraph((w["contract"],), "heading")
    report = texts(letter.writing.language)
    known = report.section("claim")
    rows_by_label = dict(contract.contract_rows(letter.owner, letter.writing))
    rows: list[list[Run]] = [[report["account"], mailbox_of(letter.outage.target) or letter.outage.target]]
    for key in ("plan", "contract_number", "fee", "since"):
        rows.append([known[key], rows_by_label.get(known[key]) or Blank(w[key])])
    yield table(rows)


def _outage_heading(_letter: LetterCase, w: Texts) -> Iterator[Block]:
    yield Paragraph((w["outage"],), "heading")


def _facts(letter: Letter, w: Texts) -> Iterator[Block]:
    page, writing = letter.page, letter.writing
    yield from _outage_heading(letter, w)
    given = {"service": _service(letter, w, "the"), "least": writing.format_duration(page.least_ms)}
    if letter.outage.provider:
        given["provider"] = provider_name(letter.outage.provider)
    yield Paragraph((w["outage_text" if letter.outage.provider else "outage_text_alone"].format(**given),))
    yield Paragraph((page.sentence,))
    if page.reserve:
        yield Paragraph((page.reserve,))


def _state(letter: LetterCase, w: Texts) -> Iterator[Block]:
    if letter.outage.state != "closed":
        # The letter makes no statement beyond the end of the record.
        yield Paragraph((f"{w['open']}: ", Blank(w["open_blank"])))


def _measured(letter: Letter, w: Texts) -> Iterator[Block]:
    page, writing = letter.page, letter.writing
    causes = "; ".join(f"{name} ({count})" for name, count in page.causes)
    # Only the report explains the estimate.
    rows = [*page.bounds, [w["causes"], causes]]
    if page.replies:
        rows.append([w["replies"], " / ".join(page.replies[:MAX_REPLIES])])
    yield table(rows)
    for line in page.sure:
        yield Paragraph((line,))
    if letter.others:
        yield Paragraph((w["others"],), "bold")
        head = (w["number"], w["from"], w["lasted"], w["most"])
        yield table([_other(one, writing) for one in letter.others], head)


def _method(letter: Letter, w: Texts) -> Iterator[Block]:
    yield Paragraph((w["method"],), "heading")
    yield Paragraph((w["method_text"],))
    # That no third party attests the time of writing is in the report; the letter need not plead it.
    if letter.page.outside != texts(letter.writing.language)["outside_none"]:
        yield Paragraph((letter.page.outside,))
    yield table(letter.page.ours)


def _promise(letter: LetterCase, w: Texts) -> Iterator[Block]:
    yield Paragraph((w["promise"],), "heading")
    rule, found = None if letter.claim is None else letter.claim.rule, combined_reading(letter)
    if rule is None or found is None or rule.target is None:
        yield Paragraph((Blank(w["promise_blank"]),))
    elif not rule.verified:
        yield Paragraph((Blank(w["promise_unverified"].format(name=rule.name)),))
    elif not found.covered:
        yield Paragraph((Blank(w["promise_other"].format(name=rule.name)),))
    elif all(one.counted is None or one.counted.is_kept for one in found.windows):
        yield Paragraph((Blank(w["promise_kept"].format(name=rule.name)),))
    else:
        yield Paragraph((w["promise_text"],), "lead")
        yield from _broken_promise(letter, rule, found)


def _broken_promise(letter: LetterCase, rule: Rule, found: SlaReading) -> Iterator[Block]:
    writing = letter.writing
    name = texts(writing.language).section("claim")["rule"]
    yield table([[name, rule.name], *contract.promise_rows(rule, writing)])
    for window in found.windows:
        if window.counted is not None and not window.counted.is_kept:
            section = contract.window_section(window, writing, alone=not letter.others)
            yield Paragraph((section.title,), "bold")
            yield table(section.table, contract.window_head(writing))
            for line in section.lines:
                yield Paragraph((line,))


def _earlier(letter: LetterCase, w: Texts) -> Iterator[Block]:
    yield Paragraph((w["earlier"],), "heading")
    sent = contract.notification_rows(letter.owner, letter.writing)
    if sent:
        yield Paragraph((w["earlier_text"],), "lead")
        yield table(
            [[cell or "–" for cell in one] for one in sent], [w[k] for k in ("date", "how", "reference", "answer")]
        )
    else:
        yield Paragraph((Blank(w["earlier_blank"]),))
    yield Paragraph((w["harm"],), "heading")
    yield Paragraph(fill_template(w["harm_text"], blank=Blank(w["harm_blank"])))


def _requests(letter: LetterCase, w: Texts) -> Iterator[Block]:
    yield Paragraph((w["requests"],), "heading")
    days = w["days_given"].format(days=letter.dissolve) if letter.dissolve else Blank(w["days"])
    lead = w[f"request{letter.style or '_text'}"]
    yield Paragraph(fill_template(lead, days=days) if letter.style else (lead,), "lead")
    asked: list[Line] = [(w["request_cause"],), (w["request_logs"],)]
    if letter.outage.state == "open" and not letter.dissolve:
        asked.append((w["request_restore"],))
    if letter.owner is not None and letter.owner.fee is not None and letter.owner.fee.amount:
        asked.append((w["request_price"],))
    asked.append(fill_template(w["request_money"], blank=Blank(w["money"])))
    asked.append(fill_template(w["request_answer"], days=days))
    for line in asked:
        yield Paragraph(line, "item")
    if letter.style:
        yield Paragraph((w["formal_end"],))


def _end(letter: LetterCase, w: Texts) -> Iterator[Block]:
    yield Paragraph((w["enclosed"],), "heading")
    yield Paragraph(fill_template(w["enclosed_bundle"], id=letter.outage.id, blank=Blank(w["bundle"])), "last")
    yield Paragraph(fill_template(w["enclosed_other"], blank=Blank(w["other"])), "last")
    name = None if letter.holder is None else letter.holder.name
    yield table([[Blank(w["place_date"]), Blank(w["signature"] + (f" ({name})" if name else ""))]])


def _small_print(letter: Letter, w: Texts) -> Iterator[Block]:
    yield Paragraph((f"{letter.page.head.local_note} {w['advice']}",), "small")


def _service(letter: LetterCase, w: Texts, case: str) -> str:
    """Return the mailbox or service with its access. `case`: "the" or "of", for Italian articles."""
    account = mailbox_of(letter.outage.target)
    key = f"{case}_mailbox" if account is not None else f"{case}_service"
    return w[key].format(account=account or letter.outage.target, access=w[f"access_{letter.outage.kind}"])


def _days(letter: LetterCase, w: Texts) -> str:
    """Return the days of the outage: of its first and its last failed observation."""
    first, last = (letter.writing.local_date(at) for at in (letter.outage.first_bad, letter.outage.last_bad))
    if letter.outage.state != "closed":
        return w["since_day"].format(first=first)
    return w["on_day" if first == last else "on_days"].format(first=first, last=last)


def _other(outage: OutageRecord, writing: Formatter) -> list[str]:
    least, most = outage.durations.least, outage.durations.most
    return [
        outage.id,
        writing.local_and_utc(outage.first_bad, up=True),
        writing.format_duration(least),
        texts(writing.language)["no_estimate"] if most is None else writing.format_duration(most, up=True),
    ]
