"""Evidence from end to end: a real outage, a real authority, the bundle, and everybody who may check it."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
import zipfile
import zlib
from pathlib import Path

import pytest

from mailwatch.evidence.pages.compare import verify_with_pages
from mailwatch.evidence.report.formatting import texts
from mailwatch.evidence.verify import Trust, verify
from mailwatch.ledger.entry import login_name_commitment
from mailwatch.model import Cause, GapReason, Phase
from tests.helpers.bundle_files import files_of
from tests.helpers.pdf import text_of
from tests.helpers.process import MailWatchProcess
from tests.helpers.recorded_outage import OTHERS_NAME
from tests.helpers.resigned import signed_again, with_json
from tests.servers import ALICE, BOB
from tests.servers.authority import Authority


def test_a_good_bundle_is_valid_in_every_claim(bundle: Path, trust: Trust) -> None:
    claims = verify_with_pages(bundle, trust)
    assert [claim for claim in claims if not claim.valid or claim.note] == []
    reported = {claim.claim: claim.detail for claim in claims}
    times = json.loads(zipfile.ZipFile(bundle).read("outage.json"))["outside_times"]
    span = re.search(r"each over its checkpoint, from (.*Z) to (.*Z)$", reported["tokens"])
    assert span, reported
    # An authority may have been asked once more before the range ended.
    assert span[1] <= times["not_before"] < times["not_after"] <= span[2]


def test_without_trust_anchors_verify_says_what_its_result_rests_on(bundle: Path) -> None:
    claims = {claim.claim: claim for claim in verify(bundle, Trust())}
    assert all(claim.valid for claim in claims.values()), claims
    assert "lead only to certificates in the bundle itself" in claims["tokens"].detail
    assert "compare it with the key of the owner" in claims["key"].detail


def test_another_key_or_authority_than_the_trusted_one_is_refused(
    bundle: Path, recorded_outage: tuple[MailWatchProcess, Authority, str], tmp_path: Path
) -> None:
    other = Authority(tmp_path / "other")
    other.server.server_close()
    claim = next(c for c in verify(bundle, Trust.read([other.chain])) if not c.valid)
    # What is enclosed may help to build a chain, but the trusted end of it is another one.
    assert claim.claim == "tokens"
    text = (recorded_outage[0].data_dir / "keys" / "ledger.pub").read_text()
    (tmp_path / "key").write_text(text.replace("a", "b"))
    assert "not among the keys" in next(
        c.detail for c in verify(bundle, Trust.read([tmp_path / "key"])) if not c.valid
    )


def test_the_case_lies_between_two_outside_times(bundle: Path) -> None:
    stated = json.loads(zipfile.ZipFile(bundle).read("outage.json"))
    times, outage = stated["outside_times"], stated["outage"]
    assert times["not_before"] <= outage["last_good"] < outage["first_good"] <= times["not_after"]
    assert stated["service"] | {"port": 0} == {
        "kind": "imap",
        "provider": "lab",
        "host": "localhost",
        "port": 0,
        "tls": "implicit",
        "interval": "1s",
        "timeout": "2s",
        "with_login": True,
    }


@pytest.mark.parametrize("change", [{"name": BOB}, {"key": "00" * 32}, {"key": "no"}, {"name": None}])
def test_the_user_name_of_a_bundle_is_the_one_on_record(
    bundle: Path, recorded_outage: tuple[MailWatchProcess, Authority, str], change: dict[str, str], tmp_path: Path
) -> None:
    files = files_of(bundle)
    disclosed = json.loads(files["outage.json"])["user_name"]
    assert disclosed["name"] == ALICE
    assert login_name_commitment(bytes.fromhex(disclosed["key"]), ALICE).encode() in files["entries.jsonl"]
    (tmp_path / "report.pdf").write_bytes(files["report.pdf"])
    assert f"User name {ALICE} (recorded at the time" in text_of(tmp_path / "report.pdf")
    other = with_json(files, "outage.json", {"user_name": disclosed | change})
    path = signed_again(tmp_path / "other.zip", other, recorded_outage[0].data_dir)
    claims = {claim.claim: claim for claim in verify(path, Trust()) if not claim.valid}
    assert "user name" in claims["outage"].detail


def test_a_bundle_discloses_nothing_about_other_targets(
    bundle: Path, recorded_outage: tuple[MailWatchProcess, Authority, str]
) -> None:
    with zipfile.ZipFile(bundle) as opened:
        pdf = opened.read("report.pdf")
        everything = b"".join(opened.read(name) for name in opened.namelist())
    unpacked = [
        zlib.decompressobj().decompress(pdf[at.end() :])
        for at in re.finditer(rb"FlateDecode.*?stream\r?\n", pdf, re.DOTALL)
    ]
    assert b"lab-imap" in b"".join(unpacked)
    everything += b"".join(unpacked)
    entries = everything.count(b'"kind":"observation"')
    assert entries > 2 * everything.count(b'"outcome":"up"')
    assert OTHERS_NAME.encode() not in everything
    assert BOB.encode() not in everything
    assert (recorded_outage[0].folder / "secret").read_text().strip().encode() not in everything


def test_the_same_ledger_gives_the_same_bytes(
    bundle: Path, recorded_outage: tuple[MailWatchProcess, Authority, str], tmp_path: Path
) -> None:
    again = tmp_path / "again.zip"
    recorded_outage[0].command("report", recorded_outage[2], "-o", str(again), "--lang", "en")
    assert again.read_bytes() == bundle.read_bytes()
    assert again.stat().st_mode & 0o777 == 0o600


def test_the_standalone_script_verifies_the_bundle(bundle: Path, tmp_path: Path) -> None:
    with zipfile.ZipFile(bundle) as opened:
        opened.extract("verify.py", tmp_path)
    # -I and -S: nothing of this environment's packages.
    checked = subprocess.run(
        [sys.executable, "-I", "-S", "verify.py", str(bundle)], cwd=tmp_path, capture_output=True, text=True
    )
    assert checked.returncode == 0, checked.stdout + checked.stderr
    assert "All checks that plain Python can do have passed." in checked.stdout
    assert len((tmp_path / "verify.py").read_text().splitlines()) <= 250, "short enough to be read"


def typed(folder: Path, zipped: Path) -> list[subprocess.CompletedProcess[str]]:
    """Type each block of the instructions as it stands into a plain shell; mailwatch itself is not there."""
    (page,) = folder.glob("VERIFI*.md") if (folder / "VERIFICA.md").exists() else folder.glob("VERIFY.md")
    blocks = re.findall(r"^```sh\n(.*?)^```$", page.read_text(), re.DOTALL | re.MULTILINE)
    messages = []
    for block in blocks:
        text = re.sub(r"BUNDLE\.zip|FASCICOLO\.zip", str(zipped), block)
        if not text.startswith("mailwatch"):
            env = {"PATH": "/usr/bin:/bin", "LC_ALL": "C"}
            messages.append(
                subprocess.run(["sh", "-c", text], cwd=folder, env=env, capture_output=True, text=True)
            )
    return messages


@pytest.mark.parametrize("language", ["en", "it"])
def test_the_commands_of_the_instructions_work(
    bundle: Path, recorded_outage: tuple[MailWatchProcess, Authority, str], tmp_path: Path, language: str
) -> None:
    """Plain python3, sha256sum and openssl, in both languages; and they notice what was changed."""
    zipped = tmp_path / "case.zip"
    shutil.copy(bundle, zipped)
    if language == "it":
        assert (
            recorded_outage[0].command("report", recorded_outage[2], "-o", str(zipped), "--lang", "it").returncode
            == 0
        )
    folder = tmp_path / "unpacked"
    shutil.unpack_archive(zipped, folder)
    proof = json.loads((folder / "proof.json").read_text())
    script, sums, split, signed, stamped = typed(folder, zipped)
    assert "All checks that plain Python can do have passed." in script.stdout, script
    assert sums.returncode == 0, sums
    assert sums.stdout.count(": OK\n") == len(zipfile.ZipFile(zipped).namelist()) - 2
    assert (split.returncode, split.stdout, split.stderr) == (0, "", "")
    assert signed.stdout.count("Signature Verified Successfully") == len(proof["checkpoints"]) + 1
    digests = re.findall(r"[0-9a-f]{64}", signed.stdout)
    assert len(digests) == 2
    assert digests[0] == digests[1]
    assert stamped.stdout.count("Verification: OK") == len(proof["tokens"]) >= 2, stamped
    assert stamped.stdout.count("Time stamp: ") == len(proof["tokens"])
    # One letter changed in the entries, and in each checkpoint.
    entries = folder / "entries.jsonl"
    entries.write_bytes(entries.read_bytes().replace(b'"down"', b'"dowm"', 1))
    text = json.dumps(proof | {"checkpoints": [note.replace("\n", "0\n", 1) for note in proof["checkpoints"]]})
    (folder / "proof.json").write_text(text)
    _, sums, _, signed, stamped = typed(folder, zipped)
    assert "entries.jsonl: FAILED" in sums.stdout
    assert signed.stdout.count("Signature Verified Successfully") == 1
    assert "Verification: OK" not in stamped.stdout


def test_the_standalone_script_reports_a_non_bundle_in_one_line(bundle: Path, tmp_path: Path) -> None:
    with zipfile.ZipFile(bundle) as opened:
        opened.extract("verify.py", tmp_path)
        entries = opened.read("entries.jsonl")
        files = {name: opened.read(name) for name in opened.namelist()}
    twice = entries.replace(b'"outcome":"down"', b'"outcome":"up","outcome":"down"', 1)
    for name, content, wrong in [
        ("proof.json", b"[1]", "WRONG: this is not a MailWatch bundle: TypeError"),
        ("entries.jsonl", twice, "WRONG each payload is the one that was sealed, in canonical form"),
    ]:
        with zipfile.ZipFile(tmp_path / "altered.zip", "w") as made:
            for known, reported in (files | {name: content}).items():
                made.writestr(known, reported)
        result = subprocess.run(
            [sys.executable, "-I", "-S", "verify.py", "altered.zip"], cwd=tmp_path, capture_output=True, text=True
        )
        assert result.returncode == 1
        assert wrong in result.stdout
        assert result.stderr == ""


def test_the_command_prints_each_claim(
    bundle: Path, recorded_outage: tuple[MailWatchProcess, Authority, str]
) -> None:
    result = recorded_outage[0].command("verify", str(bundle), "--trust", str(recorded_outage[1].chain))
    assert result.returncode == 0, result.stdout
    assert result.stdout.count("valid ") >= 10
    reported = json.loads(recorded_outage[0].command("verify", str(bundle), "--json").stdout)
    assert reported["valid"] is True
    assert {claim["claim"] for claim in reported["claims"]} >= {"entries", "tokens", "outage", "files"}
    assert recorded_outage[0].command("verify", str(bundle) + "x").returncode == 2


def test_an_unknown_outage_is_no_case(
    recorded_outage: tuple[MailWatchProcess, Authority, str], tmp_path: Path
) -> None:
    result = recorded_outage[0].command("report", "zzz", "-o", str(tmp_path / "no.zip"))
    assert result.returncode == 1
    assert "no outage has the id zzz" in result.stderr
    assert list(tmp_path.iterdir()) == []


def test_the_report_holds_the_statement_and_speaks_both_languages(
    bundle: Path, recorded_outage: tuple[MailWatchProcess, Authority, str], tmp_path: Path
) -> None:
    shutil.unpack_archive(bundle, tmp_path / "en")
    english = text_of(tmp_path / "en" / "report.pdf")
    recorded_outage[0].command("report", recorded_outage[2], "-o", str(tmp_path / "it.zip"), "--lang", "it")
    shutil.unpack_archive(tmp_path / "it.zip", tmp_path / "it")
    italian = text_of(tmp_path / "it" / "report.pdf")
    assert "did not work for at least" in english
    assert "non ha funzionato per almeno" in italian
    assert "connection refused" in english
    assert "accepted before and after it" in english
    for text in (english, italian):
        assert recorded_outage[2] in text
        assert "lab-imap" in text
    subprocess.run(["pdfdetach", "-saveall", "-o", tmp_path, tmp_path / "en" / "report.pdf"], check=True)
    assert (tmp_path / "outage.json").read_bytes() == (tmp_path / "en" / "outage.json").read_bytes()
    declared = (tmp_path / "it" / "report.pdf").read_bytes()
    assert re.findall(rb"pdfaid:(\w+)>(\w+)<", declared) == [(b"part", b"3"), (b"conformance", b"B")]


def test_both_languages_have_the_same_words_and_places() -> None:
    def shape(value: object) -> object:
        if isinstance(value, dict):
            return {key: shape(inner) for key, inner in value.items()}
        if isinstance(value, list):
            return [shape(inner) for inner in value]
        return sorted(set(re.findall(r"{\w*}", str(value))))

    assert shape(texts("it").loaded) == shape(texts("en").loaded)
    assert texts("en").section("causes").keys() == {cause.value for cause in Cause}
    assert texts("en").section("phases").keys() == {phase.value for phase in Phase}
    # A pause is announced by an entry of its own, and stands beside the gaps.
    assert texts("en").section("reasons").keys() == {reason.value for reason in GapReason} | {"paused"}
