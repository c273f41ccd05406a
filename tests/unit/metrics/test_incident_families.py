"""What of each provider is down, as Prometheus reads it."""

from __future__ import annotations

from dataclasses import replace

from prometheus_client import CollectorRegistry

from mailwatch.analysis.incidents import incident_id
from mailwatch.metrics import Metrics
from mailwatch.model import Kind
from mailwatch.settings import Target
from tests.helpers.records import made_record


def target(name: str, provider: str = "libero") -> Target:
    return Target(name=name, kind=Kind.IMAP, host="h", port=1, provider=provider)


def lines(metrics: Metrics) -> list[str]:
    text = b"".join(metrics.exposition()).decode()
    return [
        line.removeprefix("mailwatch_incident_")
        for line in text.splitlines()
        if line.startswith("mailwatch_incident_")
    ]


def test_what_is_down_of_a_provider_is_counted_without_paused_targets() -> None:
    metrics = Metrics(CollectorRegistry())
    metrics.web_url = "https://mw.example.org"
    targets = [target(name) for name in "abc"]
    for each in (*targets, target("lone", ""), target("other", "virgilio")):
        metrics.declare(each)
    assert 'active{provider="libero"} 0' in lines(metrics)
    assert not [line for line in lines(metrics) if line.startswith(("start", "info"))]
    first, second = (
        replace(made_record(bad, bad + 60_000), id=f"o{bad}", provider="libero") for bad in (5000, 9000)
    )
    metrics.outages(targets[1], [second])
    assert 'info{provider="libero",incident_id="' + incident_id("libero", "o9000") in "\n".join(lines(metrics))
    assert 'url="https://mw.example.org/outages/o9000"} 1' in "\n".join(lines(metrics))
    metrics.outages(targets[0], [first])
    identity = incident_id("libero", "o5000")
    assert lines(metrics) == [
        'active{provider=""} 0', 'active{provider="libero"} 1', 'active{provider="virgilio"} 0',
        'targets{provider=""} 1', 'targets{provider="libero"} 3', 'targets{provider="virgilio"} 1',
        'targets_down{provider=""} 0', 'targets_down{provider="libero"} 2', 'targets_down{provider="virgilio"} 0',
        'start_timestamp_seconds{provider="libero"} 5.0',
        f'info{{provider="libero",incident_id="{identity}",url="https://mw.example.org/incidents/{identity}"}} 1',
    ]  # fmt: skip
    for each in targets[:2]:
        metrics.change(each, replace(each, paused=True))
    assert 'active{provider="libero"} 0' in lines(metrics)
    assert 'targets{provider="libero"} 1' in lines(metrics)
