"""What the API and the pages show, from what the monitor has in memory and, for the past, from the ledger."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

from mailwatch.analysis.elapsed import Moment, by_reference_clock, fact_end, fact_start, reference_moment
from mailwatch.analysis.outage import outage_json, outage_payload
from mailwatch.analysis.public_json import incident_json
from mailwatch.config import Config, catalogue
from mailwatch.config.recorded_targets import SEE_API, UnknownTargetError
from mailwatch.evidence.ledger_range import EvidenceError, select_range
from mailwatch.evidence.report_job import ReportJobs
from mailwatch.model import Observation, Outcome
from mailwatch.monitor.pipeline import Pipeline
from mailwatch.monitor.self_audit import LedgerSelfAudit
from mailwatch.monitor.target_runtime import TargetRuntime
from mailwatch.settings import Target
from mailwatch.store import Reader, StoreError, Tokens, queries
from mailwatch.times import DAY_MS, Millis, rfc3339
from mailwatch.web.read_model import EvidenceUnavailableError, PageData, ReadModel

MAX_OBSERVATIONS = 5000
"""Observations of an outage that are read for its transitions."""
MAX_TRANSITIONS = 100


def page_data(
    monitor: Pipeline, reader: Reader, path: Path, config: Config, auditing: LedgerSelfAudit
) -> PageData:
    """Return what the pages need of a running MailWatch. `path` is its config file."""
    making = ReportJobs(path, config.data_dir)

    async def evidence(identity: str, language: str) -> Path:
        if await asyncio.to_thread(_payload, monitor, reader, identity) is None:
            raise EvidenceUnavailableError(f"no outage {identity!r}; GET /api/v1/outages lists them")
        try:
            return await making.make(identity, language)
        except EvidenceError as error:
            raise EvidenceUnavailableError(str(error)) from None

    return PageData(
        vantage_point=config.vantage_point.name,
        place=config.vantage_point.place,
        target_card=partial(_target_card, monitor),
        outages=partial(_outages, monitor),
        outage=partial(_outage, monitor, reader, Tokens(config.data_dir)),
        ledger=partial(_ledger, reader, auditing),
        change_token=partial(_change_token, monitor),
        unguarded=lambda: monitor.attribution.guard is None,
        evidence=evidence,
    )


def only_public_targets(monitor: Pipeline, reader: Reader) -> Callable[[], bool]:
    """Return a predicate that is true while every recorded target is a public catalogue server probed without a
    login.

    So it is with config.example.yaml, whose pages anyone may see. What was private once
    stays on record, and is shown, when it is watched no longer: so this is asked before each reload, and a no is
    for good.
    """
    open_to_all: bool | None = None

    def is_public() -> bool:
        nonlocal open_to_all
        watched = [runtime.target for runtime in list(monitor.targets.values())]
        if not all(_is_public_target(target) for target in watched):
            open_to_all = False
        elif open_to_all is None:
            try:
                open_to_all = {target.name for target in watched}.issuperset(reader.targets())
            except StoreError:
                # Whose it is is not known now: only those who may see all are let in.
                return False
        return open_to_all

    return is_public


def _is_public_target(target: Target) -> bool:
    provider = catalogue.by_key(target.provider) if target.provider else None
    public = provider is not None and target.host in {server.host for server in provider.servers}
    return public and target.login is None and target.task is None and "@" not in target.name


def _target_card(monitor: Pipeline, name: str, at: Millis) -> dict[str, Any]:
    runtime = monitor.targets[name]
    latest = runtime.latest
    last = latest.deciding_attempt if latest else None
    ratio = runtime.rolling_availability.ratio(90 * DAY_MS, at)
    return {
        "phases": {phase.value: spent / 1e6 for phase, spent in last.phases.items()} if last else {},
        "duration": (latest.ended_at - latest.started_at) / 1000 if latest else 0.0,
        "ratio": {"lower": ratio.lower, "upper": ratio.upper, "coverage": ratio.coverage},
        "days": runtime.rolling_availability.days(at),
        "filling": runtime.pending_backfill is not None,
    }


def target_json(runtime: TargetRuntime) -> dict[str, Any]:
    """Return the target as GET /api/v1/targets has it."""
    target, latest = runtime.target, runtime.latest
    return {
        "target": target.name,
        "provider": target.provider,
        "kind": target.kind,
        "state": runtime.state.name,
        "interval": target.interval,
        "last_observation": rfc3339(latest.started_at) if latest else None,
        "outcome": latest.outcome if latest else None,
        "cause": latest.cause if latest else None,
        "failed_phase": latest.failed_phase if latest else None,
        "detail": latest.detail if latest else "",
        "outage": next((o["id"] for o in runtime.outages.values() if o["state"] == "open"), None),
    }


def open_outages(monitor: Pipeline) -> dict[str, dict[str, Any]]:
    """Return what the ledger would say of each outage that is open now, by its id."""
    vantage = monitor.vantage_point.name
    opened = [(w.target, w.state.outage) for w in list(monitor.targets.values())]
    return {
        outage.id: outage_payload(outage, target.provider, target.kind, vantage)
        for target, outage in opened
        if outage
    }


def _outages(monitor: Pipeline) -> list[dict[str, Any]]:
    found = dict(monitor.former_outages)
    for runtime in list(monitor.targets.values()):
        outages = dict(runtime.outages)
        if runtime.state.outage:
            # What was written when it opened is as old as that.
            outages[runtime.state.outage.id] = outage_json(
                runtime.state.outage, runtime.target.provider, runtime.target.kind, monitor.vantage_point.name
            )
        found |= outages
    return sorted(found.values(), key=lambda outage: str(outage["first_bad"]), reverse=True)


def _change_token(monitor: Pipeline) -> str:
    states = (
        (w.target.name, w.state.name, w.latest.started_at if w.latest else 0, _newest_fact(w))
        for w in list(monitor.targets.values())
    )
    return str(hash(tuple(states)))


def _newest_fact(runtime: TargetRuntime) -> tuple[str, str]:
    """An outage is on record a moment after the observation that opened or closed it."""
    newest = next(reversed(runtime.outages.values()), None)
    return (newest["id"], newest["state"]) if newest else ("", "")


def _payload(monitor: Pipeline, reader: Reader, identity: str) -> dict[str, Any] | None:
    found = queries.outage_payloads(reader, live=open_outages(monitor))
    return next((payload for payload in found if payload["id"] == identity), None)


def _outage(monitor: Pipeline, reader: Reader, tokens: Tokens, identity: str) -> dict[str, Any] | None:
    payload = _payload(monitor, reader, identity)
    if payload is None:
        return None
    first, last = payload["ledger"]["first"], payload["ledger"]["last"]
    observations = list(_observations(reader, payload["target"], first, last))
    guard = next((observation.guard for observation in observations if observation.outcome is Outcome.DOWN), None)
    guard_json = None if guard is None else {"online": guard.online, "controls": guard.controls}
    return {
        "proven_afterwards": False,
        "maintenance_ms": 0,
        **payload,
        "transitions": _transitions(
            observations, reference_moment(payload, observations[0] if observations else None)
        ),
        "guard": guard_json,
        "clock_bound": _clock_bound(reader, first),
        "range": _range(reader, tokens, payload["target"], first, last),
    }


def _observations(reader: Reader, target: str, first: int, last: int) -> Iterator[Observation]:
    within = reader.entries(target=target, kinds=["observation"], from_index=first, limit=MAX_OBSERVATIONS)
    for entry in within:
        if isinstance(fact := entry.fact, Observation):
            yield fact
            if entry.index > last:
                return


def _transitions(observations: list[Observation], reference: Moment | None) -> list[dict[str, Any]]:
    transitions: list[dict[str, Any]] = []
    before = None
    for observation in observations:
        here = (observation.outcome, observation.cause, observation.failed_phase)
        if here != before and len(transitions) < MAX_TRANSITIONS:
            transitions.append(
                {
                    # As the bounds are taken: the last up observation counts from its start, others from their
                    # end.
                    "at": by_reference_clock(
                        fact_start(observation)
                        if not transitions and observation.outcome is Outcome.UP
                        else fact_end(observation),
                        reference,
                    ),
                    "outcome": observation.outcome.value,
                    "cause": observation.cause.value if observation.cause else None,
                    "phase": observation.failed_phase.value if observation.failed_phase else None,
                    "detail": observation.detail,
                }
            )
        before = here
    return transitions


def _clock_bound(reader: Reader, index: int) -> float | None:
    """Return the error bound in seconds by the last survey before an entry, None without one."""
    for entry in reader.entries(kinds=["clock"], to_index=index, descending=True, limit=20):
        if entry.payload["event"] == "survey":
            bound = entry.payload.get("error_bound_us")
            return None if bound is None else bound / 1e6
    return None


def _range(reader: Reader, tokens: Tokens, target: str, first: int, last: int) -> dict[str, Any] | None:
    closing = reader.entries(target=target, kinds=["outage"], from_index=last, limit=1)
    try:
        found = select_range(reader, tokens, first, max([last, *(entry.index for entry in closing)]))
    except EvidenceError:
        return None
    stamped = [{"time": t.time, "authority": t.authority, "checkpoint": t.checkpoint} for t in found.tokens]
    return {"start": found.start.size, "end": found.end.size, "note": found.end.note, "tokens": stamped}


def _ledger(reader: Reader, auditing: LedgerSelfAudit) -> dict[str, Any]:
    row = reader.last_checkpoint()
    token = next(iter(reader.entries(kinds=["token"], descending=True, limit=1)), None)
    return {
        "size": reader.size(),
        "checkpoint": None if row is None else {"size": row.size, "time": row.time_ms, "note": row.note},
        "token": None if token is None else token.payload,
        "audit": auditing.latest,
    }


def read_model(
    monitor: Pipeline,
    reader: Reader,
    *,
    unready_reasons: Callable[[], list[str]],
    stale_reasons: Callable[[], list[str]],
) -> ReadModel:
    """Return what answers the API. `unready_reasons` says why /readyz must fail, `stale_reasons` why what is shown
    may be old.
    """

    def targets() -> list[dict[str, Any]]:
        return [target_json(runtime) for runtime in list(monitor.targets.values())]

    def known() -> dict[str, tuple[str, str]]:
        runtimes = list(monitor.targets.values())
        return {w.target.name: (w.target.provider, w.target.kind.value) for w in runtimes}

    def unknown(name: str) -> str:
        try:
            queries.select_targets(reader, name, list(monitor.targets), see=SEE_API)
        except UnknownTargetError as error:
            return str(error)
        return ""

    def availability(target: str | None, start: Millis, end: Millis) -> list[dict[str, Any]]:
        wanted = queries.select_targets(reader, target, list(monitor.targets), see=SEE_API)
        return queries.availability(reader, wanted, start, end)

    def incident(wanted: str) -> dict[str, Any] | None:
        for item in queries.incidents(reader, live=open_outages(monitor)):
            if item.id == wanted:
                return incident_json(queries.with_symptoms(reader, item))
        return None

    return ReadModel(
        targets=targets,
        unknown_reason=unknown,
        outages=lambda only_open, start, end: queries.outages(
            reader, only_open=only_open, start=start, end=end, live=open_outages(monitor)
        ),
        incidents=lambda only_open, start, end: [
            incident_json(incident)
            for incident in queries.incidents(
                reader, only_open=only_open, start=start, end=end, live=open_outages(monitor)
            )
        ],
        incident=incident,
        observations=lambda looks: queries.observations(reader, known(), **asdict(looks)),
        availability=availability,
        offline=lambda start, end: queries.offline(reader, start=start, end=end),
        unready_reasons=unready_reasons,
        stale_reasons=stale_reasons,
        metrics=monitor.metrics.exposition,
    )
