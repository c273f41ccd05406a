"""The scrape config and the rules: as Prometheus' own tools see them, and each name one that MailWatch has."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml

from tests.helpers.paths import ROOT
from tests.helpers.patience import PATIENCE
from tests.helpers.requirements import need

FOLDER = ROOT / "prometheus"


def promtool(*words: str) -> None:
    need(Path(shutil.which("promtool") or "/usr/bin/promtool"))
    done = subprocess.run(
        ["promtool", *words], cwd=FOLDER, capture_output=True, text=True, check=False, timeout=PATIENCE
    )
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize(
    "words",
    [
        ("check", "config", "prometheus.yml"),
        ("check", "rules", "--lint=all", "--lint-fatal", "mailwatch.rules.yml"),
        ("test", "rules", "mailwatch.test.yml"),
    ],
    ids=" ".join,
)
def test_promtool_agrees(words: tuple[str, ...]) -> None:
    promtool(*words)


AMTOOL = ROOT / "build" / "servers" / "alertmanager" / "usr" / "bin" / "amtool"


@pytest.mark.parametrize(
    ("labels", "receiver"),
    [
        ("", ""),
        ("alertname=MailWatchIncidentOpen severity=critical provider=libero", "people"),
        ("alertname=MailWatchTargetStale severity=warning", "people"),
        ("alertname=MailWatchDeadMansSwitch severity=none", "dead-mans-switch"),
    ],
)
def test_alertmanager_takes_its_example_and_routes_by_it(labels: str, receiver: str) -> None:
    need(AMTOOL)
    words = ["config", "routes", "test", "--config.file=alertmanager.yml", *labels.split()]
    done = subprocess.run(
        [AMTOOL, *(words if labels else ["check-config", "alertmanager.yml"])],
        cwd=FOLDER, capture_output=True, text=True, check=False, timeout=PATIENCE,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.strip() == receiver or not labels


def test_the_example_for_alertmanager_names_alerts_that_there_are() -> None:
    alerts = re.findall(r"- alert: (\w+)", (FOLDER / "mailwatch.rules.yml").read_text())
    config = yaml.safe_load((FOLDER / "alertmanager.yml").read_text())
    for rule in config["inhibit_rules"]:
        for matcher in rule["source_matchers"] + rule["target_matchers"]:
            name, operator, wanted = matcher.partition(" =~ ") if " =~ " in matcher else matcher.partition(" = ")
            if name == "alertname" and operator:
                assert [alert for alert in alerts if re.fullmatch(wanted.strip('"'), alert)], matcher


def test_rules_and_dashboards_ask_only_for_metrics_that_are_documented() -> None:
    page = (ROOT / "docs" / "reference" / "metrics.md").read_text()
    known = set(re.findall(r"^\| `(mailwatch_\w+)`", page, re.MULTILINE))
    known |= {
        f"mailwatch_{h}_seconds_{end}"
        for h in ("schedule_lag", "commit", "self_loop_lag")
        for end in ("count", "bucket")
    }
    for file in (FOLDER / "mailwatch.rules.yml", *(ROOT / "grafana" / "dashboards").glob("*.json")):
        asked = set(re.findall(r"(?<![:\w])mailwatch_\w+(?=[\[{ )]| [=<>])", file.read_text()))
        assert asked - known == set(), file.name


def test_each_alert_has_a_test_of_its_own() -> None:
    alerts = re.findall(r"- alert: (\w+)", (FOLDER / "mailwatch.rules.yml").read_text())
    tests = (FOLDER / "mailwatch.test.yml").read_text()
    assert len(alerts) > 10
    for alert in alerts:
        assert re.search(rf"alertname: {alert}\n +exp_alerts:\n", tests), alert
