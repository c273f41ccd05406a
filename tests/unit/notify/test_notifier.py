"""Who is notified of what: over real sockets, through crashes, in order, once, and never with a secret shown."""

from __future__ import annotations

import asyncio
import contextlib
import math
import os
import sqlite3
import sys
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import time_machine
from apprise.plugins.ntfy import NotifyNtfy
from prometheus_client import CollectorRegistry
from pydantic import SecretStr

from mailwatch.analysis.storage_budget import LedgerSizes, StorageBudget
from mailwatch.metrics import Metrics
from mailwatch.model import Attempt, Cause, EventType, Notification, Observation, Outcome, TlsFacts
from mailwatch.monitor.self_audit import DamageAlarm
from mailwatch.notify import Notifier, channel_worker, notify_ledger_broken, send_heartbeats
from mailwatch.notify import notifier as notifier_module
from mailwatch.notify.delivery import deliver, in_quiet_hours
from mailwatch.notify.events import certificate_notifications, disk_notifications
from mailwatch.notify.text import message_text, texts
from mailwatch.settings import Channel
from mailwatch.store import NewEntry, Reader, Store
from mailwatch.store.sqlite import database, file_moved
from mailwatch.times import now
from tests.helpers.notifications import ONE_BY_ONE, Record, channel, notify_until
from tests.helpers.patience import PATIENCE
from tests.helpers.webhook import Webhook

DAY = 86_400_000
NIGHT = 1_790_000_000_000 - 1_790_000_000_000 % DAY
"""A midnight, UTC."""


@pytest.fixture
def webhook() -> Iterator[Webhook]:
    receiver = Webhook().open()
    yield receiver
    receiver.close()


@pytest.fixture
def record(tmp_path: Path) -> Iterator[Record]:
    made = Record(tmp_path / "data")
    yield made
    made.closing.close()


async def test_an_outage_is_reported_when_it_opens_and_when_it_closes_once_each(
    record: Record, webhook: Webhook
) -> None:
    notifier = record.notifier(channel(webhook, group=0.0))
    record.outage("a")
    record.outage("a", closed=True)
    await notify_until(notifier, record.sent(2))
    # Following the same record again makes nothing new.
    record.outbox().put([], at=now(), cursor=0)
    again = record.notifier(channel(webhook, group=0.0))
    record.outage("b")
    await notify_until(again, record.sent(1))
    assert webhook.titles == ["MailWatch: a is down", "MailWatch: a works again", "MailWatch: b is down"]
    message = webhook.received[1]["message"]
    assert "down for at least 2 min, estimate 3 min" in message
    assert "outage id-a" in message
    assert "reported late" not in message
    assert record.counted == [("json-1", "sent")] * 3


async def test_outages_recorded_but_not_queued_are_sent_after_a_crash(record: Record, webhook: Webhook) -> None:
    # begin() of the first run set the cursor; it was killed before it followed.
    record.notifier(channel(webhook)).close()
    record.outage("a")
    await notify_until(record.notifier(channel(webhook)), record.sent(1))
    assert webhook.titles == ["MailWatch: a is down"]


async def test_events_before_the_first_channel_are_not_sent(record: Record, webhook: Webhook) -> None:
    record.outage("before")
    record.notifier()
    record.outage("unheard")
    record.notifier()
    # Who is new is notified of what comes from now on.
    notifier = record.notifier(channel(webhook, group=0.0))
    record.outage("a")
    record.outage("b")
    await notify_until(notifier, record.sent(2))
    assert webhook.titles == ["MailWatch: a is down", "MailWatch: b is down"]
    assert "before" not in str(webhook.received)


async def test_while_the_receiver_is_down_nothing_is_lost_and_the_order_stays(
    record: Record, webhook: Webhook, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(channel_worker, "RETRY_SECONDS", (0.05,))
    monkeypatch.setattr(notifier_module, "FOLLOW_SECONDS", 0.1)
    notifier = record.notifier(channel(webhook, group=0.0))
    webhook.status = 503
    for name in "abc":
        record.outage(name)
        record.outage(name, closed=True)

    async def heal() -> None:
        while len(webhook.refused) < 2:
            await asyncio.sleep(0.01)
        # From an answer that refuses to nobody at all, and back.
        await asyncio.to_thread(webhook.close)
        while record.counted.count(("json-1", "failed")) < 4:
            await asyncio.sleep(0.01)
        webhook.status = 200
        webhook.open()

    healing = asyncio.create_task(heal())
    await notify_until(notifier, record.sent(6))
    await healing
    wanted = [f"MailWatch: {name} {what}" for name in "abc" for what in ("is down", "works again")]
    assert webhook.titles == wanted
    assert {message["title"] for message in webhook.refused} == {wanted[0]}


async def test_ten_targets_down_are_one_message(record: Record, webhook: Webhook) -> None:
    notifier = record.notifier(channel(webhook, group=0.5))
    for number in range(10):
        record.outage(f"t{number}")
    await notify_until(notifier, record.sent(1))
    (message,) = webhook.received
    assert message["title"] == "MailWatch: 10 outages"
    assert [f"t{number}:" in message["message"] for number in range(10)] == [True] * 10
    assert record.counted == [("json-1", "sent")]


async def test_ten_targets_that_go_down_within_a_minute_are_two_messages(record: Record, webhook: Webhook) -> None:
    """As they do that are probed once a minute: one message for the first, one for the rest."""
    notifier = record.notifier(channel(webhook))
    record.outage("t0")
    await notify_until(notifier, record.sent(1))
    for number in range(1, 10):
        record.outage(f"t{number}")
    waiting = record.outbox()
    await notify_until(notifier, lambda: len(waiting.pending("json-1", 10)) == 9)
    assert len(webhook.received) == 1
    # A minute later.
    notifier._workers["json-1"]._grouping._sent[0] -= 60
    await notify_until(notifier, record.sent(1))
    assert webhook.titles == ["MailWatch: t0 is down", "MailWatch: 9 outages"]


@pytest.mark.slow
async def test_a_target_that_flaps_for_an_hour_causes_sixteen_messages(
    record: Record, webhook: Webhook, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It goes down and comes back each half minute, on a clock of its own."""
    clock = [NIGHT]
    for module in (notifier_module, channel_worker):
        monkeypatch.setattr(module, "now", lambda: clock[0])
    monkeypatch.setattr(time, "monotonic", lambda: clock[0] / 1000)
    destination = channel(webhook, group=10.0)
    notifier = record.notifier(destination)
    for second in range(0, 3600, 15):
        clock[0] = NIGHT + second * 1000
        record.outage(f"{second // 30}", closed=second % 30 == 15, at=clock[0])
        notifier._follow()
        await notifier._workers[destination.name]._next(destination)
    assert len(webhook.received) == 16
    # All is reported that is older than five minutes, and in its order.
    lines = [line for message in webhook.received for line in message["message"].splitlines()]
    assert [line.partition(":")[0] for line in lines] == [f"{n // 2}" for n in range(len(lines))]
    assert len(lines) >= 240 - 22


async def test_unreadable_or_unwritable_files_stop_neither_probes_nor_notifications(
    record: Record, webhook: Webhook, caplog: pytest.LogCaptureFixture
) -> None:
    """As another version may have left it."""
    other = Webhook().open()
    notifier = record.notifier(channel(webhook), channel(other, name="json-2"))
    record.store.append_batch([NewEntry(kind="outage", time=now(), target="a", payload={"id": "x"})])
    box = record.outbox()
    box.put([("json-1", Notification(key="close:x", event_type=EventType.CLOSE, time=now(), facts={}))], at=now())
    with contextlib.closing(sqlite3.connect(database(record.folder))) as later, later:
        later.execute(
            "INSERT INTO outbox (channel, key, event, time_ms, put_ms, payload)"
            " VALUES ('json-2', 'k', 'of a later version', 0, ?, '{}')", (now(),),
        )  # fmt: skip
    record.outage("b")
    await notify_until(
        notifier, lambda: bool(other.received) and "json-1: a message could not be written" in caplog.text
    )
    other.close()
    assert other.titles == ["MailWatch: b is down"]
    assert "no message for entry 0: internal error" in caplog.text


async def test_an_outage_of_a_removed_target_is_reported_once_to_the_same_channels(
    record: Record, webhook: Webhook
) -> None:
    at, asked = now() - 600_000, frozenset({EventType.CLOSE})
    destination = channel(webhook, group=0.0)
    notifier = record.notifier(destination)
    record.outage("lab", bad=at)
    await notify_until(notifier, record.sent(1))
    record.outage("lab", unwatched=True, bad=at)
    record.outage("late", unwatched=True, bad=at)
    later = channel(webhook, name="json-2", lang="it", group=0.0)
    notifier = record.notifier(destination, later, channel(webhook, name="json-3", on=asked, group=0.0))
    await notify_until(notifier, record.sent(1))
    record.outage("end")
    await notify_until(notifier, record.sent(2))
    titles = webhook.titles
    assert titles[:2] == ["MailWatch: lab is down", "MailWatch: lab is no longer monitored"]
    # No message to those who had none, none twice, none as over: only the next outage is reported to both.
    assert sorted(titles[2:]) == ["MailWatch: end is down", "MailWatch: end non funziona"]
    body = webhook.received[1]["message"]
    assert "whether it is still down is unknown" in body
    assert "down at least until" in body
    assert "works again" not in "".join(seconds["message"] for seconds in webhook.received)


async def test_an_outage_proven_afterwards_is_reported_as_what_it_was(record: Record, webhook: Webhook) -> None:
    notifier = record.notifier(channel(webhook))
    record.outage("a", closed=True, proven=True)
    await notify_until(notifier, record.sent(1))
    (message,) = webhook.received
    assert message["title"] == "MailWatch: login to a was rejected with the right password"
    assert "rejected the login although the password was right; an outage of at least 2 min" in message["message"]


async def test_an_outage_in_announced_maintenance_is_marked_as_such(record: Record, webhook: Webhook) -> None:
    notifier = record.notifier(channel(webhook), held="b")
    record.outage("a")
    record.outage("b")
    await notify_until(notifier, record.sent(1))
    one, other = webhook.received[0]["message"].splitlines()
    assert "maintenance" not in one
    assert other.endswith("; outage id-b [during announced maintenance]")


async def test_a_text_that_is_too_long_for_a_service_comes_in_pieces(
    webhook: Webhook, monkeypatch: pytest.MonkeyPatch
) -> None:
    """ntfy takes 7,800 characters, and refuses more however often it is asked."""
    # Apprise would wait between the pieces, as the public ntfy.sh asks.
    monkeypatch.setattr(NotifyNtfy, "request_rate_per_sec", 0)
    ntfy = channel(webhook, name="ntfy-1", url=SecretStr(f"ntfy://127.0.0.1:{webhook.port}/topic"))
    line = "word " * 60 + "\n"
    assert await deliver(ntfy, "title", line * 40) is None
    assert [len(message["message"]) <= 7800 for message in webhook.received] == [True, True]
    assert "".join(message["message"] for message in webhook.received).count("word") == 2400


async def test_a_heartbeat_that_hangs_is_given_up_and_tried_again(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    # By its module: the package gives the function the same name.
    monkeypatch.setattr(sys.modules["mailwatch.notify.heartbeat"], "TIMEOUT_SECONDS", 0.05)
    asked, third = [], asyncio.Event()

    async def hangs(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        asked.append(writer)
        if len(asked) == 3:
            third.set()

    server = await asyncio.start_server(hangs, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    beating = asyncio.create_task(
        send_heartbeats(SecretStr(f"http://127.0.0.1:{port}/canary"), 0.01, lambda: True)
    )
    async with asyncio.timeout(PATIENCE):
        await third.wait()
    beating.cancel()
    await asyncio.gather(beating, return_exceptions=True)
    for writer in asked:
        writer.close()
    server.close()
    assert caplog.text.count("heartbeat: it was not taken: ") == 1
    assert "canary" not in caplog.text


@pytest.mark.parametrize(
    ("night", "quiet"),
    [
        ("2026-03-28T23:00Z", [*range(6)]),  # spring: seven hours by the clock, six that pass
        ("2026-10-24T22:00Z", [*range(8)]),  # autumn: eight
    ],
)
def test_quiet_hours_end_by_the_clock_on_the_wall_also_when_it_is_changed(
    webhook: Webhook, night: str, quiet: list[int]
) -> None:
    rome = channel(webhook, quiet=(22 * 60, 7 * 60), timezone="Europe/Rome")
    midnight = int(datetime.fromisoformat(night).timestamp() * 1000)
    assert [hour for hour in range(12) if in_quiet_hours(rome, midnight + hour * 3_600_000)] == quiet


async def test_a_channel_gets_only_what_it_asked_for_in_its_language(record: Record, webhook: Webhook) -> None:
    other = Webhook().open()
    italian = channel(webhook, on=frozenset({EventType.CLOSE}), lang="it", timezone="Europe/Rome")
    notifier = record.notifier(italian, channel(other, name="json-2", on=frozenset({EventType.OPEN})))
    record.outage("a")
    record.outage("a", closed=True)
    await notify_until(notifier, record.sent(2))
    other.close()
    assert webhook.titles == ["MailWatch: a funziona di nuovo"]
    assert "stima 3 min" in webhook.received[0]["message"]
    assert "CEST" in webhook.received[0]["message"]
    assert other.titles == ["MailWatch: a is down"]


async def test_what_a_hub_confirms_is_a_message_and_so_is_its_end(record: Record, webhook: Webhook) -> None:
    notifier = record.notifier(channel(webhook, group=0.0, on=frozenset({EventType.CONFIRMED})))
    for confirmed, sights in ((True, ("down", "down", "up")), (False, ("down", "up", "silent"))):
        members = [{"ledger": f"m{number}", "sight": sight} for number, sight in enumerate(sights)]
        payload: dict[str, Any] = {"at": now(), "confirmed": confirmed, "k": 2, "kind": "imap"}
        payload |= {"provider": "libero", "members": members, "since": now() - 60_000}
        record.store.append_batch([NewEntry(kind="quorum", time=now(), target=None, payload=payload)])
    await notify_until(notifier, record.sent(2))
    assert webhook.titles == ["MailWatch: confirmed outage", "MailWatch: no longer confirmed"]
    assert "2 of 3 vantage points observe it" in webhook.received[0]["message"]


async def test_quiet_hours_hold_messages_and_ended_outages_are_not_sent_as_open(
    record: Record, webhook: Webhook
) -> None:
    quiet = channel(webhook, quiet=(22 * 60, 7 * 60))
    with time_machine.travel((NIGHT + 3_600_000) / 1000, tick=False):
        notifier = record.notifier(quiet)
        record.outage("over")
        record.outage("ongoing")
        record.outage("over", closed=True)
        waiting = record.outbox()
        await notify_until(notifier, lambda: bool(waiting.pending("json-1", 10)))
        keys = [letter.notification.key for letter in waiting.pending("json-1", 10)]
        assert keys == ["open:id-ongoing", "close:id-over"]
        assert webhook.received == []
    with time_machine.travel((NIGHT + 8 * 3_600_000) / 1000, tick=False):
        await notify_until(record.notifier(quiet), record.sent(1))
    assert webhook.titles == ["MailWatch: ongoing is down, over works again"]
    assert webhook.received[0]["message"].count("reported late") == 2


def test_quiet_hours_go_around_midnight_in_their_own_time_zone(webhook: Webhook) -> None:
    night, noon = channel(webhook, quiet=(22 * 60, 7 * 60)), channel(webhook, quiet=(12 * 60, 14 * 60))
    hours = [hour for hour in range(24) if in_quiet_hours(night, NIGHT + hour * 3_600_000)]
    assert hours == [0, 1, 2, 3, 4, 5, 6, 22, 23]
    assert [hour for hour in range(24) if in_quiet_hours(noon, NIGHT + hour * 3_600_000)] == [12, 13]
    rome = channel(webhook, quiet=(22 * 60, 7 * 60), timezone="Europe/Rome")
    assert [h for h in range(24) if in_quiet_hours(rome, NIGHT + h * 3_600_000)] == [0, 1, 2, 3, 4, 20, 21, 22, 23]


async def test_a_rejected_login_is_reported_once_until_it_worked_again(record: Record, webhook: Webhook) -> None:
    notifier = record.notifier(channel(webhook, group=0.0))
    record.observe("a", Outcome.UP)
    for _ in range(3):
        record.observe("a", Outcome.UNKNOWN, Cause.CREDENTIALS)
    record.observe("a", Outcome.UP)
    record.observe("a", Outcome.UNKNOWN, Cause.CREDENTIALS)
    # Rejected with others: that is an outage, and reported as one.
    record.observe("b", Outcome.DOWN, Cause.CREDENTIALS)
    record.outage("last")
    await notify_until(notifier, record.sent(3))
    assert webhook.titles == ["MailWatch: login to a rejected"] * 2 + ["MailWatch: last is down"]


async def test_an_offline_period_is_reported_when_it_is_over(record: Record, webhook: Webhook) -> None:
    notifier = record.notifier(channel(webhook))
    at = now()
    record.guard(True, at - 100_000)
    record.guard(False, at - 60_000, at - 70_000)
    record.guard(True, at - 10_000, at - 20_000)
    await notify_until(notifier, record.sent(1))
    (message,) = webhook.received
    assert message["title"] == "MailWatch: our own line was down"
    assert "at least 40.0 s" in message["message"]


def seen_certificate(left: int) -> Observation:
    tls = TlsFacts(version="TLSv1.3", cipher="x", fingerprint="0", not_after=NIGHT + left)
    attempt = Attempt(started_at=NIGHT, ended_at=NIGHT, tls=tls)
    return Observation(
        target="a", scheduled_at=NIGHT, started_at=NIGHT, ended_at=NIGHT, outcome=Outcome.UP, attempts=(attempt,)
    )


@pytest.mark.parametrize(
    ("left", "days"),
    [(15 * DAY, []), (14 * DAY, [14]), (4 * DAY, [14]), (3 * DAY, [3]), (1, [3]), (0, []), (-DAY, [])],
)
def test_a_certificate_is_warned_of_at_14_days_and_at_3(left: int, days: list[int]) -> None:
    assert [news.facts["days"] for news in certificate_notifications(seen_certificate(left), NIGHT)] == days


@pytest.mark.parametrize(
    ("left", "free", "text"),
    [
        (
            None,
            1,
            "Only 1 MB are free on the disk of the ledger; free some space, or MailWatch cannot record anything",
        ),
        (2.9, 1, "anything; the ledger grows by 3 MB a day and fills it within 2 days"),
        (2.9, 900, "The ledger grows by 3 MB a day and fills its disk within 2 days (900 MB are free)"),
        (13.2, 900, "fills its disk within 13 days"),
        (14.0, 900, ""),
        (math.inf, 900, ""),
        (None, 900, ""),
    ],
)
@pytest.mark.parametrize("language", ["en", "it"])
def test_a_disk_is_warned_of_when_it_is_nearly_full_and_14_and_3_days_before(
    language: str, left: float | None, free: int, text: str
) -> None:
    budget = StorageBudget(LedgerSizes(rows=1, entries=1), 2_500_000.0, left)
    found = list(disk_notifications(free * 1_000_000, free < 500, budget, NIGHT))
    assert len({news.key for news in found}) == len(found) == bool(text)
    if text and language == "en":
        assert text in message_text(found, channel_in("en"), NIGHT)[1]
    elif text:
        title, body = message_text(found, channel_in("it"), NIGHT)
        assert "disco" in title
        assert ("giorni" in body) is (left is not None)


def channel_in(language: str) -> Channel:
    return Channel(name="x", url=SecretStr("json://127.0.0.1"), lang=language)


async def test_a_full_disk_and_a_certificate_are_reported_once(
    record: Record, webhook: Webhook, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(notifier_module, "LOW_DISK_BYTES", 1 << 62)
    monkeypatch.setattr(notifier_module, "STATE_SECONDS", 0.05)
    with time_machine.travel(NIGHT / 1000, tick=False):
        observation = seen_certificate(2 * DAY)
        notifier = record.notifier(channel(webhook, group=0.0), latest=(observation, observation))
        await notify_until(notifier, record.sent(2))
        record.outage("last")
        await notify_until(notifier, record.sent(1))
    assert webhook.titles == [
        "MailWatch: certificate of a expires soon",
        "MailWatch: disk nearly full",
        "MailWatch: last is down",
    ]


async def test_a_message_refused_for_a_week_is_given_up_and_reported(
    record: Record, webhook: Webhook, caplog: pytest.LogCaptureFixture
) -> None:
    box = record.outbox()
    old = Notification(key="disk:1", event_type=EventType.DISK, time=now() - 8 * DAY, facts={"free": 1})
    box.put([("json-9", old)], at=now() - 8 * DAY)
    await notify_until(record.notifier(channel(webhook)), lambda: bool(record.counted))
    assert record.counted == [("json-9", "dropped")]
    assert "json-9 never took disk:1; it is given up after 7 days" in caplog.text
    assert box.pending("json-9", 10) == []
    assert webhook.received == []


async def test_a_clock_set_ahead_gives_up_no_message(record: Record, webhook: Webhook) -> None:
    webhook.status = 503
    notifier = record.notifier(channel(webhook, group=0.0))
    record.outage("a")
    await notify_until(notifier, lambda: bool(webhook.refused))
    with time_machine.travel(datetime.now(UTC) + timedelta(days=30)):
        await asyncio.to_thread(notifier._check_states)
    assert ("json-1", "dropped") not in record.counted
    assert [letter.notification.key for letter in record.outbox().pending("json-1", 10)] == ["open:id-a"]
    webhook.status = 200


async def test_an_invalid_ledger_is_reported_without_an_outbox_and_not_at_every_restart(
    tmp_path: Path, webhook: Webhook
) -> None:
    for _ in range(3):
        await notify_ledger_broken([channel(webhook)], tmp_path, "entry 7 is missing")
    assert webhook.titles == ["MailWatch: ledger invalid"]
    assert "entry 7 is missing" in webhook.received[0]["message"]
    # As a clock leaves it that was a year ahead.
    os.utime(tmp_path / "told-broken", (time.time() + 365 * 86_400,) * 2)
    await notify_ledger_broken([channel(webhook)], tmp_path, "entry 7 is missing")
    assert len(webhook.titles) == 2


async def test_files_of_the_ledger_that_were_moved_are_not_called_invalid(
    tmp_path: Path, webhook: Webhook
) -> None:
    ring = DamageAlarm([channel(webhook)], tmp_path, Metrics(CollectorRegistry()))
    ring.trigger(file_moved(tmp_path / "mailwatch.sqlite"))
    await asyncio.sleep(0)
    await ring.finish(10)
    assert webhook.titles == ["MailWatch: files of the ledger moved or removed"]
    message = webhook.received[0]["message"]
    assert "not what was written" not in message
    assert "put it back, and MailWatch writes them" in message


def test_a_duration_in_an_italian_message_has_a_comma(webhook: Webhook) -> None:
    facts = {"first_offline": NIGHT, "first_online": NIGHT, "duration_ms": {"min": 59_900}}
    news = [Notification(key="k", event_type=EventType.OFFLINE, time=NIGHT, facts=facts)]
    assert "per almeno 59,9 s;" in message_text(news, channel(webhook, lang="it"), NIGHT)[1]
    assert "for at least 59.9 s;" in message_text(news, channel(webhook, lang="en"), NIGHT)[1]


def test_both_languages_say_the_same_and_every_topic_has_its_text(webhook: Webhook) -> None:
    fields = {
        "target": "a", "provider": "lab", "kind": "imap", "id": "x", "causes": {"timeout": 1}, "first_bad": NIGHT,
        "first_good": None, "duration_ms": {"min": 7_200_000, "estimate": None}, "first_offline": NIGHT,
        "first_online": NIGHT, "not_after": NIGHT, "days": 3, "free": 10, "finding": "entry 7",
        "vantage_point": "here", "sign": "loop", "seconds": 5, "daily": 3,
        "channel": "lab (imap)", "down": 2, "count": 3, "k": 2,
    }  # fmt: skip
    assert texts("it").keys() == texts("en").keys()
    others = {
        "moved",
        "proven",
        "unanswered",
        "unwatched",
        "monitor_over",
        "witness",
        "disk_full",
        "confirmed_over",
    }
    assert texts("it").section("title").keys() == texts("en").section("title").keys() == ONE_BY_ONE | others
    assert texts("it").section("cause").keys() == texts("en").section("cause").keys() == set(Cause)
    for lang in ("it", "en"):
        # Incidents write their own text (test_incident_messages.py).
        for topic in ONE_BY_ONE:
            many = [Notification(key="k", event_type=topic, time=NIGHT, facts=fields)] * 25
            title, body = message_text(many, channel(webhook, lang=lang), NIGHT)
            assert title.startswith("MailWatch: ")
            assert "{" not in title + body
            assert len(body.splitlines()) == 21
    assert (
        "2 h, stima non nota"
        in message_text(
            [Notification(key="k", event_type=EventType.CLOSE, time=NIGHT, facts=fields)],
            channel(webhook, lang="it"),
            NIGHT,
        )[1]
    )


async def test_an_outbox_that_cannot_be_written_does_not_end_the_monitor(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As with a full disk. There is no channel, as in the default install: its loop must go on all the same."""
    monkeypatch.setattr(notifier_module, "STATE_SECONDS", 0.01)
    store, reader = Store.open(tmp_path), Reader.open(tmp_path)
    notifier = Notifier([], tmp_path, reader, latest=list, count=lambda *_: None)
    notifier.restore_cursor()
    notified, broken = asyncio.Event(), sqlite3.connect(database(tmp_path))
    monkeypatch.setattr(notifier_module.logger, "error", lambda *_: notified.set())
    broken.execute("ALTER TABLE outbox_cursor RENAME TO elsewhere")
    running = asyncio.create_task(notifier.run())
    await asyncio.wait([running, asyncio.create_task(notified.wait())], return_when=asyncio.FIRST_COMPLETED)
    assert notified.is_set()
    assert not running.done()
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
    broken.close()
    notifier.close()
    reader.close()
    store.close()
