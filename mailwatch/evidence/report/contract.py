"""The contract, the provider's promise and its reading in words, from the `claim` of outage.json."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

from mailwatch.evidence.report.formatting import texts
from mailwatch.i18n import Formatter


def contract_section(statement: dict[str, Any], writing: Formatter) -> dict[str, Any] | None:
    """Return the data of the section; None when the owner claims nothing."""
    claim = statement.get("claim")
    if claim is None:
        return None
    w = texts(writing.language).section("claim")
    section: dict[str, Any] = {
        "intro": w["intro"],
        "contract": contract_rows(claim["stated_by_owner"], writing),
        "name": "",
    }
    if "rule" not in claim:
        return section
    rule, reading = claim["rule"], claim["reading"]
    lines, windows = [w["alone"].format(zone=reading["zone"])], reading["windows"]
    if "target" not in rule:
        lines, windows = [w["no_promise"]], []
    elif not reading["covered"]:
        lines.insert(0, w["not_covered"].format(kind=statement["outage"]["kind"].upper()))
    else:
        lines += [w["presumed"]] if rule["verified"] else [w["presumed"], w["no_conclusion"]]
    return section | {
        "name": rule["name"],
        "verified": rule["verified"],
        "label": rule_label(rule, writing),
        "rule": promise_rows(rule, writing),
        "lines": lines,
        "head": window_head(writing),
        "windows": [_in_report(one, reading["zone"], rule, writing) for one in windows],
    }


def owner_questions(statement: dict[str, Any], writing: Formatter) -> list[list[str]]:
    """Return what the owner is asked, each with what the config already says, or an empty text."""
    w, owner = texts(writing.language), statement.get("claim", {}).get("stated_by_owner", {})
    holder = owner.get("holder", {})
    named = ", ".join(holder[key] for key in ("name", "tax_code", "address", "email", "pec") if key in holder)
    plan = [f"{key}: {value}" for key, value in contract_rows(owner, writing) if key != w.section("claim")["name"]]
    sent = ["; ".join(filter(None, one)) for one in notification_rows(owner, writing)]
    answers = (
        ("holder", named),
        ("provider_legal", ""),
        ("contract", "; ".join(plan)),
        ("harm", ""),
        ("notified", " / ".join(sent)),
    )
    return [[w[key], text] for key, text in answers]


def contract_rows(owner: dict[str, Any], writing: Formatter) -> list[list[str]]:
    """Return what the owner says of the contract, as rows."""
    w = texts(writing.language).section("claim")
    rows = []
    if holder := owner.get("holder"):
        known = [holder[key] for key in ("name", "tax_code", "address", "email", "pec") if key in holder]
        rows.append([w["name"], ", ".join(known)])
    rows += [[w[key], owner[key]] for key in ("plan", "contract_number") if key in owner]
    if "fee" in owner:
        rows.append([w["fee"], fee_text(owner["fee"], writing)])
    if "since" in owner:
        rows.append([w["since"], writing.format_date(owner["since"])])
    return rows


def fee_text(given: dict[str, str], writing: Formatter) -> str:
    """Write a fee."""
    w = texts(writing.language).section("claim")
    if float(given["amount"]) == 0:
        return w["free"]
    return w[given["period"]].format(amount=_money(given["amount"], writing), currency=given["currency"])


def notification_rows(owner: dict[str, Any], writing: Formatter) -> list[list[str]]:
    """Return the log of notifications: date, means and recipient, reference, answer."""
    return [
        [writing.format_date(one["date"]), _means(one), one.get("reference", ""), one.get("answer", "")]
        for one in owner.get("notified", [])
    ]


def _means(one: dict[str, Any]) -> str:
    return f"{one['means']} ({one['to']})" if "to" in one else str(one["means"])


def rule_label(rule: dict[str, Any], writing: Formatter) -> str:
    """Say whether the rule is verified."""
    w = texts(writing.language).section("claim")
    return w["verified" if rule["verified"] else "unverified"].format(date=writing.format_date(rule["seen_on"]))


def promise_rows(rule: dict[str, Any], writing: Formatter) -> list[list[str]]:
    """Return what a rule says, as rows."""
    w, lang = texts(writing.language).section("claim"), writing.language
    rows = [[w["source"], rule["source_url"]]]
    if "definition" in rule:
        rows.append([w["definition"], rule["definition"][lang]])
    if "target" in rule:
        rows.append([w["target"], w[f"target_{rule['window']}"].format(percent=writing.number(rule["target"]))])
    if "single_event_percent" in rule:
        rows.append([w["single"], w["single_text"].format(percent=writing.number(rule["single_event_percent"]))])
    excluded = [w["minimum"].format(n=rule["minimum_minutes"])] if "minimum_minutes" in rule else []
    excluded += [rule["exclusions"][lang]] if "exclusions" in rule else []
    rows += [[w["exclusions"], "; ".join(excluded)]] if excluded else []
    remedy = [rule["remedy"][lang]] if "remedy" in rule else []
    for tier in rule.get("tiers", []):
        below = w["tier_below"].format(percent=writing.number(tier["below"]))
        remedy.append(f"{below}: {credit_text(tier, writing)}")
    rows += [[w["remedy"], "; ".join(remedy)]] if remedy else []
    rows += [[w[word], rule[key][lang]] for key, word in (("send_to", "how"), ("note", "note")) if key in rule]
    return rows


def credit_text(tier: dict[str, Any], writing: Formatter) -> str:
    """Write what a tier gives; with the money where it is known."""
    w = texts(writing.language).section("claim")
    if "days" in tier:
        return w["tier_days"].format(n=tier["days"])
    if "percent" not in tier:
        return w["tier_unknown"]
    text = w["tier_percent"].format(percent=writing.number(tier["percent"]))
    return f"{text} = {_money(tier['amount'], writing)} {tier['currency']}" if "amount" in tier else text


def window_title(window: dict[str, Any], zone: str, writing: Formatter) -> str:
    """Write the first and the last day of a window."""
    first, end = (
        datetime.fromisoformat(window[key]).astimezone(UTC).astimezone(ZoneInfo(zone)).date()
        for key in ("from", "to")
    )
    last: date = end - timedelta(days=1)
    w = texts(writing.language).section("claim")
    return w["from_to"].format(a=writing.format_date(first.isoformat()), b=writing.format_date(last.isoformat()))


def window_result(window: dict[str, Any], writing: Formatter, *, alone: bool = True) -> list[str]:
    """Say what a window amounts to under the rule, by one outage `alone` or by all on record."""
    w, counted, lines = texts(writing.language).section("claim"), window.get("counted"), []
    if counted:
        lines.append(w[f"{'broken' if alone else 'together'}_{counted['broken']}"])
        for how, tier in counted["tier"].items():
            if tier is not None and (how == "surely" or tier != counted["tier"]["surely"]):
                lines.append(w[f"credit_{how}"].format(credit=credit_text(tier, writing)))
        if event := counted.get("single_event"):
            limit = writing.format_duration(round(event["limit"] * 1000), up=True, exact=True)
            lines.append(w[f"single_{event['exceeded']}"].format(limit=limit))
    return lines


def deadline_lines(window: dict[str, Any], rule: dict[str, Any], writing: Formatter) -> list[str]:
    """Say until when to claim: to the owner, not to the provider."""
    if "deadline" not in window:
        return []
    w = texts(writing.language).section("claim")
    text = w["deadline"].format(date=writing.format_date(window["deadline"]))
    return [text if rule["verified"] else f"{text.removesuffix('.')} ({w['unverified_short']})."]


def _in_report(given: dict[str, Any], zone: str, rule: dict[str, Any], writing: Formatter) -> dict[str, Any]:
    """A window as the report shows it: nothing follows from a rule that is not verified."""
    section = window_section(given, zone, writing)
    verdicts = section["lines"] if rule["verified"] else []
    return section | {"lines": verdicts + deadline_lines(given, rule, writing)}


def window_section(given: dict[str, Any], zone: str, writing: Formatter, *, alone: bool = True) -> dict[str, Any]:
    """Return a window's title, its table under `window_head`, and what it amounts to by one outage `alone`, or
    all.
    """
    section = {"title": window_title(given, zone, writing), "table": _table(given, writing)}
    return section | {"lines": window_result(given, writing, alone=alone)}


def window_head(writing: Formatter) -> list[str]:
    """Return the heads of a window's table."""
    w = texts(writing.language).section("claim")
    return [w["way"], w["down"], w["available"]]


def _table(window: dict[str, Any], writing: Formatter) -> list[list[str]]:
    w, unknown = texts(writing.language).section("claim"), texts(writing.language)["no_estimate"]
    rows = []
    for way in ("raw", "counted"):
        if way not in window:
            continue
        down, available = window[way]["down"], window[way]["available"]
        most = (
            unknown
            if down["max"] is None
            else writing.format_duration(round(down["max"] * 1000), up=True, exact=True)
        )
        least = unknown if available["at_least"] is None else f"{writing.number(available['at_least'])} %"
        rows.append(
            [
                w[way],
                f"{writing.format_duration(round(down['min'] * 1000), exact=True)} – {most}",
                f"{least} – {writing.number(available['at_most'])} %",
            ]
        )
    return rows


def _money(amount: str, writing: Formatter) -> str:
    return writing.number(f"{float(amount):.2f}")
