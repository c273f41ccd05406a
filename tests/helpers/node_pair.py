"""Two nodes of one ledger in PostgreSQL, as processes of their own."""

from __future__ import annotations

import json
import shutil
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from mailwatch.store import Reader
from mailwatch.store.postgres import PostgresPlace
from tests.helpers.process import MailWatchProcess
from tests.servers import free_port
from tests.servers.postgresql import PostgreSql

TARGET = {"name": "away", "kind": "imap", "host": "127.0.0.1", "tls": "none", "interval": "1s", "timeout": "2s"}


def stands_by(node: MailWatchProcess) -> bool:
    """Whether a node says that it stands by, and another one probes."""
    return "this node stands by; " in node.get("/readyz")


class Pair:
    """Two nodes, "a" and "b", of one database. The keys are those of "a", which starts first."""

    def __init__(self, folder: Path, url: str) -> None:
        self.url = url
        port = free_port()
        self.nodes = {}
        for name in ("a", "b"):
            (folder / name).mkdir()
            target = {**TARGET, "port": port}
            self.nodes[name] = MailWatchProcess(
                folder / name, [target], database=url, detection={"recheck": ["1s"]}
            )

    def start(self) -> tuple[MailWatchProcess, MailWatchProcess]:
        """Start both; return the one that is active, and the one that stands by."""
        a, b = self.nodes.values()
        a.start(ready=False)
        self.wait_active(a)
        b.data_dir.mkdir(mode=0o700)
        shutil.copytree(a.data_dir / "keys", b.data_dir / "keys")
        b.start(ready=False)
        self.wait_standing_by(b)
        return a, b

    @staticmethod
    def wait_standing_by(node: MailWatchProcess) -> None:
        node.wait_until(lambda: stands_by(node), "standing by")

    @staticmethod
    def wait_active(node: MailWatchProcess) -> None:
        node.wait_until(lambda: node.get("/readyz").startswith("ok") and not stands_by(node), "active")

    def entries(self) -> list[tuple[str, dict[str, Any], str]]:
        """Return kind, payload and boot of each entry."""
        reader = Reader.open(PostgresPlace(self.nodes["a"].data_dir, self.url))
        try:
            return [(one.kind, one.payload, json.loads(one.header)["boot"]) for one in reader.entries()]
        finally:
            reader.close()


@contextmanager
def running_pair(folder: Path, server: PostgreSql) -> Iterator[Pair]:
    """Two nodes on a database of their own, not started yet; killed at the end."""
    with server.database() as name:
        made = Pair(folder, server.url(name))
        try:
            yield made
        finally:
            for node in made.nodes.values():
                if node.process is not None and node.process.poll() is None:
                    node.signal(signal.SIGCONT)
                    node.kill()
