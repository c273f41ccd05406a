"""Readings of the clock that nobody can set: what does not fit is refused by audit and verify alike, by name."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from mailwatch import monotonic
from mailwatch.evidence.verify import Trust, verify
from mailwatch.ledger import entry
from mailwatch.ledger.canonical_json import canonical
from mailwatch.ledger.clock_readings import ClockReadings
from mailwatch.ledger.entry import EncodedEntry
from mailwatch.store import Store, audit
from mailwatch.store import store as writing
from mailwatch.store.replay import audit_outages, rule_book
from tests.helpers.malicious_operator import Operator

Change = Callable[[dict[str, Any], dict[str, Any]], None]
"""Alters the header and the payload of one entry."""


@pytest.fixture
def operator(tmp_path: Path) -> Iterator[Operator]:
    store = Store.open(tmp_path / "data")
    yield Operator(store, tmp_path / "data")
    store.close()


def forge(monkeypatch: pytest.MonkeyPatch, at: int, change: Change) -> None:
    """Have entry `at` written otherwise; hashes and signatures are made over what is written."""
    seal = entry.encode_entry

    def forged(*, index: int, payload: dict[str, Any], **rest: Any) -> EncodedEntry:
        header: dict[str, Any] = {}
        if index == at:
            payload = json.loads(json.dumps(payload))
            change(header, payload)
        sealed = seal(index=index, payload=payload, **rest)
        if not header:
            return sealed
        reported = json.loads(sealed.header) | header
        return EncodedEntry(
            canonical({key: value for key, value in reported.items() if value != "gone"}), sealed.payload
        )

    monkeypatch.setattr(writing, "encode_entry", forged)


def header(**keys: Any) -> Change:
    return lambda entry, _payload: entry.update(keys)


def clock(**keys: Any) -> Change:
    def change(_entry: dict[str, Any], payload: dict[str, Any]) -> None:
        payload["clock"] = {
            key: value for key, value in (payload["clock"] | keys).items() if value != "gone"
        }  # fmt: skip

    return change


def without(_entry: dict[str, Any], payload: dict[str, Any]) -> None:
    del payload["clock"]


FORGED: dict[str, tuple[Change, str]] = {
    "no boot": (header(boot="gone"), "missing: boot"),
    "no clock": (header(clock="gone"), "missing: clock"),
    "no run": (header(run="gone"), "missing: run"),
    "version 1 again": (header(boot="gone", clock="gone", run="gone", v=1), "missing, which the entries before"),
    "version 1 with a clock": (header(v=1), "of version 1 but has a clock reading"),
    "a fraction": (header(clock=1.5), "not whole milliseconds"),
    "text": (header(clock="12"), "not whole milliseconds"),
    "true": (header(clock=True), "not whole milliseconds"),
    "negative": (header(clock=-5), "not whole milliseconds"),
    "a boot that is none": (header(boot="B" * 16), "not whole milliseconds"),
    "backwards": (header(clock=7), "runs backwards"),
    "another boot, and back": (header(boot="ab" * 8), "goes on in another boot"),
    "another run and boot, and back": (header(boot="ab" * 8, run="cd" * 8), "of another boot than its header"),
    "another run, and back": (header(run="ab" * 8), "comes back after another one"),
    "an observation without": (without, "of its observation is missing"),
    "an observation of another boot": (clock(boot="cd" * 8), "of another boot than its header"),
    "an observation that ends later": (clock(end=2**50), "ends after it was written"),
    "an observation that runs backwards": (clock(start=2**50), "runs backwards"),
    "an observation before the one before": (
        clock(start=5),
        "before the observation of lab-imap before it had ended",
    ),
    "a start that is text": (clock(start="5"), "not from and to in whole milliseconds"),
    "a bound that is negative": (clock(bound=-1), "not from and to in whole milliseconds"),
    "no end": (clock(end="gone"), "not from and to in whole milliseconds"),
    "no start": (clock(start="gone"), "not from and to in whole milliseconds"),
}


@pytest.mark.parametrize("name", FORGED)
@pytest.mark.slow
def test_a_reading_that_does_not_fit_is_refused_by_name(
    operator: Operator, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    change, words = FORGED[name]
    operator.observe("++-")
    forge(monkeypatch, operator.store.size, change)
    operator.observe("-")
    monkeypatch.undo()
    operator.observe("--++")
    with operator.reader() as reader:
        found = audit(reader, operator.store.keys.public, operator.store.keys.secret)
    assert any(finding.what.startswith("clock: ") and words in finding.what for finding in found), found
    claims = {claim.claim: claim for claim in verify(operator.bundle(), Trust())}
    assert not claims["clock"].valid
    assert words in claims["clock"].detail

    assert claims["clock"].detail.startswith("entry ")
    assert claims["entries"].valid, "hashes and signatures are as good as ever"


def test_a_valid_clock_reading_is_accepted(operator: Operator) -> None:
    operator.observe("++----++")
    with operator.reader() as reader:
        assert audit(reader, operator.store.keys.public, operator.store.keys.secret) == []
    claims = {claim.claim: claim for claim in verify(operator.bundle(), Trust())}
    assert claims["clock"].valid
    assert "follow one another in" in claims["clock"].detail


def test_a_gap_over_a_reboot_has_no_start() -> None:
    readings = ClockReadings()
    known = {"boot": "a" * 16, "run": "b" * 16, "clock": 100, "v": 2}
    assert list(readings.check_header(known)) == []
    gap = {"boot": "a" * 16, "end": 90}
    assert list(readings.check_payload("gap", "t", {"clock": gap})) == []
    assert list(readings.check_payload("observation", "t", {"clock": gap})) != []


WATCH = {
    "target": "lab-imap",
    "at": 1,
    "event": "begin",
    "reason": "start",
    "settings": {
        "kind": "imap", "provider": "lab", "host": "127.0.0.1", "port": 993, "tls": "implicit", "interval": 60_000,
        "timeout": 30_000, "catalogue": False, "own_ca": False,
        "rules": {"open_after": 3, "close_after": 2, "recheck_ms": []},
    },
}  # fmt: skip


@pytest.mark.parametrize(
    ("part", "key", "value"),
    [
        ("settings", "interval", 0),
        ("settings", "interval", "60"),
        ("settings", "port", None),
        ("settings", "host", 5),
        ("settings", "catalogue", 1),
        ("settings", "kind", "fax"),
        ("settings", "rules", {}),
        ("", "event", "sometimes"),
        ("", "at", "now"),
        ("", "settings", None),
    ],
)
def test_unreadable_target_settings_are_refused_by_name(
    operator: Operator, part: str, key: str, value: Any
) -> None:
    read = operator.steady()
    written = json.loads(json.dumps(WATCH)) | {
        "clock": {"boot": monotonic.origin().boot, "start": read, "end": read}
    }
    (written[part] if part else written)[key] = value
    operator.observe("++--")
    operator.entry("watch", written, operator.target)
    operator.observe("--++")
    with operator.reader() as reader:
        found = audit(reader, operator.store.keys.public, operator.store.keys.secret)
        replayed = audit_outages(reader, rule_book(reader), operator.target)
    assert [finding for finding in found if finding.what.startswith("watch: ")]
    assert replayed
    claims = {claim.claim: claim for claim in verify(operator.bundle(), Trust())}
    assert not claims["watched"].valid
