"""What the API answers, from what the monitor has in memory and what the ledger says."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from typing import Any

from mailwatch import records
from mailwatch.incidents import incident_json
from mailwatch.models import Millis
from mailwatch.monitor import Monitor
from mailwatch.store import Reader
from mailwatch.watched import SEE_API, NoSuchTarget
from mailwatch.web.sources import Sources


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
            records.wanted_targets(reader, name, list(monitor.watches), see=SEE_API)
        except NoSuchTarget as error:
            return str(error)
        return ""

    def availability(target: str | None, start: Millis, end: Millis) -> list[dict[str, Any]]:
        wanted = records.wanted_targets(reader, target, list(monitor.watches), see=SEE_API)
        return records.availability(reader, wanted, start, end)

    def incident(wanted: str) -> dict[str, Any] | None:
        for item in records.incidents(reader, live=monitor.open_outages()):
            if item.id == wanted:
                return incident_json(records.in_full(reader, item))
        return None

    return Sources(
        targets=targets,
        unknown=unknown,
        outages=lambda only_open, start, end: records.outages(
            reader, only_open=only_open, start=start, end=end, live=monitor.open_outages()
        ),
        incidents=lambda only_open, start, end: [
            incident_json(incident)
            for incident in records.incidents(
                reader, only_open=only_open, start=start, end=end, live=monitor.open_outages()
            )
        ],
        incident=incident,
        observations=lambda looks: records.observations(reader, known(), **asdict(looks)),
        availability=availability,
        offline=lambda start, end: records.offline(reader, start=start, end=end),
        unready=unready,
        ill=ill,
        metrics=monitor.metrics.exposition,
    )
