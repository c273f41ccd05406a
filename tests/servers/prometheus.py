"""Prometheus, on the scrape config and the rules of this repository, in a hurry."""

from __future__ import annotations

import json
import re
import time
import urllib.parse
import urllib.request
from pathlib import Path
from typing import Any

import yaml

from tests.helpers.paths import ROOT
from tests.helpers.patience import PATIENCE
from tests.servers.program import HOST, Program, free_port

FOLDER = ROOT / "prometheus"
EVERY = 1
"""Seconds between scrapes, and between evaluations."""


_SMALLER = {"m": "s", "h": "m", "d": "h"}


def _hurry(text: str) -> str:
    return re.sub(r"\b(\d+)([mhd])\b", lambda found: f"{found[1]}{_SMALLER[found[2]]}", text)


def hurried(rules: dict[str, Any]) -> dict[str, Any]:
    """The same rules, with `for` and windows in seconds for minutes, in minutes for hours, in hours for days."""
    for group in rules["groups"]:
        for rule in group["rules"]:
            rule["expr"] = re.sub(r"\[\w+\]", lambda found: _hurry(found[0]), rule["expr"])
            if "for" in rule:
                rule["for"] = _hurry(rule["for"])
    return rules


class Prometheus(Program):
    """Scrapes one MailWatch on `port_of_mailwatch` each second."""

    def __init__(self, directory: Path, port_of_mailwatch: int) -> None:
        self.port = free_port()
        config = yaml.safe_load((FOLDER / "prometheus.yml").read_text())
        config["global"] = {"scrape_interval": f"{EVERY}s", "evaluation_interval": f"{EVERY}s"}
        config["scrape_configs"][0].pop("scrape_timeout")
        config["scrape_configs"][0]["static_configs"] = [{"targets": [f"{HOST}:{port_of_mailwatch}"]}]
        (directory / "prometheus.yml").write_text(json.dumps(config))
        rules = hurried(yaml.safe_load((FOLDER / "mailwatch.rules.yml").read_text()))
        (directory / "mailwatch.rules.yml").write_text(json.dumps(rules))
        command = (
            "/usr/bin/prometheus",
            f"--config.file={directory}/prometheus.yml",
            f"--storage.tsdb.path={directory}/tsdb",
            f"--web.listen-address={HOST}:{self.port}",
        )
        super().__init__(directory, command, {self.port: False})

    def _serves(self, port: int, tls: bool) -> bool:
        try:
            with urllib.request.urlopen(f"http://{HOST}:{port}/-/ready", timeout=5) as answer:
                return bool(answer.status == 200)
        except OSError:
            return False

    def get(self, what: str, **asked: str) -> Any:
        """GET /api/v1/WHAT: its data. An error of the query is an error."""
        address = f"http://{HOST}:{self.port}/api/v1/{what}?{urllib.parse.urlencode(asked)}"
        with urllib.request.urlopen(address, timeout=PATIENCE) as answer:
            return json.load(answer)["data"]

    def ask(self, expr: str, ago: float = 0.0) -> list[dict[str, Any]]:
        """What an expression returns now, or so many seconds ago."""
        return list(self.get("query", query=expr, time=str(time.time() - ago))["result"])

    def alerts(self) -> dict[str, str]:
        """The alerts that are pending or firing."""
        return {alert["labels"]["alertname"]: alert["state"] for alert in self.get("alerts")["alerts"]}
