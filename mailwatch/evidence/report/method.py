"""The method in words, as this outage was measured, and what the report cannot show."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from mailwatch.evidence.report.facts import Sightings
from mailwatch.evidence.report.formatting import Writing, words

ALWAYS = ("harm", "key", "line", "outside")


def method(outage: dict[str, Any], rules: dict[str, Any], seen: Sightings, writing: Writing) -> list[str]:
    """Return the paragraphs. `outage` is a payload, `rules` those that the statement names."""
    w = words(writing.language)["method_text"]
    proven = bool(outage.get("proven_afterwards"))
    lines = [*steps([outage["kind"]], seen.with_login or bool(seen.used), writing)]
    # A round trip sends a message: in doubt too, its interval is enough.
    lines.append(rhythm(rules if outage["kind"] != "roundtrip" else {"recheck_ms": []}, writing))
    if proven:
        lines += [w["proven"], w["bounds_proven"]]
    else:
        lines += [w["open"].format(open=rules["open_after"], close=rules["close_after"]), w["bounds"]]
    lines += [w["estimate"], *([w["blind"]] if outage["unobserved_ms"] else [])]
    if not proven:
        lines.append(w["guarded" if seen.guarded else "unguarded"])
    return [str(line) for line in lines]


def steps(kinds: Iterable[str], with_login: bool, writing: Writing) -> list[str]:
    """Say what a look at each of these kinds does."""
    w = words(writing.language)["steps"]
    told = [w[kind if with_login or f"{kind}_bare" not in w else f"{kind}_bare"] for kind in sorted(set(kinds))]
    return [str(line) for line in (*told, w["each"])]


def of_period(
    kinds: Iterable[str], with_login: bool, rules: dict[str, Any], writing: Writing, guarded: bool
) -> list[str]:
    """Return the paragraphs for all outages of a period."""
    w = words(writing.language)["method_text"]
    opening = w["open"].format(open=rules["open_after"], close=rules["close_after"])
    told = (rhythm(rules, writing), opening, w["bounds"], w["guarded" if guarded else "unguarded"])
    return [*steps(kinds, with_login, writing), *map(str, told)]


def rhythm(rules: dict[str, Any], writing: Writing) -> str:
    """Say when the next look comes."""
    w = words(writing.language)["method_text"]
    again = [writing.number(f"{millis / 1000:g} s") for millis in rules["recheck_ms"]]
    return str(w["rhythm"].format(again=", ".join(again), last=again[-1]) if again else w["steady"])


def limits(outage: dict[str, Any], writing: Writing) -> list[str]:
    """Say what cannot be concluded from the outage."""
    w = words(writing.language)["limits_text"]
    gap = writing.span(outage["largest_gap_ms"], up=True)
    given = {"gap": gap, "place": outage["vantage_point"], "target": outage["target"]}
    left = () if outage["kind"] == "roundtrip" else ("mail",)
    order = ("cause", "others", "shorter", *left, *ALWAYS)
    return [str(w[key].format(**given)) for key in order]


def limits_of_period(writing: Writing) -> list[str]:
    """Say what cannot be concluded from a period."""
    w = words(writing.language)["limits_text"]
    return [str(w[key]) for key in ("cause", *ALWAYS)]
