"""The running MailWatch prunes old packs: only what nobody needs, announced before, and unknown from then on."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
from pathlib import Path
from typing import Any

import pytest

from mailwatch.evidence.chain import first_entry
from mailwatch.evidence.ledger_range import EvidenceError, select_range
from mailwatch.evidence.period_case import ReportTarget, find_period_evidence, write_period_bundle
from mailwatch.evidence.verify import Trust, verify
from mailwatch.ledger.earlier_entry import check_place
from mailwatch.ledger.merkle import CompactRange
from mailwatch.monitor import packing, pruning, storage
from mailwatch.store import NewEntry, Reader, Store, Tokens, audit, backup, begin_successor
from mailwatch.store import packing as store_packing
from mailwatch.store.keys import load_keys as load_keys
from mailwatch.store.packs import EntriesPrunedError
from mailwatch.store.proofs import consistency_between, earlier_entry
from mailwatch.store.pruning import kept_from, pruned_entries, pruned_of_target, pruned_packs, pruned_time
from mailwatch.store.queries import availability, outage_records
from mailwatch.store.replay import audit_outages, rule_book
from mailwatch.times import rfc3339
from tests.helpers.command import mailwatch
from tests.helpers.ledger_factory import DAY, HOUR, Pattern, write
from tests.helpers.running_packing import Running, running

START = 1_767_225_600_000
DAYS = 110
END = START + DAYS * DAY
OUTAGE = START + 10 * DAY
INTERVAL = 6 * HOUR
STAMPED = START + 15 * DAY
"""Up to when a token covers the entries, unless a test says otherwise."""


def mark(at: int) -> str:
    return "-" if OUTAGE <= at < OUTAGE + DAY else "+"


def written(
    folder: Path, stamped: int | None = STAMPED, every: int = 4, imap: Pattern = mark, **more: str
) -> None:
    """A ledger of 110 days: an outage on the tenth, a token before it, and the last one about `stamped`.

    `every`: after so many intervals there is a checkpoint. `imap`: what one of the targets is. `more`: in the
    payload of the tokens.
    """
    patterns: dict[str, Pattern] = {"imap": imap, "smtp": lambda _: "+"}
    own: list[tuple[str, int, dict[str, Any]]] = []
    if stamped is not None:
        token = {"authority": "tsa", "reply": "00" * 32}
        before = OUTAGE - 5 * DAY
        size = 2 * 5 * DAY // INTERVAL
        own.append(("token", before, {**token, "checkpoint": size, "time": before} | more))
        size = 2 * (stamped - START) // INTERVAL
        # No file has its reply.
        own.append(("token", stamped, {**more, **token, "checkpoint": size, "time": stamped}))
    write(
        folder, patterns, START, END, interval=INTERVAL, every=every, durable=False, backdated=True,
        monitor_entries=own,
    ).close()  # fmt: skip


@pytest.fixture(autouse=True)
def _at_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store_packing, "SMALL_LEVEL", 4)
    monkeypatch.setattr(packing, "MAX_CPU_SHARE", 1.0)
    for module in (packing, pruning, storage):
        monkeypatch.setattr(module, "now", lambda: END)


def connect(parts: Running, witnessed: tuple[int, ...] = ()) -> None:
    """Announce in the ledger as the service does."""

    async def announce(event: str, **more: Any) -> None:
        new = NewEntry(kind="node", time=END, target=None, payload={"event": event, **more})
        await parts.writer.submit(new)

    parts.packing.pruning.connect(announce, parts.writer.checkpoint, lambda: witnessed)


def pruned(folder: Path) -> int:
    with contextlib.closing(Reader.open(folder)) as reader:
        return pruned_entries(reader)


async def prune(folder: Path, witnessed: tuple[int, ...] = (), keep: str = "90d") -> None:
    async with running(folder, rows="1d", keep=keep) as parts:
        connect(parts, witnessed)
        await parts.idle()


async def test_old_packs_are_pruned_but_for_what_an_outage_needs(tmp_path: Path) -> None:
    written(tmp_path)
    with contextlib.closing(Reader.open(tmp_path)) as reader:
        (before,) = outage_records(reader)
        evidence = select_range(reader, Tokens(tmp_path), before.first_index, before.last_index)
        texts = list(reader.entries(from_index=evidence.start.size, to_index=evidence.end.size))
        size = reader.size()
    await prune(tmp_path)
    keys = load_keys(tmp_path)
    with contextlib.closing(Reader.open(tmp_path)) as reader:
        gone = pruned_entries(reader)
        assert 20 < gone < 2 * 15 * DAY // INTERVAL
        # Announced before: what is announced is what was dropped.
        announced = [
            entry.payload for entry in reader.entries(kinds=["node"]) if entry.payload["event"] == "prune"
        ]
        assert sum(payload["pruned"]["entries"] for payload in announced) == gone
        assert (reader.checkpoint(at_least=size + 1)) is not None
        # What is left is as it was written, and the roots are those that were signed.
        assert audit(reader, keys.public, keys.secret) == []
        for target in ("imap", "smtp"):
            assert audit_outages(reader, rule_book(reader), target, reader.size()) == []
        (after,) = outage_records(reader)
        assert after == before
        assert select_range(reader, Tokens(tmp_path), before.first_index, before.last_index) == evidence
        assert list(reader.entries(from_index=evidence.start.size, to_index=evidence.end.size)) == texts
        with pytest.raises(EntriesPrunedError, match="were pruned by"):
            list(reader.raw_entries(0, size))
        # Nothing is known of what was pruned: neither up nor down.
        (known,) = availability(reader, ["smtp"], START, OUTAGE - 5 * DAY)
        assert known["coverage"] is None or known["coverage"] < 0.5
        # A witness that is as old as the tokens still gets its proof.
        stamped = reader.checkpoint(at_least=2 * 15 * DAY // INTERVAL)
        assert stamped is not None
        assert consistency_between(reader, stamped.size, reader.size())
    with contextlib.closing(Store.open(tmp_path)) as store:
        assert store.size > size
    backup(tmp_path, tmp_path / "backup.tar.gz")


async def test_what_was_pruned_is_called_so_with_the_entry_that_announced_it(tmp_path: Path) -> None:
    written(tmp_path / "data")
    with contextlib.closing(Reader.open(tmp_path / "data")) as reader:
        assert pruned_time(reader) is None
        assert pruned_of_target(reader, "smtp") is None
        assert "pruned" not in availability(reader, ["smtp"], START, END)[0]
    await prune(tmp_path / "data")
    config = tmp_path / "config.yaml"
    target = {"name": "smtp", "kind": "imap", "provider": "lab", "host": "127.0.0.1"}
    place = {"data_dir": "data", "timezone": "UTC", "vantage_point": {"name": "here"}}
    config.write_text(json.dumps({**place, "targets": [target]}))
    keys = load_keys(tmp_path / "data")
    with contextlib.closing(Reader.open(tmp_path / "data")) as reader:
        found = pruned_time(reader)
        assert found is not None
        assert pruned_of_target(reader, "smtp") == found
        assert pruned_of_target(reader, "another") is None
        announced = next(reader.entries(from_index=found.entry, limit=1)).payload["pruned"]
        last = max(end for _, end in announced["packs"])
        assert found.before == next(reader.entries(kinds=["observation"], from_index=last, limit=1)).time
        said = f"the observations before {rfc3339(found.before)} were pruned by `retention.keep`, as entry "
        wanted, tokens = [ReportTarget("smtp", "lab", "imap", None)], Tokens(tmp_path / "data")
        for window in ((START, OUTAGE - 5 * DAY), (START + DAY, END), (START - 9 * DAY, START - DAY)):
            with pytest.raises(EvidenceError, match=re.escape(f"{said}{found.entry} announced; a report")):
                find_period_evidence(reader, tokens, keys, window, wanted, "")
        (early,) = availability(reader, ["smtp"], START, END)
        assert early["pruned"] == {"before": rfc3339(found.before), "entry": found.entry}
        assert "pruned" not in availability(reader, ["smtp"], found.before, END)[0]
    shown = mailwatch(
        "--config", str(config), "availability", "--from", "2026-01-01", "--to", "2026-04-01", "--utc",
        env={**os.environ, "LANG": "it_IT.UTF-8", "LC_ALL": "it_IT.UTF-8"},
    )  # fmt: skip
    assert "sono state eliminate per `retention.keep`, come annunciato" in " ".join(shown.stdout.split())


async def test_of_times_that_are_kept_there_are_reports(tmp_path: Path) -> None:
    """Also if the last token before them is from before what was pruned: no outside time says then how early."""
    data_dir = tmp_path / "data"
    written(data_dir, END - DAY, imap=lambda _: "+", reply=hashlib.sha256(b"a reply").hexdigest())
    Tokens(data_dir).save(b"a reply")
    await prune(data_dir)
    keys = load_keys(data_dir)
    with contextlib.closing(Reader.open(data_dir)) as reader:
        gone = pruned_time(reader)
        assert gone is not None
        wanted, tokens = [ReportTarget("smtp", "lab", "imap", None)], Tokens(data_dir)
        for start in (gone.before + 2 * DAY, START + 30 * DAY, START + 80 * DAY):
            found = find_period_evidence(reader, tokens, keys, (start, start + 10 * DAY), wanted, "")
            assert found.statement["outside_times"]["not_before"] is None
            assert found.range.start.size >= kept_from(reader, found.range.end.size) > 0
            assert [one["coverage"] for one in found.statement["availability"]] == [1.0]
            bundle = tmp_path / f"{start}.zip"
            with bundle.open("wb") as out:
                write_period_bundle(out, reader, keys, found, "en", [])
            assert [claim for claim in verify(bundle, Trust()) if not claim.valid] == []
        # A part of it is gone.
        for start in (gone.before - 6 * HOUR, gone.before - 5 * DAY):
            with pytest.raises(EvidenceError, match="a report that needs some of them"):
                find_period_evidence(reader, tokens, keys, (start, START + 40 * DAY), wanted, "")


async def test_nothing_is_pruned_after_which_no_report_could_begin(tmp_path: Path) -> None:
    """With no checkpoint from before the times that are kept, a report of them would need all before it."""
    written(tmp_path, END - DAY, every=4 * 30, imap=lambda _: "+")
    with contextlib.closing(Reader.open(tmp_path)) as reader:
        assert [row for row in reader.checkpoints() if START + DAY < row.time_ms < START + 20 * DAY] == []
    await prune(tmp_path)
    assert pruned(tmp_path) == 0


async def test_what_a_successor_says_of_the_ledger_before_it_stays_proven(tmp_path: Path) -> None:
    Store.open(tmp_path).close()
    begin_successor(tmp_path, older=True)
    written(tmp_path, END - DAY, imap=lambda _: "+")
    await prune(tmp_path)
    assert pruned(tmp_path) > 20
    keys = load_keys(tmp_path)
    with contextlib.closing(Reader.open(tmp_path)) as reader:
        assert next(reader.entries(to_index=1)).kind == "successor"
        window, wanted = (START + 40 * DAY, START + 50 * DAY), [ReportTarget("smtp", "lab", "imap", None)]
        found = find_period_evidence(reader, Tokens(tmp_path), keys, window, wanted, "")
        assert first_entry(reader, found.range.start)["first"]


async def test_each_entry_that_is_kept_has_its_proof(tmp_path: Path) -> None:
    """Also where the last checkpoint before it ends inside of what was pruned."""
    written(tmp_path, every=7)
    await prune(tmp_path)
    with contextlib.closing(Reader.open(tmp_path)) as reader:
        gone = pruned_packs(reader, reader.size())
        assert any(pack.first < row.size < pack.first + 16 for row in reader.checkpoints() for pack in gone)
        end = reader.last_checkpoint()
        assert end is not None
        tree = CompactRange.from_bytes(end.size, end.hashes)
        proven = 0
        for entry in reader.entries(to_index=200):
            if any(pack.first <= entry.index < pack.first + 16 for pack in gone):
                continue
            check_place(earlier_entry(reader, entry, end.size), tree)
            proven += 1
        assert proven > 50


@pytest.mark.parametrize(
    ("stamped", "witnessed", "keep"),
    [
        (None, (), "90d"),  # no token
        (STAMPED, (), "110d"),  # all too young
        (STAMPED, (10_000, 0), "90d"),  # a witness that has cosigned nothing yet
        (STAMPED, (), "off"),
    ],
)
async def test_nothing_is_pruned_that_is_young_or_that_others_have_not_signed(
    tmp_path: Path, stamped: int | None, witnessed: tuple[int, ...], keep: str
) -> None:
    written(tmp_path, stamped)
    await prune(tmp_path, witnessed, keep)
    assert pruned(tmp_path) == 0


async def test_a_token_that_leads_to_no_trusted_authority_covers_nothing(tmp_path: Path) -> None:
    written(tmp_path, distrust="its signature does not lead to a trusted authority")
    await prune(tmp_path, (), "90d")
    assert pruned(tmp_path) == 0


async def test_a_witness_that_is_behind_keeps_what_it_has_not_cosigned(tmp_path: Path) -> None:
    written(tmp_path)
    await prune(tmp_path, witnessed=(10_000, 33))
    assert 0 < pruned(tmp_path) <= 33


async def test_a_kill_after_the_announcement_prunes_at_the_next_time(tmp_path: Path) -> None:
    written(tmp_path)

    class KilledError(Exception):
        pass

    async with running(tmp_path, rows="1d", keep="90d") as parts:
        connect(parts)

        async def killed(_: object) -> Any:
            raise KilledError

        while await parts.packing._next_pack():
            pass
        with pytest.raises(KilledError):
            await parts.packing.pruning.step(killed)
    assert pruned(tmp_path) == 0
    await prune(tmp_path)
    assert pruned(tmp_path) > 20
