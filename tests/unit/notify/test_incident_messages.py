"""One provider down is one message: how many of how many, since when, why and where; another when all are back."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import time_machine

from mailwatch.analysis.incidents import incident_id
from mailwatch.analysis.outage_record import OutageSubject
from mailwatch.model import RESUMED, Cause, EventType, Kind, Notification, Outcome
from mailwatch.monitor.acknowledge import acknowledge
from mailwatch.notify import Notifier, incident_rows
from mailwatch.notify.incident_events import IncidentStep
from mailwatch.notify.incident_rows import latest_rows
from mailwatch.notify.text import message_text, texts
from mailwatch.settings import Channel
from mailwatch.store import OutboxMessage, queries
from mailwatch.store.acknowledgements import UnknownSubjectError, acknowledged_incident
from mailwatch.times import now
from tests.helpers.notifications import Record, channel, notify_until
from tests.helpers.webhook import Webhook

BAD = 1_790_000_000_000
"""2026-09-21 15:33:20 in Rome."""
ROME = "Europe/Rome"
EVERY_EVENT = frozenset(EventType)


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


def watch(record: Record, provider: str, *names: str, kinds: tuple[Kind, ...] = (Kind.IMAP,)) -> None:
    """Mailboxes of a provider, each with a target of each kind."""
    for name in names:
        for kind in kinds:
            subject = OutageSubject(provider=provider, kind=kind, vantage_point="here", account=f"acc-{name}")
            record.watched[f"{name}@{provider}.example/{kind}"] = subject


def down(
    record: Record, provider: str, name: str, kind: Kind = Kind.IMAP, *, closed: bool = False, number: int = 0
) -> None:
    record.outage(
        f"{name}@{provider}.example/{kind}",
        provider=provider,
        account=f"acc-{name}",
        kind=kind,
        closed=closed,
        cause="refused",
        bad=BAD + number * 1_000_000,
        number=number,
    )


def incident_channel(webhook: Webhook, **more: object) -> Channel:
    return channel(webhook, on=EVERY_EVENT, group=0.3, lang="it", timezone=ROME, **more)


async def test_a_provider_down_is_one_message_and_its_return_is_one(record: Record, webhook: Webhook) -> None:
    names = [f"m{number}" for number in range(8)]
    watch(record, "libero", *names)
    watch(record, "virgilio", "other")
    notifier = record.notifier(incident_channel(webhook, web_url="https://mw.example.org"))
    for name in names:
        down(record, "libero", name)
    await notify_until(notifier, record.sent(1))
    for name in names:
        down(record, "libero", name, closed=True)
    await notify_until(record.notifier(incident_channel(webhook)), record.sent(1))
    first, second = webhook.received
    assert first["title"] == "MailWatch: Libero: 8 caselle su 8 non funzionano"
    headline, cause, named, link = first["message"].splitlines()
    assert headline == "Libero: 8 caselle su 8 non funzionano dalle 16:13 del 21/09"
    assert cause == "Causa: connessione rifiutata (osservato da here)"
    assert named.split(", ") == [f"{name}@libero.example/imap" for name in names]
    assert link.startswith("https://mw.example.org/incidents/")
    assert second["title"] == "MailWatch: Libero: tutte le 8 caselle funzionano di nuovo"
    assert "Non ha funzionato dalle 16:13 del 21/09 alle 16:16 del 21/09, per almeno 2 min" in second["message"]
    assert second["message"].splitlines()[-1].startswith("Incidente ")


async def test_one_more_that_joins_is_one_message_more(record: Record, webhook: Webhook) -> None:
    watch(record, "libero", "a", "b", "c", kinds=(Kind.IMAP, Kind.SMTP))
    down(record, "libero", "a")
    # What is on record before the first channel is counted, though not sent.
    notifier = record.notifier(incident_channel(webhook))
    down(record, "libero", "b")
    await notify_until(notifier, record.sent(1))
    again = record.notifier(incident_channel(webhook))
    down(record, "libero", "c")
    down(record, "libero", "c", Kind.SMTP)
    await notify_until(again, record.sent(1))
    assert webhook.titles == [
        "MailWatch: Libero: 2 caselle su 3 non funzionano (IMAP)",
        "MailWatch: Libero: 3 caselle su 3 non funzionano (IMAP, SMTP)",
    ]


async def test_two_providers_down_are_one_message_with_both(record: Record, webhook: Webhook) -> None:
    watch(record, "libero", "a", "b")
    watch(record, "nobody", "c")
    notifier = record.notifier(incident_channel(webhook))
    for provider, name in (("libero", "a"), ("nobody", "c"), ("libero", "b")):
        down(record, provider, name)
    await notify_until(notifier, record.sent(1))
    assert webhook.titles == [
        "MailWatch: c@nobody.example/imap non funziona; Libero: 2 caselle su 2 non funzionano"
    ]


async def test_what_went_down_and_came_back_before_it_was_sent_is_one_message(
    record: Record, webhook: Webhook
) -> None:
    watch(record, "libero", "a", "b")
    notifier = record.notifier(incident_channel(webhook))
    down(record, "libero", "a")
    down(record, "libero", "a", closed=True)
    await notify_until(notifier, record.sent(1))
    assert webhook.titles == ["MailWatch: Libero: la casella che non funzionava (1 su 2) funziona di nuovo"]
    assert "stima 3 min" in webhook.received[0]["message"]


async def test_a_partial_return_is_sent_when_it_stays_so(
    record: Record, webhook: Webhook, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(incident_rows, "SETTLED_SECONDS", 0.2)
    watch(record, "libero", "a", "b", "c")
    notifier = record.notifier(incident_channel(webhook))
    for name in "abc":
        down(record, "libero", name)
    await notify_until(notifier, record.sent(1))
    again = record.notifier(incident_channel(webhook))
    for name in "ab":
        down(record, "libero", name, closed=True)
    await notify_until(again, record.sent(1))
    assert webhook.titles[1] == "MailWatch: Libero: solo 1 casella su 3 non funziona ancora"


async def test_targets_without_a_login_are_counted_as_such_and_one_by_its_name(
    record: Record, webhook: Webhook
) -> None:
    record.watched |= {
        name: OutageSubject(provider="lab", kind=Kind.MX, vantage_point="here") for name in ("a", "b")
    }
    notifier = record.notifier(incident_channel(webhook))
    record.outage("a")
    record.outage("single", provider="")
    await notify_until(notifier, record.sent(1))
    assert webhook.titles == ["MailWatch: lab: 1 servizio su 2 non funziona; single non funziona"]


async def test_a_target_no_longer_watched_is_named_and_the_others_are_reported(
    record: Record, webhook: Webhook
) -> None:
    watch(record, "libero", "a", "b")
    notifier = record.notifier(incident_channel(webhook))
    down(record, "libero", "a")
    down(record, "libero", "b")
    await notify_until(notifier, record.sent(1))
    again = record.notifier(incident_channel(webhook))
    record.outage("a@libero.example/imap", provider="libero", unwatched=True, bad=BAD, account="acc-a")
    await notify_until(again, record.sent(1))
    last = record.notifier(incident_channel(webhook))
    down(record, "libero", "b", closed=True)
    await notify_until(last, record.sent(1))
    assert webhook.titles[1:] == [
        "MailWatch: a@libero.example/imap non è più controllato",
        "MailWatch: Libero: la casella che non funzionava (1 su 2) funziona di nuovo",
    ]


async def test_a_refused_message_about_an_incident_does_not_bring_up_its_earlier_state(
    record: Record, webhook: Webhook
) -> None:
    watch(record, "libero", "a", "b")
    webhook.status = 400
    notifier = record.notifier(incident_channel(webhook))
    down(record, "libero", "a")
    down(record, "libero", "b")
    await notify_until(notifier, lambda: ("json-1", "refused") in record.counted)
    assert record.outbox().pending("json-1", 10) == []
    (aside,) = record.outbox().failed_messages(10)
    assert aside.outcome == "refused (HTTP 400)"
    assert len(webhook.refused) == 1


def row(number: int, step: IncidentStep, put_at: int, identity: str = "x") -> OutboxMessage:
    facts = {"id": identity, "step": step.value}
    return OutboxMessage(
        number, put_at, Notification(key=str(number), event_type=EventType.INCIDENT, time=put_at, facts=facts)
    )


def test_a_growing_incident_waits_for_more_and_not_for_ever() -> None:
    rows = [row(number, IncidentStep.DOWN, number * 9_000) for number in range(8)]
    seen = [len(latest_rows(rows[: at // 9_000 + 1], 10.0, at).messages) for at in range(0, 63_000, 1000)]
    assert seen == [0] * 60 + [1] * 3
    assert len(latest_rows(rows[:1], 10.0, 10_000).messages) == 1
    assert latest_rows(rows, 10.0, 80_000).replaced_numbers([rows[-1]]) == list(range(7))


def test_a_clock_that_was_set_back_delays_nothing() -> None:
    rows = [row(0, IncidentStep.DOWN, 9_000_000), row(1, IncidentStep.LESS, 9_000_000, "y")]
    assert latest_rows(rows, 10.0, 0).messages == rows


@pytest.mark.parametrize("lang", ["it", "en"])
@pytest.mark.parametrize("step", IncidentStep)
@pytest.mark.parametrize("unit", ["mailboxes", "targets"])
def test_each_step_has_its_text(lang: str, step: IncidentStep, unit: str) -> None:
    for number, of_all in ((1, 1), (1, 8), (5, 8), (8, 8)):
        facts = {
            "id": "x", "step": step.value, "provider": "libero", "first_bad": BAD, "causes": ["refused"],
            "vantage_point": "here", "targets": ["a/imap"], "targets_down": number, "targets_all": of_all,
            "first_good": BAD + 59_900, "duration_ms": {"min": 59_900, "estimate": None},
            f"{unit}_down": number, f"{unit}_all": of_all,
        }  # fmt: skip
        many = [Notification(key="k", event_type=EventType.INCIDENT, time=BAD, facts=facts)] * 5
        sent = Channel(name="x", url=channel(Webhook()).url, lang=lang, timezone=ROME)
        title, body = message_text(many, sent, BAD)
        assert "{" not in title + body
        assert body.count("16:13") == 5
        assert "UTC" not in title + body
        assert body.count("\n\n") == 4
        if step is IncidentStep.OVER:
            assert ("59,9 s" if lang == "it" else "59.9 s") in body
    assert texts("it").section("incident").keys() == texts("en").section("incident").keys()


def remind_now(notifier: Notifier) -> None:
    notifier._remind_at = 0.0


async def test_reminders_come_each_period_until_it_is_acknowledged(record: Record, webhook: Webhook) -> None:
    watch(record, "libero", "a", "b")
    recently = now() - 3_600_000
    for name in "ab":
        record.outage(f"{name}@libero.example/imap", provider="libero", account=f"acc-{name}", bad=recently)
    sent_to = incident_channel(webhook, remind=1000.0)
    notifier = record.notifier(sent_to)
    await notify_until(notifier, record.sent(1))
    # Checked again within the same period, and after a restart: nothing more.
    remind_now(notifier)
    await notify_until(notifier, lambda: notifier._remind_at > 0)
    again = record.notifier(sent_to)
    await notify_until(again, lambda: again._remind_at > 0)
    assert record.outbox().pending("json-1", 10) == []
    assert webhook.titles == ["MailWatch: Libero: 2 caselle su 2 non funzionano ancora"]
    whole = acknowledge(record.reader, record.folder, "id-a", "Anna calls them")
    assert whole == "id-a@libero.example/imap"
    known = record.reader.acknowledgements()
    assert [(key, one.note) for key, one in known.items()] == [(whole, "Anna calls them")]
    (incident,) = queries.incidents(record.reader)
    assert acknowledged_incident(incident, known) is None  # b is open, too
    assert acknowledge(record.reader, record.folder, incident.id[:6]) == incident.id
    with time_machine.travel((now() + 10_000_000) / 1000):
        silent = record.notifier(sent_to)
        await notify_until(silent, lambda: silent._remind_at > 0)
        assert record.outbox().pending("json-1", 10) == []
        acknowledge(record.reader, record.folder, incident.id, withdraw=True)
        loud = record.notifier(sent_to)
        await notify_until(loud, record.sent(1))
        assert webhook.titles[1:] == webhook.titles[:1]


async def test_no_reminder_of_paused_targets_nor_without_the_setting(record: Record, webhook: Webhook) -> None:
    record.outage("a@libero.example/imap", provider="libero", account="acc-a", bad=now() - 3_600_000)
    paused = record.notifier(incident_channel(webhook, remind=1000.0))
    await notify_until(paused, lambda: paused._remind_at > 0)
    watch(record, "libero", "a")
    without = record.notifier(incident_channel(webhook))
    await notify_until(without, lambda: without._remind_at > 0)
    assert record.outbox().pending("json-1", 10) == []


def test_an_unknown_id_is_refused_and_a_short_one_must_be_unique(record: Record) -> None:
    for name in "ab":
        record.outage(name, provider="libero")
    for wrong in ("zz", "id-"):
        with pytest.raises(UnknownSubjectError):
            acknowledge(record.reader, record.folder, wrong)
    assert record.reader.acknowledgements() == {}


async def test_a_pause_within_an_outage_is_not_reported_as_downtime(record: Record, webhook: Webhook) -> None:
    watch(record, "libero", "a", "b")
    one_by_one = channel(webhook, name="each", on=frozenset({EventType.CLOSE}), group=0.3)
    notifier = record.notifier(incident_channel(webhook), one_by_one)
    for name in "ab":
        down(record, "libero", name)
    await notify_until(notifier, record.sent(1))
    for name in "ab":
        # The failures are two minutes apart; a half of that is a pause of one, and three quarters of the other.
        record.gap(f"{name}@libero.example/imap", BAD + 30_000, BAD + (90_000 if name == "a" else 120_000))
        down(record, "libero", name, closed=True)
    await notify_until(record.notifier(incident_channel(webhook), one_by_one), record.sent(2))
    together = next(one["message"] for one in webhook.received if "entrambe le" in one["title"])
    assert together.splitlines()[1] == (
        "Primo errore alle 16:13 del 21/09, funziona di nuovo dalle 16:16 del 21/09; osservato fuori servizio per "
        "almeno 1 min (non contati: 1 min senza osservazioni)"
    )
    each = next(one["message"] for one in webhook.received if "2 outages ended" in one["title"])
    assert "was down for at least 1 min, estimate unknown" in each.splitlines()[0]
    assert "[not counted: 1 min without observations]" in each.splitlines()[0]
    assert "was down for at least 30.0 s, estimate unknown" in each.splitlines()[1]
    assert "[not counted: 1 min 30 s without observations]" in each.splitlines()[1]


def acknowledged(record: Record) -> bool:
    (incident,) = queries.incidents(record.reader)
    return acknowledged_incident(incident, record.reader.acknowledgements()) is not None


def test_an_acknowledgement_does_not_spread_to_what_merges_with_its_incident(record: Record) -> None:
    down(record, "libero", "a")
    (incident,) = queries.incidents(record.reader)
    acknowledge(record.reader, record.folder, incident.id)
    # It joins while a is down.
    record.outage("b@libero.example/imap", provider="libero", bad=BAD + 60_000)
    assert acknowledged(record)
    down(record, "libero", "a", closed=True)
    assert acknowledged(record)
    record.outage("b@libero.example/imap", provider="libero", bad=BAD + 60_000, closed=True)
    # Another, whose last good observation was before the end of b; it fails only after that.
    record.outage("c@libero.example/imap", provider="libero", bad=BAD + 290_000)
    assert not acknowledged(record)
    acknowledge(record.reader, record.folder, "id-c")
    assert acknowledged(record)


def test_an_acknowledgement_can_be_withdrawn_by_each_id_that_stands_for_it(record: Record) -> None:
    down(record, "libero", "a")
    (incident,) = queries.incidents(record.reader)
    former = incident_id("libero", "id-b@libero.example/imap")
    record.outage("b@libero.example/imap", provider="libero", bad=BAD + 60_000)
    for identity in (incident.id, former, "id-a", "id-b"):
        acknowledge(record.reader, record.folder, incident.id)
        down(record, "libero", "a")
        assert acknowledged(record)
        acknowledge(record.reader, record.folder, identity, withdraw=True)
        assert not acknowledged(record), identity
    # Under a former id, and of an outage that is over meanwhile.
    acknowledge(record.reader, record.folder, former)
    down(record, "libero", "a", closed=True)
    acknowledge(record.reader, record.folder, incident.id, withdraw=True)
    assert record.reader.acknowledgements() == {}


async def test_reminders_are_put_while_no_channel_changes_its_name(record: Record, webhook: Webhook) -> None:
    watch(record, "libero", "a")
    record.outage("a@libero.example/imap", provider="libero", account="acc-a", bad=now() - 3_600_000)
    notifier = record.notifier(incident_channel(webhook, remind=1000.0))
    held = []

    def watched() -> dict[str, OutageSubject]:
        held.append(notifier._switching.locked())
        return record.watched

    notifier._watched = watched
    await notify_until(notifier, record.sent(1))
    assert webhook.titles == ["MailWatch: a@libero.example/imap non funziona ancora"]
    assert held
    assert all(held)


async def test_a_paused_mailbox_is_neither_down_nor_up(record: Record, webhook: Webhook) -> None:
    watch(record, "libero", "a", "b", "c", kinds=(Kind.IMAP, Kind.SMTP))
    notifier = record.notifier(incident_channel(webhook))
    for name in "abc":
        for kind in (Kind.IMAP, Kind.SMTP):
            down(record, "libero", name, kind)
    await notify_until(notifier, record.sent(1))
    record.paused = {f"c@libero.example/{kind}" for kind in (Kind.IMAP, Kind.SMTP)}
    reminding = record.notifier(incident_channel(webhook, remind=3600.0))
    await notify_until(reminding, record.sent(1))
    for name in "ab":
        for kind in (Kind.IMAP, Kind.SMTP):
            down(record, "libero", name, kind, closed=True)
    await notify_until(record.notifier(incident_channel(webhook)), record.sent(1))
    assert webhook.titles == [
        "MailWatch: Libero: 3 caselle su 3 non funzionano",
        "MailWatch: Libero: 2 caselle su 2 non funzionano ancora, 1 in pausa",
        "MailWatch: Libero: entrambe le caselle funzionano di nuovo, 1 in pausa",
    ]
    assert "c@libero.example" not in "".join(message["message"] for message in webhook.received[1:])
    # What is left of it is paused, so nobody is reminded of it.
    (incident,) = queries.incidents(record.reader, paused=record.paused)
    assert incident.state == "unwatched"
    assert queries.incidents(record.reader, only_open=True, paused=record.paused) == []


async def test_a_mailbox_that_is_still_down_after_its_pause_is_one_message(
    record: Record, webhook: Webhook
) -> None:
    """Its outage goes on without an entry; the last message said that all others work."""
    watch(record, "libero", "a", "b")
    notifier = record.notifier(incident_channel(webhook))
    for name in "ab":
        down(record, "libero", name)
    await notify_until(notifier, record.sent(1))
    paused = "b@libero.example/imap"
    record.paused = {paused}
    down(record, "libero", "a", closed=True)
    await notify_until(record.notifier(incident_channel(webhook)), record.sent(1))
    record.paused = set()
    record.change(paused, RESUMED)
    record.observe(paused, Outcome.UNKNOWN, Cause.OFFLINE)
    for _ in range(3):
        record.observe(paused, Outcome.DOWN, Cause.REFUSED)
    await notify_until(record.notifier(incident_channel(webhook)), record.sent(1))
    down(record, "libero", "b", closed=True)
    await notify_until(record.notifier(incident_channel(webhook)), record.sent(1))
    assert webhook.titles == [
        "MailWatch: Libero: 2 caselle su 2 non funzionano",
        "MailWatch: a@libero.example/imap funziona di nuovo, 1 in pausa",
        "MailWatch: Libero: 1 casella su 2 non funziona",
        "MailWatch: Libero: entrambe le caselle funzionano di nuovo",
    ]
