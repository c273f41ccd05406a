"""The pages of a real MailWatch that lived through an outage of a real Dovecot."""

from __future__ import annotations

import io
import json
import re
import urllib.error
import urllib.request
import zipfile
from collections.abc import Iterator
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast
from zoneinfo import ZoneInfo

import pytest
from starlette.requests import Request

from mailwatch.analysis.rolling_availability import AvailabilityRatio, DayAvailability
from mailwatch.i18n import format_duration
from mailwatch.store import Reader, queries
from mailwatch.times import DAY_MS, HOUR_MS, now, parse_rfc3339
from mailwatch.web import charts
from mailwatch.web.charts import day_bars, day_state
from mailwatch.web.frame import Audience, Frame
from mailwatch.web.observation_filter import MAX_SCANNED_ENTRIES, ObservationFilter, page_of
from mailwatch.web.overview import OverviewQuery, headline
from mailwatch.web.overview_page import OverviewPage
from mailwatch.web.read_model import ObservationQuery, ReadModel, TargetCard
from mailwatch.web.templating import (
    breakable,
    choose_language,
    format_brief,
    format_share,
    template_environment,
    texts,
    zone_text,
)
from mailwatch.web.templating import format_duration as written
from tests.helpers.ledger_factory import MINUTE, Pattern, write
from tests.helpers.patience import PATIENCE
from tests.helpers.process import MailWatchProcess
from tests.servers.authority import Authority

DEAD_TARGET = {"name": "nobody", "kind": "imap", "host": "127.0.0.1", "port": 1, "tls": "none"}
PAGES = ("/", "/outages", "/incidents", "/observations", "/ledger", "/about", "/api/docs")


@pytest.fixture(scope="module")
def web(recorded_outage: tuple[MailWatchProcess, Authority, str]) -> Iterator[tuple[MailWatchProcess, str]]:
    """A MailWatch that runs again after its outage, and the outage's id."""
    process, _, identity = recorded_outage
    with process.running():
        yield process, identity


@pytest.fixture(scope="module")
def still(tmp_path_factory: pytest.TempPathFactory) -> Iterator[MailWatchProcess]:
    """A MailWatch with 250 observations behind it, that has probed once more and will not for hours."""
    folder, end = tmp_path_factory.mktemp("still"), now() - HOUR_MS
    patterns: dict[str, Pattern] = {"nobody": lambda _: "+"}
    write(folder / "data", patterns, end - 250 * MINUTE, end, vantage="test", durable=False).close()
    with MailWatchProcess(
        folder, [DEAD_TARGET | {"interval": "1h"}], detection={"recheck": ["1h"]}
    ).running() as process:
        process.wait_until(lambda: process.count("nobody", "down") == 1, "an observation")
        yield process


def _get(process: MailWatchProcess, path: str, **headers: str) -> tuple[int, Any, str]:
    request = urllib.request.Request(f"http://127.0.0.1:{process.port}{path}", headers=headers)
    try:
        with urllib.request.urlopen(request, timeout=PATIENCE) as answer:
            return answer.status, answer.headers, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.headers, error.read().decode()


def _shape(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _shape(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_shape(item) for item in value]
    return sorted(re.findall(r"{\w*}", str(value)))


def test_both_languages_have_the_same_words() -> None:
    english, italian = texts("en"), texts("it")
    shapes = [
        _shape({k: v for k, v in w.items() if k not in ("language", "other_code")}) for w in (english, italian)
    ]
    assert shapes[0] == shapes[1]


@pytest.mark.parametrize(
    ("asked", "kept", "accepted", "chosen"),
    [
        ("", "", "", "en"),
        ("", "", "it-IT,it;q=0.9,en;q=0.8", "it"),
        ("", "", "de, en;q=0.5, it;q=0.7", "it"),
        ("", "", "it;q=much, en", "en"),
        ("en", "it", "it", "en"),
        ("xx", "it", "en", "it"),
        ("../../etc", "<script>", "fr", "en"),
    ],
)
def test_the_language_comes_from_the_query_then_the_cookie_then_the_browser(
    asked: str, kept: str, accepted: str, chosen: str
) -> None:
    assert choose_language(asked, kept, accepted) == chosen


@pytest.mark.parametrize("page", PAGES)
@pytest.mark.parametrize("language", ["en", "it"])
def test_each_page_answers_in_both_languages_with_nothing_from_elsewhere(
    web: tuple[MailWatchProcess, str], page: str, language: str
) -> None:
    status, headers, text = _get(web[0], page, **{"Accept-Language": language})
    assert status == 200
    assert f'<html lang="{language}"' in text
    assert texts(language)["skip"] in text
    assert "'unsafe" not in headers["content-security-policy"]
    assert "default-src 'none'" in headers["content-security-policy"]
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["referrer-policy"] == "no-referrer"
    assert not re.search(r"<style|<script>|\sstyle=|\son\w+=|(?:src|href)=\"(?:https?:)?//", text)


def test_the_overview_says_how_mail_is_and_shows_ninety_days(web: tuple[MailWatchProcess, str]) -> None:
    process, identity = web
    process.wait_until(lambda: process.state("lab-imap") == "up", "up again")
    all_up = f"<h1>{texts('en')['headline']['all_up']}</h1>"

    def shown() -> str:
        text = _get(process, "/")[2]
        return text if all_up in text and text.count('class="bars"') == 2 else ""

    text = process.wait_until(shown, "all up, with ninety days of both")
    assert f"outages/{identity}" in text
    # A line of response times for each, from the ledger or from this run.
    assert text.count('class="spark"') == 2


def test_the_overview_lists_what_the_address_asks_for(web: tuple[MailWatchProcess, str]) -> None:
    process, _ = web
    assert "lab-<wbr>imap" in _get(process, "/?q=IMAP+lab")[2]
    assert texts("it")["nothing_found"] in _get(process, "/?q=nothing&lang=it")[2]
    assert texts("en")["nothing_found"] in _get(process, "/?state=paused")[2]
    assert texts("en")["nothing_found"] in _get(process, "/?provider=libero")[2]
    assert "&lt;script&gt;" in _get(process, "/?q=%3Cscript%3E")[2]
    for query in ("state=wrong", "page=0", "q=" + "x" * 201):
        assert _get(process, f"/?{query}")[0] == 422
    page = _get(process, "/?q=lab&state=up&collapse=&theme=light")[2]
    assert 'href="?q=lab&amp;state=up&amp;collapse=&amp;lang=it"' in page


@pytest.mark.parametrize(
    ("language", "words"),
    [("en", "MailWatch does not check our own line"), ("it", "MailWatch non controlla la nostra linea")],
)
def test_the_overview_says_that_the_guard_is_off(
    web: tuple[MailWatchProcess, str], language: str, words: str
) -> None:
    assert words in web[0].get(f"/?lang={language}")


def test_the_outage_page_shows_bounds_replies_and_proof(web: tuple[MailWatchProcess, str]) -> None:
    process, identity = web
    outage = next(o for o in process.api("outages") if o["id"] == identity)
    status, _, text = _get(process, f"/outages/{identity}")
    assert status == 200
    for key in charts.TIMES:
        assert f'datetime="{outage[key]}"' in text
    # The bounds and the changes of the same observations bear the same times.
    for key in ("last_good", "first_bad", "first_good"):
        assert text.count(f'<time datetime="{outage[key]}" title') >= 2, key
    assert f"entries {outage['ledger']['first']} to {outage['ledger']['last']}" in text
    assert "connection refused" in text
    assert "covering the first" in text
    assert "evidence.zip" in text


def test_the_evidence_file_of_the_page_is_valid(web: tuple[MailWatchProcess, str], tmp_path: Path) -> None:
    process, identity = web
    with urllib.request.urlopen(
        f"http://127.0.0.1:{process.port}/api/v1/outages/{identity}/evidence.zip?lang=it", timeout=PATIENCE
    ) as answer:
        content = answer.read()
    assert "report.pdf" in zipfile.ZipFile(io.BytesIO(content)).namelist()
    (tmp_path / "evidence.zip").write_bytes(content)
    assert process.command("verify", str(tmp_path / "evidence.zip")).returncode == 0
    process.wait_until(lambda: list((process.data_dir / "making").iterdir()) == [], "nothing left behind")


def test_other_sites_cannot_have_evidence_made_and_unknown_outages_have_none(
    web: tuple[MailWatchProcess, str],
) -> None:
    process, identity = web
    assert _get(process, f"/api/v1/outages/{identity}/evidence.zip", **{"Sec-Fetch-Site": "cross-site"})[0] == 403
    assert _get(process, "/api/v1/outages/000000000000/evidence.zip")[0] == 409
    assert _get(process, "/api/v1/outages/--help/evidence.zip")[0] == 404
    assert _get(process, "/outages/nothing")[0] == 404


def test_query_parameters_are_escaped_and_bounded(web: tuple[MailWatchProcess, str]) -> None:
    status, _, text = _get(web[0], "/observations?from=%22%3E%3Cscript%3E&target=%3Cb%3E&lang=it")
    assert status == 200
    assert "<script>" not in text
    assert texts("it")["bad_filter"] in text
    assert _get(web[0], "/observations?target=" + "x" * 300)[0] == 422
    assert _get(web[0], "/outages?page=0")[0] == 422
    assert _get(web[0], "/static/..%2fapp.py")[0] == 404


def test_observations_are_filtered(web: tuple[MailWatchProcess, str]) -> None:
    process, identity = web
    assert "<code>" not in _get(process, "/observations?target=lab-imap&outcome=up")[2]
    assert texts("en")["no_observations"] in _get(process, "/observations?to=2020-01-01")[2]
    assert texts("en")["no_observations"] in _get(process, "/observations?outcome=unknown")[2]
    assert (
        texts("it")["backwards"].partition("'")[0]
        in _get(process, "/observations?from=2026-02-01&to=2026-01-01&lang=it")[2]
    )
    outage = next(o for o in process.api("outages") if o["id"] == identity)
    page = _get(process, "/observations?target=lab-imap&outcome=down")[2]
    assert page.count('<tr role="row"><td') == outage["observations"]["down"]
    downs = process.api("observations?target=lab-imap&outcome=down")
    assert {observation["outcome"] for observation in downs} == {"down"}
    assert page.count(f'datetime="{downs[-1]["started_at"]}"') == 1
    older = process.api(f"observations?target=lab-imap&before={downs[-1]['index']}&limit=1")
    assert [observation["outcome"] for observation in older] == ["up"]
    assert _get(process, "/observations?outcome=wrong")[0] == 422
    assert _get(process, "/api/v1/observations?before=-1")[0] == 422


def test_the_pages_reach_back_to_the_first_observation(still: MailWatchProcess) -> None:
    query, seen, sizes = "from=2020-01-01&lang=it", list[str](), list[int]()
    while query:
        page = _get(still, f"/observations?{query}")[2]
        assert ("data-pulse" in page) is (not seen)
        displayed = re.findall(r'<tr role="row"><td[^>]*><time datetime="([^"]*)"', page)
        seen += displayed
        sizes.append(len(displayed))
        [query] = re.findall(r'href="\?([^"]*)" rel="next"', page) or [""]
        assert not query or query.startswith("from=2020-01-01&amp;before=")
        query = query.replace("&amp;", "&")
    assert sizes == [100, 100, 51]
    assert seen == [observation["started_at"] for observation in still.api("observations?limit=1000")]


def test_a_rare_outcome_is_searched_a_part_of_the_ledger_at_a_time() -> None:
    ledger = [
        {"index": index, "outcome": "down" if index == 7 else "up"} for index in range(2 * MAX_SCANNED_ENTRIES)
    ]

    def observations(query: ObservationQuery) -> list[Any]:
        part = ledger[query.after or 0 : query.before]
        return [each for each in part[::-1] if query.outcome in (None, each["outcome"])][: query.limit]

    asked = ObservationFilter("", "down", "", "")
    found, older = page_of(observations, asked, None)
    assert (found, older) == ([], MAX_SCANNED_ENTRIES - 1)
    found, older = page_of(observations, asked, older)
    assert ([observation["index"] for observation in found], older) == ([7], None)
    assert page_of(observations, asked, 0) == ([], None)


def _asked_for(process: MailWatchProcess, what: str) -> tuple[int, Any]:
    status, _, text = _get(process, f"/api/v1/{what}")
    return status, json.loads(text)


WINDOW = "from=2026-01-01T00:00:00Z&to=2030-01-01T00:00:00Z"


@pytest.mark.parametrize(
    "what", ["outages?", "outages.csv?", "observations?", "observations.csv?", f"availability?{WINDOW}&"]
)
def test_a_target_that_never_was_is_refused_wherever_one_is_asked_for(
    web: tuple[MailWatchProcess, str], what: str
) -> None:
    status, body = _asked_for(web[0], f"{what}target=lab-inap")
    assert (status, body["detail"].partition(";")[0]) == (
        404,
        "there is no target 'lab-inap', in the config or on record",
    )
    assert "lab-imap" in body["detail"].partition("; is it ")[2]
    status, body = _asked_for(web[0], f"{what}target=qqq")
    assert (status, body["detail"].partition("; ")[2][:9]) == (404, "there are")
    assert "lab-imap" in body["detail"]


def test_outages_are_those_of_the_target_that_is_asked_for(web: tuple[MailWatchProcess, str]) -> None:
    process, identity = web
    outages = process.api("outages")
    name = next(one["target"] for one in outages if one["id"] == identity)
    mine = process.api(f"outages?target={name}")
    assert [one["id"] for one in mine] == [one["id"] for one in outages if one["target"] == name]
    other = next(one["target"] for one in process.api("targets") if one["target"] != name)
    assert identity not in [one["id"] for one in process.api(f"outages?target={other}")]
    assert identity in _get(process, f"/api/v1/outages.csv?target={name}")[2]
    assert identity not in _get(process, f"/api/v1/outages.csv?target={other}")[2]
    assert identity in _get(process, f"/outages?target={name}")[2]
    assert identity not in _get(process, f"/outages?target={other}")[2]


@pytest.mark.parametrize(
    ("what", "advice"),
    [
        ("outages?targt=x", "is it target?"),
        ("outages.csv?limit=5", "there are from, open, target, to"),
        ("incidents?target=x", "there are before, from, limit, open, to"),
        ("observations?outcmoe=down", "is it outcome?"),
        ("targets?kind=imap", "there is none"),
    ],
)
def test_a_parameter_that_is_not_known_is_refused(
    web: tuple[MailWatchProcess, str], what: str, advice: str
) -> None:
    status, body = _asked_for(web[0], what)
    name = what.partition("?")[2].partition("=")[0]
    assert (status, body) == (422, {"detail": f"there is no parameter {name!r}; {advice}"})


@pytest.mark.parametrize("page", ["outages", "observations"])
@pytest.mark.parametrize("language", ["en", "it"])
def test_a_page_says_that_there_is_no_such_target(
    web: tuple[MailWatchProcess, str], page: str, language: str
) -> None:
    status, _, text = _get(web[0], f"/{page}?target=%3Ctpyo%3E&lang={language}")
    assert status == 200
    # As it stands in the page: escaped.
    reply = texts(language)["no_target"].replace("'", "&#39;").format(name="&lt;tpyo&gt;")
    assert reply in text
    assert texts(language)["no_observations"] not in text
    assert texts(language)["no_outages"] not in text
    assert texts(language)["no_target"].partition("{")[0] not in _get(web[0], f"/{page}?target=lab-imap")[2]


def test_an_outage_names_the_service_but_never_the_account(web: tuple[MailWatchProcess, str]) -> None:
    process, identity = web
    settings = process.api(f"outages/{identity}")["watch"]
    assert {"kind", "provider", "host", "port", "tls", "interval", "timeout", "catalogue", "own_ca", "rules"} == (
        settings.keys()
    )
    assert settings["rules"].keys() == {"open_after", "close_after", "recheck"}
    assert next(o for o in process.api("outages") if o["id"] == identity)["watch"] == settings


def test_the_other_language_keeps_the_filter(web: tuple[MailWatchProcess, str]) -> None:
    page = _get(web[0], "/observations?target=lab-imap&lang=en&from=%22%3E")[2]
    assert 'href="?target=lab-imap&amp;from=%22%3E&amp;lang=it"' in page
    # The overview is drawn once for all: what one asked for is not shown to others.
    assert 'href="?lang=it"' in _get(web[0], "/?canary=1")[2]


def test_a_chosen_language_is_remembered(web: tuple[MailWatchProcess, str]) -> None:
    _, headers, _ = _get(web[0], "/?lang=it")
    cookie = headers["set-cookie"].partition(";")[0]
    assert '<html lang="it"' in _get(web[0], "/about", Cookie=cookie)[2]


def test_a_chosen_theme_is_remembered_until_the_system_decides_again(web: tuple[MailWatchProcess, str]) -> None:
    _, headers, page = _get(web[0], "/outages?target=lab-imap&theme=dark")
    assert ' data-theme="dark"' in page
    # The links to the other themes and to the other language keep the rest of the query.
    assert 'href="?target=lab-imap&amp;theme=light"' in page
    assert 'href="?target=lab-imap&amp;lang=it"' in page
    cookie = headers["set-cookie"].partition(";")[0]
    assert ' data-theme="dark"' in _get(web[0], "/", Cookie=cookie)[2]
    _, headers, page = _get(web[0], "/?theme=auto", Cookie=cookie)
    assert "data-theme" not in page
    assert "max-age=0" in headers["set-cookie"].lower()
    assert "data-theme" not in _get(web[0], "/?theme=%22pink", Cookie=cookie)[2]


def test_the_pages_can_be_installed_as_an_app(web: tuple[MailWatchProcess, str]) -> None:
    status, headers, text = _get(web[0], "/manifest.webmanifest")
    assert (status, headers["content-type"]) == (200, "application/manifest+json")
    icons = json.loads(text)["icons"]
    assert {icon.get("purpose") for icon in icons} == {None, "maskable"}
    for icon in (*[icon["src"] for icon in icons], "favicon.ico", "static/apple-touch-icon.png"):
        with urllib.request.urlopen(f"http://127.0.0.1:{web[0].port}/{icon}", timeout=PATIENCE) as answer:
            assert answer.headers["content-type"].startswith("image/")
            # A path with the digest of the content never changes.
            assert ("immutable" in answer.headers["cache-control"]) is ("?v=" in icon)


def test_the_page_is_notified_of_changes(web: tuple[MailWatchProcess, str]) -> None:
    with urllib.request.urlopen(f"http://127.0.0.1:{web[0].port}/live", timeout=PATIENCE) as stream:
        assert stream.headers["content-type"].startswith("text/event-stream")
        lines = iter(stream.readline, b"")
        assert any(line == b"event: changed\n" for line in lines)


def _first(process: MailWatchProcess, path: str, **headers: str) -> list[str]:
    """The first thing that a stream says after how long to wait."""
    request = urllib.request.Request(f"http://127.0.0.1:{process.port}{path}", headers=headers)
    with urllib.request.urlopen(request, timeout=PATIENCE) as stream:
        return ["".join(iter(lambda: stream.readline().decode(), "\n")) for _ in range(2)]


def test_a_new_listener_is_sent_pending_changes_at_once(still: MailWatchProcess) -> None:
    [seen] = re.findall(r'data-pulse="([^"]+)"', _get(still, "/")[2])
    assert re.findall(r'data-pulse="([^"]+)"', _get(still, "/outages")[2]) == [seen]
    news = ["retry: 5000\n", f"id: {seen}\nevent: changed\ndata: {seen}\n"]
    quiet = ["retry: 5000\n", ": \n"]
    assert _first(still, f"/live?seen={seen}") == quiet
    assert _first(still, "/live") == quiet
    assert _first(still, "/live?seen=older") == news
    # A browser that comes back says by itself what it received last.
    assert _first(still, f"/live?seen={seen}", **{"Last-Event-ID": "older"}) == news
    assert _first(still, "/live?seen=older", **{"Last-Event-ID": seen}) == quiet


def test_an_open_outage_is_as_its_replay_without_a_live_one(tmp_path: Path) -> None:
    once = {"open_after": 1, "recheck": ["1h"]}
    with MailWatchProcess(tmp_path, [DEAD_TARGET | {"interval": "1h"}], detection=once).running() as process:
        outage = process.wait_until(lambda: process.api("outages"), "an open outage")
        reader = Reader.open(process.data_dir)
        assert queries.outages(reader) == outage
        [record] = queries.outage_records(reader)
        live = {record.id: replace(record, last_bad=record.last_bad + 1)}
        # What is followed live is not read out of the ledger again, which takes a second for 10,000 observations.
        assert queries.outage_records(reader, live=live) == [*live.values()]
        assert queries.incidents(reader, live=live)[0].last_bad == record.last_bad + 1
        assert queries.outage_records(reader, live={"another": record}) == [record]
        reader.close()
        assert f"outages/{outage[0]['id']}" in _get(process, "/outages")[2]
        assert _get(process, f"/outages/{outage[0]['id']}")[2].count(outage[0]["last_bad"]) >= 2


def test_a_page_that_changes_no_more_is_not_asked_for_again(web: tuple[MailWatchProcess, str]) -> None:
    process, identity = web
    for page in ("/", "/outages", "/incidents", "/observations", "/ledger"):
        assert "data-pulse" in _get(process, page)[2], page
    for page in ("/about", "/api/docs", "/outages/none", f"/outages/{identity}"):
        assert "data-pulse" not in _get(process, page)[2], page


def test_links_keep_the_prefix_of_a_proxy(web: tuple[MailWatchProcess, str]) -> None:
    process, identity = web
    for page in (*PAGES, f"/outages/{identity}"):
        depth = page.count("/") - 1
        for link in re.findall(r'(?:href|src|data-stream)="([^"]*)"', _get(process, page)[2]):
            assert not link.startswith("/"), (page, link)
            assert link.count("../") == depth or link.startswith(("?", "#")), (page, link)


@pytest.mark.parametrize(
    ("spent", "expected"),
    [
        ((0, 0, 0, 0), "nodata"),
        ((DAY_MS, 0, 0, 0), "up"),
        ((DAY_MS - 2, 1, 1, 0), "down"),
        ((DAY_MS - 1, 0, 1, 0), "unknown"),
        ((DAY_MS // 2, 0, 0, DAY_MS // 2), "maintenance"),
    ],
)
def test_the_states_of_a_day_differ_in_shape_too(spent: tuple[int, int, int, int], expected: str) -> None:
    day = DayAvailability(0, DAY_MS, *spent)
    assert day_state(day) == expected
    shapes = {
        (b.y, b.height, b.state == "maintenance")
        for b in day_bars(
            [
                DayAvailability(0, DAY_MS, DAY_MS, 0, 0, 0),
                DayAvailability(0, DAY_MS, 0, 1, 0, 0),
                DayAvailability(0, DAY_MS, 0, 0, 1, 0),
                DayAvailability(0, DAY_MS, 0, 0, 0, 1),
                DayAvailability(0, DAY_MS, 0, 0, 0, 0),
            ]
        )
    }
    assert len(shapes) == 5


def test_a_day_with_few_observations_is_drawn_narrow() -> None:
    whole, part = day_bars(
        [DayAvailability(0, DAY_MS, DAY_MS, 0, 0, 0), DayAvailability(0, DAY_MS, DAY_MS // 2, 0, 0, 0)]
    )
    assert part.width < whole.width


def test_of_an_unobserved_day_no_downtime_is_written() -> None:
    seen, excused, unseen = day_bars(
        [
            DayAvailability(0, DAY_MS, DAY_MS, 0, 0, 0),
            DayAvailability(0, DAY_MS, 0, 0, 0, DAY_MS),
            DayAvailability(0, DAY_MS, 0, 0, 0, 0),
        ]
    )
    assert (seen.down, excused.down, unseen.down) == (0, None, None)


def test_timeline_marks_are_in_order_and_do_not_overlap() -> None:
    placed = charts.timeline_marks((1000, 1001, 1001, 9_000_000))
    assert all(b.x - a.x >= 20 for a, b in pairwise(placed))
    assert 0 < placed[0].x < placed[-1].x < charts.WIDTH
    assert [s.state for s in charts.timeline_segments(placed)] == [
        "up",
        "undecided",
        "down",
        "undecided",
        "up",
    ]
    of_an_open_one = charts.timeline_marks((None, 1001, 1001, None))
    assert charts.timeline_segments(of_an_open_one)[-1].state == "undecided"


@pytest.mark.parametrize(
    ("seconds", "least", "most"),
    [
        (0, "0 s", "0 s"),
        (0.0001, "<1 ms", "1 ms"),
        (0.0123, "12 ms", "13 ms"),
        (2.3, "2.3 s", "2.3 s"),
        (59.96, "59.9 s", "1 min"),
        (303.2, "5 min 3 s", "5 min 4 s"),
        (3599.5, "59 min 59 s", "1 h"),
        (3600, "1 h", "1 h"),
        (93_784, "1 d 2 h 3 min", "1 d 2 h 4 min"),
        (431_999, "4 d 23 h 59 min", "5 d"),
    ],
)
def test_durations_for_people_say_no_more_than_is_known(seconds: float, least: str, most: str) -> None:
    assert (format_duration(seconds), format_duration(seconds, round_up=True)) == (least, most)


def test_a_share_says_no_more_than_is_known() -> None:
    assert (format_share("en", 0.999_999_9), format_share("en", 0.999_999_9, up=True)) == (
        "99.999\u00a0%",
        "100.000\u00a0%",
    )
    assert (format_share("en", 0.5000049), format_share("en", 0.5000041, up=True)) == (
        "50.000\u00a0%",
        "50.001\u00a0%",
    )
    assert (format_share("en", 1.0), format_share("en", 0.0), format_share("en", 1e-9)) == (
        "100\u00a0%",
        "0\u00a0%",
        "0.000\u00a0%",
    )
    assert format_share("it", None) == "–"


def test_italian_is_written_as_italians_write() -> None:
    assert (format_share("it", 0.97), written("it", 25.7)) == ("97,000\u00a0%", "25,7\u00a0s")
    assert written("it", 93_784, up=True) == "1 g 2 h 4 min".replace(" ", "\u00a0")
    environment = template_environment("it", ZoneInfo("Europe/Rome"))
    assert environment.from_string("{{ 0.0123|span(true) }}").render() == "13\u00a0ms"
    assert environment.from_string("{{ '2026-01-22T21:55:00.125Z'|local_exact }}").render() == (
        "22/01/2026\u00a022:55:00,125"
    )


@pytest.mark.parametrize(
    ("zone", "at", "text"),
    [
        ("Europe/Rome", "2026-01-22T21:55:00Z", "Europe/Rome (UTC+1)"),
        ("Europe/Rome", "2026-07-22T21:55:00Z", "Europe/Rome (UTC+2)"),
        ("America/St_Johns", "2026-01-22T21:55:00Z", "America/St_Johns (UTC-3:30)"),
        ("Atlantic/Reykjavik", "2026-01-22T21:55:00Z", "Atlantic/Reykjavik (UTC)"),
        ("Etc/UTC", "2026-01-22T21:55:00Z", "UTC"),
    ],
)
def test_the_zone_is_named_with_its_offset(zone: str, at: str, text: str) -> None:
    assert zone_text(ZoneInfo(zone), parse_rfc3339(at)) == text


@pytest.mark.parametrize(
    ("at", "language", "text"),
    [
        ("2026-01-22T23:30:00Z", "en", "00:30:00"),
        ("2026-01-22T22:30:00Z", "en", "22 Jan"),
        ("2026-01-22T22:30:00Z", "it", "22/01"),
        ("2025-12-31T22:59:59Z", "it", "31/12/2025"),
    ],
)
def test_a_brief_time_has_the_date_only_on_other_days(at: str, language: str, text: str) -> None:
    now = parse_rfc3339("2026-01-23T10:00:00Z")
    assert format_brief(language, ZoneInfo("Europe/Rome"), at, now) == text.replace(" ", "\u00a0")


def test_a_name_breaks_only_after_its_signs() -> None:
    assert breakable("mario.rossi@libero.it/imap") == "mario.<wbr>rossi@<wbr>libero.<wbr>it/<wbr>imap"
    assert breakable("<a>&b") == "&lt;a&gt;&amp;b"
    assert breakable("..//x") == "..//<wbr>x"
    assert breakable("") == ""


@pytest.mark.parametrize(
    ("states", "ill", "text", "sign", "count", "names"),
    [
        ([], False, "no_targets", "unknown", 0, ()),
        (["up"], False, "all_up", "up", 1, ()),
        (["up", "up"], True, "stale", "unknown", 0, ()),
        (["down"], False, "all_down", "down", 1, ("0",)),
        (["up", "down", "unknown"], False, "some_down", "down", 1, ("1",)),
        (["down", "down"], True, "stale", "unknown", 0, ()),
        (["up", "suspect"], False, "none_down", "unknown", 1, ("1",)),
        (["recovering", "up"], False, "none_down", "unknown", 1, ("0",)),
        (["unknown"], False, "all_unknown", "unknown", 0, ("0",)),
        (["down"] * 7, False, "all_down", "down", 7, ("0", "1", "2", "3", "4")),
    ],
)
def test_the_headline_is_true(
    states: list[str], ill: bool, text: str, sign: str, count: int, names: tuple[str, ...]
) -> None:
    targets: list[Any] = [{"target": str(n), "state": state} for n, state in enumerate(states)]
    reported = headline(targets, stale=ill)
    assert (reported.text, reported.state, reported.count, reported.of, reported.names) == (
        text,
        sign,
        count,
        len(states),
        names,
    )
    assert reported.more == (2 if len(states) == 7 else 0)
    for language in ("en", "it"):
        shown = texts(language)["headline_text"][text].format(count=count, of=len(states), names=", ".join(names))
        assert all(name in shown for name in names)


def test_days_that_are_not_counted_yet_are_not_shown_as_days_without_data() -> None:
    one = {"target": "t", "kind": "imap", "state": "up", "outage": None, "last_observation": None, "cause": None,
            "provider": "", "failed_phase": None, "detail": "", "outcome": "up"}  # fmt: skip
    days = [DayAvailability(0, DAY_MS, 0, 0, 0, 0)] * 90
    card = TargetCard(phases={}, duration=0.0, days=days, ratio=AvailabilityRatio(1.0, 1.0, 1e-6), is_filling=True)
    for filling in (True, False):
        drawn = replace(card, is_filling=filling)
        read_model = SimpleNamespace(
            vantage_point="", place="", zone=ZoneInfo("Europe/Rome"), targets=lambda: [one],
            target_card=lambda *_, drawn=drawn: drawn, change_token=str, stale_reasons=list,
            recent_outages=lambda limit: [], is_unguarded=bool, open_since=dict, offline_since=lambda: None,
            response_series=lambda *_: (), standby=lambda: None, waiting=lambda: None,
        )  # fmt: skip
        frame = Frame(cast(ReadModel, read_model), Audience())
        page = OverviewPage(frame).render(_request(), "en", OverviewQuery())
        assert (texts("en")["filling"] in page) is filling
        assert ("100\u00a0%" in page) is not filling
        assert page.count('class="bars"') == (0 if filling else 1)


def _card(card: dict[str, Any], *_: object) -> dict[str, Any]:
    return card


def _request() -> Request:
    return Request({"type": "http", "method": "GET", "path": "/", "query_string": b"", "headers": []})
