"""Does my mail work now, and how was it lately?"""

from __future__ import annotations

from typing import Any

from grafana.generate.frame import I, P, T, compose
from grafana.generate.panels import (
    AHEAD,
    BLUE,
    CERTIFICATE,
    COLORED,
    DAYS_LEFT,
    GREEN,
    GREY,
    ORANGE,
    RED,
    YELLOW,
    columns,
    days_until,
    graph,
    number,
    query,
    surely,
    timeline,
)  # fmt: skip

STATES = {
    0: ("up", GREEN),
    1: ("unknown", GREY),
    2: ("suspect", YELLOW),
    3: ("recovering", ORANGE),
    4: ("down", RED),
}
RATIO: list[tuple[str, Any]] = [("unit", "percentunit"), ("decimals", 2)]
STATE_WORDS = [
    {
        "type": "value",
        "options": {str(value): {"text": word, "color": color} for value, (word, color) in STATES.items()},
    }
]
BUDGET = [
    {
        "type": "value",
        "options": {"-1": {"text": "too early", "color": GREY}, "0": {"text": "used up", "color": RED}},
    }
]
OPEN_SINCE = (
    f"mailwatch_outage_start_timestamp_seconds{{{T}}}"
    f" unless on (outage_id) mailwatch_outage_end_timestamp_seconds{{{T}}}"
)
"""When the outages that have not ended began."""
DOWN_FOR = [("unit", "dtdurations"), ("decimals", 0), ("noValue", "–"), ("custom.width", 105)]
SHARES = {
    f"{name}, {window}": [*RATIO, ("custom.width", width)]
    for name, width in (("Up", 95), ("Observed", 130))
    for window in ("24 h", "30 d")
}
TOO_EARLY = 0.1
"""The share of 30 days that must have been observed, or a budget of 30 days says nothing."""
PROVIDER_STATES = {0: ("works", GREEN), 1: ("one service", ORANGE), 2: ("incident", RED)}


def worst_state(window: str) -> str:
    """The worst state of each target in a window, as the numbers of STATES."""
    each = [
        f'{value} * max_over_time(mailwatch_target_state{{{T}, state="{state}"}}{window})'
        for value, (state, _) in STATES.items()
    ]
    # A state that it never was in counts as 0, which is up: so one that was up or worse must be on record.
    some = f"max by (target) (max_over_time(mailwatch_target_state{{{T}}}{window})) > 0"
    return f"max by (target) ({' or '.join(each)}) and on (target) ({some})"


def incidents(window: str = "") -> str:
    """For each provider: 0 without an outage, 1 with one, 2 in an incident."""

    def most(metric: str) -> str:
        return f"max_over_time({metric}{window})" if window else metric

    some = f"max by (provider) ({most(f'mailwatch_incident_active{{{P}}}')})"
    down = f"max by (provider) ({most(f'mailwatch_incident_targets_down{{{P}}}')})"
    return f"{some} + on (provider) ({down} > bool 1)"


def budget() -> str:
    """The error budget that is left: at least 0, which is used up, and -1 where too little was observed."""
    left = f"max by (target) (target:mailwatch_error_budget_left:ratio_30d{{{T}}})"
    observed = f'max by (target) (mailwatch_coverage_ratio{{{T}, window="30d"}})'
    return f"(clamp_min({left}, 0) and on (target) {observed} >= {TOO_EARLY}) or on (target) 0 * {left} - 1"


def stale(of: str) -> str:
    """How many services MailWatch does not probe: 0 is an answer, and no service is no data."""
    interval = f"mailwatch_probe_interval_seconds{{{of}}}"
    late = f"time() - mailwatch_probe_last_timestamp_seconds{{{of}}} <= bool 3 * {interval} + 60"
    return f"count({interval}) - (sum({late}) or 0 * count({interval}))"


def _shares(key: str, *windows: tuple[str, str]) -> dict[str, str]:
    """Up and observed in some windows: of a target, or of the worst target of a provider."""
    worst = {"target": "max", "provider": "min"}[key]
    shares = {}
    for name, window in windows:
        up = f'{worst} by ({key}) (mailwatch_availability_ratio{{{T}, window="{window}", bound="lower"}})'
        shares[f"Up, {name}"] = surely(up)
        shares[f"Observed, {name}"] = surely(
            f'{worst} by ({key}) (mailwatch_coverage_ratio{{{T}, window="{window}"}})'
        )
    return shares


def made() -> dict[str, Any]:
    """The dashboard."""
    stats = [
        (3, number("MailWatch answers", "Whether Prometheus reads its metrics. If not, all else here is old.",
            f"min(up{{{I}}})", meaning={0: ("NO", RED), 1: ("yes", GREEN)})),
        (4, number("Providers in an incident", "Several services of one provider are down at once.",
            f"count({incidents()} == 2) or 0 * count({incidents()})", steps=((0, GREEN), (1, RED)))),
        (3, number("Services up", "Services in the state up, now.",
            f'sum(mailwatch_target_state{{{T}, state="up"}})', steps=((0, RED), (1, GREEN)))),
        (3, number("Services not up", "Down, suspect, recovering or unknown, now.",
            f'sum(mailwatch_target_state{{{T}, state!="up"}})',
            steps=((0, GREEN), (1, ORANGE)))),
        (3, number("Open outages", "Outages that are confirmed and have not ended.",
            f"sum(mailwatch_outage_active{{{T}}})", steps=((0, GREEN), (1, RED)))),
        (4, number("Next certificate", "How long until it expires. The earliest of all certificates seen.",
            days_until(f"min(mailwatch_tls_certificate_not_after_timestamp_seconds{{{T}}})"), unit=DAYS_LEFT, spans=CERTIFICATE,
            decimals=0, steps=((-1e9, RED), (3, ORANGE), (14, GREEN)), empty="no certificate was seen")),
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
        "Delivery time of round trips", "From acceptance until the message was seen.",
        query(f"max by (target) (max_over_time(mailwatch_delivery_latency_seconds{{{T}}}[$__rate_interval]))", "{{target}}"),
        unit="s", empty="no round trip is watched",
    )  # fmt: skip
    state = " or ".join(
        f'{value} * (mailwatch_target_state{{{T}, state="{name}"}} == 1)' for value, (name, _) in STATES.items()
    )
    each = columns(
        "Each service",
        "Up: the share of the observed time in which the service was surely up. Observed: the share of the window in which "
        "MailWatch knows; read the one with the other. Budget left: of the 0.5 % of 30 days that may be down.",
        "target",
        {
            "State": f"max by (target, provider, kind) ({state})",
            "Down for": f"time() - max by (target) ({OPEN_SINCE})",
            **_shares("target", ("24 h", "24h"), ("30 d", "30d")),
            "Budget left": budget(),
            "Last check took": f"max by (target) (mailwatch_probe_duration_seconds{{{T}}})",
            "Certificate": days_until(
                f"max by (target) (mailwatch_tls_certificate_not_after_timestamp_seconds{{{T}}})"
            ),
        },
        names={"target": "Service", "provider": "Provider", "kind": "Kind"},
        formats={
            "Service": [("links", [{"title": "Open it in MailWatch", "targetBlank": True,
                                    "url": "${mailwatch}/targets/${__value.raw:percentencode}"}])],
            "Provider": [("custom.width", 110)], "Kind": [("custom.width", 85)],
            "Down for": DOWN_FOR,
            "State": [("custom.width", 95), ("mappings", STATE_WORDS), COLORED],
            **SHARES,
            "Budget left": [("unit", "percentunit"), ("decimals", 0), ("custom.width", 105), ("mappings", BUDGET), COLORED],
            "Last check took": [("unit", "s"), ("decimals", 1), ("custom.width", 135)],
            "Certificate": [("unit", DAYS_LEFT), ("custom.width", 120), ("mappings", CERTIFICATE)],
        },
        sort="State", descending=True,
    )  # fmt: skip
    providers = columns(
        "Each provider",
        "Of all its services, those that are down, and since when the longest of their open outages lasts. Up and "
        "observed: the service that fared worst.",
        "provider",
        {
            "State": incidents(),
            "Services": f"max by (provider) (mailwatch_incident_targets{{{P}}})",
            "Down": f"max by (provider) (mailwatch_incident_targets_down{{{P}}})",
            "Down for": f"time() - min by (provider) (mailwatch_incident_start_timestamp_seconds{{{P}}})",
            **_shares("provider", ("24 h", "24h")),
        },
        names={"provider": "Provider"},
        formats={
            "Provider": [("links", [
                {"title": "Its services here",
                 "url": "/d/mailwatch-overview?var-provider=${__value.raw:percentencode}&${__url_time_range}"},
                {"title": "Open it in MailWatch", "targetBlank": True,
                 "url": "${mailwatch}/?provider=${__value.raw:percentencode}"},
            ])],
            "State": [("custom.width", 110), COLORED, ("mappings", [{"type": "value", "options": {
                str(value): {"text": word, "color": color} for value, (word, color) in PROVIDER_STATES.items()}}])],
            "Services": [("custom.width", 90)], "Down": [("custom.width", 70)],
            "Down for": DOWN_FOR,
            **SHARES,
        },
        sort="State", descending=True,
    )  # fmt: skip
    provider_lanes = timeline(
        "Incidents of each provider", "One service down, or several at once: an incident. The worst of each step.",
        query(incidents(AHEAD), "{{provider}}"), meaning=PROVIDER_STATES,
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
            ("Providers", 6, [(10, provider_lanes), (14, providers)]),
            ("Services", 8, [(24, lanes), (24, each)]),
            ("Speed", 8, [(12, answers), (12, phases), (12, delivery), (12, held)]),
            ("Failures", 8, [(12, causes), (12, burn)]),
        ],
        since="now-24h",
    )  # fmt: skip
