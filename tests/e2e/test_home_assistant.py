"""The templates for Home Assistant in docs/how-to/home-assistant.md fit the API of a running MailWatch."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import jinja2
import pytest
import yaml

from tests.helpers.notifications import unreachable_target
from tests.helpers.paths import ROOT
from tests.helpers.process import MailWatchProcess

ADDRESS, TARGET = "http://mailwatch.lan:8080/api/v1/", "mario.rossi@libero.it/imap"


class _Loader(yaml.SafeLoader):
    """Knows !secret, a word of Home Assistant."""


_Loader.add_constructor("!secret", lambda _loader, node: str(node.value))


def resources() -> list[dict[str, Any]]:
    page = (ROOT / "docs" / "how-to" / "home-assistant.md").read_text()
    block = re.findall(r"^```yaml\n(rest:.*?)^```", page, re.MULTILINE | re.DOTALL)[0]
    loaded: dict[str, list[dict[str, Any]]] = yaml.load(block, _Loader)
    return loaded["rest"]


def rendered(answer: Any) -> dict[str, tuple[str, str]]:
    """What each sensor of a resource shows, and whether it is available, by name."""
    environment = jinja2.Environment(undefined=jinja2.StrictUndefined, autoescape=False)
    (resource,) = (one for one in resources() if ("outages" in one["resource"]) == isinstance(answer, list))
    shown = {}
    for sensor in (*resource.get("binary_sensor", ()), *resource["sensor"]):
        for key in sensor.get("json_attributes", ()):
            assert key in answer
        available = environment.from_string(sensor.get("availability", "True")).render(value_json=answer)
        value = (
            environment.from_string(sensor["value_template"]).render(value_json=answer)
            if available == "True"
            else ""
        )
        shown[sensor["name"].removeprefix("Libero IMAP ")] = (value, available)
    return shown


@pytest.mark.slow
def test_the_templates_fit_what_the_api_answers(tmp_path: Path) -> None:
    assert [one["resource"] for one in resources()] == [
        f"{ADDRESS}targets/{TARGET}",
        f"{ADDRESS}outages?open=true",
    ]
    target = unreachable_target(TARGET) | {"interval": "200ms"}
    process = MailWatchProcess(tmp_path, [target])
    with process.running():
        process.wait_until(lambda: process.api("outages?open=true"), "an open outage")
        down = rendered(process.api(f"targets/{TARGET}"))
        assert down["problem"] == ("True", "True")
        assert down["state"][0] == "down"
        assert down["response time"][1] == "False"
        assert rendered(process.api("outages?open=true")) == {"Mail outages": ("1", "True")}
    up = {
        "state": "up", "outcome": "up", "phases": {"connect": 0.0101, "tls": 0.02}, "since": None,
        "last_observation": "", "cause": None, "detail": "",
        "availability": {"30d": {"availability": {"lower": 0.99999, "upper": 1.0}, "coverage": 0.5}},
    }  # fmt: skip
    shown = rendered(up)
    assert shown["problem"] == ("False", "True")
    assert shown["response time"] == ("30.0", "True")
    assert shown["availability"] == ("99.99", "True")
    assert rendered({**up, "state": "unknown"})["problem"] == ("", "False")
