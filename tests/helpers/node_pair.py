"""Two nodes of one ledger in PostgreSQL, as processes of their own."""

from __future__ import annotations

import contextlib
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
from tests.helpers.severing_proxy import SeveringProxy
from tests.servers import free_port
from tests.servers.postgresql import PostgreSql

TARGET = {"name": "away", "kind": "imap", "host": "127.0.0.1", "tls": "none", "interval": "1s", "timeout": "2s"}


def stands_by(node: MailWatchProcess) -> bool:
    """Whether a node says that it stands by, and another one probes."""
    return "this node stands by; " in node.get("/readyz")


class Pair:
    """Two nodes, "a" and "b", of one database. The keys are those of "a", which starts first.

    `urls`: the database as each node reaches it, where that is not by `url`. `more`: further targets.
    """

    def __init__(self, folder: Path, url: str, urls: dict[str, str] | None = None, *, more: int = 0) -> None:
        self.url = url
        port = free_port()
        self.nodes = {}
        targets = [{**TARGET, "port": port}]
        targets += [{**TARGET, "name": f"away-{number}", "port": port} for number in range(more)]
        for name in ("a", "b"):
            (folder / name).mkdir()
            reached = url if urls is None else urls[name]
            self.nodes[name] = MailWatchProcess(
                folder / name, targets, database=reached, detection={"recheck": ["1s"]}
            )

    def start(self, *, standing_by: bool = True) -> tuple[MailWatchProcess, MailWatchProcess]:
        """Start both; return the one that is active, and the one that stands by, unless that is asked later."""
        a, b = self.nodes.values()
        a.start(ready=False)
        self.wait_active(a)
        b.data_dir.mkdir(mode=0o700)
        shutil.copytree(a.data_dir / "keys", b.data_dir / "keys")
        b.start(ready=False)
        if standing_by:
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
    with server.database() as name, killed_at_the_end(Pair(folder, server.url(name))) as made:
        yield made


@contextmanager
def running_pair_apart(folder: Path, server: PostgreSql) -> Iterator[tuple[Pair, dict[str, SeveringProxy]]]:
    """The same, and for each node the way to the database, to cut."""
    with contextlib.ExitStack() as stack:
        name = stack.enter_context(server.database())
        ways = {node: stack.enter_context(SeveringProxy(server.port).running()) for node in ("a", "b")}
        url = server.url(name)
        urls = {node: url.replace(str(server.port), str(way.port)) for node, way in ways.items()}
        yield stack.enter_context(killed_at_the_end(Pair(folder, url, urls))), ways


@contextmanager
def killed_at_the_end(pair: Pair) -> Iterator[Pair]:
    """Kill the nodes that run at the end."""
    try:
        yield pair
    finally:
        for node in pair.nodes.values():
            if node.process is not None and node.process.poll() is None:
                node.signal(signal.SIGCONT)
                node.kill()
