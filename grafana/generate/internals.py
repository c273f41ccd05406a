"""How MailWatch itself is doing."""

from __future__ import annotations

from typing import Any

from grafana_foundation_sdk.models import dashboard

from grafana.generate.frame import I, compose
from grafana.generate.overview import stale
from grafana.generate.panels import AHEAD, GREEN, GREY, ORANGE, RED, YELLOW, graph, number, query, timeline


def late(metric: str, bound: str) -> str:
    """Share of the events of a histogram that took longer than one of its buckets: exact, unlike a quantile."""
    within = f'sum(rate({metric}_bucket{{{I}, le="{bound}"}}[$__rate_interval]))'
    return f"1 - {within} / sum(rate({metric}_count{{{I}}}[$__rate_interval]))"


def made() -> dict[str, Any]:
    """The dashboard."""
    stats = [
        (4, number("Does MailWatch answer?", "Whether Prometheus reads its metrics.",
            f"min(up{{{I}}})", meaning={0: ("NO", RED), 1: ("yes", GREEN)})),
        (4, number("Version", "Which MailWatch this is.", f"mailwatch_build_info{{{I}}}", legend="{{version}}")),
        (4, number("Is the config valid?", "If not, MailWatch goes on with the previous one.",
            f"min(mailwatch_config_last_reload_successful{{{I}}})", meaning={0: ("NO", RED), 1: ("yes", GREEN)})),
        (4, number("Faults in this range", "Of MailWatch itself; its log names them.",
            f"round(sum(increase(mailwatch_monitor_errors_total{{{I}}}[$__range])))", decimals=0,
            steps=((0, GREEN), (1, RED)))),
        (4, number("Stale services", "MailWatch missed three probes, or never had one.", stale(I),
            steps=((0, GREEN), (1, RED)))),
        (4, number("Services watched", "As configured.", f"count(mailwatch_probe_interval_seconds{{{I}}})")),
    ]  # fmt: skip
    outcomes = graph(
        "Checks by outcome", "In each step.",
        query(f"sum by (outcome) (increase(mailwatch_observations_total{{{I}}}[$__rate_interval]))", "{{outcome}}"),
        bars=True, decimals=0,
    )  # fmt: skip
    for outcome, color in (("up", GREEN), ("down", RED), ("unknown", GREY)):
        fixed = dashboard.DynamicConfigValue(id_val="color", value={"mode": "fixed", "fixedColor": color})
        outcomes = outcomes.override_by_name(outcome, [fixed])
    lag = graph(
        "Checks that began late", "Share of checks that began more than a quarter of a second late.",
        query(late("mailwatch_schedule_lag_seconds", "0.25"), "later than 0.25 s"),
        query(late("mailwatch_schedule_lag_seconds", "1.0"), "later than 1 s"), unit="percentunit",
    )  # fmt: skip
    commit = graph(
        "Slow commits to the ledger", "Share of commits by how long they took.",
        query(late("mailwatch_commit_seconds", "0.05"), "longer than 0.05 s"),
        query(late("mailwatch_commit_seconds", "0.5"), "longer than 0.5 s"), unit="percentunit",
    )  # fmt: skip
    faults = graph(
        "Faults of MailWatch itself", "Its log names them.",
        query(f"sum(increase(mailwatch_monitor_errors_total{{{I}}}[$__rate_interval]))", "faults"), bars=True, decimals=0,
    )  # fmt: skip
    reported = graph(
        "Notifications", "By channel and outcome.",
        query(f"sum by (channel, outcome) (increase(mailwatch_notifications_total{{{I}}}[$__rate_interval]))",
              "{{channel}}: {{outcome}}"), bars=True, decimals=0,
        empty="no channel is configured",
    )  # fmt: skip
    answers = timeline(
        "Does it answer Prometheus?", "The worst of each step.",
        query(f"min by (instance) (min_over_time(up{{{I}}}{AHEAD}))", "{{instance}}"),
        meaning={0: ("no", RED), 1: ("yes", GREEN)},
    )  # fmt: skip
    scrape = graph(
        "Time to read the metrics", "Keep it below scrape_timeout.",
        query(f"max(scrape_duration_seconds{{{I}}})", "one scrape"), unit="s",
    )  # fmt: skip
    series = graph(
        "Series", "Samples of one scrape: about 60 to 80 for each service.",
        query(f"max(scrape_samples_scraped{{{I}}})", "samples"), decimals=0,
    )  # fmt: skip
    problems = timeline(
        "What its self-watch finds", "Problems of MailWatch itself that last for more than a moment.",
        query(f"max by (sign) (max_over_time(mailwatch_self_problem{{{I}}}{AHEAD}))", "{{sign}}"),
        meaning={0: ("in order", GREEN), 1: ("WRONG", RED)},
    )  # fmt: skip
    loop = graph(
        "Event loop late", "Share of the seconds in which the event loop was late; all else waits for it.",
        query(late("mailwatch_self_loop_lag_seconds", "0.05"), "by more than 0.05 s"),
        query(late("mailwatch_self_loop_lag_seconds", "1.0"), "by more than 1 s"), unit="percentunit",
    )  # fmt: skip
    behind = graph(
        "Behind", "Targets not probed for three intervals, probes that do not end, and seconds that the oldest entry waits.",
        query(f"max(mailwatch_self_overdue_targets{{{I}}})", "overdue targets"),
        query(f"max(mailwatch_self_stalled_probes{{{I}}})", "stalled probes"),
        query(f"max(mailwatch_self_store_wait_seconds{{{I}}})", "store wait (s)"),
    )  # fmt: skip
    used = graph(
        "Use of its limits", "Shares; what has no limit is not shown.",
        query(f"max(mailwatch_self_open_files{{{I}}} / mailwatch_self_open_files_limit{{{I}}})", "file handles"),
        query(f"max(mailwatch_self_threads{{{I}}} / mailwatch_self_threads_limit{{{I}}})", "threads"),
        query(f"max by (of) (mailwatch_self_memory_bytes{{{I}}} / mailwatch_self_memory_limit_bytes{{{I}}})",
              "memory, {{of}}"), unit="percentunit",
    )  # fmt: skip
    fired = 'max_over_time(ALERTS{{alertname=~"MailWatch.+", alertstate="{}"}}' + AHEAD + ")"
    switch = f'max_over_time(ALERTS{{alertname="MailWatchDeadMansSwitch"}}{AHEAD})'
    alerts = timeline(
        "Alerts of MailWatch", "As Prometheus sees them. The dead man's switch always fires; that is its purpose.",
        query(f"max by (alertname) (3 * {switch} or 2 * {fired.format('firing')} or {fired.format('pending')})",
              "{{alertname}}"),
        meaning={1: ("pending", YELLOW), 2: ("firing", ORANGE), 3: ("fires as it should", GREEN)},
    )  # fmt: skip
    return compose(
        "mailwatch-internals", "MailWatch: internals", "How MailWatch itself is doing.",
        [
            ("Now", 4, stats),
            ("Checks", 8, [(12, outcomes), (12, lag), (12, commit), (12, faults)]),
            ("Itself", 8, [(12, problems), (12, loop), (12, behind), (12, used)]),
            ("Reporting", 8, [(12, alerts), (12, reported), (8, answers), (8, scrape), (8, series)]),
        ],
        since="now-6h", services=False,
    )  # fmt: skip
