"""The public view: states and outages with their bounds, under pseudonyms.

Each answer is built from the keys that its public shape names, so that keys added elsewhere stay private. A target
is named by its provider and channel, numbered if there are several. An outage gets another id than on record,
since that id is a hash of the target's name, which could be guessed and tested.
"""

from __future__ import annotations

import hashlib
import hmac
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TypeVar, cast

from mailwatch.analysis.outage_record import OutageRecord
from mailwatch.analysis.public_json import AvailabilityJson, ObservationJson, OfflineJson
from mailwatch.config.recorded_targets import SEE_API, UnknownTargetError
from mailwatch.times import Millis
from mailwatch.web.read_model import (
    AnyIncidentJson,
    EvidenceUnavailableError,
    GuardAnswer,
    IncidentFacts,
    LedgerSummary,
    MemberFacts,
    ObservationQuery,
    OutageDetail,
    OutageFacts,
    OutageTransition,
    PublicIncidentJson,
    PublicOutageJson,
    PublicTargetJson,
    ReadModel,
    StageFacts,
    TargetCard,
    TargetFacts,
)

T = TypeVar("T")


class PublicReadModel:
    """The read model of anonymous visitors, over the full one. Whatever is not public comes back empty.

    `secret` belongs to the ledger, so that public ids survive restarts.
    """

    vantage_point = ""
    place = ""

    def __init__(self, full: ReadModel, secret: bytes) -> None:
        self._full, self._secret = full, secret
        self._real_names: Mapping[str, str] = {}
        """Real names of the targets last shown, by pseudonym: replaced as a whole, so that no lock is needed."""

    def is_unguarded(self) -> bool:
        """Return nothing: not public."""
        return False

    def targets(self) -> Sequence[PublicTargetJson]:
        """Return the watched targets under their pseudonyms."""
        name, found = self._names(), self._full.targets()
        names = {one["target"]: name(one["target"], one["provider"], one["kind"]) for one in found}
        self._real_names = {public: real for real, public in names.items()}
        return [
            {
                **_only(target, TargetFacts),
                "target": names[target["target"]],
                "outage": target["outage"] and self._pseudonym(target["outage"]),
            }
            for target in found
        ]

    def target_card(self, name: str, at: Millis) -> TargetCard:
        """Return availability and days, without the latest observation."""
        card = self._full.target_card(self._real_names[name], at)
        return TargetCard(phases={}, duration=0.0, ratio=card.ratio, days=card.days, is_filling=card.is_filling)

    def unknown_reason(self, asked: str) -> str:
        """Return why a name is not public; only public names may be suggested."""
        name = self._names()
        shown = [*self._full.targets(), *self._full.outages()]
        known = {name(one["target"], one["provider"], one["kind"]) for one in shown}
        return "" if asked in known else str(UnknownTargetError(asked, known, where="", see=SEE_API))

    def outages(
        self, *, only_open: bool = False, start: Millis | None = None, end: Millis | None = None
    ) -> Sequence[PublicOutageJson]:
        """Return the outages under their pseudonyms."""
        return self._outages(self._full.outages(only_open=only_open, start=start, end=end))

    def recent_outages(self) -> Sequence[PublicOutageJson]:
        """Return the outages in memory, under their pseudonyms."""
        return self._outages(self._full.recent_outages())

    def outage(self, asked: str) -> OutageDetail | None:
        """Return one outage, without the texts of servers and control servers."""
        real = self._real_id(asked, (outage["id"] for outage in self._full.outages()))
        found = real and self._full.outage(real)
        if not found:
            return None
        return OutageDetail(
            outage=self._public_record(asked, found.outage),
            transitions=[
                OutageTransition(change.at, change.outcome, change.cause, change.phase, detail="")
                for change in found.transitions
            ],
            guard=None if found.guard is None else GuardAnswer(found.guard.online, {}),
            clock_bound=found.clock_bound,
            range=None,
        )

    def incidents(
        self, *, only_open: bool = False, start: Millis | None = None, end: Millis | None = None
    ) -> Sequence[PublicIncidentJson]:
        """Return the incidents under pseudonyms."""
        return [self._incident(one) for one in self._full.incidents(only_open=only_open, start=start, end=end)]

    def incident(self, asked: str) -> PublicIncidentJson | None:
        """Return one incident under pseudonyms."""
        real = self._real_id(asked, (incident["id"] for incident in self._full.incidents()))
        found = real and self._full.incident(real)
        return self._incident(found) if found else None

    def observations(self, query: ObservationQuery) -> Sequence[ObservationJson]:
        """Return nothing: not public."""
        return []

    def offline(self, start: Millis | None, end: Millis | None) -> Sequence[OfflineJson]:
        """Return nothing: not public."""
        return []

    def availability(self, target: str | None, start: Millis, end: Millis) -> Sequence[AvailabilityJson]:
        """Return nothing: not public."""
        return []

    def ledger(self) -> LedgerSummary | None:
        """Return nothing: not public."""
        return None

    def change_token(self) -> str:
        """Return a token that changes when anything on the pages changes."""
        return self._full.change_token()

    def unready_reasons(self) -> list[str]:
        """Return nothing: not public."""
        return []

    def stale_reasons(self) -> list[str]:
        """Return whether the data may be stale, without the reasons."""
        return ["ill"] if self._full.stale_reasons() else []

    def metrics(self) -> Iterator[bytes]:
        """Return nothing: not public."""
        return iter(())

    async def evidence(self, identity: str, language: str) -> Path:
        """Raise EvidenceUnavailableError: evidence is never public."""
        raise EvidenceUnavailableError("evidence is not public; log in")

    def _outages(self, outages: Iterable[PublicOutageJson]) -> list[PublicOutageJson]:
        name = self._names()
        return [
            {
                **_only(outage, OutageFacts),
                "id": self._pseudonym(outage["id"]),
                "target": name(outage["target"], outage["provider"], outage["kind"]),
            }
            for outage in outages
        ]

    def _public_record(self, public_id: str, outage: OutageRecord) -> OutageRecord:
        """Return a new record of what is public, so that a field that is added elsewhere stays hidden."""
        return OutageRecord(
            id=public_id,
            target=self._names()(outage.target, outage.provider, outage.kind),
            provider=outage.provider,
            kind=outage.kind,
            vantage_point="",
            last_good=outage.last_good,
            first_bad=outage.first_bad,
            last_bad=outage.last_bad,
            first_good=outage.first_good,
            unwatched=outage.unwatched,
            down=outage.down,
            up=outage.up,
            unknown=outage.unknown,
            largest_gap=outage.largest_gap,
            unobserved=outage.unobserved,
            causes=outage.causes,
            phases=outage.phases,
            durations=outage.durations,
            proven_afterwards=outage.proven_afterwards,
            maintenance=outage.maintenance,
            clock=outage.clock,
            replies=(),
            first_index=0,
            last_index=0,
            first_detail="",
        )

    def _incident(self, incident: AnyIncidentJson) -> PublicIncidentJson:
        name = self._names()
        provider = incident["provider"]
        names = {one["target"]: name(one["target"], provider, one["kind"]) for one in incident["outages"]}
        return {
            **_only(incident, IncidentFacts),
            "id": self._pseudonym(incident["id"]),
            "outages": [
                {
                    **_only(member, MemberFacts),
                    "id": self._pseudonym(member["id"]),
                    "target": names[member["target"]],
                }
                for member in incident["outages"]
            ],
            "stages": [
                {
                    **_only(stage, StageFacts),
                    "failed": [names[one] for one in stage["failed"]],
                    "restored": [names[one] for one in stage["restored"]],
                }
                for stage in incident["stages"]
            ],
        }

    def _pseudonym(self, real: str) -> str:
        """Return the public id of a real id, in the same form."""
        return hmac.digest(self._secret, f"public\n{real}".encode(), hashlib.sha256).hex()[:12]

    def _real_id(self, public_id: str, candidates: Iterable[str]) -> str | None:
        return next((real for real in candidates if self._pseudonym(real) == public_id), None)

    def _names(self) -> Callable[[str, str, str], str]:
        """Return a function that names a target, given its real name, by its provider and channel."""
        known = self._full.targets()
        several = Counter((target["provider"], target["kind"]) for target in known)
        counted: Counter[tuple[str, str]] = Counter()
        named: dict[str, str] = {}
        for target in known:
            place = target["provider"], target["kind"]
            counted[place] += 1
            named[target["target"]] = _name(*place) + (f" {counted[place]}" if several[place] > 1 else "")
        # A target that is no longer watched has no number.
        return lambda real, provider, kind: named.get(real) or _name(provider, kind)


def _only(json: Mapping[str, object], facts: type[T]) -> T:
    """Return only the facts that the shape `facts` names."""
    return cast(T, {key: json[key] for key in facts.__annotations__ if key in json})


def _name(provider: str, kind: str) -> str:
    return f"{provider} {kind}".strip()
