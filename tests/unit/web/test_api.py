"""Answers of the API without a running MailWatch."""

from __future__ import annotations

import re
from typing import Any, cast
from urllib.parse import urljoin

import httpx
import pytest
from fastapi.routing import APIRoute

from mailwatch.web.app import full_app
from mailwatch.web.frame import Audience
from mailwatch.web.public import PublicReadModel
from mailwatch.web.read_model import ReadModel
from mailwatch.web.templating import path_part
from tests.helpers.few_targets import FewTargets, a_target


@pytest.mark.parametrize(
    "name", ["mail/response-times", "response-times", "a/../b", "./a", ".", "..", "/..", "a/state.svg"]
)
async def test_a_target_with_an_odd_name_is_found(name: str) -> None:
    model = FewTargets([a_target(name)])
    app: Any = full_app(cast(ReadModel, model), Audience())
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://localhost") as client:
        escaped = path_part(name)
        answer = await client.get(f"/api/v1/targets/{escaped}")
        assert (answer.status_code, answer.json()["target"]) == (200, name)
        page = await client.get(f"/targets/{escaped}")
        assert (page.status_code, f"<title>{name}" in page.text) == (200, True)
        address = httpx.URL(f"http://localhost/targets/{escaped}")
        css = re.search('href="([^"]*static/style.css)', page.text)
        assert css
        assert urljoin(str(address), css[1]) == "http://localhost/static/style.css"
        badge = await client.get(f"/badges/{escaped}/state.svg")
        assert (badge.status_code, f"<title>{name}: up</title>" in badge.text) == (200, True)


@pytest.mark.parametrize("public", [False, True])
async def test_a_list_of_outages_is_read_part_by_part(public: bool) -> None:
    known = [
        {**a_target(f"t{number % 2}"), "id": f"{number:012x}", "state": ("open", "closed")[number > 0]}
        for number in range(5)
    ]
    model: Any = FewTargets([a_target("t0"), a_target("t1")], outages_on_record=known)
    app: Any = full_app(PublicReadModel(model, b"secret") if public else model, Audience(public=public))
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://localhost") as client:
        whole = (await client.get("/api/v1/outages")).json()
        assert len(whole) == 5
        found, address = list[Any](), "/api/v1/outages?limit=2"
        while address:
            answer = await client.get(address)
            found += answer.json()
            further = answer.links.get("next")
            address = urljoin("http://localhost/api/v1/outages", further["url"]) if further else ""
        assert found == whole
        unknown = await client.get("/api/v1/outages?limit=2&before=ffffffffffff")
        assert unknown.status_code == 422
        assert "before: no outage of this list" in unknown.json()["detail"]
        for wrong in ("limit=0", "limit=10001", "before=x"):
            assert (await client.get(f"/api/v1/outages?{wrong}")).status_code == 422
        own = await client.get("/api/v1/outages", params={"target": whole[1]["target"], "limit": 1})
        assert [one["id"] for one in own.json()] == [whole[1]["id"]]
        assert (await client.get("/api/v1/incidents?limit=2")).json() == []


async def test_the_shapes_of_answers_are_made_once_openapi_is_asked_for() -> None:
    app: Any = full_app(cast(ReadModel, FewTargets([])), Audience())
    api = [route for route in app.routes if isinstance(route, APIRoute) and route.path.startswith("/api/v1/")]
    assert [route.path for route in api if route.response_fields] == []
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://localhost") as client:
        stated = (await client.get("/api/openapi.json")).json()
        assert (await client.get("/api/openapi.json")).json() == stated
    paths = {path for path in stated["paths"] if "/v1/" in path}
    assert {route.path.replace(":path", "") for route in api} == paths
    assert "One outage" in stated["paths"]["/api/v1/outages/{outage_id}"]["get"]["summary"]
    assert "OutageJson" in stated["components"]["schemas"]
