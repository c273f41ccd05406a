"""Ledgers, bundles and a backup that the program of an earlier commit wrote are opened, checked and replayed.

tests/testdata/old/README.md says how each was made. Their bytes never change; what they say must stay readable.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import sqlite3
import subprocess
import sys
import zipfile
from contextlib import closing
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest

from mailwatch.ledger.canonical_json import canonical
from mailwatch.store import Reader, Store, packing
from mailwatch.store.proofs import consistency_between
from tests.helpers.command import mailwatch
from tests.helpers.ledger_answers import answers
from tests.helpers.paths import TESTDATA
from tests.helpers.patience import PATIENCE
from tests.helpers.process import MailWatchProcess
from tests.servers import free_port

OLD = TESTDATA / "old"
EXPECTED: dict[str, Any] = json.loads((OLD / "expected.json").read_bytes())
LEDGERS = sorted(EXPECTED)
AUTHORITIES = {"a": "a-authority.pem", "b-stamped": "b-stamped-authority.pem"}
"""The certificates that the tokens of a ledger lead to; the others have no tokens."""
BUNDLES = sorted(path.stem for path in OLD.glob("*.zip") if path.stem != "a-joint")
ARGUABLE = {
    "b-ahead": {"outage"},
    "b-back": {"outage"},
    "b-stamped-ahead": {"outage", "times"},
    "b-stamped-back": {"outage", "times"},
    "c-period": {"period"},
}
"""Claims of bundles that a later program may rightly refuse, by name: the clock was set inside the outage, or the
interval changed inside the window, and what they state of durations and shares is what was wrongly computed then.
"""


def ledger_of(bundle: str) -> str:
    return "b-stamped" if bundle.startswith("b-stamped") else bundle.partition("-")[0]


def trust_of(bundle: str) -> list[str]:
    authority = AUTHORITIES.get(ledger_of(bundle))
    return ["--trust", str(OLD / authority)] if authority else []


def unpacked(name: str, folder: Path) -> MailWatchProcess:
    """An installation over an old ledger; nobody listens where its targets are said to be now."""
    archive = OLD / ("a-backup.tar.gz" if name == "backup" else f"{name}-data.tar.xz")
    (folder / "data").mkdir(mode=0o700)
    shutil.unpack_archive(archive, folder / "data", filter="data")
    names = sorted({outage["target"] for outage in EXPECTED["a" if name == "backup" else name]["outages"]})
    at = {"host": "127.0.0.1", "port": free_port(), "tls": "none", "interval": "1s", "timeout": "1s"}
    targets = [
        {"name": one, "kind": "smtp" if "smtp" in one else "imap", "provider": "lab", **at} for one in names
    ]
    return MailWatchProcess(folder, targets)


def digest(data_dir: Path, count: int) -> str:
    """SHA-256 over the sealed texts of the first entries, as they stand in the file."""
    with closing(sqlite3.connect(data_dir / "mailwatch.sqlite")) as raw:
        rows = raw.execute("SELECT header, payload FROM entries ORDER BY idx LIMIT ?", (count,)).fetchall()
    assert len(rows) == count
    return hashlib.sha256("".join(f"{header}\n{payload}\n" for header, payload in rows).encode()).hexdigest()


@pytest.fixture(params=LEDGERS)
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def opened(name: str, tmp_path: Path) -> MailWatchProcess:
    """An old ledger that today's program has opened for writing, with all its migrations."""
    process = unpacked(name, tmp_path)
    assert digest(process.data_dir, EXPECTED[name]["entries"]) == EXPECTED[name]["sha256"]
    store = Store.open(process.data_dir)
    assert (store.size, store.findings) == (EXPECTED[name]["entries"], [])
    store.close()
    return process


def test_an_old_ledger_opens_and_keeps_its_bytes(opened: MailWatchProcess, name: str) -> None:
    assert digest(opened.data_dir, EXPECTED[name]["entries"]) == EXPECTED[name]["sha256"]
    with closing(sqlite3.connect(opened.data_dir / "mailwatch.sqlite")) as raw:
        kinds = dict(raw.execute("SELECT kind, count(*) FROM entries GROUP BY kind"))
    assert kinds == EXPECTED[name]["kinds"]


def test_an_old_ledger_is_audited(opened: MailWatchProcess, name: str) -> None:
    audit = opened.command("ledger", "audit", "--json")
    result = json.loads(audit.stdout)
    assert (audit.returncode, result["findings"]) == (0, []), audit.stdout + audit.stderr
    expected = EXPECTED[name]
    assert (result["entries"], result["tokens"]) == (expected["entries"], expected["kinds"].get("token", 0))


def evidence(process: MailWatchProcess, outage: str, path: Path) -> dict[str, bytes]:
    """What the bundle of an outage proves, as it is made now."""
    made = process.command("report", outage, "-o", str(path))
    assert made.returncode == 0, made.stderr
    with zipfile.ZipFile(path) as bundle:
        return {
            name: bundle.read(name) for name in bundle.namelist() if name.endswith((".json", ".jsonl", ".tsr"))
        }


def everything(process: MailWatchProcess, name: str, path: Path) -> dict[str, Any]:
    """Every answer about a ledger: of the reader, of the commands, its proofs, and the evidence of an outage."""
    with closing(Reader.open(process.data_dir)) as reader:
        found = answers(reader)
        sizes = sorted({1, reader.size() // 3, reader.size() // 2, reader.size()})
        for older, newer in combinations(sizes, 2):
            found[f"proof {older}-{newer}"] = consistency_between(reader, older, newer)
        texts = {row[4] for row in reader.raw_entries(0, reader.size())}
    for bundle in (one for one in BUNDLES if ledger_of(one) == name and one != "a-away"):
        with zipfile.ZipFile(OLD / f"{bundle}.zip") as archive:
            lines = [json.loads(line) for line in archive.read("entries.jsonl").splitlines()]
        found[bundle] = [canonical(line["header"]) in texts for line in lines if "header" in line]
        assert all(found[bundle])
    asked = ("--from", "2026-11-01", "--to", "2026-12-01")
    for command in (("outages",), ("incidents",), ("availability", *asked), ("ledger", "audit")):
        found[" ".join(command)] = process.command(*command, "--json").stdout
    closed = next(one["id"] for one in EXPECTED[name]["outages"] if one["state"] == "closed")
    return found | {"evidence": evidence(process, closed, path)}


@pytest.mark.nightly
def test_an_old_ledger_answers_the_same_when_it_is_packed(
    opened: MailWatchProcess, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = everything(opened, name, tmp_path / "before.zip")
    # They last some minutes, of which all would stay rows: no hour around an outage, and packs of eight entries.
    monkeypatch.setattr(packing, "KEPT_BESIDE_MS", 0)
    monkeypatch.setattr(packing, "KEPT_WITHIN_MS", 0)
    store, packed = Store.open(opened.data_dir), 0
    with closing(Reader.open(opened.data_dir)) as reader:
        packer = packing.Packer(reader)
        while (pack := packing.pack_next(packer, store, 1 << 50, 3)) is not None:
            packed += pack.count
    store.close()
    assert packed > EXPECTED[name]["kinds"]["observation"] // 3
    after = everything(opened, name, tmp_path / "after.zip")
    assert [asked for asked in before if before[asked] != after[asked]] == []


def test_an_old_ledger_with_a_changed_entry_is_found(tmp_path: Path) -> None:
    process = unpacked("a", tmp_path)
    with closing(sqlite3.connect(process.data_dir / "mailwatch.sqlite")) as raw:
        for (trigger,) in raw.execute("SELECT name FROM sqlite_master WHERE type = 'trigger'").fetchall():
            raw.execute(f"DROP TRIGGER {trigger}")
        raw.execute("UPDATE entries SET payload = replace(payload, 'refused', 'timeout') WHERE idx = 20")
        raw.commit()
    assert digest(process.data_dir, EXPECTED["a"]["entries"]) != EXPECTED["a"]["sha256"]
    assert process.command("ledger", "audit").returncode == 1


def test_an_old_ledger_lists_its_outages(opened: MailWatchProcess, name: str) -> None:
    listed = {one["id"]: one for one in json.loads(opened.command("outages", "--json").stdout)}
    expected = {one["id"]: one for one in EXPECTED[name]["outages"]}
    assert listed.keys() == expected.keys()
    for identity, outage in expected.items():
        displayed = opened.command("outages", "show", identity, "--json")
        assert json.loads(displayed.stdout)["id"] == identity, displayed.stderr
        assert listed[identity]["target"] == outage["target"]
        if name == "a":  # of the others the durations were wrong, or what is open may be judged otherwise
            assert {key: listed[identity].get(key) for key in outage} == outage


def test_the_availability_of_an_old_ledger_can_be_asked(opened: MailWatchProcess, name: str) -> None:
    asked = opened.command("availability", "--json", "--from", "2026-11-01", "--to", "2026-12-01")
    assert asked.returncode == 0, asked.stderr
    reported = json.loads(asked.stdout)
    assert {one["target"] for one in reported} == {one["target"] for one in EXPECTED[name]["outages"]}
    for one in reported:
        assert sum(one["observations"].values()) > 0
        lower, upper = one["availability"]["lower"], one["availability"]["upper"]
        assert lower is None or 0 <= lower <= upper <= 1


def test_a_run_goes_on_over_an_old_ledger(name: str, tmp_path: Path) -> None:
    process = unpacked(name, tmp_path)
    targets = [one["name"] for one in process.settings["targets"]]
    expected = EXPECTED[name]
    with process.running():
        before = {target: process.count(target, "down") for target in targets}
        for target in targets:
            process.wait_for_more(target, "down", than=before[target])
        assert {one["id"] for one in expected["outages"]} <= {one["id"] for one in process.api("outages")}
        assert process.get("/").startswith("<!")
    audit = process.command("ledger", "audit", "--json")
    result = json.loads(audit.stdout)
    assert (audit.returncode, result["findings"]) == (0, []), audit.stdout + process.log.read_text()
    assert result["entries"] > expected["entries"]
    assert digest(process.data_dir, expected["entries"]) == expected["sha256"]


def test_an_old_backup_is_restored(tmp_path: Path) -> None:
    process, expected = unpacked("backup", tmp_path), EXPECTED["a"]
    store = Store.open(process.data_dir)
    assert store.size == expected["entries"]
    store.close()
    assert digest(process.data_dir, expected["entries"]) == expected["sha256"]
    assert process.command("ledger", "audit").returncode == 0
    listed = json.loads(process.command("outages", "--json").stdout)
    assert {one["id"] for one in listed} == {one["id"] for one in expected["outages"]}


@pytest.mark.parametrize("bundle", BUNDLES)
def test_an_old_bundle_is_verified(bundle: str) -> None:
    result = mailwatch("verify", OLD / f"{bundle}.zip", *trust_of(bundle), "--json")
    claims = {claim["claim"]: claim for claim in json.loads(result.stdout)["claims"]}
    assert {"archive", "key", "checkpoints", "entries", "numbers", "tokens", "times", "files"} <= claims.keys()
    assert claims.keys() & {"outage", "period"}
    wrong = {claim: reported["detail"] for claim, reported in claims.items() if not reported["valid"]}
    # What depends on an arguable claim is not checked.
    own = {claim for claim, detail in wrong.items() if not detail.startswith("not checked, because")}
    assert own <= ARGUABLE.get(bundle, set()), wrong
    assert result.returncode == (1 if wrong else 0)


@pytest.mark.parametrize("bundle", BUNDLES)
def test_the_standalone_script_verifies_an_old_bundle(bundle: str, tmp_path: Path) -> None:
    path = OLD / f"{bundle}.zip"
    with zipfile.ZipFile(path) as opened:
        opened.extract("verify.py", tmp_path)
    command = [sys.executable, "-I", "-S", "verify.py", str(path)]
    checked = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False, timeout=PATIENCE)
    assert checked.returncode == 0, checked.stdout + checked.stderr
    assert "ok " in checked.stdout
    assert "WRONG" not in checked.stdout


@pytest.mark.parametrize("bundle", [one for one in BUNDLES if trust_of(one)])
def test_the_tokens_of_an_old_bundle_lead_to_its_authority_alone(bundle: str) -> None:
    wrong = "b-stamped-authority.pem" if ledger_of(bundle) == "a" else "a-authority.pem"
    result = mailwatch("verify", OLD / f"{bundle}.zip", "--trust", OLD / wrong, "--json")
    claims = {claim["claim"]: claim["valid"] for claim in json.loads(result.stdout)["claims"]}
    assert (result.returncode, claims["tokens"]) == (1, False)


def test_an_old_joint_report_follows_from_its_members() -> None:
    members = ["--member", OLD / "a-en.zip", "--member", OLD / "a-away.zip"]
    result = mailwatch("verify", OLD / "a-joint.zip", *members, *trust_of("a"), "--json")
    claims = json.loads(result.stdout)["claims"]
    assert [claim for claim in claims if not claim["valid"]] == []
    assert result.returncode == 0
    assert [claim["claim"].split()[0] for claim in claims].count("member") == 2
    assert mailwatch("verify", OLD / "a-joint.zip", *members[:2], *trust_of("a")).returncode == 1


def test_old_bundles_can_be_merged_again(tmp_path: Path) -> None:
    members = [OLD / "a-it.zip", OLD / "a-away.zip"]
    made = mailwatch("merge", *members, "-o", tmp_path / "joint.zip", "--enclose", *trust_of("a"))
    assert made.returncode == 0, made.stderr
    assert mailwatch("verify", tmp_path / "joint.zip", *trust_of("a")).returncode == 0


@pytest.mark.parametrize("ledger", ["b", "b-stamped"])
def test_an_old_outage_across_a_step_has_bounds_that_can_be_defended(ledger: str, tmp_path: Path) -> None:
    """656f141 made of twelve seconds an hour, and of twelve seconds one."""
    process = unpacked(ledger, tmp_path)
    truth = json.loads((OLD / f"{ledger}-truth.json").read_text())
    reported = {outage["id"]: outage for outage in json.loads(process.command("outages", "--json").stdout)}
    assert len(truth) == 2
    for one in truth:
        outage = reported[one["id"]]
        assert outage["duration"]["min"] <= one["true_seconds_at_most"], "at least"
        assert outage["duration"]["max"] >= one["true_seconds_at_least"], "at most"
        assert outage["clock"]["wall"] is True
        assert abs(outage["clock"]["stepped"] - 3600) < 1
        path = tmp_path / f"{one['id']}.zip"
        made = process.command("report", one["id"], "-o", str(path), "--lang", "it")
        assert made.returncode == 0, made.stderr
        checked = process.command("verify", str(path), *trust_of(f"{ledger}-ahead"))
        assert checked.returncode == 0, checked.stdout
        displayed = process.command("outages", "show", one["id"]).stdout
        assert "wider by that" in " ".join(displayed.split())
