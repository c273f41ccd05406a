"""The pseudonyms of the public view."""

from __future__ import annotations

from typing import Any, cast

from mailwatch.web.public import FORMER, PublicReadModel
from mailwatch.web.read_model import ReadModel
from tests.helpers.few_targets import AT, FewTargets, a_target


def _public(*found: dict[str, Any], outages: tuple[tuple[str, str], ...] = ()) -> PublicReadModel:
    on_record = [
        {"id": f"{number:012}", "target": name, "provider": provider, "kind": "imap", "state": "closed"}
        for number, (name, provider) in enumerate(outages)
    ]
    return PublicReadModel(cast(ReadModel, FewTargets(list(found), outages_on_record=on_record)), b"secret")


def test_outages_of_a_target_that_was_removed_are_not_those_of_the_watched_one() -> None:
    public = _public(a_target("mine"), outages=(("removed", "libero"), ("mine", "libero"), ("other", "libero")))
    former = f"libero imap {FORMER}"
    assert [one["target"] for one in public.outages()] == [former, "libero imap", former]
    assert [one["target"] for one in public.recent_outages(9)] == [former, "libero imap", former]
    assert public.unknown_reason(former) == ""
    detail = public.target_detail(former, AT)
    assert detail is not None
    assert (detail.is_watched, len(detail.outages)) == (False, 2)


def test_a_pseudonym_is_one_part_of_a_path_and_names_one_target() -> None:
    public = _public(a_target("a", provider="x/y"), a_target("b", provider="x-y"), outages=(("c", "../z"),))
    assert [one["target"] for one in public.targets()] == ["x-y imap 1", "x-y imap 2"]
    assert [one["target"] for one in public.outages()] == [f"..-z imap {FORMER}"]
