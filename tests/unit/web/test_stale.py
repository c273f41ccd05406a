"""What pages and badges say when the states may be old, or a check has just failed."""

from __future__ import annotations

from typing import Any, cast

import pytest

from mailwatch.store.pruning import PrunedTime
from mailwatch.times import rfc3339
from mailwatch.web.badges import Badges
from mailwatch.web.frame import Audience, Frame
from mailwatch.web.read_model import ReadModel
from mailwatch.web.target_page import TargetPage
from mailwatch.web.templating import texts
from tests.helpers.few_targets import AT, FewTargets, a_request, a_target

STALE = ["the ledger cannot be written"]


def _frame(model: FewTargets) -> Frame:
    return Frame(cast(ReadModel, model), Audience())


async def _page(model: FewTargets, language: str) -> str:
    request = a_request("/targets/a", f"lang={language}")
    return bytes((await TargetPage(_frame(model)).target(request, "a")).body).decode()


def _badge(model: FewTargets, kind: Any) -> str:
    return bytes(Badges(_frame(model)).badge(a_request(), "a", kind).body).decode()


@pytest.mark.parametrize("language", ["en", "it"])
async def test_a_target_is_unknown_while_its_state_may_be_old(language: str) -> None:
    w = texts(language)
    for state in ("up", "down", "suspect"):
        page = await _page(FewTargets([a_target("a", state, outage="0" * 12)], stale=STALE), language)
        assert '<div class="headline unknown">' in page
        assert f"</span> {w['state']['unknown']}</span>" in page
        assert f"</span> {w['state'][state]}</span>" not in page
        assert w["headline_text"]["stale"] in page
        assert 'href="../outages/000000000000"' in page
        fresh = await _page(FewTargets([a_target("a", state)]), language)
        assert f"</span> {w['state'][state]}</span>" in fresh
        assert w["headline_text"]["stale"] not in fresh
    paused = await _page(FewTargets([a_target("a", "paused")], stale=STALE), language)
    assert '<div class="headline paused">' in paused


def test_a_badge_is_unknown_while_its_state_may_be_old() -> None:
    model = FewTargets([a_target("a")])
    assert 'aria-label="a: up"' in _badge(model, "state")
    assert "200" in _badge(model, "response")
    model.stale = STALE
    assert 'aria-label="a: unknown"' in _badge(model, "state")
    assert "no data" in _badge(model, "response")
    # The share of 90 days stays true.
    assert "99.99" in _badge(model, "uptime")


@pytest.mark.parametrize(
    ("state", "same_as"), [("suspect", "unknown"), ("paused", "unknown"), ("recovering", "down")]
)
def test_no_badge_has_the_colour_of_up_but_that_of_up(state: str, same_as: str) -> None:
    def colours(state: str) -> list[str]:
        drawn = _badge(FewTargets([a_target("a", state)]), "state")
        return [part[:7] for part in drawn.split('fill="')[1:] if part.startswith("#")]

    assert colours(state) == colours(same_as) != colours("up")


@pytest.mark.parametrize("language", ["en", "it"])
async def test_the_page_of_a_target_says_that_older_observations_were_pruned(language: str) -> None:
    w = texts(language)
    assert w["pruned"] not in await _page(FewTargets([a_target("a")]), language)
    page = await _page(FewTargets([a_target("a")], details={"pruned": PrunedTime(AT, 1234)}), language)
    assert w["pruned"] in page
    assert w["pruned_announced"].format(n="1.234" if language == "it" else "1,234") in page
    assert f'<time datetime="{rfc3339(AT)}"' in page
