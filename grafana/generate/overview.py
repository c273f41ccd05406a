"""Does my mail work now, and how was it lately?"""

from __future__ import annotations

from typing import Any

from grafana.generate.frame import I, T, compose
from grafana.generate.panels import (
    AHEAD,
    BLUE,
    GREEN,
    GREY,
    ORANGE,
    RED,
    YELLOW,
    columns,
    graph,
    number,
    query,
    timeline,
)  # fmt: skip

STATES = {
    0: ("up", GREEN),
    1: ("unknown", GREY),
    2: ("suspect", YELLOW),
    3: ("recovering", ORANGE),
    4: ("down", RED),
}
RATIO = [("unit", "percentunit"), ("decimals", 3), ("custom.width", 114)]


def worst_state(window: str) -> str:
    """The worst state of each target in a window, as the numbers of STATES."""
    each = [
        f'{value} * max_over_time(mailwatch_target_state{{{T}, state="{state}"}}{window})'
        for value, (state, _) in STATES.items()
    ]
    # A state that it never was in counts as 0, which is up: so one that was up or worse must be on record.
    some = f"max by (target) (max_over_time(mailwatch_target_state{{{T}}}{window})) > 0"
    return f"max by (target) ({' or '.join(each)}) and on (target) ({some})"


def stale(of: str) -> str:
    """How many services MailWatch does not probe: 0 is an answer, and no service is no data."""
    interval = f"mailwatch_probe_interval_seconds{{{of}}}"
    late = f"time() - mailwatch_probe_last_timestamp_seconds{{{of}}} <= bool 3 * {interval} + 60"
    return f"count({interval}) - (sum({late}) or 0 * count({interval}))"


def made() -> dict[str, Any]:
    """The dashboard."""
    stats = [
        (4, number("Does MailWatch answer?", "Whether Prometheus reads its metrics. If not, all else here is old.",
            f"min(up{{{I}}})", meaning={0: ("NO", RED), 1: ("yes", GREEN)})),
        (4, number("Services that are up", "Services in the state up, now.",
            f'sum(mailwatch_target_state{{{T}, state="up"}})', steps=((0, RED), (1, GREEN)))),
        (4, number("Services that are not up", "Down, suspect, recovering or unknown, now.",
            f'sum(mailwatch_target_state{{{T}, state!="up"}})',
            steps=((0, GREEN), (1, ORANGE)))),
        (4, number("Open outages", "Outages that are confirmed and have not ended.",
            f"sum(mailwatch_outage_active{{{T}}})", steps=((0, GREEN), (1, RED)))),
        (4, number("Next certificate expires in", "The earliest of all certificates seen.",
            f"min(mailwatch_tls_certificate_not_after_timestamp_seconds{{{T}}}) - time()", unit="dtdurations",
            steps=((-1e9, RED), (3 * 86400, ORANGE), (14 * 86400, GREEN)))),
        (4, number("Stale services", "MailWatch missed three probes, or never had one.", stale(T),
            steps=((0, GREEN), (1, RED)))),
    ]  # fmt: skip
    answers = graph(
        "Response time", "The slowest probe of each step, failed ones too: a timeout shows as its full length.",
        query(f"max by (target) (max_over_time(mailwatch_probe_duration_seconds{{{T}}}[$__rate_interval]))", "{{target}}"),
        unit="s",
    )  # fmt: skip
    phases = graph(
        "Where the time goes", "Mean of all chosen services, by phase of the probe.",
        query(f"avg by (phase) (avg_over_time(mailwatch_probe_phase_duration_seconds{{{T}}}[$__rate_interval]))", "{{phase}}"),
        unit="s", stacked=True,
    )  # fmt: skip
    causes = graph(
        "Failed checks, by cause",
        "credentials, offline and monitor are not the provider's fault, and count for no outage.",
        query(f"sum by (cause) (increase(mailwatch_probe_failures_total{{{T}}}[$__rate_interval]))", "{{cause}}"),
        bars=True, calcs=("sum",), decimals=0,
    )  # fmt: skip
    burn = graph(
        "Share of time down", "Over the last hour and the last six; the alerts use these.",
        query(f"max by (target) (target:mailwatch_down:ratio_1h{{{T}}})", "{{target}}, 1 h"),
        query(f"max by (target) (target:mailwatch_down:ratio_6h{{{T}}})", "{{target}}, 6 h"),
        unit="percentunit",
    )  # fmt: skip
    delivery = graph(
        "Delivery time of round trips", "From acceptance until the message was seen. Empty without round trips.",
        query(f"max by (target) (max_over_time(mailwatch_delivery_latency_seconds{{{T}}}[$__rate_interval]))", "{{target}}"),
        unit="s",
    )  # fmt: skip
    state = " or ".join(
        f'{value} * (mailwatch_target_state{{{T}, state="{name}"}} == 1)' for value, (name, _) in STATES.items()
    )
    ratio = f"max by (target) (mailwatch_availability_ratio{{{T}, "
    states = {str(value): {"text": word, "color": color} for value, (word, color) in STATES.items()}
    each = columns(
        "Each service",
        "The share of time in which the service was surely up (at least) and possibly up (at most). Read it with the "
        "share that was looked at.",
        "target",
        {
            "State": f"max by (target, provider, kind) ({state})",
            "Down for": f"time() - max by (target) (mailwatch_outage_start_timestamp_seconds{{{T}}}"
            f" unless on (outage_id) mailwatch_outage_end_timestamp_seconds{{{T}}})",
            "At least, 24 h": ratio + 'window="24h", bound="lower"})',
            "At most, 24 h": ratio + 'window="24h", bound="upper"})',
            "At least, 30 d": ratio + 'window="30d", bound="lower"})',
            "At most, 30 d": ratio + 'window="30d", bound="upper"})',
            "Observed, 30 d": f'max by (target) (mailwatch_coverage_ratio{{{T}, window="30d"}})',
            "Budget left": f"max by (target) (target:mailwatch_error_budget_left:ratio_30d{{{T}}})",
            "Last check took": f"max by (target) (mailwatch_probe_duration_seconds{{{T}}})",
            "Certificate": f"max by (target) (mailwatch_tls_certificate_not_after_timestamp_seconds{{{T}}}) - time()",
        },
        names={"target": "Service", "provider": "Provider", "kind": "Kind"},
        look={
            "Provider": [("custom.width", 100)], "Kind": [("custom.width", 80)],
            "Down for": [("unit", "dtdurations"), ("decimals", 0), ("noValue", "–"), ("custom.width", 110)],
            "State": [("custom.width", 100), ("mappings", [{"type": "value", "options": states}]),
                      ("custom.cellOptions", {"type": "color-text"})],
            **{f"{sure}, {window}": RATIO for sure in ("At least", "At most") for window in ("24 h", "30 d")},
            "Observed, 30 d": [*RATIO[:-1], ("custom.width", 130)],
            "Budget left": [("unit", "percentunit"), ("decimals", 1), ("custom.width", 100)],
            "Last check took": [("unit", "s"), ("decimals", 3), ("custom.width", 120)],
            "Certificate": [("unit", "dtdurations"), ("decimals", 0), ("custom.width", 110)],
        },
        sort="State", descending=True,
    )  # fmt: skip
    lanes = timeline(
        "State of each service", "The worst state of each step: a short outage fills its step. "
        "An empty stretch: Prometheus has no data.",
        query(worst_state(AHEAD), "{{target}}"), meaning=STATES,
    )  # fmt: skip
    held = timeline(
        "Announced maintenance", "It hides nothing: checks and outages in it count as ever.",
        query(f"max by (target) (max_over_time(mailwatch_maintenance_active{{{T}}}{AHEAD}))", "{{target}}"),
        meaning={0: ("none", GREY), 1: ("maintenance", BLUE)},
    )  # fmt: skip
    return compose(
        "mailwatch-overview", "MailWatch: overview", "Does my mail work now, and how was it lately?",
        [
            ("Now", 4, stats),
            ("Services", 8, [(24, lanes), (24, each)]),
            ("Speed", 8, [(12, answers), (12, phases), (12, delivery), (12, held)]),
            ("Failures", 8, [(12, causes), (12, burn)]),
        ],
        since="now-24h",
    )  # fmt: skip
