"""The page of a target: of a real Dovecot after an outage, and of a record of weeks with gaps."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from pydantic import TypeAdapter

from mailwatch.analysis.response_times import Period, bucket_of
from mailwatch.analysis.target_json import ResponseTimesJson, TargetDetailJson
from mailwatch.model import Observation, Phase
from mailwatch.store import Reader
from mailwatch.times import DAY_MS, HOUR_MS, Millis, now, parse_rfc3339
from mailwatch.web.templating import texts
from tests.helpers.ledger_factory import MINUTE, Pattern, observation_of, write
from tests.helpers.process import MailWatchProcess
from tests.helpers.web_client import ask
from tests.servers.authority import Authority

NAME, FORMER = "mario.rossi@libero.it/imap", "anna@libero.it/imap"
END = now() - HOUR_MS


def _observe(name: str, mark: str, at: Millis) -> Observation:
    made = observation_of(name, mark, at)
    phases = {Phase.CONNECT: 20_000 + at // MINUTE % 17 * 1000, Phase.AUTH: 90_000}
    attempt = made.attempts[0] if mark == "-" else replace(made.attempts[0], phases=phases)
    return replace(made, attempts=(attempt,), interval=30 * MINUTE)


def _seen(at: Millis) -> str:
    days = (END - at) / DAY_MS
    return "-" if 5 >= days > 4 else " " if 12 >= days > 10 else "?" if 8 >= days > 7.5 else "+"


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Iterator[MailWatchProcess]:
    """A MailWatch with 40 days behind it; one of its two targets is watched no more."""
    folder = tmp_path_factory.mktemp("kept")
    patterns: dict[str, Pattern] = {NAME: _seen, FORMER: _seen}
    write(
        folder / "data", patterns, END - 40 * DAY_MS, END, interval=30 * MINUTE, provider="libero", vantage="test",
        observe=_observe, durable=False, backdated=True,
    ).close()  # fmt: skip
    target = {"name": NAME, "kind": "imap", "provider": "libero", "host": "127.0.0.1", "port": 1, "tls": "none",
              "interval": "1h"}  # fmt: skip
    with MailWatchProcess(
        folder, [target], detection={"recheck": ["1h"]}, timezone="Europe/Rome"
    ).running() as process:
        process.wait_until(lambda: process.count(NAME, "down") > 0, "an observation")
        process.wait_until(lambda: process.api(f"targets/{NAME}")["availability"], "the history")
        yield process


@pytest.mark.parametrize("language", ["en", "it"])
@pytest.mark.parametrize("period", Period)
def test_each_period_has_a_chart_and_its_table_without_javascript(
    kept: MailWatchProcess, period: Period, language: str
) -> None:
    path = f"/targets/{NAME}?period={period.value}"
    status, headers, page = ask(kept, path, {"Accept-Language": language})
    words = texts(language)["on_target"]
    assert status == 200
    assert headers["content-language"] == language
    assert f'aria-current="true">{words["window"][period.value]}</a>' in page
    assert page.count("<title>") == 1 + period.length // period.bucket + 90 + len(
        re.findall('height="4"><title>', page)
    )
    assert words["as_table"] in page
    assert "style=" not in page
    assert not re.findall(r'(?:src|href)="(?:https?:)?//', page)


@pytest.mark.parametrize("period", Period)
def test_the_json_has_the_observations_of_the_record_and_gaps_stay_gaps(
    kept: MailWatchProcess, period: Period
) -> None:
    def read_all() -> ResponseTimesJson | None:
        text = ask(kept, f"/api/v1/targets/{quote(NAME)}/response-times?period={period.value}")[2]
        found = TypeAdapter(ResponseTimesJson).validate_json(text, strict=True)
        return found if found["complete"] else None

    answer = kept.wait_until(read_all, "read to its end")
    reader = Reader.open(kept.data_dir)
    start, end = parse_rfc3339(answer["from"]), parse_rfc3339(answer["to"])
    facts = [
        (entry.time, entry.payload)
        for entry in reader.entries(target=NAME, kinds=["observation"], start_ms=start, end_ms=end)
    ]
    reader.close()
    assert len(answer["buckets"]) == period.length // period.bucket
    for bucket in answer["buckets"]:
        begin, until = parse_rfc3339(bucket["from"]), parse_rfc3339(bucket["to"])
        expected = bucket_of(payload for at, payload in facts if begin <= at < until)  # type: ignore[misc]
        assert (bucket["up"], bucket["down"], bucket["unknown"]) == (expected.up, expected.down, expected.unknown)
        assert (bucket["total"] is None) == (expected.up == 0)
        if bucket["total"] and expected.total:
            assert bucket["total"]["median"] == expected.total.median / 1e6
    in_gap = [b for b in answer["buckets"] if END - 11.9 * DAY_MS < parse_rfc3339(b["from"]) < END - 10.6 * DAY_MS]
    assert all(b["total"] is None and b["up"] == 0 for b in in_gap)
    assert bool(in_gap) == (period in (Period.MONTH, Period.QUARTER))


def test_a_name_may_have_its_slash_escaped_and_links_still_lead_home(kept: MailWatchProcess) -> None:
    for path, root in ((f"/targets/{NAME}", "../../"), (f"/targets/{quote(NAME, safe='')}", "../")):
        status, _, page = ask(kept, path)
        assert status == 200
        assert f'<a class="name" href="{root}">' in page
        assert f'href="{root}observations?target={quote(NAME)}"' in page


def test_a_target_that_is_on_record_only_has_a_page(kept: MailWatchProcess) -> None:
    page = ask(kept, f"/targets/{FORMER}")[2]
    assert texts("en")["unwatched"] in page
    assert re.search(r"outages/[0-9a-f]{12}", page)
    detail = kept.api(f"targets/{FORMER}")
    assert (detail["watched"], detail["state"], detail["availability"]) == (False, "unwatched", {})


def test_a_target_that_never_was_is_not_found(kept: MailWatchProcess) -> None:
    assert ask(kept, "/targets/maria@libero.it/imap", {"Accept": "text/html"})[0] == 404
    assert ask(kept, "/api/v1/targets/maria@libero.it/imap")[0] == 404
    assert ask(kept, "/api/v1/targets/maria@libero.it/imap/response-times")[0] == 404
    assert ask(kept, f"/api/v1/targets/{NAME}/response-times?period=1y")[0] == 422
    assert ask(kept, f"/targets/{NAME}?period=1y")[0] == 200


def test_the_certificate_and_the_settings_are_shown_but_no_secret(
    recorded_outage: tuple[MailWatchProcess, Authority, str],
) -> None:
    process, _, identity = recorded_outage
    with process.running():

        def complete() -> Any:
            # On a busy machine a probe may be unknown in between.
            found = process.api("targets/lab-imap")
            known = found["state"] == "up" and found["certificate"]["names"] and found["availability"]
            return found if known else None

        process.wait_for_state("lab-imap", "up")
        detail = process.wait_until(complete, "state, certificate and history")
        TypeAdapter(TargetDetailJson).validate_json(json.dumps(detail), strict=True)
        page = ask(process, "/targets/lab-imap")[2].replace("<wbr>", "")
    assert detail["state"] == "up"
    assert parse_rfc3339(detail["since"]) <= parse_rfc3339(detail["last_observation"])
    assert detail["settings"]["login"] is True
    assert set(detail["availability"]) == {"24h", "7d", "30d", "90d"}
    certificate = detail["certificate"]
    assert certificate["issuer"] in page
    assert all(name in page for name in certificate["names"])
    assert certificate["fingerprint"] in page
    assert f'outages/{identity}"' in page
    target = next(one for one in process.settings["targets"] if one["name"] == "lab-imap")
    assert target["login"]["username"] not in page
    assert (Path(process.folder) / target["login"]["password_file"]).read_text().strip() not in page
