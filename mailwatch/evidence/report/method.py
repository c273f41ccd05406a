"""The method of measurement in words, and the limits of the report."""

from __future__ import annotations

from collections.abc import Iterable

from mailwatch.analysis.outage_record import OutageRecord
from mailwatch.evidence.report.facts import ReportFacts
from mailwatch.evidence.report.formatting import texts
from mailwatch.i18n import Formatter
from mailwatch.model import Kind, Rules

ALWAYS_LIMITS = ("harm", "key", "line", "outside")


def method_paragraphs(outage: OutageRecord, rules: Rules, facts: ReportFacts, writing: Formatter) -> list[str]:
    """Return the paragraphs on the method. `rules`: those in the statement."""
    w = texts(writing.language).section("method_text")
    proven = outage.proven_afterwards
    lines = [*probe_steps([outage.kind], facts.with_login or bool(facts.used), writing)]
    # A round trip sends a message, so it has no faster rechecks.
    lines.append(interval_text(() if outage.kind is Kind.ROUNDTRIP else rules.recheck, writing))
    if proven:
        lines += [w["proven"], w["bounds_proven"]]
    else:
        lines += [w["open"].format(open=rules.open_after, close=rules.close_after), w["bounds"]]
    lines += [w["estimate"], *([w["blind"]] if outage.unobserved else [])]
    if not proven:
        lines.append(w["guarded" if facts.guarded else "unguarded"])
    return lines


def probe_steps(kinds: Iterable[str], with_login: bool, writing: Formatter) -> list[str]:
    """Return what a probe of each of these kinds does."""
    w = texts(writing.language).section("steps")
    sentences = [
        w[kind if with_login or f"{kind}_bare" not in w else f"{kind}_bare"] for kind in sorted(set(kinds))
    ]
    return [*sentences, w["each"]]


def period_method(
    kinds: Iterable[str], with_login: bool, rules: Rules, writing: Formatter, guarded: bool
) -> list[str]:
    """Return the paragraphs on the method for all outages of a period."""
    w = texts(writing.language).section("method_text")
    opening = w["open"].format(open=rules.open_after, close=rules.close_after)
    sentences = (
        interval_text(rules.recheck, writing),
        opening,
        w["bounds"],
        w["guarded" if guarded else "unguarded"],
    )
    return [*probe_steps(kinds, with_login, writing), *sentences]


def interval_text(recheck: Iterable[float], writing: Formatter) -> str:
    """Return the text on the time between probes. `recheck`: seconds between rechecks."""
    w = texts(writing.language).section("method_text")
    again = [writing.number(f"{seconds:g} s") for seconds in recheck]
    return w["rhythm"].format(again=", ".join(again), last=again[-1]) if again else w["steady"]


def outage_limits(outage: OutageRecord, writing: Formatter) -> list[str]:
    """Return what cannot be concluded from the outage."""
    w = texts(writing.language).section("limits_text")
    gap = writing.format_duration(outage.largest_gap, up=True)
    given = {"gap": gap, "place": outage.vantage_point, "target": outage.target}
    left = () if outage.kind is Kind.ROUNDTRIP else ("mail",)
    order = ("cause", "others", "shorter", *left, *ALWAYS_LIMITS)
    return [w[key].format(**given) for key in order]


def period_limits(writing: Formatter) -> list[str]:
    """Return what cannot be concluded from a period."""
    w = texts(writing.language).section("limits_text")
    return [w[key] for key in ("cause", *ALWAYS_LIMITS)]
