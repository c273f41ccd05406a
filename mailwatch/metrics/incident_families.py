"""The families of incidents: what is down of each provider, since when, and where to read on.

A target without a provider belongs to provider "", whose targets have nothing to do with each other.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from urllib.parse import quote

from mailwatch.analysis.incidents import incident_id
from mailwatch.analysis.outage_record import OutageRecord
from mailwatch.metrics.exposition import NO_LABELS, Family, Labels, Row
from mailwatch.metrics.target import TargetRecord


@dataclass(slots=True)
class _Provider:
    targets: int = 0
    down: list[OutageRecord] = field(default_factory=list)


def incident_families(records: Sequence[TargetRecord], web_url: str) -> Iterator[Family]:
    """Yield the families by provider. Paused targets do not count. `web_url` is the base of the pages, or ""."""
    found: dict[str, _Provider] = defaultdict(_Provider)
    for record in records:
        provider = found[record.provider]
        # Read once: a probe in another thread may close it.
        open_outage = record.open
        if not record.paused:
            provider.targets += 1
            if open_outage is not None:
                provider.down.append(open_outage)
    by_label = [(Labels.of(provider=name), name, each) for name, each in sorted(found.items())]

    def rows(values: Iterator[float | None]) -> list[Row]:
        pairs = zip(by_label, values, strict=True)
        return [("", label, NO_LABELS, value) for (label, _, _), value in pairs if value is not None]

    providers = [each for _, _, each in by_label]
    yield Family(
        "mailwatch_incident_active", "gauge", "Whether a target of the provider has an open outage.",
        rows(int(bool(each.down)) for each in providers),
    )  # fmt: skip
    yield Family(
        "mailwatch_incident_targets", "gauge", "Targets of the provider that are probed.",
        rows(each.targets for each in providers),
    )  # fmt: skip
    yield Family(
        "mailwatch_incident_targets_down", "gauge", "Targets of the provider that have an open outage.",
        rows(len(each.down) for each in providers),
    )  # fmt: skip
    yield Family(
        "mailwatch_incident_start_timestamp_seconds", "gauge", "First failure of the provider's open outages.",
        rows(min((one.first_bad / 1000 for one in each.down), default=None) for each in providers),
    )  # fmt: skip
    yield Family(
        "mailwatch_incident_info", "gauge", "The open incident: its id, and the address of its page if known.",
        [_info(name, each.down, web_url) for _, name, each in by_label if each.down],
    )  # fmt: skip


def _info(provider: str, down: Sequence[OutageRecord], web_url: str) -> Row:
    oldest = min(down, key=lambda outage: (outage.first_bad, outage.id))
    # The page knows an incident by each of its outages: the id need not be that of the first on record.
    identity = incident_id(provider, oldest.id)
    if len(down) == 1:
        page = f"outages/{quote(oldest.id, safe='')}"
    else:
        page = f"incidents/{identity}" if provider else "outages"
    url = f"{web_url}/{page}" if web_url else ""
    return "", Labels.of(provider=provider, incident_id=identity, url=url), NO_LABELS, 1
