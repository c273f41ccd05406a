"""Evaluates outages by a rule of the catalogue: the time counted surely and possibly, in each calendar window.

1. Surely counted is the least that the rule's own text leaves: the time from the first to the last bad
   observation, without unobserved time, without announced maintenance if the rule excludes it, and without parts
   that may have been shorter than the rule's minimum.
2. Possibly counted is all time from the last good to the first good observation; None if one is missing.
3. An up observation within an outage may have cut it in two. So may unobserved time or maintenance, of which only
   the sum is known: it counts as one cut per second. k cuts make at most k + 1 pieces. Of a length L >= (k + 1) *
   m at most k pieces are shorter than the minimum m, so L - k * m surely counted; of a shorter length, nothing.
4. Other outages in the window only lower the availability: the results for one outage alone hold with them too,
   except the possible ones.

The result follows from the outage, and the rule and the fee in the `claim` of outage.json; `check_claim`
recomputes it without a config. Whether the rule is really the provider's, only its source can show.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from decimal import ROUND_CEILING, ROUND_DOWN, ROUND_FLOOR, Decimal, InvalidOperation
from fractions import Fraction
from typing import Any
from zoneinfo import ZoneInfo

from mailwatch.analysis.outage_record import OutageRecord
from mailwatch.analysis.sla import Rule, Tier, read_rule
from mailwatch.times import Millis, Window, month, rfc3339

RULE_ZONE = "Europe/Rome"
"""Time zone of the calendar windows; the rules name none."""
MAX_WINDOWS = 240
SECOND_MS = 1000
MINUTE_MS = 60_000
_STEP = Decimal("0.0001")
_CENT = Decimal("0.01")


@dataclass(frozen=True, slots=True)
class SlaOutage:
    """An outage: down in `sure` as far as observed, at most in `possible`. Within it: `up_count` up and
    `unknown_count` unknown observations, `unobserved` time and announced `maintenance` (milliseconds).
    """

    sure: Window
    possible: Window | None
    up_count: int = 0
    unknown_count: int = 0
    unobserved: Millis = 0
    maintenance: Millis = 0
    ended: bool = True

    def cuts(self, *, excluded: bool) -> int:
        """Return the most interruptions it may have had; by maintenance only if that is `excluded`."""
        hidden = self.unobserved + (self.maintenance if excluded else 0)
        return self.up_count + self.unknown_count + -(-hidden // SECOND_MS)


@dataclass(frozen=True, slots=True)
class Fee:
    """The fee for one `period`, "month" or "year"."""

    amount: Decimal
    currency: str
    period: str

    def monthly(self) -> Fraction:
        """Return the fee for a month; a twelfth of a yearly fee."""
        return Fraction(self.amount) / (12 if self.period == "year" else 1)


def owner_fee(owner: Mapping[str, Any]) -> Fee | None:
    """Return the fee in the owner's statement, None if not stated. Raises ValueError."""
    given = owner.get("fee")
    if given is None:
        return None
    try:
        made = Fee(Decimal(given["amount"]), str(given["currency"]), str(given["period"]))
    except (KeyError, TypeError, ValueError, InvalidOperation):
        raise ValueError("the fee is no amount, currency and period") from None
    # Bound the exponent: exact arithmetic with 1e-99999999 would never end.
    exponent = made.amount.as_tuple().exponent
    if (
        not isinstance(exponent, int)
        or exponent < -2
        or not 0 <= made.amount <= 1_000_000
        or made.period not in ("month", "year")
    ):
        raise ValueError("the fee is no amount of a month or a year")
    return made


def sla_outage(outage: OutageRecord) -> SlaOutage:
    """Return the facts of an outage that a rule counts."""
    good, end, lasted = outage.last_good, outage.first_good, outage.durations
    # Over a restart of the machine less is sure, and more possible, than by the wall clock.
    sure = outage.first_bad, min(outage.last_bad, outage.first_bad + lasted.least)
    possible = None
    if good is not None and end is not None and lasted.most is not None:
        possible = good, max(end, good + lasted.most)
    return SlaOutage(
        sure, possible, up_count=outage.up, unknown_count=outage.unknown, ended=end is not None,
        unobserved=outage.unobserved, maintenance=outage.maintenance,
    )  # fmt: skip


def sla_windows(rule: Rule, span: Window, zone: ZoneInfo) -> list[Window]:
    """Return the calendar windows that a span overlaps. Raises ValueError for more than MAX_WINDOWS."""
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


@dataclass(frozen=True, slots=True)
class CountedTime:
    """The time down in a window, in milliseconds: surely, and possibly (None if unknown)."""

    window: Window
    surely: Millis
    possibly: Millis | None

    @property
    def at_most(self) -> str:
        """The maximum availability, in per cent."""
        return _percent(self._total - self.surely, self._total, ROUND_CEILING)

    @property
    def at_least(self) -> str | None:
        """The minimum availability, in per cent; None if unknown."""
        return None if self.possibly is None else _percent(self._total - self.possibly, self._total, ROUND_FLOOR)

    @property
    def _total(self) -> Millis:
        return self.window[1] - self.window[0]

    def as_json(self) -> dict[str, object]:
        """Return the JSON for outage.json."""
        most = None if self.possibly is None else self.possibly / 1000
        return {
            "down": {"min": self.surely / 1000, "max": most},
            "available": {"at_most": self.at_most, "at_least": self.at_least},
        }


@dataclass(frozen=True, slots=True)
class Credit:
    """The credit of a tier; `amount`: in money, if the fee is known."""

    tier: Tier
    amount: Decimal | None = None
    currency: str = ""

    def as_json(self) -> dict[str, object]:
        """Return the JSON for outage.json."""
        result: dict[str, object] = {"below": str(self.tier.below)}
        if self.tier.days is not None:
            result["days"] = self.tier.days
        if self.tier.percent is not None:
            result["percent"] = str(self.tier.percent)
        return result if self.amount is None else result | {"amount": str(self.amount), "currency": self.currency}


@dataclass(frozen=True, slots=True)
class SingleEvent:
    """The rule's limit for a single event (milliseconds), and whether it was exceeded: "surely", "possibly" or
    "no".
    """

    limit: Millis
    exceeded: str


@dataclass(frozen=True, slots=True)
class WindowVerdict:
    """A window's result by the rule. `broken`: "surely", "possibly" or "no"."""

    time: CountedTime
    broken: str
    surely: Credit | None
    possibly: Credit | None
    single_event: SingleEvent | None = None

    @property
    def is_kept(self) -> bool:
        """Whether every part of the promise was kept, as far as is known."""
        return self.broken == "no" and (self.single_event is None or self.single_event.exceeded == "no")

    def as_json(self) -> dict[str, object]:
        """Return the JSON for outage.json."""
        result = self.time.as_json()
        result["broken"] = self.broken
        result["tier"] = {
            "surely": None if self.surely is None else self.surely.as_json(),
            "possibly": None if self.possibly is None else self.possibly.as_json(),
        }
        if (event := self.single_event) is not None:
            result["single_event"] = {"limit": event.limit / 1000, "exceeded": event.exceeded}
        return result


@dataclass(frozen=True, slots=True)
class WindowReading:
    """One calendar window: as measured, and by the rule if that covers the channel and promises a figure."""

    window: Window
    raw: CountedTime
    counted: WindowVerdict | None = None
    deadline: date | None = None

    def as_json(self) -> dict[str, object]:
        """Return the JSON for outage.json."""
        result: dict[str, object] = {"from": rfc3339(self.window[0]), "to": rfc3339(self.window[1])}
        result["raw"] = self.raw.as_json()
        if self.counted is not None:
            result["counted"] = self.counted.as_json()
        return result if self.deadline is None else result | {"deadline": self.deadline.isoformat()}


@dataclass(frozen=True, slots=True)
class SlaReading:
    """The result of outages under a rule. `covered`: whether the rule covers the channel."""

    covered: bool
    windows: tuple[WindowReading, ...]

    def as_json(self) -> dict[str, object]:
        """Return the JSON for outage.json."""
        return {"zone": RULE_ZONE, "covered": self.covered, "windows": [one.as_json() for one in self.windows]}


def evaluate(rule: Rule, kind: str, outages: Sequence[SlaOutage], fee: Fee | None) -> SlaReading:
    """Return the result for the first outage's windows; the other outages count in them too."""
    zone, case = ZoneInfo(RULE_ZONE), outages[0]
    covered = not rule.channels or kind in rule.channels
    windows = []
    for window in sla_windows(rule, case.possible or case.sure, zone):
        raw = CountedTime(window, *_down(window, outages, None))
        counted = _evaluate_window(rule, window, outages, fee) if covered and rule.target is not None else None
        deadline = claim_deadline(rule, window, case, zone) if covered else None
        windows.append(WindowReading(window, raw, counted, deadline))
    return SlaReading(covered, tuple(windows))


def check_claim(claim: Mapping[str, Any], outage: OutageRecord) -> str:
    """Return in words which parts of a claim were verified. Raises ValueError if the result does not follow."""
    if not isinstance(claim, dict) or not isinstance(claim.get("stated_by_owner"), dict):
        raise ValueError("it does not say what the owner states")
    if claim.keys() - {"note", "stated_by_owner", "rule", "reading"} or ("rule" in claim) != ("reading" in claim):
        raise ValueError("it is not a statement, a rule and its result")
    if "rule" not in claim:
        return "a statement of the owner, not a measurement"
    given = claim["rule"]
    if not isinstance(given, dict) or not isinstance(given.get("key"), str):
        raise ValueError("its rule has no key")
    rule = read_rule(given["key"], {key: value for key, value in given.items() if key != "key"})
    found = evaluate(rule, outage.kind, [sla_outage(outage)], owner_fee(claim["stated_by_owner"]))
    if claim["reading"] != found.as_json():
        raise ValueError(f"the result does not follow from the outage and the rule {rule.key[:40]}")
    doubt = "" if rule.verified else ", which is not verified"
    return (
        "a statement of the owner, not a measurement; its result follows from the outage and the rule "
        f"{rule.key[:40]}{doubt}"
    )


def claim_deadline(rule: Rule, window: Window, outage: SlaOutage, zone: ZoneInfo) -> date | None:
    """Return the last safe day to claim; None if it is unknown or has not begun to run."""
    if rule.deadline is None:
        return None
    if rule.deadline.after == "outage":
        return _day(outage.sure[1], zone) + timedelta(days=rule.deadline.days) if outage.ended else None
    last = _day(window[1] - 1, zone)
    if rule.deadline.month_end:
        after = last.year * 12 + last.month + rule.deadline.month_end
        return date(after // 12, after % 12 + 1, 1) - timedelta(days=1)
    return last + timedelta(days=rule.deadline.days)


def _evaluate_window(rule: Rule, window: Window, outages: Sequence[SlaOutage], fee: Fee | None) -> WindowVerdict:
    assert rule.target is not None
    surely, possibly = _down(window, outages, rule)
    total = window[1] - window[0]
    return WindowVerdict(
        CountedTime(window, surely, possibly),
        _target_result(_below(total, surely, rule.target), possibly, total, rule.target),
        _credit(rule, total, surely, fee),
        None if possibly is None else _credit(rule, total, possibly, fee),
        None if rule.single_event_percent is None else _single_event(rule, total, outages[0]),
    )


def _down(window: Window, outages: Iterable[SlaOutage], rule: Rule | None) -> tuple[Millis, Millis | None]:
    """Return the milliseconds counted in a window surely and possibly, by a rule or as measured."""
    minimum = rule.minimum_minutes * MINUTE_MS if rule else 0
    surely, possibly, observed = 0, 0, 0
    known = True
    for one in sorted(outages, key=lambda stretch: stretch.sure):
        if one.sure[0] >= observed:
            # Overlapping outages are counted once.
            observed = one.sure[1]
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


def _single_event(rule: Rule, total: Millis, outage: SlaOutage) -> SingleEvent:
    """Return whether a single event was longer than the rule allows."""
    assert rule.target is not None
    assert rule.single_event_percent is not None
    limit = total * (100 - Fraction(rule.target)) / 100 * Fraction(rule.single_event_percent) / 100
    # The outage may have been several events; the longest is at least as long as the mean.
    observed = max(0, outage.sure[1] - outage.sure[0] - outage.unobserved)
    surely = Fraction(observed, outage.cuts(excluded=False) + 1)
    possibly = None if outage.possible is None else outage.possible[1] - outage.possible[0]
    exceeded = "surely" if surely > limit else "no" if possibly is not None and possibly <= limit else "possibly"
    return SingleEvent(int(limit), exceeded)


def _target_result(surely: bool, possibly: Millis | None, total: Millis, target: Decimal) -> str:
    if surely:
        return "surely"
    return "possibly" if possibly is None or _below(total, possibly, target) else "no"


def _credit(rule: Rule, total: Millis, down: Millis, fee: Fee | None) -> Credit | None:
    reached: Tier | None = None
    for tier in rule.tiers:
        if _below(total, down, tier.below):
            reached = tier
    if reached is None or reached.percent is None or fee is None or rule.window != "month":
        return None if reached is None else Credit(reached)
    amount = fee.monthly() * Fraction(reached.percent) / 100
    exact = (Decimal(amount.numerator) / amount.denominator).quantize(_CENT, ROUND_DOWN)
    return Credit(reached, exact, fee.currency)


def _below(total: Millis, down: Millis, percent: Decimal) -> bool:
    return Fraction(total - down, total) * 100 < Fraction(percent)


def _percent(part: Millis, total: Millis, rounding: str) -> str:
    """Return a percentage, rounded so that the interval never shrinks."""
    return str((Decimal(part) * 100 / total).quantize(_STEP, rounding))


def _overlap(one: Window, other: Window) -> Millis:
    return max(0, min(one[1], other[1]) - max(one[0], other[0]))


def _day(at: Millis, zone: ZoneInfo) -> date:
    return datetime.fromtimestamp(at / 1000, UTC).astimezone(zone).date()
