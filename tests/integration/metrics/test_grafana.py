"""The dashboards: made from their sources, true without data, and each query answered by a real Prometheus.

A real Prometheus scrapes a real MailWatch while the Dovecot that it watches goes away and comes back.
"""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from grafana.generate.__main__ import FOLDER, files
from tests.helpers.process import MailWatchProcess
from tests.helpers.requirements import need
from tests.servers import ALICE, Certificates, Dovecot, server_folder
from tests.servers.prometheus import FOLDER as RULES
from tests.servers.prometheus import Prometheus

BOARDS = sorted((FOLDER / "dashboards").glob("*.json"))
PANELS = {
    f"{board.stem}: {panel['title']}": panel
    for board in BOARDS
    for panel in json.loads(board.read_text())["panels"]
    if panel["type"] != "row"
}
EMPTY = {
    "overview: Delivery time of round trips": "no round trip is watched in this test",
    "outages: Last outside time stamp": "no authority is asked in this test",
    "outages: Our own line": "the guard is off in this test",
    "outages: How far the clock may be off": "no time server is asked in this test",
    "internals: Notifications": "no channel is configured in this test",
}
"""Panels without data while an outage is open, and why."""
EMPTY_METRICS = {
    "mailwatch_guard_online": "the guard is off",
    "mailwatch_ledger_last_token_timestamp_seconds": "no authority is asked",
    "mailwatch_ledger_token_interval_seconds": "no authority is asked",
    "mailwatch_ledger_until_full_seconds": "the ledger is younger than a day",
    "mailwatch_notifications_total": "no channel is configured",
    **dict.fromkeys(
        (
            "mailwatch_nodes",
            "mailwatch_node_active",
            "mailwatch_node_clock_offset_bound_seconds",
            "mailwatch_node_clock_offset_seconds",
            "mailwatch_node_handovers_total",
            "mailwatch_node_shares",
            "mailwatch_spool_observations",
            "mailwatch_spool_used_ratio",
        ),
        "the ledger is in SQLite",
    ),
}
"""Metrics of the rules without data, and why."""


def test_committed_files_are_what_their_sources_make() -> None:
    made = files()
    for path, text in made.items():
        assert path.read_text() == text, f"{path.name} is old: run make dashboards"
    assert sorted(path for path in made if path.suffix == ".json") == BOARDS
    assert len(BOARDS) == 3


def test_no_data_is_never_green_and_each_panel_explains_itself(subtests: pytest.Subtests) -> None:
    for name, panel in PANELS.items():
        with subtests.test(panel=name):
            _assert_it_explains_itself(panel)


def _assert_it_explains_itself(panel: dict[str, Any]) -> None:
    defaults = panel["fieldConfig"]["defaults"]
    assert panel["title"]
    assert panel["description"]
    assert panel["datasource"]["uid"] == "${datasource}"
    assert [target["refId"] for target in panel["targets"]] == list("ABCDEFGHIJKL"[: len(panel["targets"])])
    # With the reason where one is usual.
    assert defaults["noValue"].partition(":")[0] == "no data"
    if panel["type"] != "timeseries":
        assert defaults["thresholds"]["steps"][0] == {"value": None, "color": "text"}
    if panel["type"] == "stat":
        assert panel["options"]["reduceOptions"]["calcs"] == ["lastNotNull"]
    if panel["type"] in ("timeseries", "state-timeline"):
        assert panel["options"]["legend"]["showLegend"]
    for target in panel["targets"]:
        assert "or vector(" not in target["expr"]
        assert "$instance" in target["expr"] or "ALERTS" in target["expr"]
        if panel["type"] == "state-timeline":
            asked = re.findall(r"(?:min|max)_over_time\([^()]*\)|increase\([^()]*\)", target["expr"])
            assert asked
            assert [each.endswith("[$__rate_interval] offset -$__rate_interval)") for each in asked] == [
                True
            ] * len(asked)


@pytest.mark.parametrize("board", BOARDS, ids=lambda board: board.stem)
def test_a_dashboard_is_one_that_grafana_11_to_13_take(board: Path) -> None:
    reported = json.loads(board.read_text())
    assert reported["schemaVersion"] == 41
    assert reported["uid"] == f"mailwatch-{board.stem}"
    assert not reported["editable"]
    assert "inControlsMenu" not in board.read_text()
    ids = [panel["id"] for panel in reported["panels"]]
    assert len(set(ids)) == len(ids)
    assert reported["annotations"]["list"][0]["builtIn"] == 1
    cells = [
        (x, y)
        for place in (panel["gridPos"] for panel in reported["panels"])
        for x in range(place["x"], place["x"] + place["w"])
        for y in range(place["y"], place["y"] + place["h"])
    ]
    assert len(set(cells)) == len(cells), "panels overlap"
    assert max(x for x, _ in cells) < 24


def test_the_data_source_may_stand_beside_another_default() -> None:
    (file,) = (FOLDER / "provisioning" / "datasources").iterdir()
    (source,) = yaml.safe_load(file.read_text())["datasources"]
    assert not source["isDefault"]
    for board in BOARDS:
        variable = json.loads(board.read_text())["templating"]["list"][0]
        chosen = variable["current"]
        assert (variable["type"], chosen["text"], chosen["value"]) == ("datasource", source["name"], source["uid"])


def test_the_times_are_those_of_the_browser() -> None:
    assert {json.loads(board.read_text())["timezone"] for board in BOARDS} == {"browser"}


def test_what_no_one_can_use_is_in_words() -> None:
    """A budget below zero, one of a month of which an hour was observed, and a certificate for centuries."""
    columns = {
        override["matcher"]["options"]: {one["id"]: one["value"] for one in override["properties"]}
        for override in PANELS["overview: Each service"]["fieldConfig"]["overrides"]
    }
    (budget,) = columns["Budget left"]["mappings"]
    assert {value: said["text"] for value, said in budget["options"].items()} == {
        "-1": "too early",
        "0": "used up",
    }
    assert "clamp_min" in next(
        target["expr"] for target in PANELS["overview: Each service"]["targets"] if "budget" in target["expr"]
    )
    spans = [one["options"] for one in columns["Certificate"]["mappings"]]
    assert spans == [
        one["options"] for one in PANELS["overview: Next certificate"]["fieldConfig"]["defaults"]["mappings"]
    ]
    assert [(one["from"], one["to"], one["result"]["text"]) for one in (spans[0], spans[-1])] == [
        (None, -0.5, "expired"), (731, None, "over 2 years")
    ]  # fmt: skip
    # Next to each share of time stands how much of the time was observed.
    assert [name for name in columns if name.startswith(("Up", "Observed"))] == [
        "Up, 24 h", "Up, 30 d", "Observed, 24 h", "Observed, 30 d"
    ]  # fmt: skip


def test_grafana_gets_each_alert_of_prometheus() -> None:
    rules = yaml.safe_load((RULES / "mailwatch.rules.yml").read_text())
    theirs = yaml.safe_load((FOLDER / "alerting" / "mailwatch-rules.yaml").read_text())
    alerts = {r["alert"]: r for group in rules["groups"] for r in group["rules"] if "alert" in r}
    copies = {r["title"]: r for group in theirs["groups"] for r in group["rules"]}
    assert copies.keys() == alerts.keys()
    for name, copy in copies.items():
        assert copy["data"][0]["model"]["expr"] == alerts[name]["expr"]
        assert len(copy["uid"]) <= 40
        # Anywhere else a dollar would be read as a variable of Grafana's environment.
        assert "$" not in json.dumps({key: value for key, value in copy.items() if key != "annotations"})
        assert "$value " not in json.dumps(copy["annotations"])


@pytest.fixture(scope="module")
def scene(certificates: Certificates, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Any, ...]]:
    """A Dovecot, the MailWatch that watches it, and the Prometheus that watches that; everything is up."""
    need(Path(shutil.which("prometheus") or "/usr/bin/prometheus"))
    folder = tmp_path_factory.mktemp("scene")
    with server_folder() as mail, server_folder() as place, Dovecot(mail, certificates).running() as dovecot:
        secret = folder / "secret"
        secret.write_text(dovecot.passwords[ALICE] + "\n")
        secret.chmod(0o600)
        target = {
            "name": "lab-imap", "kind": "imap", "provider": "lab", "host": "localhost", "port": dovecot.imaps_port,
            "tls": "implicit", "ca_file": str(certificates.ca_file), "interval": "1s", "timeout": "1s",
            "login": {"username": ALICE, "password_file": str(secret)},
        }  # fmt: skip
        process = MailWatchProcess(folder, [target], detection={"recheck": ["1s"]})
        with process.running(), Prometheus(place, process.port).running() as prometheus:
            yield dovecot, process, prometheus


def filled(expr: str, instance: str) -> str:
    """A query as Grafana would send it for the last five minutes."""
    values = {"$instance": instance, "$provider": ".+", "$target": ".+", "$__range": "5m"}
    values |= {"$__rate_interval": "1m", "$__interval": "1m"}
    for name, value in sorted(values.items(), reverse=True):
        expr = expr.replace(name, value)
    assert "$" not in expr
    return expr


def ahead(expr: str) -> float:
    """How long ago to ask, so that the step that a lane or bar reaches ahead is one that was."""
    return 60.0 if "offset -" in expr else 0.0


@pytest.mark.timeout(240)
def test_an_outage_is_shown_drawn_and_forgotten(scene: tuple[Dovecot, MailWatchProcess, Prometheus]) -> None:
    dovecot, process, prometheus = scene
    instance = f"127.0.0.1:{process.port}"

    def comes(alert: str, state: str | None = "firing") -> None:
        process.wait_until(lambda: prometheus.alerts().get(alert) == state, f"{alert} {state}")

    comes("MailWatchDeadMansSwitch")
    process.wait_until(lambda: process.count("lab-imap", "up") >= 3, "up")
    assert "MailWatchOutageOpen" not in prometheus.alerts()
    dovecot.stop()
    comes("MailWatchOutageOpen")
    comes("MailWatchIncidentOpen")
    comes("MailWatchErrorBudgetBurnsFast")
    # Reckoned once a minute.
    availability = "mailwatch_availability_ratio and on (target) target:mailwatch_error_budget_left:ratio_30d"
    process.wait_until(lambda: prometheus.ask(availability), "availability", 100)

    nothing = {
        name
        for name, panel in PANELS.items()
        for target in panel["targets"]
        if not any(
            value == value for found in prometheus.ask(filled(target["expr"], instance), ahead(target["expr"]))
            for value in [float(found["value"][1])]
        )
    }  # fmt: skip
    # The outage has not ended, so of the table one column has no data; threads and memory may have no limit.
    assert nothing - {"outages: Outages on record", "internals: Use of its limits"} == EMPTY.keys()
    files = PANELS["internals: Use of its limits"]["targets"][0]["expr"]
    assert prometheus.ask(filled(files, instance)), files
    for board in BOARDS:
        for question in json.loads(board.read_text())["annotations"]["list"][1:]:
            assert prometheus.ask(filled(question["expr"], instance)), question
    rules = yaml.safe_load((RULES / "mailwatch.rules.yml").read_text())
    recorded = [rule["record"] for group in rules["groups"] for rule in group["rules"] if "record" in rule]
    assert [name for name in recorded if not prometheus.ask(name)] == []
    asked = set(
        re.findall(
            r"(?<![:\w])mailwatch_\w+", json.dumps([r["expr"] for g in rules["groups"] for r in g["rules"]])
        )
    )
    assert {name for name in asked if not prometheus.ask(name)} == EMPTY_METRICS.keys()
    states = prometheus.ask(filled(PANELS["overview: State of each service"]["targets"][0]["expr"], instance), 60)
    assert [float(state["value"][1]) for state in states] == [4.0]

    dovecot.start()
    comes("MailWatchOutageOpen", None)
    table = PANELS["outages: Outages on record"]["targets"]
    assert all(prometheus.ask(filled(target["expr"], instance)) for target in table)
    # In the step that ends now the outage is over, and is still shown.
    drawn = prometheus.ask(filled(PANELS["outages: Outages of each service"]["targets"][0]["expr"], instance), 60)
    assert [lane["value"][1] for lane in drawn] == ["1"]

    process.stop()
    comes("MailWatchAbsent")
    process.start()
    comes("MailWatchAbsent", None)
