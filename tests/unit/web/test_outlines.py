"""The headings of pages are an outline: one first, none left out, and no more in a heading than its words."""

from __future__ import annotations

import re
from itertools import pairwise
from typing import Any, cast

import httpx
import pytest

from mailwatch.analysis.public_json import outage_json
from mailwatch.web.app import full_app
from mailwatch.web.frame import Audience
from mailwatch.web.read_model import LetterPreview, OutageDetail, ReadModel
from mailwatch.web.templating import texts
from tests.helpers.few_targets import AT, FewTargets, a_target
from tests.helpers.records import made_record

RECORD = made_record(last_good=AT, first_bad=AT, last_bad=AT, first_good=AT, target="a")


class WithLetter(FewTargets):
    """The data with an outage, and what a letter about it needs."""

    async def letter_preview(self, outage: str, language: str, formal: bool) -> LetterPreview:
        blank: Any = {"label": "name", "heading": ""}
        return {"addressee": "Italiaonline S.p.A.", "blanks": [blank], "warnings": ["Read it."]}

    def share_key(self) -> bytes:
        return b""


@pytest.mark.parametrize(
    ("path", "first", "others"),
    [
        ("/", "", ["latest_outages"]),
        ("/targets/a", "a", ["nav.outages"]),
        (f"/outages/{RECORD.id}", "a", ["bounds", "words", "guard", "transitions", "certain", "integrity"]),
        (f"/outages/{RECORD.id}/letter", "", ["letter.addressee", "letter.blanks"]),
        ("/outages", "", []),
        ("/outages/none", "", []),
    ],
)
async def test_the_headings_are_an_outline(path: str, first: str, others: list[str]) -> None:
    detail = OutageDetail(outage=RECORD, transitions=[], guard=None, clock_bound=None, range=None)
    model = WithLetter(
        [a_target("a")], outages_on_record=[{**outage_json(RECORD)}], outage_details={RECORD.id: detail}
    )
    app: Any = full_app(cast(ReadModel, model), Audience())
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://localhost") as client:
        text = (await client.get(path, headers={"accept": "text/html"})).text
    found = [
        (int(level), re.sub("<.*?>", "", words).strip())
        for level, words in re.findall(r"<h([1-6])[^>]*>(.*?)</h\1>", text, re.DOTALL)
    ]
    levels = [level for level, _ in found]
    assert levels.count(1) == 1
    assert levels[0] == 1
    assert all(after <= before + 1 for before, after in pairwise(levels))
    assert first in found[0][1]
    words: Any
    for key in others:
        words = texts("en")
        for part in key.split("."):
            words = words[part]
        assert (2, words) in found
