"""report.pdf signed by its owner: judged by MailWatch, by pdfsig, and after it was changed."""

from __future__ import annotations

import json
import subprocess
import zipfile
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ed25519
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from pydantic import SecretStr

from mailwatch.evidence.pages.compare import verify_with_pages
from mailwatch.evidence.pdf_signature import SignatureError, load_signer
from mailwatch.evidence.verify import Trust
from mailwatch.evidence.verify.archive import VerificationError
from mailwatch.evidence.verify.pdf import check_report
from tests.helpers.process import MailWatchProcess
from tests.servers.authority import Authority


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A P-256 key with a certificate of its own, as PEM and as PKCS#12, both with a password."""
    folder = tmp_path_factory.mktemp("keys")
    make = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-days", "3650"]
    more = ["-keyout", "key.pem", "-out", "cert.pem", "-subj", "/CN=Anna Rossi", "-passout", "pass:canary-91c2"]
    subprocess.run([*make, *more], cwd=folder, check=True, capture_output=True)
    pack = ["openssl", "pkcs12", "-export", "-inkey", "key.pem", "-in", "cert.pem", "-out", "both.p12"]
    words = ["-passin", "pass:canary-91c2", "-passout", "pass:canary-91c2"]
    subprocess.run([*pack, *words], cwd=folder, check=True, capture_output=True)
    (folder / "word").write_text("canary-91c2\n")
    return folder


def signed(
    recorded_outage: tuple[MailWatchProcess, Authority, str], keys: Path, tmp_path: Path, **signing: object
) -> subprocess.CompletedProcess[str]:
    """Run `mailwatch report` with the signing section; the config is as it was afterwards."""
    process, _, identity = recorded_outage
    before = process.config.read_text()
    process.config.write_text(json.dumps(json.loads(before) | {"signing": signing}))
    try:
        return process.command("report", identity, "-o", str(tmp_path / "signed.zip"), "--lang", "en")
    finally:
        process.config.write_text(before)


@pytest.mark.parametrize("form", ["pkcs12", "pem"])
def test_a_signed_report_is_valid_for_all(
    recorded_outage: tuple[MailWatchProcess, Authority, str], keys: Path, tmp_path: Path, trust: Trust, form: str
) -> None:
    how = {"key_file": str(keys / "both.p12"), "timestamp": False}
    if form == "pem":
        how = {"key_file": str(keys / "key.pem"), "certificate_file": str(keys / "cert.pem"), "timestamp": False}
    made = signed(recorded_outage, keys, tmp_path, **how, password_file=str(keys / "word"))
    assert made.returncode == 0, made.stderr
    assert "canary-91c2" not in made.stdout + made.stderr
    claims = {claim.claim: claim for claim in verify_with_pages(tmp_path / "signed.zip", trust)}
    assert all(claim.valid for claim in claims.values()), claims
    assert claims["pages"].detail.endswith("is the same to the byte up to its signature")
    assert "covers the entire file" in claims["report"].detail
    assert claims["report"].note, "nobody vouches for a certificate of one's own"
    assert "Anna Rossi" in claims["report"].detail
    with zipfile.ZipFile(tmp_path / "signed.zip") as opened:
        opened.extract("report.pdf", tmp_path)
    result = subprocess.run(["pdfsig", tmp_path / "report.pdf"], capture_output=True, text=True)
    assert "Signature Validation: Signature is Valid." in result.stdout, result.stdout
    assert "Total document signed" in result.stdout


def test_the_time_of_an_authority_is_in_the_signature(
    recorded_outage: tuple[MailWatchProcess, Authority, str], keys: Path, tmp_path: Path, trust: Trust
) -> None:
    """The authority of the config is gone by now; a new one at another place takes its turn."""
    process, _, _ = recorded_outage
    before = process.config.read_text()
    with Authority(tmp_path / "authority").running() as authority:
        settings = json.loads(before)
        settings["timestamps"][0] |= {"url": authority.url, "ca_file": str(authority.chain)}
        process.config.write_text(json.dumps(settings))
        try:
            made = signed(
                recorded_outage, keys, tmp_path, key_file=str(keys / "both.p12"), password_file=str(keys / "word")
            )
        finally:
            process.config.write_text(before)
    assert made.returncode == 0, made.stderr
    assert authority.asked >= 1
    with zipfile.ZipFile(tmp_path / "signed.zip") as opened:
        pdf, stated = opened.read("report.pdf"), opened.read("outage.json")
    assert "by the time of Test signer" in check_report(pdf, stated, "outage.json")


def test_a_report_changed_after_its_signature_is_refused(
    recorded_outage: tuple[MailWatchProcess, Authority, str], keys: Path, tmp_path: Path
) -> None:
    made = signed(
        recorded_outage,
        keys,
        tmp_path,
        key_file=str(keys / "both.p12"),
        password_file=str(keys / "word"),
        timestamp=False,
    )
    assert made.returncode == 0, made.stderr
    with zipfile.ZipFile(tmp_path / "signed.zip") as opened:
        pdf, stated = opened.read("report.pdf"), opened.read("outage.json")
    check_report(pdf, stated, "outage.json")
    with pytest.raises(VerificationError, match="does not cover all of it"):
        check_report(pdf + b"\n% more\n", stated, "outage.json")
    at = pdf.index(b"%PDF-1.7") + len(b"%PDF-1.7") + 6
    with pytest.raises(VerificationError):
        check_report(pdf[:at] + bytes([pdf[at] ^ 1]) + pdf[at + 1 :], stated, "outage.json")


def test_each_problem_with_keys_is_reported(keys: Path, tmp_path: Path) -> None:
    word = SecretStr("canary-91c2")
    key = ed25519.Ed25519PrivateKey.generate()
    (tmp_path / "ed.pem").write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    for args, words in [
        ((tmp_path / "gone.p12", None, word), "cannot be read"),
        ((keys / "both.p12", None, SecretStr("wrong")), "or its password is wrong"),
        ((keys / "key.pem", keys / "cert.pem", None), "or its password is wrong"),
        ((tmp_path / "ed.pem", keys / "cert.pem", None), "use EC P-256 or RSA"),
        ((keys / "cert.pem", None, word), "is not PKCS#12"),
    ]:
        with pytest.raises(SignatureError, match=words) as caught:
            load_signer(*args)
        assert "canary" not in str(caught.value)
