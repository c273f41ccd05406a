"""Whatever is asked, of the web or on the command line, is answered or refused with what is accepted."""

from __future__ import annotations

import json
import re
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from mailwatch.times import LATEST_ASKED_MS, parse_moment, parse_rfc3339, rfc3339
from mailwatch.web.observation_filter import ObservationFilter
from tests.helpers.leak_check import PASSWORD, running_with_canaries
from tests.helpers.patience import PATIENCE
from tests.helpers.process import MailWatchProcess
from tests.helpers.web_client import basic
from tests.helpers.web_routes import ROUTES

TIMES = (
    "0001-01-01T00:00:00+14:00", "0001-01-01T00:00:00Z", "0001-01-01T00:00:00-14:00", "9999-12-31T23:59:59-14:00",
    "9999-12-31T23:59:59.999999Z", "9999-12-31T23:59:59+14:00", "0000-01-01T00:00:00Z", "10000-01-01T00:00:00Z",
    "-001-01-01T00:00:00Z", "1969-12-31T23:59:59Z", "2100-01-01T00:00:01Z", "2026-13-01T00:00:00Z",
    "2026-02-30T00:00:00Z", "2026-01-01T24:00:00Z", "2026-01-01T00:00:60Z", "2026-01-01T00:00:00+24:00",
    "2026-01-01T00:00:00+23:59:59.999999", "2026-W53-7T00:00:00Z", "20260101T000000Z", "2026-01-01T00:00",
    "2026-01-01", "2026-01", "T", "Z", "\uff12\uff10\uff12\uff16-01-01T00:00:00Z", "2026-01-01T00:00:00\u0661Z",
)  # fmt: skip
"""What nobody can be asked for, beside some that can."""
ANYTHING = (
    b"", b"%00", b"a%00b", b"%ED%A0%80", b"%ff%fe", b"%", b"%zz", b"%u0041", b"x" * 1900, b"-1", b"0", b"10001",
    b"9223372036854775807", b"9223372036854775808", b"9" * 30, b"9" * 1500, b"1e9", b"NaN", b"nan", b"inf",
    b"-inf", b"-0", b"%2B5", b"0x10", b"1_000", b"%D9%A1", b"true", b"null", b"[]", b"%7B%7D", b"'%22%3C%3E--",
    b"%0d%0aX:%20y", b"%20", b"..%2f..%2fetc%2fpasswd", b"\xe8", b"%F0%9F%99%82", b"1;2", b"==",
)  # fmt: skip


def quoted(text: str) -> bytes:
    return b"".join(b"%%%02X" % byte if not chr(byte).isalnum() else bytes([byte]) for byte in text.encode())


@pytest.fixture(scope="module")
def public(tmp_path_factory: pytest.TempPathFactory) -> Iterator[MailWatchProcess]:
    """It shows visitors without a login little and its owner all; it has two outages behind it."""
    with running_with_canaries(tmp_path_factory.mktemp("asked"), public=True) as (process, _):
        process.start()
        yield process


def status(
    process: MailWatchProcess, path: bytes, headers: dict[str, str], method: bytes = b"GET", body: bytes = b""
) -> int:
    """Send the very bytes; 0 if it hangs up."""
    given = {"Host": f"127.0.0.1:{process.port}", "Connection": "close", **headers}
    if body:
        given |= {"Content-Length": str(len(body)), "Content-Type": "application/x-www-form-urlencoded"}
    head = b"".join(f"{name}: {text}\r\n".encode("latin-1") for name, text in given.items())
    with socket.create_connection(("127.0.0.1", process.port), timeout=PATIENCE) as connection:
        connection.sendall(method + b" " + path + b" HTTP/1.1\r\n" + head + b"\r\n" + body)
        with connection.makefile("rb") as answer:
            first = answer.readline()
    return int(first.split()[1]) if first.startswith(b"HTTP/1.1 ") else 0


PAGES = {
    "/": ["page", "lang"], "/outages": ["page", "target", "lang"], "/incidents": ["page"],
    "/observations": ["target", "outcome", "from", "to", "before"], "/live": ["seen"], "/outages.atom": ["lang"],
    "/outages/{outage_id}": ["lang"], "/login": ["lang"], "/targets/{name}": ["period", "lang"],
    "/incidents/{incident_id}": ["lang"], "/badges/{target}/{kind}.svg": ["lang"], "/reports": ["month", "year"],
    "/outages/{outage_id}/letter": ["formal"], "/outages/{outage_id}/letter.{suffix}": [],
    "/outages/{outage_id}/report.pdf": ["lang"], "/share/{token}": ["lang"],
    "/share/{token}/evidence.zip": ["lang"],
    "/share/{token}/report.pdf": ["lang"],
}  # fmt: skip
"""What the pages take; of the API its own description says so."""
NAME = "canary-address-1@example.org/imap"


def questions(process: MailWatchProcess) -> Iterator[tuple[str, str]]:
    """Each route with each of its parameters, and the gaps in its path as `{gap}`."""
    whole = json.loads(_read(process, "/api/openapi.json"))
    for path, methods in whole["paths"].items():
        for parameter in methods["get"].get("parameters", ()):
            yield path, "{gap}" if parameter["in"] == "path" else parameter["name"]
    for path, names in PAGES.items():
        yield from ((path, name) for name in (*names, *(["{gap}"] if "{" in path else [])))
    yield "/static/{name}", "{gap}"


def _read(process: MailWatchProcess, path: str) -> str:
    import urllib.request

    request = urllib.request.Request(f"http://127.0.0.1:{process.port}{path}", headers=basic(PASSWORD))
    with urllib.request.urlopen(request, timeout=PATIENCE) as answer:
        return str(answer.read().decode())


def test_the_generated_queries_cover_every_parameter(public: MailWatchProcess) -> None:
    asked = set(questions(public))
    assert {("/api/v1/outages", "from"), ("/api/v1/availability", "to"), ("/api/v1/observations", "limit"),
            ("/api/v1/observations.csv", "before"), ("/api/v1/outages/{outage_id}/evidence.zip", "lang"),
            ("/api/v1/outages/{outage_id}", "{gap}"), ("/api/v1/incidents", "open")} <= asked  # fmt: skip
    silent = {"/healthz", "/readyz", "/metrics", "/ledger", "/about", "/api/docs", "/api/openapi.json",
              "/api/v1/targets", "/favicon.ico", "/licence", "/manifest.webmanifest", "/robots.txt"}  # fmt: skip
    assert {path for path, _ in asked} | silent >= {route.replace(":path}", "}") for route in ROUTES}, (
        "a route takes something that is not asked here"
    )


@pytest.mark.parametrize("who", ["owner", "stranger"])
def test_no_query_causes_an_internal_error(public: MailWatchProcess, who: str) -> None:
    headers = basic(PASSWORD) if who == "owner" else {}
    faults = []
    for path, name in questions(public):
        values = [*ANYTHING, *(quoted(text) for text in TIMES if name in ("from", "to", "{gap}"))]
        for value in values if who == "owner" else values[::3]:
            if name == "{gap}":
                rest = path.partition("}")[2].replace("{kind}", "state").replace("{suffix}", "pdf")
                asked = path.partition("{")[0].encode() + value + rest.encode()
            else:
                filled = path.replace("{name}", NAME).replace("{target}", NAME).replace("{kind}", "state")
                filled = re.sub(r"\{\w+\}", "0" * 12, filled)
                other = {"from": b"&to=2099-01-01T00:00:00Z", "to": b"&from=1970-01-01T00:00:00Z"}.get(name, b"")
                asked = filled.encode() + b"?" + name.encode() + b"=" + value + other
            found = status(public, asked, headers)
            if found == 0 or found >= 500:
                faults.append((asked, found))
    assert not faults


@pytest.mark.parametrize(
    "asked",
    [
        b"/api/v1/outages?from=2026-01-01T00:00:00Z&from=0001-01-01T00:00:00%2B14:00",
        b"/api/v1/outages?open=true&open=maybe&" + b"&".join(b"target=%d" % number for number in range(500)),
        b"/api/v1/availability?from=1970-01-01T00:00:00Z&to=2099-12-31T00:00:00Z",
        b"/api/v1/offline?from=1970-01-01T00:00:00Z&to=2099-12-31T00:00:00Z",
        b"/observations?from=1970-01-01&to=2099-12-31&before=0",
        b"/?page=9999&lang=it&lang=en&lang=%00",
        b"/%00", b"/\xff", b"//", b"/%2e%2e/%2e%2e/etc/passwd", b"/api/v1/outages/%2F..%2F", b"*", b"http://[::1/",
        b"/?" + b"&" * 1000, b"/?%=%&=&=%ED%A0%80",
    ],
)  # fmt: skip
def test_malformed_queries_cause_no_internal_error(public: MailWatchProcess, asked: bytes) -> None:
    for headers in (basic(PASSWORD), {}, {"Accept": "text/html"}):
        assert status(public, asked, headers) in range(200, 500)


HEADERS = (
    {"Last-Event-ID": "\xff" * 200},
    {"Cookie": "mailwatch=\xe8; lang=\x7f; ="},
    {"Accept-Language": "q=;;,-" * 50},
    {"Accept-Language": "it;q=NaN,en;q=1e999"},
    {"Accept-Encoding": "gzip;q=x, \xff"},
    {"Authorization": "Basic \xff"},
    {"Authorization": "Basic " + "=" * 999},
    {"Authorization": "Bearer \xe8"},
    {"X-Forwarded-For": "\xff, ::, 1.1"},
    {"Host": "[::1"},
    {"Host": "\xff:99999999"},
    {"Host": ""},
    {"Content-Length": "-1"},
    {"Range": "bytes=9-0"},
    {"Sec-Fetch-Site": "\xe8"},
    {"Forwarded": 'for="["'},
)


@pytest.mark.parametrize("header", HEADERS, ids=[str(number) for number in range(len(HEADERS))])
def test_no_header_causes_an_internal_error(public: MailWatchProcess, header: dict[str, str]) -> None:
    for path in (b"/", b"/live", b"/api/v1/targets", b"/login", b"/metrics"):
        assert status(public, path, header) in range(200, 500)


@pytest.mark.parametrize(
    "body",
    [b"&".join(b"a=%d" % number for number in range(50)), b"password=%ED%A0%80&to=%00", b"=", b"\xff" * 500,
     b"password=" + b"%" * 300, b"password=a&password=b&to=//evil.example"],
)  # fmt: skip
def test_no_form_causes_an_internal_error(public: MailWatchProcess, body: bytes) -> None:
    assert status(public, b"/login", {}, b"POST", body) in range(400, 500)
    assert status(public, b"/logout", {}, b"POST", body) in range(300, 500)
    assert status(public, b"/api/v1/outages", {}, b"POST", body) in range(400, 500)


@pytest.mark.parametrize("text", TIMES)
def test_a_time_that_is_read_can_be_written(text: str) -> None:
    try:
        at = parse_rfc3339(text)
    except ValueError:
        return
    assert parse_rfc3339(rfc3339(at)) == at


@pytest.mark.parametrize("text", TIMES)
def test_the_page_filter_accepts_a_value_or_says_why_not(text: str) -> None:
    asked = ObservationFilter("", "", text, "")
    assert asked.bad or asked.times()[0] in range(LATEST_ASKED_MS + 1)
    assert asked.export()


def test_a_time_out_of_bounds_is_refused_with_the_bounds(public: MailWatchProcess) -> None:
    refused = public.get("/api/v1/outages?from=0001-01-01T00:00:00%2B14:00")
    assert refused.startswith("422 ")
    assert "between 1970-01-01 and 2100-01-01" in refused


VERBS: tuple[tuple[str, ...], ...] = (
    ("outages", "--from"), ("outages", "--to"), ("incidents", "--from"), ("offline", "--to"),
    ("availability", "--to", "2026-02-01", "--from"), ("availability", "--from", "2026-01-01", "--to"),
    ("report", "-o", "x.zip", "--from", "2026-01-01", "--to"), ("claim", "log", "x", "--by", "PEC", "--sent"),
)  # fmt: skip


@pytest.mark.parametrize("verb", VERBS, ids=" ".join)
def test_no_time_on_the_command_line_causes_an_internal_error(
    public: MailWatchProcess, verb: tuple[str, ...], capsys: pytest.CaptureFixture[str], tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    from mailwatch.cli import main

    monkeypatch.chdir(tmp_path)
    odd = [*TIMES, "", "\x00", "\udcff", "-1", "NaN", "9" * 400, "0001-01", "9999-12", "9999-12-31", "0001-01-01"]
    for text in odd:
        words = ["--config", str(public.config), *verb[:-1], f"{verb[-1]}={text}"]
        try:
            ended: Any = main(words)
        except SystemExit as end:
            ended = end.code
        output = capsys.readouterr().err
        assert ended in (0, 1, 2), (text, ended, output)
        assert "Traceback" not in output, (text, output)
        if verb[0] != "claim" and text in ("0001-01-01T00:00:00+14:00", "9999-12", "NaN", "", "\x00"):
            assert ended == 2, (text, output)


@pytest.mark.parametrize(
    ("text", "fine"), [("1970-01-01", True), ("2100-01-01", True), ("2100-01-02", False), ("0001-01", False)]
)
def test_the_bounds_are_those_that_are_named(text: str, fine: bool) -> None:
    from zoneinfo import ZoneInfo

    if fine:
        assert parse_moment(text, "from", ZoneInfo("UTC")) in (0, LATEST_ASKED_MS)
    else:
        with pytest.raises(ValueError, match="between 1970-01-01 and 2100-01-01"):
            parse_moment(text, "from", ZoneInfo("UTC"))
