"""The ledger page, rendered without a running MailWatch."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import cast

import pytest

from mailwatch.analysis.storage_budget import LedgerSizes, StorageBudget
from mailwatch.store.pruning import PrunedTime
from mailwatch.web.frame import Audience, Frame
from mailwatch.web.read_model import LedgerSummary, ReadModel
from mailwatch.web.reference_pages import ReferencePages
from mailwatch.web.templating import NO_BREAK
from tests.helpers.few_targets import FewTargets, a_request

SIZES = LedgerSizes(rows=1_234_567, packs=56_700_000, free=0, log=4_200_000, entries=7)


@dataclass
class _WithLedger(FewTargets):
    """A ledger that takes this much on disk."""

    storage: StorageBudget | None = None
    pruned: PrunedTime | None = None

    def ledger(self) -> LedgerSummary:
        return LedgerSummary(
            size=7, checkpoint=None, token=None, audit=None, storage=self.storage, pruned=self.pruned
        )


def page(storage: StorageBudget | None, language: str = "en", pruned: PrunedTime | None = None) -> str:
    request = a_request("/ledger", f"lang={language}")
    request.scope["state"] = {"change_token": "1"}
    frame = Frame(cast(ReadModel, _WithLedger([], storage=storage, pruned=pruned)), Audience())
    return bytes(ReferencePages(frame).ledger(request).body).decode().replace(NO_BREAK, " ")


@pytest.mark.parametrize(
    ("language", "texts"),
    [
        (
            "en",
            ["62 MB: 1.2 MB in rows, 57 MB in packs, 4.2 MB in the", "5.1 MB a day", "in 1,234 days, if nothing"],
        ),
        (
            "it",
            ["62 MB: 1,2 MB in righe, 57 MB in pacchi, 4,2 MB nel", "5,1 MB al giorno", "tra 1.234 giorni, se"],
        ),
    ],
)
def test_it_says_what_the_ledger_takes_on_disk_and_when_that_is_full(language: str, texts: list[str]) -> None:
    shown = page(StorageBudget(SIZES, 5_060_000, 1234.9), language)
    for text in texts:
        assert text in shown


@pytest.mark.parametrize(
    ("language", "text"), [("en", "but for those around outages; entry 1,234 announced it"), ("it", "voce 1.234")]
)
def test_it_says_what_was_pruned(language: str, text: str) -> None:
    assert text in page(None, language, PrunedTime(1_767_225_600_000, 1234))
    assert text not in page(None, language)


def test_it_says_what_is_not_known() -> None:
    assert page(StorageBudget(SIZES, None, None)).count("unknown until the ledger is a day old") == 2
    assert "not by the ledger" in page(StorageBudget(SIZES, 0.0, math.inf))
    assert "Size on disk" not in page(None)
