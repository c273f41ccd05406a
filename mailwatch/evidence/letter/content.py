"""The letter of complaint: measured facts, the owner's statement, and blanks for facts that only the owner knows.

It cites a provider's promise only if the rule is verified, covers the channel, and was possibly broken. It states
no other law and no other amount.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from mailwatch.analysis.outage_record import OutageRecord
from mailwatch.analysis.public_json import outage_json
from mailwatch.analysis.sla import Rule
from mailwatch.config.schema_claims import ClaimSection, HolderSection
from mailwatch.evidence.claims.evaluate import SlaReading, evaluate, sla_outage
from mailwatch.evidence.claims.owner_statement import OwnerClaim
from mailwatch.evidence.letter.blocks import Blank, Block, Line, Paragraph, Run, fill_template, table
from mailwatch.evidence.report import contract
from mailwatch.evidence.report.formatting import letter_texts, provider_name, texts
from mailwatch.evidence.report.outage import OutagePage
from mailwatch.i18n import Formatter, Texts

MAX_REPLIES = 3


@dataclass(frozen=True, slots=True)
class Letter:
    """The content of a letter. `page`: what the report prints. `others`: in the same windows of the rule."""

    outage: OutageRecord
    claim: OwnerClaim | None
    page: OutagePage
    others: list[OutageRecord]
    writing: Formatter
    formal: bool

    @property
    def owner(self) -> ClaimSection | None:
        """The owner's statement about the contract."""
        return None if self.claim is None else self.claim.owner

    @property
    def holder(self) -> HolderSection | None:
        """The contract holder, if the owner states one."""
        return None if self.owner is None else self.owner.holder


def compose_letter(letter: Letter) -> list[Block]:
    """Return the blocks of the letter."""
    w = letter_texts(letter.writing.language)
    parts = (_head, _contract, _facts, _method, _promise, _earlier, _requests, _end)
    return [block for part in parts for block in part(letter, w)]


def combined_reading(letter: Letter) -> SlaReading | None:
    """Return the result of all outages on record in this outage's windows; None without a rule."""
    if letter.claim is None or letter.claim.rule is None:
        return None
    outages = [sla_outage(outage_json(one)) for one in (letter.outage, *letter.others)]
    return evaluate(letter.claim.rule, letter.outage.kind, outages, letter.claim.fee)


def _head(letter: Letter, w: Texts) -> Iterator[Block]:
    holder = letter.holder
    name, tax_code, address = (None,) * 3 if holder is None else (holder.name, holder.tax_code, holder.address)
    for key, known in (("name", name), ("tax_code", tax_code), ("address", address)):
        yield Paragraph((known or Blank(w[key]),), "tight")
    yield Paragraph(((holder and (holder.pec or holder.email)) or Blank(w["contact"]),))
    yield Paragraph((w["to"],), "to")
    yield Paragraph((provider_name(letter.outage.provider),), "right")
    yield Paragraph((Blank(w["provider_address"]),), "right")
    yield Paragraph(fill_template(w["by"], means=Blank(w["means"])), "by")
    subject = w["subject_formal" if letter.formal else "subject"]
    yield Paragraph((subject.format(**_names(letter)),), "title")
    yield Paragraph(fill_template(w["undersigned"], name=name or Blank(w["name"])))


def _contract(letter: Letter, w: Texts) -> Iterator[Block]:
    yield Paragraph((w["contract"],), "heading")
    report = texts(letter.writing.language)
    known = report.section("claim")
    rows_by_label = dict(contract.contract_rows(letter.owner, letter.writing))
    rows: list[list[Run]] = [[report["account"], letter.outage.target]]
    for key in ("plan", "contract_number", "fee", "since"):
        rows.append([known[key], rows_by_label.get(known[key]) or Blank(w[key])])
    yield table(rows)


def _facts(letter: Letter, w: Texts) -> Iterator[Block]:
    page, writing = letter.page, letter.writing
    yield Paragraph((w["outage"],), "heading")
    channel = texts(writing.language).section("channels")[letter.outage.kind]
    yield Paragraph((w["outage_text"].format(**_names(letter) | {"channel": channel}),))
    yield Paragraph((page.sentence,))
    if page.reserve:
        yield Paragraph((page.reserve,))
    if letter.outage.state != "closed":
        # The letter makes no statement beyond the end of the record.
        yield Paragraph((f"{w['open']}: ", Blank(w["open_blank"])))
    causes = "; ".join(f"{name} ({count})" for name, count in page.causes)
    # Account, channel and provider are named above; only the report explains the estimate.
    rows = [*page.facts[3:-1], [w["causes"], causes]]
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
    yield Paragraph((letter.page.outside,))
    yield table(letter.page.ours)


def _promise(letter: Letter, w: Texts) -> Iterator[Block]:
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


def _broken_promise(letter: Letter, rule: Rule, found: SlaReading) -> Iterator[Block]:
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


def _earlier(letter: Letter, w: Texts) -> Iterator[Block]:
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


def _requests(letter: Letter, w: Texts) -> Iterator[Block]:
    yield Paragraph((w["requests"],), "heading")
    days = Blank(w["days"])
    yield Paragraph(
        fill_template(w["request_formal"], days=days) if letter.formal else (w["request_text"],), "lead"
    )
    asked: list[Line] = [(w["request_cause"],)]
    if letter.outage.state == "open":
        asked.append((w["request_restore"],))
    asked.append(fill_template(w["request_money"], blank=Blank(w["money"])))
    asked.append(fill_template(w["request_answer"], days=days))
    for line in asked:
        yield Paragraph(line, "item")
    if letter.formal:
        yield Paragraph((w["formal_end"],))


def _end(letter: Letter, w: Texts) -> Iterator[Block]:
    yield Paragraph((w["enclosed"],), "heading")
    yield Paragraph(fill_template(w["enclosed_bundle"], id=letter.outage.id, blank=Blank(w["bundle"])), "last")
    yield Paragraph(fill_template(w["enclosed_other"], blank=Blank(w["other"])), "last")
    name = None if letter.holder is None else letter.holder.name
    yield table([[Blank(w["place_date"]), Blank(w["signature"] + (f" ({name})" if name else ""))]])
    yield Paragraph((f"{letter.page.head.local_note} {w['advice']}",), "small")


def _names(letter: Letter) -> dict[str, str]:
    return {
        "account": letter.outage.target,
        "channel": letter.outage.kind.upper(),
        "provider": provider_name(letter.outage.provider),
        "least": letter.writing.format_duration(letter.page.least_ms),
    }


def _other(outage: OutageRecord, writing: Formatter) -> list[str]:
    least, most = outage.durations.least, outage.durations.most
    return [
        outage.id,
        writing.local_and_utc(outage.first_bad, up=True),
        writing.format_duration(least),
        texts(writing.language)["no_estimate"] if most is None else writing.format_duration(most, up=True),
    ]
