"""A hub, three vantage points and a provider, each in a network namespace of its own, on one bridge: they are cut
off from each other by nftables, vantage points and hub are frozen and killed, and the clock of one is wrong.
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import yaml

from mailwatch.store import Reader
from tests.chaos.figures import Figures, Scale
from tests.chaos.lab import Lab
from tests.helpers.netns import Namespace, command
from tests.helpers.patience import PATIENCE
from tests.helpers.process import MailWatchProcess
from tests.helpers.wall_clock import LIBRARIES, WallClock

BRIDGE, HUB, PROVIDER, VANTAGE = "bridge", "hub", "provider", ("a", "b", "c")
ADDRESSES = {HUB: "10.78.0.1", PROVIDER: "10.78.0.2", "a": "10.78.0.11", "b": "10.78.0.12", "c": "10.78.0.13"}
PUSH_PORT, MAIL_PORT = 9744, 143
SILENT_SECONDS = 32.0
"""After two intervals and 30 s without a push a vantage point is silent."""
NEITHER = {"silent", "unknown"}
AHEAD_SECONDS = 3600
TARGET = {"name": "box", "kind": "imap", "host": ADDRESSES[PROVIDER], "port": MAIL_PORT, "tls": "none"}


def run(_servers: Lab, figures: Figures, _scale: Scale) -> None:
    """Run the scenario."""
    with tempfile.TemporaryDirectory() as name, Net() as net, Fleet(Path(name), net).running() as fleet:
        table(figures, fleet)


def table(figures: Figures, fleet: Fleet) -> None:
    """What is confirmed in each case. One case at a time, and none in between."""
    net = fleet.net
    began = time.monotonic()
    net.cut(PROVIDER, *VANTAGE)
    fleet.wait_confirmed(True)
    figures.at_most(
        "until an outage is confirmed, with three failures of a probe a second", time.monotonic() - began
    )
    fleet.wait_says({"a": "down", "b": "down", "c": "down"}, figures, "the provider is cut off from all")
    net.join_all()
    fleet.wait_confirmed(False)

    net.cut(PROVIDER, "a")
    fleet.wait_down("a")
    fleet.wait_pushed()
    figures.promise(not fleet.confirmed(), "one alone confirmed an outage")
    figures.count("cut off from the provider: one")

    net.cut(PROVIDER, "a", "b")
    fleet.wait_confirmed(True)
    fleet.wait_says({"a": "down", "b": "down", "c": "up"}, figures, "two are cut off from the provider")
    figures.count("cut off from the provider: two")

    for how in ("cut off from the hub", "frozen"):
        _silent(figures, fleet, how)

    fleet.hub.kill()
    changes = len(fleet.changes())
    fleet.hub.start(ready=False)
    fleet.wait_pushed()
    fleet.wait_confirmed(True)
    # Who could not push for so long while it was away is silent at first. Nothing else may change.
    for one in fleet.changes()[changes:]:
        said = {member["sight"] for member in one["members"]}
        figures.promise(one["confirmed"] or said & NEITHER, f"a hub that was killed says {one}")
    figures.promise((len(fleet.changes()) - changes) % 2 == 0, "a hub that was killed wrote again what it knew")
    figures.count("hub killed")
    net.join_all()
    fleet.wait_confirmed(False)

    if LIBRARIES:
        _wrong_clock(figures, fleet)
    audit = fleet.hub.command("ledger", "audit")
    figures.promise(audit.returncode == 0, f"the audit of the hub found: {audit.stdout} {audit.stderr}")
    figures.count("changes of what is confirmed", len(fleet.changes()))


def _silent(figures: Figures, fleet: Fleet, how: str) -> None:
    """One of the two that confirm falls silent, which ends it without a word that it works; then it comes back."""
    began = time.monotonic()
    if how == "frozen":
        fleet.vantage["b"].signal(signal.SIGSTOP)
    else:
        fleet.net.cut(HUB, "b")
    fleet.wait_confirmed(False)
    figures.at_most(f"{how}: until it counts no more", time.monotonic() - began)
    said = fleet.said()
    # Its latest check is a second older than its latest push.
    figures.promise(said.get("b") in NEITHER, f"{how}: {said}")
    began = time.monotonic()
    if how == "frozen":
        fleet.vantage["b"].signal(signal.SIGCONT)
    else:
        fleet.net.cut(HUB)
    fleet.wait_confirmed(True)
    figures.at_most(f"{how}: until it counts again", time.monotonic() - began)
    figures.count(how)


def _wrong_clock(figures: Figures, fleet: Fleet) -> None:
    """A clock that is an hour ahead: its outage counts for nothing, and the hub names it."""
    vantage = fleet.vantage["b"]
    vantage.stop()
    clock = WallClock(vantage.folder)
    clock.step(AHEAD_SECONDS)
    vantage.environment = clock.environment
    vantage.start(ready=False)
    fleet.net.cut(PROVIDER, "a", "b")
    fleet.wait_down("a")
    fleet.wait_down("b")
    fleet.wait_pushed()
    figures.promise(not fleet.confirmed(), "a clock an hour ahead confirmed an outage")
    listed = {one["name"]: one["clock"] for one in json.loads(fleet.hub.command("hub", "list", "--json").stdout)}
    figures.promise(listed == {"a": None, "b": "ahead", "c": None}, f"of the clocks it says {listed}")
    figures.count("clock an hour ahead")
    fleet.net.join_all()


class Net:
    """The namespaces, joined by one bridge. `cut` and `join_all` say which of them reach each other."""

    def __init__(self) -> None:
        self._stack = contextlib.ExitStack()
        token = secrets.token_hex(3)
        self.space: dict[str, Namespace] = {}
        try:
            for number, name in enumerate((BRIDGE, *ADDRESSES)):
                self.space[name] = made = Namespace(f"mwq{number}-{token}")
                self._stack.callback(made.close)
            within = self.space[BRIDGE].name
            command("ip", "-n", within, "link", "add", "br0", "type", "bridge")
            command("ip", "-n", within, "link", "set", "br0", "up")
            for number, (name, address) in enumerate(ADDRESSES.items()):
                self._connect(within, self.space[name], f"mwq{number}{token}", address)
            self._stack.enter_context(self._serving())
        except BaseException:
            self._stack.close()
            raise

    def __enter__(self) -> Net:
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    @staticmethod
    def _connect(bridge: str, space: Namespace, link: str, address: str) -> None:
        command("ip", "link", "add", link, "netns", bridge, "type", "veth", "peer", "eth0", "netns", space.name)
        command("ip", "-n", bridge, "link", "set", link, "master", "br0")
        command("ip", "-n", bridge, "link", "set", link, "up")
        command("ip", "-n", space.name, "address", "add", f"{address}/24", "dev", "eth0")
        command("ip", "-n", space.name, "link", "set", "eth0", "up")
        space.nft("table inet faults { chain input { type filter hook input priority 0; }; }")

    @contextlib.contextmanager
    def _serving(self) -> Iterator[None]:
        """A mail server that greets. Its threads are outside of the namespace, its sockets within."""
        listening = self.space[PROVIDER].run(socket.create_server, (ADDRESSES[PROVIDER], MAIL_PORT))

        def serve() -> None:
            with contextlib.suppress(OSError):
                while True:
                    client, _ = listening.accept()
                    threading.Thread(target=_greet, args=(client,), daemon=True).start()

        threading.Thread(target=serve, daemon=True).start()
        try:
            yield
        finally:
            # Only a shutdown wakes the thread that waits in accept().
            listening.shutdown(socket.SHUT_RDWR)
            listening.close()

    def cut(self, name: str, *others: str) -> None:
        """Nothing of these others reaches `name`, and all of the rest does."""
        rules = [f"add rule inet faults input ip saddr {ADDRESSES[other]} drop" for other in others]
        self.space[name].nft("flush table inet faults", *rules)

    def join_all(self) -> None:
        """Each reaches each."""
        for name in ADDRESSES:
            self.space[name].nft("flush table inet faults")


def _greet(client: socket.socket) -> None:
    with contextlib.suppress(OSError), client:
        client.settimeout(5)
        client.sendall(b"* OK [CAPABILITY IMAP4rev1] ready\r\n")
        if line := client.recv(1000):
            client.sendall(b"* BYE\r\n" + line.split()[0] + b" OK\r\n")


class Fleet:
    """The hub and its three vantage points, as processes in their namespaces."""

    def __init__(self, folder: Path, net: Net) -> None:
        self.net = net
        for name in (HUB, *VANTAGE):
            (folder / name).mkdir()
        target = TARGET | {"interval": "1s", "timeout": "1s"}
        rules = {"open_after": 3, "close_after": 2}
        other = target | {"name": "other", "host": ADDRESSES[HUB], "port": 9}
        listen = {"listen": f"{ADDRESSES[HUB]}:{PUSH_PORT}"}
        self.hub = MailWatchProcess(
            folder / HUB, [other], hub_server=listen, detection={"quorum": 2, **rules}
        )  # fmt: skip
        self.vantage = {name: MailWatchProcess(folder / name, [target], detection=rules) for name in VANTAGE}
        for name, one in ((HUB, self.hub), *self.vantage.items()):
            one.prefix = net.space[name].prefix

    @contextlib.contextmanager
    def running(self) -> Iterator[Fleet]:
        """All started and joined, and ended in any case."""
        try:
            for one in (self.hub, *self.vantage.values()):
                one.start(ready=False)
                self._wait(lambda it=one: "other" in self._read(it) or "box" in self._read(it), "probing")  # type: ignore[misc]
            for name, one in self.vantage.items():
                self._join(name, one)
            self.wait_pushed()
            yield self
        finally:
            for one in (self.hub, *self.vantage.values()):
                if one.process is not None:
                    one.kill()

    def _join(self, name: str, one: MailWatchProcess) -> None:
        token = self.hub.command("hub", "invite", name).stdout
        words = ["--config", str(one.config), "join", f"http://{ADDRESSES[HUB]}:{PUSH_PORT}/", "--send", "all"]
        done = subprocess.run(
            [*one.prefix, sys.executable, "-m", "mailwatch", *words],
            input=token, capture_output=True, text=True, check=False, env=os.environ,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        one.settings |= yaml.safe_load(done.stdout)
        one.settings["hub"]["every"] = "1s"
        one.write_config()
        one.signal(signal.SIGHUP)

    @staticmethod
    def _read(one: MailWatchProcess) -> list[str]:
        with contextlib.suppress(FileNotFoundError), contextlib.closing(Reader.open(one.data_dir)) as reader:
            return reader.targets()
        return []

    def _wait(self, holds: Callable[[], Any], what: str) -> None:
        until = time.monotonic() + SILENT_SECONDS + PATIENCE
        while not holds():
            if time.monotonic() > until:
                raise AssertionError(
                    f"never {what}; the hub says {self.said()}:\n{self.hub.log.read_text()[-2000:]}"
                )
            time.sleep(0.1)

    def changes(self) -> list[dict[str, Any]]:
        """What the hub has on record of what is confirmed, oldest first."""
        with contextlib.closing(Reader.open(self.hub.data_dir)) as reader:
            return [entry.payload for entry in reader.entries(kinds=["quorum"])]

    def confirmed(self) -> bool:
        """Whether the channel is confirmed down."""
        changes = self.changes()
        return bool(changes) and bool(changes[-1]["confirmed"])

    def said(self) -> dict[str, str]:
        """What each said at the latest change, by its name."""
        names = {one["ledger"]: one["name"] for one in self._members()}
        changes = self.changes()
        return {names[one["ledger"]]: one["sight"] for one in changes[-1]["members"]} if changes else {}

    def _members(self) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = json.loads(self.hub.command("hub", "list", "--json").stdout)
        return found

    def wait_confirmed(self, wanted: bool) -> None:
        """Wait until the channel is confirmed, or no more."""
        self._wait(lambda: self.confirmed() == wanted, "confirmed" if wanted else "no longer confirmed")

    def wait_says(self, wanted: dict[str, str], figures: Figures, what: str) -> None:
        """At the moment of the change a third may not have pushed yet what it sees."""
        said = self.said()
        agrees = all(said.get(name) in (sight, "up", "unknown") for name, sight in wanted.items())
        figures.promise(agrees, f"{what}: {said}")
        figures.promise(sum(sight == "down" for sight in said.values()) >= 2, f"{what}: {said}")

    def wait_down(self, name: str) -> None:
        """Wait until a vantage point has an outage of its own on record."""

        def is_open() -> bool:
            with contextlib.closing(Reader.open(self.vantage[name].data_dir)) as reader:
                found = [entry.payload["state"] for entry in reader.entries(kinds=["outage"])]
            return bool(found) and found[-1] == "open"

        self._wait(is_open, f"down at {name}")

    def wait_pushed(self) -> None:
        """Wait until all that is on record at each by now is at the hub, and two decisions later."""
        sizes = {}
        for name, one in self.vantage.items():
            with contextlib.closing(Reader.open(one.data_dir)) as reader:
                sizes[name] = reader.size()
        for more in (0, 2, 4):
            self._wait(
                lambda so_many=more: all(
                    one["entries"] >= sizes[one["name"]] + so_many for one in self._members()
                ),  # type: ignore[misc]
                "pushed",
            )
