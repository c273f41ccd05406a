"""A message that its service refuses holds up nothing else: a scripted web service, and a real Postfix."""

from __future__ import annotations

import asyncio
import contextlib
import json
import sqlite3
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from apprise.decorators import notify
from hypothesis import given
from hypothesis import strategies as st
from pydantic import SecretStr

from mailwatch.model import EventType, Notification
from mailwatch.notify import channel_worker, delivery
from mailwatch.notify import notifier as notifier_module
from mailwatch.notify.delivery import DeliveryFault, classify_failure, deliver, sendable
from mailwatch.notify.retries import RetryQueue
from mailwatch.settings import Channel
from mailwatch.store import OutboxMessage
from mailwatch.store.sqlite import database
from mailwatch.times import now
from tests.helpers.notifications import ONE_BY_ONE, Record, channel, notify_until
from tests.helpers.requirements import need_root
from tests.helpers.webhook import Webhook
from tests.servers import ALICE, POSTFIX, Certificates, Dovecot, Postfix, server_folder

CANARY = "canary-7f3a"


@pytest.fixture
def webhook() -> Iterator[Webhook]:
    receiver = Webhook().open()
    yield receiver
    receiver.close()


@pytest.fixture
def other() -> Iterator[Webhook]:
    """The owner's second channel."""
    receiver = Webhook().open()
    yield receiver
    receiver.close()


@pytest.fixture
def record(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Record]:
    monkeypatch.setattr(channel_worker, "RETRY_SECONDS", (0.02, 0.05))
    monkeypatch.setattr(notifier_module, "FOLLOW_SECONDS", 0.1)
    monkeypatch.setattr(delivery, "INTERVALS_SECONDS", (0.0,))
    made = Record(tmp_path / "data")
    yield made
    made.closing.close()


def about(name: str, status: int) -> Callable[[dict[str, Any]], int]:
    """A service that answers so to what is about a target, and takes the rest."""
    return lambda message: (
        status if f" {name} " in message["title"] or f"\n{name}: " in f"\n{message['message']}" else 200
    )


@pytest.mark.parametrize(
    ("message", "fault", "code"),
    [
        ("Failed to send JSON notification: Bad Request, error=400.", DeliveryFault.REFUSED, "HTTP 400"),
        ("error=413.", DeliveryFault.REFUSED, "HTTP 413"),
        ("error=422.", DeliveryFault.REFUSED, "HTTP 422"),
        ("error=40010.", DeliveryFault.REFUSED, "HTTP 400"),
        ("error=401.", DeliveryFault.DENIED, "HTTP 401"),
        ("error=404.", DeliveryFault.DENIED, "HTTP 404"),
        ("error=301.", DeliveryFault.DENIED, "HTTP 301"),
        ("error=408.", DeliveryFault.SILENT, "HTTP 408"),
        ("error=429.", DeliveryFault.SILENT, "HTTP 429"),
        ("error=42901.", DeliveryFault.SILENT, "HTTP 429"),
        ("error=500.", DeliveryFault.BUSY, "HTTP 500"),
        ("error=400. error=503.", DeliveryFault.BUSY, "HTTP 503"),
        ("Socket Exception: (554, b'5.7.1 rejected')", DeliveryFault.REFUSED, "SMTP 554"),
        ("Socket Exception: {'a@b': (550, b'5.1.1 unknown')}", DeliveryFault.REFUSED, "SMTP 550"),
        ("SMTP recipient a@b was refused: 452 b'full'", DeliveryFault.BUSY, "SMTP 452"),
        ("Connection error ... Socket Exception: (535, b'no')", DeliveryFault.DENIED, "SMTP 535"),
        ("Socket Exception: (421, b'busy')", DeliveryFault.SILENT, "SMTP 421"),
        ("A Connection error occurred sending JSON", DeliveryFault.SILENT, ""),
        ("", DeliveryFault.BUSY, ""),
    ],
)
def test_each_http_answer_has_its_meaning(message: str, fault: DeliveryFault, code: str) -> None:
    answer = classify_failure([message])
    assert (answer.fault, answer.code) == (fault, code)


@pytest.mark.parametrize("status", [400, 403, 404, 405, 413, 422])
@pytest.mark.parametrize("group", [0.0, 0.1], ids=["alone", "together"])
async def test_a_message_that_is_refused_for_good_is_set_aside_and_the_others_go_on(
    record: Record, webhook: Webhook, other: Webhook, status: int, group: float, caplog: pytest.LogCaptureFixture
) -> None:
    webhook.answers = about("b", status)
    notifier = record.notifier(channel(webhook, group=group), channel(other, name="json-2", group=0.0))
    for name in "abc":
        record.outage(name)
    message = f"Channel json-1 rejected a message permanently (HTTP {status})"
    # What denies all alike may be the channel: it is tried once more when the channel has taken something.
    times = 2 if status in (403, 404) else 1
    refused = ("json-1", "refused")
    await notify_until(
        notifier,
        lambda: (
            message in str(other.received)
            and len(other.received) == 4
            and record.counted.count(refused) == times
            and record.counted.count(("json-1", "sent")) == 2
        ),
    )
    assert {message["message"][:7] for message in webhook.received} == {"a: down", "c: down"}
    assert f"json-1 refuses open:id-b for good: it answered {status}; it is set aside" in caplog.text
    box = record.outbox()
    (aside,) = box.failed_messages(10)
    assert (aside.channel, aside.key, aside.topic) == ("json-1", "open:id-b", "open")
    assert aside.outcome == f"{'denied' if times == 2 else 'refused'} (HTTP {status})"
    assert box.pending("json-1", 10) == []
    # pytest listens to loggers that hand on nothing, such as Apprise's, too.
    ours = [entry.getMessage() for entry in caplog.records if entry.name.startswith("mailwatch")]
    assert CANARY not in str(ours) + str(box.failed_messages(10)) + str(other.received)


async def test_deferred_messages_keep_the_order_of_their_outage(record: Record, webhook: Webhook) -> None:
    """A service that stumbles over one message; the end of its outage waits, the other outages do not."""
    webhook.answers = about("a", 500)
    notifier = record.notifier(channel(webhook, group=0.0))
    record.outage("a")
    record.outage("b")
    record.outage("a", closed=True)
    record.outage("b", closed=True)
    await notify_until(notifier, record.sent(2))
    assert webhook.titles == ["MailWatch: b is down", "MailWatch: b works again"]
    assert {message["title"] for message in webhook.refused} == {"MailWatch: a is down"}
    assert ("json-1", "refused") not in record.counted
    webhook.answers = lambda _: 200
    # One that was under way when the first notifier ended may come twice, and nothing counts it.
    await notify_until(
        record.notifier(channel(webhook, group=0.0)), lambda: "MailWatch: a works again" in webhook.titles
    )
    assert list(dict.fromkeys(webhook.titles[2:])) == ["MailWatch: a is down", "MailWatch: a works again"]


@pytest.mark.parametrize("status", [408, 429])
async def test_a_service_that_throttles_is_sent_nothing_else(
    record: Record, webhook: Webhook, status: int
) -> None:
    webhook.status = status
    notifier = record.notifier(channel(webhook, group=0.0))
    record.outage("a")
    record.outage("b")
    await notify_until(notifier, lambda: len(webhook.refused) > 6)
    assert {message["title"] for message in webhook.refused} == {"MailWatch: a is down"}
    assert ("json-1", "refused") not in record.counted


async def test_messages_an_address_denied_are_sent_once_it_is_corrected(record: Record, webhook: Webhook) -> None:
    """A token that was changed at the service, and then in the config: nothing of a week is lost."""
    webhook.status = 401
    record.outage("before")
    destination = channel(webhook, group=0.0)
    notifier = record.notifier(destination)
    record.outage("a")
    record.outage("b")
    await notify_until(notifier, lambda: record.counted.count(("json-1", "refused")) == 2)
    assert record.outbox().pending("json-1", 10) == []
    webhook.status = 200
    await notify_until(record.notifier(destination), record.sent(2))
    assert webhook.titles == ["MailWatch: a is down", "MailWatch: b is down"]


async def test_a_denied_message_is_not_sent_after_a_later_one_about_the_same_target(
    record: Record, webhook: Webhook
) -> None:
    webhook.status = 403
    destination = channel(webhook, group=0.0)
    notifier = record.notifier(destination)
    record.outage("a")
    await notify_until(notifier, lambda: record.counted.count(("json-1", "refused")) == 1)
    webhook.status = 200
    record.outage("a", closed=True)
    record.outage("b")
    await notify_until(notifier, record.sent(2))
    await notify_until(record.notifier(destination), lambda: not record.outbox().pending("json-1", 10))
    assert webhook.titles == ["MailWatch: a works again", "MailWatch: b is down"]
    # It was denied, and `notify list` goes on saying so.
    (failed,) = record.outbox().failed_messages(10)
    assert failed.outcome.startswith("denied")


def _news(key: str, event: EventType, **facts: object) -> Notification:
    return Notification(key=key, event_type=event, time=now(), facts=facts)


@pytest.mark.parametrize(
    ("denied", "later", "stays"),
    [
        # Incidents of a provider that became one have the id of the older.
        (
            _news("1", EventType.INCIDENT, id="x", provider="libero", targets=["a"]),
            _news("2", EventType.INCIDENT, id="y", provider="libero", targets=["b"]),
            False,
        ),
        (
            _news("1", EventType.INCIDENT, id="x", provider="libero", targets=["a"]),
            _news("2", EventType.INCIDENT, id="y", provider="virgilio", targets=["b"]),
            True,
        ),
        (
            _news("1", EventType.INCIDENT, id="x", provider="", targets=["a"]),
            _news("2", EventType.INCIDENT, id="y", provider="", targets=["b"]),
            True,
        ),
        (_news("1", EventType.OPEN, target="a"), _news("2", EventType.CLOSE, target="a"), False),
        # What was proven afterwards says nothing of now.
        (
            _news("1", EventType.OPEN, target="a"),
            _news("2", EventType.CLOSE, target="a", proven_afterwards=True),
            True,
        ),
        (_news("1", EventType.CREDENTIALS, target="a"), _news("2", EventType.CLOSE, target="a"), True),
        (_news("1", EventType.MONITOR, sign="disk"), _news("2", EventType.MONITOR, sign="disk", over=True), False),
        (_news("1", EventType.MONITOR, sign="disk"), _news("2", EventType.MONITOR, sign="loop"), True),
    ],
)
@pytest.mark.parametrize("outcome", ["", "sent", "refused (HTTP 400)"])
def test_a_denied_message_is_moot_once_a_later_one_is_queued_or_sent(
    record: Record, denied: Notification, later: Notification, stays: bool, outcome: str
) -> None:
    box, at = record.outbox(), now()
    box.put([("c", denied), ("other", later), ("c", later)], at=at)
    first, second = box.pending("c", 10)
    box.done([first.number], "denied (HTTP 403)", at)
    if outcome:
        box.done([second.number], outcome, at)
    box.retry(at)
    kept = stays or outcome.startswith("refused")
    assert (denied in [message.notification for message in box.pending("c", 10)]) is kept


async def test_two_channels_that_refuse_everything_do_not_report_each_other_for_ever(
    record: Record, webhook: Webhook, other: Webhook
) -> None:
    webhook.status = other.status = 400
    notifier = record.notifier(channel(webhook, group=0.0), channel(other, name="json-2", group=0.0))
    record.outage("a")
    outbox = record.outbox()
    await notify_until(notifier, lambda: len(outbox.failed_messages(10)) == 4)
    await notify_until(notifier, lambda: not outbox.pending("json-2", 10))
    keys = {(one.channel, one.key.rpartition(":")[0]) for one in outbox.failed_messages(10)}
    assert keys == {
        ("json-1", "open"), ("json-2", "open"),
        ("json-1", "channel:refused:json-2"), ("json-2", "channel:refused:json-1"),
    }  # fmt: skip


async def test_a_channel_that_fails_for_an_hour_is_reported_by_the_others(
    record: Record, webhook: Webhook, other: Webhook, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(channel_worker, "FAILING_AFTER_SECONDS", 0.1)
    webhook.close()
    notifier = record.notifier(channel(webhook, group=0.0), channel(other, name="json-2", group=0.0, lang="it"))
    record.outage("a")
    await notify_until(notifier, lambda: "Il canale json-1 non accetta messaggi da un'ora" in str(other.received))
    assert len(other.received) == 2


async def test_unwritable_messages_are_set_aside_and_the_channel_goes_on(
    record: Record, webhook: Webhook, caplog: pytest.LogCaptureFixture
) -> None:
    notifier = record.notifier(channel(webhook))
    box = record.outbox()
    box.put([("json-1", Notification(key="close:x", event_type=EventType.CLOSE, time=now(), facts={}))], at=now())
    box.put([("json-1", Notification(key="close:y", event_type=EventType.CLOSE, time=now(), facts={}))], at=now())
    with contextlib.closing(sqlite3.connect(database(record.folder))) as damaged, damaged:
        damaged.execute("UPDATE outbox SET payload = '{\"id' WHERE key = 'close:y'")
    record.outage("b")
    await notify_until(notifier, record.sent(1))
    assert webhook.titles == ["MailWatch: b is down"]
    assert {one.outcome for one in box.failed_messages(10)} == {"refused (text)"}
    assert "a message could not be written: internal error" in caplog.text


@pytest.mark.parametrize("odd", ["\ud800", "a\x00b", "\x1b[2J", "è\u202e\u2028", "x" * 100_000, ""])
async def test_unusual_texts_are_delivered(webhook: Webhook, odd: str) -> None:
    assert await deliver(channel(webhook), f"MailWatch: {odd}\nBcc: x", odd or " ") is None
    assert "\n" not in webhook.titles[0]
    text = json.dumps(webhook.received, ensure_ascii=False)
    assert not {"\ud800", "\x00", "\x1b"} & set(text)


@given(st.text())
def test_sendable_text_can_be_encoded_and_ordinary_text_is_unchanged(text: str) -> None:
    sendable(text).encode("utf-8")
    assert sendable(sendable(text)) == sendable(text)
    assert sendable("Città: «è» 漢字 🙂\n") == "Città: «è» 漢字 🙂\n"


def letter(number: int, subject: str) -> OutboxMessage:
    return OutboxMessage(
        number,
        0,
        Notification(key=f"{subject}:{number}", event_type=EventType.OPEN, time=0, facts={"id": subject}),
    )


@given(st.lists(st.sampled_from("abcd"), min_size=1, max_size=30), st.sets(st.integers(0, 29), max_size=8))
def test_after_a_refused_message_the_rest_arrives_in_order(subjects: list[str], poison: set[int]) -> None:
    """On a clock that the test moves; nobody waits for ever for what has nothing to do with it."""
    clock = [0.0]
    turns = RetryQueue(lambda: clock[0])
    waiting = [letter(number, subject) for number, subject in enumerate(subjects)]
    stuck = {
        letter.notification.facts["id"]: letter.number for letter in reversed(waiting) if letter.number in poison
    }
    free = [one.number for one in waiting if one.number < stuck.get(one.notification.facts["id"], 1000)]
    arrived: list[int] = []
    for _ in range(2000):
        if len(arrived) == len(free):
            break
        due, wait = turns.next_messages(waiting)
        if not due:
            assert wait > 0
            clock[0] += wait
            continue
        head = due[0]
        if head.number in poison:
            turns.failed([head.number], DeliveryFault.BUSY)
        else:
            arrived.append(head.number)
            waiting.remove(head)
            turns.succeeded()
    assert sorted(arrived) == sorted(free)
    for subject in set(subjects):
        of_one = [number for number in arrived if subjects[number] == subject]
        assert of_one == sorted(of_one)


def test_a_real_mail_server_that_refuses_one_message_gets_the_others(
    record: Record, certificates: Certificates, monkeypatch: pytest.MonkeyPatch
) -> None:
    need_root(str(POSTFIX))
    monkeypatch.setenv("SSL_CERT_FILE", str(certificates.ca_file))
    with (
        server_folder() as one,
        Dovecot(one, certificates, lmtp=True).running() as dovecot,
        server_folder() as two,
        Postfix(two, certificates, dovecot.auth_socket, lmtp_port=dovecot.lmtp_port).running() as postfix,
    ):
        checks = two / "checks"
        checks.write_text("/^Subject: MailWatch: b / REJECT 5.7.1 looks like spam\n")
        checks.chmod(0o644)
        postfix._say("postconf", "-e", f"header_checks=regexp:{checks}")
        postfix._say("postfix", "reload")
        login = f"{quote(ALICE, safe='')}:{quote(dovecot.passwords[ALICE], safe='')}"
        where = f"localhost:{postfix.submissions_port}?mode=ssl&from={ALICE}&to={ALICE}"
        destination = Channel(
            name="mailtos-1", url=SecretStr(f"mailtos://{login}@{where}"), group=0.0, on=ONE_BY_ONE
        )
        notifier = record.notifier(destination)
        for name in "abc":
            record.outage(name)
        asyncio.run(notify_until(notifier, lambda: len(record.counted) >= 3))
    assert record.counted == [("mailtos-1", "sent"), ("mailtos-1", "refused"), ("mailtos-1", "sent")]
    (aside,) = record.outbox().failed_messages(10)
    assert (aside.key, aside.outcome) == ("open:id-b", "refused (SMTP 550)")


async def test_a_message_that_fails_again_and_again_without_a_reason_is_given_up_and_the_others_go_on(
    record: Record, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(channel_worker, "RETRY_SECONDS", (0.01,))
    taken: list[str] = []

    @notify(on="silentlyfails")  # type: ignore[no-untyped-call,untyped-decorator]
    def deliver(body: str, title: str, *_: Any, **__: Any) -> bool:
        if " b " in title:
            return False
        taken.append(title)
        return True

    notifier = record.notifier(Channel(name="x-1", url=SecretStr("silentlyfails://x"), group=0.0, on=ONE_BY_ONE))
    for name in "abc":
        record.outage(name)
    await notify_until(notifier, lambda: ("x-1", "refused") in record.counted)
    assert taken == ["MailWatch: a is down", "MailWatch: c is down"]
    assert "x-1 refuses open:id-b for good: no reason was given, 6 times; it is set aside" in caplog.text
    (aside,) = record.outbox().failed_messages(10)
    assert aside.outcome == "denied (no reason)"


async def test_when_no_channel_takes_anything_mailwatch_is_not_ready(
    record: Record, webhook: Webhook, other: Webhook
) -> None:
    webhook.status = 400
    notifier = record.notifier(channel(webhook, group=0.0), channel(other, name="json-2", group=0.0))
    record.outage("a")
    await notify_until(notifier, lambda: ("json-1", "refused") in record.counted and len(other.received) >= 1)
    # One channel works, and reports the other one.
    assert notifier.unreachable_reasons() == []
    other.status = 413
    record.outage("b")
    await notify_until(notifier, lambda: record.counted.count(("json-2", "refused")) >= 1)
    assert notifier.unreachable_reasons() == [
        "no notification arrives: json-1: it refuses messages for good (HTTP 400); "
        "json-2: it refuses messages for good (HTTP 413)"
    ]
    webhook.status = 200
    record.outage("c")
    await notify_until(notifier, lambda: ("json-1", "sent") in record.counted)
    assert notifier.unreachable_reasons() == []
