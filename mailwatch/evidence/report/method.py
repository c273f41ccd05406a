"""The method of measurement in words, and the limits of the report."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence

from mailwatch.analysis.outage_record import OutageRecord
from mailwatch.evidence.report.facts import ReportFacts
from mailwatch.evidence.report.formatting import texts
from mailwatch.evidence.warnings import CaveatFacts
from mailwatch.i18n import Formatter
from mailwatch.model import Kind, Rules

MAX_RULES = 20
"""Most changes of the rules that are listed."""
ALWAYS_LIMITS = ("harm", "key", "ledgers", "server", "line", "outside")


def method_paragraphs(
    outage: OutageRecord, rules: Rules, facts: ReportFacts, writing: Formatter, before: Rules | None = None
) -> list[str]:
    """Return the paragraphs on the method.

    `rules`: those in the statement. `before`: those at the beginning of the range, if others.
    """
    w = texts(writing.language).section("method_text")
    proven = outage.proven_afterwards
    lines = [*probe_steps([outage.kind], facts.with_login or bool(facts.used), writing)]
    # A round trip sends a message, so it has no faster rechecks.
    lines.append(interval_text(() if outage.kind is Kind.ROUNDTRIP else rules.recheck, writing))
    if proven:
        lines += [w["proven"], w["bounds_proven"]]
    else:
        lines.append(w["open"].format(open=rules.open_after, close=rules.close_after))
        if before is not None:
            lines.append(w["rules_changed"].format(open=before.open_after, close=before.close_after))
        lines.append(w["bounds"])
    lines += [w["estimate"], *([w["blind"]] if outage.unobserved else [])]
    if not proven:
        lines.append(w[_line_key(bool(facts.guarded), facts.doubts)])
    return lines


def _line_key(guarded: bool, doubts: CaveatFacts) -> str:
    """Return the key of the text on how the observer's own line was checked."""
    return "guarded" if guarded else "guarded_local" if doubts.only_local else "unguarded"


def probe_steps(kinds: Iterable[str], with_login: bool, writing: Formatter) -> list[str]:
    """Return what a probe of each of these kinds does."""
    w = texts(writing.language).section("steps")
    sentences = [
        w[kind if with_login or f"{kind}_bare" not in w else f"{kind}_bare"] for kind in sorted(set(kinds))
    ]
    return [*sentences, w["each"]]


def period_method(
    kinds: Iterable[str],
    with_login: bool,
    rules: Sequence[Rules],
    writing: Formatter,
    guarded: bool,
    doubts: CaveatFacts,
) -> list[str]:
    """Return the paragraphs on the method for all outages of a period. `rules`: all in force, in order."""
    first, *later = rules
    w = texts(writing.language).section("method_text")
    opening = w["open"].format(open=first.open_after, close=first.close_after)
    pairs = [(one.open_after, one.close_after) for one in (first, *later)]
    changes = [pair for before, pair in itertools.pairwise(pairs) if pair != before]
    if changes:
        known = w["rules_pair"]
        shown = "; ".join(known.format(open=opens, close=closes) for opens, closes in changes[:MAX_RULES])
        opening += " " + w["rules_later"].format(rules=shown + ("; …" if len(changes) > MAX_RULES else ""))
    sentences = (
        interval_text(first.recheck, writing),
        opening,
        w["bounds"],
        w[_line_key(guarded, doubts)],
    )
    return [*probe_steps(kinds, with_login, writing), *sentences]


def interval_text(recheck: Iterable[float], writing: Formatter) -> str:
    """Return the text on the time between probes. `recheck`: seconds between rechecks."""
    w = texts(writing.language).section("method_text")
    again = [writing.number(f"{seconds:g} s") for seconds in recheck]
    return w["rhythm"].format(again=", ".join(again), last=again[-1]) if again else w["steady"]


def outage_limits(outage: OutageRecord, facts: ReportFacts, writing: Formatter) -> list[str]:
    """Return what cannot be concluded from the outage."""
    w = texts(writing.language).section("limits_text")
    gap = writing.format_duration(outage.largest_gap, up=True)
    others = facts.not_shown
    given = {"gap": gap, "place": outage.vantage_point, "n": str(sum(others.values())), "m": str(len(others))}
    left = () if outage.kind is Kind.ROUNDTRIP else ("mail",)
    order = ("cause", "others", "shorter", *left, *ALWAYS_LIMITS)
    limits = {key: w[key].format(**given) for key in order}
    limits["others"] += " " + w["shown_not" if others else "only"].format(**given)
    return list(limits.values())


def period_limits(writing: Formatter) -> list[str]:
    """Return what cannot be concluded from a period."""
    w = texts(writing.language).section("limits_text")
    return [w[key] for key in ("cause", *ALWAYS_LIMITS)]
