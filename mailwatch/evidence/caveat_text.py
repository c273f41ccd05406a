"""Caveats in words: the same for page one of a report and for `mailwatch verify`."""

from __future__ import annotations

from collections.abc import Iterable

from mailwatch.evidence.warnings import MAX_RULE_COUNT, Caveat
from mailwatch.i18n import Formatter, load_texts


def caveat_text(caveat: Caveat, writing: Formatter) -> str:
    """Return a caveat in the language of `writing`."""
    w = load_texts("mailwatch.evidence", f"{writing.language}.yaml")
    figures = caveat.figures
    given: dict[str, object] = {**figures, "most": MAX_RULE_COUNT}
    for key, field in (("ms", "time"), ("ledger_ms", "ledger_time")):
        if key in figures:
            given[field] = writing.format_duration(int(figures[key]), up=True)
    text = w[caveat.code].format(**given)
    if caveat.code == "clock_off" and "not_before" in figures and "not_after" in figures:
        a = writing.local_and_utc_of(str(figures["not_before"]))
        b = writing.local_and_utc_of(str(figures["not_after"]), up=True)
        text += " " + w["clock_off_between"].format(a=a, b=b)
    return f"{figures['member']}: {text}" if "member" in figures else text


def page_caveats(found: Iterable[Caveat], writing: Formatter) -> list[str]:
    """Return the lines in red on the first page."""
    return [caveat_text(one, writing) for one in found if one.grave]
