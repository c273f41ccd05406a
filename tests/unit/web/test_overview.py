"""The overview: which providers and targets it lists, in which order, and what the address bar says."""

from __future__ import annotations

from typing import Any, cast
from urllib.parse import parse_qs

import pytest

from mailwatch.analysis.rolling_availability import DayAvailability
from mailwatch.times import DAY_MS, HOUR_MS, rfc3339
from mailwatch.web.charts import bar_paths, day_bars, spark_path
from mailwatch.web.overview import (
    COLLAPSE_ABOVE,
    ROWS_PER_PAGE,
    OverviewQuery,
    collapsed_in,
    headline,
    list_targets,
    provider_groups,
)
from mailwatch.web.public_shapes import PublicTargetJson


def _target(name: str, state: str = "up", provider: str = "libero", kind: str = "imap") -> PublicTargetJson:
    return cast(PublicTargetJson, {"target": name, "state": state, "provider": provider, "kind": kind})


def _names(query: OverviewQuery, targets: list[PublicTargetJson]) -> list[str]:
    return [one["target"] for group in list_targets(targets, query, {}).groups for one in group.targets]


def test_providers_with_failures_come_first_with_the_begin_of_the_longest() -> None:
    targets = [
        _target("a", "up", "aruba"), _target("b", "suspect", "tim"), _target("c", "down"), _target("d", "down"),
        _target("e", "up"), _target("f", "paused"), _target("g", "down", "own.example"),
    ]  # fmt: skip
    groups = provider_groups(targets, {"c": 2000, "d": 1000, "a": 1})
    assert [(group.name, group.state, group.of, group.since) for group in groups] == [
        ("Libero", "down", 3, 1000),
        # Outside of the catalogue the key is the name; the begin of its outage is not known yet.
        ("own.example", "down", 1, None),
        ("TIM", "unknown", 1, None),
        ("aruba", "up", 1, None),
    ]


@pytest.mark.parametrize(
    ("query", "names"),
    [
        (OverviewQuery(), ["x-down", "x-recovering", "x-up", "x-paused"]),
        (OverviewQuery(state="unknown"), ["x-recovering"]),
        (OverviewQuery(state="down"), ["x-down"]),
        (OverviewQuery(text="DOWN x"), ["x-down"]),
        (OverviewQuery(text="libero imap"), ["x-down", "x-recovering", "x-up", "x-paused"]),
        (OverviewQuery(text="pop3"), []),
        (OverviewQuery(provider="tim"), []),
        (OverviewQuery(provider=""), []),
        (OverviewQuery(collapsed=frozenset({"libero"})), []),
    ],
)
def test_the_list_has_what_matches_and_failures_first(query: OverviewQuery, names: list[str]) -> None:
    targets = [_target(f"x-{state}", state) for state in ("paused", "up", "recovering", "down")]
    assert _names(query, targets) == names


def test_many_targets_are_on_pages_and_the_providers_of_which_all_is_up_are_collapsed() -> None:
    targets = [_target(f"a{number}", "up", "aruba") for number in range(COLLAPSE_ABOVE)]
    targets += [_target(f"l{number}", "down") for number in range(ROWS_PER_PAGE + 1)]
    first, second = (list_targets(targets, OverviewQuery(page=page), {}) for page in (1, 2))
    assert (first.pages, first.found) == (2, len(targets))
    assert [(group.group.key, len(group.targets), group.is_collapsed) for group in first.groups] == [
        ("libero", ROWS_PER_PAGE, False)
    ]
    assert [(group.group.key, len(group.targets), group.is_collapsed) for group in second.groups] == [
        ("libero", 1, False),
        ("aruba", 0, True),
    ]
    # Who opens it gets it, and the failures stay open.
    opened = parse_qs(second.groups[1].toggle[1:], keep_blank_values=True)
    assert opened == {"collapse": [""]}
    assert list_targets(targets, OverviewQuery(collapsed=frozenset()), {}).pages == 2
    # A page after the last is the last.
    assert list_targets(targets, OverviewQuery(page=9), {}) == second
    # A filter shows what it finds.
    found = list_targets(targets, OverviewQuery(text="a"), {})
    assert [group.is_collapsed for group in found.groups] == [False]


def test_collapsed_groups_are_shown_also_after_a_full_page() -> None:
    targets = [_target(f"l{number}", "down") for number in range(ROWS_PER_PAGE)] + [_target("a", "up", "aruba")]
    listed = list_targets(targets, OverviewQuery(), {})
    assert (listed.pages, [group.group.key for group in listed.groups]) == (1, ["libero", "aruba"])


def test_the_address_names_what_is_asked_for_and_nothing_else() -> None:
    assert OverviewQuery().url() == "?"
    assert not OverviewQuery(page=2).is_filter
    full = OverviewQuery("a b&", "down", "", frozenset({"tim", "aruba"}), 3)
    assert full.is_filter
    assert full.url() == "?q=a+b%26&state=down&provider=&collapse=aruba%2Ctim&page=3"
    assert full.with_state("up") == "?q=a+b%26&state=up&provider=&collapse=aruba%2Ctim"
    assert full.with_provider(None) == "?q=a+b%26&state=down&collapse=aruba%2Ctim"
    assert OverviewQuery().with_page(2) == "?page=2"


def test_our_own_line_comes_before_all_that_it_hides() -> None:
    targets = [_target("a", "down"), _target("b", "unknown")]
    shown = headline(targets, stale=False, offline_since=9)
    assert (shown.text, shown.state, shown.names) == ("offline", "unknown", ())
    assert headline(targets, stale=True, offline_since=9).text == "stale"
    paused = headline([_target("a", "paused")], stale=True, offline_since=9)
    assert (paused.text, paused.state, paused.of) == ("all_paused", "paused", 1)
    assert headline([], stale=False).text == "no_targets"
    assert headline([_target("a", "paused"), _target("b")], stale=False).of == 1


def test_a_mail_server_that_answers_shows_that_our_own_line_works() -> None:
    before = _target("a") | {"last_observation": rfc3339(1000)}
    after = _target("b") | {"last_observation": rfc3339(3000)}
    never = _target("c", "unknown") | {"last_observation": None}
    shown = headline(cast(list[PublicTargetJson], [before, after, never]), stale=False, offline_since=2000)
    assert (shown.text, shown.state, shown.count, shown.of) == ("no_controls", "unknown", 1, 3)
    assert (
        headline(cast(list[PublicTargetJson], [before, never]), stale=False, offline_since=2000).text == "offline"
    )


def _days(**spent: Any) -> DayAvailability:
    return DayAvailability(0, DAY_MS, **({"up": 0, "down": 0, "indeterminate": 0, "maintenance": 0} | spent))


def test_equal_days_are_one_line_and_a_thin_day_is_on_its_own() -> None:
    up, thin = _days(up=DAY_MS), _days(up=HOUR_MS)
    down, none = _days(up=DAY_MS - 90_000, down=90_000), _days()
    work = _days(up=HOUR_MS, maintenance=23 * HOUR_MS)
    days = [none, up, up, thin, up, down, down, work]
    paths, runs = bar_paths(days)
    assert [(path.state, path.is_thin, path.path) for path in paths] == [
        ("nodata", False, "M0 22.5h3.2"),
        ("up", False, "M4 15h7.2M16 15h3.2"),
        ("up", True, "M12.9 15h1.4"),
        ("down", False, "M20 12h7.2"),
        ("maintenance", False, "M28.4 6.4h2.4v17.2h-2.4z"),
    ]
    assert runs == "n1 u2 u1 u1 d1.90 d1.90 m1"
    assert bar_paths([]) == ([], "")
    # They stand where the bars of the target's own page do.
    assert [(bar.x, bar.width) for bar in day_bars(days)][3:5] == [(12.9, 1.4), (16.0, 3.2)]


def test_a_gap_interrupts_the_line_of_response_times() -> None:
    assert spark_path([None, 100, 50, None, 100, None]) == "M2 1L4 10M8 1h.1"
    assert spark_path([None, None]) == ""


@pytest.mark.parametrize("keys", [{""}, {"a,b", "c/d"}, {"", "*", "100%"}, set()])
def test_providers_of_any_name_are_collapsed_by_the_address(keys: set[str]) -> None:
    address = OverviewQuery(collapsed=frozenset(keys)).url()
    assert collapsed_in(parse_qs(address[1:], keep_blank_values=True)["collapse"][0]) == keys
