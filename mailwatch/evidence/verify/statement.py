"""Recomputes a bundle's statement while its entries are read, and compares the two.

For outage.json: the outage. For period.json: the availability and outages of each target.
"""

from __future__ import annotations

from typing import TypeVar, cast

from mailwatch.analysis import segments
from mailwatch.analysis.elapsed import Moment
from mailwatch.analysis.outage import Outage
from mailwatch.analysis.outage_record import (
    OutageRecord,
    clock_steps_between,
    subject_from,
    widen_for_clock_steps,
)
from mailwatch.analysis.public_json import EntriesJson, OutageJson, outage_json
from mailwatch.analysis.replay import FactListener, PeriodReplay, ReplayError, TargetReplay
from mailwatch.evidence.claims.evaluate import check_claim
from mailwatch.evidence.stated import OutageStatement, PeriodStatement, PeriodTarget
from mailwatch.evidence.verify.archive import Archive, VerificationError
from mailwatch.evidence.verify.entries import LedgerScan
from mailwatch.ledger.payloads import FACT_KINDS
from mailwatch.ledger.settings_payloads import rules_from, rules_payload
from mailwatch.times import parse_duration, parse_rfc3339

DEFAULT_INTERVAL_SECONDS = 60.0


class OutageCheck:
    """Checks outage.json against a replay. An error is kept until compare(): other claims come first."""

    def __init__(self, archive: Archive, listener: FactListener) -> None:
        self.stated = cast(OutageStatement, {})
        self.anchors: dict[str, Moment | None] = {}
        """A moment of the outage as displayed, by outage id; set by compare()."""
        self._fault = self._target = self._id = ""
        self._recorded: dict[str, object] | None = None
        try:
            read = archive.json("outage.json")
            self.stated = cast(OutageStatement, read)
            stated_outage = _typed_value(read, "outage", dict)
            self._target, self._id = _typed_value(stated_outage, "target", str), str(stated_outage.get("id"))
            self._rules = rules_from(_typed_value(read, "rules", dict))
            if rules_payload(self._rules) != self.stated["rules"]:
                raise VerificationError("the stated rules do not have the form of rules")
            self._replay = TargetReplay(
                segments.Segmenter(_interval_of(self.stated.get("service")), infer=True), listener
            )
        except VerificationError as error:
            self._fault = str(error)
        except (KeyError, ValueError, TypeError, OverflowError) as error:
            self._fault = f"outage.json has no rules that can be read: {type(error).__name__} {error}"[:200]

    @property
    def entries(self) -> EntriesJson:
        """Indexes of the first and the last entry of the outage."""
        return self.stated["outage"]["ledger"]

    @property
    def stated_outages(self) -> list[OutageJson]:
        """The outage, as it is stated."""
        return [self.stated["outage"]]

    def feed(self, index: int, kind: str, time: int, target: str, payload: dict[str, object]) -> None:
        """Process an entry that has a payload."""
        if self._fault or target != self._target:
            return
        try:
            if kind in FACT_KINDS:
                self._replay.feed(index, kind, payload, self._rules)
                for other in self._replay.outages.keys() - {self._id}:
                    del self._replay.outages[other]
            elif kind == "outage" and payload.get("id") == self._id:
                self._recorded = payload
        except (KeyError, ValueError, TypeError, AttributeError, OverflowError) as error:
            self._fault = f"entry {index} is no {kind}: {type(error).__name__} {error}"[:200]

    def compare(self, scan: LedgerScan) -> str:
        """Return what was compared, in words. Raises VerificationError if a replay gives other results."""
        if self._fault:
            raise VerificationError(self._fault)
        if self._target not in scan.names.values():
            raise VerificationError(f"no entry of {self._target[:80]} is in the bundle")
        if self.stated["rules"] != _recorded_rules(scan, self._recorded):
            raise VerificationError("the stated rules are not those on record")
        outage, count = self._outage()
        self.anchors = {outage.id: outage.anchor}
        stated_outage = self.stated["outage"]
        names = self._recorded or stated_outage
        try:
            record = _widen_bounds(OutageRecord.of(outage, subject_from(names)), scan, stated_outage)
            public = outage_json(record)
        except (KeyError, ValueError, TypeError, OverflowError) as error:
            raise VerificationError(f"the outage does not say what it is of: {error}"[:200]) from None
        beside = {key: value for key, value in stated_outage.items() if key not in public and key in _ADDED}
        given, stated = {**public, **beside}, {**stated_outage}
        if given != stated:
            wrong = [key for key in given.keys() | stated.keys() if given.get(key) != stated.get(key)]
            raise VerificationError(
                f"a replay of {count} observations gives another outage in: {', '.join(sorted(wrong))}"
            )
        for key, replayed in (("replies", list(record.replies)), ("first_detail", record.first_detail)):
            if self.stated.get(key) != replayed:
                raise VerificationError(f"a replay gives another {key}")
        words = (
            f"{count} observations of {self._target}, replayed by the rules on record, give the outage as stated"
        )
        if "claim" in self.stated:
            try:
                words += f"; the claim is {check_claim(self.stated['claim'], stated_outage)}"
            except (KeyError, ValueError, TypeError, OverflowError) as error:
                raise VerificationError(f"the claim is not valid: {error}"[:200]) from None
        return words

    def _outage(self) -> tuple[Outage, int]:
        try:
            self._replay.flush(self._rules)
        except (KeyError, ValueError, TypeError, AttributeError, OverflowError) as error:
            raise VerificationError(
                f"the last observation cannot be read: {type(error).__name__} {error}"[:200]
            ) from None
        count, known = self._replay.observation_count, self._replay.all_outages
        if self._id not in known:
            raise VerificationError(f"a replay of {count} observations gives no outage {self._id[:20]}")
        return known[self._id], count


def _widen_bounds(record: OutageRecord, scan: LedgerScan, stated: OutageJson) -> OutageRecord:
    """Widen the bounds of an outage with wall times only by the clock steps during it."""
    ahead, back = clock_steps_between(scan.steps, record.first_index, record.last_index)
    wide = widen_for_clock_steps(record, ahead, back)
    if wide is not record and "clock" not in stated:
        raise VerificationError(
            f"the clock was set by {ahead + back} ms within the outage, which its durations leave out"
        )
    return wide


T = TypeVar("T")
_ADDED = ("maintenance",)
"""Keys that may be stated with the outage and follow from other entries."""


def _recorded_rules(scan: LedgerScan, recorded: dict[str, object] | None) -> object:
    """Return the rules in force, from the outage's own entry, else from the last start of MailWatch."""
    if recorded and "rules" in recorded:
        return recorded["rules"]
    if scan.rules is None:
        raise VerificationError("no entry of the bundle states the rules in force")
    return scan.rules


def _interval_of(service: object) -> float:
    """Return the interval in seconds from the config, else the default: longer times between observations are
    unobserved.
    """
    try:
        return parse_duration(service.get("interval")) if isinstance(service, dict) else DEFAULT_INTERVAL_SECONDS
    except ValueError:
        return DEFAULT_INTERVAL_SECONDS


def _typed_value(value: dict[str, object], key: str, kind: type[T]) -> T:
    found = value.get(key)
    if not isinstance(found, kind):
        raise VerificationError(f"outage.json has no {key}")
    return found


MAX_TARGETS = 1000
MAX_OUTAGES = 20_000
"""Most outages of one target: fifty a day for a year."""


class PeriodCheck:
    """Checks period.json against a replay. An error is kept until compare(): other claims come first."""

    def __init__(self, archive: Archive, listener: FactListener) -> None:
        self.stated = cast(PeriodStatement, {})
        self.anchors: dict[str, Moment | None] = {}
        """A moment of each outage as displayed, by outage id; set by compare()."""
        self._fault = ""
        self._replay: PeriodReplay | None = None
        try:
            self.stated = cast(PeriodStatement, archive.json("period.json"))
            self._replay = _start_replay(self.stated, listener)
        except VerificationError as error:
            self._fault = str(error)
        except (KeyError, ValueError, TypeError, AttributeError, OverflowError) as error:
            self._fault = f"period.json has no window, targets and rules: {type(error).__name__} {error}"[:200]

    @property
    def entries(self) -> EntriesJson:
        """Indexes of the first and the last entry of the window."""
        return self.stated["entries"]

    @property
    def stated_outages(self) -> list[OutageJson]:
        """The outages of the window, as they are stated."""
        return self.stated["outages"]

    def feed(self, index: int, kind: str, time: int, target: str, payload: dict[str, object]) -> None:
        """Process an entry that has a payload."""
        if self._fault or self._replay is None:
            return
        try:
            self._replay.feed(index, kind, time, target or None, payload)
        except ReplayError as error:
            self._fault = str(error)
        account = self._replay.accounts.get(target)
        if account is not None and max(len(account.replay.outages), len(account.recorded)) > MAX_OUTAGES:
            self._fault = f"{target[:80]} has more than {MAX_OUTAGES} outages"

    def compare(self, scan: LedgerScan) -> str:
        """Return what was compared, in words. Raises VerificationError if a replay gives other results."""
        replay = self._replay
        if self._fault or replay is None:
            raise VerificationError(self._fault)
        try:
            replay.flush()
        except ReplayError as error:
            raise VerificationError(str(error)) from None
        _check_coverage(scan, replay)
        replay.ended = scan.last_time
        _check_intervals(self.stated["targets"], replay)
        if scan.first_rules is not None and self.stated["rules"] != scan.first_rules:
            raise VerificationError("the stated rules are not those on record")
        if missing := sorted(replay.accounts.keys() - set(scan.names.values())):
            raise VerificationError(f"no entry of {missing[0][:80]} is in the bundle")
        bounds = replay.bounds()
        if bounds is None or self.stated.get("entries") != {"first": bounds[0], "last": bounds[1]}:
            raise VerificationError(f"the entries of the window are {bounds}, not as stated")
        known = {name: replay.availability_of(name) for name in replay.accounts}
        count = sum(sum(one.observations.values()) for one in known.values())
        # Versions up to 0.2.0 missed steps of the clock within an observation or a gap: their bundles stay valid.
        formerly = {name: replay.availability_of(name, formerly=True) for name in replay.accounts}
        accepted = [[{"target": name} | one.as_json() for name, one in of.items()] for of in (known, formerly)]
        if self.stated.get("availability") not in accepted:
            raise VerificationError("a replay gives another availability")
        try:
            outages = [outage_json(record) for record in replay.records()]
        except (ReplayError, ValueError, OverflowError) as error:
            raise VerificationError(str(error)[:200]) from None
        self.anchors = {outage.id: outage.anchor for outage in replay.outages()}
        if self.stated.get("outages") != outages:
            raise VerificationError(f"a replay of {count} observations gives other outages ({len(outages)})")
        channels = f"{len(known)} channels" if len(known) > 1 else "1 channel"
        words = f"give the availability and {len(outages)} outages as stated"
        return f"{count} observations of {channels}, replayed, {words}"


def _start_replay(stated: PeriodStatement, listener: FactListener) -> PeriodReplay:
    window = parse_rfc3339(stated["window"]["from"]), parse_rfc3339(stated["window"]["to"])
    targets = {one["target"]: one["interval"] for one in stated["targets"]}
    if not 0 < len(targets) == len(stated["targets"]) <= MAX_TARGETS:
        raise VerificationError("period.json lists no target, too many, or one twice")
    for name, interval in targets.items():
        if (
            not isinstance(name, str)
            or isinstance(interval, bool)
            or not isinstance(interval, int | float)
            or interval <= 0
        ):
            raise VerificationError("period.json: a target without name and interval")
    if rules_payload(rules_from(stated["rules"])) != stated["rules"]:
        raise VerificationError("the stated rules do not have the form of rules")
    # Statements from before 2026-11 have a single interval, which applies throughout.
    infer = {"intervals" in one for one in stated["targets"]}
    if len(infer) != 1:
        raise VerificationError("period.json: only some of the targets have intervals")
    return PeriodReplay(window, targets, rules_from(stated["rules"]), listener, infer=infer.pop())


def _check_intervals(targets: list[PeriodTarget], replay: PeriodReplay) -> None:
    """Check that the stated intervals are those on record, or inferred from the observations."""
    for one in targets:
        if "intervals" not in one:
            return
        name = one["target"]
        try:
            intervals, guess = replay.intervals_of(name), replay.inferred_interval(name) / 1000
        except (ValueError, OverflowError) as error:
            raise VerificationError(f"the intervals of {name[:80]} begin at no time: {error}"[:200]) from None
        if (one["intervals"], one["interval"]) != (intervals, guess):
            raise VerificationError(f"the intervals of {name[:80]} are not those on record")


def _check_coverage(scan: LedgerScan, replay: PeriodReplay) -> None:
    """Check that the range extends over the window on both sides; otherwise observations could be omitted at its
    ends.

    If the clock was set meanwhile, the first entry need not be the earliest, nor the last the latest.
    """
    start, end = replay.window
    if scan.first_time is None or scan.last_time is None:
        raise VerificationError("there are no entries")
    if scan.start.size and min([scan.first_time, *(span.earliest for span in scan.spans)]) > start:
        raise VerificationError("the range begins inside the window, and not at the first entry of the ledger")
    if max([scan.last_time, *(span.latest for span in scan.spans)]) < end:
        raise VerificationError("the range ends inside the window")
