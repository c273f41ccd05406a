"""The overview as it is rendered: headline, cards, and rows that are rendered once until something changes."""

from __future__ import annotations

from typing import Any, cast

import pytest

from mailwatch.guard.attribution import FaultAttribution
from mailwatch.model import ConnectivityResult
from mailwatch.times import DAY_MS, rfc3339
from mailwatch.web.frame import Audience, Frame
from mailwatch.web.overview import OverviewQuery
from mailwatch.web.overview_page import MOST_CARDS, OverviewPage
from mailwatch.web.overview_row import RENEWED_MS, RowCache
from mailwatch.web.read_model import ReadModel
from mailwatch.web.templating import texts
from tests.helpers.few_targets import AT, FewTargets, a_request, a_target


def _page(model: FewTargets, language: str = "en", *, public: bool = False) -> str:
    frame = Frame(cast(ReadModel, model), Audience(public=public))
    return OverviewPage(frame).render(a_request(), language, OverviewQuery()).replace("\u00a0", " ")


@pytest.mark.parametrize(("language", "words"), [("en", "Down since"), ("it", "Interrotta dal")])
def test_our_own_line_down_is_the_headline_once_and_in_the_readers_language(language: str, words: str) -> None:
    model = FewTargets([a_target("a", "unknown"), a_target("b", "down", "tim")], own_line_down=AT - DAY_MS)
    page = _page(model, language)
    assert page.count(f"<h1>{texts(language)['headline']['offline']}</h1>") == 1
    assert words in page
    # To visitors it is not their own line.
    assert f"<h1>{texts(language)['headline_public']}</h1>" in _page(model, language, public=True)


def test_the_line_is_down_from_the_first_answer_that_says_so_until_one_that_does_not() -> None:
    attribution = FaultAttribution(None, None)

    def answer(at: int, online: bool | None) -> int | None:
        attribution.note_line(ConnectivityResult(asked_at=at, online=online))
        return attribution.offline_since

    assert [answer(at, online) for at, online in enumerate((True, False, False, None, False, True))] == [
        None, 1, 1, None, 4, None,
    ]  # fmt: skip


def test_a_provider_that_is_down_has_a_card_with_its_name_and_since_when() -> None:
    down = [a_target(name, "down", cause="refused", outage="0" * 12) for name in ("a", "b")]
    page = _page(FewTargets([*down, a_target("c", provider="tim")], {"a": AT, "b": AT + 1}), "it")
    assert "Non funzionano 2 servizi di posta su 3" in page
    assert "<b>Libero</b><span>2 su 2 non funzionano" in page
    assert "<b>TIM</b><span>1 su 1 funziona" in page
    assert page.count("connessione rifiutata") == 2
    one = _page(FewTargets([down[0], a_target("c", provider="tim")]), "en")
    assert "<h1>1 of 2 mail services is down</h1>" in one


def test_a_row_says_how_much_was_observed_and_never_all_for_less() -> None:
    page = _page(FewTargets([a_target("lab.example/imap")]))
    assert ">99.99 %</span><small>50 % observed</small>" in page
    assert ">300 ms</td>" in page
    assert 'aria-label="Response time over the last 24 hours: 100 ms to 200 ms"' in page
    # One provider needs neither cards nor groups.
    assert 'class="providers"' not in page
    assert 'class="group' not in page


def test_many_providers_are_behind_a_disclosure() -> None:
    targets = [a_target(f"t{number}", provider=f"p{number:02}.example") for number in range(MOST_CARDS + 3)]
    assert "3 more providers" in _page(FewTargets(targets))
    assert "more providers" not in _page(FewTargets(targets[:MOST_CARDS]))


def test_a_row_is_rendered_once_until_its_target_changes_or_time_has_passed() -> None:
    model = FewTargets([])
    rows = RowCache(cast(ReadModel, model), linked=lambda: True)
    target: Any = a_target("a b/imap")
    first = rows.row(target, None, AT, "en")
    assert 'href="targets/a%20b/imap"' in first
    assert rows.row(dict(target), None, AT, "en") is first  # type: ignore[arg-type]
    assert model.cards == 1
    assert rows.row(target, None, AT, "it") != first
    checked: Any = target | {"last_observation": rfc3339(AT + 60_000)}
    assert "11:01:00" in rows.row(checked, None, AT, "en")
    assert rows.row(checked, None, AT + RENEWED_MS, "en") == rows.row(checked, None, AT, "en")
    failed: Any = checked | {"state": "down", "cause": "<b>", "outage": "0" * 12}
    assert "connection" not in rows.row(failed, AT, AT, "en")
    assert "<b>" not in rows.row(failed, AT, AT, "en")
    assert "since" in rows.row(failed, AT, AT, "en")


@pytest.mark.parametrize(
    ("name", "address"),
    [
        ("a b/imap", "a%20b/imap"),
        ("a/../b", "a%2F..%2Fb"),
        ("./é", ".%2F%C3%A9"),
        ("...", "..."),
        (".", "%2F."),
        ("..", "%2F.."),
        ("/..", "%2F%2F.."),
    ],
)
def test_no_part_of_a_name_is_resolved_in_the_address_of_its_page(name: str, address: str) -> None:
    rows = RowCache(cast(ReadModel, FewTargets([])), linked=lambda: True)
    target: Any = a_target(name)
    assert f'href="targets/{address}"' in rows.row(target, None, AT, "en")
