"""`mailwatch ledger audit`: what a kill leaves between two entries is no finding; what is wrong is."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from mailwatch.analysis.detector import Detector, IndexedFact
from mailwatch.cli import main
from mailwatch.cli.run import begin_if_lost
from mailwatch.config import load
from mailwatch.ledger.settings_payloads import rules_payload
from mailwatch.model import Kind, Rules
from mailwatch.store import NewEntry, Reader, Store
from mailwatch.store.replay import restore_state, rule_book
from tests.helpers.ledger_factory import MINUTE, observation_of
from tests.helpers.records import payload_of

START = 1_767_225_600_000
MARKS = "+++---++" + "+" * 5


def opened(folder: Path) -> Store:
    """Open its ledger on the clock of the observations."""
    store = Store.open(folder / "data")
    store.read_clock = lambda: START + 60 * MINUTE
    return store


def killed_after(folder: Path, kept: int) -> int:
    """Write observations of an outage with `kept` of its two entries, as kill -9 leaves them; return how many."""
    rules, detector, index = Rules(), Detector(), 1
    node = {"event": "start", "rules": rules_payload(rules)}
    drafts = [NewEntry(kind="node", time=START, target=None, payload=node)]
    for number, mark in enumerate(MARKS):
        at = START + number * MINUTE
        observation = observation_of("a", mark, at)
        drafts.append(NewEntry(kind="observation", time=at, target="a", payload=observation))
        detector, changed = detector.feed(IndexedFact(index, observation), rules)
        index += 1
        if changed and kept == 0:
            break
        kept -= len(changed)
        for outage in changed:
            payload = payload_of(outage, "lab", Kind.IMAP, "here") | {"rules": rules_payload(rules)}
            drafts.append(NewEntry(kind="outage", time=at, target="a", payload=payload))
            index += 1
    store = opened(folder)
    store.append_batch(drafts)
    store.checkpoint()
    store.close()
    target = {"name": "a", "kind": "imap", "provider": "libero"}
    config = {"vantage_point": {"name": "here"}, "data_dir": "data", "guard": "off", "targets": [target]}
    (folder / "config.yaml").write_text(json.dumps(config))
    return len(drafts)


def audited(folder: Path, capsys: pytest.CaptureFixture[str]) -> tuple[int, dict[str, Any]]:
    status = main(["--config", str(folder / "config.yaml"), "ledger", "audit", "--json"])
    return status, json.loads(capsys.readouterr().out)


@pytest.mark.parametrize("kept", [0, 1], ids=["opening", "closing"])
def test_an_outage_that_a_kill_left_out_is_pending_and_what_the_next_start_puts_on_record(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], kept: int
) -> None:
    killed_after(tmp_path, kept)
    status, findings = audited(tmp_path, capsys)
    assert (status, findings["valid"], findings["findings"]) == (0, True, [])
    (pending,) = findings["pending"]
    assert pending["what"].endswith("is not yet recorded; the next start records it")
    assert main(["--config", str(tmp_path / "config.yaml"), "ledger", "audit"]) == 0
    assert "the next start records 1 outage(s)" in capsys.readouterr().out
    # As take_up does it at the start.
    reader, store = Reader.open(tmp_path / "data"), opened(tmp_path)
    for outage in restore_state(reader, "a", rule_book(reader)).unrecorded:
        payload = payload_of(outage, "lab", Kind.IMAP, "here")
        store.append_batch([NewEntry(kind="outage", time=START, target="a", payload=payload)])
    store.close()
    reader.close()
    status, findings = audited(tmp_path, capsys)
    assert (status, findings["valid"], findings["findings"], findings["pending"]) == (0, True, [], [])


def test_an_outage_that_no_start_would_put_on_record_is_a_finding(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    killed_after(tmp_path, 0)
    store = opened(tmp_path)
    for number in range(6, 12):
        at = START + number * MINUTE
        observation = observation_of("a", "+", at)
        store.append_batch([NewEntry(kind="observation", time=at, target="a", payload=observation)])
    store.close()
    status, findings = audited(tmp_path, capsys)
    assert (status, findings["valid"], findings["pending"]) == (1, False, [])
    assert all(finding["what"].endswith(" of a is missing from the record") for finding in findings["findings"]), (
        findings
    )


def test_a_lost_ledger_has_a_successor_by_one_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    killed_after(tmp_path, 2)
    words = ["--config", str(tmp_path / "config.yaml"), "ledger"]
    assert main([*words, "successor"]) == 1
    assert "is whole, so it needs no successor" in capsys.readouterr().err
    (tmp_path / "data" / "mailwatch.sqlite").unlink()
    assert main([*words, "audit"]) == 1
    assert "`mailwatch run --successor` begins a new ledger" in capsys.readouterr().err
    assert main([*words, "successor", "--json"]) == 0
    done = json.loads(capsys.readouterr().out)
    assert done.keys() == {"origin", "predecessor", "reason", "archive"}
    assert done["reason"] == "database_lost"
    status, findings = audited(tmp_path, capsys)
    assert (status, findings["origin"], findings["entries"]) == (0, done["origin"], 1)
    assert main([*words, "successor", "--older"]) == 0
    printed = capsys.readouterr().out
    assert f"is the successor of {done['origin']}; what is left of that one is kept in" in printed


def test_run_with_successor_changes_a_whole_ledger_in_nothing(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    killed_after(tmp_path, 2)
    config = load(tmp_path / "config.yaml")
    caplog.set_level("INFO")
    begin_if_lost(config)
    assert "--successor changes nothing" in caplog.text
    before = (tmp_path / "data" / "keys" / "ledger.pub").read_text()
    (tmp_path / "data" / "mailwatch.sqlite").unlink()
    begin_if_lost(config)
    assert "is the successor of mailwatch/" in caplog.text
    assert (tmp_path / "data" / "keys" / "ledger.pub").read_text() != before
    begin_if_lost(config)
    assert len(list((tmp_path / "data" / "archive").iterdir())) == 1
