"""The read model of a few targets, to render pages without a running MailWatch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any
from zoneinfo import ZoneInfo

from starlette.requests import Request

from mailwatch.analysis.rolling_availability import AvailabilityRatio, DayAvailability
from mailwatch.store.outage_lists import RecordedTarget
from mailwatch.store.queries import ALL, Part
from mailwatch.times import DAY_MS, parse_rfc3339, rfc3339
from mailwatch.web.read_model import (
    ALL_OUTAGES,
    IncidentListing,
    OutageDetail,
    OutageListing,
    OutageNeighbours,
    OutageQuery,
    TargetCard,
    TargetGoneError,
)
from mailwatch.web.target_detail import TargetDetail

AT = parse_rfc3339("2026-01-23T10:00:00Z")


def a_target(name: str, state: str = "up", provider: str = "libero", **more: Any) -> dict[str, Any]:
    """Return a target of the overview."""
    facts = {"kind": "imap", "outcome": state, "cause": None, "failed_phase": None, "detail": "", "outage": None}
    return facts | {"target": name, "state": state, "provider": provider, "last_observation": rfc3339(AT)} | more


def a_request(path: str = "/", query: str = "") -> Request:
    """Return a request for a page."""
    return Request({"type": "http", "method": "GET", "path": path, "query_string": query.encode(), "headers": []})


@dataclass
class FewTargets:
    """The data of a few targets."""

    found: list[dict[str, Any]]
    since: Mapping[str, int] = field(default_factory=dict)
    own_line_down: int | None = None
    stale: list[str] = field(default_factory=list)
    details: Mapping[str, Any] = field(default_factory=dict)
    """Further facts of each target's page."""
    outages_on_record: list[dict[str, Any]] = field(default_factory=list)
    outage_details: Mapping[str, OutageDetail] = field(default_factory=dict)
    vantage_point = place = ""
    zone = ZoneInfo("Europe/Rome")
    gone: set[str] = field(default_factory=set)
    """Targets that a reload removes as soon as they are listed."""
    cards: int = 0
    """How many cards were asked for."""

    def targets(self) -> list[dict[str, Any]]:
        return self.found

    def target_card(self, name: str, at: int) -> TargetCard:
        self.cards += 1
        if name in self.gone:
            raise TargetGoneError(name)
        days = [DayAvailability(0, DAY_MS, DAY_MS, 0, 0, 0)] * 90
        return TargetCard(
            phases={"connect": 0.1, "auth": 0.2}, duration=9.0, ratio=AvailabilityRatio(0.9999, 1.0, 0.5),
            days=days, is_filling=False,
        )  # fmt: skip

    def target_detail(self, name: str, at: int) -> TargetDetail | None:
        one: Any = next((target for target in self.found if target["target"] == name), None)
        return one and TargetDetail(
            **{"target": one, "is_watched": True, "phases": {}, "ratios": {}, **self.details}
        )

    def response_times(self, name: str, period: object, at: int) -> None:
        return None

    def observations(self, query: object) -> list[Any]:
        return []

    def response_series(self, name: str, at: int) -> list[int | None]:
        if name in self.gone:
            raise TargetGoneError(name)
        return [None, 100, 200]

    def open_since(self) -> Mapping[str, int]:
        return self.since

    def offline_since(self) -> int | None:
        return self.own_line_down

    def unknown_reason(self, name: str) -> str:
        known = [one["target"] for one in [*self.found, *self.outages_on_record]]
        return "" if name in known else f"there is no target {name}"

    def outages(self, query: OutageQuery = ALL_OUTAGES, part: Part = ALL, named: Any = None) -> list[Any]:
        def name(one: dict[str, Any]) -> str:
            target = RecordedTarget(one["target"], one["provider"], one["kind"])
            return str(one["target"] if named is None else named(target))

        found = [one for one in self.outages_on_record if query.matches(name(one), one["provider"], one["state"])]
        ids = [one["id"] for one in found]
        return list(part.of(found, lambda after: ids.index(after) if after in ids else None))

    def count_outages(self, *asked: Any) -> int:
        return len(self.outages(asked[0] if asked else ALL_OUTAGES, ALL, *asked[1:]))

    def list_outages(self, query: OutageQuery, part: Part, named: Any = None) -> OutageListing:
        providers = sorted({one["provider"] for one in self.outages_on_record})
        return OutageListing(self.outages(query, part, named), self.count_outages(query, named), providers)

    def outage_subjects(self) -> set[RecordedTarget]:
        on_record = self.outages_on_record
        return {RecordedTarget(one["target"], one["provider"], str(one["kind"])) for one in on_record}

    def outage_ids(self) -> list[str]:
        return [one["id"] for one in self.outages_on_record]

    def neighbours(self, identity: str) -> OutageNeighbours:
        return OutageNeighbours()

    def incident_ids(self) -> list[str]:
        return []

    def outage(self, identity: str) -> OutageDetail | None:
        return self.outage_details.get(identity)

    def incidents(self, **_: object) -> list[Any]:
        return []

    def list_incidents(self, part: Part) -> IncidentListing:
        return IncidentListing([], 0)

    def recent_outages(self, limit: int) -> list[Any]:
        return self.outages_on_record[:limit]

    def change_token(self) -> str:
        return "1"

    def waiting(self) -> None:
        """Return None: nothing waits."""

    def standby(self) -> None:
        """Return None: there is one node."""

    def stale_reasons(self) -> list[str]:
        return self.stale

    def is_unguarded(self) -> bool:
        return False
