"""Entries for config.yaml: targets of the servers on this machine."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tests.servers import ALICE, Certificates, Dovecot

INTERVAL_SECONDS = 1.0
"""Interval and recheck in these tests."""


def imap(server: Dovecot, certificates: Certificates, secret: Path, **more: Any) -> dict[str, Any]:
    secret.write_text(server.passwords[ALICE] + "\n")
    secret.chmod(0o600)
    return {
        "name": "lab-imap",
        "kind": "imap",
        "provider": "lab",
        "host": "localhost",
        "port": server.imaps_port,
        "tls": "implicit",
        "ca_file": str(certificates.ca_file),
        "login": {"username": ALICE, "password_file": str(secret)},
        "interval": f"{INTERVAL_SECONDS}s",
        "timeout": "2s",
        **more,
    }


TARGET = "targets: [{name: lab, kind: imap, host: imap.example.org, %s}]\n"

HEAD = "vantage_point: {name: here}\n"
