"""The report's row on our public addresses: what the entries of the range name, and nothing else."""

from __future__ import annotations

from typing import Any
from zoneinfo import ZoneInfo

import orjson
import pytest

from mailwatch.analysis.elapsed import Moment
from mailwatch.evidence.report.formatting import Rows, texts
from mailwatch.evidence.report.public_address import MAX_KEPT, MAX_SHOWN, PublicAddressFacts, public_address_rows
from mailwatch.i18n import Formatter
from mailwatch.store import Entry
from tests.helpers.report_cases import BEGIN

ENGLISH = Formatter("en", ZoneInfo("UTC"), False)


def entry(address: object, at: int = BEGIN, server: str = "a.example:3478") -> Entry:
    payload: dict[str, Any] = {"address": address, "at": at, "server": server, "clock": {"boot": "b", "at": at}}
    return Entry(0, "address", at, None, None, "{}", orjson.dumps(payload).decode())


def rows(*entries: Entry, reference: Moment | None = None) -> Rows:
    facts = PublicAddressFacts()
    for one in entries:
        facts.add(one, reference)
    return [[text.replace("\xa0", " ") for text in row] for row in public_address_rows(facts, ENGLISH)]


@pytest.mark.parametrize("language", ["en", "it"])
def test_an_address_that_is_not_on_record_is_named_as_not_recorded(language: str) -> None:
    w = texts(language)
    written = public_address_rows(PublicAddressFacts(), Formatter(language, ZoneInfo("UTC"), False))
    assert written == [[w["not_recorded"], w["not_recorded_text"]]]
    (address,) = {"public IP address", "indirizzo IP pubblico"} & set(w["not_recorded_text"].split(", "))
    # The other text is the same without it.
    assert w["not_recorded_rest"] == w["not_recorded_text"].replace(f"{address}, ", "")


def test_each_address_is_named_with_its_times_by_the_clock_of_the_outage() -> None:
    six = "2001:4860:4860::8844"
    found, rest = rows(
        entry("8.8.4.4"), entry(six, BEGIN + 60_000), entry("8.8.4.4", BEGIN + 120_000, "b.example:3478")
    )
    assert found == [
        "Public IP address",
        "8.8.4.4, on record 2 times, first 22 Jan 2026 20:55:00 UTC, last 22 Jan 2026 20:57:00 UTC. "
        f"{six}, on record once, 22 Jan 2026 20:56:00 UTC. "
        "As seen by a STUN server (not authenticated): a.example:3478, b.example:3478.",
    ]
    assert "public IP" not in rest[1]
    # The clock was set by an hour since: the times are those of the clock as it was at the outage.
    (found, _) = rows(entry("8.8.4.4"), reference=Moment(BEGIN + 3_600_000, BEGIN, "b"))
    assert "22 Jan 2026 21:55:00 UTC" in found[1]


@pytest.mark.parametrize("address", [None, 7, "", "the provider's fault", ["8.8.4.4"], "8.8.4.4/8"])
def test_what_is_no_address_is_not_printed(address: object) -> None:
    (found, _) = rows(entry("8.8.4.4"), entry(address, server="x.example:1"))
    assert found[1].startswith("8.8.4.4, on record once")
    assert found[1].endswith("a.example:3478. Entries about it that are not disclosed here: 1.")


def test_an_entry_whose_payload_is_not_disclosed_is_counted() -> None:
    (found, _) = rows(Entry(0, "address", BEGIN, None, None, "{}", "{}"))
    assert found[1] == "Entries about it that are not disclosed here: 1."


def test_many_addresses_are_bounded() -> None:
    many = [entry(f"8.{n >> 8}.{n & 255}.1", BEGIN + n) for n in range(MAX_KEPT + 5)]
    (found, _) = rows(*many)
    assert found[1].count("on record once") == MAX_SHOWN
    assert f"Further addresses: {MAX_KEPT - MAX_SHOWN}." in found[1]
