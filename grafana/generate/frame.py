"""What all dashboards share: variables, links, places of the panels, and fixes of what the builders leave wrong."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from grafana_foundation_sdk.builders import dashboard as d
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models import common, dashboard

from grafana.generate.alerts import DATASOURCE
from grafana.generate.panels import SOURCE, Panel

I = 'instance=~"$instance"'  # noqa: E741 - the matcher stands in every query
P = f'{I}, provider=~"$provider"'
T = f'{I}, provider=~"$provider", target=~"$target"'
SOURCE_NAME = "Prometheus (MailWatch)"
"""The name of the data source in grafana/provisioning; DATASOURCE is its uid."""
Row = tuple[str, int, Sequence[tuple[int, Panel]]]
"""Title, height, and panels with their width of 24."""


def variables(*, services: bool) -> list[Any]:
    """Which Prometheus, which MailWatch, which services."""
    many = [("provider", "Provider", I), ("target", "Service", f'{I}, provider=~"$provider"')] if services else []
    # The provisioned one, also where another data source is Grafana's default.
    source = dashboard.VariableOption(selected=True, text=SOURCE_NAME, value=DATASOURCE)
    made: list[Any] = [d.DatasourceVariable("datasource").label("Data source").type("prometheus").current(source)]
    made.append(_labels("instance", "MailWatch", "mailwatch_build_info"))
    for name, label, given in many:
        variable = _labels(name, label, f"mailwatch_probe_interval_seconds{{{given}}}")
        every = dashboard.VariableOption(selected=True, text="All", value="$__all")
        made.append(variable.multi(True).include_all(True).all_value(".+").current(every))
    address = "Where the browser reaches MailWatch's own pages; the links lead there."
    made.append(
        d.TextBoxVariable("mailwatch")
        .label("Address of MailWatch")
        .description(address)
        .default_value("http://127.0.0.1:8080")
    )
    return made


def _labels(name: str, label: str, metric: str) -> d.QueryVariable:
    asked = f"label_values({metric}, {name})"
    made = d.QueryVariable(name).label(label).datasource(SOURCE).definition(asked)
    made = made.query({"query": asked, "refId": f"variable-{name}"})
    return made.refresh(dashboard.VariableRefresh.ON_TIME_RANGE_CHANGED).sort(
        dashboard.VariableSort.ALPHABETICAL_ASC
    )


def compose(
    uid: str, title: str, description: str, rows: Sequence[Row], *, since: str, services: bool = True
) -> dict[str, Any]:
    """The dashboard as classic JSON."""
    made = d.Dashboard(title).uid(uid).description(description).tags(["mailwatch"]).readonly().timezone("browser")
    made = made.time(since, "now").refresh("1m").tooltip(dashboard.DashboardCursorSync.CROSSHAIR)
    made = made.variables(variables(services=services))
    made = made.link(
        d.DashboardLink("MailWatch dashboards")
        .type(dashboard.DashboardLinkType.DASHBOARDS).tags(["mailwatch"]).as_dropdown(True).keep_time(True)
    )  # fmt: skip
    made = made.annotation(
        d.AnnotationQuery()
        .name("Annotations & Alerts").datasource(common.DataSourceRef("grafana", "-- Grafana --"))
        .enable(True).hide(True).icon_color("rgba(0, 211, 255, 1)").type("dashboard").built_in(1)
    )  # fmt: skip
    if services:
        made = made.annotation(
            d.AnnotationQuery()
            .name("Outages").datasource(SOURCE).enable(True).hide(False).icon_color("red")
            .expr(f"max by (target) (max_over_time(mailwatch_outage_active{{{T}}}[$__rate_interval])) > 0")
            .title_format("Outage of {{target}}").step("60s")
        )  # fmt: skip
    top = 0
    for name, height, panels in rows:
        made = made.with_row(d.Row(name).grid_pos(dashboard.GridPos(h=1, w=24, x=0, y=top)))
        left, top = 0, top + 1
        for width, panel in panels:
            if left + width > 24:
                left, top = 0, top + height
            made = made.with_panel(panel.grid_pos(dashboard.GridPos(h=height, w=width, x=left, y=top)))
            left += width
        top += height
    return _corrected(json.loads(JSONEncoder(sort_keys=True).encode(made.build())))


def _corrected(made: dict[str, Any]) -> dict[str, Any]:
    """Fix what the builders leave wrong or cannot express.

    They hide links and annotations in a menu (`placement`), number neither panels nor queries, and claim a schema
    that Grafana 11 has not got.
    """
    made["schemaVersion"] = 41
    for thing in (*made["links"], *made["annotations"]["list"]):
        thing.pop("placement", None)
    for number, panel in enumerate(made["panels"], 1):
        panel["id"] = number
        for letter, target in zip("ABCDEFGHIJKL", panel.get("targets", ()), strict=False):
            target["refId"] = letter
    return made
