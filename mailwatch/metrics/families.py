"""Builds the metric families from the records: each family's name, help text and source of numbers.

The families are those of the targets, and those of MailWatch itself by its latest self-check.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from operator import attrgetter

from mailwatch.analysis.outage_record import OutageRecord
from mailwatch.metrics.exposition import NO_LABELS, Family, Labels, Row
from mailwatch.metrics.target import Histogram, TargetRecord, main_cause
from mailwatch.model import HealthArea, Outcome

LAG_BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
Amount = tuple[int | None, int | None]
"""An amount used, and its limit; None if unknown or not set."""
NO_AMOUNT: Amount = (None, None)


@dataclass(slots=True)
class SelfMetrics:
    """The numbers of the self-check. Written once a second in the event loop; read from any thread."""

    lag: Histogram = field(default_factory=lambda: Histogram(LAG_BUCKETS))
    stalled: int = 0
    overdue: int = 0
    store_wait: float = 0.0
    files: Amount = NO_AMOUNT
    threads: Amount = NO_AMOUNT
    memory: dict[str, Amount] = field(default_factory=dict)
    problems: dict[str, bool] = field(default_factory=lambda: {sign.value: False for sign in HealthArea})


STATES = ("up", "suspect", "down", "recovering", "unknown", "paused")
Records = Sequence[TargetRecord]

_GAUGES = (
    ("probe_success", "Whether the latest probe found the service up; absent while unknown.", "success"),
    ("probe_duration_seconds", "Duration of all phases of the latest probe.", "duration"),
    ("probe_last_timestamp_seconds", "Start of the latest probe.", "last"),
    ("probe_last_success_timestamp_seconds", "Start of the latest successful probe.", "last_success"),
    ("probe_interval_seconds", "Configured seconds between two probes.", "interval"),
    ("maintenance_active", "Whether the target is in announced maintenance.", "maintenance"),
    ("target_paused", "Whether the target is paused by its owner, and not probed.", "paused"),
    (
        "tls_certificate_not_after_timestamp_seconds",
        "Expiry of the certificate observed last.",
        "certificate_not_after",
    ),
    (
        "delivery_latency_seconds",
        "Time from acceptance to arrival of the latest test message.",
        "delivery",
    ),
)


def target_families(records: Records, recent: Iterable[OutageRecord]) -> Iterator[Family]:
    """Yield the families with target labels."""
    for name, text, attribute in _GAUGES:
        yield _family(name, "gauge", text, _simple(records, attrgetter(attribute)))
    yield _family(
        "target_state", "gauge", "1 for the state that the target is in, 0 for others.", _states(records)
    )
    yield _family(
        "probe_phase_duration_seconds", "gauge", "Duration of each phase of the latest probe.", _phases(records)
    )
    yield from _availability(records)
    yield _family("observations_total", "counter", "Observations by outcome.", _observations(records))
    yield _family(
        "probe_failures_total", "counter", "Observations that were not up, by cause and phase.", _failures(records)
    )
    yield _family(
        "gap_seconds_total", "counter", "Time without observations.", _simple(records, attrgetter("gap_seconds"))
    )
    yield _family(
        "probe_latency_seconds", "histogram", "Duration of successful probes.",
        (row for r in records for row in _histogram(r.latency, r.labels)),
    )  # fmt: skip
    yield from _outages(records, recent)


def monitor_families(values: Mapping[str, tuple[str, str, float | None]]) -> Iterator[Family]:
    """Yield the families without labels, from name to kind, help and value; None yields no row."""
    for name, (kind, text, value) in values.items():
        rows = [] if value is None else [("", NO_LABELS, NO_LABELS, value)]
        yield _family(name, kind, text, rows)


def line_family(line: Mapping[str, bool | None]) -> Family:
    """Return the family of our own line by address family; None yields no row."""
    rows = [("", NO_LABELS, _label("family", name), int(up)) for name, up in line.items() if up is not None]
    text = "Whether our own line is up over that address family; absent while unknown."
    return _family("guard_family_online", "gauge", text, rows)


def channel_family(counts: Mapping[tuple[str, str], int]) -> Family:
    """Return the family of messages to people, by channel and outcome."""
    rows = [("", NO_LABELS, Labels.of(channel=name, outcome=outcome), n) for (name, outcome), n in counts.items()]
    return _family("notifications_total", "counter", "Notifications by channel and outcome.", rows)


def histogram_family(name: str, text: str, histogram: Histogram) -> Family:
    """Return the family of a histogram without labels."""
    return _family(name, "histogram", text, _histogram(histogram, NO_LABELS))


def self_families(self_metrics: SelfMetrics) -> Iterator[Family]:
    """Yield the families of the self-check; None yields no row."""
    yield histogram_family(
        "self_loop_lag_seconds", "Delay of the event loop, measured once a second.", self_metrics.lag
    )
    simple: tuple[tuple[str, str, float | None], ...] = (
        ("stalled_probes", "Probes that run longer than all of their timeouts.", self_metrics.stalled),
        ("overdue_targets", "Targets that were not probed for three intervals.", self_metrics.overdue),
        ("store_wait_seconds", "How long the oldest entry has waited for the disk.", self_metrics.store_wait),
        ("open_files", "File handles in use.", self_metrics.files[0]),
        ("open_files_limit", "Limit of file handles.", self_metrics.files[1]),
        ("threads", "Threads of the process.", self_metrics.threads[0]),
        ("threads_limit", "Limit of threads, by the cgroup or RLIMIT_NPROC.", self_metrics.threads[1]),
    )
    for name, text, value in simple:
        yield _family(f"self_{name}", "gauge", text, [] if value is None else [("", NO_LABELS, NO_LABELS, value)])
    memory = list(self_metrics.memory.items())
    for name, text, place in (
        ("memory_bytes", "Memory in use: resident, and address space.", 0),
        ("memory_limit_bytes", "Limit of memory: by the cgroup, and by RLIMIT_AS.", 1),
    ):
        rows = [("", NO_LABELS, _label("of", of), amounts[place]) for of, amounts in memory]
        yield _family(f"self_{name}", "gauge", text, [(*row[:3], row[3]) for row in rows if row[3] is not None])
    problems = [("", NO_LABELS, _label("sign", sign), int(on)) for sign, on in self_metrics.problems.items()]
    yield _family("self_problem", "gauge", "Whether the self-check found a problem, by sign.", problems)


def info_family(name: str, text: str, **labels: str) -> Family:
    """Return a family whose labels are facts, with the value 1."""
    return _family(name, "gauge", text, [("", NO_LABELS, Labels.of(**labels), 1)])


def _family(name: str, kind: str, text: str, rows: Iterable[Row]) -> Family:
    return Family(f"mailwatch_{name}", kind, text, rows)


@cache
def _label(name: str, value: str) -> Labels:
    return Labels.of(**{name: value})


@cache
def _labels(first: str, one: str, second: str, other: str) -> Labels:
    return Labels.of(**{first: one, second: other})


def _simple(records: Records, value_of: Callable[[TargetRecord], float | None]) -> Iterator[Row]:
    for record in records:
        value = value_of(record)
        if value is not None:
            yield "", record.labels, NO_LABELS, value


def _states(records: Records) -> Iterator[Row]:
    labels = [(state, _label("state", state)) for state in STATES]
    for record in records:
        for state, label in labels:
            yield "", record.labels, label, int(record.state == state)


def _phases(records: Records) -> Iterator[Row]:
    for record in records:
        for phase, took in record.phases.items():
            yield "", record.labels, _label("phase", phase), took / 1_000_000


def _availability(records: Records) -> Iterator[Family]:
    def ratios() -> Iterator[Row]:
        for record in records:
            for window, (lower, upper, _) in list(record.availability.items()):
                for bound, value in (("lower", lower), ("upper", upper)):
                    if value is not None:
                        yield "", record.labels, _labels("window", window, "bound", bound), value

    def coverages() -> Iterator[Row]:
        for record in records:
            for window, (_, _, coverage) in list(record.availability.items()):
                if coverage is not None:
                    yield "", record.labels, _label("window", window), coverage

    yield _family(
        "availability_ratio", "gauge", "Share of the observed time that was up: lower and upper bound.", ratios()
    )
    yield _family("coverage_ratio", "gauge", "Share of the time that was observed.", coverages())


def _observations(records: Records) -> Iterator[Row]:
    labels = [(outcome, _label("outcome", outcome)) for outcome in Outcome]
    for record in records:
        for outcome, label in labels:
            yield "", record.labels, label, record.observations[outcome]


def _failures(records: Records) -> Iterator[Row]:
    for record in records:
        for (cause, phase), count in record.failures.items():
            yield "", record.labels, _labels("cause", cause, "phase", phase), count


def _histogram(histogram: Histogram, labels: Labels) -> Iterator[Row]:
    # A copy, so that buckets and count agree while the monitor keeps counting.
    counts, total, below = list(histogram.counts), histogram.total, 0
    for bound, count in zip((*map(str, histogram.bounds), "+Inf"), counts, strict=True):
        below += count
        yield "_bucket", labels, _label("le", bound), below
    yield "_count", labels, NO_LABELS, below
    yield "_sum", labels, NO_LABELS, total


def _outages(records: Records, recent: Iterable[OutageRecord]) -> Iterator[Family]:
    known = {record.name: record for record in records}
    closed = [(known[outage.target], outage) for outage in recent if outage.target in known]
    rows_: list[tuple[TargetRecord, OutageRecord]] = [
        *((record, record.open) for record in records if record.open is not None),
        *closed,
    ]
    yield _family(
        "outage_active", "gauge", "Whether an outage is open; 0 while its target is paused.",
        (("", r.labels, NO_LABELS, int(r.open is not None and not r.paused)) for r in records),
    )  # fmt: skip
    yield _family(
        "outage_start_timestamp_seconds", "gauge",
        "First failed probe of the open and the last 50 outages, with the most frequent cause.",
        (
            ("", r.labels, Labels.of(outage_id=o.id, cause=main_cause(o)), o.first_bad / 1000)
            for r, o in rows_
        ),
    )  # fmt: skip
    yield _family(
        "outage_end_timestamp_seconds", "gauge", "First successful probe after each of the last 50 outages.",
        (
            ("", r.labels, Labels.of(outage_id=o.id), o.first_good / 1000)
            for r, o in closed
            if o.first_good is not None
        ),
    )  # fmt: skip
    yield _family("outages_total", "counter", "Outages on record.", _simple(records, attrgetter("outage_count")))
    yield _family(
        "outage_seconds_total", "counter", "Sum of the minimum durations of outages.",
        _simple(records, attrgetter("outage_seconds")),
    )  # fmt: skip
