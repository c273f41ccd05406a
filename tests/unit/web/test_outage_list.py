"""The list of outages, rendered without a running MailWatch."""

from __future__ import annotations

import re
from typing import cast

import pytest

from mailwatch.web.frame import Audience, Frame
from mailwatch.web.outage_list import OutageList
from mailwatch.web.read_model import ReadModel
from mailwatch.web.templating import texts
from tests.helpers.few_targets import FewTargets, a_request, a_target


@pytest.mark.parametrize(
    ("asked", "is_public", "query", "words"),
    [
        ({}, False, "", "as_csv"),
        ({"target": "a b"}, False, "?target=a%20b", "as_csv"),
        # The API names a public target in another way, and filters by nothing else.
        ({"target": "Libero imap"}, True, "", "all_as_csv"),
        ({"provider": "libero"}, False, "", "all_as_csv"),
        ({"state": "open"}, True, "", "all_as_csv"),
        ({"target": "a b", "state": "open"}, False, "", "all_as_csv"),
    ],
)
def test_the_link_to_the_table_says_what_it_gives(
    asked: dict[str, str], is_public: bool, query: str, words: str
) -> None:
    frame = Frame(cast(ReadModel, FewTargets([a_target(asked.get("target", ""))])), Audience(public=is_public))
    page = bytes(OutageList(frame).outages(a_request("/outages"), page=1, **asked).body).decode()
    found = re.findall(r'href="\./api/v1/outages\.csv([^"]*)" download>([^<]*)<', page)
    assert found == [(query, texts("en")[words])]
