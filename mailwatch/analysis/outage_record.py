"""`OutageRecord`: an outage with its subject, the form in which all code after the detector uses it.

`outage_payload` converts it for the ledger, and `outage_from_payload` back; public_json.py converts it for
evidence and the API. No other code knows their keys.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import NotRequired, Self, TypedDict, cast

from mailwatch.analysis.elapsed import Durations, DurationsPayload
from mailwatch.analysis.outage import ClockFacts, Outage
from mailwatch.ledger.settings_payloads import (
    RulesPayload,
    SettingsPayload,
    rules_from,
    rules_payload,
    settings_from,
    settings_payload,
)
from mailwatch.model import Kind, Rules, TargetSettings
from mailwatch.times import Millis


@dataclass(frozen=True, slots=True, kw_only=True)
class OutageSubject:
    """The subject of an outage, which does not follow from its observations. `account`: a digest of the login."""

    provider: str
    kind: Kind
    vantage_point: str
    account: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class OutageRecord(Outage):
    """An outage as recorded, or the current form of an open outage.

    1. `account`: a digest of the login, "" if there is none or it is unknown.
    2. `rules`, `settings`: those in force at its latest entry; None if not on record.
    3. `maintenance`: milliseconds of its minimum duration in announced maintenance (store/queries.py).
    4. `paused_at`: of an open outage in a list, since when its target is paused: neither down nor up is known.
    """

    provider: str
    kind: Kind
    vantage_point: str
    account: str = ""
    rules: Rules | None = None
    settings: TargetSettings | None = None
    maintenance: Millis = 0
    paused_at: Millis | None = None

    @classmethod
    def of(
        cls,
        outage: Outage,
        subject: OutageSubject,
        *,
        rules: Rules | None = None,
        settings: TargetSettings | None = None,
    ) -> Self:
        """Return a record of an outage and its subject."""
        measured = {field.name: getattr(outage, field.name) for field in _MEASURED}
        # Sorted by name, as in the ledger.
        measured |= {key: dict(sorted(measured[key].items())) for key in ("causes", "phases")}
        return cls(
            **measured,
            provider=subject.provider,
            kind=subject.kind,
            vantage_point=subject.vantage_point,
            account=subject.account,
            rules=rules,
            settings=settings,
        )

    @property
    def subject(self) -> OutageSubject:
        """The subject of the outage."""
        return OutageSubject(
            provider=self.provider, kind=self.kind, vantage_point=self.vantage_point, account=self.account
        )


_MEASURED = fields(Outage)
SUBJECT_KEYS = ("provider", "kind", "vantage_point")
"""Keys of a payload that name its subject."""
_NOT_REPLAYED = ("salt", *SUBJECT_KEYS, "rules", "watch", "account")


class _CountsPayload(TypedDict):
    down: int
    up: int
    unknown: int


class _PlacePayload(TypedDict):
    first: int
    last: int


class _ClockPayload(TypedDict):
    stepped_ms: Millis
    reboots: int


class OutagePayload(TypedDict):
    """The payload of an outage's entry; times and durations in milliseconds."""

    id: str
    target: str
    provider: str
    kind: str
    vantage_point: str
    state: str
    last_good: Millis | None
    first_bad: Millis
    last_bad: Millis
    first_good: Millis | None
    duration_ms: DurationsPayload
    observations: _CountsPayload
    largest_gap_ms: Millis
    unobserved_ms: Millis
    causes: dict[str, int]
    phases: dict[str, int]
    ledger: _PlacePayload
    replies: list[str]
    first_detail: str
    clock: NotRequired[_ClockPayload]
    proven_afterwards: NotRequired[bool]
    rules: NotRequired[RulesPayload]
    watch: NotRequired[SettingsPayload]
    account: NotRequired[str]


def outage_payload(record: OutageRecord) -> OutagePayload:
    """Return a record as a ledger payload: integers only, since floats have no canonical form here."""
    payload: OutagePayload = {
        "id": record.id,
        "target": record.target,
        "provider": record.provider,
        "kind": record.kind.value,
        "vantage_point": record.vantage_point,
        "state": record.state,
        "last_good": record.last_good,
        "first_bad": record.first_bad,
        "last_bad": record.last_bad,
        "first_good": record.first_good,
        "duration_ms": record.durations.as_payload(),
        "observations": {"down": record.down, "up": record.up, "unknown": record.unknown},
        "largest_gap_ms": record.largest_gap,
        "unobserved_ms": record.unobserved,
        "causes": dict(record.causes),
        "phases": dict(record.phases),
        "ledger": {"first": record.first_index, "last": record.last_index},
        "replies": list(record.replies),
        "first_detail": record.first_detail,
    }
    if record.clock is not None:
        payload["clock"] = {"stepped_ms": record.clock.stepped, "reboots": record.clock.reboots}
    if record.proven_afterwards:
        payload["proven_afterwards"] = True
    if record.rules is not None:
        payload["rules"] = rules_payload(record.rules)
    if record.settings is not None:
        payload["watch"] = settings_payload(record.settings)
    if record.account:
        payload["account"] = record.account
    return payload


def outage_from_payload(written: Mapping[str, object]) -> OutageRecord:
    """Parse the output of `outage_payload`. Raises KeyError, TypeError or ValueError for anything else."""
    payload = cast(OutagePayload, written)
    subject, durations, clock = subject_from(written), payload["duration_ms"], payload.get("clock")
    rules, settings = payload.get("rules"), payload.get("watch")
    return OutageRecord(
        id=payload["id"],
        target=payload["target"],
        provider=subject.provider,
        kind=subject.kind,
        vantage_point=subject.vantage_point,
        account=subject.account,
        last_good=payload["last_good"],
        first_bad=payload["first_bad"],
        last_bad=payload["last_bad"],
        first_good=payload["first_good"],
        unwatched=payload["state"] == "unwatched",
        down=payload["observations"]["down"],
        up=payload["observations"]["up"],
        unknown=payload["observations"]["unknown"],
        largest_gap=payload["largest_gap_ms"],
        unobserved=payload["unobserved_ms"],
        causes=payload["causes"],
        phases=payload["phases"],
        replies=tuple(payload["replies"]),
        first_index=payload["ledger"]["first"],
        last_index=payload["ledger"]["last"],
        first_detail=payload["first_detail"],
        durations=Durations(durations["min"], durations["max"], durations["estimate"], durations["uncertainty"]),
        clock=None if clock is None else ClockFacts(clock["stepped_ms"], clock["reboots"]),
        proven_afterwards=payload.get("proven_afterwards", False),
        rules=None if rules is None else rules_from(rules),
        settings=None if settings is None else settings_from(settings),
    )


def subject_from(written: Mapping[str, object]) -> OutageSubject:
    """Return the subject in an outage's payload or JSON. Raises KeyError, TypeError or ValueError."""
    texts = [written[key] for key in SUBJECT_KEYS] + [written.get("account", "")]
    provider, kind, vantage_point, account = (text for text in texts if isinstance(text, str))
    return OutageSubject(provider=provider, kind=Kind(kind), vantage_point=vantage_point, account=account)


def follows_from_replay(written: Mapping[str, object], outage: Outage) -> bool:
    """Return whether a recorded payload equals the replay, except for keys that do not follow from
    observations.
    """
    nameless = OutageSubject(provider="", kind=Kind.IMAP, vantage_point="")
    replayed = outage_payload(OutageRecord.of(outage, nameless))
    kept, given = (
        {key: value for key, value in each.items() if key not in _NOT_REPLAYED} for each in (written, replayed)
    )
    return kept == given


ClockSteps = list[tuple[int, Millis]]
"""Steps of the wall clock (milliseconds), by entry index."""


def clock_steps_between(steps: ClockSteps, first: int, last: int) -> tuple[Millis, Millis]:
    """Return the total steps ahead and back (milliseconds) in the entries after `first` up to `last`."""
    inside = [millis for index, millis in steps if first < index <= last]
    return sum(max(0, millis) for millis in inside), sum(max(0, -millis) for millis in inside)


def widen_for_clock_steps(record: OutageRecord, ahead: Millis, back: Millis) -> OutageRecord:
    """Return an outage with wall times only, its bounds widened to remain defensible.

    The clock was set `ahead` and `back` by those total milliseconds during it, by the record. A step ahead may
    make up all of the minimum, and a step back may have repeated time.
    """
    if record.clock is not None or not (ahead or back):
        return record
    known = record.durations
    least = max(0, known.least - ahead)
    most = None if known.most is None else max(known.most + back, least)
    estimate = uncertainty = None
    if most is not None:
        estimate, uncertainty = round((least + most) / 2), round((most - least) / math.sqrt(3))
    return replace(
        record,
        durations=Durations(least, most, estimate, uncertainty),
        clock=ClockFacts(ahead + back, 0, is_wall=True),
    )
