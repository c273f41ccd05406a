"""Reads outages by a rule of the catalogue: what counted surely and possibly, in each calendar window.

1. What surely counted is the least that the rule's own words leave: of the time from the first to the last bad
   look, without that which nobody observed, without all announced maintenance where the rule leaves it out, and
   without what may have been shorter than the rule's minimum.
2. What possibly counted is the whole from the last good to the first good look; None when one of them is missing.
3. A good look inside may have cut a stretch in two, and so may a time unobserved or of maintenance, of which
   only the sum is known: it is taken for as many as it has seconds. k cuts make at most k + 1 pieces, and of
   L >= (k + 1) * m at most k pieces can be shorter than m: L - k * m surely counted. Of a shorter one, nothing.
4. Other outages in the window only lower the availability: what is told of one alone holds with them too, but
   for what is told as possible.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from decimal import ROUND_CEILING, ROUND_DOWN, ROUND_FLOOR, Decimal
from fractions import Fraction
from typing import Any
from zoneinfo import ZoneInfo

from mailwatch.analysis.sla import Rule, Tier
from mailwatch.times import Millis, Window, month, parse_rfc3339, rfc3339

ZONE = "Europe/Rome"
"""Whose calendar the windows are of; the rules seen name none."""
MAX_WINDOWS = 240
SECOND = 1000
MINUTE = 60_000
_STEP = Decimal("0.0001")
_CENT = Decimal("0.01")


@dataclass(frozen=True, slots=True)
class Stretch:
    """An outage: down in `sure` as far as it was observed, at most in `possible`; `over` once it has ended.

    Inside are `ups` good looks and `unknown` ones, `unobserved` time, and announced `maintenance`.
    """

    sure: Window
    possible: Window | None
    ups: int = 0
    unknown: int = 0
    unobserved: Millis = 0
    maintenance: Millis = 0
    over: bool = True

    def cuts(self, *, excluded: bool) -> int:
        """At most how often it was interrupted, of maintenance only if that is `excluded`."""
        hidden = self.unobserved + (self.maintenance if excluded else 0)
        return self.ups + self.unknown + -(-hidden // SECOND)


@dataclass(frozen=True, slots=True)
class Fee:
    """What is paid for one `period`, a month or a year."""

    amount: Decimal
    currency: str
    period: str

    def monthly(self) -> Fraction:
        """A month's share of it; of a year the twelfth part."""
        return Fraction(self.amount) / (12 if self.period == "year" else 1)


def stretch(outage: Mapping[str, Any]) -> Stretch:
    """Read an outage in its public JSON, where `maintenance` is in seconds. Raises ValueError."""
    maintenance = outage.get("maintenance", 0)
    # Of a stranger's bundle this alone is not proven by its entries.
    if not isinstance(maintenance, int | float) or not 0 <= maintenance < 1e9:
        raise ValueError("maintenance is no time")
    times = {key: outage[key] and parse_rfc3339(outage[key]) for key in ("last_good", "first_good")}
    good, end = times["last_good"], times["first_good"]
    bad, last = parse_rfc3339(outage["first_bad"]), parse_rfc3339(outage["last_bad"])
    # Over a restart of the machine less is sure than the wall clock says, and more possible.
    least, most = round(outage["duration"]["min"] * 1000), outage["duration"]["max"]
    sure = bad, min(last, bad + least)
    possible = None
    if good is not None and end is not None and most is not None:
        possible = good, max(end, good + round(most * 1000))
    looks = outage["observations"]
    return Stretch(
        sure, possible, ups=int(looks["up"]), unknown=int(looks["unknown"]), over=end is not None,
        unobserved=round(outage["unobserved"] * 1000), maintenance=round(maintenance * 1000),
    )  # fmt: skip


def windows(rule: Rule, span: Window, zone: ZoneInfo) -> list[Window]:
    """Give the calendar windows that a span touches. Raises ValueError when they are more than 240."""
    months = 4 if rule.window == "quadrimestre" else 1
    first = datetime.fromtimestamp(span[0] / 1000, UTC).astimezone(zone)
    count = first.year * 12 + (first.month - 1) // months * months
    found: list[Window] = []
    while not found or found[-1][1] <= span[1]:
        if len(found) == MAX_WINDOWS:
            raise ValueError(f"the outage touches more than {MAX_WINDOWS} windows")
        ends = count + months
        start, end = (month(at // 12, at % 12 + 1, zone)[0] for at in (count, ends))
        found.append((start, end))
        count = ends
    return found


def read(rule: Rule, kind: str, stretches: Sequence[Stretch], fee: Fee | None) -> dict[str, Any]:
    """Return the reading of the first stretch's windows; the other stretches count in them too."""
    zone, case = ZoneInfo(ZONE), stretches[0]
    covered = not rule.channels or kind in rule.channels
    told = []
    for window in windows(rule, case.possible or case.sure, zone):
        one: dict[str, Any] = {"from": rfc3339(window[0]), "to": rfc3339(window[1])}
        one["raw"] = _share(window, *_down(window, stretches, None))
        if covered and rule.target is not None:
            one["counted"] = _counted(rule, window, stretches, fee)
        due = deadline(rule, window, case, zone) if covered else None
        told.append(one | ({"deadline": due.isoformat()} if due else {}))
    return {"zone": ZONE, "covered": covered, "windows": told}


def deadline(rule: Rule, window: Window, case: Stretch, zone: ZoneInfo) -> date | None:
    """Give the last day to claim, counted so that it is not too late; None while it does not run or is unknown."""
    if rule.deadline is None:
        return None
    if rule.deadline.after == "outage":
        return _day(case.sure[1], zone) + timedelta(days=rule.deadline.days) if case.over else None
    last = _day(window[1] - 1, zone)
    if rule.deadline.month_end:
        after = last.year * 12 + last.month + rule.deadline.month_end
        return date(after // 12, after % 12 + 1, 1) - timedelta(days=1)
    return last + timedelta(days=rule.deadline.days)


def _counted(rule: Rule, window: Window, stretches: Sequence[Stretch], fee: Fee | None) -> dict[str, Any]:
    assert rule.target is not None
    surely, possibly = _down(window, stretches, rule)
    total = window[1] - window[0]
    told = _share(window, surely, possibly)
    told["broken"] = _verdict(_below(total, surely, rule.target), possibly, total, rule.target)
    told["tier"] = {
        "surely": _tier(rule, total, surely, fee),
        "possibly": None if possibly is None else _tier(rule, total, possibly, fee),
    }
    if rule.single_event_percent is not None:
        told["single_event"] = _single(rule, total, stretches[0])
    return told


def _down(window: Window, stretches: Iterable[Stretch], rule: Rule | None) -> tuple[Millis, Millis | None]:
    """Return what counted in a window surely and possibly, by a rule or as measured."""
    minimum = rule.minimum_minutes * MINUTE if rule else 0
    surely, possibly, seen = 0, 0, 0
    known = True
    for one in sorted(stretches, key=lambda stretch: stretch.sure):
        if one.sure[0] >= seen:
            # Two that overlap are one time, seen in two ways.
            seen = one.sure[1]
            length, cuts = _overlap(one.sure, window), 0
            if rule:
                hidden = one.unobserved + (one.maintenance if rule.scheduled_excluded else 0)
                length, cuts = max(0, length - hidden), one.cuts(excluded=rule.scheduled_excluded)
            surely += length - cuts * minimum if length >= (cuts + 1) * minimum else 0
        if one.possible is None:
            known = known and not (one.sure[0] < window[1] and one.sure[1] >= window[0])
        elif one.possible[1] - one.possible[0] >= minimum:
            possibly += _overlap(one.possible, window)
    return surely, min(possibly, window[1] - window[0]) if known else None


def _single(rule: Rule, total: Millis, case: Stretch) -> dict[str, Any]:
    """Whether one event alone was longer than the rule allows."""
    assert rule.target is not None
    assert rule.single_event_percent is not None
    limit = total * (100 - Fraction(rule.target)) / 100 * Fraction(rule.single_event_percent) / 100
    # It may have been several events; the longest is not shorter than the mean.
    observed = max(0, case.sure[1] - case.sure[0] - case.unobserved)
    surely = Fraction(observed, case.cuts(excluded=False) + 1)
    possibly = None if case.possible is None else case.possible[1] - case.possible[0]
    exceeded = "surely" if surely > limit else "no" if possibly is not None and possibly <= limit else "possibly"
    return {"limit": int(limit) / 1000, "exceeded": exceeded}


def _verdict(surely: bool, possibly: Millis | None, total: Millis, target: Decimal) -> str:
    if surely:
        return "surely"
    return "possibly" if possibly is None or _below(total, possibly, target) else "no"


def _tier(rule: Rule, total: Millis, down: Millis, fee: Fee | None) -> dict[str, Any] | None:
    reached: Tier | None = None
    for tier in rule.tiers:
        if _below(total, down, tier.below):
            reached = tier
    if reached is None:
        return None
    told: dict[str, Any] = {"below": str(reached.below)}
    if reached.days is not None:
        told["days"] = reached.days
    if reached.percent is not None:
        told["percent"] = str(reached.percent)
        if fee is not None and rule.window == "month":
            amount = fee.monthly() * Fraction(reached.percent) / 100
            exact = (Decimal(amount.numerator) / amount.denominator).quantize(_CENT, ROUND_DOWN)
            told |= {"amount": str(exact), "currency": fee.currency}
    return told


def _below(total: Millis, down: Millis, percent: Decimal) -> bool:
    return Fraction(total - down, total) * 100 < Fraction(percent)


def _share(window: Window, surely: Millis, possibly: Millis | None) -> dict[str, Any]:
    total = window[1] - window[0]
    least = None if possibly is None else _percent(total - possibly, total, ROUND_FLOOR)
    return {
        "down": {"min": surely / 1000, "max": None if possibly is None else possibly / 1000},
        "available": {"at_most": _percent(total - surely, total, ROUND_CEILING), "at_least": least},
    }


def _percent(part: Millis, total: Millis, rounding: str) -> str:
    """Rounded away from the claim on one side and towards it on the other: the interval never shrinks."""
    return str((Decimal(part) * 100 / total).quantize(_STEP, rounding))


def _overlap(one: Window, other: Window) -> Millis:
    return max(0, min(one[1], other[1]) - max(one[0], other[0]))


def _day(at: Millis, zone: ZoneInfo) -> date:
    return datetime.fromtimestamp(at / 1000, UTC).astimezone(zone).date()
