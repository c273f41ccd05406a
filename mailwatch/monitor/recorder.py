"""Records facts, and the outages that follow from them, each sealed with a checkpoint."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import replace

from mailwatch import monotonic
from mailwatch.analysis.outage import Outage
from mailwatch.analysis.outage_record import OutageRecord, OutageSubject, outage_payload
from mailwatch.guard.attribution import FaultAttribution
from mailwatch.ledger.entry import account_id
from mailwatch.metrics import Metrics
from mailwatch.model import Fact, GapReason, Rules, TargetSettings
from mailwatch.monitor.change_log import ChangeLog
from mailwatch.monitor.target_runtime import TargetRuntime
from mailwatch.settings import RoundtripTask, Target, VantagePoint
from mailwatch.store import Entry, NewEntry, Writer
from mailwatch.times import Millis, now

logger = logging.getLogger(__name__)

SLOW_COMMIT_MS: Millis = 10_000
"""Milliseconds; a commit that takes longer is itself a reason for missing probes."""


class Recorder:
    """Writes the ledger entries of one monitor. `secret` is the ledger's, for the digests of accounts."""

    def __init__(
        self,
        writer: Writer,
        attribution: FaultAttribution,
        metrics: Metrics,
        *,
        rules: Rules,
        vantage_point: VantagePoint,
        secret: bytes,
    ) -> None:
        self._writer, self._attribution, self._metrics = writer, attribution, metrics
        self._rules, self._vantage_point, self._secret = rules, vantage_point, secret
        self.on_outage_recorded: list[Callable[[], None]] = []
        """Callbacks, called when an outage has been recorded and sealed."""
        self.has_spool = False
        """Whether probing goes on while the record cannot be written."""
        self.changes = ChangeLog()
        """The log of outages and states."""
        self._writing: dict[object, float] = {}
        """When each pending entry began to wait for the disk (time.monotonic()), the oldest first."""

    async def append(
        self, kind: str, at: Millis, target: str | None, payload: Fact | Mapping[str, object]
    ) -> Entry:
        """Append an entry to the ledger; return it when it is on disk."""
        began = monotonic.milliseconds()
        waiting = object()
        self._writing[waiting] = time.monotonic()
        try:
            entry = await self._writer.submit(NewEntry(kind=kind, time=at, target=target, payload=payload))
        finally:
            del self._writing[waiting]
        if (ended := monotonic.milliseconds()) - began > SLOW_COMMIT_MS and not self.has_spool:
            # No target is probed while its record cannot be written: name the reason of the gap.
            self.note_unwritable(began, ended)
        return entry

    async def append_own(self, kind: str, at: Millis, payload: Mapping[str, object]) -> None:
        """Append an entry about MailWatch itself."""
        await self.append(kind, at, None, payload)

    def note_unwritable(self, began: Millis, ended: Millis) -> None:
        """Note that nothing could be recorded, so nothing was probed, from `began` to `ended` (steady clock)."""
        self._attribution.note_disruption(began, ended, GapReason.STORE)

    def wait_seconds(self) -> float:
        """Return how many seconds the oldest entry has waited for the disk; 0 if none waits."""
        oldest = next(iter(self._writing.values()), None)
        return 0.0 if oldest is None else time.monotonic() - oldest

    async def record_outage_change(
        self, runtime: TargetRuntime, outage: Outage, settings: TargetSettings | None
    ) -> None:
        """Record the opening or closing of an outage, seal it with a checkpoint, then publish it.

        `settings` are those in force when it was decided, None where the record has none.
        """
        record = await self.record_outage(outage, self.subject_of(runtime.target), settings)
        runtime.outages[record.id] = record
        self.update_outage_metrics(runtime)

    async def record_outage(
        self, outage: Outage, subject: OutageSubject, settings: TargetSettings | None
    ) -> OutageRecord:
        """Record an outage of `subject`, seal it with a checkpoint, and return the record.

        `settings` are those in force.
        """
        record = OutageRecord.of(outage, subject, rules=self._rules, settings=settings)
        await self.append("outage", now(), record.target, outage_payload(record))
        await self._writer.checkpoint()
        for notify in self.on_outage_recorded:
            notify()
        state = "proven afterwards" if record.proven_afterwards else record.state
        line = f"{record.target}: outage {record.id} is {state}"
        self.changes.log(logger, logging.WARNING, record.provider, f"outage is {state}", record.target, line)
        return record

    def open_outage(self, runtime: TargetRuntime) -> OutageRecord | None:
        """Return the target's open outage as it stands now, None without one."""
        outage = runtime.state.outage
        return None if outage is None else OutageRecord.of(outage, self.subject_of(runtime.target))

    def subject_of(self, target: Target) -> OutageSubject:
        """Return the subject of an outage of a target in the config."""
        vantage, account = self._vantage_point.name, self._account(target)
        return OutageSubject(provider=target.provider, kind=target.kind, vantage_point=vantage, account=account)

    def recorded_subject(
        self, record: OutageRecord | None, settings: TargetSettings | None
    ) -> OutageSubject | None:
        """Return an outage's subject from its record, else from the settings in force then; None without
        either.
        """
        vantage = self._vantage_point.name
        if record is not None:
            return replace(record.subject, vantage_point=vantage)
        if settings is not None:
            return OutageSubject(provider=settings.provider, kind=settings.kind, vantage_point=vantage)
        return None

    def update_outage_metrics(self, runtime: TargetRuntime) -> None:
        """Update the metrics of the target's outages."""
        if runtime.outages:
            self._metrics.outages(runtime.target, list(runtime.outages.values()))

    def _account(self, target: Target) -> str:
        """Return a digest common to targets of the same account; a round trip has its reader's."""
        login = target.task.to.login if isinstance(target.task, RoundtripTask) else target.login
        return account_id(self._secret, target.provider, login.username) if login else ""
