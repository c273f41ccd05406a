"""The monitor backs up by itself; a failure is notified once, and its end too."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry
from pydantic import SecretStr

from mailwatch.config import load
from mailwatch.metrics import Metrics
from mailwatch.model import EventType, Notification
from mailwatch.monitor.backups import BackupSchedule
from mailwatch.notify.text import message_text
from mailwatch.settings import Channel
from mailwatch.store import NewEntry, Store


class Monitored:
    """A ledger with its config, and a schedule whose notifications are kept."""

    def __init__(self, folder: Path) -> None:
        store = Store.open(folder / "data")
        store.append_batch([NewEntry(kind="node", time=1, target=None, payload={"event": "start"})])
        store.checkpoint()
        store.close()
        self.folder, self.path = folder, folder / "config.yaml"
        self.path.write_text(
            "vantage_point: {name: here}\ntargets: [{name: a, kind: imap, host: localhost}]\n"
            "backup: {to: backups, every: 1h, keep: 2}\n"
        )
        self.config, self.metrics = load(self.path), Metrics(CollectorRegistry())
        self.sent: list[Notification] = []
        self.schedule = BackupSchedule(
            lambda: self.path, folder / "data", self.config.backup, self.metrics, self.notify, first_after=0
        )
        self.at_notification: Callable[[], None] = lambda: None

    def notify(self, notification: Notification) -> None:
        self.sent.append(notification)
        self.at_notification()

    def value(self, name: str) -> str | None:
        """The value of a metric without labels."""
        lines = b"".join(self.metrics.exposition()).decode().splitlines()
        return next((line.split()[1] for line in lines if line.startswith(f"{name} ")), None)

    async def back_up(self) -> bool:
        assert self.config.backup is not None
        return await self.schedule.back_up(self.config.backup)


async def until(done: Callable[[], bool], running: asyncio.Task[None]) -> None:
    """Wait while the schedule runs; its own failure ends the wait."""
    while not done():
        assert not running.done()
        await asyncio.sleep(0.01)


async def test_a_backup_that_is_due_is_made_and_the_next_start_waits(tmp_path: Path) -> None:
    monitored = Monitored(tmp_path)
    assert monitored.value("mailwatch_backup_interval_seconds") == "3600.0"
    assert monitored.value("mailwatch_backup_last_success_timestamp_seconds") is None
    for _ in range(2):
        running = asyncio.create_task(monitored.schedule.run())
        await until(
            lambda: monitored.value("mailwatch_backup_last_success_timestamp_seconds") is not None, running
        )
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running
        assert len(list((tmp_path / "backups").iterdir())) == 1
        monitored.metrics.backup_interval(None)  # forgets the time, which the next start must read from the folder
    assert monitored.sent == []


async def test_a_failure_is_notified_once_and_its_end_too(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    monitored = Monitored(tmp_path)
    (tmp_path / "backups").write_text("a file in place of the folder")
    assert not await monitored.back_up()
    assert not await monitored.back_up()
    (failed,) = monitored.sent
    assert failed.event_type is EventType.MONITOR
    assert f"backup: no backup was made: {tmp_path}/backups is not a folder" in caplog.text
    (tmp_path / "backups").unlink()
    assert await monitored.back_up()
    failed, over = monitored.sent
    assert failed.key != over.key
    for lang, begun, ended in (
        ("en", "could not make the backup in", "works normally again: the backup"),
        ("it", "non ha potuto fare il backup in", "funziona di nuovo normalmente; il problema (il backup)"),
    ):
        form = Channel(name="json-1", url=SecretStr("json://localhost"), lang=lang)
        texts = [message_text([one], form, one.time)[1] for one in (failed, over)]
        assert begun in texts[0]
        assert str(tmp_path / "backups") in texts[0]
        assert ended in texts[1]


async def test_a_reload_ends_and_begins_the_schedule(tmp_path: Path) -> None:
    monitored = Monitored(tmp_path)
    monitored.schedule.set_section(None)
    running = asyncio.create_task(monitored.schedule.run())
    await asyncio.sleep(0)
    monitored.schedule.set_section(monitored.config.backup)
    await until(lambda: monitored.value("mailwatch_backup_last_success_timestamp_seconds") is not None, running)
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running


async def test_a_reload_without_backup_ends_the_schedule_while_a_backup_is_made(tmp_path: Path) -> None:
    monitored = Monitored(tmp_path)
    (tmp_path / "backups").write_text("a file in place of the folder")
    monitored.at_notification = lambda: monitored.schedule.set_section(None)
    running = asyncio.create_task(monitored.schedule.run())
    await until(lambda: len(monitored.sent) == 1, running)
    monitored.at_notification = lambda: None
    (tmp_path / "backups").unlink()
    await asyncio.sleep(0)
    monitored.schedule.set_section(monitored.config.backup)
    await until(lambda: len(monitored.sent) == 2, running)
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running


@pytest.mark.parametrize("output", ["nonsense", "[]", "{}", '{"file": "x", "entries": null, "removed": []}'])
async def test_an_answer_that_cannot_be_read_is_a_failure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, output: str
) -> None:
    monitored, other = Monitored(tmp_path), tmp_path / "other" / "mailwatch"
    other.mkdir(parents=True)
    (other / "__init__.py").touch()
    (other / "__main__.py").write_text(f"print({output!r})\n")
    monkeypatch.setenv("PYTHONPATH", str(other.parent))
    assert not await monitored.back_up()
    (failed,) = monitored.sent
    assert "its answer cannot be read" in str(failed.facts["reason"])


async def test_a_backup_that_takes_too_long_is_ended(tmp_path: Path) -> None:
    monitored = Monitored(tmp_path)
    schedule = BackupSchedule(
        lambda: monitored.path, tmp_path / "data", None, monitored.metrics, monitored.notify, limit=0
    )
    assert monitored.config.backup is not None
    assert not await schedule.back_up(monitored.config.backup)
    (failed,) = monitored.sent
    assert "it was not complete within" in str(failed.facts["reason"])


async def test_a_config_that_moved_is_read_where_it_is_now(tmp_path: Path) -> None:
    monitored = Monitored(tmp_path)
    monitored.path = monitored.path.rename(tmp_path / "moved.yaml")
    assert await monitored.back_up()
