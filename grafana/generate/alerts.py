"""A copy of the alert rules for Grafana's own alerting, made from those of Prometheus.

Each alert is the question and a threshold below all that it can return, so that an expression that returns 0
(`ledger_valid == 0`) or less (a certificate that has expired) fires as it does in Prometheus. No dollar stands
outside the annotations: Grafana would read it as a variable of its environment.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import yaml

RULES = Path(__file__).parents[2] / "prometheus" / "mailwatch.rules.yml"
DATASOURCE = "mailwatch-prometheus"
BELOW_ALL = -(10**15)
RANGE = {"from": 600, "to": 0}
HEAD = """\
# Made from prometheus/mailwatch.rules.yml by `make dashboards`: change that file, not this one.
# Use it instead of Prometheus with an Alertmanager, not beside it, or each alert comes twice. The recording rules
# must still run in Prometheus. It was never loaded by a Grafana: see docs/how-to/monitoring.md.
"""


def _rule(rule: dict[str, Any]) -> dict[str, Any]:
    name = str(rule["alert"])
    model = {
        "refId": "query",
        "datasource": {"type": "prometheus", "uid": DATASOURCE},
        "expr": rule["expr"],
        "instant": True,
        "range": False,
    }
    threshold = {
        "refId": "threshold",
        "type": "threshold",
        "datasource": {"type": "__expr__", "uid": "__expr__"},
        "expression": "query",
        "conditions": [{"evaluator": {"type": "gt", "params": [BELOW_ALL]}}],
    }
    return {
        "uid": name.lower(),
        "title": name,
        "condition": "threshold",
        "data": [
            {"refId": "query", "relativeTimeRange": dict(RANGE), "datasourceUid": DATASOURCE, "model": model},
            {"refId": "threshold", "datasourceUid": "__expr__", "model": threshold},
        ],
        # An expression that filters returns nothing while nothing is wrong.
        "noDataState": "OK",
        "execErrState": "Error",
        "for": rule.get("for", "0s"),
        "labels": rule["labels"],
        # In Grafana $value shows all steps at once.
        "annotations": _annotations(rule["annotations"]),
    }


_QUERIES = re.compile(r"\{\{ with [^}]*\| query \}\}.*?\{\{ end \}\}")
"""Templates that ask for further series."""


def _annotations(annotations: dict[str, str]) -> dict[str, str]:
    """The annotations that Grafana's templates can write."""
    found = {
        key: _QUERIES.sub("", text).replace("$value", "$values.query.Value") for key, text in annotations.items()
    }
    return {key: text for key, text in found.items() if text}


def made() -> str:
    """The file for Grafana's alert provisioning, as YAML."""
    groups = []
    for group in yaml.safe_load(RULES.read_text())["groups"]:
        rules = [_rule(rule) for rule in group["rules"] if "alert" in rule]
        if rules:
            groups.append(
                {"orgId": 1, "name": group["name"], "folder": "MailWatch", "interval": "1m", "rules": rules}
            )
    text = yaml.safe_dump({"apiVersion": 1, "groups": groups}, sort_keys=False, width=110)
    return HEAD + text
