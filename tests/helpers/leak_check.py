"""A MailWatch whose every private word is a canary, with an outage of two mailboxes on record."""

from __future__ import annotations

import contextlib
import socketserver
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tests.helpers.process import MailWatchProcess

CANARIES = (
    "canary-address", "canary-user", "canary-password", "canary-words", "canary-vantage", "canary-place",
    "canary-maintenance", "canary-web", "127.0.0.1", "localhost", "example.org",
)  # fmt: skip
PASSWORD = "canary-web-password"


class VerboseImapServer(socketserver.ThreadingTCPServer):
    """An IMAP server in the clear that lets everybody in, unless `broken` is set; it talks much."""

    allow_reuse_address = True
    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _VerboseHandler)
        self.broken = threading.Event()

    @property
    def port(self) -> int:
        """Where it listens."""
        return int(self.server_address[1])


class _VerboseHandler(socketserver.StreamRequestHandler):
    server: VerboseImapServer

    def handle(self) -> None:
        with contextlib.suppress(OSError):
            self.wfile.write(b"* OK [CAPABILITY IMAP4rev1] canary-words at your service\r\n")
            for line in self.rfile:
                tag, command = line.split()[:2]
                self.wfile.write(self._answer(command.upper()).replace(b"TAG", tag))

    def _answer(self, command: bytes) -> bytes:
        if command == b"LOGIN" and self.server.broken.is_set():
            return b"TAG NO [UNAVAILABLE] canary-words: backend 127.0.0.1 is down\r\n"
        reported = {
            b"CAPABILITY": b"* CAPABILITY IMAP4rev1\r\n",
            b"EXAMINE": b"* 0 EXISTS\r\n* OK [UIDVALIDITY 1] canary-words\r\n",
            b"LOGOUT": b"* BYE canary-words\r\n",
        }
        return reported.get(command, b"") + b"TAG OK canary-words\r\n"


@contextlib.contextmanager
def running_with_canaries(folder: Path, **web: Any) -> Iterator[tuple[MailWatchProcess, VerboseImapServer]]:
    """Two mailboxes of a provider that were up, then down, then up again; it runs."""
    for name, word in (("secret-box", "canary-password"), ("secret-web", PASSWORD)):
        (folder / name).write_text(word + "\n")
        (folder / name).chmod(0o600)
    with VerboseImapServer() as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        targets = [
            {"name": f"canary-address-{number}@example.org/imap", "kind": "imap", "provider": "lab",
             "host": "localhost", "port": server.port, "tls": "none", "interval": "500ms", "timeout": "5s",
             "login": {"username": f"canary-user-{number}@example.org", "password_file": "secret-box"}}
            for number in (1, 2)
        ]  # fmt: skip
        process = MailWatchProcess(
            folder,
            targets,
            vantage_point={"name": "canary-vantage", "place": "canary-place"},
            guard={"controls": [f"127.0.0.1:{server.port}"], "timeout": "2s"},
            detection={"recheck": ["200ms"]},
            maintenance=[{"name": "canary-maintenance", "cron": "0 3 1 1 *", "duration": "1h", "timezone": "UTC"}],
        )
        process.settings["web"] |= {"password_file": "secret-web", **web}
        # The tests of MailWatchProcess ask without a password; so the history is lived through without one.
        settings = dict(process.settings)
        process.settings = settings | {"web": {"listen": f"127.0.0.1:{process.port}"}}
        process.write_config()
        first, second = (str(target["name"]) for target in targets)
        with process.running():
            process.wait_until(lambda: process.state(first) == process.state(second) == "up", "up")
            server.broken.set()
            process.wait_until(lambda: len(process.api("outages?open=true")) == 2, "two outages")
            server.broken.clear()
            process.wait_until(
                lambda: all(o["state"] == "closed" for o in process.api("outages")), "closed outages"
            )
        process.settings = settings
        process.write_config()
        try:
            yield process, server
        finally:
            process.stop()
            server.shutdown()
