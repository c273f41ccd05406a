"""The public view: states and outages with their bounds, under pseudonyms.

Each answer is built from the keys that its public shape names, so that keys added elsewhere stay private. A target
is named by its provider and channel, numbered if there are several; all that are on record only share the name
that ends in FORMER. An outage gets another id than on record,
since that id is a hash of the target's name, which could be guessed and tested.
"""

from __future__ import annotations

import hashlib
import hmac
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TypeVar, cast
from zoneinfo import ZoneInfo

from mailwatch.analysis.incident_json import StageJson
from mailwatch.analysis.outage_record import OutageRecord
from mailwatch.analysis.public_json import AvailabilityJson, ObservationJson, OfflineJson
from mailwatch.analysis.response_times import Period, ResponseHistory
from mailwatch.config.recorded_targets import SEE_API, UnknownTargetError
from mailwatch.model import Kind
from mailwatch.store.outage_lists import RecordedTarget
from mailwatch.store.queries import ALL, Part
from mailwatch.times import Millis
from mailwatch.web.public_shapes import (
    AnyIncidentJson,
    IncidentFacts,
    MemberFacts,
    OutageFacts,
    PublicIncidentJson,
    PublicOutageJson,
    PublicStageJson,
    PublicTargetJson,
    StageFacts,
    TargetFacts,
)
from mailwatch.web.read_model import (
    ALL_OUTAGES,
    DocumentRequest,
    EvidenceUnavailableError,
    IncidentListing,
    LedgerSummary,
    LetterPreview,
    Named,
    ObservationQuery,
    OutageDetail,
    OutageListing,
    OutageNeighbours,
    OutageQuery,
    OutageTransition,
    ReadModel,
    TargetCard,
    TargetGoneError,
    own_name,
)
from mailwatch.web.target_detail import TargetDetail

T = TypeVar("T")
MAX_OUTAGES = 200
"""The number of outages of a former target that its page has, the newest."""
FORMER = "(ex)"
"""What the name of a target ends in that is no longer watched: understood in each language of the pages."""


class PublicReadModel:
    """The read model of anonymous visitors, over the full one. Whatever is not public comes back empty.

    `secret` belongs to the ledger, so that public ids survive restarts. `provider_name` returns how a provider is
    named to the reader, from its key.
    """

    vantage_point = ""
    place = ""

    def __init__(self, full: ReadModel, secret: bytes, provider_name: Callable[[str], str] = str) -> None:
        self._full, self._secret, self._provider_name = full, secret, provider_name
        self._real_names: Mapping[str, str] = {}
        """Real names of the targets last shown, by pseudonym: replaced as a whole, so that no lock is needed."""
        self._real_ids: dict[str, str] = {}
        """The ids of outages and incidents by their public ids, as they were asked for."""

    @property
    def zone(self) -> ZoneInfo:
        """The time zone of the pages' local times: the same for all."""
        return self._full.zone

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
        """Return availability and days, without the latest observation. Raises TargetGoneError."""
        if (real := self._real_names.get(name)) is None:
            raise TargetGoneError(name)
        card = self._full.target_card(real, at)
        return TargetCard(phases={}, duration=0.0, ratio=card.ratio, days=card.days, is_filling=card.is_filling)

    def response_series(self, name: str, at: Millis) -> Sequence[Millis | None]:
        """Return nothing: not public."""
        return ()

    def target_detail(self, name: str, at: Millis) -> TargetDetail | None:
        """Return the state, the availability and the outages of a target, and nothing else."""
        shown = {target["target"]: target for target in self.targets()}
        real = self._real_names.get(name)
        found = self._full.target_detail(real, at) if real and name in shown else None
        if found is None:
            return self._former_detail(name)
        return TargetDetail(
            target=shown[name],
            is_watched=True,
            since=found.since,
            first_seen=found.first_seen,
            last_seen=found.last_seen,
            phases={},
            ratios=found.ratios,
            outages=self._outages(found.outages),
            more_outages=found.more_outages,
        )

    def _former_detail(self, name: str) -> TargetDetail | None:
        """Return the outages of targets that are on record only, which share a name."""
        query = OutageQuery(target=name)
        outages = self.outages(query, Part(MAX_OUTAGES))
        if not outages:
            return None
        target: PublicTargetJson = {
            "target": name, "provider": outages[0]["provider"], "kind": Kind(outages[0]["kind"]),
            "state": "unwatched", "last_observation": None, "outcome": None, "cause": None, "failed_phase": None,
            "outage": None,
        }  # fmt: skip
        return TargetDetail(
            target=target, is_watched=False, phases={}, ratios={}, outages=outages,
            more_outages=max(0, self.count_outages(query) - MAX_OUTAGES),
        )  # fmt: skip

    def response_times(self, name: str, period: Period, at: Millis) -> ResponseHistory | None:
        """Return nothing: not public."""
        return None

    def open_since(self) -> Mapping[str, Millis]:
        """Return the first failed check of each target that is down, under its pseudonym."""
        since = self._full.open_since()
        return {public: since[real] for public, real in self._real_names.items() if real in since}

    def offline_since(self) -> Millis | None:
        """Return when our own line was found down."""
        return self._full.offline_since()

    def unknown_reason(self, asked: str) -> str:
        """Return why a name is not public; only public names may be suggested."""
        name = self._names()
        shown = {(one["target"], one["provider"], str(one["kind"])) for one in self._full.targets()}
        known = {name(*one) for one in shown.union(self._full.outage_subjects())}
        return "" if asked in known else str(UnknownTargetError(asked, known, where="", see=SEE_API))

    def outages(
        self, query: OutageQuery = ALL_OUTAGES, part: Part = ALL, named: Named = own_name
    ) -> Sequence[PublicOutageJson]:
        """Return a part of the outages under their pseudonyms. Raises NotInListError."""
        if part.after:
            part = replace(part, after=self._real_outage(part.after) or part.after)
        return self._outages(self._full.outages(query, part, self._named()))

    def list_outages(self, query: OutageQuery, part: Part, named: Named = own_name) -> OutageListing:
        """Return a part of the outages for a page under their pseudonyms."""
        found = self._full.list_outages(query, part, self._named())
        return replace(found, outages=self._outages(found.outages))

    def count_outages(self, query: OutageQuery = ALL_OUTAGES, named: Named = own_name) -> int:
        """Return how many outages match the query."""
        return self._full.count_outages(query, self._named())

    def outage_subjects(self) -> Collection[RecordedTarget]:
        """Return the targets with outages on record under their pseudonyms."""
        name = self._names()
        return {one._replace(target=name(*one)) for one in self._full.outage_subjects()}

    def outage_ids(self) -> Collection[str]:
        """Return the public ids of all outages on record."""
        return [self._pseudonym(real) for real in self._full.outage_ids()]

    def neighbours(self, asked: str) -> OutageNeighbours:
        """Return what is beside an outage, under pseudonyms."""
        real = self._real_outage(asked)
        found = self._full.neighbours(real) if real else OutageNeighbours()
        shared = found.incident
        return OutageNeighbours(
            None if shared is None else replace(shared, id=self._pseudonym(shared.id)),
            found.older and self._pseudonym(found.older),
            found.newer and self._pseudonym(found.newer),
        )

    def outage_json(self, asked: str) -> PublicOutageJson | None:
        """Return one outage under its pseudonym."""
        real = self._real_outage(asked)
        found = self._full.outage_json(real) if real else None
        return None if found is None else self._outages([found])[0]

    def recent_outages(self, limit: int) -> Sequence[PublicOutageJson]:
        """Return the newest outages in memory, under their pseudonyms."""
        return self._outages(self._full.recent_outages(limit))

    def outage(self, asked: str) -> OutageDetail | None:
        """Return one outage, without the texts of servers and control servers."""
        real = self._real_outage(asked)
        found = real and self._full.outage(real)
        if not found:
            return None
        return OutageDetail(
            outage=self._public_record(asked, found.outage),
            transitions=[
                OutageTransition(change.at, change.outcome, change.cause, change.phase, detail="")
                for change in found.transitions
            ],
            guard=None if found.guard is None else replace(found.guard, controls={}),
            clock_bound=found.clock_bound,
            range=None,
            is_cut=found.is_cut,
        )

    def incidents(
        self,
        *,
        only_open: bool = False,
        start: Millis | None = None,
        end: Millis | None = None,
        part: Part = ALL,
    ) -> Sequence[PublicIncidentJson]:
        """Return a part of the incidents under pseudonyms. Raises NotInListError."""
        if part.after:
            part = replace(part, after=self._real_incident(part.after) or part.after)
        found = self._full.incidents(only_open=only_open, start=start, end=end, part=part)
        return [self._incident(one) for one in found]

    def list_incidents(self, part: Part) -> IncidentListing:
        """Return a part of the incidents for a page under pseudonyms."""
        found, name = self._full.list_incidents(part), self._names()
        rows = [
            replace(row, id=self._pseudonym(row.id), target=name(row.target, row.provider, row.kind))
            for row in found.incidents
        ]
        return replace(found, incidents=rows)

    def incident_ids(self) -> Collection[str]:
        """Return the public ids of all incidents."""
        return [self._pseudonym(real) for real in self._full.incident_ids()]

    def incident(self, asked: str) -> PublicIncidentJson | None:
        """Return one incident under pseudonyms."""
        real = self._real_incident(asked)
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

    def storage_notes(self) -> list[str]:
        """Return nothing: not public."""
        return []

    def waiting(self) -> tuple[int, Millis] | None:
        """Return what waits for the database."""
        return self._full.waiting()

    def standby(self) -> str | None:
        """Return "" if this node stands by: names of machines are not public."""
        return None if self._full.standby() is None else ""

    def try_reading(self) -> None:
        """Read a little of the ledger."""
        self._full.try_reading()

    def stale_reasons(self) -> list[str]:
        """Return whether the data may be stale, without the reasons."""
        return ["ill"] if self._full.stale_reasons() else []

    def metrics(self) -> Iterator[bytes]:
        """Return nothing: not public."""
        return iter(())

    def share_key(self) -> bytes:
        """Return no secret."""
        return b""

    async def document(self, wanted: DocumentRequest) -> Path:
        """Raise EvidenceUnavailableError: documents are never public."""
        raise EvidenceUnavailableError("documents are not public; log in")

    async def letter_preview(self, outage: str, language: str, formal: bool) -> LetterPreview:
        """Raise EvidenceUnavailableError: letters are never public."""
        raise EvidenceUnavailableError("letters are not public; log in")

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
            "stages": [_public_stage(stage, names) for stage in incident["stages"]],
        }

    def _pseudonym(self, real: str) -> str:
        """Return the public id of a real id, in the same form."""
        return hmac.digest(self._secret, f"public\n{real}".encode(), hashlib.sha256).hex()[:12]

    def _real_outage(self, public_id: str) -> str | None:
        return self._real_id(public_id, self._full.outage_ids())

    def _real_incident(self, public_id: str) -> str | None:
        return self._real_id(public_id, self._full.incident_ids())

    def _real_id(self, public_id: str, known: Collection[str]) -> str | None:
        """Return the one of the known ids that has this public id; of each id it is computed once."""
        if public_id not in self._real_ids:
            computed = self._real_ids.values()
            fresh = set(known).difference(computed)
            self._real_ids.update((self._pseudonym(real), real) for real in fresh)
        real = self._real_ids.get(public_id)
        # The id of an incident that became part of another is no longer one.
        return real if real in known else None

    def _named(self) -> Named:
        name = self._names()
        return lambda one: name(*one)

    def _names(self) -> Callable[[str, str, str], str]:
        """Return a function that names a target, given its real name, by its provider and channel."""
        known = self._full.targets()
        several = Counter(self._name(target["provider"], target["kind"]) for target in known)
        counted: Counter[str] = Counter()
        named: dict[str, str] = {}
        for target in known:
            name = self._name(target["provider"], target["kind"])
            counted[name] += 1
            named[target["target"]] = name + (f" {counted[name]}" if several[name] > 1 else "")
        # A target that is no longer watched has no number, and no outage of it is one of those that are watched.
        return lambda real, provider, kind: named.get(real) or f"{self._name(provider, kind)} {FORMER}"

    def _name(self, provider: str, kind: str) -> str:
        # A name with a slash would be two parts of a path.
        return f"{self._provider_name(provider)} {kind}".replace("/", "-").strip()


def _only(json: Mapping[str, object], facts: type[T]) -> T:
    """Return only the facts that the shape `facts` names."""
    return cast(T, {key: json[key] for key in facts.__annotations__ if key in json})


def _public_stage(stage: StageJson | PublicStageJson, names: Mapping[str, str]) -> PublicStageJson:
    """Return a stage under the public names of its targets."""
    facts = _only(stage, StageFacts)
    found: PublicStageJson = {
        "at": facts["at"],
        "targets_down": facts["targets_down"],
        "channels_down": facts["channels_down"],
        "trouble": facts["trouble"],
        "failed": [names[one] for one in stage["failed"]],
        "restored": [names[one] for one in stage["restored"]],
    }
    if paused := stage.get("paused"):
        found["paused"] = [names[one] for one in paused]
    return found
