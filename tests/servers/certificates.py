"""Certificates good and bad."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import trustme

from tests.servers.program import HOST


@dataclass(frozen=True, slots=True)
class Certificate:
    """A certificate with its chain, and its private key, as PEM files."""

    chain: Path
    key: Path


class Certificates:
    """Certificates good and bad. `ca_file` is the authority that clients know."""

    def __init__(self, directory: Path) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        self._directory = directory
        known, unknown = trustme.CA(), trustme.CA()
        self.ca_file = directory / "ca.pem"
        known.cert_pem.write_to_path(self.ca_file)
        self.unknown_ca_file = directory / "unknown-ca.pem"
        unknown.cert_pem.write_to_path(self.unknown_ca_file)
        yesterday = datetime.now(UTC) - timedelta(days=1)
        self.server = self._keep("server", known.issue_cert("localhost", HOST))
        # OpenSMTPD signs in a process apart from the connection, and with OpenSSL 3 it can do so by RSA only.
        self.rsa = self._keep("rsa", known.issue_cert("localhost", HOST, key_type=trustme.KeyType.RSA))
        self.expired = self._keep("expired", known.issue_cert("localhost", HOST, not_after=yesterday))
        self.wrong_host = self._keep("wrong-host", known.issue_cert("elsewhere.example"))
        self.untrusted = self._keep("untrusted", unknown.issue_cert("localhost", HOST))

    def _keep(self, name: str, issued: trustme.LeafCert) -> Certificate:
        kept = Certificate(self._directory / f"{name}.pem", self._directory / f"{name}.key")
        kept.chain.write_bytes(b"".join(blob.bytes() for blob in issued.cert_chain_pems))
        issued.private_key_pem.write_to_path(kept.key)
        return kept
