"""How many entries a second a hub takes: verified, on disk, cosigned; and what a push costs its sender."""

from __future__ import annotations

import contextlib
import tempfile
import time
from pathlib import Path
from typing import Any

from rich.console import Console

from benchmarks.ingest import draft
from mailwatch.hub.client import BuiltPush, build_push
from mailwatch.ledger.merkle import CompactRange
from mailwatch.store import Reader, Store
from tests.helpers.hub_members import LivingHub, WrittenMember

ENTRIES = 100_000
BATCH = 5_000


def measure(console: Console, entries: int = ENTRIES) -> dict[str, Any]:
    """Push a ledger of so many entries to a hub, over the same code as HTTP calls, with nothing in between."""
    parent = Path("build")
    parent.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="hub-", dir=parent) as name:
        folder = Path(name)
        with console.status(f"writing a ledger of {entries:,} entries"):
            member = WrittenMember(folder / "member", lambda _at: "+", 1)
            _append(member.store, entries)
        hub = LivingHub(folder / "hub", 2)
        hub.join(member, "member")
        with console.status("pushing it"):
            built, spent = _built(member)
            began, cpu = time.monotonic(), time.process_time()
            for push in built:
                answer = hub.receiver.push(member.log, str(push.first), push.body)
                assert answer.status == 200, answer
            took, used = time.monotonic() - began, time.process_time() - cpu
        with hub.ledgers.using(hub.register.members()[0]) as ledger:
            assert ledger.root == built[-1].tree.root()
        hub.close()
        member.store.close()
        count = built[-1].tree.size
        return {
            "entries": count,
            "pushes": len(built),
            "bytes_per_entry_sent": round(sum(len(push.body) for push in built) / count),
            "entries_per_second": round(count / took),
            "entries_per_processor_second": round(count / used),
            "built_per_processor_second": round(count / spent),
            # What a vantage point that was cut off for three days, with 230 targets a minute, has to push.
            "processor_seconds_per_million": round(1e6 * used / count, 1),
        }


def _append(store: Store, entries: int) -> None:
    for first in range(0, entries, BATCH):
        store.append_batch([draft(number) for number in range(first, first + BATCH)])


def _built(member: WrittenMember) -> tuple[list[BuiltPush], float]:
    """Return all pushes of a ledger, and the processor time that they took to build."""
    found, tree, cpu = list[BuiltPush](), CompactRange(), time.process_time()
    with contextlib.closing(Reader.open(member.folder)) as reader:
        while (push := build_push(reader, member.store.keys, tree, member.store.size, None)) is not None:
            found.append(push)
            tree = push.tree
    return found, time.process_time() - cpu


def show(found: dict[str, Any], console: Console) -> dict[str, Any]:
    """Print the figures and return them."""
    console.print(
        f"hub: {found['entries_per_second']:,} entries a second taken, "
        f"{found['entries_per_processor_second']:,} a second of processor time; "
        f"a million in {found['processor_seconds_per_million']:,} s of it; "
        f"{found['built_per_processor_second']:,} built; {found['bytes_per_entry_sent']} bytes an entry sent"
    )
    return found
