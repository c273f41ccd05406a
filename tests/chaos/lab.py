"""The servers of a scenario, and installations of MailWatch that log in to them."""

from __future__ import annotations

import contextlib
import os
import shutil
import socketserver
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tests.helpers.process import MailWatchProcess
from tests.servers import ALICE, Certificates, Dovecot, Postfix, free_port, server_folder

INTERVAL = "500ms"


class Flapping:
    """An IMAP server that greets for `period` seconds, hangs up for as long, and so on: outages without end."""

    def __init__(self, period: float = 0.8) -> None:
        self.period = period
        self.port = free_port()

    @contextlib.contextmanager
    def running(self) -> Iterator[Flapping]:
        """Serving, in threads of its own."""
        period = self.period

        class Handler(socketserver.StreamRequestHandler):
            timeout = 5

            def handle(self) -> None:
                if int(time.monotonic() / period) % 2:
                    return
                with contextlib.suppress(OSError):
                    self.wfile.write(b"* OK [CAPABILITY IMAP4rev1] ready\r\n")
                    words = self.rfile.readline().split()
                    self.wfile.write(b"* BYE\r\n" + words[0] + b" OK\r\n" if words else b"")

        class Server(socketserver.ThreadingTCPServer):
            allow_reuse_address = True
            daemon_threads = True

        with Server(("127.0.0.1", self.port), Handler) as server:
            thread = threading.Thread(target=server.serve_forever, args=(0.05,))
            thread.start()
            try:
                yield self
            finally:
                server.shutdown()
                thread.join()

    def target(self, **more: Any) -> dict[str, Any]:
        """A target that is up and down by turns."""
        return {"name": "flapping", "kind": "imap", "provider": "flap", "host": "127.0.0.1", "port": self.port,
                "tls": "none", "interval": "200ms", "timeout": "2s", **more}  # fmt: skip


class Lab:
    """A Dovecot and, as root, a Postfix that stay healthy all the time: each `down` of theirs is a lie."""

    def __init__(
        self, folder: Path, certificates: Certificates, dovecot: Dovecot, postfix: Postfix | None
    ) -> None:
        self.folder, self.certificates, self.dovecot, self.postfix = folder, certificates, dovecot, postfix
        self._secret = folder / "secret"
        self._secret.touch(0o600)
        self._secret.write_text(f"{self.password}\n")

    def targets(self, **more: Any) -> list[dict[str, Any]]:
        """The healthy mailbox, on its channels, with real TLS and a real login."""
        ports = {"imap": self.dovecot.imaps_port, "pop3": self.dovecot.pop3s_port}
        if self.postfix is not None:
            ports["smtp"] = self.postfix.submissions_port
        return [
            {
                "name": f"lab-{kind}", "kind": kind, "provider": "lab", "host": "localhost", "port": port,
                "tls": "implicit", "ca_file": str(self.certificates.ca_file), "interval": INTERVAL,
                "timeout": "10s", "login": {"username": ALICE, "password_file": str(self._secret)}, **more,
            }
            for kind, port in ports.items()
        ]  # fmt: skip

    @property
    def password(self) -> str:
        """The one secret that must show up nowhere."""
        return self.dovecot.passwords[ALICE]

    def install(
        self, folder: Path, targets: list[dict[str, Any]] | None = None, **sections: Any
    ) -> MailWatchProcess:
        """Write the config of a MailWatch in a folder."""
        folder.mkdir(parents=True, exist_ok=True)
        more = {"detection": {"open_after": 1, "close_after": 1, "recheck": ["200ms"]}, **sections}
        return MailWatchProcess(folder, self.targets() if targets is None else targets, **more)

    @contextlib.contextmanager
    def place(self, name: str) -> Iterator[Path]:
        """A folder that goes when it is not needed any more."""
        made = Path(tempfile.mkdtemp(prefix=f"{name}-".replace(" ", "-"), dir=self.folder))
        made.chmod(0o755)
        try:
            yield made
        finally:
            shutil.rmtree(made, ignore_errors=True)


@contextlib.contextmanager
def lab() -> Iterator[Lab]:
    """Start the servers, in temporary folders of their own."""
    with contextlib.ExitStack() as stack:
        folder = stack.enter_context(server_folder())
        certificates = Certificates(folder / "certificates")
        dovecot = stack.enter_context(Dovecot(folder / "dovecot", certificates).running())
        postfix = None
        if os.geteuid() == 0:
            postfix_folder = stack.enter_context(server_folder())
            postfix = Postfix(postfix_folder, certificates, dovecot.auth_socket)
            stack.enter_context(postfix.running())
        yield Lab(folder, certificates, dovecot, postfix)
