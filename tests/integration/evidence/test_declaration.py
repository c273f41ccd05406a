"""`mailwatch declare`: a statement by mail on the first day, kept as it arrived, and enclosed in each bundle."""

from __future__ import annotations

import email.policy
import hashlib
import json
import quopri
import re
import shutil
import textwrap
import zipfile
from datetime import UTC, datetime, timedelta
from email.message import EmailMessage
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.rsa import generate_private_key
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, pkcs7
from cryptography.x509.oid import NameOID

from mailwatch.cli import main
from mailwatch.evidence.verify import Trust, verify
from mailwatch.ledger.checkpoint import CheckpointError, verifier_key
from mailwatch.ledger.declaration import declared_checkpoint
from mailwatch.probes.roundtrip.dkim import check_with_keys
from mailwatch.store.declarations import Declarations
from mailwatch.store.keys import load_keys
from tests.helpers import ledger_factory as ledgers
from tests.helpers.dkim_signing import RECORD, signed
from tests.helpers.ledger_factory import HOUR, MINUTE

START = 1_767_225_600_000


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """A ledger of an hour, and its config."""
    ledgers.write(tmp_path / "data", {"lab-imap": lambda _: "+"}, START, START + HOUR, every=30).close()
    (tmp_path / "secret").write_text("x\n")
    (tmp_path / "secret").chmod(0o600)
    login = {"username": "a@example.org", "password_file": "secret"}
    target = {"name": "lab-imap", "kind": "imap", "host": "127.0.0.1", "login": login}
    config = {"data_dir": "data", "targets": [target], "timezone": "Europe/Rome"}
    (tmp_path / "config.yaml").write_text(json.dumps(config))
    return tmp_path


def go_on(home: Path) -> None:
    """The second hour, with an outage."""

    def pattern(at: int) -> str:
        return "-" if HOUR + 10 * MINUTE <= at - START < HOUR + 30 * MINUTE else "+"

    ledgers.write(home / "data", {"lab-imap": pattern}, START + HOUR, START + 2 * HOUR, every=30).close()


def run(home: Path, *words: str) -> int:
    return main(["--config", str(home / "config.yaml"), *words])


def message(text: str) -> EmailMessage:
    made = EmailMessage(policy=email.policy.SMTP)
    made["From"], made["To"], made["Subject"] = "a@example.org", "b@example.net", "MailWatch"
    made.set_content(text)
    return made


def declared(home: Path, capsys: pytest.CaptureFixture[str], *words: str) -> str:
    assert run(home, "declare", *words) == 0
    return capsys.readouterr().out


@pytest.mark.parametrize("language", ["it", "en"])
def test_the_text_names_mailboxes_key_size_and_root(
    home: Path, capsys: pytest.CaptureFixture[str], language: str
) -> None:
    text = declared(home, capsys, "--lang", language)
    keys = load_keys(home / "data")
    made = declared_checkpoint(message(text).as_bytes(), keys.public)
    for part in ("a@example.org", keys.origin, verifier_key(keys.origin, keys.public), made.root.hex()):
        assert part in text
    assert f" {made.size} " in text


def test_the_checkpoint_is_found_however_the_mail_was_changed_on_its_way(
    home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = declared(home, capsys)
    keys = load_keys(home / "data")
    wrapped = "\n".join(
        part for line in text.splitlines() for part in (textwrap.wrap(line, 60, break_long_words=True) or [""])
    )
    certified = message("postacert")
    certified.add_attachment(message(text))
    html = EmailMessage(policy=email.policy.SMTP)
    html["Subject"] = "x"
    html.set_content(text, cte="base64")
    quoted = "Content-Transfer-Encoding: quoted-printable\nContent-Type: text/plain; charset=utf-8\n\n"
    raw = quoted.encode() + quopri.encodestring(text.encode())
    forms = (
        message(text).as_bytes(), message(wrapped).as_bytes(), certified.as_bytes(), html.as_bytes(), raw,
        message("".join(f"> {line}\n" for line in text.splitlines())).as_bytes(),
    )  # fmt: skip
    found = {declared_checkpoint(form, keys.public) for form in forms}
    assert len(found) == 1


@pytest.mark.parametrize("damage", ["", "other key", "altered", "cut", "nothing"])
def test_a_message_without_a_checkpoint_of_this_ledger_is_not_kept(
    home: Path, capsys: pytest.CaptureFixture[str], damage: str
) -> None:
    text = declared(home, capsys)
    if damage == "other key":
        ledgers.write(home / "other", {"x": lambda _: "+"}, START, START + HOUR).close()
        shutil.rmtree(home / "data")
        shutil.move(home / "other", home / "data")
    text = {
        "altered": re.sub(r"(CHECKPOINT-----\n\S+\n)(\d+)", r"\g<1>1\g<2>", text),
        "cut": text[: text.index("—")],
        "nothing": "Hello",
    }.get(damage, text)
    (home / "sent.eml").write_bytes(message(text).as_bytes())
    status = run(home, "declare", "--keep", str(home / "sent.eml"))
    assert status == (1 if damage else 0)
    assert len(list((home / "data").glob("declarations/*.eml"))) == (0 if damage else 1)
    capsys.readouterr()


def bundle(home: Path, capsys: pytest.CaptureFixture[str]) -> Path:
    capsys.readouterr()
    run(home, "outages", "--json")
    (outage,) = json.loads(capsys.readouterr().out)
    path = home / "case.zip"
    path.unlink(missing_ok=True)
    assert run(home, "report", outage["id"], "-o", str(path), "--lang", "en") == 0
    capsys.readouterr()
    return path


def claim(path: Path) -> tuple[bool, str]:
    (found,) = [one for one in verify(path, Trust()) if one.claim == "declaration"]
    return found.valid, found.detail


def test_bundles_enclose_it_with_a_proof_that_the_ledger_continues_it(
    home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (home / "sent.eml").write_bytes(message(declared(home, capsys)).as_bytes())
    assert run(home, "declare", "--keep", str(home / "sent.eml")) == 0
    go_on(home)
    path = bundle(home, capsys)
    assert main(["verify", str(path)]) == 0
    valid, detail = claim(path)
    assert valid
    assert "1 enclosed, the first over" in detail
    opened = zipfile.ZipFile(path)
    (one,) = json.loads(opened.read("outage.json"))["declarations"]
    assert opened.read(one["file"]) == (home / "sent.eml").read_bytes()
    window = ["--from", "2026-01-01T01:00Z", "--to", "2026-01-01T02:00Z"]
    assert run(home, "report", *window, "-o", str(home / "period.zip"), "--lang", "en") == 0
    assert "declarations" in json.loads(zipfile.ZipFile(home / "period.zip").read("period.json"))
    assert main(["verify", str(home / "period.zip")]) == 0
    capsys.readouterr()


@pytest.mark.sqlite
def test_a_declaration_that_the_ledger_does_not_continue_is_refused(
    home: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The owner declared one history, and goes on with another one of the same key."""
    shutil.copytree(home / "data", home / "copy")
    store = ledgers.write(home / "data", {"lab-imap": lambda _: "+"}, START + HOUR, START + HOUR + 10 * MINUTE)
    store.close()
    sent = message(declared(home, capsys)).as_bytes()
    shutil.rmtree(home / "data")
    shutil.move(home / "copy", home / "data")
    (home / "sent.eml").write_bytes(sent)
    go_on(home)
    assert run(home, "declare", "--keep", str(home / "sent.eml")) == 1
    # An operator who encloses it all the same.
    Declarations(home / "data").save(sent)
    valid, detail = claim(bundle(home, capsys))
    assert not valid
    assert "root" in detail or "no checkpoint" in detail


def test_what_is_no_message_of_mailwatch_has_no_checkpoint(home: Path) -> None:
    public = load_keys(home / "data").public
    for raw in (b"", b"\x00\xff" * 100, b"Content-Type: multipart/mixed; boundary=x\n\n--x\n" * 100):
        with pytest.raises(CheckpointError):
            declared_checkpoint(raw, public)


def smime(text: str) -> tuple[bytes, x509.Certificate]:
    """A message signed as a certified one is, and the certificate of the issuer."""
    key, root = generate_private_key(65537, 2048), generate_private_key(65537, 2048)
    names = [
        x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)]) for name in ("PEC of a test", "CA of a test")
    ]
    day = datetime(2026, 1, 1, tzinfo=UTC)
    made = [
        x509.CertificateBuilder(names[1], subject, public, number, day, day + timedelta(days=9)).sign(
            root, SHA256()
        )
        for subject, public, number in ((names[0], key.public_key(), 2), (names[1], root.public_key(), 1))
    ]
    signer = pkcs7.PKCS7SignatureBuilder().set_data(message(text).as_bytes()).add_signer(made[0], key, SHA256())
    body = signer.sign(Encoding.SMIME, [pkcs7.PKCS7Options.DetachedSignature])
    return b"From: posta-certificata@example.org\n" + body, made[1]


def keep(home: Path, raw: bytes, capsys: pytest.CaptureFixture[str]) -> str:
    (home / "sent.eml").write_bytes(raw)
    assert run(home, "declare", "--keep", str(home / "sent.eml")) == 0
    return capsys.readouterr().out


def test_a_certified_message_names_who_signed_it_and_whether_that_is_trusted(
    home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    raw, root = smime(declared(home, capsys))
    printed = keep(home, raw, capsys)
    assert "S/MIME: valid; signed by PEC of a test, certificate issued by CA of a test" in printed
    go_on(home)
    path = bundle(home, capsys)
    valid, detail = claim(path)
    assert valid
    assert "PEC of a test signed a message (S/MIME, certificate issued by CA of a test)" in detail
    assert "its certificate is not checked" in detail
    (home / "root.pem").write_bytes(root.public_bytes(Encoding.PEM))
    (found,) = [one for one in verify(path, Trust.read([home / "root.pem"])) if one.claim == "declaration"]
    assert "its certificate leads to one of --trust" in found.detail
    assert found.note


def test_a_certified_message_that_was_changed_is_refused(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = declared(home, capsys)
    raw, _ = smime(text)
    changed = raw.replace(b"MailWatch", b"MailWotch", 1)
    assert changed != raw
    printed = keep(home, changed, capsys)
    assert "S/MIME: the S/MIME signature is not over this content" in printed
    go_on(home)
    valid, detail = claim(bundle(home, capsys))
    assert not valid
    assert "is not over this content" in detail


def test_a_key_that_was_fetched_is_kept_and_enclosed(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    raw = signed(message(declared(home, capsys)).as_bytes())
    assert "DKIM, example.org: not valid here" in keep(home, raw, capsys), "there is no name server here"
    digest = hashlib.sha256(raw).hexdigest()
    one = {"domain": "example.org", "selector": "mw", "key": RECORD.decode(), "at": "2026-01-01T00:00:00.000Z"}
    Declarations(home / "data").save_keys(digest, [one])
    go_on(home)
    path = bundle(home, capsys)
    (stated,) = json.loads(zipfile.ZipFile(path).read("outage.json"))["declarations"]
    assert stated["keys"] == [one]
    valid, detail = claim(path)
    assert valid
    assert "the key of example.org signed a message (DKIM, 2048 bits); by the clock of the signer at" in detail
    assert "compare it with the record mw._domainkey.example.org" in detail


@pytest.mark.parametrize(
    ("keys", "why"),
    [
        ([{"domain": "libero.it", "selector": "mw", "key": "", "at": ""}], "no signature of libero.it"),
        ([{"domain": "example.org"}], "no domain, selector, key and time"),
        ([7], "no domain, selector, key and time"),
    ],
)
def test_a_key_that_does_not_fit_its_message_is_refused(
    home: Path, capsys: pytest.CaptureFixture[str], keys: list[Any], why: str
) -> None:
    raw = signed(message(declared(home, capsys)).as_bytes())
    keep(home, raw, capsys)
    Declarations(home / "data").save_keys(hashlib.sha256(raw).hexdigest(), keys)
    go_on(home)
    valid, detail = claim(bundle(home, capsys))
    assert not valid
    assert why in detail


async def test_a_key_is_fetched_when_a_message_is_kept(home: Path) -> None:
    raw = signed(message("x").as_bytes())

    async def key(_name: str) -> bytes:
        return RECORD

    ((fact, record),) = await check_with_keys(raw, key)
    assert (fact["result"], record) == ("pass", RECORD)
