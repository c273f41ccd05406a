"""Makes the data of the page of one target, from memory where it is watched, else from the ledger."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from urllib.parse import urlsplit

from mailwatch.analysis.outage_record import OutageRecord
from mailwatch.analysis.public_json import OutageJson, TargetJson, public_outage_json
from mailwatch.model import Kind, Observation, Outcome, TargetChange, TargetEvent, TargetSettings
from mailwatch.monitor.background import AVAILABILITY_WINDOWS
from mailwatch.monitor.pipeline import Pipeline
from mailwatch.monitor.target_runtime import TargetRuntime
from mailwatch.probes.certificates import CertificateText
from mailwatch.settings import RoundtripTask, Target, WebmailTask
from mailwatch.store import Reader
from mailwatch.store.pruning import pruned_of_target
from mailwatch.store.queries import recorded_change_at
from mailwatch.times import DAY_MS, Millis, rfc3339
from mailwatch.web.target_detail import ConfiguredSettings, SeenCertificate, TargetDetail

MAX_OUTAGES = 200
"""The number of outages of a target that are read for its page, the newest."""
AHEAD_MS = 7 * DAY_MS
"""How far ahead announced maintenance is given."""


def watched_detail(
    runtime: TargetRuntime,
    target: TargetJson,
    open_outage: OutageRecord | None,
    reader: Reader,
    monitor: Pipeline,
    at: Millis,
) -> TargetDetail:
    """Return the detail of a watched target. Raises StoreError."""
    name, latest = runtime.target.name, runtime.latest
    heads = reader.outages.lists().of_name(name)
    records = {record.id: record for record, _ in reader.outages.records(heads[:MAX_OUTAGES])}
    if open_outage is not None:
        # The record dates from the opening.
        records[open_outage.id] = replace(open_outage, paused_at=runtime.paused_at)
    newest_first = sorted(records.values(), key=lambda record: record.first_bad, reverse=True)
    first = _first_observation(reader, name)
    return TargetDetail(
        target=target,
        is_watched=True,
        since=runtime.paused_at or _since(reader, name, target["state"], newest_first),
        first_seen=first,
        last_seen=latest.started_at if latest else None,
        phases=_phases(latest),
        ratios={}
        if runtime.pending_backfill is not None
        else {
            window: runtime.rolling_availability.ratio(length, at)
            for window, length in AVAILABILITY_WINDOWS.items()
        },
        outages=[public_outage_json(record) for record in newest_first],
        more_outages=max(0, len(heads) - MAX_OUTAGES),
        settings=configured(runtime.target),
        certificate=_certificate(reader, name, latest, monitor.runner.certificate),
        maintenance=monitor.maintenance.windows_of(name, at, at + AHEAD_MS),
        detail=target["detail"],
        pruned=pruned_of_target(reader, name),
    )


def former_detail(
    name: str, reader: Reader, own: Sequence[OutageJson], at: Millis, more: int = 0
) -> TargetDetail | None:
    """Return the detail of a target that is on record only. Raises StoreError.

    `own`: its latest outages; `more`: the number of older ones.

    None if the record does not say what it was, as one from before 2026-11 without an outage.
    """
    change = recorded_change_at(reader, name, at)
    settings = change.fact.settings if change else None
    if settings is None and not own:
        return None
    latest = _latest_observation(reader, name)
    return TargetDetail(
        target={
            "target": name,
            "provider": settings.provider if settings else next((one["provider"] for one in own), ""),
            "kind": settings.kind if settings else Kind(own[0]["kind"]),
            "state": "unwatched",
            "last_observation": rfc3339(latest.started_at) if latest else None,
            "outcome": latest.outcome if latest else None,
            "cause": latest.cause if latest else None,
            "failed_phase": latest.failed_phase if latest else None,
            "outage": None,
        },
        is_watched=False,
        since=_end(change.fact) if change else None,
        first_seen=_first_observation(reader, name),
        last_seen=latest.started_at if latest else None,
        phases=_phases(latest),
        ratios={},
        outages=own,
        more_outages=more,
        settings=_recorded(settings) if settings else None,
        certificate=_certificate(reader, name, latest, lambda _: None),
        pruned=pruned_of_target(reader, name),
    )


def configured(target: Target) -> ConfiguredSettings:
    """Return what is configured, without secrets: of an address, neither user nor query."""
    page, ends = "", tuple[str, ...]()
    if isinstance(target.task, WebmailTask):
        parts = urlsplit(target.task.url)
        page = f"{parts.scheme}://{parts.hostname or ''}{parts.path}"
    if isinstance(target.task, RoundtripTask):
        ends = tuple(f"{end.kind.value} {end.host}:{end.port}" for end in target.endpoints)
    return ConfiguredSettings(
        host=target.host,
        port=target.port,
        tls=target.tls.value,
        interval=target.interval,
        timeout=target.timeout,
        has_login=any(end.login is not None for end in target.endpoints),
        own_ca=target.ca_file is not None,
        page=page,
        ends=ends,
    )


def _recorded(settings: TargetSettings) -> ConfiguredSettings:
    return ConfiguredSettings(
        host=settings.host,
        port=settings.port,
        tls=settings.tls.value,
        interval=settings.interval / 1000,
        timeout=settings.timeout / 1000,
        has_login=bool(settings.login),
        own_ca=settings.own_ca,
    )


def _phases(latest: Observation | None) -> dict[str, float]:
    attempt = latest.deciding_attempt if latest else None
    return {phase.value: spent / 1e6 for phase, spent in attempt.phases.items()} if attempt else {}


def _end(change: TargetChange) -> Millis | None:
    return change.at if change.event.value == "end" else None


def _since(reader: Reader, name: str, state: str, newest_first: list[OutageRecord]) -> Millis | None:
    """Return when the present state began: of a target that is up, when it came back, or its first observation.

    A target that was removed, and is watched again, may have been down meanwhile: it counts from then on.
    """
    newest = newest_first[0] if newest_first else None
    if state == "up":
        begun = max(_begun(reader, name), 0 if newest is None or newest.first_good else newest.last_index + 1)
        if newest and newest.first_good and newest.last_index >= begun:
            return newest.first_good
        return _first_observation(reader, name, begun)
    if state in ("down", "recovering") and newest and newest.state == "open":
        return newest.first_bad
    return None


def _begun(reader: Reader, name: str) -> int:
    """Return the index of the entry by which the watching began, 0 without one."""
    for entry in reader.entries(target=name, kinds=["watch"], descending=True):
        if isinstance(fact := entry.fact, TargetChange) and fact.event is TargetEvent.BEGIN:
            return entry.index
    return 0


def _certificate(
    reader: Reader, name: str, latest: Observation | None, read: Callable[[str], CertificateText | None]
) -> SeenCertificate | None:
    """Return the certificate of the latest observation, or else of the latest good one.

    `read` returns what a certificate says, from its fingerprint; the ledger has the fingerprint and the end only.
    """
    for observation in (latest, None):
        seen = observation or _latest_observation(reader, name, Outcome.UP)
        attempt = seen.deciding_attempt if seen else None
        if seen and attempt and (tls := attempt.tls):
            text = read(tls.fingerprint)
            return SeenCertificate(
                at=seen.started_at,
                not_after=tls.not_after,
                fingerprint=tls.fingerprint,
                version=tls.version,
                cipher=tls.cipher,
                issuer=text.issuer if text else "",
                names=text.names if text else (),
            )
        if latest is None or latest.outcome is Outcome.UP:
            return None
    return None


def _first_observation(reader: Reader, name: str, from_index: int = 0) -> Millis | None:
    found = next(reader.entries(target=name, kinds=["observation"], from_index=from_index, limit=1), None)
    fact = found.fact if found else None
    return fact.started_at if isinstance(fact, Observation) else None


def _latest_observation(reader: Reader, name: str, outcome: Outcome | None = None) -> Observation | None:
    entries = reader.entries(target=name, kinds=["observation"], outcome=outcome, descending=True, limit=1)
    found = next(entries, None)
    return found.fact if found and isinstance(found.fact, Observation) else None
