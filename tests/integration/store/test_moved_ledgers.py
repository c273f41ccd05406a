"""Ledgers of an earlier program are packed, moved to PostgreSQL and back: each proof holds on both sides."""

from __future__ import annotations

import contextlib
import json
import shutil
import zipfile
from pathlib import Path

import pytest

from mailwatch.store import Reader, Store, Tokens
from mailwatch.store.migrate import to_postgresql, to_sqlite
from mailwatch.store.packing import Packer, pack_next
from mailwatch.store.place import Place
from mailwatch.store.postgres import PostgresPlace
from mailwatch.store.sqlite import SqlitePlace
from tests.helpers.ledger_answers import answers
from tests.helpers.ledger_audit import audited
from tests.helpers.paths import TESTDATA

OLD = TESTDATA / "old"
EVER = 1 << 50
BUNDLES = {"a": ("a-en", "a-it", "a-proven", "a-month"), "b": ("b-ahead", "b-back"), "c": ("c-period", "c-moved")}
"""Bundles that the earlier program made of its ledgers."""


def pack_some(place: Place, most: int) -> int:
    """Pack up to `most` ranges; return how many there were."""
    with contextlib.closing(Store.open(place)) as store, contextlib.closing(Reader.open(place)) as reader:
        packer = Packer(reader)
        return sum(pack_next(packer, store, EVER, 4) is not None for _ in range(most))


def root_of(place: Place) -> tuple[int, bytes]:
    with contextlib.closing(Store.open(place)) as store:
        return store.size, store.root


def read(place: Place) -> dict[str, object]:
    with contextlib.closing(Reader.open(place)) as reader:
        return answers(reader)


def assert_holds(place: Place, bundle: str) -> None:
    """Assert that the entries of a bundle, its checkpoint, and the replies it encloses are those of a ledger."""
    with zipfile.ZipFile(OLD / f"{bundle}.zip") as opened, contextlib.closing(Reader.open(place)) as reader:
        lines = [json.loads(line) for line in opened.read("entries.jsonl").splitlines()]
        first, last = (line["header"]["index"] for line in (lines[0], lines[-1]))
        here = [json.loads(header) for *_, header, _ in reader.raw_entries(first, last + 1)]
        assert here == [line["header"] for line in lines]
        payloads = {entry.index: entry.payload for entry in reader.entries(from_index=first, to_index=last + 1)}
        shown = [line for line in lines if "payload" in line]
        assert [payloads[line["header"]["index"]] for line in shown] == [line["payload"] for line in shown] != []
        proof = json.loads(opened.read("proof.json"))
        replies = [name for name in opened.namelist() if name.endswith(".tsr")]
        with contextlib.closing(Tokens(place)) as tokens:
            for name in replies:
                assert tokens.get(Path(name).stem) == opened.read(name)
        assert set(proof["checkpoints"]) <= {row.note for row in reader.checkpoints()}


@pytest.mark.parametrize("name", ["a", *(pytest.param(name, marks=pytest.mark.nightly) for name in ("b", "c"))])
def test_an_old_ledger_is_migrated_packed_moved_and_brought_back(
    name: str, postgresql_place: PostgresPlace
) -> None:
    place, data_dir = postgresql_place, postgresql_place.data_dir
    data_dir.mkdir(mode=0o700)
    shutil.unpack_archive(OLD / f"{name}-data.tar.xz", data_dir, filter="data")
    file = SqlitePlace(data_dir)
    signed = root_of(file)
    before = read(file)
    assert pack_some(file, 1) == 1
    assert to_postgresql(place).entries == signed[0]
    assert pack_some(place, 100)
    assert root_of(place) == signed
    assert read(place) == before
    assert audited(place) == []
    for bundle in BUNDLES[name]:
        assert_holds(place, bundle)
    assert to_sqlite(place).entries == signed[0]
    assert root_of(file) == signed
    assert read(file) == before
    assert audited(file) == []
    for bundle in BUNDLES[name]:
        assert_holds(file, bundle)
