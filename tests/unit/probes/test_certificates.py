"""Certificates are anyone's: what is in one is read, or reported as unreadable, in every place that meets one."""

from __future__ import annotations

import ast
import asyncio
import json
import ssl
import subprocess
import sys
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from mailwatch import certificates as reader
from mailwatch.config import ConfigError, build_authorities, load
from mailwatch.evidence.verify.archive import VerificationError
from mailwatch.evidence.verify.tokens import Trust
from mailwatch.evidence.verify.tokens import certificates as enclosed
from mailwatch.model import Cause, Kind, Outcome, TlsMode
from mailwatch.probes import ProbeRequest, TlsContexts, observe
from mailwatch.settings import Target
from mailwatch.times import now
from tests.helpers.paths import ROOT
from tests.helpers.scripted_server import scripted_server
from tests.servers.certificates import Certificates

PACKAGE = ROOT / "mailwatch"
V3 = bytes.fromhex("a003020102")
V68 = bytes.fromhex("a003020143")


def der_of(pem: Path) -> bytes:
    return x509.load_pem_x509_certificates(pem.read_bytes())[0].public_bytes(Encoding.DER)


def odd(certificates: Certificates, folder: Path) -> Path:
    """The server's certificate with a version that there is not, and its key, in one file."""
    der = der_of(certificates.untrusted.chain).replace(V3, V68, 1)
    path = folder / "odd.pem"
    path.write_text(ssl.DER_cert_to_PEM_cert(der) + certificates.untrusted.key.read_text())
    return path


def serving(pem: Path) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(pem)
    return context


def imap(port: int, ca_file: Path | None = None) -> Target:
    return Target(
        name="t", kind=Kind.IMAP, host="127.0.0.1", port=port, tls=TlsMode.IMPLICIT, timeout=5.0, ca_file=ca_file
    )


def test_a_certificate_with_any_byte_changed_is_read_or_reported_as_unreadable(certificates: Certificates) -> None:
    whole = der_of(certificates.server.chain)
    collected = set()
    for at in range(len(whole)):
        for value in (0x00, 0x43, 0x80, 0xFF, whole[at] ^ 1):
            changed = whole[:at] + bytes([value]) + whole[at + 1 :]
            try:
                read = reader.parse_certificate(changed)
            except reader.CertificateError as error:
                collected.add(str(error).partition(":")[0])
                continue
            reader.names(read)
            reader.issuer(read)
            reader.not_after(read)
    assert {"InvalidVersion", "ValueError"} <= collected


def test_an_unreadable_system_certificate_is_skipped(certificates: Certificates) -> None:
    good = der_of(certificates.server.chain)
    assert len(reader.parse_readable([good.replace(V3, V68, 1), good, b"", b"\x30\x80"])) == 1


def test_there_is_one_reader_of_certificates() -> None:
    for path in PACKAGE.rglob("*.py"):
        if "x509" not in (text := path.read_text()):
            continue
        called = {
            node.attr if isinstance(node, ast.Attribute) else node.id
            for node in ast.walk(ast.parse(text))
            if isinstance(node, ast.Attribute | ast.Name)
        }
        reads = {name for name in called if name.startswith("load_") and "x509" in name}
        assert not reads or path == PACKAGE / "certificates.py", path


async def test_a_probe_of_a_server_with_an_unreadable_certificate_is_a_fact(
    certificates: Certificates, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    pem = odd(certificates, tmp_path)
    async with scripted_server([serving(pem), b"* OK hi\r\n"]) as port:
        observation = await observe(
            ProbeRequest(imap(port, certificates.ca_file), scheduled_at=now(), contexts=TlsContexts())
        )
    assert (observation.outcome, observation.cause) == (Outcome.DOWN, Cause.TLS)
    assert "certificate cannot be read: InvalidVersion" in observation.detail
    assert not caplog.records


async def test_where_any_certificate_will_do_an_unreadable_one_is_recorded_beside_the_answer(
    certificates: Certificates, tmp_path: Path
) -> None:
    pem = odd(certificates, tmp_path)
    context = TlsContexts()
    facts = []

    async def shown(port: int) -> None:
        client = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        client.check_hostname, client.verify_mode = False, ssl.CERT_NONE
        _, writer = await asyncio.open_connection("127.0.0.1", port, ssl=client)
        facts.append(context.facts(writer.get_extra_info("ssl_object")))
        writer.close()

    async with scripted_server([serving(pem), b"* OK hi\r\n"]) as port:
        await shown(port)
    ((tls, unreadable),) = facts
    assert tls.not_after is None
    assert unreadable.startswith("InvalidVersion")


async def test_an_error_at_one_target_does_not_hide_another(certificates: Certificates, tmp_path: Path) -> None:
    pem = odd(certificates, tmp_path)
    config = tmp_path / "config.yaml"
    async with (
        scripted_server([serving(pem), b"* OK hi\r\n"]) as bad,
        scripted_server([b"* OK [CAPABILITY IMAP4rev1] hi\r\n", "LOGOUT", b"* BYE\r\nTAG OK\r\n"]) as good,
    ):
        targets = [
            {"name": "odd", "kind": "imap", "host": "127.0.0.1", "port": bad, "tls": "implicit"},
            {"name": "good", "kind": "imap", "host": "127.0.0.1", "port": good, "tls": "none"},
        ]
        config.write_text(
            json.dumps({"vantage_point": {"name": "t"}, "data_dir": "data", "guard": "off", "targets": targets})
        )
        made = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "mailwatch", "--config", str(config), "probe", "--json",
            stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )  # fmt: skip
        output, errors = await made.communicate()
    assert b"Traceback" not in errors
    reported = {one["target"]: one for one in json.loads(output)}
    assert reported["good"]["outcome"] == "up"
    assert "certificate cannot be read" in reported["odd"]["detail"]


def test_the_verifier_and_the_config_report_unreadable_certificates(
    certificates: Certificates, tmp_path: Path
) -> None:
    pem = odd(certificates, tmp_path)
    with pytest.raises(VerificationError, match="holds no certificates: InvalidVersion"):
        enclosed(pem.read_bytes(), "tokens/a.pem")
    with pytest.raises(ValueError, match="certificate cannot be read: InvalidVersion"):
        Trust.read([pem])
    config = tmp_path / "config.yaml"
    timestamps = [{"url": "https://tsa.example/tsr", "every": "1h", "ca_file": str(pem)}]
    targets = [{"name": "t", "kind": "imap", "host": "127.0.0.1", "port": 1, "tls": "none"}]
    settings = {"vantage_point": {"name": "t"}, "data_dir": "data", "guard": "off", "targets": targets}
    config.write_text(json.dumps(settings | {"timestamps": timestamps}))
    with pytest.raises(ConfigError, match="holds no PEM certificates"):
        build_authorities(load(config))
