"""The panels that the dashboards are made of, with the rules that keep them true.

No data is never green: every scale begins with grey, and green needs a number. A timeline takes the worst of each
step, so that a short outage stays in sight at 30 days.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from grafana_foundation_sdk.builders import common as c
from grafana_foundation_sdk.builders import dashboard as d
from grafana_foundation_sdk.builders import prometheus, stat, statetimeline, table, timeseries
from grafana_foundation_sdk.models import common, dashboard
from grafana_foundation_sdk.models import prometheus as prometheus_models

SOURCE = common.DataSourceRef(type_val="prometheus", uid="${datasource}")
GREY, GREEN, YELLOW, ORANGE, RED, BLUE = "text", "green", "yellow", "orange", "red", "blue"
Steps = Sequence[tuple[float, str]]
Panel = stat.Panel | timeseries.Panel | statetimeline.Panel | table.Panel
NO_DATA = "no data"
AHEAD = "[$__rate_interval] offset -$__rate_interval"
"""The step that begins at the time of a sample. Otherwise an outage would be drawn a step late, and the step that is
not over, hours at 30 days, would not be drawn at all."""


def no_data(why: str = "") -> str:
    """The text of a panel without data, with the reason where one is usual."""
    return f"{NO_DATA}: {why}" if why else NO_DATA


def query(expr: str, legend: str = "", *, instant: bool = False, as_table: bool = False) -> prometheus.Dataquery:
    """One question to Prometheus, over the range or at its end."""
    asked = prometheus.Dataquery().expr(expr).datasource(SOURCE).legend_format(legend)
    if as_table:
        asked = asked.format(prometheus_models.PromQueryFormat.TABLE)
    return asked.instant() if instant else asked.range()


def scale(steps: Steps) -> d.ThresholdsConfig:
    """Colours from a value on; below the first, and without a value, grey."""
    made = [dashboard.Threshold(value=None, color=GREY)]
    made += [dashboard.Threshold(value=float(value), color=color) for value, color in steps]
    return d.ThresholdsConfig().mode(dashboard.ThresholdsMode.ABSOLUTE).steps(made)


def words(meaning: Mapping[int, tuple[str, str]]) -> list[Any]:
    """Words and colours instead of numbers."""
    options = {
        str(value): dashboard.ValueMappingResult(text=text, color=color, index=place)
        for place, (value, (text, color)) in enumerate(meaning.items())
    }
    return [dashboard.ValueMap(options=options)]


def in_words(*spans: tuple[float | None, float | None, str, str]) -> list[dict[str, Any]]:
    """Words and colours instead of numbers from one value to another, for a column or a number."""
    return [
        {"type": "range", "options": {"from": low, "to": high, "result": {"text": text, "color": color, "index": place}}}
        for place, (low, high, text, color) in enumerate(spans)
    ]  # fmt: skip


DAYS_LEFT = "suffix: days"
CERTIFICATE = in_words((None, -0.5, "expired", RED), (-0.5, 0.5, "today", RED), (0.5, 1.5, "1 day", RED),
                       (731, None, "over 2 years", GREEN))  # fmt: skip
"""Whole days until a certificate expires. The 973 years of a test's certificate are of no use for plans."""
COLORED = ("custom.cellOptions", {"type": "color-text"})


def days_until(stamp: str) -> str:
    """Whole days until a time stamp, for CERTIFICATE."""
    return f"floor(({stamp} - time()) / 86400)"


def surely(ratio: str) -> str:
    """A lower bound as a share, cut to the hundredth of a per cent that is shown: 99.996 % is not 100 %."""
    return f"floor({ratio} * 10000) / 10000"


def legend(*, calcs: Sequence[str] = ()) -> c.VizLegendOptions:
    """A legend that shows; with calcs as a table beside the graph, the largest first."""
    made = c.VizLegendOptions().show_legend(True).calcs(list(calcs))
    if not calcs:
        return made.display_mode(common.LegendDisplayMode.LIST).placement(common.LegendPlacement.BOTTOM)
    made = made.display_mode(common.LegendDisplayMode.TABLE).placement(common.LegendPlacement.RIGHT)
    return made.sort_by("Total" if "sum" in calcs else "Max").sort_desc(True)


def number(
    title: str, text: str, expr: str, *, unit: str = "short", steps: Steps = (), decimals: int | None = None,
    meaning: Mapping[int, tuple[str, str]] | None = None, legend: str = "", spans: Sequence[dict[str, Any]] = (),
    empty: str = "",
) -> stat.Panel:  # fmt: skip
    """One number, as it is at the end of the range. `empty`: why there may be no data."""
    made = stat.Panel().title(title).description(text).datasource(SOURCE).unit(unit).no_value(no_data(empty))
    made = made.with_target(query(expr, legend, instant=True)).thresholds(scale(steps))
    made = made.color_scheme(d.FieldColor().mode(dashboard.FieldColorModeId.THRESHOLDS))
    made = made.reduce_options(c.ReduceDataOptions().calcs(["lastNotNull"])).color_mode(
        common.BigValueColorMode.VALUE
    )
    made = made.graph_mode(common.BigValueGraphMode.NONE)
    if legend:
        made = made.text_mode(common.BigValueTextMode.NAME)
    if meaning:
        made = made.mappings(words(meaning))
    if spans:
        made = made.mappings([dashboard.RangeMap.from_json(span) for span in spans])
    return made if decimals is None else made.decimals(decimals)


def graph(
    title: str, text: str, *asked: prometheus.Dataquery, unit: str = "short", bars: bool = False,
    stacked: bool = False, calcs: Sequence[str] = (), interval: str = "", zero: bool = True, decimals: int | None = None,
    empty: str = "",
) -> timeseries.Panel:  # fmt: skip
    """Lines, or bars, over time. Gaps stay gaps. `empty`: why there may be no data."""
    made = timeseries.Panel().title(title).description(text).datasource(SOURCE).unit(unit).no_value(no_data(empty))
    made = made.targets(list(asked)).legend(legend(calcs=calcs)).span_nulls(False)
    made = made.tooltip(
        c.VizTooltipOptions().mode(common.TooltipDisplayMode.MULTI).sort(common.SortOrder.DESCENDING)
    )
    made = made.draw_style(common.GraphDrawStyle.BARS if bars else common.GraphDrawStyle.LINE)
    made = made.fill_opacity(70 if bars else 25 if stacked else 0).show_points(common.VisibilityMode.AUTO)
    if stacked or bars:
        made = made.stacking(c.StackingConfig().mode(common.StackingMode.NORMAL).group("A"))
    if interval:
        made = made.interval(interval)
    if zero:
        made = made.min(0)
    if unit == "percentunit":
        made = made.axis_soft_max(0.1)
    return made if decimals is None else made.decimals(decimals)


def timeline(
    title: str, text: str, *asked: prometheus.Dataquery, meaning: Mapping[int, tuple[str, str]], empty: str = ""
) -> statetimeline.Panel:
    """Lanes of states. 200 steps at most: the shortest outage is still some pixels wide, a step of its own.

    Each query reaches ahead (AHEAD), since Grafana draws a value from its time on to the next.
    """
    made = statetimeline.Panel().title(title).description(text).datasource(SOURCE).no_value(no_data(empty))
    made = made.targets(list(asked)).mappings(words(meaning)).thresholds(scale(())).max_data_points(200)
    made = made.color_scheme(d.FieldColor().mode(dashboard.FieldColorModeId.THRESHOLDS))
    made = made.merge_values(True).show_value(common.VisibilityMode.NEVER).fill_opacity(85).line_width(0)
    return made.row_height(0.8).legend(legend())


def columns(
    title: str, text: str, key: str, asked: Mapping[str, str], *, hidden: Sequence[str] = (),
    formats: Mapping[str, Sequence[tuple[str, Any]]], sort: str, descending: bool, names: Mapping[str, str] | None = None,
) -> table.Panel:  # fmt: skip
    """A table with one row for each value of the label `key`, and one column for each query."""
    renamed = {f"Value #{letter}": name for letter, name in zip("ABCDEFGHIJKL", asked, strict=False)}
    made = table.Panel().title(title).description(text).datasource(SOURCE).no_value(NO_DATA)
    made = made.thresholds(scale(()))
    made = made.targets([query(expr, instant=True, as_table=True) for expr in asked.values()])
    made = made.transformations(
        [
            dashboard.DataTransformerConfig(
                id_val="joinByField", options={"byField": key, "mode": "outer"}
            ),
            dashboard.DataTransformerConfig(
                id_val="organize",
                options={
                    "excludeByName": {
                        **{f"Time {place}": True for place in range(1, len(asked) + 1)},
                        "Time": True,
                        **dict.fromkeys(hidden, True),
                    },
                    "indexByName": {name: place for place, name in enumerate((*(names or {}), *renamed))},
                    "renameByName": {**renamed, **(names or {})},
                },
            ),
            dashboard.DataTransformerConfig(
                id_val="sortBy", options={"fields": {}, "sort": [{"field": sort, "desc": descending}]}
            ),
        ]
    )  # fmt: skip
    for name, properties in formats.items():
        made = made.override_by_name(
            name, [dashboard.DynamicConfigValue(id_val=key, value=value) for key, value in properties]
        )
    return made.sort_by([c.TableSortByFieldState().display_name(sort).desc(descending)])
