"""Metrics for Prometheus (docs/reference/metrics.md): numbers per target, written as text on request."""

from __future__ import annotations

import platform
from collections.abc import Callable, Iterator, Sequence

from prometheus_client import CollectorRegistry
from prometheus_client.core import Metric

from mailwatch import __version__
from mailwatch.analysis.outage_record import OutageRecord
from mailwatch.analysis.storage_budget import StorageBudget
from mailwatch.metrics import families
from mailwatch.metrics.exposition import Family
from mailwatch.metrics.families import SelfMetrics
from mailwatch.metrics.hub_families import HubFigures, hub_families
from mailwatch.metrics.incident_families import incident_families
from mailwatch.metrics.node_families import NodeRecord, node_families
from mailwatch.metrics.spool_families import SpoolRecord, spool_families
from mailwatch.metrics.storage_families import storage_families
from mailwatch.metrics.target import Histogram, TargetRecord
from mailwatch.metrics.witness_families import WitnessRecord, witness_families
from mailwatch.model import Observation
from mailwatch.settings import Target
from mailwatch.times import Millis

__all__ = ["Metrics"]

MAX_RECENT_OUTAGES = 50
"""The number of closed outages with series of their own, over all targets."""
_LAG_BUCKETS = (0.01, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
_COMMIT_BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0)


class Metrics:
    """Collects numbers from committed facts. Updated in the event loop; read from any thread.

    `exposition` writes /metrics. The registry has the same series, for code that collects from a registry; with
    thousands of targets its own writer takes several times as long.
    """

    def __init__(self, registry: CollectorRegistry) -> None:
        self._records: dict[str, TargetRecord] = {}
        self._recent: list[OutageRecord] = []
        """The outages that ended last, in the order of their ends."""
        self._lag = Histogram(_LAG_BUCKETS)
        self._commit = Histogram(_COMMIT_BUCKETS)
        self._errors = 0
        self._online: int | None = None
        self._line: dict[str, bool | None] = {}
        self._clock_error: float | None = None
        self._ledger: tuple[int | None, float | None] = (None, None)
        self._storage: StorageBudget | None = None
        self._valid: int | None = None
        self._token: float | None = None
        self._token_interval: float | None = None
        self._witnesses: dict[str, WitnessRecord] = {}
        self.hub = HubFigures()
        """Of a hub, and of this vantage point at its hub."""
        self._backup: float | None = None
        self._backup_interval: float | None = None
        self.self_check = SelfMetrics()
        """The findings of the self-check."""
        self.node: Callable[[], NodeRecord | None] = lambda: None
        """Returns what this node is, where several share the ledger."""
        self.spool: Callable[[], SpoolRecord | None] = lambda: None
        """Returns what waits for the database, None where the record is a file of this machine."""
        self.web_url = ""
        """The base of links to the pages, "" if it is not known."""
        self._notifications: dict[tuple[str, str], int] = {}
        self._reload: tuple[int | None, float | None] = (None, None)
        registry.register(self)

    def declare(self, target: Target) -> None:
        """Add a target with every series that it can have, at 0; a known name keeps its counts."""
        if target.name in self._records:
            self.change(target, target)
        else:
            self._records[target.name] = TargetRecord.of(target)

    def change(self, old: Target, new: Target) -> None:
        """Update a target's settings; its counts stay."""
        record = self._records.pop(old.name)
        record.change(new)
        self._records[new.name] = record

    def forget(self, target: Target) -> None:
        """Remove a target and its outages."""
        self._records.pop(target.name, None)
        self._recent = [outage for outage in self._recent if outage.target != target.name]

    def observed(self, target: Target, observation: Observation, state: str, least: float | None = None) -> None:
        """Count an observation; ignore one whose target is removed.

        `least` is the minimum duration of the open outage in seconds, None without one.
        """
        record = self._records.get(target.name)
        if record is not None:
            record.observed(observation, state, least)

    def earlier_outages(self, target: Target, count: int, seconds: float) -> None:
        """Count the closed outages of a target that `outages` will not name, with their minimum durations."""
        record = self._records.get(target.name)
        if record is not None and count:
            record.count_earlier(count, seconds)

    def outages(self, target: Target, outages: Sequence[OutageRecord]) -> None:
        """Set the outages of a target: all that are on record but those counted by `earlier_outages`."""
        record = self._records.get(target.name)
        if record is None:
            return
        if ended := record.outages(outages):
            by_end = sorted([*self._recent, *ended], key=lambda outage: (outage.first_good or 0, outage.id))
            self._recent = by_end[-MAX_RECENT_OUTAGES:]

    def gap(self, target: Target, seconds: float) -> None:
        """Add time in which the target was not observed."""
        record = self._records.get(target.name)
        if record is not None:
            record.gap_seconds += max(seconds, 0.0)

    def mark_unknown(self, target: Target) -> None:
        """Mark the state of a target as unknown: it is not being probed."""
        record = self._records.get(target.name)
        if record is not None:
            record.mark_unknown()

    def availability(
        self, target: Target, window: str, lower: float | None, upper: float | None, coverage: float | None
    ) -> None:
        """Set the availability of a window; unknown values (None) have no series."""
        record = self._records.get(target.name)
        if record is not None:
            record.availability[window] = (lower, upper, coverage)

    def maintenance(self, target: Target, active: bool) -> None:
        """Set whether a target is in announced maintenance."""
        record = self._records.get(target.name)
        if record is not None:
            record.maintenance = int(active)

    def lag(self, seconds: float) -> None:
        """Count the delay of a probe; a clock step back counts as no delay."""
        self._lag.observe(max(seconds, 0.0))

    def committed(self, seconds: float) -> None:
        """Count the duration of a commit."""
        self._commit.observe(seconds)

    def internal_error(self) -> None:
        """Count a fault of our own."""
        self._errors += 1

    def channels(self, names: Sequence[str]) -> None:
        """Set the channels, with every outcome at 0; known channels keep their counts."""
        before = self._notifications
        self._notifications = {
            (name, outcome): before.get((name, outcome), 0)
            for name in names
            for outcome in ("sent", "failed", "refused", "dropped")
        }

    def notified(self, channel: str, outcome: str) -> None:
        """Count a message; ignore one for a removed channel."""
        if (channel, outcome) in self._notifications:
            self._notifications[channel, outcome] += 1

    def guard(self, online: bool | None, ipv4: bool | None = None, ipv6: bool | None = None) -> None:
        """Set whether we are online, in total and by address family; None is unknown."""
        self._online = None if online is None else int(online)
        self._line = {"ipv4": ipv4, "ipv6": ipv6}

    def clock(self, error_bound_seconds: float | None) -> None:
        """Set the bound of the clock's error; None is unknown."""
        self._clock_error = error_bound_seconds

    def ledger(self, *, size: int, last_checkpoint_ms: Millis | None) -> None:
        """Set the size of the ledger and the time of its last checkpoint."""
        self._ledger = (size, None if last_checkpoint_ms is None else last_checkpoint_ms / 1000)

    def storage(self, budget: StorageBudget | None) -> None:
        """Set what the ledger takes on disk; None is unknown."""
        self._storage = budget

    def audited(self, valid: bool) -> None:
        """Set whether the ledger is unaltered, by the check at the start and the latest audit."""
        self._valid = int(valid)

    def token(self, time_ms: Millis) -> None:
        """Set when an outside authority last stamped a checkpoint, by the authority's clock."""
        self._token = max(self._token or 0, time_ms / 1000)

    def token_interval(self, seconds: float | None) -> None:
        """Set the interval of timestamp requests, so that missing tokens are noticed; None without authorities."""
        self._token_interval = seconds

    def witnesses(self, names: Sequence[str]) -> None:
        """Set the witnesses, with every outcome at 0; known witnesses keep their counts."""
        before = self._witnesses
        self._witnesses = {name: before.get(name) or WitnessRecord() for name in names}

    def witness(self, name: str, outcome: str, *, size: int | None = None, time_ms: Millis | None = None) -> None:
        """Count an answer of a witness; of a cosignature also its size and time. Ignore a removed witness."""
        if (record := self._witnesses.get(name)) is not None:
            record.count(outcome, size, time_ms)

    def witness_restored(self, name: str, size: int, time_ms: Millis, conflict: bool) -> None:
        """Set what a witness cosigned last, by the record."""
        if (record := self._witnesses.get(name)) is not None:
            record.restore(size, time_ms)
            record.conflict = conflict

    def backup(self, time_ms: Millis) -> None:
        """Set when the last backup of `backup:` was made."""
        self._backup = time_ms / 1000

    def backup_interval(self, seconds: float | None) -> None:
        """Set the interval of backups, so that missing ones are noticed; None without `backup:`."""
        self._backup_interval = seconds
        if seconds is None:
            self._backup = None

    def config_reload(self, ok: bool, at_seconds: float) -> None:
        """Set the result and time of a config reload."""
        self._reload = (int(ok), at_seconds if ok else self._reload[1])

    def exposition(self) -> Iterator[bytes]:
        """Yield /metrics in text format 0.0.4, piece by piece."""
        for family in self._families():
            for piece in family.text():
                yield piece.encode()

    def node_exposition(self) -> Iterator[bytes]:
        """Yield /metrics of a node that stands by: only what it knows itself, in the same format."""
        build = families.info_family(
            "build_info", "Version of MailWatch.", version=__version__, python=platform.python_version()
        )
        for family in (build, *node_families(self.node())):
            for piece in family.text():
                yield piece.encode()

    def collect(self) -> Iterator[Metric]:
        """Return the same families for a `CollectorRegistry`."""
        return (family.metric() for family in self._families())

    def _families(self) -> Iterator[Family]:
        yield families.info_family(
            "build_info", "Version of MailWatch.", version=__version__, python=platform.python_version()
        )
        yield from families.target_families(list(self._records.values()), list(self._recent))
        yield from incident_families(list(self._records.values()), self.web_url)
        yield from families.monitor_families(self._values())
        yield families.line_family(self._line)
        yield families.channel_family(self._notifications)
        yield from witness_families(self._witnesses)
        yield from hub_families(self.hub)
        yield from storage_families(self._storage)
        yield from node_families(self.node())
        yield from spool_families(self.spool())
        yield families.histogram_family(
            "schedule_lag_seconds", "Delay of probes against their schedule.", self._lag
        )
        yield families.histogram_family("commit_seconds", "Duration of commits to the ledger.", self._commit)
        yield from families.self_families(self.self_check)

    def _values(self) -> dict[str, tuple[str, str, float | None]]:
        size, checkpoint = self._ledger
        reload, reloaded = self._reload
        return {
            "guard_online": ("gauge", "Whether our own line is up; absent while unknown.", self._online),
            "clock_error_bound_seconds": ("gauge", "Maximum error of the clock.", self._clock_error),
            "ledger_size": ("gauge", "Entries in the ledger.", size),
            "ledger_last_checkpoint_timestamp_seconds": ("gauge", "Time of the last checkpoint.", checkpoint),
            "ledger_last_token_timestamp_seconds": (
                "gauge",
                "Time of the last timestamp token, by the clock of the authority.",
                self._token,
            ),
            "ledger_token_interval_seconds": (
                "gauge",
                "Seconds between two timestamp tokens, as configured; absent without an authority.",
                self._token_interval,
            ),
            "ledger_valid": ("gauge", "Whether the ledger matched its checkpoints.", self._valid),
            "backup_last_success_timestamp_seconds": (
                "gauge",
                "Time of the last backup that `backup` in the config made; absent without one.",
                self._backup,
            ),
            "backup_interval_seconds": (
                "gauge",
                "Seconds between two backups, as configured; absent without `backup`.",
                self._backup_interval,
            ),
            "config_last_reload_successful": ("gauge", "Whether the last reload of the config succeeded.", reload),
            "config_last_reload_success_timestamp_seconds": (
                "gauge",
                "Time of the last successful reload of the config.",
                reloaded,
            ),
            "monitor_errors_total": ("counter", "Internal errors of MailWatch.", self._errors),
        }
