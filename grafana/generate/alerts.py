"""A copy of the alert rules for Grafana's own alerting, made from those of Prometheus.

Each alert is what Grafana itself makes when it takes in rules of Prometheus: the question, "is that a number", and
a threshold, so that an expression that returns 0 (`ledger_valid == 0`) fires as it does in Prometheus.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

RULES = Path(__file__).parents[2] / "prometheus" / "mailwatch.rules.yml"
DATASOURCE = "mailwatch-prometheus"
LOOK_BACK = {"from": 600, "to": 0}
HEAD = """\
# Made from prometheus/mailwatch.rules.yml by `make dashboards`: change that file, not this one.
# Use it instead of Prometheus with an Alertmanager, not beside it, or each alert comes twice. The recording rules
# must still run in Prometheus. It was never loaded by a Grafana: see docs/monitoring.md.
"""


def _step(name: str, kind: str, **more: Any) -> dict[str, Any]:
    model = {"refId": name, "type": kind, "datasource": {"type": "__expr__", "uid": "__expr__"}, **more}
    return {"refId": name, "datasourceUid": "__expr__", "model": model}


def _rule(rule: dict[str, Any]) -> dict[str, Any]:
    name = str(rule["alert"])
    model = {
        "refId": "query",
        "datasource": {"type": "prometheus", "uid": DATASOURCE},
        "expr": rule["expr"],
        "instant": True,
        "range": False,
    }
    fires = {"evaluator": {"type": "gt", "params": [0]}}
    return {
        "uid": name.lower(),
        "title": name,
        "condition": "threshold",
        "data": [
            {"refId": "query", "relativeTimeRange": LOOK_BACK, "datasourceUid": DATASOURCE, "model": model},
            _step("number", "math", expression="is_number($query) || is_nan($query) || is_inf($query)"),
            _step("threshold", "threshold", expression="number", conditions=[fires]),
        ],
        # An expression that filters returns nothing while all is well.
        "noDataState": "OK",
        "execErrState": "Error",
        "for": rule.get("for", "0s"),
        "labels": rule["labels"],
        # In Grafana $value tells of all steps at once.
        "annotations": {k: v.replace("$value", "$values.query.Value") for k, v in rule["annotations"].items()},
    }


def made() -> str:
    """The file for Grafana's alert provisioning, as YAML."""
    groups = []
    for group in yaml.safe_load(RULES.read_text())["groups"]:
        rules = [_rule(rule) for rule in group["rules"] if "alert" in rule]
        if rules:
            groups.append(
                {"orgId": 1, "name": group["name"], "folder": "MailWatch", "interval": "1m", "rules": rules}
            )
    # A dollar in the file stands for a variable of the environment, but for annotations; there it stays.
    text = yaml.safe_dump({"apiVersion": 1, "groups": groups}, sort_keys=False, width=110)
    return HEAD + text
