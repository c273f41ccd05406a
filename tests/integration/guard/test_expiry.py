"""A certificate that our clock calls out of date: whose failure is it? Real TLS, and clocks set by faketime."""

from __future__ import annotations

import asyncio
import json
import os
import ssl
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path
from typing import Any

import pytest
import trustme
from hypothesis import given
from hypothesis import strategies as st
from pydantic import SecretStr

from mailwatch import monotonic
from mailwatch.guard import expiry
from mailwatch.guard.clock import survey
from mailwatch.guard.connectivity import Guard
from mailwatch.guard.control_dates import SLACK_MS, parse_http_date
from mailwatch.guard.controls import Control
from mailwatch.guard.expiry import ExpiryAttribution, add_survey
from mailwatch.guard.time_evidence import RELEASED_AT_MS, ExpiryFault, TimeEvidence, TrueTimeBounds, expiry_fault
from mailwatch.model import ClockSpan, Kind, Observation, Outcome
from mailwatch.monitor.restore import restore_evidence
from mailwatch.notify.events import notifications_of
from mailwatch.notify.text import message_text
from mailwatch.settings import Channel, Target
from mailwatch.times import now, rfc3339
from tests.helpers.pipeline import PipelineHarness
from tests.helpers.requirements import need_program
from tests.helpers.scripted_server import SILENCE, scripted_server
from tests.helpers.time_server import packet, time_server
from tests.helpers.wall_clock import LIBRARIES
from tests.servers import Dovecot
from tests.servers.certificates import Certificate

MINUTE, DAY = 60_000, 86_400_000
YEAR = 365 * DAY
T = RELEASED_AT_MS + 100 * DAY
"""The true time of the cases."""
NAME = "control.example"

# --- the rule ---------------------------------------------------------------------------------------------------

VALID, OLD, YOUNG = (T - DAY, T + DAY), (T - 9 * DAY, T - DAY), (T + DAY, T + 9 * DAY)
SURE, DAYS = TrueTimeBounds(T - 50, T + 50), TrueTimeBounds(T - 3 * DAY, T + 3 * DAY)
CASES = [
    # its dates, what is known, what our clock shows, whose failure it is
    ("expired, and the time is known", OLD, SURE, T, ExpiryFault.PROVIDER),
    ("expired, though our clock is a year ahead", OLD, SURE, T + YEAR, ExpiryFault.PROVIDER),
    ("not yet valid, and the time is known", YOUNG, SURE, T, ExpiryFault.PROVIDER),
    ("valid, our clock is a year ahead", VALID, SURE, T + YEAR, ExpiryFault.CLOCK),
    ("valid, our clock is two days ahead", VALID, SURE, T + 2 * DAY, ExpiryFault.CLOCK),
    ("valid for a minute, our clock is behind", (T - MINUTE, T + DAY), SURE, T - 10 * MINUTE, ExpiryFault.CLOCK),
    ("valid, our clock is in 1970", VALID, SURE, 0, ExpiryFault.CLOCK),
    ("expired by our clock, and nothing is known", OLD, TrueTimeBounds(RELEASED_AT_MS), T, ExpiryFault.UNKNOWN),
    ("expired by our clock, and less is known than would matter", OLD, DAYS, T, ExpiryFault.UNKNOWN),
    (
        "not yet valid by our clock, and nothing is known",
        YOUNG,
        TrueTimeBounds(RELEASED_AT_MS),
        T,
        ExpiryFault.UNKNOWN,
    ),
    (
        "not yet valid by our clock, which is before the record",
        VALID,
        TrueTimeBounds(T - 60),
        T - 2 * DAY,
        ExpiryFault.CLOCK,
    ),
    (
        "expired before this program was written",
        (0, RELEASED_AT_MS - 1),
        TrueTimeBounds(RELEASED_AT_MS),
        T,
        ExpiryFault.PROVIDER,
    ),
    (
        "expired, and the witnesses contradict each other",
        OLD,
        TrueTimeBounds(contradicted=True),
        T,
        ExpiryFault.UNKNOWN,
    ),
    ("its dates cannot be read, and our clock is right", (None, None), SURE, T, ExpiryFault.PROVIDER),
    ("its dates cannot be read, and our clock is wrong", (None, None), SURE, T + YEAR, ExpiryFault.UNKNOWN),
    (
        "its dates cannot be read, and nothing is known",
        (None, None),
        TrueTimeBounds(RELEASED_AT_MS),
        T,
        ExpiryFault.UNKNOWN,
    ),
    ("the edge of the window is not beyond its end", (0, T + 50), SURE, T + DAY, ExpiryFault.CLOCK),
    ("the edge of the window is beyond its end", (0, T + 49), SURE, T + DAY, ExpiryFault.UNKNOWN),
]


@pytest.mark.parametrize(
    ("dates", "known", "wall", "whose"), [case[1:] for case in CASES], ids=[c[0] for c in CASES]
)
def test_a_certificate_failure_is_attributed_by_the_time_window(
    dates: tuple[int | None, int | None], known: TrueTimeBounds, wall: int, whose: ExpiryFault
) -> None:
    assert expiry_fault(*dates, known, wall) is whose


moments = st.integers(0, 4_102_444_800_000)


@given(
    true=moments,
    wall=moments,
    before=moments,
    after=moments,
    early=st.integers(0, YEAR),
    late=st.integers(0, YEAR),
)
def test_no_window_around_the_true_time_blames_the_wrong_party(
    true: int, wall: int, before: int, after: int, early: int, late: int
) -> None:
    whose = expiry_fault(before, after, TrueTimeBounds(true - early, true + late), wall)
    valid = before <= true <= after
    assert not (valid and whose is ExpiryFault.PROVIDER)
    if not before <= wall <= after:
        assert not (not valid and whose is ExpiryFault.CLOCK) or wall < before


# --- what is known of the time ----------------------------------------------------------------------------------


def test_most_sources_are_believed_and_a_tie_is_not() -> None:
    known = TimeEvidence()
    assert known.bounds_at(0) == TrueTimeBounds(earliest=RELEASED_AT_MS, sources=("program",))
    known.add_window("sntp", 0, T - 20, T + 20)
    assert known.bounds_at(0) == TrueTimeBounds(T - 20, T + 20, ("sntp",))
    known.add_window("control:a", 0, T + YEAR, T + 2 * YEAR)
    assert known.bounds_at(0).contradicted
    known.add_window("control:b", 0, T - YEAR, T + 10)
    assert known.bounds_at(0) == TrueTimeBounds(T - 20, T + 10, ("control:b", "sntp"))
    known.forget("sntp")
    assert known.bounds_at(0).contradicted


def test_a_lower_bound_on_the_time_is_no_vote() -> None:
    known = TimeEvidence()
    known.add_window("sntp", 0, T - YEAR, T + YEAR)
    known.add_floor("record", T)
    known.add_floor("record", T - DAY)
    assert known.bounds_at(0) == TrueTimeBounds(T, T + YEAR, ("sntp",))
    known.add_floor("token on record", T + 2 * YEAR)
    assert known.bounds_at(0).contradicted


def test_a_window_moves_with_the_steady_clock_and_widens() -> None:
    known = TimeEvidence()
    known.add_window("sntp", 1000, T, T + 10)
    assert known.bounds_at(1000 + 10_000) == TrueTimeBounds(T + 10_000 - 1, T + 10 + 10_000 + 1, ("sntp",))
    assert known.bounds_at(1000 - 10_000) == TrueTimeBounds(T - 10_000 - 1, T + 10 - 10_000 + 1, ("sntp",))


@pytest.mark.parametrize("ahead", [-4e8, -60.0, 0.0, 4e8])
async def test_a_survey_says_where_the_true_time_is_however_far_our_clock_is_off(ahead: float) -> None:
    evidence = TimeEvidence()
    async with time_server(lambda request: packet(request, ahead=ahead)) as (port, _):
        offset = monotonic.offset()
        add_survey(evidence, await survey([("127.0.0.1", port)]), offset)
    known = evidence.bounds_at(monotonic.milliseconds())
    if ahead < -1000:
        assert known.contradicted, "it is before this program was written"
        return
    assert known.earliest is not None
    assert known.latest is not None
    assert known.earliest <= now() + ahead * 1000 <= known.latest
    assert known.latest - known.earliest < 10_000


@pytest.mark.parametrize(
    ("head", "found"),
    [
        (
            b"HTTP/1.1 200 OK\r\nDate: Tue, 24 Nov 2026 00:00:00 GMT\r\n\r\n",
            (RELEASED_AT_MS, RELEASED_AT_MS + 1000),
        ),
        (
            b"HTTP/1.1 301 x\r\nAge: 7\r\ndate:Tue, 24 Nov 2026 00:00:00 -0000\r\n\r\n",
            (RELEASED_AT_MS, RELEASED_AT_MS + 8000),
        ),
        (
            b"HTTP/1.1 200 OK\r\nDate: Tue, 24 Nov 2026 00:00:00 GMT\r\nAge: -9\r\n\r\n",
            (RELEASED_AT_MS, RELEASED_AT_MS + 1000),
        ),
        (b"HTTP/1.1 200 OK\r\nDate: Tue, 24 Nov 2026 00:00:00 GMT\r\nAge: x\r\n\r\n", None),
        (b"HTTP/1.1 200 OK\r\nDate: yesterday\r\n\r\n", None),
        (b"HTTP/1.1 200 OK\r\nDate: Tue, 24 Nov 99999999999 00:00:00 GMT\r\n\r\n", None),
        (b"HTTP/1.1 200 OK\r\n\r\n", None),
        (b"\xff\x00\r\n\r\n", None),
        (b"SSH-2.0\r\nDate: Tue, 24 Nov 2026 00:00:00 GMT\r\n\r\n", None),
    ],
)
def test_the_date_of_an_answer_is_read(head: bytes, found: tuple[int, int] | None) -> None:
    read = parse_http_date(head, 100, 150)
    assert (None if read is None else (read.at, read.earliest + SLACK_MS, read.latest - SLACK_MS - 50)) == (
        None if found is None else (150, *found)
    )


# --- controls ---------------------------------------------------------------------------------------------------


class Authority:
    """An authority of our own, the file by which it is trusted, and what it issues."""

    def __init__(self, folder: Path) -> None:
        self.issuer, self.ca_file = trustme.CA(), folder / "ca.pem"
        self.issuer.cert_pem.write_to_path(self.ca_file)
        self._folder = folder

    def leaf(
        self, *names: str, begins: timedelta = -timedelta(days=30), ends: timedelta = timedelta(days=60)
    ) -> trustme.LeafCert:
        here = datetime.now(UTC)
        return self.issuer.issue_cert(*names, not_before=here + begins, not_after=here + ends)

    def files(self, leaf: trustme.LeafCert) -> Certificate:
        kept = Certificate(self._folder / "server.pem", self._folder / "server.key")
        kept.chain.write_bytes(b"".join(blob.bytes() for blob in leaf.cert_chain_pems))
        leaf.private_key_pem.write_to_path(kept.key)
        return kept


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path)


def context(leaf: trustme.LeafCert) -> ssl.SSLContext:
    made = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    leaf.configure_cert(made)
    return made


@asynccontextmanager
async def control(leaf: trustme.LeafCert, *, date: bool = True) -> AsyncIterator[int]:
    """A web server; without `date` one that takes the request and stays silent, as a name server does."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while line := await reader.readline():
            if date and not line.strip():
                moment = format_datetime(datetime.now(UTC).replace(microsecond=0), usegmt=True)
                writer.write(f"HTTP/1.1 200 OK\r\nDate: {moment}\r\n\r\n".encode())
        writer.close()

    async with await asyncio.start_server(serve, "127.0.0.1", 0, ssl=context(leaf)) as server:
        yield server.sockets[0].getsockname()[1]


@pytest.mark.parametrize("ends", [timedelta(days=60), -timedelta(days=1)])
async def test_a_control_shows_the_time_whatever_our_clock_says_of_its_certificate(
    authority: Authority, ends: timedelta
) -> None:
    leaf = authority.leaf(NAME, ends=ends)
    async with control(leaf, date=False) as silent, control(leaf) as web:
        controls = [Control("127.0.0.1", port, NAME, authority.ca_file) for port in (silent, web)]
        displayed = await Guard(controls, timeout=1.0, names=()).control_times()
    by_dates, by_web = displayed[f"127.0.0.1:{silent}"], displayed[f"127.0.0.1:{web}"]
    assert by_dates.earliest < now() - 29 * DAY
    assert by_dates.latest - by_dates.earliest > 28 * DAY
    if ends > timedelta(0):
        assert by_web.latest - by_web.earliest < 2 * SLACK_MS + 10_000
        assert by_web.earliest <= now() <= by_web.latest + 10_000
    else:
        assert by_web == pytest.approx(by_dates) or by_web.latest == by_dates.latest, (
            "the Date of a server whose certificate ended does not count"
        )


async def test_an_unauthenticated_control_gives_no_time(authority: Authority, tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    forged = Authority(tmp_path / "other").leaf(NAME)
    async with (
        control(forged) as other,
        control(authority.leaf("portal.example")) as portal,
        scripted_server([SILENCE]) as mute,
    ):
        controls = [Control("127.0.0.1", port, NAME, authority.ca_file) for port in (other, portal, mute)]
        controls.append(Control("127.0.0.1", other))
        assert await Guard(controls, timeout=0.2, names=()).control_times() == {}


# --- a probe judged ---------------------------------------------------------------------------------------------


@pytest.fixture
async def harness(tmp_path: Path) -> AsyncIterator[PipelineHarness]:
    harness = PipelineHarness(tmp_path / "data")
    await harness.writer.start()
    yield harness
    await harness.close()


@pytest.mark.parametrize(
    ("begins", "ends", "ahead", "outcome", "fault"),
    [
        (-30, -1, 0.0, Outcome.DOWN, "provider"),
        (1, 30, 0.0, Outcome.DOWN, "provider"),
        (1, 30, 2 * 86_400, Outcome.UNKNOWN, "clock"),
        (-30, -1, -2 * 86_400, Outcome.UNKNOWN, "clock"),
        (-30, -1, None, Outcome.UNKNOWN, "unknown"),
        (1, 30, None, Outcome.UNKNOWN, "unknown"),
    ],
    ids=[
        "expired",
        "not yet valid",
        "we are behind",
        "we are ahead",
        "expired, no time",
        "not yet valid, no time",
    ],
)
async def test_the_time_sources_considered_are_on_record(
    harness: PipelineHarness,
    authority: Authority,
    begins: int,
    ends: int,
    ahead: float | None,
    outcome: Outcome,
    fault: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Three in a row: an outage only if it is surely the provider's; time servers are asked once for all."""
    if ahead is None:
        monkeypatch.setattr(expiry, "SERVER_TIMEOUT_SECONDS", 0.3)
    leaf = authority.leaf("127.0.0.1", begins=timedelta(days=begins), ends=timedelta(days=ends))
    async with (
        scripted_server([context(leaf), SILENCE]) as port,
        time_server(lambda request: None if ahead is None else packet(request, ahead=ahead)) as (ntp, server),
    ):
        harness.pipeline.attribution.expiry = ExpiryAttribution(None, [("127.0.0.1", ntp)])
        runtime = harness.add_target(
            Target(
                name="tls", kind=Kind.IMAP, host="127.0.0.1", port=port, ca_file=authority.ca_file, timeout=20.0
            )
        )
        for _ in range(3):
            await harness.probe(runtime.target)
        assert len(server.requests) == 1
    observation = harness.recorded("observation")[-1]
    assert (observation["outcome"], observation["cause"]) == (
        outcome.value, "tls" if outcome is Outcome.DOWN else "monitor",
    )  # fmt: skip
    problem = "expired" if begins < 0 else "not_yet_valid"
    assert observation["attempts"][0]["facts"]["out_of_date"]["problem"] == problem
    weighed = observation["facts"]["out_of_date"]
    assert (weighed["problem"], weighed["fault"]) == (problem, fault)
    assert abs(weighed["not_before"] - now() - begins * DAY) < DAY / 2
    assert abs(weighed["not_after"] - now() - ends * DAY) < DAY / 2
    assert ("sntp" in weighed["by"]) is (ahead is not None)
    if ahead is not None:
        assert weighed["true_time_from"] <= now() + ahead * 1000 <= weighed["true_time_until"] + DAY / 2
    words = f"expired on {rfc3339(weighed['not_after'])[:19]}Z"
    if begins > 0:
        words = f"not valid yet, but from {rfc3339(weighed['not_before'])[:19]}Z on"
    assert words in observation["detail"]
    if outcome is Outcome.UNKNOWN:
        assert "by NTP" in observation["detail"]
        assert "(was: tls, " in observation["detail"]
    assert len(harness.recorded("outage")) == (1 if outcome is Outcome.DOWN else 0)
    found = [
        news
        for entry in harness.reader.entries(kinds=["observation"])
        for news in notifications_of(harness.reader, entry)
    ]
    if outcome is Outcome.UNKNOWN:
        assert {news.key for news in found} == {"clock:tls:-1"}, "its owner is notified once"
        for lang in ("en", "it"):
            _, body = message_text(found[:1], Channel(name="c", url=SecretStr(""), lang=lang), now())
            assert body.startswith("tls: ")
            assert "NTP" in body
    else:
        assert found == []


async def test_the_ledger_bounds_the_time_of_the_next_start(harness: PipelineHarness) -> None:
    clock = ClockSpan(monotonic.origin().boot, 1, 2, 5000)
    observation = Observation(
        target="t",
        scheduled_at=T,
        started_at=T,
        ended_at=T,
        outcome=Outcome.UP,
        cause=None,
        clock=clock,
        interval=1,
    )
    await harness.pipeline.recorder.append("observation", T, "t", observation)
    evidence = TimeEvidence()
    restore_evidence(evidence, harness.reader)
    assert evidence.bounds_at(0) == TrueTimeBounds(earliest=T - 5000, sources=("record",))
    token = {"authority": "a", "time": T + DAY, "checkpoint": 1}
    await harness.pipeline.recorder.append("token", T, None, token)
    await harness.pipeline.recorder.append(
        "token", T, None, token | {"time": T + YEAR, "distrust": "nobody knows it"}
    )
    restore_evidence(evidence, harness.reader)
    assert evidence.bounds_at(0) == TrueTimeBounds(earliest=T + DAY - 1000, sources=("token on record",))


async def test_other_failures_of_tls_ask_no_one_for_the_time(
    harness: PipelineHarness, authority: Authority
) -> None:
    async with (
        scripted_server([context(authority.leaf("other.example")), SILENCE]) as port,
        time_server() as (ntp, server),
    ):
        harness.pipeline.attribution.expiry = ExpiryAttribution(None, [("127.0.0.1", ntp)])
        runtime = harness.add_target(
            Target(
                name="tls", kind=Kind.IMAP, host="127.0.0.1", port=port, ca_file=authority.ca_file, timeout=20.0
            )
        )
        await harness.probe(runtime.target)
        assert server.requests == []
    observation = harness.recorded("observation")[-1]
    assert (observation["outcome"], observation["cause"], observation.get("facts", {}).get("out_of_date")) == (
        "down",
        "tls",
        None,
    )


# --- the whole program under a clock that is wrong ---------------------------------------------------------------


async def probed(folder: Path, target: dict[str, Any], seconds: int, **sections: Any) -> dict[str, Any]:
    """`mailwatch probe` on a machine whose clock is off by so many seconds; what it says of its one target."""
    config = folder / f"{abs(hash((seconds, repr(sections))))}.yaml"
    config.write_text(
        json.dumps({"vantage_point": {"name": "t"}, "data_dir": "data", "targets": [target], **sections})
    )
    environment = os.environ | {
        "LD_PRELOAD": str(LIBRARIES[-1]), "FAKETIME": f"{seconds:+d}s", "FAKETIME_DONT_FAKE_MONOTONIC": "1",
    }  # fmt: skip
    program = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "mailwatch", "--config", str(config), "probe", "--json",
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE, env=environment,
    )  # fmt: skip
    out, error = await program.communicate()
    assert out, error.decode()
    (seen,) = json.loads(out)
    return dict(seen)


DAYS60 = 60 * 86_400
GOOD = [
    # by how much our clock is off, who is asked for the time, outcome, what is said
    (-600, "time servers", "unknown", "our own clock is behind by at least 9 min"),
    (-600, "nobody", "unknown", "our own clock is not verified"),
    (DAYS60, "controls", "unknown", "our own clock is ahead by at least 59 d"),
    (5 * 365 * 86_400, "time servers", "unknown", "our own clock is ahead by at least 1824 d"),
    (0, "nobody", "up", ""),
]
EXPIRED = [
    (0, "time servers", "down", "; the time is known to "),
    (0, "controls", "down", "; the time is known to "),
    (0, "nobody", "unknown", "our own clock is not verified"),
    (DAYS60, "time servers", "down", "; the time is known to "),
]


@pytest.mark.parametrize(
    ("begins", "ends", "cases"),
    [(-timedelta(minutes=5), timedelta(days=30), GOOD), (-timedelta(days=30), -timedelta(hours=1), EXPIRED)],
    ids=["a good certificate", "an expired one"],
)
async def test_a_valid_certificate_is_judged_right_even_if_our_clock_is_wrong(
    own_dovecot: Dovecot,
    authority: Authority,
    tmp_path: Path,
    begins: timedelta,
    ends: timedelta,
    cases: list[tuple[int, str, str, str]],
) -> None:
    need_program(LIBRARIES[-1] if LIBRARIES else Path("/usr/bin/faketime"))
    own_dovecot.use_certificate(
        authority.files(authority.leaf("localhost", "127.0.0.1", begins=begins, ends=ends))
    )
    target = {"name": "lab", "kind": "imap", "host": "127.0.0.1", "port": own_dovecot.imaps_port,
              "ca_file": str(authority.ca_file), "timeout": "20s"}  # fmt: skip
    async with time_server() as (ntp, _), control(authority.leaf(NAME)) as web:
        name = {"address": f"127.0.0.1:{web}", "name": NAME, "ca_file": str(authority.ca_file)}
        asked: dict[str, dict[str, Any]] = {
            "time servers": {"guard": "off", "clock": {"servers": [f"127.0.0.1:{ntp}"]}},
            "controls": {"guard": {"controls": [name], "timeout": "10s"}, "clock": {"servers": []}},
            "nobody": {"guard": "off", "clock": {"servers": []}},
        }
        for seconds, who, outcome, says in cases:
            observation = await probed(tmp_path, target, seconds, **asked[who])
            assert observation["outcome"] == outcome, (seconds, who, observation)
            assert observation["cause"] == {"up": None, "down": "tls", "unknown": "monitor"}[outcome]
            assert says in observation["detail"], (seconds, who, observation["detail"])
