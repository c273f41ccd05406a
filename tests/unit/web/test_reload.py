"""What a visitor gets who asks while a reload removes a target, and what visitors who ask for the same share."""

from __future__ import annotations

from typing import Any, cast

import httpx
import pytest

from mailwatch.web.app import full_app
from mailwatch.web.frame import Audience, Frame
from mailwatch.web.overview_page import OverviewPage
from mailwatch.web.public import PublicReadModel
from mailwatch.web.read_model import ReadModel, TargetGoneError
from mailwatch.web.target_page import TargetPage
from mailwatch.web.templating import texts
from tests.helpers.few_targets import AT, FewTargets, a_request, a_target


async def _ask(model: FewTargets, path: str) -> httpx.Response:
    app: Any = full_app(cast(ReadModel, model), Audience())
    transport = httpx.ASGITransport(app)
    async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:
        return await client.get(path, headers={"accept": "text/html"})


@pytest.mark.parametrize("path", ["/targets/a", "/badges/a/uptime.svg", "/badges/a/response.svg"])
async def test_a_target_that_a_reload_removes_meanwhile_is_missing(path: str) -> None:
    answer = await _ask(FewTargets([a_target("a"), a_target("b")], gone={"a"}), path)
    w = texts("en")
    assert answer.status_code == 404
    assert w["problem"]["missing"]["title"] in answer.text
    assert f'href="{"../" * (path.count("/") - 1)}">{w["back"]}</a>' in answer.text


async def test_the_overview_has_the_other_targets() -> None:
    answer = await _ask(FewTargets([a_target("a"), a_target("b")], gone={"a"}), "/")
    assert answer.status_code == 200
    assert 'href="targets/b"' in answer.text
    assert 'href="targets/a"' not in answer.text


def test_a_target_is_gone_in_the_public_view_too() -> None:
    with pytest.raises(TargetGoneError):
        PublicReadModel(cast(ReadModel, FewTargets([])), b"").target_card("libero imap", AT)


@pytest.mark.parametrize("page", [TargetPage, OverviewPage])
async def test_visitors_do_not_share_the_query_of_one(page: type[TargetPage | OverviewPage]) -> None:
    asked = page(Frame(cast(ReadModel, FewTargets([a_target("a")])), Audience()))
    for query in ("period=of-another", ""):
        if isinstance(asked, TargetPage):
            answer = await asked.target(a_request("/targets/a", query), "a", period=query.partition("=")[2])
        else:
            answer = await asked.overview(a_request("/", query))
        assert b"of-another" not in answer.body


async def test_the_language_of_a_target_page_changes_and_its_period_stays() -> None:
    asked = TargetPage(Frame(cast(ReadModel, FewTargets([a_target("a")])), Audience()))
    answer = await asked.target(a_request("/targets/a", "period=7d"), "a", period="7d")
    assert b'href="?period=7d&amp;lang=it"' in answer.body
