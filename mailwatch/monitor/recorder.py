"""Records facts, and the outages that follow from them, each sealed with a checkpoint."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping
from typing import Any

from mailwatch import monotonic
from mailwatch.analysis.outage import Outage, evidence_json, outage_payload
from mailwatch.guard.attribution import FaultAttribution
from mailwatch.ledger.entry import account_id
from mailwatch.ledger.payloads import rules_payload, settings_payload
from mailwatch.metrics import Metrics
from mailwatch.model import Fact, GapReason, Kind, Rules, TargetSettings
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
        self._writing: dict[object, float] = {}
        """When each pending entry began to wait for the disk (time.monotonic()), the oldest first."""

    async def append(self, kind: str, at: Millis, target: str | None, payload: Fact | dict[str, Any]) -> Entry:
        """Append an entry to the ledger; return it when it is on disk."""
        began = monotonic.milliseconds()
        waiting = object()
        self._writing[waiting] = time.monotonic()
        try:
            entry = await self._writer.submit(NewEntry(kind=kind, time=at, target=target, payload=payload))
        finally:
            del self._writing[waiting]
        if (ended := monotonic.milliseconds()) - began > SLOW_COMMIT_MS:
            # No target is probed while its record cannot be written: name the reason of the gap.
            self._attribution.note_disruption(began, ended, GapReason.STORE)
        return entry

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
        target = runtime.target
        identity = {"provider": target.provider, "kind": target.kind.value, "account": self._account(target)}
        payload = await self.record_outage(outage, identity, settings)
        runtime.outages[outage.id] = evidence_json(payload)
        self.update_outage_metrics(runtime)

    async def record_outage(
        self, outage: Outage, identity: Mapping[str, Any], settings: TargetSettings | None
    ) -> dict[str, Any]:
        """Record an outage, seal it with a checkpoint, and return its payload.

        `identity` holds the provider, kind and, if known, account of the target. `settings` are those in force.
        """
        provider, kind = identity["provider"], Kind(identity["kind"])
        payload = outage_payload(outage, provider, kind, self._vantage_point.name)
        payload["rules"] = rules_payload(self._rules)
        if settings is not None:
            payload["watch"] = settings_payload(settings)
        if account := identity.get("account"):
            payload["account"] = account
        await self.append("outage", now(), outage.target, payload)
        await self._writer.checkpoint()
        for notify in self.on_outage_recorded:
            notify()
        state = "proven afterwards" if outage.proven_afterwards else payload["state"]
        logger.warning("%s: outage %s is %s", outage.target, outage.id, state)
        return payload

    def update_outage_metrics(self, runtime: TargetRuntime) -> None:
        """Update the metrics of the target's outages."""
        if runtime.outages:
            self._metrics.outages(runtime.target, list(runtime.outages.values()))

    def _account(self, target: Target) -> str:
        """Return a digest common to targets of the same account; a round trip has its reader's."""
        login = target.task.to.login if isinstance(target.task, RoundtripTask) else target.login
        return account_id(self._secret, target.provider, login.username) if login else ""
