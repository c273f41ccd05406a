"""The outages on record, and whether the record can be trusted."""

from __future__ import annotations

from typing import Any

from grafana.generate.frame import I, T, compose
from grafana.generate.overview import PROVIDER_STATES, incidents
from grafana.generate.panels import AHEAD, GREEN, GREY, ORANGE, RED, columns, graph, number, query, timeline

WHEN: list[tuple[str, Any]] = [("unit", "dateTimeAsIso"), ("custom.width", 180)]
STILL_OPEN = [
    {"type": "special", "options": {"match": "null+nan", "result": {"text": "still open", "color": RED}}}
]
OPEN = f"mailwatch_outage_start_timestamp_seconds{{{T}}}[$__range]"
END = f"mailwatch_outage_end_timestamp_seconds{{{T}}}[$__range]"


def age(metric: str) -> str:
    """Seconds since a time stamp."""
    return f"time() - min({metric}{{{I}}})"


def made() -> dict[str, Any]:
    """The dashboard."""
    counted = f"mailwatch_outages_total{{{T}}}[$__range]"
    lost = f"mailwatch_outage_seconds_total{{{T}}}[$__range]"
    stats = [
        (4, number("Open outages", "Outages that are confirmed and have not ended.",
            f"sum(mailwatch_outage_active{{{T}}})", steps=((0, GREEN), (1, RED)))),
        (4, number("Outages in this range", "How many were confirmed, within the retention of Prometheus.",
            f"sum(round(increase({counted})))", decimals=0, steps=((0, GREEN), (1, ORANGE)))),
        (4, number("Time surely lost", "In this range: minimum durations of all outages together.",
            f"sum(increase({lost}))", unit="dtdurations", steps=((0, GREEN), (1, ORANGE)))),
        (4, number("Does the ledger agree?", "With its signed checkpoints, when it was last compared.",
            f"min(mailwatch_ledger_valid{{{I}}})", meaning={0: ("NO", RED), 1: ("yes", GREEN)})),
        (4, number("Since the last checkpoint", "Due every ten minutes.",
            age("mailwatch_ledger_last_checkpoint_timestamp_seconds"), unit="dtdurations",
            steps=((-60, GREEN), (1200, ORANGE), (3600, RED)))),
        (4, number("Last outside time stamp", "None: no authority was asked, or none has answered yet.",
            age("mailwatch_ledger_last_token_timestamp_seconds"), unit="dtdurations",
            steps=((-60, GREEN), (26 * 3600, ORANGE)), empty="none yet")),
    ]  # fmt: skip
    # The counter helps where an outage began and ended between two samples of the gauge.
    seen = (
        f"ceil(clamp_max(max by (target) (max_over_time(mailwatch_outage_active{{{T}}}{AHEAD})"
        f" + increase(mailwatch_outages_total{{{T}}}{AHEAD})), 1))"
    )
    lanes = timeline(
        "Outages of each service", "Red if any of the step was outage: a short one fills its whole step. "
        "The table has the true times. An empty stretch: Prometheus has no data.",
        query(seen, "{{target}}"), meaning={0: ("no outage", GREEN), 1: ("outage", RED)},
    )  # fmt: skip
    records = columns(
        "Outages on record",
        "The open ones and the last 50 that ended. From the first failed check to the first good one: the "
        "outage cannot have been much longer, but may have been shorter. The link leads to its page.",
        "outage_id",
        {
            # One row for an outage, though its most frequent cause may change: the cause that was reported longest.
            "Samples": f"topk by (outage_id) (1, count_over_time({OPEN}))",
            "First failed check": f"max by (outage_id) (last_over_time({OPEN})) * 1000",
            "First good check": f"max by (outage_id) (last_over_time({END})) * 1000",
            "Between them": f"(max by (outage_id) (last_over_time({END}))"
            f" or 0 * max by (outage_id) (last_over_time({OPEN})) + time())"
            f" - max by (outage_id) (last_over_time({OPEN}))",
        },
        names={"target": "Service", "provider": "Provider", "kind": "Kind", "cause": "Cause", "outage_id": "Outage"},
        hidden=("Value #A", "instance", "job", "__name__"),
        formats={
            "First failed check": WHEN,
            "First good check": [*WHEN, ("noValue", "still open"), ("mappings", STILL_OPEN),
                              ("custom.cellOptions", {"type": "color-text"})],
            "Between them": [("unit", "dtdurations"), ("custom.width", 150)],
            "Provider": [("custom.width", 120)], "Kind": [("custom.width", 100)], "Cause": [("custom.width", 140)],
            "Outage": [("custom.width", 150), ("links", [{"title": "Open it in MailWatch", "targetBlank": True,
                                   "url": "${mailwatch}/outages/${__value.raw}"}])],
        },
        sort="First failed check", descending=True,
    )  # fmt: skip
    ratio = f"max by (target) (mailwatch_availability_ratio{{{T}, "
    percent: list[tuple[str, Any]] = [("unit", "percentunit"), ("decimals", 3)]
    lower, upper = (f'{ratio}window="WINDOW", bound="{bound}"}})' for bound in ("lower", "upper"))
    observed = f'max by (target) (mailwatch_coverage_ratio{{{T}, window="WINDOW"}})'
    windows = {"24h": "24 h", "7d": "7 d", "30d": "30 d", "90d": "90 d"}
    available = columns(
        "Availability by window",
        "From MailWatch's own store, so that the retention of Prometheus does not matter: the share of the observed time that was surely "
        "up, the share that may have been, and how much of the window was observed at all.",
        "target",
        {
            f"{name} {word}": asked.replace("WINDOW", window)
            for window, name in windows.items()
            for word, asked in (("least", lower), ("most", upper), ("observed", observed))
        },
        names={"target": "Service"},
        formats={
            f"{name} {word}": [*percent, ("custom.width", width)]
            for name in windows.values()
            for word, width in (("least", 92), ("most", 92), ("observed", 122))
        },
        sort="Service", descending=False,
    )  # fmt: skip
    day = f"mailwatch_outages_total{{{T}}}[$__interval] offset -$__interval"
    daily = graph(
        "Outages by day", "Confirmed outages in the 24 hours after each bar's time.",
        # increase() reckons a little beyond the samples: one outage is 1.01 of them.
        query(f"sum by (provider) (round(increase({day})))", "{{provider}}"),
        bars=True, interval="1d", decimals=0,
    )  # fmt: skip
    cases = timeline(
        "Incidents of each provider", "One service down, or several at once: an incident. The worst of each step.",
        query(incidents(AHEAD), "{{provider}}"), meaning=PROVIDER_STATES,
    )  # fmt: skip
    blind = graph(
        "Time without checks", "Gaps: MailWatch was stopped, asleep or too slow. They are neither up nor down.",
        query(f"sum by (target) (increase(mailwatch_gap_seconds_total{{{T}}}[$__rate_interval]))", "{{target}}"),
        unit="s", bars=True,
    )  # fmt: skip
    line = timeline(
        "Our own line", "While it is down the state of all providers is unknown.",
        query(f"min(min_over_time(mailwatch_guard_online{{{I}}}{AHEAD}))", "all"),
        query(f"min by (family) (min_over_time(mailwatch_guard_family_online{{{I}}}{AHEAD}))", "{{family}}"),
        meaning={0: ("down", RED), 1: ("up", GREEN)}, empty="the guard is off",
    )  # fmt: skip
    clock = graph(
        "How far the clock may be off", "At most.",
        query(f"max(max_over_time(mailwatch_clock_error_bound_seconds{{{I}}}[$__rate_interval]))", "bound"), unit="s",
        empty="no time server was asked, or none has answered",
    )  # fmt: skip
    attributed = timeline(
        "Ledger against its checkpoints", "The worst of each step.",
        query(f"min(min_over_time(mailwatch_ledger_valid{{{I}}}{AHEAD}))", "ledger"),
        meaning={0: ("does not agree", RED), 1: ("agrees", GREEN), 2: ("", GREY)},
    )  # fmt: skip
    size = graph(
        "Entries in the ledger", "It only grows.",
        query(f"max(mailwatch_ledger_size{{{I}}})", "entries"), zero=False, decimals=0,
    )  # fmt: skip
    return compose(
        "mailwatch-outages", "MailWatch: outages and evidence",
        "The outages on record, and whether the record can be trusted. For a claim use the evidence bundle.",
        [
            ("Outages", 4, stats),
            ("When and how long", 8, [(24, lanes), (24, records)]),
            ("How often", 8, [(24, available), (12, daily), (12, cases)]),
            ("What the claims rest on", 6, [(12, line), (12, attributed), (8, blind), (8, clock), (8, size)]),
        ],
        since="now-30d",
    )  # fmt: skip
