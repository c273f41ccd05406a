"""The contract, the provider's promise and the result in words, from the owner's claim."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from zoneinfo import ZoneInfo

from mailwatch.analysis.sla import Rule
from mailwatch.config.schema_claims import ClaimSection, FeeSection, HolderSection, NotifiedSection
from mailwatch.evidence.claims.evaluate import RULE_ZONE, Credit, WindowReading, WindowVerdict
from mailwatch.evidence.claims.owner_statement import OwnerClaim
from mailwatch.evidence.report.formatting import Rows, operator_text, texts
from mailwatch.i18n import Formatter, Texts
from mailwatch.times import Window


@dataclass(frozen=True, slots=True)
class WindowSection:
    """A calendar window: its table under `window_head`, and its result."""

    title: str
    table: Rows
    lines: list[str]


@dataclass(frozen=True, slots=True)
class ContractSection:
    """The section of the report. Without a rule, `name` and the fields after it are empty."""

    intro: str
    contract: Rows
    name: str = ""
    verified: bool = False
    label: str = ""
    rule: Rows = field(default_factory=list)
    lines: list[str] = field(default_factory=list)
    head: list[str] = field(default_factory=list)
    windows: list[WindowSection] = field(default_factory=list)


def contract_section(claim: OwnerClaim | None, kind: str, writing: Formatter) -> ContractSection | None:
    """Return the section for an outage of a channel of `kind`; None without a claim."""
    if claim is None:
        return None
    w, rule, reading = _texts(writing), claim.rule, claim.reading
    contract = contract_rows(claim.owner, writing)
    if rule is None or reading is None:
        return ContractSection(w["intro"], contract)
    lines, windows = [w["alone"].format(zone=RULE_ZONE)], reading.windows
    if rule.target is None:
        lines, windows = [w["no_promise"]], ()
    elif not reading.covered:
        lines.insert(0, w["not_covered"].format(kind=kind.upper()))
    else:
        lines += [w["presumed"]] if rule.verified else [w["presumed"], w["no_conclusion"]]
    return ContractSection(
        intro=w["intro"],
        contract=contract,
        name=rule.name,
        verified=rule.verified,
        label=rule_label(rule, writing),
        rule=promise_rows(rule, writing),
        lines=lines,
        head=window_head(writing),
        windows=[_in_report(one, rule, writing) for one in windows],
    )


def holder_rows(claim: OwnerClaim | None, writing: Formatter) -> Rows:
    """Return the row of the first page on the contract holder; [] if the owner names none."""
    holder = claim.owner.holder if claim is not None and claim.owner is not None else None
    if holder is None:
        return []
    w = texts(writing.language)
    named = w["holder_tax_code"].format(name=holder.name, code=holder.tax_code) if holder.tax_code else holder.name
    return [[_texts(writing)["name"], named]]


def promise_verdict(claim: OwnerClaim | None, writing: Formatter) -> str:
    """Return what the first page says of the provider's promise: the worst result by a verified rule."""
    w = texts(writing.language)
    rule, reading = (None, None) if claim is None else (claim.rule, claim.reading)
    if rule is None or reading is None or rule.target is None:
        return w["promise_none"]
    if not rule.verified:
        return w["promise_unverified"]
    if not reading.covered:
        return w["promise_uncovered"]
    found = {one.counted.broken for one in reading.windows if one.counted is not None}
    worst = next((broken for broken in ("surely", "possibly", "no") if broken in found), None)
    return w["promise_none"] if worst is None else _texts(writing)[f"broken_{worst}"]


def owner_questions(claim: OwnerClaim | None, provider: str | None, writing: Formatter) -> Rows:
    """Return the questions to the owner, each with the config's answer or "".

    What the section on the contract has is not repeated.
    """
    w, owner = texts(writing.language), None if claim is None else claim.owner
    described = bool(contract_rows(owner, writing))
    sent = ["; ".join(filter(None, one)) for one in notification_rows(owner, writing)]
    answers = (
        ("holder", _holder_text(owner.holder) if owner is not None and owner.holder is not None else ""),
        ("provider_legal", operator_text(provider, writing)),
        *([] if described else [("contract", "")]),
        ("harm", ""),
        ("notified", " / ".join(sent)),
    )
    return [[w[key], text] for key, text in answers]


def contract_rows(owner: ClaimSection | None, writing: Formatter) -> Rows:
    """Return the owner's statement about the contract, as rows; who holds it is stated elsewhere."""
    if owner is None:
        return []
    w, rows = _texts(writing), []
    if owner.plan is not None:
        rows.append([w["plan"], owner.plan])
    if owner.contract_number is not None:
        rows.append([w["contract_number"], owner.contract_number])
    if owner.fee is not None:
        rows.append([w["fee"], fee_text(owner.fee, writing)])
    if owner.since is not None:
        rows.append([w["since"], writing.format_date(owner.since)])
    return rows


def _holder_text(holder: HolderSection) -> str:
    known = (holder.name, holder.tax_code, holder.address, holder.email, holder.pec)
    return ", ".join(one for one in known if one is not None)


def fee_text(fee: FeeSection, writing: Formatter) -> str:
    """Return a fee as text."""
    w = _texts(writing)
    if fee.amount == 0:
        return w["free"]
    return w[fee.period].format(amount=_money(fee.amount, writing), currency=fee.currency)


def notification_rows(owner: ClaimSection | None, writing: Formatter) -> Rows:
    """Return the log of notifications: date, means and recipient, reference, answer."""
    return [
        [writing.format_date(one.date), _means(one), one.reference or "", one.answer or ""]
        for one in (() if owner is None else owner.notified)
    ]


def _means(sent: NotifiedSection) -> str:
    return sent.means if sent.to is None else f"{sent.means} ({sent.to})"


def rule_label(rule: Rule, writing: Formatter) -> str:
    """Return the label for a verified or unverified rule."""
    key = "verified" if rule.verified else "unverified"
    return _texts(writing)[key].format(date=writing.format_date(date.fromisoformat(rule.seen_on)))


def promise_rows(rule: Rule, writing: Formatter) -> Rows:
    """Return the terms of a rule, as rows."""
    w, lang = _texts(writing), writing.language
    rows = [[w["source"], rule.source_url]]
    if rule.definition:
        rows.append([w["definition"], rule.definition[lang]])
    if rule.target is not None:
        rows.append([w["target"], w[f"target_{rule.window}"].format(percent=writing.number(str(rule.target)))])
    if rule.single_event_percent is not None:
        percent = writing.number(str(rule.single_event_percent))
        rows.append([w["single"], w["single_text"].format(percent=percent)])
    excluded = [w["minimum"].format(n=rule.minimum_minutes)] if rule.minimum_minutes else []
    excluded += [rule.exclusions[lang]] if rule.exclusions else []
    rows += [[w["exclusions"], "; ".join(excluded)]] if excluded else []
    remedy = [rule.remedy[lang]] if rule.remedy else []
    for tier in rule.tiers:
        below = w["tier_below"].format(percent=writing.number(str(tier.below)))
        remedy.append(f"{below}: {credit_text(Credit(tier), writing)}")
    rows += [[w["remedy"], "; ".join(remedy)]] if remedy else []
    rows += [[w["how"], rule.send_to[lang]]] if rule.send_to else []
    rows += [[w["note"], rule.note[lang]]] if rule.note else []
    return rows


def credit_text(credit: Credit, writing: Formatter) -> str:
    """Return a tier's credit as text, with the amount of money if known."""
    w = _texts(writing)
    if credit.tier.days is not None:
        return w["tier_days"].format(n=credit.tier.days)
    if credit.tier.percent is None:
        return w["tier_unknown"]
    text = w["tier_percent"].format(percent=writing.number(str(credit.tier.percent)))
    return text if credit.amount is None else f"{text} = {_money(credit.amount, writing)} {credit.currency}"


def window_title(window: Window, writing: Formatter) -> str:
    """Return the first and the last day of a window as text."""
    first, end = (datetime.fromtimestamp(at / 1000, UTC).astimezone(ZoneInfo(RULE_ZONE)).date() for at in window)
    last = end - timedelta(days=1)
    return _texts(writing)["from_to"].format(a=writing.format_date(first), b=writing.format_date(last))


def window_result(counted: WindowVerdict | None, writing: Formatter, *, alone: bool = True) -> list[str]:
    """Return a window's result under the rule in words, by one outage `alone` or by all on record."""
    if counted is None:
        return []
    w = _texts(writing)
    lines = [w[f"{'broken' if alone else 'together'}_{counted.broken}"]]
    if counted.surely is not None:
        lines.append(w["credit_surely"].format(credit=credit_text(counted.surely, writing)))
    if counted.possibly is not None and counted.possibly != counted.surely:
        lines.append(w["credit_possibly"].format(credit=credit_text(counted.possibly, writing)))
    if (event := counted.single_event) is not None:
        limit = writing.format_duration(event.limit, up=True, exact=True)
        lines.append(w[f"single_{event.exceeded}"].format(limit=limit))
    return lines


def deadline_lines(window: WindowReading, rule: Rule, writing: Formatter) -> list[str]:
    """Return the deadline for the claim in words, addressed to the owner."""
    if window.deadline is None:
        return []
    w = _texts(writing)
    text = w["deadline"].format(date=writing.format_date(window.deadline))
    return [text if rule.verified else f"{text.removesuffix('.')} ({w['unverified_short']})."]


def _in_report(window: WindowReading, rule: Rule, writing: Formatter) -> WindowSection:
    """Return a window for the report, without a result if the rule is not verified."""
    verdicts = window_result(window.counted, writing) if rule.verified else []
    lines = verdicts + deadline_lines(window, rule, writing)
    return WindowSection(window_title(window.window, writing), _table(window, writing), lines)


def window_section(window: WindowReading, writing: Formatter, *, alone: bool = True) -> WindowSection:
    """Return a window with its result by one outage `alone`, or by all."""
    lines = window_result(window.counted, writing, alone=alone)
    return WindowSection(window_title(window.window, writing), _table(window, writing), lines)


def window_head(writing: Formatter) -> list[str]:
    """Return the column heads of a window's table."""
    w = _texts(writing)
    return [w["way"], w["down"], w["available"]]


def _table(window: WindowReading, writing: Formatter) -> Rows:
    w, unknown, rows = _texts(writing), texts(writing.language)["no_estimate"], []
    counted = None if window.counted is None else window.counted.time
    for way, time in (("raw", window.raw), ("counted", counted)):
        if time is None:
            continue
        least = writing.format_duration(time.surely, exact=True)
        most = unknown if time.possibly is None else writing.format_duration(time.possibly, up=True, exact=True)
        at_least = unknown if time.at_least is None else f"{writing.number(time.at_least)} %"
        rows.append([w[way], f"{least} – {most}", f"{at_least} – {writing.number(time.at_most)} %"])
    return rows


def _texts(writing: Formatter) -> Texts:
    return texts(writing.language).section("claim")


def _money(amount: Decimal, writing: Formatter) -> str:
    return writing.number(f"{amount:.2f}")
