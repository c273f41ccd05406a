"""The contract, the provider's promise and its reading in words, from the `claim` of outage.json."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

from mailwatch.evidence.report.formatting import Writing, words


def terms(statement: dict[str, Any], writing: Writing) -> dict[str, Any] | None:
    """Return the data of the section; None when the owner claims nothing."""
    claim = statement.get("claim")
    if claim is None:
        return None
    w = words(writing.language)["claim"]
    told: dict[str, Any] = {
        "intro": w["intro"],
        "contract": contract(claim["stated_by_owner"], writing),
        "name": "",
    }
    if "rule" not in claim:
        return told
    rule, reading = claim["rule"], claim["reading"]
    lines, shown = [w["alone"].format(zone=reading["zone"])], reading["windows"]
    if "target" not in rule:
        lines, shown = [w["no_promise"]], []
    elif not reading["covered"]:
        lines.insert(0, w["not_covered"].format(kind=statement["outage"]["kind"].upper()))
    else:
        lines += [w["presumed"]] if rule["verified"] else [w["presumed"], w["no_conclusion"]]
    return told | {
        "name": rule["name"],
        "verified": rule["verified"],
        "label": label(rule, writing),
        "rule": promise(rule, writing),
        "lines": lines,
        "head": head(writing),
        "windows": [_in_report(one, reading["zone"], rule, writing) for one in shown],
    }


def claimant(statement: dict[str, Any], writing: Writing) -> list[list[str]]:
    """Return what the owner is asked, each with what the config already says, or an empty text."""
    w, said = words(writing.language), statement.get("claim", {}).get("stated_by_owner", {})
    holder = said.get("holder", {})
    named = ", ".join(holder[key] for key in ("name", "tax_code", "address", "email", "pec") if key in holder)
    plan = [f"{key}: {value}" for key, value in contract(said, writing) if key != w["claim"]["name"]]
    sent = ["; ".join(filter(None, one)) for one in notified(said, writing)]
    answers = (
        ("holder", named),
        ("provider_legal", ""),
        ("contract", "; ".join(plan)),
        ("harm", ""),
        ("notified", " / ".join(sent)),
    )
    return [[w[key], text] for key, text in answers]


def contract(said: dict[str, Any], writing: Writing) -> list[list[str]]:
    """Return what the owner says of the contract, as rows."""
    w = words(writing.language)["claim"]
    rows = []
    if holder := said.get("holder"):
        known = [holder[key] for key in ("name", "tax_code", "address", "email", "pec") if key in holder]
        rows.append([w["name"], ", ".join(known)])
    rows += [[w[key], said[key]] for key in ("plan", "contract_number") if key in said]
    if "fee" in said:
        rows.append([w["fee"], fee(said["fee"], writing)])
    if "since" in said:
        rows.append([w["since"], writing.day(said["since"])])
    return rows


def fee(given: dict[str, str], writing: Writing) -> str:
    """Write a fee."""
    w = words(writing.language)["claim"]
    if float(given["amount"]) == 0:
        return str(w["free"])
    return str(w[given["period"]].format(amount=_money(given["amount"], writing), currency=given["currency"]))


def notified(said: dict[str, Any], writing: Writing) -> list[list[str]]:
    """Return the log of notifications: date, means and to whom, reference, answer."""
    return [
        [writing.day(one["date"]), _means(one), one.get("reference", ""), one.get("answer", "")]
        for one in said.get("notified", [])
    ]


def _means(one: dict[str, Any]) -> str:
    return f"{one['means']} ({one['to']})" if "to" in one else str(one["means"])


def label(rule: dict[str, Any], writing: Writing) -> str:
    """Say whether the rule is verified."""
    w = words(writing.language)["claim"]
    return str(w["verified" if rule["verified"] else "unverified"].format(date=writing.day(rule["seen_on"])))


def promise(rule: dict[str, Any], writing: Writing) -> list[list[str]]:
    """Return what a rule says, as rows."""
    w, lang = words(writing.language)["claim"], writing.language
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
        remedy.append(f"{below}: {credit(tier, writing)}")
    rows += [[w["remedy"], "; ".join(remedy)]] if remedy else []
    rows += [[w[word], rule[key][lang]] for key, word in (("send_to", "how"), ("note", "note")) if key in rule]
    return rows


def credit(tier: dict[str, Any], writing: Writing) -> str:
    """Write what a tier gives; with the money where it is known."""
    w = words(writing.language)["claim"]
    if "days" in tier:
        return str(w["tier_days"].format(n=tier["days"]))
    if "percent" not in tier:
        return str(w["tier_unknown"])
    text = str(w["tier_percent"].format(percent=writing.number(tier["percent"])))
    return f"{text} = {_money(tier['amount'], writing)} {tier['currency']}" if "amount" in tier else text


def title(window: dict[str, Any], zone: str, writing: Writing) -> str:
    """Write the first and the last day of a window."""
    first, end = (
        datetime.fromisoformat(window[key]).astimezone(UTC).astimezone(ZoneInfo(zone)).date()
        for key in ("from", "to")
    )
    last: date = end - timedelta(days=1)
    w = words(writing.language)["claim"]
    return str(w["from_to"].format(a=writing.day(first.isoformat()), b=writing.day(last.isoformat())))


def verdict(window: dict[str, Any], writing: Writing, *, alone: bool = True) -> list[str]:
    """Say what a window amounts to under the rule, by one outage `alone` or by all on record."""
    w, counted, lines = words(writing.language)["claim"], window.get("counted"), []
    if counted:
        lines.append(w[f"{'broken' if alone else 'together'}_{counted['broken']}"])
        for how, tier in counted["tier"].items():
            if tier is not None and (how == "surely" or tier != counted["tier"]["surely"]):
                lines.append(w[f"credit_{how}"].format(credit=credit(tier, writing)))
        if event := counted.get("single_event"):
            limit = writing.span(round(event["limit"] * 1000), up=True, exact=True)
            lines.append(w[f"single_{event['exceeded']}"].format(limit=limit))
    return lines


def deadline(window: dict[str, Any], rule: dict[str, Any], writing: Writing) -> list[str]:
    """Say until when to claim: to the owner, not to the provider."""
    if "deadline" not in window:
        return []
    w = words(writing.language)["claim"]
    text = str(w["deadline"].format(date=writing.day(window["deadline"])))
    return [text if rule["verified"] else f"{text.removesuffix('.')} ({w['unverified_short']})."]


def _in_report(given: dict[str, Any], zone: str, rule: dict[str, Any], writing: Writing) -> dict[str, Any]:
    """A window as the report tells it: nothing follows from a rule that nobody verified."""
    told = window(given, zone, writing)
    verdicts = told["lines"] if rule["verified"] else []
    return told | {"lines": verdicts + deadline(given, rule, writing)}


def window(given: dict[str, Any], zone: str, writing: Writing, *, alone: bool = True) -> dict[str, Any]:
    """Return a window's title, its table under `head`, and what it amounts to by one outage `alone`, or all."""
    told = {"title": title(given, zone, writing), "table": _table(given, writing)}
    return told | {"lines": verdict(given, writing, alone=alone)}


def head(writing: Writing) -> list[str]:
    """Return the heads of a window's table."""
    w = words(writing.language)["claim"]
    return [w["way"], w["down"], w["available"]]


def _table(window: dict[str, Any], writing: Writing) -> list[list[str]]:
    w, unknown = words(writing.language)["claim"], words(writing.language)["no_estimate"]
    rows = []
    for way in ("raw", "counted"):
        if way not in window:
            continue
        down, available = window[way]["down"], window[way]["available"]
        most = unknown if down["max"] is None else writing.span(round(down["max"] * 1000), up=True, exact=True)
        least = unknown if available["at_least"] is None else f"{writing.number(available['at_least'])} %"
        rows.append(
            [
                w[way],
                f"{writing.span(round(down['min'] * 1000), exact=True)} – {most}",
                f"{least} – {writing.number(available['at_most'])} %",
            ]
        )
    return rows


def _money(amount: str, writing: Writing) -> str:
    return writing.number(f"{float(amount):.2f}")
