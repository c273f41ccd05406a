"""The page of one outage, rendered without a running MailWatch."""

from __future__ import annotations

from typing import Any, cast

import pytest

from mailwatch.model import Cause, Outcome, Phase
from mailwatch.times import DAY_MS, Millis
from mailwatch.web.frame import Audience, Frame
from mailwatch.web.outage_page import OutagePage
from mailwatch.web.read_model import OutageDetail, OutageTransition, ReadModel
from mailwatch.web.templating import texts
from tests.helpers.few_targets import AT, FewTargets, a_request
from tests.helpers.records import made_record


def _page(end: Millis, **more: Any) -> str:
    record = made_record(last_good=AT, first_bad=AT, last_bad=end, first_good=end)
    facts: dict[str, Any] = {
        "outage": record,
        "transitions": [],
        "guard": None,
        "clock_bound": None,
        "range": None,
    }
    model = FewTargets([], outage_details={record.id: OutageDetail(**(facts | more))})
    frame = Frame(cast(ReadModel, model), Audience(public=True))
    return bytes(OutagePage(frame).outage(a_request("/outages/x"), record.id).body).decode()


@pytest.mark.parametrize(("end", "form"), [(AT + 1000, "clock"), (AT + 2 * DAY_MS, "date-minute")])
def test_the_form_of_the_marks_says_whether_they_have_a_date(end: Millis, form: str) -> None:
    page = _page(end)
    assert page.count(f'data-form="{form}"') == 4 + 4
    assert 'data-form="minute"' not in page


@pytest.mark.parametrize("is_cut", [False, True])
def test_the_page_says_that_the_list_of_changes_is_cut(is_cut: bool) -> None:
    assert (texts("en")["transitions_cut_public"] in _page(AT + 1000, is_cut=is_cut)) is is_cut


@pytest.mark.parametrize(("detail", "count"), [("connection refused", 1), ("connection refused: 10.0.0.1", 2)])
def test_a_detail_that_only_repeats_the_cause_is_left_out(detail: str, count: int) -> None:
    change = OutageTransition(AT, Outcome.DOWN, Cause.REFUSED, Phase.CONNECT, detail)
    assert _page(AT + 1000, transitions=[change]).count("connection refused") == count


@pytest.mark.parametrize("language", ["en", "it"])
def test_the_button_of_a_link_has_its_word(language: str) -> None:
    class WithLinks(FewTargets):
        def share_key(self) -> bytes:
            return b"key"

    record = made_record(last_good=AT, first_bad=AT, last_bad=AT, first_good=AT)
    detail = OutageDetail(outage=record, transitions=[], guard=None, clock_bound=None, range=None)
    frame = Frame(cast(ReadModel, WithLinks([], outage_details={record.id: detail})), Audience())
    answer = OutagePage(frame).outage(a_request("/outages/x", f"lang={language}"), record.id)
    page = bytes(answer.body).decode()
    assert f">{texts(language)['share']['copy']}</button>" in page
    assert "built-in method" not in page
