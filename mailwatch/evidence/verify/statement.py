"""Recomputes a bundle's statement while its entries are read, and compares the two.

For outage.json: the outage. For period.json: the availability and outages of each target.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, TypeVar, cast

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
from mailwatch.evidence.verify.enclosed import Note
from mailwatch.evidence.verify.entries import LedgerScan
from mailwatch.evidence.verify.recorded import (
    MAX_OUTAGES,
    RecordedOutages,
    check_cause,
    difference,
    first_entry_of,
)
from mailwatch.ledger.canonical_json import canonical
from mailwatch.ledger.entry import login_name_commitment
from mailwatch.ledger.payloads import FACT_KINDS
from mailwatch.ledger.settings_payloads import rules_from, rules_on_record, rules_payload
from mailwatch.model import Rules
from mailwatch.times import Millis, parse_duration, parse_rfc3339

DEFAULT_INTERVAL_SECONDS = 60.0
OUTAGE_FORMAT, PERIOD_FORMAT = "mailwatch-evidence/1", "mailwatch-evidence-period/1"


def check_format(read: Mapping[str, object], name: str, known: str) -> None:
    """Check that a file is in a format of which this version knows all rules. Raises VerificationError."""
    if read.get("format") != known:
        raise VerificationError(f"{name} is in another format than {known}")


class OutageCheck:
    """Checks outage.json against a replay. An error is kept until compare(): other claims come first."""

    def __init__(self, archive: Archive, listener: FactListener) -> None:
        self.stated = cast(OutageStatement, {})
        self.anchors: dict[str, Moment | None] = {}
        """A moment of the outage as displayed, by outage id; set by compare()."""
        self.outages: Sequence[OutageRecord] = ()
        """The outage, with the stated maintenance; set by compare()."""
        self.replay: PeriodReplay | None = None
        """None: it is no period."""
        self._fault = self._target = self._id = ""
        self._recorded: dict[str, object] | None = None
        self._seen: set[str] = set()
        self._foreign: list[tuple[int, dict[str, object]]] = []
        """Ids of other outages that the replay gave, and entries about outages that it had not given by then."""
        self._unproven = False
        """Whether only the statement says which rules are in force: no entry so far does."""
        try:
            read = archive.json("outage.json")
            check_format(read, "outage.json", OUTAGE_FORMAT)
            self.stated = cast(OutageStatement, read)
            stated_outage = _typed_value(read, "outage", dict)
            self._target, self._id = _typed_value(stated_outage, "target", str), str(stated_outage.get("id"))
            self._rules = _stated_rules(read, "rules")
            if "rules_before" in read:
                self._rules, self._unproven = _stated_rules(read, "rules_before"), True
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

    def feed(self, index: int, kind: str, time: int, target: str, payload: dict[str, object]) -> None:
        """Process an entry that has a payload."""
        if self._fault or (target != self._target and kind != "node"):
            return
        try:
            if kind == "node":
                self._follow_rules(payload)
            elif kind in FACT_KINDS:
                if self._unproven and kind == "observation" and self._id in self._replay.all_outages:
                    raise VerificationError(f"by the stated rules_before, outage {self._id[:20]} opens unrecorded")
                check_cause(index, payload)
                self._replay.feed(index, kind, payload, self._rules)
                for other in self._replay.outages.keys() - {self._id}:
                    self._seen.add(other)
                    del self._replay.outages[other]
            elif kind == "outage":
                self._keep_outage(index, payload)
        except VerificationError as error:
            self._fault = str(error)
        except (KeyError, ValueError, TypeError, AttributeError, OverflowError) as error:
            self._fault = f"entry {index} is no {kind}: {type(error).__name__} {error}"[:200]

    def _follow_rules(self, node: dict[str, object]) -> None:
        """Put the rules in force that a start or reload of MailWatch records."""
        if (rules := rules_on_record(node)) is not None:
            self._rules, self._unproven = rules, False

    def _keep_outage(self, index: int, payload: dict[str, object]) -> None:
        """Keep the entry of the outage. Raises VerificationError if an outage names rules not in force."""
        if "rules" in payload and "rules_before" in self.stated:
            if payload["rules"] != rules_payload(self._rules):
                raise VerificationError(f"entry {index} names other rules than were in force")
            self._unproven = False
        written = payload.get("id")
        if written not in self._seen and written != self._id and len(self._foreign) < MAX_OUTAGES:
            self._foreign.append((index, payload))
        if written == self._id:
            self._recorded = payload
            known = self._replay.all_outages.get(self._id)
            if known is None:
                raise VerificationError(f"entry {index} is about an outage that a replay does not give there")
            if what := difference(index, payload, known):
                raise VerificationError(what)

    def compare(self, scan: LedgerScan) -> str:
        """Return what was compared, in words. Raises VerificationError if a replay gives other results."""
        if self._fault:
            raise VerificationError(self._fault)
        if self._target not in scan.names.values():
            raise VerificationError(f"no entry of {self._target[:80]} is in the bundle")
        if self.stated["rules"] != _recorded_rules(scan, self._recorded):
            raise VerificationError("the stated rules are not those on record")
        if self._recorded is None:
            raise VerificationError(f"no entry of the bundle records outage {self._id[:20]}")
        self._compare_service()
        outage, count = self._outage()
        self.anchors = {outage.id: outage.anchor}
        stated_outage = self.stated["outage"]
        for index, other in self._foreign:
            if scan.start.size <= first_entry_of(other):
                raise VerificationError(f"entry {index} is about an outage that a replay does not give there")
        try:
            record = OutageRecord.of(outage, subject_from(self._recorded))
            record = _widen_bounds(record, scan, stated_outage)
            record = replace(record, maintenance=stated_maintenance(stated_outage))
            public = {**outage_json(record)}
        except (KeyError, ValueError, TypeError, OverflowError) as error:
            raise VerificationError(f"the outage does not say what it is of: {error}"[:200]) from None
        stated = {**stated_outage}
        if public != stated:
            wrong = [key for key in public.keys() | stated.keys() if public.get(key) != stated.get(key)]
            raise VerificationError(
                f"a replay of {count} observations gives another outage in: {', '.join(sorted(wrong))}"
            )
        for key, replayed in (("replies", list(record.replies)), ("first_detail", record.first_detail)):
            if self.stated.get(key) != replayed:
                raise VerificationError(f"a replay gives another {key}")
        self.outages = [record]
        self._check_user_name()
        words = (
            f"{count} observations of {self._target}, replayed by the rules on record, give the outage as stated"
        )
        if "claim" in self.stated:
            try:
                words += f"; the claim is {check_claim(self.stated['claim'], record)}"
            except (KeyError, ValueError, TypeError, OverflowError) as error:
                raise VerificationError(f"the claim is not valid: {error}"[:200]) from None
        return words

    def _check_user_name(self) -> None:
        """Compare the disclosed login name with the commitment on record. Raises VerificationError."""
        if "user_name" not in self.stated:
            return
        try:
            given = self.stated["user_name"]
            watch = cast(dict[str, object], (self._recorded or {})["watch"])
            commitment = login_name_commitment(bytes.fromhex(given["key"]), given["name"])
            if commitment != watch["login_name"]:
                raise VerificationError("the stated user name is not the one on record")
        except (KeyError, ValueError, TypeError, AttributeError) as error:
            raise VerificationError(f"no entry states a user name: {type(error).__name__}"[:200]) from None

    def _compare_service(self) -> None:
        """Compare the stated service with what the outage's entry says was watched. Raises VerificationError.

        Host, port and kind are those of one target; if they change, its record ends.
        """
        stated, recorded = self.stated.get("service"), (self._recorded or {}).get("watch")
        if not isinstance(stated, dict) or not isinstance(recorded, dict) or not recorded.get("host"):
            return
        for key in ("kind", "host", "port"):
            if key in stated and stated[key] != recorded.get(key):
                raise VerificationError(f"the stated service has another {key} than is on record")

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


def _stated_rules(read: dict[str, object], key: str) -> Rules:
    """Return the rules that outage.json states under a key. Raises VerificationError, KeyError, TypeError or
    ValueError.
    """
    rules = rules_from(_typed_value(read, key, dict))
    if canonical(rules_payload(rules)) != canonical(read[key]):
        raise VerificationError("the stated rules do not have the form of rules")
    return rules


def _widen_bounds(record: OutageRecord, scan: LedgerScan, stated: OutageJson) -> OutageRecord:
    """Widen the bounds of an outage with wall times only by the clock steps during it."""
    ahead, back = clock_steps_between(scan.steps, record.first_index, record.last_index)
    wide = widen_for_clock_steps(record, ahead, back)
    if wide is not record and "clock" not in stated:
        raise VerificationError(
            f"the clock was set by {ahead + back} ms within the outage, which its durations leave out"
        )
    return wide


def stated_maintenance(stated: OutageJson) -> Millis:
    """Return the stated maintenance (milliseconds), unproven by the entries. Raises VerificationError."""
    seconds: object = stated.get("maintenance", 0)
    if not isinstance(seconds, int | float) or not 0 <= seconds < 1e9:
        raise VerificationError("the stated maintenance is not a time")
    return round(seconds * 1000)


T = TypeVar("T")


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


SERVER_KEYS = ("kind", "host", "port")
MAX_SERVERS = 1000
"""Most servers of one target that are kept; of more, none is compared."""


class PeriodCheck:
    """Checks period.json against a replay. An error is kept until compare(): other claims come first."""

    def __init__(self, archive: Archive, listener: FactListener) -> None:
        self.stated = cast(PeriodStatement, {})
        self.anchors: dict[str, Moment | None] = {}
        """A moment of each outage as displayed, by outage id; set by compare()."""
        self.outages: Sequence[OutageRecord] = ()
        """The outages of the window; set by compare()."""
        self._fault = ""
        self._recorded: dict[str, RecordedOutages] = {}
        self._servers: dict[str, set[tuple[object, ...]]] = {}
        """Kind, host and port of each target, as entries say what was watched."""
        self.replay: PeriodReplay | None = None
        try:
            read = archive.json("period.json")
            check_format(read, "period.json", PERIOD_FORMAT)
            self.stated = cast(PeriodStatement, read)
            self.replay = _start_replay(self.stated, listener)
            self._recorded = {name: RecordedOutages() for name in self.replay.accounts}
        except VerificationError as error:
            self._fault = str(error)
        except (KeyError, ValueError, TypeError, AttributeError, OverflowError) as error:
            self._fault = f"period.json has no window, targets and rules: {type(error).__name__} {error}"[:200]

    @property
    def entries(self) -> EntriesJson:
        """Indexes of the first and the last entry of the window."""
        return self.stated["entries"]

    def feed(self, index: int, kind: str, time: int, target: str, payload: dict[str, object]) -> None:
        """Process an entry that has a payload."""
        if self._fault or self.replay is None:
            return
        account = self.replay.accounts.get(target)
        settings = payload.get("settings")
        if kind == "watch" and isinstance(settings, dict) and settings.get("host"):
            known = self._servers.setdefault(target, set())
            if len(known) < MAX_SERVERS:
                known.add(tuple(str(settings.get(key)) for key in SERVER_KEYS))
        if account is not None and kind == "observation":
            self._recorded[target].before_observation(account.replay)
        try:
            if account is not None:
                check_cause(index, payload)
            self.replay.feed(index, kind, time, target or None, payload)
        except (ReplayError, VerificationError) as error:
            self._fault = str(error)
        if account is not None and kind == "outage":
            self._recorded[target].feed(index, payload, account.replay)
        if account is not None and max(len(account.replay.outages), len(account.recorded)) > MAX_OUTAGES:
            self._fault = f"{target[:80]} has more than {MAX_OUTAGES} outages"

    def compare(self, scan: LedgerScan) -> str:
        """Return what was compared, in words. Raises VerificationError if a replay gives other results."""
        replay = self.replay
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
        if not any(_same_availability(self.stated.get("availability"), each) for each in accepted):
            raise VerificationError("a replay gives another availability")
        try:
            self.outages = replay.records()
            outages = [outage_json(record) for record in self.outages]
        except (ReplayError, ValueError, OverflowError) as error:
            raise VerificationError(str(error)[:200]) from None
        for name, recorded in self._recorded.items():
            if fault := next(recorded.faults_in(replay.window, replay.accounts[name].replay), ""):
                raise VerificationError(fault)
        self.anchors = {outage.id: outage.anchor for outage in replay.outages()}
        if self.stated.get("outages") != outages:
            raise VerificationError(f"a replay of {count} observations gives other outages ({len(outages)})")
        channels = f"{len(known)} channels" if len(known) > 1 else "1 channel"
        words = f"give the availability and {len(outages)} outages as stated"
        words = f"{count} observations of {channels}, replayed, {words}"
        others = [one for one in self.stated["targets"] if self._is_other_server(one)]
        if others:
            name, service = others[0]["target"], others[0]["service"] or {}
            where = f"{service.get('host')}:{service.get('port')}"[:200]
            return Note(f"{words}; {where}, stated as the server of {name}, is not on record in this range")
        return words

    def _is_other_server(self, one: PeriodTarget) -> bool:
        """Return whether a target's stated service is none of those that entries of the range say was watched."""
        known, service = self._servers.get(one["target"]), one.get("service")
        if not known or len(known) == MAX_SERVERS or not isinstance(service, dict):
            return False
        given: dict[str, object] = {**service}
        keys = [number for number, key in enumerate(SERVER_KEYS) if key in given]
        stated = tuple(str(given[SERVER_KEYS[number]]) for number in keys)
        return stated not in {tuple(server[number] for number in keys) for server in known}


def _same_availability(stated: object, made: list[dict[str, Any]]) -> bool:
    """Whether a stated availability is the one that was computed.

    Half milliseconds of means are rounded as the processor's fractions fall: those may differ by one.
    """
    if not isinstance(stated, list) or len(stated) != len(made):
        return False
    for one, other in zip(stated, made, strict=True):
        if not isinstance(one, dict):
            return False
        means = [(one.get(key), other[key]) for key in ("mttr", "mtbf")]
        if (
            not all(_near(*pair) for pair in means)
            or {**one, **{k: other[k] for k in ("mttr", "mtbf") if k in one}} != other
        ):
            return False
    return True


def _near(stated: object, made: float | None) -> bool:
    if isinstance(stated, bool) or not isinstance(stated, int | float) or made is None:
        return stated is made
    return abs(stated - made) < MEAN_TOLERANCE_SECONDS


MEAN_TOLERANCE_SECONDS = 0.0015


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
