"""OpenAPI states the shape of each answer: those of the snapshots have the keys of their shape, and no others."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest
from pydantic import TypeAdapter

from mailwatch.analysis.incident_json import IncidentJson
from mailwatch.analysis.public_json import AvailabilityJson, ObservationJson, OfflineJson, OutageJson, TargetJson
from mailwatch.web.public_shapes import PublicIncidentJson, PublicOutageJson, PublicTargetJson
from tests.contracts.commands import bare
from tests.contracts.snapshots import EXPECTED, names

SHAPES: dict[str, Any] = {
    "api/owner/targets": list[TargetJson],
    "api/owner/outages": list[OutageJson],
    "api/owner/outages-open": list[OutageJson],
    "api/owner/outages-of-window": list[OutageJson],
    "api/owner/outage": OutageJson,
    "api/owner/incidents": list[IncidentJson],
    "api/owner/incidents-open": list[IncidentJson],
    "api/owner/incident": IncidentJson,
    "api/owner/observations": list[ObservationJson],
    "api/owner/observations-down": list[ObservationJson],
    "api/owner/observations-unknown": list[ObservationJson],
    "api/owner/observations-before": list[ObservationJson],
    "api/owner/offline": list[OfflineJson],
    "api/owner/availability": list[AvailabilityJson],
    "api/owner/availability-of-target": list[AvailabilityJson],
    "api/anonymous/targets": list[PublicTargetJson],
    "api/anonymous/outages": list[PublicOutageJson],
    "api/anonymous/outages-open": list[PublicOutageJson],
    "api/anonymous/outages-of-window": list[PublicOutageJson],
    "api/anonymous/outage": PublicOutageJson,
    "api/anonymous/incidents": list[PublicIncidentJson],
    "api/anonymous/incidents-open": list[PublicIncidentJson],
    "api/anonymous/incident": PublicIncidentJson,
    "cli/outages": list[OutageJson],
    "cli/outages-show": list[OutageJson],
    "cli/incidents": list[IncidentJson],
    "cli/incidents-show": list[IncidentJson],
    "cli/offline": list[OfflineJson],
    "cli/availability": list[AvailabilityJson],
}
"""By snapshot (tests/testdata/contracts/expected)."""


@pytest.mark.parametrize("name", SHAPES)
def test_an_answer_has_the_shape_that_openapi_states(name: str) -> None:
    text = (EXPECTED / f"{name}.json").read_text()
    adapter = TypeAdapter(SHAPES[name])
    # What a shape does not name is left out in reading: it would be missed here.
    assert adapter.dump_python(adapter.validate_json(text, strict=True), mode="json") == json.loads(text)


@pytest.mark.parametrize("name", sorted(name for name in SHAPES if re.fullmatch(r"api/owner/[a-z]+", name)))
def test_openapi_states_that_shape_for_the_path(name: str) -> None:
    stated = json.loads((EXPECTED / "openapi-shapes.json").read_text())
    what = name.rpartition("/")[2]
    path = {"outage": "outages/{outage_id}", "incident": "incidents/{incident_id}"}.get(what, what)
    schema = TypeAdapter(SHAPES[name]).json_schema()
    assert bare(schema, schema.get("$defs", {})) == stated[f"/api/v1/{path}"]


def test_every_answer_of_the_api_has_a_shape() -> None:
    answers = {
        name.removesuffix(".json") for name in names(EXPECTED) if re.fullmatch(r"api/\w+/[\w-]+\.json", name)
    }
    without = {name for name in answers - SHAPES.keys() if not name.endswith("/statuses")}
    assert [name for name in without if "status" not in json.loads((EXPECTED / f"{name}.json").read_text())] == []
