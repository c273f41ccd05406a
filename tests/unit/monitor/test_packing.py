"""The running MailWatch packs old entries: nothing changes but the file, whenever it is stopped or killed."""

from __future__ import annotations

import asyncio
import contextlib
import multiprocessing
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import pytest

from mailwatch.monitor import packing, storage
from mailwatch.store import NewEntry, Reader, Store, Writer, audit
from mailwatch.store import packing as store_packing
from mailwatch.store.keys import load_keys as load_keys
from mailwatch.store.sizes import SizeMeter
from tests.helpers.ledger_answers import answers
from tests.helpers.ledger_factory import DAY, HOUR, observation_of, write
from tests.helpers.running_packing import END, START, retention, running

LEVEL = 4
Made = TypeVar("Made")


def mark(at: int) -> str:
    return "-" if START + DAY <= at < START + DAY + 4 * HOUR else "+"


def written(folder: Path) -> None:
    """A ledger of ten days with an outage on the second."""
    patterns = {"imap": mark, "smtp": lambda _: "+"}
    write(folder, patterns, START, END, interval=HOUR, every=10, durable=False, backdated=True).close()


def read(folder: Path) -> dict[str, Any]:
    with contextlib.closing(Reader.open(folder)) as reader:
        return answers(reader)


@pytest.fixture(autouse=True)
def _at_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is the time of the ledger's last entry; packs are small; nothing waits."""
    monkeypatch.setattr(store_packing, "SMALL_LEVEL", LEVEL)
    monkeypatch.setattr(packing, "MAX_CPU_SHARE", 1.0)
    monkeypatch.setattr(packing, "FIRST_AFTER_SECONDS", 0.0)
    monkeypatch.setattr(packing, "now", lambda: END)
    monkeypatch.setattr(storage, "now", lambda: END)


async def test_what_is_older_than_the_rows_are_kept_is_packed(tmp_path: Path) -> None:
    written(tmp_path)
    before = read(tmp_path)
    async with running(tmp_path) as parts:
        await parts.idle()
        # Of three days of 144 entries; what is around the outage stays.
        assert 80 < parts.packed <= 3 * 48
        rows = parts.packed
        # The newest config counts.
        parts.packing.set_retention(retention(rows="2d"))
        await parts.idle()
        assert parts.packed > rows + 4 * 48
        assert parts.storage.measure().sizes.packs > 0
        fact = observation_of("imap", "+", END)
        entry = await parts.writer.submit(NewEntry(kind="observation", time=END, target="imap", payload=fact))
        assert entry.index == before["size"]
    after = read(tmp_path)
    keys = load_keys(tmp_path)
    with contextlib.closing(Reader.open(tmp_path)) as reader:
        assert audit(reader, keys.public, keys.secret) == []
        assert list(reader.entries(to_index=before["size"])) == before["entries"]
    assert after["size"] == before["size"] + 1


async def test_it_packs_by_itself_and_ends_at_once_when_it_is_cancelled(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    written(tmp_path)
    async with running(tmp_path) as parts:
        began, loop = asyncio.Event(), asyncio.get_running_loop()
        wait = parts.packing._stopping.wait

        def waits(seconds: float) -> bool:
            # It waits in proportion to the processor time that it took.
            assert seconds > 0
            loop.call_soon_threadsafe(began.set)
            return wait(3600)

        monkeypatch.setattr(packing, "MAX_CPU_SHARE", 0.05)
        monkeypatch.setattr(parts.packing._stopping, "wait", waits)
        task = asyncio.create_task(parts.packing.run())
        await began.wait()
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        # The thread too: MailWatch would wait for it.
        await loop.shutdown_default_executor()
    assert task.cancelled()


def test_packing_uses_a_twentieth_of_a_processor(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packing, "MAX_CPU_SHARE", 0.05)
    assert packing._rest(0.1) == pytest.approx(1.9)


async def test_a_new_retention_takes_effect_at_once(tmp_path: Path) -> None:
    written(tmp_path)
    async with running(tmp_path, rows="300d") as parts:
        task = asyncio.create_task(parts.packing.run())
        while not parts.packing._changed._waiters:
            await asyncio.sleep(0)
        assert parts.packed == 0
        parts.packing.set_retention(retention(rows="7d"))
        while parts.packed < 80:
            await asyncio.sleep(0.01)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def test_a_disk_that_takes_no_entries_takes_no_packs(tmp_path: Path) -> None:
    written(tmp_path)
    async with running(tmp_path) as parts:
        parts.writer.failure = "the disk is full"
        assert not await parts.packing.step()
        assert parts.packed == 0
        parts.writer.failure = ""


async def test_a_failure_is_logged_once_and_tried_again_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    written(tmp_path)
    async with running(tmp_path) as parts:

        def broken(*_: object) -> None:
            raise ZeroDivisionError

        monkeypatch.setattr(parts.packing._packer, "next_range", broken)
        assert await parts.packing._work() == packing.RETRY_SECONDS
    assert caplog.text.count("packing: internal error") == 1


def killed_packing(folder: Path, at: int, moment: str) -> int | None:
    """Pack, and be killed before or after the so manieth step in the ledger's thread; return the exit code."""

    def work() -> None:
        in_turn, count = Writer.in_turn, iter(range(10_000))

        async def counted(writer: Writer, task: Callable[[Store], Made]) -> Made:
            number = next(count)
            if number == at and moment == "before":
                os.kill(os.getpid(), signal.SIGKILL)
            made = await in_turn(writer, task)
            if number == at:
                os.kill(os.getpid(), signal.SIGKILL)
            return made

        Writer.in_turn = counted  # type: ignore[assignment,method-assign]

        async def pack() -> None:
            async with running(folder) as parts:
                await parts.idle()

        asyncio.run(pack())

    process = multiprocessing.get_context("fork").Process(target=work)
    process.start()
    process.join()
    return process.exitcode


@pytest.mark.parametrize(
    "at", [1, *(pytest.param(number, marks=pytest.mark.nightly) for number in (0, *range(2, 24)))]
)
@pytest.mark.parametrize("moment", ["before", "after"])
def test_a_kill_between_any_two_steps_leaves_every_entry_and_is_resumed(
    tmp_path: Path, at: int, moment: str
) -> None:
    written(tmp_path)
    before = read(tmp_path)
    assert killed_packing(tmp_path, at, moment) == -signal.SIGKILL
    after = read(tmp_path)
    assert [name for name in before if before[name] != after[name]] == []
    assert killed_packing(tmp_path, -1, "never") == 0
    after = read(tmp_path)
    assert [name for name in before if before[name] != after[name]] == []
    keys = load_keys(tmp_path)
    with contextlib.closing(Reader.open(tmp_path)) as reader:
        assert audit(reader, keys.public, keys.secret) == []
    with contextlib.closing(SizeMeter(tmp_path)) as meter:
        assert meter.measure(END).packed > 80
