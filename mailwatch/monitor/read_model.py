"""What the API answers, from what the monitor has in memory and what the ledger says.

What the pages show, from what the monitor has in memory and, for a single outage, from the ledger.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

from mailwatch.analysis.availability import DAY
from mailwatch.analysis.elapsed import Moment, as_shown, end_of, reference_of, start_of
from mailwatch.analysis.public_json import incident_json
from mailwatch.config import Config, catalogue
from mailwatch.config.recorded_targets import SEE_API, NoSuchTarget
from mailwatch.evidence.ledger_range import NoCase, gather
from mailwatch.evidence.report_job import Making
from mailwatch.model import Observation, Outcome
from mailwatch.monitor.pipeline import Monitor
from mailwatch.monitor.self_audit import Auditing
from mailwatch.monitor.target_runtime import Watch
from mailwatch.settings import Target
from mailwatch.store import Reader, StoreError, Tokens, queries
from mailwatch.times import Millis
from mailwatch.web.read_model import NotMade, Sources, Views

LOOKS_AT_MOST = 5000
"""Looks of an outage that are read for its transitions."""
TRANSITIONS_AT_MOST = 100


def outlook(monitor: Monitor, reader: Reader, path: Path, config: Config, auditing: Auditing) -> Views:
    """Return what the pages need of a running MailWatch. `path` is its config file."""
    making = Making(path, config.data_dir)

    async def evidence(identity: str, language: str) -> Path:
        if await asyncio.to_thread(_payload, monitor, reader, identity) is None:
            raise NotMade(f"no outage {identity!r}; GET /api/v1/outages lists them")
        try:
            return await making.make(identity, language)
        except NoCase as error:
            raise NotMade(str(error)) from None

    return Views(
        vantage_point=config.vantage_point.name,
        place=config.vantage_point.place,
        glance=partial(_glance, monitor),
        outages=partial(_outages, monitor),
        outage=partial(_outage, monitor, reader, Tokens(config.data_dir)),
        ledger=partial(_ledger, reader, auditing),
        pulse=partial(_pulse, monitor),
        unguarded=lambda: monitor.judging.guard is None,
        evidence=evidence,
    )


def nobodys(monitor: Monitor, reader: Reader) -> Callable[[], bool]:
    """Return what says whether all on record is nobody's: servers of the catalogue, looked at without a log-in.

    So it is with config.example.yaml, whose pages may be shown to anybody as they are. What was somebody's once
    stays on record, and is shown, when it is watched no longer: so this is asked before each reload, and a no is
    for good.
    """
    open_to_all: bool | None = None

    def told() -> bool:
        nonlocal open_to_all
        watched = [watch.target for watch in list(monitor.watches.values())]
        if not all(_is_nobodys(target) for target in watched):
            open_to_all = False
        elif open_to_all is None:
            try:
                open_to_all = {target.name for target in watched}.issuperset(reader.targets())
            except StoreError:
                # Whose it is is not known now: nobody but those who may see all is let in.
                return False
        return open_to_all

    return told


def _is_nobodys(target: Target) -> bool:
    provider = catalogue.by_key(target.provider) if target.provider else None
    public = provider is not None and target.host in {server.host for server in provider.servers}
    return public and target.login is None and target.task is None and "@" not in target.name


def _glance(monitor: Monitor, name: str, at: Millis) -> dict[str, Any]:
    watch = monitor.watches[name]
    latest = watch.latest
    last = latest.deciding if latest else None
    ratio = watch.buckets.ratio(90 * DAY, at)
    return {
        "phases": {phase.value: spent / 1e6 for phase, spent in last.phases.items()} if last else {},
        "duration": (latest.ended_at - latest.started_at) / 1000 if latest else 0.0,
        "ratio": {"lower": ratio.lower, "upper": ratio.upper, "coverage": ratio.coverage},
        "days": watch.buckets.days(at),
        "filling": watch.unfilled is not None,
    }


def _outages(monitor: Monitor) -> list[dict[str, Any]]:
    found = dict(monitor.former)
    for watch in list(monitor.watches.values()):
        told = dict(watch.outages)
        if watch.state.outage:
            # What was written when it opened is as old as that.
            told[watch.state.outage.id] = monitor.told(watch.target, watch.state.outage)
        found |= told
    return sorted(found.values(), key=lambda outage: str(outage["first_bad"]), reverse=True)


def _pulse(monitor: Monitor) -> str:
    states = (
        (w.target.name, w.state.name, w.latest.started_at if w.latest else 0, _newest(w))
        for w in list(monitor.watches.values())
    )
    return str(hash(tuple(states)))


def _newest(watch: Watch) -> tuple[str, str]:
    """An outage is on record a moment after the look that opened or closed it."""
    newest = next(reversed(watch.outages.values()), None)
    return (newest["id"], newest["state"]) if newest else ("", "")


def _payload(monitor: Monitor, reader: Reader, identity: str) -> dict[str, Any] | None:
    found = queries.outage_payloads(reader, live=monitor.open_outages())
    return next((told for told in found if told["id"] == identity), None)


def _outage(monitor: Monitor, reader: Reader, tokens: Tokens, identity: str) -> dict[str, Any] | None:
    payload = _payload(monitor, reader, identity)
    if payload is None:
        return None
    first, last = payload["ledger"]["first"], payload["ledger"]["last"]
    looks = list(_looks(reader, payload["target"], first, last))
    guard = next((look.guard for look in looks if look.outcome is Outcome.DOWN), None)
    shown = None if guard is None else {"online": guard.online, "controls": guard.controls}
    return {
        "proven_afterwards": False,
        "maintenance_ms": 0,
        **payload,
        "transitions": _transitions(looks, reference_of(payload, looks[0] if looks else None)),
        "guard": shown,
        "clock_bound": _clock_bound(reader, first),
        "range": _range(reader, tokens, payload["target"], first, last),
    }


def _looks(reader: Reader, target: str, first: int, last: int) -> Iterator[Observation]:
    within = reader.entries(target=target, kinds=["observation"], from_index=first, limit=LOOKS_AT_MOST)
    for entry in within:
        if isinstance(fact := entry.fact, Observation):
            yield fact
            if entry.index > last:
                return


def _transitions(looks: list[Observation], reference: Moment | None) -> list[dict[str, Any]]:
    told: list[dict[str, Any]] = []
    before = None
    for look in looks:
        here = (look.outcome, look.cause, look.failed_phase)
        if here != before and len(told) < TRANSITIONS_AT_MOST:
            told.append(
                {
                    # As the bounds are taken: the last good look counts from its start, others from their end.
                    "at": as_shown(
                        start_of(look) if not told and look.outcome is Outcome.UP else end_of(look), reference
                    ),
                    "outcome": look.outcome.value,
                    "cause": look.cause.value if look.cause else None,
                    "phase": look.failed_phase.value if look.failed_phase else None,
                    "detail": look.detail,
                }
            )
        before = here
    return told


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
        found = gather(reader, tokens, first, max([last, *(entry.index for entry in closing)]))
    except NoCase:
        return None
    stamped = [{"time": t.time, "authority": t.authority, "checkpoint": t.checkpoint} for t in found.tokens]
    return {"start": found.start.size, "end": found.end.size, "note": found.end.note, "tokens": stamped}


def _ledger(reader: Reader, auditing: Auditing) -> dict[str, Any]:
    row = reader.last_checkpoint()
    token = next(iter(reader.entries(kinds=["token"], descending=True, limit=1)), None)
    return {
        "size": reader.size(),
        "checkpoint": None if row is None else {"size": row.size, "time": row.time_ms, "note": row.note},
        "token": None if token is None else token.payload,
        "audit": auditing.latest,
    }


def answers(
    monitor: Monitor, reader: Reader, *, unready: Callable[[], list[str]], ill: Callable[[], list[str]]
) -> Sources:
    """Return what answers the API. `unready` says why /readyz must fail, `ill` why what is shown may be old."""

    def targets() -> list[dict[str, Any]]:
        return [monitor.status(watch) for watch in list(monitor.watches.values())]

    def known() -> dict[str, tuple[str, str]]:
        watches = list(monitor.watches.values())
        return {w.target.name: (w.target.provider, w.target.kind.value) for w in watches}

    def unknown(name: str) -> str:
        try:
            queries.wanted_targets(reader, name, list(monitor.watches), see=SEE_API)
        except NoSuchTarget as error:
            return str(error)
        return ""

    def availability(target: str | None, start: Millis, end: Millis) -> list[dict[str, Any]]:
        wanted = queries.wanted_targets(reader, target, list(monitor.watches), see=SEE_API)
        return queries.availability(reader, wanted, start, end)

    def incident(wanted: str) -> dict[str, Any] | None:
        for item in queries.incidents(reader, live=monitor.open_outages()):
            if item.id == wanted:
                return incident_json(queries.in_full(reader, item))
        return None

    return Sources(
        targets=targets,
        unknown=unknown,
        outages=lambda only_open, start, end: queries.outages(
            reader, only_open=only_open, start=start, end=end, live=monitor.open_outages()
        ),
        incidents=lambda only_open, start, end: [
            incident_json(incident)
            for incident in queries.incidents(
                reader, only_open=only_open, start=start, end=end, live=monitor.open_outages()
            )
        ],
        incident=incident,
        observations=lambda looks: queries.observations(reader, known(), **asdict(looks)),
        availability=availability,
        offline=lambda start, end: queries.offline(reader, start=start, end=end),
        unready=unready,
        ill=ill,
        metrics=monitor.metrics.exposition,
    )
