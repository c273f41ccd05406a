"""The promises of providers: the rules of sla.yaml, parsed strictly, and written back."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from decimal import Decimal, InvalidOperation
from typing import Any

WINDOWS = ("month", "quadrimestre")
"""Calendar months; or four-month periods: January to April, May to August, September to December."""
TEXT_LANGUAGES = ("en", "it")
"""Languages of a rule's texts, also of a rule in a bundle. Not those of i18n.py: a further language there must not
make the rules of older bundles incomplete, and the verifier loads no i18n.
"""
_TEXTS = ("definition", "exclusions", "remedy", "send_to", "note")
_KEYS = {
    "name", "source_url", "seen_on", "verified", "channels", "target", "window", "minimum_minutes",
    "single_event_percent", "scheduled_excluded", "tiers", "deadline", *_TEXTS,
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Tier:
    """The remedy below an availability (per cent): a share of the fee, days of service, or unknown."""

    below: Decimal
    percent: Decimal | None = None
    days: int | None = None


@dataclass(frozen=True, slots=True)
class Deadline:
    """The deadline for a claim: `days` after the end of the "outage" or "window", or `month_end` whole months
    later.
    """

    days: int = 0
    after: str = "window"
    month_end: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """One promise. `target`: None if unknown. Texts are by language; percentages from 0 to 100."""

    key: str
    name: str
    source_url: str
    seen_on: str
    verified: bool
    channels: tuple[str, ...] = ()
    target: Decimal | None = None
    window: str = "month"
    minimum_minutes: int = 0
    single_event_percent: Decimal | None = None
    scheduled_excluded: bool = False
    tiers: tuple[Tier, ...] = ()
    deadline: Deadline | None = None
    definition: Mapping[str, str] = field(default_factory=dict)
    exclusions: Mapping[str, str] = field(default_factory=dict)
    remedy: Mapping[str, str] = field(default_factory=dict)
    send_to: Mapping[str, str] = field(default_factory=dict)
    note: Mapping[str, str] = field(default_factory=dict)


def read_rule(key: str, data: Mapping[str, Any]) -> Rule:
    """Parse a rule strictly, since it may come from an untrusted bundle. Raises ValueError."""
    if unknown := set(data) - _KEYS:
        raise ValueError(f"unknown key {min(map(str, unknown))[:40]}")
    try:
        made = Rule(
            key=_text(key),
            name=_text(data["name"]),
            source_url=_text(data["source_url"]),
            seen_on=_text(data["seen_on"]),
            verified=_flag(data["verified"]),
            channels=tuple(_text(one) for one in data.get("channels", ())),
            target=_percent(data["target"]) if "target" in data else None,
            window=_text(data.get("window", "month")),
            minimum_minutes=_count(data.get("minimum_minutes", 0), 1440),
            single_event_percent=(
                _percent(data["single_event_percent"]) if "single_event_percent" in data else None
            ),
            scheduled_excluded=_flag(data.get("scheduled_excluded", False)),
            tiers=tuple(_tier(one) for one in data.get("tiers", ())),
            deadline=_deadline(data["deadline"]) if "deadline" in data else None,
            **{text: _texts(data[text]) for text in _TEXTS if text in data},
        )
    except (KeyError, TypeError, AttributeError, InvalidOperation) as error:
        raise ValueError(f"{type(error).__name__} {error}"[:100]) from None
    if made.window not in WINDOWS:
        raise ValueError("window is neither month nor quadrimestre")
    if list(made.tiers) != sorted(made.tiers, key=lambda tier: -tier.below):
        raise ValueError("the tiers do not fall")
    return made


def rule_payload(given: Rule) -> dict[str, object]:
    """Return a rule as the plain data that `read_rule` accepts, without its key and unset fields."""
    deadline = given.deadline
    plain: dict[str, object] = {
        "name": given.name,
        "source_url": given.source_url,
        "seen_on": given.seen_on,
        "verified": given.verified,
        "channels": list(given.channels),
        "target": None if given.target is None else str(given.target),
        "window": given.window,
        "minimum_minutes": given.minimum_minutes,
        "single_event_percent": None if given.single_event_percent is None else str(given.single_event_percent),
        "scheduled_excluded": given.scheduled_excluded,
        "tiers": [_tier_payload(tier) for tier in given.tiers],
        "deadline": None if deadline is None else _deadline_payload(deadline),
        **{name: dict(getattr(given, name)) for name in _TEXTS},
    }
    return {key: value for key, value in plain.items() if value not in (None, [], {}, 0) or key == "verified"}


def _tier_payload(tier: Tier) -> dict[str, object]:
    plain: dict[str, object] = {"below": str(tier.below)}
    if tier.percent is not None:
        plain["percent"] = str(tier.percent)
    return plain if tier.days is None else plain | {"days": tier.days}


def _deadline_payload(given: Deadline) -> dict[str, object]:
    return {"month_end": given.month_end} if given.month_end else {"days": given.days, "after": given.after}


def _tier(data: Mapping[str, Any]) -> Tier:
    if set(data) - {"below", "percent", "days"}:
        raise ValueError("a tier has below, and percent or days")
    percent = _percent(data["percent"]) if "percent" in data else None
    return Tier(_percent(data["below"]), percent, _count(data["days"], 366) if "days" in data else None)


def _deadline(data: Mapping[str, Any]) -> Deadline:
    made = Deadline(
        _count(data.get("days", 0), 3660),
        _text(data.get("after", "window")),
        _count(data.get("month_end", 0), 120),
    )
    if made.after not in ("outage", "window") or bool(made.days) == bool(made.month_end):
        raise ValueError("a deadline is days after outage or window, or month_end")
    return made


def _percent(value: object) -> Decimal:
    text = _text(value)
    number = Decimal(text)
    # Check the exponent first: exact arithmetic with 1e-99999999 would never end.
    if not number.is_finite() or number.adjusted() < -6 or len(text) > 12 or not 0 < number <= 100:
        raise ValueError("a percentage lies between 0 and 100")
    return number


def _texts(value: Mapping[str, Any]) -> dict[str, str]:
    return {language: _text(value[language]) for language in TEXT_LANGUAGES}


def _text(value: object) -> str:
    if not isinstance(value, str) or len(value) > 2000:
        raise TypeError("not a text")
    return value


def _flag(value: object) -> bool:
    if not isinstance(value, bool):
        raise TypeError("not true or false")
    return value


def _count(value: object, maximum: int) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value <= maximum:
        raise TypeError("not a count")
    return value
