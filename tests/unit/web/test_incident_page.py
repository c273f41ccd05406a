"""The page of one incident, rendered without a running MailWatch."""

from __future__ import annotations

import json
from typing import Any, cast

import pytest

from mailwatch.times import rfc3339
from mailwatch.web.api import Api
from mailwatch.web.frame import Audience, Frame
from mailwatch.web.incident_page import MAX_STAGES, IncidentPages
from mailwatch.web.read_model import ReadModel
from tests.helpers.few_targets import AT, FewTargets, a_request


class OneIncident(FewTargets):
    """An incident of one outage, with so many changes."""

    changes = 1

    def incident(self, identity: str) -> dict[str, Any]:
        outage = {"id": "0" * 12, "target": "a", "kind": "imap", "state": "closed", "last_good": rfc3339(AT)}
        outage |= {"first_bad": rfc3339(AT), "last_bad": rfc3339(AT), "first_good": rfc3339(AT)}
        stage = {"at": rfc3339(AT), "targets_down": 1, "failed": ["a"], "restored": []}
        of_symptoms = {**stage, "failed": []}
        return outage | {
            "id": identity, "provider": "libero", "duration": {"min": 0.0, "max": 0.0}, "outages": [outage],
            "stages": [of_symptoms] * 300 + [stage] * self.changes,
        }  # fmt: skip


def page_text(model: OneIncident) -> str:
    request = a_request("/incidents/x")
    request.scope["state"] = {"change_token": "1"}
    return bytes(IncidentPages(Frame(cast(ReadModel, model), Audience())).incident(request, "x").body).decode()


class TwoPaused(OneIncident):
    """An incident that is over, as far as it is checked: of three targets that were down, two are paused."""

    def incident(self, identity: str) -> dict[str, Any]:
        found = super().incident(identity)
        (over,) = found["outages"]
        paused = over | {"state": "open", "first_good": None, "paused": True}
        outages = [over, paused | {"target": "b"}, paused | {"target": "c"}]
        stage = {"at": rfc3339(AT), "targets_down": 0, "failed": [], "restored": ["a"], "paused": ["b", "c"]}
        return found | {"state": "unwatched", "first_good": None, "outages": outages, "stages": [stage]}


def test_a_paused_target_is_named_and_is_neither_down_nor_up() -> None:
    text = page_text(TwoPaused([]))
    assert "<strong>Ended, 2 paused</strong>" in text
    assert "<dt>Still down</dt><dd>0 <small>2 paused</small></dd>" in text
    assert text.count('<span class="state paused"') == 3
    assert "▼" not in text


@pytest.mark.parametrize(("changes", "words"), [(MAX_STAGES, ""), (250, "The first 200 of 250 changes.")])
def test_the_page_says_that_the_list_of_changes_is_cut(changes: int, words: str) -> None:
    model = OneIncident([])
    model.changes = changes
    text = page_text(model)
    # Changes of the symptoms alone are not listed, and take no place.
    assert text.count('<span class="down">') == min(changes, MAX_STAGES)
    assert ("The first" in text) is bool(words)
    assert words in text


class Flapping(OneIncident):
    """An incident of many outages of one target, an outage each minute."""

    def __init__(self, outages: int) -> None:
        super().__init__([])
        self.outages_of_it = outages

    def incident(self, identity: str) -> dict[str, Any]:
        found = super().incident(identity)
        (one,), stage = found["outages"], found["stages"][-1]
        times = [rfc3339(AT + 60_000 * number) for number in range(self.outages_of_it)]
        names = ("last_good", "first_bad", "last_bad", "first_good")
        return found | {
            "outages": [
                one | {"id": f"{number:012x}", **dict.fromkeys(names, at)} for number, at in enumerate(times)
            ],
            "stages": [stage | {"at": at} for at in times],
        }


def test_an_answer_and_a_page_are_bounded_and_their_parts_are_all_of_an_incident() -> None:
    few, many = Flapping(80), Flapping(8000)
    small = Api(cast(ReadModel, few))._incident("x")
    assert json.loads(bytes(small.body)) == few.incident("x")
    assert "link" not in small.headers
    whole, found, part = many.incident("x"), list[dict[str, Any]](), 1
    while part:
        answer = Api(cast(ReadModel, many))._incident("x", part)
        assert len(answer.body) < 3 * len(small.body)
        json_of_part = json.loads(bytes(answer.body))
        assert (json_of_part["outages_total"], json_of_part["stages_total"]) == (8000, 8000)
        found.append(json_of_part)
        link = answer.headers.get("link", "")
        assert link in ("", f'<?part={part + 1}>; rel="next"')
        part = part + 1 if link else 0
    for key in ("outages", "stages"):
        assert [one for each in found for one in each[key]] == whole[key]
    assert len(page_text(many)) < 6 * len(page_text(few))
    assert page_text(many).count("<rect") < 1000
