"""Messages go with the address of their channel, whatever its name and place in the list."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from pydantic import SecretStr

from mailwatch.model import EventType, Notification
from mailwatch.notify.channel_names import address_id, renamed_channels
from mailwatch.notify.notifier import Notifier
from mailwatch.settings import Channel
from mailwatch.times import now
from tests.helpers.notifications import Record, notify_until
from tests.helpers.webhook import Webhook


def channel(name: str, address: str, place: str = "") -> Channel:
    return Channel(name=name, url=SecretStr(f"json://127.0.0.1/{address}"), place=place or name, group=0.0)


def renamed(channels: list[Channel], known: dict[str, str]) -> dict[str, str]:
    return renamed_channels(channels, {each.name: each.url.get_secret_value()[-1] for each in channels}, known)


@pytest.mark.parametrize(
    ("channels", "known", "expected"),
    [
        # As it was, or with one more, or with another address under the same name.
        ([channel("json-1", "a")], {"json-1": "a"}, {}),
        ([channel("json-1", "a"), channel("json-2", "b")], {"json-1": "a"}, {}),
        ([channel("json-1", "b")], {"json-1": "a"}, {}),
        # Swapped, moved up, named, renamed.
        (
            [channel("json-1", "b"), channel("json-2", "a")],
            {"json-1": "a", "json-2": "b"},
            {"json-1": "json-2", "json-2": "json-1"},
        ),
        (
            [channel("json-1", "b")],
            {"json-1": "a", "json-2": "b"},
            {"json-2": "json-1", "json-1": "json-1 (removed)"},
        ),
        ([channel("phone", "a", "json-1")], {"json-1": "a"}, {"json-1": "phone"}),
        ([channel("tablet", "a", "json-1")], {"phone": "a"}, {"phone": "tablet"}),
        # Only their names distinguish two of one address.
        ([channel("x", "a"), channel("y", "a")], {"y": "a", "z": "a"}, {}),
        # A version that knew places only.
        ([channel("phone", "a", "json-1"), channel("json-2", "b")], {}, {"json-1": "phone"}),
        ([channel("json-2", "a", "json-1"), channel("x", "b", "json-2")], {}, {"json-1": "json-2"}),
    ],
)  # fmt: skip
def test_what_is_known_by_its_address_keeps_its_messages(
    channels: list[Channel], known: dict[str, str], expected: dict[str, str]
) -> None:
    assert renamed(channels, known) == expected


def test_the_id_of_an_address_needs_the_secret_and_does_not_show_it() -> None:
    one = channel("x", "canary")
    assert address_id(b"s" * 32, one) == address_id(b"s" * 32, channel("y", "canary"))
    assert address_id(b"s" * 32, one) != address_id(b"t" * 32, one)
    assert "canary" not in address_id(b"s" * 32, one)


@pytest.fixture
def record(tmp_path: Path) -> Iterator[Record]:
    made = Record(tmp_path / "data")
    yield made
    made.closing.close()


@pytest.fixture
def webhooks() -> Iterator[tuple[Webhook, Webhook]]:
    one, two = Webhook().open(), Webhook().open()
    yield one, two
    one.close()
    two.close()


def notifier(record: Record, *channels: Channel) -> Notifier:
    made = Notifier(
        channels, record.folder, record.reader, latest=lambda: (),
        count=lambda *found: record.counted.append(found),
        identify=lambda each: address_id(b"s" * 32, each),
    )  # fmt: skip
    record.closing.callback(made.close)
    made.restore_cursor()
    return made


def put(record: Record, name: str, key: str) -> None:
    facts = {"finding": key, "moved": False}
    message = Notification(key=key, event_type=EventType.LEDGER, time=now(), facts=facts)
    record.outbox().put([(name, message)], at=now())


def to(webhook: Webhook, name: str, place: str) -> Channel:
    return Channel(name=name, url=SecretStr(webhook.url), place=place, group=0.0)


async def test_a_reload_that_swaps_two_channels_swaps_their_messages(
    record: Record, webhooks: tuple[Webhook, Webhook]
) -> None:
    one, two = webhooks
    running = notifier(record, to(one, "json-1", "json-1"), to(two, "json-2", "json-2"))
    put(record, "json-1", "for one")
    put(record, "json-2", "for two")
    await running.change([to(two, "json-1", "json-1"), to(one, "mine", "json-2")])
    await notify_until(running, record.sent(2))
    assert ["for one" in each["message"] for each in one.received] == [True]
    assert ["for two" in each["message"] for each in two.received] == [True]


async def test_what_a_channel_got_is_not_sent_again_under_its_new_name(
    record: Record, webhooks: tuple[Webhook, Webhook]
) -> None:
    one, _ = webhooks
    running = notifier(record, to(one, "json-1", "json-1"))
    put(record, "json-1", "once")
    await notify_until(running, record.sent(1))
    # Under both names, as after a name that was changed and changed back: only one of them may stay.
    put(record, "phone", "once")
    again = notifier(record, to(one, "phone", "json-1"))
    put(record, "phone", "another")
    await notify_until(again, record.sent(1))
    assert ["once" in each["message"] for each in one.received] == [True, False]


async def test_messages_of_a_channel_that_is_gone_are_reported_and_go_to_no_other(
    record: Record, webhooks: tuple[Webhook, Webhook], caplog: pytest.LogCaptureFixture
) -> None:
    one, two = webhooks
    notifier(record, to(one, "json-1", "json-1"), to(two, "json-2", "json-2"))
    put(record, "json-1", "for one")
    again = notifier(record, to(two, "json-1", "json-1"))
    put(record, "json-1", "for two")
    await notify_until(again, record.sent(1))
    assert "1 message(s) wait for json-1 (removed), which is not in the config" in caplog.text
    assert [("for two" in each["message"]) for each in two.received] == [True]
    assert one.received == []
    # Back in the list, it gets what is its own.
    last = notifier(record, to(two, "json-1", "json-1"), to(one, "json-2", "json-2"))
    await notify_until(last, record.sent(1))
    assert [("for one" in each["message"]) for each in one.received] == [True]
