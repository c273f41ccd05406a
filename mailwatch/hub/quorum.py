"""Decides, as pushes arrive, which channels are confirmed down, and audits those decisions on record.

Each change is an entry `quorum` in the hub's own ledger. It names the vantage points, how many entries of each
were here then, and when the last of them arrived: whoever has the same entries comes to the same decision.
"""

from __future__ import annotations

import contextlib
import logging
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import orjson

from mailwatch.analysis.confirmation import (
    FOLLOWED_KINDS,
    Channel,
    Confirmation,
    ConfirmedOutage,
    MemberRecord,
    MemberView,
    Sight,
    confirm,
)
from mailwatch.hub.successions import Successions
from mailwatch.ledger.push import PushedEntry
from mailwatch.model import Outcome
from mailwatch.store import Entry, Finding, Reader, StoreDamagedError, StoreError
from mailwatch.store.errors import DatabaseAwayError
from mailwatch.store.hub_register import HubMember, HubRegister
from mailwatch.store.member_ledger import member_place
from mailwatch.store.place import Place
from mailwatch.times import Millis

logger = logging.getLogger(__name__)

KIND = "quorum"


class QuorumBoard:
    """Follows the members of a hub, and the hub's own targets: it is a vantage point too.

    `own`, `origin`: its own ledger and the name of that. `k`: how many confirm. For one thread at a time.
    """

    def __init__(self, hub: Path | Place, own: Reader, origin: str, k: int) -> None:
        self._hub, self._own, self.origin, self.k = hub, own, origin, k
        self.members: dict[str, MemberRecord] = {}
        self.confirmed: dict[Channel, Confirmation] = {}
        """The channels that are confirmed down."""
        self._unreadable: set[str] = set()

    def restore(self, members: Mapping[str, Millis]) -> None:
        """Read what is on record of the members, by the names of their ledgers with the time of the last push, and
        which channels are confirmed. Raises StoreError.
        """
        self.members.clear()
        self.confirmed.clear()
        for ledger, pushed_at in members.items():
            self._read(ledger, pushed_at)
        seen = set[Channel]()
        for entry in self._own.entries(kinds=[KIND], descending=True):
            payload = entry.payload
            channel = channel_from(payload)
            if channel not in seen:
                seen.add(channel)
                if payload["confirmed"]:
                    self.confirmed[channel] = decision_from(payload)

    def feed(self, ledger: str, entries: Iterable[PushedEntry], size: int, at: Millis) -> None:
        """Follow what a member pushed up to `size` entries, which arrived at `at`. Raises StoreError."""
        member = self.members.get(ledger)
        if member is None:
            self._read(ledger, at)
            return
        fresh = [entry for entry in entries if entry.idx >= member.size]
        if len(fresh) < size - member.size:
            # Some were pruned before they were pushed, or were too many to wait in memory.
            self._read(ledger, at)
            return
        for entry in fresh:
            if entry.kind in FOLLOWED_KINDS and entry.payload is not None:
                member.feed(entry.idx, entry.kind, entry.target, orjson.loads(entry.payload))
            if entry.idx == size - 1 and size > member.size:
                member.newest = entry.time
        member.size, member.pushed_at = max(member.size, size), max(member.pushed_at, at)

    def _read(self, ledger: str, at: Millis) -> None:
        """Read what is on record of a member; one that cannot be read says nothing, and the others go on."""
        try:
            self.members[ledger] = read_member(self._hub, ledger, at)
        except DatabaseAwayError:
            raise
        except (StoreError, OSError, KeyError, TypeError, ValueError, AttributeError) as error:
            if ledger not in self._unreadable:
                why = error.public_reason if isinstance(error, StoreError) else f"{type(error).__name__} {error}"
                logger.error("hub: the ledger %s cannot be read, and does not count: %s", ledger, why)
            self._unreadable.add(ledger)
        else:
            self._unreadable.discard(ledger)

    def follow_own(self, at: Millis) -> None:
        """Follow what the hub itself has observed by now. Raises StoreError."""
        size, member = self._own.size(), self.members.get(self.origin)
        if member is None:
            self.members[self.origin] = read_record(self._own, MemberRecord(self.origin, size, at))
            return
        for entry in self._own.entries(kinds=FOLLOWED_KINDS, from_index=member.size, to_index=size):
            member.feed(entry.index, entry.kind, entry.target or "", entry.payload)
        member.size, member.pushed_at = size, at

    def forget(self, ledger: str) -> None:
        """Count a vantage point no more."""
        self.members.pop(ledger, None)

    def changes(self, at: Millis) -> list[Confirmation]:
        """Return the channels that became, or are no longer, confirmed down, and take that for known."""
        found = []
        for channel in self._channels():
            decided = confirm(channel, self.members.values(), self.k, at)
            if decided.confirmed != (channel in self.confirmed):
                found.append(decided)
                if decided.confirmed:
                    self.confirmed[channel] = decided
                else:
                    del self.confirmed[channel]
        return found

    def _channels(self) -> list[Channel]:
        """Return what is confirmed, and what as many observe as can confirm it: others need no decision."""
        observed = Counter(channel for member in self.members.values() for channel in member.channels())
        common = {channel for channel, count in observed.items() if count >= self.k}
        return sorted(common | self.confirmed.keys(), key=str)

    def payload(self, decided: Confirmation) -> dict[str, object]:
        """Return the payload of the entry about a change."""
        channel = decided.channel
        written: dict[str, object] = {
            "at": decided.at,
            "confirmed": decided.confirmed,
            "k": decided.k,
            "kind": channel.kind,
            "members": [self._member_json(view) for view in decided.views],
        }
        written |= {"target": channel.target} if channel.target else {"provider": channel.provider}
        if decided.since is not None:
            written |= {"since": decided.since, "not_before": decided.not_before}
        return written

    def _member_json(self, view: MemberView) -> dict[str, object]:
        member = self.members[view.ledger]
        written: dict[str, object] = {
            "ledger": view.ledger,
            "size": member.size,
            "pushed": member.pushed_at,
            "sight": view.sight.value,
        }
        if view.reason:
            written["reason"] = view.reason
        if view.sight is Sight.DOWN:
            written |= {"entry": view.entry, "first_bad": view.first_bad, "last_good": view.last_good}
        return written


def read_member(hub: Path | Place, ledger: str, pushed_at: Millis, size: int | None = None) -> MemberRecord:
    """Return what is on record of a member, of its first `size` entries. Raises StoreError."""
    try:
        opened = contextlib.closing(Reader.open(member_place(hub, ledger)))
    except FileNotFoundError:
        # It joined, and has pushed nothing yet.
        return MemberRecord(ledger, 0, pushed_at)
    with opened as reader:
        made = MemberRecord(ledger, reader.size() if size is None else size, pushed_at)
        made.newest = _newest_time(reader, made.size)
        return read_record(reader, made)


def newest_time(hub: Path | Place, ledger: str, size: int) -> Millis | None:
    """Return how a member dated entry `size` - 1, None if it is not here. Raises StoreError."""
    try:
        opened = contextlib.closing(Reader.open(member_place(hub, ledger)))
    except FileNotFoundError:
        return None
    with opened as reader:
        return _newest_time(reader, size)


def _newest_time(reader: Reader, size: int) -> Millis | None:
    try:
        return reader.latest_time(size - 1, size) if size else None
    except ValueError:
        # It was pruned before it was pushed.
        return None


def read_record(reader: Reader, made: MemberRecord) -> MemberRecord:
    """Fill a record from the ledger, and return it. Raises StoreError.

    Only the newest entries of each target matter, so a year of them is not read.
    """
    for target in reader.targets():
        newest = [found for kind in FOLLOWED_KINDS if (found := _newest(reader, target, kind, made.size))]
        for outcome in (Outcome.DOWN, Outcome.UNKNOWN):
            if (found := _newest(reader, target, "observation", made.size, outcome)) is not None:
                newest.append(found)
        fed = {one.index: one for one in newest}
        ends = [made.size, *(one.index for one in newest if one.kind == "outage")]
        fed |= {one.index: one for end in ends for one in _failing_since(reader, target, end)}
        for index in sorted(fed):
            made.feed(index, fed[index].kind, target, fed[index].payload)
    return made


def _failing_since(reader: Reader, target: str, end: int) -> list[Entry]:
    """Return the latest good check before entry `end`, or its first entry, and the first failure since."""
    good = _newest(reader, target, "observation", end, Outcome.UP)
    since = 0 if good is None else good.index
    for change in reader.entries(target=target, kinds=["watch"], from_index=since, to_index=end):
        good = change if change.payload.get("event") in ("begin", "end") else good
    since = 0 if good is None else good.index
    failed = reader.entries(
        target=target, kinds=["observation"], outcome=Outcome.DOWN, from_index=since, to_index=end, limit=1
    )
    return [*([good] if good is not None else []), *failed]


def _newest(reader: Reader, target: str, kind: str, size: int, outcome: Outcome | None = None) -> Entry | None:
    found = reader.entries(target=target, kinds=[kind], outcome=outcome, to_index=size, descending=True, limit=1)
    return next(iter(found), None)


def channel_from(payload: Mapping[str, Any]) -> Channel:
    """Return the channel of an entry `quorum`. Raises KeyError."""
    return Channel(payload.get("provider", ""), payload["kind"], payload.get("target", ""))


def decision_from(payload: Mapping[str, Any]) -> Confirmation:
    """Return the decision of an entry `quorum`. Raises KeyError, ValueError."""
    views = tuple(map(_view_from, payload["members"]))
    return Confirmation(
        channel_from(payload), payload["at"], payload["k"], views, payload["confirmed"], payload.get("since"),
        payload.get("not_before"),
    )  # fmt: skip


def confirmed_outages(own: Reader) -> list[ConfirmedOutage]:
    """Return the confirmed outages on record, the newest first. Raises StoreError."""
    found: list[ConfirmedOutage] = []
    open_since: dict[Channel, ConfirmedOutage] = {}
    for entry in own.entries(kinds=[KIND]):
        decided = decision_from(entry.payload)
        if decided.confirmed:
            open_since[decided.channel] = ConfirmedOutage(decided, None, entry.index)
        elif (begun := open_since.pop(decided.channel, None)) is not None:
            found.append(ConfirmedOutage(begun.begun, decided.at, begun.entry))
    found += open_since.values()
    return sorted(found, key=lambda one: one.begun.at, reverse=True)


def _view_from(one: Mapping[str, Any]) -> MemberView:
    bounds = one.get("last_good"), one.get("first_bad", 0), one.get("entry", -1)
    return MemberView(one["ledger"], Sight(one["sight"]), *bounds, one.get("reason", ""))


def audit_decisions(own: Reader, origin: str, hub: Path | Place) -> Iterator[Finding]:
    """Compare each decision on record with what the members' entries give; yield those that differ.

    `own`, `origin`: the hub's ledger and its name. Raises StoreError.
    """
    twice = _CountedTwice(hub)
    for entry in own.entries(kinds=[KIND]):
        try:
            on_record = decision_from(entry.payload)
            members = [
                read_record(own, MemberRecord(origin, one["size"], one["pushed"]))
                if one["ledger"] == origin
                else read_member(hub, one["ledger"], one["pushed"], one["size"])
                for one in entry.payload["members"]
            ]
        except StoreDamagedError as error:
            yield Finding(entry.index, f"what a vantage point had pushed cannot be read: {error.public_reason}")
            continue
        except (KeyError, ValueError, TypeError) as error:
            yield Finding(entry.index, f"the decision cannot be read: {type(error).__name__}")
            continue
        if found := twice.among([member.ledger for member in members if member.size]):
            yield Finding(entry.index, f"it counts {found}, for which another of its vantage points goes on")
        if confirm(on_record.channel, members, on_record.k, on_record.at) != on_record:
            what = f"the entries of its vantage points give another decision about {on_record.channel}"
            yield Finding(entry.index, what)


class _CountedTwice:
    """Finds members that a decision counts beside their successors."""

    def __init__(self, hub: Path | Place) -> None:
        self._hub, self._successions = hub, Successions(hub)
        self._members: dict[str, HubMember] | None = None

    def among(self, ledgers: Iterable[str]) -> str:
        """Return the first of some ledgers that should not count beside the others, "" if there is none."""
        if self._members is None:
            with contextlib.closing(HubRegister(self._hub, read_only=True)) as register:
                self._members = {one.origin: one for one in register.members()}
        members = [self._members[ledger] for ledger in ledgers if ledger in self._members]
        return min(self._successions.replaced(members), default="")
