"""Metrics for Prometheus (docs/reference/metrics.md). Numbers are kept per target, and become text on request."""

from __future__ import annotations

import heapq
import platform
from collections.abc import Iterator, Sequence
from typing import Any

from prometheus_client import CollectorRegistry
from prometheus_client.core import Metric

from mailwatch import __version__
from mailwatch.metrics import families
from mailwatch.metrics.exposition import Family
from mailwatch.metrics.families import SelfMetrics
from mailwatch.metrics.target import ClosedOutage, Histogram, TargetRecord
from mailwatch.model import Observation
from mailwatch.settings import Target
from mailwatch.times import Millis

__all__ = ["Metrics"]

MAX_RECENT_OUTAGES = 50
"""Closed outages that are shown one by one, over all targets."""
_LAG_BUCKETS = (0.01, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
_COMMIT_BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0)


class Metrics:
    """Takes in what is committed. Called in the event loop; read from any thread.

    `exposition` writes /metrics. The registry has the same series, for those who collect from one; at
    thousands of targets its own writer takes several times as long.
    """

    def __init__(self, registry: CollectorRegistry) -> None:
        self._records: dict[str, TargetRecord] = {}
        self._recent: list[ClosedOutage] = []
        self._lag = Histogram(_LAG_BUCKETS)
        self._commit = Histogram(_COMMIT_BUCKETS)
        self._errors = 0
        self._online: int | None = None
        self._line: dict[str, bool | None] = {}
        self._clock_error: float | None = None
        self._ledger: tuple[int | None, float | None] = (None, None)
        self._valid: int | None = None
        self._token: float | None = None
        self._token_interval: float | None = None
        self.self_check = SelfMetrics()
        """What the self-watch finds."""
        self._notifications: dict[tuple[str, str], int] = {}
        self._reload: tuple[int | None, float | None] = (None, None)
        registry.register(self)

    def declare(self, target: Target) -> None:
        """Begin to show a target: every series that it can have, at 0; what is known of the name stays."""
        if target.name in self._records:
            self.change(target, target)
        else:
            self._records[target.name] = TargetRecord.of(target)

    def change(self, old: Target, new: Target) -> None:
        """Show a target under changed settings; its counts stay."""
        record = self._records.pop(old.name)
        record.change(new)
        self._records[new.name] = record

    def forget(self, target: Target) -> None:
        """Show the target no more."""
        self._records.pop(target.name, None)
        self._recent = [outage for outage in self._recent if outage.target != target.name]
        heapq.heapify(self._recent)

    def observed(self, target: Target, observation: Observation, state: str, least: float | None = None) -> None:
        """Count an observation; one that ended after its target was forgotten is not shown.

        `least` is how many seconds the open outage lasted at least, None without one.
        """
        record = self._records.get(target.name)
        if record is not None:
            record.observed(observation, state, least)

    def outages(self, target: Target, payloads: Sequence[dict[str, Any]]) -> None:
        """Show the outages of a target: all that are on record, each as the API has it."""
        record = self._records.get(target.name)
        if record is None:
            return
        for outage in record.outages(payloads):
            heapq.heappush(self._recent, outage)
            if len(self._recent) > MAX_RECENT_OUTAGES:
                heapq.heappop(self._recent)

    def gap(self, target: Target, seconds: float) -> None:
        """Count time in which the target was not observed."""
        record = self._records.get(target.name)
        if record is not None:
            record.gap_seconds += max(seconds, 0.0)

    def mark_unknown(self, target: Target) -> None:
        """Show that the state of a target is not known: it is not probed now."""
        record = self._records.get(target.name)
        if record is not None:
            record.mark_unknown()

    def availability(
        self, target: Target, window: str, lower: float | None, upper: float | None, coverage: float | None
    ) -> None:
        """Show the availability of a window; None is not known, and not shown."""
        record = self._records.get(target.name)
        if record is not None:
            record.availability[window] = (lower, upper, coverage)

    def maintenance(self, target: Target, active: bool) -> None:
        """Show whether a target is in announced maintenance."""
        record = self._records.get(target.name)
        if record is not None:
            record.maintenance = int(active)

    def lag(self, seconds: float) -> None:
        """Count how late a probe began; a clock that stepped back makes none early."""
        self._lag.observe(max(seconds, 0.0))

    def committed(self, seconds: float) -> None:
        """Count how long a commit took."""
        self._commit.observe(seconds)

    def internal_error(self) -> None:
        """Count a fault of our own."""
        self._errors += 1

    def channels(self, names: Sequence[str]) -> None:
        """Show the channels that there are, every outcome at 0; those that were there keep their counts."""
        before = self._notifications
        self._notifications = {
            (name, outcome): before.get((name, outcome), 0)
            for name in names
            for outcome in ("sent", "failed", "refused", "dropped")
        }

    def notified(self, channel: str, outcome: str) -> None:
        """Count a message; one for a channel that is no longer there is not shown."""
        if (channel, outcome) in self._notifications:
            self._notifications[channel, outcome] += 1

    def guard(self, online: bool | None, ipv4: bool | None = None, ipv6: bool | None = None) -> None:
        """Show whether we are online, as a whole and by family; None is not known."""
        self._online = None if online is None else int(online)
        self._line = {"ipv4": ipv4, "ipv6": ipv6}

    def clock(self, error_bound_seconds: float | None) -> None:
        """Show how far the clock may be off; None is not known."""
        self._clock_error = error_bound_seconds

    def ledger(self, *, size: int, last_checkpoint_ms: Millis | None) -> None:
        """Show the state of the ledger."""
        self._ledger = (size, None if last_checkpoint_ms is None else last_checkpoint_ms / 1000)

    def audited(self, valid: bool) -> None:
        """Show whether the ledger is what was written: as checked at the start, and by the latest audit."""
        self._valid = int(valid)

    def token(self, time_ms: Millis) -> None:
        """Show when an outside authority last stamped a checkpoint, by its own clock."""
        self._token = max(self._token or 0, time_ms / 1000)

    def token_interval(self, seconds: float | None) -> None:
        """Show how often an outside authority is asked, so that one that never answers is missed; None without."""
        self._token_interval = seconds

    def config_reload(self, ok: bool, at_seconds: float) -> None:
        """Show how the config was last read."""
        self._reload = (int(ok), at_seconds if ok else self._reload[1])

    def exposition(self) -> Iterator[bytes]:
        """Yield all of /metrics in the text format 0.0.4, piece by piece."""
        for family in self._families():
            for piece in family.text():
                yield piece.encode()

    def collect(self) -> Iterator[Metric]:
        """Return the same for a `CollectorRegistry`."""
        return (family.metric() for family in self._families())

    def _families(self) -> Iterator[Family]:
        yield families.info_family(
            "build_info", "Version of MailWatch.", version=__version__, python=platform.python_version()
        )
        yield from families.target_families(list(self._records.values()), list(self._recent))
        yield from families.monitor_families(self._values())
        yield families.line_family(self._line)
        yield families.channel_family(self._notifications)
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
            "config_last_reload_successful": ("gauge", "Whether the last reload of the config succeeded.", reload),
            "config_last_reload_success_timestamp_seconds": (
                "gauge",
                "Time of the last successful reload of the config.",
                reloaded,
            ),
            "monitor_errors_total": ("counter", "Internal errors of MailWatch.", self._errors),
        }
