"""What spreadsheets and feed readers get of a real MailWatch."""

from __future__ import annotations

import csv
import io
import xml.etree.ElementTree as ET
from collections.abc import Iterator
from datetime import datetime

import pytest

from mailwatch.web.export import csv_response
from tests.helpers.leak_check import CANARIES, PASSWORD, running_with_canaries
from tests.helpers.process import MailWatchProcess
from tests.helpers.web_client import ask, basic

ATOM = "{http://www.w3.org/2005/Atom}"


@pytest.fixture(scope="module")
def public(tmp_path_factory: pytest.TempPathFactory) -> Iterator[MailWatchProcess]:
    """One with two mailboxes and their outages, in public."""
    with (
        running_with_canaries(tmp_path_factory.mktemp("public"), public=True) as (process, _),
        process.running(),
    ):
        process.wait_until(lambda: all(t["state"] == "up" for t in process.api("targets")), "up again")
        yield process


def rows(text: str) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(text)))


def test_outages_as_a_table(public: MailWatchProcess) -> None:
    status, headers, text = ask(public, "/api/v1/outages.csv", basic(PASSWORD))
    assert status == 200
    assert headers["content-type"] == "text/csv; charset=utf-8"
    assert headers["content-disposition"] == 'attachment; filename="outages.csv"'
    mine = rows(text)
    assert {row["target"] for row in mine} == {f"canary-address-{n}@example.org/imap" for n in (1, 2)}
    assert all(float(row["duration.min"]) <= float(row["duration.max"]) for row in mine)
    assert all(row["causes"].startswith("unavailable=") for row in mine)
    displayed = rows(ask(public, "/api/v1/outages.csv")[2])
    assert [row["first_bad"] for row in displayed] == [row["first_bad"] for row in mine]
    assert {(row["target"], row["vantage_point"], row["ledger.first"]) for row in displayed} == {
        ("lab imap 1", "", ""), ("lab imap 2", "", "")
    }  # fmt: skip


def test_observations_as_a_table(public: MailWatchProcess) -> None:
    assert ask(public, "/api/v1/observations.csv")[0] == 401
    asked = "/api/v1/observations.csv?outcome=down&limit=2&target=canary-address-1@example.org/imap"
    answer = rows(ask(public, asked, basic(PASSWORD))[2])
    assert [row["outcome"] for row in answer] == ["down", "down"]
    assert {row["failed_phase"] for row in answer} == {"auth"}
    assert float(answer[0]["phases.connect"]) >= 0
    page = ask(public, "/observations?outcome=down&from=2026-01-01", basic(PASSWORD))[2]
    link = "api/v1/observations.csv?outcome=down&amp;limit=10000&amp;from=2026-01-01T00%3A00%3A00.000Z"
    assert f'href="./{link}"' in page
    assert ask(public, "/" + link.replace("&amp;", "&"), basic(PASSWORD))[0] == 200


def test_no_server_reply_begins_a_spreadsheet_formula() -> None:
    row = {
        "detail": '=HYPERLINK("//evil.example","a")',
        "target": "+1",
        "phase": "\tx",
        "duration": -1.5,
        "up": True,
    }
    text = bytes(
        csv_response([row], ["detail", "target", "phase", "duration", "up", "none.of"], "x").body
    ).decode()
    assert text == (
        "detail,target,phase,duration,up,none.of\r\n"
        '"\'=HYPERLINK(""//evil.example"",""a"")",\'+1,\'\tx,-1.5,true,\r\n'
    )


def test_the_feed_lists_outages_without_naming_accounts(public: MailWatchProcess) -> None:
    status, headers, text = ask(public, "/outages.atom", {"Accept-Language": "it"})
    assert (status, headers["content-type"]) == (200, "application/atom+xml")
    assert not [word for word in CANARIES if word in text]
    feed = ET.fromstring(text)
    entries = feed.findall(f"{ATOM}entry")
    assert len(entries) == len(public.api("outages"))
    updated = [datetime.fromisoformat(one.findtext(f"{ATOM}updated", "")) for one in entries]
    assert datetime.fromisoformat(feed.findtext(f"{ATOM}updated", "")) == max(updated)
    for entry in entries:
        assert "Disservizio di lab imap" in entry.findtext(f"{ATOM}title", "")
        link = entry.find(f"{ATOM}link")
        assert link is not None
        assert ask(public, f"/{link.attrib['href']}")[0] == 200
    mine = ET.fromstring(ask(public, "/outages.atom", basic(PASSWORD))[2])
    assert "canary-address" in mine.findtext(f"{ATOM}entry/{ATOM}title", "")
    assert 'type="application/atom+xml"' in ask(public, "/")[2]
