"""What Prometheus reads: absent while unknown, 0 before the first time, and documented."""

from __future__ import annotations

import math
import os
import re
import shutil
import subprocess
import threading
from collections.abc import Iterator
from dataclasses import replace

import pytest
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.parser import text_string_to_metric_families
from pydantic import SecretStr

from mailwatch.analysis.confirmation import Channel
from mailwatch.analysis.outage_record import OutageRecord
from mailwatch.analysis.storage_budget import LedgerSizes, StorageBudget
from mailwatch.metrics import Metrics
from mailwatch.metrics.hub_families import PushRecord
from mailwatch.metrics.node_families import NodeRecord
from mailwatch.metrics.spool_families import SpoolRecord
from mailwatch.model import Attempt, Cause, Kind, Observation, Outcome, Phase, TlsFacts, TlsMode
from mailwatch.settings import Login, Target
from tests.helpers.paths import ROOT
from tests.helpers.records import made_record

DOCS = ROOT / "docs" / "reference" / "metrics.md"
T0 = 1_700_000_000_000
TARGET = Target(name="lab-imap", kind=Kind.IMAP, host="127.0.0.1", port=993, provider="lab")
T = {"target": "lab-imap", "provider": "lab", "kind": "imap"}
READ = (Kind.IMAP, Kind.POP3)
Series = dict[tuple[str, frozenset[tuple[str, str]]], float]


def shown(metrics: Metrics) -> str:
    return b"".join(metrics.exposition()).decode()


@pytest.fixture
def metrics() -> Metrics:
    metrics = Metrics(CollectorRegistry())
    metrics.declare(TARGET)
    return metrics


def parsed(text: str) -> Series:
    series: Series = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            key = (sample.name, frozenset(sample.labels.items()))
            assert key not in series, f"{key} twice"
            series[key] = sample.value
    return series


def value(metrics: Metrics, name: str, **labels: str) -> float | None:
    key = (f"mailwatch_{name}", frozenset(labels.items()))
    return parsed(shown(metrics)).get(key)


def observed(
    outcome: Outcome, at: int = T0, cause: Cause | None = None, failed_phase: Phase | None = None
) -> Observation:
    attempt = Attempt(
        started_at=at,
        ended_at=at + 300,
        phases={Phase.CONNECT: 100_000, Phase.TLS: 200_000},
        tls=TlsFacts(version="TLSv1.3", cipher="x", fingerprint="00", not_after=T0 + 86_400_000),
    )
    return Observation(
        target=TARGET.name,
        scheduled_at=at,
        started_at=at,
        ended_at=at + 300,
        outcome=outcome,
        cause=cause,
        failed_phase=failed_phase,
        attempts=(attempt,),
    )


UP = observed(Outcome.UP)
DOWN = observed(Outcome.DOWN, cause=Cause.TIMEOUT, failed_phase=Phase.CONNECT)


def outage(name: str, start: int, last_bad: int, end: int | None = None, **causes: int) -> OutageRecord:
    return made_record(start, last_bad, end, id=name, target=TARGET.name, causes=causes or {"timeout": 3})


def with_everything() -> Metrics:
    """One of every series."""
    metrics = Metrics(CollectorRegistry())
    metrics.declare(TARGET)
    metrics.observed(TARGET, replace(UP, facts={"latency_ms": 1500}), "up")
    metrics.outages(TARGET, [outage("a", T0, T0 + 60_000, T0 + 90_000), outage("b", T0 + 200_000, T0 + 300_000)])
    metrics.availability(TARGET, "24h", 0.9, 0.99, 0.8)
    metrics.guard(True, True, False)
    metrics.clock(0.01)
    metrics.lag(0.1)
    metrics.committed(0.01)
    metrics.ledger(size=7, last_checkpoint_ms=T0)
    metrics.storage(StorageBudget(LedgerSizes(rows=7000, entries=7), 1000.0, math.inf))
    metrics.audited(True)
    metrics.token(T0)
    metrics.token_interval(3600.0)
    metrics.backup_interval(86_400.0)
    metrics.backup(T0)
    metrics.config_reload(True, T0 / 1000)
    metrics.internal_error()
    metrics.channels(["json-1"])
    metrics.notified("json-1", "sent")
    metrics.witnesses(["w"])
    metrics.node = lambda: NodeRecord(
        active=True, lease=3.9, evictions=0, offset=0.01, bound=0.002, round_trip=0.004, handovers=0,
        states={"active": 1}, shares=256, minute=7, remote=5, dropped=0, lost={"lapsed": 2},
    )  # fmt: skip
    metrics.spool = lambda: SpoolRecord(waiting=3, oldest=T0 / 1000, used=0.5)
    metrics.witness("w", "cosigned", size=7, time_ms=T0)
    metrics.hub.confirm(Channel("lab", "imap"), True)
    metrics.hub.members["m"] = metrics.hub.pushed["h"] = PushRecord(7, T0)
    metrics.self_check.files = metrics.self_check.threads = metrics.self_check.memory["resident"] = (1, 10)
    # Of a channel that is not there nothing is shown: labels are bounded.
    metrics.notified("json-2", "sent")
    return metrics


def test_only_a_message_that_came_in_time_has_a_latency(metrics: Metrics) -> None:
    metrics.observed(TARGET, replace(UP, facts={"latency_ms": 1500}), "up")
    assert value(metrics, "delivery_latency_seconds", **T) == 1.5
    metrics.observed(TARGET, replace(DOWN, facts={"stage": "queued"}), "suspect")
    assert value(metrics, "delivery_latency_seconds", **T) is None


def test_an_unknown_observation_removes_probe_success(metrics: Metrics) -> None:
    assert value(metrics, "probe_success", **T) is None
    metrics.observed(TARGET, UP, "up")
    assert value(metrics, "probe_success", **T) == 1
    metrics.observed(TARGET, DOWN, "suspect")
    assert value(metrics, "probe_success", **T) == 0
    metrics.observed(TARGET, observed(Outcome.UNKNOWN, cause=Cause.OFFLINE), "suspect")
    assert value(metrics, "probe_success", **T) is None


def test_maintenance_is_0_or_1_from_the_beginning(metrics: Metrics) -> None:
    assert value(metrics, "maintenance_active", **T) == 0
    metrics.maintenance(TARGET, True)
    assert value(metrics, "maintenance_active", **T) == 1
    metrics.forget(TARGET)
    metrics.maintenance(TARGET, False)
    assert value(metrics, "maintenance_active", **T) is None


def test_exactly_one_state_is_1(metrics: Metrics) -> None:
    metrics.observed(TARGET, DOWN, "suspect")
    states = ("up", "suspect", "down", "recovering", "unknown")
    assert [value(metrics, "target_state", **T, state=state) for state in states] == [0, 1, 0, 0, 0]


def test_the_phases_add_up_to_the_duration_and_the_certificate_outlives_a_failed_observation(
    metrics: Metrics,
) -> None:
    metrics.observed(TARGET, UP, "up")
    assert value(metrics, "probe_phase_duration_seconds", **T, phase="connect") == 0.1
    assert value(metrics, "probe_phase_duration_seconds", **T, phase="tls") == 0.2
    assert value(metrics, "probe_duration_seconds", **T) == 0.3
    metrics.observed(TARGET, replace(DOWN, started_at=T0 + 5000, attempts=()), "suspect")
    assert value(metrics, "probe_phase_duration_seconds", **T, phase="tls") is None
    assert value(metrics, "tls_certificate_not_after_timestamp_seconds", **T) == T0 / 1000 + 86_400
    assert value(metrics, "probe_last_timestamp_seconds", **T) == T0 / 1000 + 5
    assert value(metrics, "probe_last_success_timestamp_seconds", **T) == T0 / 1000


def test_the_latency_histogram_counts_only_up_observations(metrics: Metrics) -> None:
    metrics.observed(TARGET, UP, "up")
    metrics.observed(TARGET, DOWN, "suspect")
    assert value(metrics, "probe_latency_seconds_bucket", **T, le="0.25") == 0
    assert value(metrics, "probe_latency_seconds_bucket", **T, le="0.5") == 1
    assert value(metrics, "probe_latency_seconds_bucket", **T, le="+Inf") == 1
    assert value(metrics, "probe_latency_seconds_count", **T) == 1
    assert value(metrics, "probe_latency_seconds_sum", **T) == 0.3


def test_a_value_on_a_bound_is_in_its_bucket(metrics: Metrics) -> None:
    metrics.lag(0.1)
    metrics.lag(99)
    metrics.lag(-5)
    assert value(metrics, "schedule_lag_seconds_bucket", le="0.1") == 2
    assert value(metrics, "schedule_lag_seconds_bucket", le="30.0") == 2
    assert value(metrics, "schedule_lag_seconds_count") == 3


LOGIN = Login(username="a", password=SecretStr("x"))


@pytest.mark.parametrize("kind", Kind)
@pytest.mark.parametrize("tls", TlsMode)
@pytest.mark.parametrize("login", [None, LOGIN], ids=["greeting", "login"])
def test_counters_are_there_at_0_before_anything_happened(kind: Kind, tls: TlsMode, login: Login | None) -> None:
    target = replace(TARGET, kind=kind, tls=tls, login=login)
    metrics = Metrics(CollectorRegistry())
    metrics.declare(target)
    labels = T | {"kind": kind.value}
    series = parsed(shown(metrics))
    for outcome in Outcome:
        assert series["mailwatch_observations_total", frozenset({**labels, "outcome": outcome}.items())] == 0
    for name in ("outages_total", "outage_seconds_total", "gap_seconds_total", "outage_active"):
        assert series[f"mailwatch_{name}", frozenset(labels.items())] == 0
    failures = {key: v for key, v in series.items() if "failures" in key[0]}
    reported = {(dict(key)["cause"], dict(key)["phase"]) for _, key in failures}
    assert set(failures.values()) == {0}
    assert {("dns", "resolve"), ("refused", "connect"), ("unavailable", "greeting")} <= reported
    assert {("offline", "none"), ("monitor", "none")} <= reported
    assert (("tls", "tls") in reported) == (tls is not TlsMode.NONE)
    assert (("credentials", "auth") in reported) == (login is not None and kind not in (Kind.MX, Kind.WEBMAIL))
    assert (("unavailable", "fetch") in reported) == (kind is Kind.WEBMAIL or (login is not None and kind in READ))
    assert (("unavailable", "tls") in reported) == (tls is TlsMode.STARTTLS)
    assert len(reported) <= 40


def test_a_failure_is_counted_by_cause_and_phase(metrics: Metrics) -> None:
    metrics.observed(TARGET, DOWN, "suspect")
    metrics.observed(TARGET, DOWN, "suspect")
    assert value(metrics, "probe_failures_total", **T, cause="timeout", phase="connect") == 2
    assert value(metrics, "probe_failures_total", **T, cause="timeout", phase="greeting") == 0
    assert value(metrics, "observations_total", **T, outcome="down") == 2


def test_being_offline_is_no_failure_of_a_phase(metrics: Metrics) -> None:
    metrics.observed(TARGET, replace(DOWN, outcome=Outcome.UNKNOWN, cause=Cause.OFFLINE), "suspect")
    assert value(metrics, "probe_failures_total", **T, cause="offline", phase="none") == 1
    assert value(metrics, "probe_failures_total", **T, cause="timeout", phase="connect") == 0


def test_an_unexpected_failure_is_counted_too(metrics: Metrics) -> None:
    unforeseen = replace(DOWN, cause=Cause.UNDELIVERED, failed_phase=Phase.RESOLVE)
    assert value(metrics, "probe_failures_total", **T, cause="undelivered", phase="resolve") is None
    metrics.observed(TARGET, unforeseen, "suspect")
    assert value(metrics, "probe_failures_total", **T, cause="undelivered", phase="resolve") == 1


def test_an_open_outage_grows_with_each_down_observation_and_closes(metrics: Metrics) -> None:
    metrics.outages(TARGET, [outage("a", T0, T0 + 20_000, refused=1, timeout=2)])
    assert value(metrics, "outage_active", **T) == 1
    assert value(metrics, "outages_total", **T) == 1
    assert value(metrics, "outage_seconds_total", **T) == 20
    assert value(metrics, "outage_start_timestamp_seconds", **T, outage_id="a", cause="timeout") == T0 / 1000
    assert value(metrics, "outage_end_timestamp_seconds", **T, outage_id="a") is None
    metrics.observed(TARGET, replace(DOWN, started_at=T0 + 80_000), "down")
    metrics.observed(TARGET, replace(UP, started_at=T0 + 140_000), "recovering")
    assert value(metrics, "outage_seconds_total", **T) == 80
    metrics.outages(TARGET, [outage("a", T0, T0 + 80_000, T0 + 140_000)])
    assert value(metrics, "outage_active", **T) == 0
    assert value(metrics, "outages_total", **T) == 1
    assert value(metrics, "outage_seconds_total", **T) == 80
    assert value(metrics, "outage_end_timestamp_seconds", **T, outage_id="a") == T0 / 1000 + 140


def test_outage_seconds_never_decrease_when_bounds_are_corrected(metrics: Metrics) -> None:
    metrics.outages(TARGET, [outage("a", T0, T0)])
    metrics.observed(TARGET, replace(DOWN, started_at=T0 + 80_000), "down")
    metrics.outages(TARGET, [outage("a", T0, T0 + 79_000, T0 + 140_000)])
    assert value(metrics, "outage_seconds_total", **T) == 80


def test_outages_stated_twice_count_once(metrics: Metrics) -> None:
    first = outage("a", T0, T0 + 1000, T0 + 2000)
    metrics.outages(TARGET, [first])
    metrics.outages(TARGET, [first, outage("b", T0 + 5000, T0 + 6000, T0 + 7000)])
    assert value(metrics, "outages_total", **T) == 2
    assert value(metrics, "outage_seconds_total", **T) == 2


def test_a_scrape_while_outages_are_updated_sees_them_as_they_were(metrics: Metrics) -> None:
    """Else an alert would end and come again, and a counter that fell would be counted anew."""
    before, running = outage("a", 0, 10, 20), outage("b", 30, 40)
    metrics.outages(TARGET, [before, running])
    seen = []

    class Scraped(list[OutageRecord]):
        def __iter__(self) -> Iterator[OutageRecord]:
            for reported in super().__iter__():
                yield reported
                seen.append((value(metrics, "outage_active", **T), value(metrics, "outages_total", **T)))

    metrics.outages(TARGET, Scraped([before, running]))
    metrics.outages(TARGET, Scraped([before, outage("b", 30, 40, 50)]))
    assert seen == [(1, 2)] * 4
    assert (value(metrics, "outage_active", **T), value(metrics, "outages_total", **T)) == (0, 2)


def test_only_the_last_50_closed_outages_are_shown_one_by_one(metrics: Metrics) -> None:
    other = replace(TARGET, name="lab-smtp")
    metrics.declare(other)
    reported = [outage(f"o{n}", T0 + n * 10_000, T0 + n * 10_000, T0 + n * 10_000 + 5000) for n in range(60)]
    metrics.outages(TARGET, reported[:40])
    metrics.outages(other, reported[40:])
    series = parsed(shown(metrics))
    ends = {dict(key)["outage_id"] for name, key in series if name == "mailwatch_outage_end_timestamp_seconds"}
    starts = {dict(key)["outage_id"] for name, key in series if name == "mailwatch_outage_start_timestamp_seconds"}
    assert ends == starts == {f"o{n}" for n in range(10, 60)}
    assert value(metrics, "outages_total", **T) == 40


def test_availability_that_is_not_known_is_absent(metrics: Metrics) -> None:
    metrics.availability(TARGET, "7d", None, None, 0.0)
    assert value(metrics, "availability_ratio", **T, window="7d", bound="lower") is None
    assert value(metrics, "coverage_ratio", **T, window="7d") == 0
    metrics.availability(TARGET, "7d", 0.5, 0.75, 0.25)
    assert value(metrics, "availability_ratio", **T, window="7d", bound="lower") == 0.5
    assert value(metrics, "availability_ratio", **T, window="7d", bound="upper") == 0.75


def test_a_forgotten_target_is_gone_and_a_late_observation_does_not_bring_it_back(metrics: Metrics) -> None:
    metrics.outages(TARGET, [outage("a", T0, T0, T0 + 1000)])
    metrics.forget(TARGET)
    metrics.observed(TARGET, UP, "up")
    metrics.outages(TARGET, [outage("b", T0, T0)])
    metrics.gap(TARGET, 5.0)
    metrics.availability(TARGET, "7d", 1, 1, 1)
    assert b"lab-imap" not in shown(metrics).encode()


def test_a_changed_target_keeps_its_counts_under_its_new_labels(metrics: Metrics) -> None:
    metrics.observed(TARGET, DOWN, "suspect")
    metrics.gap(TARGET, 12.5)
    changed = replace(TARGET, provider="other", interval=5.0, login=LOGIN)
    metrics.change(TARGET, changed)
    labels = T | {"provider": "other"}
    assert value(metrics, "observations_total", **labels, outcome="down") == 1
    assert value(metrics, "probe_failures_total", **labels, cause="timeout", phase="connect") == 1
    assert value(metrics, "probe_failures_total", **labels, cause="credentials", phase="auth") == 0
    assert value(metrics, "probe_interval_seconds", **labels) == 5
    assert value(metrics, "gap_seconds_total", **labels) == 12.5
    assert b'provider="lab"' not in shown(metrics).encode()


def test_a_faulty_reload_keeps_the_time_of_the_last_good_one(metrics: Metrics) -> None:
    metrics.config_reload(True, 100.0)
    metrics.config_reload(False, 200.0)
    assert value(metrics, "config_last_reload_successful") == 0
    assert value(metrics, "config_last_reload_success_timestamp_seconds") == 100


def test_unknown_monitor_metrics_are_absent(metrics: Metrics) -> None:
    for name in ("guard_online", "clock_error_bound_seconds", "ledger_size", "ledger_valid"):
        assert value(metrics, name) is None
    metrics.guard(False)
    metrics.ledger(size=0, last_checkpoint_ms=None)
    metrics.audited(False)
    assert value(metrics, "guard_online") == 0
    assert value(metrics, "ledger_size") == 0
    assert value(metrics, "ledger_valid") == 0
    assert value(metrics, "ledger_last_checkpoint_timestamp_seconds") is None
    metrics.guard(None)
    assert value(metrics, "guard_online") is None


@pytest.mark.parametrize("name", ['quote"d', "back\\slash", "new\nline", "ünïcode", "comma,brace}"])
def test_any_target_name_survives_the_text_format(name: str) -> None:
    metrics = Metrics(CollectorRegistry())
    metrics.declare(replace(TARGET, name=name))
    assert value(metrics, "outage_active", **T | {"target": name}) == 0


def test_labels_are_written_in_the_order_target_provider_kind() -> None:
    text = shown(with_everything())
    assert 'mailwatch_probe_success{target="lab-imap",provider="lab",kind="imap"} 1\n' in text


def test_the_registry_and_the_exposition_are_the_same() -> None:
    registry = CollectorRegistry()
    metrics = Metrics(registry)
    metrics.declare(TARGET)
    metrics.observed(TARGET, DOWN, "suspect")
    metrics.outages(TARGET, [outage("a", T0, T0 + 1, T0 + 2)])
    metrics.internal_error()
    assert parsed(generate_latest(registry).decode()) == parsed(shown(metrics))


def test_no_created_series() -> None:
    assert "_created" not in shown(with_everything())


def test_the_documented_metrics_are_those_that_there_are() -> None:
    reported = shown(with_everything())
    there = {
        name: (kind, labels_of(name, reported))
        for name, kind in re.findall(r"^# TYPE (\S+) (\S+)$", reported, re.MULTILINE)
    }
    rows = re.findall(r"^\| `(\w+)` \| (\w+) \| ([\w, ]*) ?\| \S", DOCS.read_text(), re.MULTILINE)
    documented = {
        name: (kind, frozenset(labels.replace("T", "target, provider, kind").replace(",", "").split()))
        for name, kind, labels in rows
    }
    assert documented == there


def labels_of(name: str, text: str) -> frozenset[str]:
    lines = re.findall(rf"^{name}(?:_bucket|_sum|_count)?(?:{{(.*)}})? \S+$", text, re.MULTILINE)
    assert lines, f"{name} has no series"
    return frozenset(label for line in lines for label in re.findall(r'(\w+)="', line)) - {"le"}


def test_promtool_accepts_the_exposition() -> None:
    promtool = shutil.which("promtool")
    if promtool is None and "CI" not in os.environ:
        pytest.skip("promtool is not installed")
    assert promtool, "promtool is not installed: apt-get install prometheus"
    done = subprocess.run(
        [promtool, "check", "metrics"], input=shown(with_everything()).encode(), capture_output=True, timeout=60
    )
    assert (done.returncode, done.stdout + done.stderr) == (0, b"")


@pytest.mark.slow
def test_ten_thousand_targets_are_written_in_pieces_of_bounded_size() -> None:
    metrics = Metrics(CollectorRegistry())
    for n in range(10_000):
        metrics.declare(replace(TARGET, name=f"target-{n}", login=LOGIN))
        metrics.observed(replace(TARGET, name=f"target-{n}"), UP, "up")
    pieces = list(metrics.exposition())
    assert sum(piece.count(b"\nmailwatch_probe_success{") for piece in pieces) >= 9_990
    assert b"".join(pieces).count(b"\nmailwatch_probe_success{") == 10_000
    assert max(map(len, pieces)) < 500_000


def test_a_scrape_in_another_thread_never_stumbles_over_an_observation() -> None:
    metrics = Metrics(CollectorRegistry())
    for n in range(50):
        metrics.declare(replace(TARGET, name=f"t{n}"))
    failures: list[BaseException] = []
    stop = threading.Event()

    def scrape() -> None:
        try:
            while not stop.is_set():
                shown(metrics).encode()
        except BaseException as error:
            failures.append(error)

    thread = threading.Thread(target=scrape)
    thread.start()
    causes = [(cause, phase) for cause in Cause for phase in Phase]
    for turn in range(200):
        cause, phase = causes[turn % len(causes)]
        target = replace(TARGET, name=f"t{turn % 50}")
        metrics.observed(target, replace(DOWN, cause=cause, failed_phase=phase), "down")
        metrics.outages(target, [outage(f"o{turn}", T0, T0, T0 + turn)])
        metrics.declare(replace(TARGET, name=f"new{turn}"))
        metrics.forget(replace(TARGET, name=f"new{turn - 5}"))
        metrics.availability(target, f"{turn}h", 1, 1, 1)
    stop.set()
    thread.join()
    assert failures == []
