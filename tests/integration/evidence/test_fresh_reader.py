"""What a verifier that was written from the specification alone found to be accepted, and is refused now."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from mailwatch.evidence.period_case import ReportTarget, find_period_evidence, write_period_bundle
from mailwatch.evidence.verify import Trust, verify
from mailwatch.store import Store, Tokens
from mailwatch.times import Window
from tests.helpers.bundle_files import files_of, pack
from tests.helpers.bundle_mutations import manifested
from tests.helpers.ledger_factory import HOUR, MINUTE
from tests.helpers.malicious_operator import Operator
from tests.helpers.vector_cases import sealed


@pytest.fixture
def operator(tmp_path: Path) -> Iterator[Operator]:
    store = Store.open(tmp_path / "data")
    yield Operator(store, tmp_path / "data")
    store.close()


def refused(path: Path) -> list[tuple[str, str]]:
    return [(claim.claim, claim.detail) for claim in verify(path, Trust()) if not claim.valid]


def resealed(path: Path, operator: Operator, change: Callable[[list[dict[str, Any]]], None]) -> Path:
    """The bundle with other entries, all signed again by the key."""
    key, files = operator.store.keys.private, files_of(path)
    lines = [json.loads(line) for line in files["entries.jsonl"].splitlines()]
    change(lines)
    files = sealed(files, lines, key)
    pack(path, manifested(files, key), refresh=False)
    return path


def kinds(wanted: str) -> Callable[[dict[str, Any]], bool]:
    return lambda line: line["header"]["kind"] == wanted


def test_an_outage_that_no_entry_records_is_refused(operator: Operator) -> None:
    operator.observe("++----++")

    def unrecorded(lines: list[dict[str, Any]]) -> None:
        for line in filter(kinds("outage"), lines):
            line["payload"] = {**line["payload"], "id": "0" * 12}

    (claim, why), *_ = refused(resealed(operator.bundle(), operator, unrecorded))
    assert claim == "outage"
    assert "no entry of the bundle records outage" in why


def period(operator: Operator, window: Window) -> Path:
    path = operator.folder / "period.zip"
    with operator.reader() as reader, path.open("wb") as out:
        keys, wanted = operator.store.keys, [ReportTarget(operator.target, "lab", "imap")]
        case = find_period_evidence(reader, Tokens(operator.folder), keys, window, wanted, "here")
        write_period_bundle(out, reader, keys, case, "en", [])
    return path


def test_a_period_cannot_hide_an_outage_by_beginning_within_it(
    operator: Operator, monkeypatch: pytest.MonkeyPatch
) -> None:
    operator.observe("++")
    operator.store.checkpoint()
    operator.observe("----")
    operator.store.checkpoint()
    begun = operator.store.size
    operator.wait(HOUR)
    operator.observe("----")
    within = operator.clock()
    operator.wait(HOUR)
    operator.observe("--++++")
    operator.store.checkpoint()
    assert refused(period(operator, (within, operator.clock() + 1))) == []
    # An operator whose program does not reach back to the outage's beginning.
    monkeypatch.setattr("mailwatch.evidence.period_case.queries.outage_records", lambda *_, **__: [])
    entries = [begun, operator.store.size]
    monkeypatch.setattr("mailwatch.evidence.period_case._entries_reaching", lambda *_: (entries[0], entries[1]))
    path = period(operator, (within, operator.clock() + 1))
    assert json.loads(zipfile.ZipFile(path).read("period.json"))["outages"] == []
    (claim, why), *_ = refused(path)
    assert claim == "period"
    assert "the range does not hold it whole" in why


def test_an_outage_before_the_window_may_be_cut(operator: Operator) -> None:
    operator.observe("++----++")
    operator.store.checkpoint()
    operator.wait(HOUR)
    operator.observe("++++")
    operator.store.checkpoint()
    assert refused(period(operator, (operator.clock() - MINUTE, operator.clock() + 1))) == []


def test_an_integer_that_not_all_programs_read_alike_is_refused(operator: Operator) -> None:
    operator.observe("++----++")
    path = operator.bundle()
    files, key = files_of(path), operator.store.keys.private
    lines = files["entries.jsonl"].splitlines()
    number = next(at for at, line in enumerate(lines) if b'"kind":"observation"' in line)
    entry = json.loads(lines[number])
    entry["payload"]["interval"] = 2**53 - 1
    changed = [json.loads(line) for line in lines]
    changed[number] = entry
    files = sealed(files, changed, key)
    pack(path, manifested(files, key), refresh=False)
    assert refused(path) == []
    files["entries.jsonl"] = files["entries.jsonl"].replace(str(2**53 - 1).encode(), str(2**53 + 1).encode())
    pack(path, manifested(files, key), refresh=False)
    assert any("integer" in why.lower() or "seals" in why for _, why in refused(path))


def test_a_comment_of_a_file_in_the_zip_is_refused(operator: Operator) -> None:
    operator.observe("++----++")
    path = operator.bundle()
    files = files_of(path)
    with zipfile.ZipFile(path, "w") as made:
        for name, content in files.items():
            info = zipfile.ZipInfo(name)
            info.comment = b"read me" if name == "proof.json" else b""
            made.writestr(info, content)
    (claim, why), *_ = refused(path)
    assert (claim, why) == ("archive", "proof.json has a comment")


def test_a_manifest_of_another_format_is_refused(operator: Operator) -> None:
    operator.observe("++----++")
    path, key = operator.bundle(), operator.store.keys.private
    files = manifested(files_of(path), key)
    manifest = json.loads(files["manifest.json"]) | {"format": "mailwatch-manifest/2"}
    files["manifest.json"] = json.dumps(manifest).encode()
    pack(path, files, refresh=False)
    found = dict(refused(path))
    assert found["files"] == "manifest.json is of another format"
