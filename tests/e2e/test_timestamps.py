"""Outside time: tokens of a real authority (openssl ts behind HTTP) over the ledger's checkpoints."""

from __future__ import annotations

import contextlib
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from asn1crypto import cms, tsp, x509
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509 import Certificate
from pydantic import SecretStr

from mailwatch import config
from mailwatch.certificates import parse_pem
from mailwatch.ledger import timestamp, tsa
from mailwatch.ledger.timestamp import TimestampError, TrustAnchors
from mailwatch.ledger.tsa import request_timestamp
from mailwatch.settings import Login, TimestampAuthority
from mailwatch.store import NewEntry, Reader, Store, Tokens, load_keys
from mailwatch.store.committed_tail import CommittedReply, CommittedTail
from mailwatch.store.postgres import PostgresPlace
from mailwatch.times import now
from tests.helpers.config_entries import imap
from tests.helpers.malicious_operator import quiet
from tests.helpers.process import MailWatchProcess
from tests.servers import Dovecot, free_port
from tests.servers.authority import AUTHORITY_S, SERVER_S, Authority
from tests.servers.certificates import Certificates
from tests.servers.postgresql import PostgreSql

NOTE = "mailwatch/test\n7\nAAAA\n\n— mailwatch/test AAAA\n"


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An authority's keys and certificates, to copy."""
    folder = tmp_path_factory.mktemp("authority") / "made"
    Authority(folder).server.server_close()
    return folder


@pytest.fixture
def authority(tmp_path: Path) -> Iterator[Authority]:
    with Authority(tmp_path / "authority").running() as running:
        yield running


def asked(authority: Authority, **more: Any) -> TimestampAuthority:
    return TimestampAuthority(name="test", url=authority.url, every=3600.0, ca_file=authority.chain, **more)


@pytest.mark.parametrize("with_chain", [False, True])
async def test_a_checkpoint_is_stamped_and_openssl_agrees(authority: Authority, with_chain: bool) -> None:
    """With its chain in it the token is not strict DER: openssl makes it so, and others read it."""
    authority.with_chain = with_chain
    before = now()
    stamped = await request_timestamp(asked(authority), NOTE)
    assert stamped.distrust_reason == ""
    # The time has milliseconds, and is cut off at them.
    assert before - 1 <= stamped.token.time <= now()
    assert stamped.token.authority.endswith("Test signer")
    assert stamped.token.accuracy_ms == 1000
    assert abs(stamped.offset_ms) <= stamped.answered_at - stamped.asked_at + 1
    reply, note = authority.folder / "reply.tsr", authority.folder / "note"
    reply.write_bytes(stamped.reply)
    note.write_bytes(NOTE.encode())
    command: list[str | Path] = [
        "openssl",
        "ts",
        "-verify",
        "-in",
        reply,
        "-data",
        note,
        "-CAfile",
        authority.root,
    ]
    checked = subprocess.run([*command, "-untrusted", authority.between], capture_output=True, text=True)
    assert "Verification: OK" in checked.stdout, checked.stderr


async def test_a_token_of_an_unknown_authority_is_stored_and_reported(authority: Authority) -> None:
    stamped = await request_timestamp(TimestampAuthority(name="test", url=authority.url, every=3600.0), NOTE)
    assert "does not lead to a trusted authority" in stamped.distrust_reason
    assert stamped.token.time


@pytest.mark.parametrize(
    ("broken", "words"),
    [
        ("dead", "RemoteProtocolError|ReadError"),
        ("500", "HTTP 500"),
        ("garbage", "not an RFC 3161 reply"),
        ("endless", "longer than 65536"),
        ("redirect", "HTTP 302"),
        ("slow", "no answer within 1 s"),
        ("other", "expected a token over|not an RFC 3161"),
    ],
)
async def test_what_is_no_token_is_refused(
    authority: Authority, broken: str, words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tsa, "TIMEOUT_SECONDS", 1.0 if broken == "slow" else tsa.TIMEOUT_SECONDS)
    if broken == "other":
        await request_timestamp(asked(authority), "another note")
    authority.broken = broken
    with pytest.raises(TimestampError) as caught:
        await request_timestamp(asked(authority), NOTE)
    assert any(word in str(caught.value) for word in words.split("|")), caught.value


async def test_a_token_of_an_earlier_query_is_refused(authority: Authority) -> None:
    """The same note asked twice: only the nonce distinguishes an old answer from a new one."""
    await request_timestamp(asked(authority), NOTE)
    authority.broken = "other"
    with pytest.raises(TimestampError, match="nonce"):
        await request_timestamp(asked(authority), NOTE)


async def test_an_authority_that_wants_a_login_gets_it_and_no_other_sees_it(authority: Authority) -> None:
    authority.login = "anna:canary-5b1d"
    login = Login(username="anna", password=SecretStr("canary-5b1d"))
    given = asked(authority, login=login)
    assert "canary" not in repr(given)
    assert (await request_timestamp(given, NOTE)).token.time
    with pytest.raises(TimestampError, match="HTTP 401"):
        await request_timestamp(asked(authority), NOTE)


async def test_no_changed_bit_of_what_is_signed_is_accepted(authority: Authority) -> None:
    stamped = await request_timestamp(asked(authority), NOTE)
    trusted = TrustAnchors(parse_pem(authority.chain.read_bytes()))
    assert timestamp.verify_reply(stamped.reply, NOTE, trusted).time == stamped.token.time
    chance = random.Random(4)
    for _ in range(400):
        altered = bytearray(stamped.reply)
        altered[chance.randrange(len(altered))] ^= 1 << chance.randrange(8)
        try:
            read = timestamp.verify_reply(bytes(altered), NOTE, trusted)
        except TimestampError:
            continue
        # Status and certificates are not signed; what is said of the time is.
        assert (read.time, read.imprint, read.serial) == (
            stamped.token.time,
            stamped.token.imprint,
            stamped.token.serial,
        )


def test_a_signer_of_another_root_of_the_same_name_is_refused(made: Path, tmp_path: Path) -> None:
    reply = quiet(tmp_path / "authority").answer(timestamp.timestamp_query(NOTE)[0])
    other = TrustAnchors(parse_pem((made / "root.pem").read_bytes()))
    with pytest.raises(TimestampError, match="trusted authority"):
        timestamp.verify_reply(reply, NOTE, other)


def test_a_certificate_that_had_expired_signs_nothing(tmp_path: Path) -> None:
    authority = quiet(tmp_path / "authority")
    authority.certify("signer", AUTHORITY_S, days=-1)
    reply = authority.answer(timestamp.timestamp_query(NOTE)[0])
    with pytest.raises(TimestampError, match="certificate has expired"):
        timestamp.verify_reply(reply, NOTE, TrustAnchors(parse_pem(authority.chain.read_bytes())))


@pytest.mark.parametrize("where", ["alone", "in front", "behind", "enclosed"])
def test_a_server_s_certificate_of_a_trusted_authority_signs_no_time(tmp_path: Path, where: str) -> None:
    """Anyone gets one of those. `openssl ts` would not sign with it: it did with a decoy of the same key, issuer
    and serial number, but made by a false authority; which of the two is meant must not be left to chance."""
    true, false = quiet(tmp_path / "true"), quiet(tmp_path / "false")
    shutil.copy(true.folder / "signer.csr", false.folder)
    shutil.copy(true.folder / "signer.key", false.folder)
    false.certify("signer", AUTHORITY_S, serial=77)
    true.certify("server", SERVER_S, serial=77, request="signer")
    reply = false.answer(timestamp.timestamp_query(NOTE)[0])
    served, decoy = der(true.folder / "server.pem"), der(false.signer)
    sent = {"alone": [served], "in front": [served, decoy], "behind": [decoy, served], "enclosed": [decoy]}[where]
    made = tsp.TimeStampResp.load(reply)
    made["time_stamp_token"]["content"]["certificates"] = cms.CertificateSet(sent)
    helping = [x509_of(true.between)] + ([x509_of(true.folder / "server.pem")] if where == "enclosed" else [])
    with pytest.raises(TimestampError, match="trusted authority"):
        timestamp.verify_reply(made.dump(force=True), NOTE, TrustAnchors([x509_of(true.root)], helping))


def x509_of(path: Path) -> Certificate:
    (found,) = parse_pem(path.read_bytes())
    return found


def der(path: Path) -> x509.Certificate:
    loaded: x509.Certificate = x509.Certificate.load(x509_of(path).public_bytes(Encoding.DER))
    return loaded


@pytest.fixture
def process(
    own_dovecot: Dovecot, certificates: Certificates, authority: Authority, tmp_path: Path
) -> Iterator[MailWatchProcess]:
    mailwatch = MailWatchProcess(
        tmp_path,
        [imap(own_dovecot, certificates, tmp_path / "secret")],
        detection={"recheck": ["1s"]},
        timestamps=[
            {"url": authority.url, "every": "1h", "ca_file": str(authority.chain)},
            {"url": "http://127.0.0.1:9/dead", "every": "1h"},
        ],
    )
    with mailwatch.running():
        yield mailwatch


def test_the_ledger_is_stamped_at_the_start_and_when_an_outage_opens_and_closes(
    process: MailWatchProcess, own_dovecot: Dovecot, authority: Authority
) -> None:
    process.wait_until(lambda: process.state("lab-imap") == "up", "up")
    process.wait_until(lambda: tokens(process) == 1, "a token at the start")
    own_dovecot.stop()
    process.wait_until(lambda: process.api("outages"), "an outage")
    process.wait_until(lambda: tokens(process) == 2, "a token at the opening")
    own_dovecot.start()
    process.wait_until(lambda: tokens(process) == 3, "a token at the closing")
    assert process.api("outages")[0]["state"] == "closed"
    displayed = process.metric("mailwatch_ledger_last_token_timestamp_seconds")
    assert displayed is not None
    assert abs(displayed - time.time()) < 30
    assert process.metric("mailwatch_ledger_token_interval_seconds") == 3600
    process.stop()
    audit = process.command("ledger", "audit")
    assert "3 timestamp tokens" in audit.stdout, audit.stdout
    assert audit.returncode == 0, audit.stdout
    reader = Reader.open(process.data_dir)
    payloads = [entry.payload for entry in reader.entries(kinds=["token"])]
    notes = {row.size: row.note for row in reader.checkpoints()}
    reader.close()
    kept = Tokens(process.data_dir)
    trusted = TrustAnchors(parse_pem(authority.chain.read_bytes()))
    for payload in payloads:
        reply = kept.get(payload["reply"])
        assert reply is not None
        assert timestamp.verify_reply(reply, notes[payload["checkpoint"]], trusted).time == payload["time"]
    # The dead one delayed nothing, and is said once.
    lines = [line for line in process.log.read_text().splitlines() if "no token from 127.0.0.1:9" in line]
    assert ["WARNING" in line for line in lines] == [True, *[False] * (len(lines) - 1)]


@pytest.mark.nightly
def test_a_node_keeps_the_replies_in_its_own_copy(
    authority: Authority, tmp_path: Path, postgresql: PostgreSql
) -> None:
    """A failover to a replica that lags may lose them; tests/unit/store/test_failover.py has them come back."""
    target = {"name": "lab", "kind": "imap", "host": "127.0.0.1", "port": free_port(), "tls": "none"}
    stamped = [{"url": authority.url, "every": "1h", "ca_file": str(authority.chain)}]
    with postgresql.database() as name:
        place = PostgresPlace(tmp_path / "data", postgresql.url(name))
        node = MailWatchProcess(tmp_path, [target], database=place.url, timestamps=stamped)
        with node.running():
            node.wait_until(lambda: node.metric("mailwatch_ledger_last_token_timestamp_seconds"), "a token")
        with contextlib.closing(Reader.open(place)) as reader:
            named = {entry.payload["reply"] for entry in reader.entries(kinds=["token"])}
            tail = CommittedTail(place.data_dir)
            tail.origin = load_keys(place.data_dir).origin
            kept = {one.name for one in tail.read() if isinstance(one, CommittedReply)}
    assert named
    assert kept == named


def test_a_restart_does_not_ask_again_before_its_time(process: MailWatchProcess, authority: Authority) -> None:
    process.wait_until(lambda: tokens(process) == 1, "a token at the start")
    process.kill()
    process.start()
    process.wait_until(lambda: process.metric("mailwatch_ledger_last_token_timestamp_seconds"), "the last token")
    process.wait_until(lambda: process.state("lab-imap") == "up", "up")
    assert authority.asked == 1


def test_a_reload_asks_the_authorities_that_are_named_from_then_on(authority: Authority, tmp_path: Path) -> None:
    unreachable = {"name": "lab", "kind": "imap", "host": "127.0.0.1", "port": free_port(), "tls": "none"}
    process = MailWatchProcess(tmp_path, [{**unreachable, "interval": "1h"}])
    named = {"url": authority.url, "every": "1h", "ca_file": str(authority.chain)}
    with process.running():
        for sections, asked in (([named], 1), ([{**named, "every": "2h"}], 2), ([], 2)):
            before = process.log.read_text().count("config reloaded")
            process.settings["timestamps"] = sections
            process.write_config()
            process.signal(signal.SIGHUP)
            process.wait_until(lambda n=before: process.log.read_text().count("config reloaded") > n, "reloaded")  # type: ignore[misc]
            process.wait_until(lambda n=asked: tokens(process) == n, "asked")  # type: ignore[misc]
            interval = process.metric("mailwatch_ledger_token_interval_seconds")
            assert interval == {"1h": 3600, "2h": 7200}.get(sections[0]["every"] if sections else "")


def test_a_token_that_cannot_be_stored_does_not_stop_the_probes(
    process: MailWatchProcess, authority: Authority
) -> None:
    """As with a full disk: the folder of the tokens cannot be made."""
    process.wait_until(lambda: tokens(process) == 1, "a token at the start")
    process.stop()
    shutil.rmtree(process.data_dir / "tokens")
    (process.data_dir / "tokens").write_text("not a folder")
    settings = process.settings["timestamps"]
    settings[0]["every"] = "100ms"
    process.write_config()
    process.start()
    process.wait_until(lambda: "File exists" in process.log.read_text(), "a line in the log")
    count = process.count("lab-imap", "up")
    process.wait_until(lambda: process.count("lab-imap", "up") >= count + 3, "going on")


def test_an_outage_without_a_token_gets_one_at_the_next_start(
    process: MailWatchProcess, own_dovecot: Dovecot, authority: Authority
) -> None:
    """The authority was out when mail was, and MailWatch was restarted before it came back."""
    process.wait_until(lambda: tokens(process) == 1, "a token at the start")
    authority.broken = "500"
    own_dovecot.stop()
    process.wait_until(lambda: process.api("outages"), "an outage")
    process.wait_until(lambda: process.log.read_text().count("HTTP 500"), "refused")
    process.kill()
    authority.broken = ""
    process.start()
    process.wait_until(lambda: tokens(process) == 2, "a token over the outage")


def test_a_clock_that_was_set_back_does_not_put_off_the_next_stamp(
    process: MailWatchProcess, authority: Authority
) -> None:
    """The last token is of tomorrow, as our clock has it."""
    process.wait_until(lambda: tokens(process) == 1, "a token at the start")
    process.stop()
    reader = Reader.open(process.data_dir)
    (payloads,) = [entry.payload for entry in reader.entries(kinds=["token"])]
    reader.close()
    store = Store.open(process.data_dir)
    tomorrow = payloads | {"time": now() + 86_400_000}
    store.append_batch([NewEntry(kind="token", time=now(), target=None, payload=tomorrow)])
    store.close()
    process.settings["timestamps"][0]["every"] = "1s"
    process.write_config()
    process.start()
    process.wait_until(lambda: authority.asked > 1, "asked again")


def test_of_two_certificates_that_claim_to_have_signed_none_names_the_authority(authority: Authority) -> None:
    """Certificates are not signed: anyone may add one of the same serial number, with a better name."""
    query, _ = timestamp.timestamp_query(NOTE)
    reply = authority.answer(query)
    assert timestamp.parse_reply(reply).authority == "Test signer"
    made = tsp.TimeStampResp.load(reply)
    signed = made["time_stamp_token"]["content"]
    first = signed["certificates"][0]
    forged = first.copy()
    forged.chosen["tbs_certificate"]["subject"] = x509.Name.build({"common_name": "A state's own authority"})
    signed["certificates"] = cms.CertificateSet([forged, first])
    assert timestamp.parse_reply(made.dump(force=True)).authority == ""


def test_a_file_is_whole_or_not_there_when_the_disk_is_full(tmp_path: Path) -> None:
    """A disk with room for a part takes that part, and says nothing of the rest until asked again."""
    script = (
        "import resource, sys; from pathlib import Path; from mailwatch.store import Tokens\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))\n"
        "Tokens(Path(sys.argv[1])).save(bytes(1500))"
    )
    result = subprocess.run([sys.executable, "-c", script, str(tmp_path)], capture_output=True, text=True)
    assert "OSError: [Errno 27]" in result.stderr
    assert list((tmp_path / "tokens").iterdir()) == []


@pytest.mark.parametrize("harm", ["gone", "altered"])
def test_the_audit_misses_a_token(process: MailWatchProcess, harm: str) -> None:
    process.wait_until(lambda: tokens(process) == 1, "a token at the start")
    process.stop()
    (kept,) = (process.data_dir / "tokens").iterdir()
    if harm == "gone":
        kept.unlink()
    else:
        kept.write_bytes(kept.read_bytes()[:-1] + b"\0")
    audit = process.command("ledger", "audit")
    assert audit.returncode == 1
    assert "is gone or altered" in audit.stdout


def tokens(process: MailWatchProcess) -> int:
    folder = process.data_dir / "tokens"
    reader = Reader.open(process.data_dir)
    try:
        found = len(list(reader.entries(kinds=["token"])))
    finally:
        reader.close()
    assert not found or len(list(folder.iterdir())) >= found
    return found


def test_each_problem_of_the_certificates_is_reported(tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    (tmp_path / "none.pem").write_text("nothing")
    path.write_text(
        "vantage_point: {name: home}\n"
        "targets: [{name: lab, kind: imap, host: imap.example.org}]\n"
        "timestamps:\n"
        "  - {url: 'https://a.example/', ca_file: none.pem}\n"
        "  - {url: 'https://b.example/', ca_file: gone.pem}\n"
        "  - {url: 'https://b.example/2'}\n"
    )
    with pytest.raises(config.ConfigError) as caught:
        config.build_authorities(config.load(path))
    text = str(caught.value)
    assert f"{path}:4: timestamps[0].ca_file: " in text
    assert "holds no PEM certificates" in text
    assert f"{path}:5: timestamps[1].ca_file: " in text
    assert f"{path}:6: timestamps[2].url: b.example is already listed; keep one" in text
