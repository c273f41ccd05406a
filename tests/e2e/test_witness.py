"""MailWatches that witness each other as processes; by night three in networks of their own.

Of the three one forks, begins anew, dies and lies.
"""

from __future__ import annotations

import contextlib
import secrets
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from mailwatch.ledger.cosignature import parse_verifier_key
from mailwatch.ledger.witness_register import RegisterStatement, read_statement
from mailwatch.store import Reader
from tests.helpers.netns import Namespace, command
from tests.helpers.process import MailWatchProcess
from tests.servers import free_port

PORT = 9743
SILENT = {"kind": "imap", "host": "127.0.0.1", "port": 9, "tls": "none", "interval": "1s", "timeout": "1s"}


def entries(process: MailWatchProcess, kind: str) -> list[dict[str, Any]]:
    """The payloads of a kind, oldest first."""
    with contextlib.closing(Reader.open(process.data_dir)) as reader:
        return [entry.payload for entry in reader.entries(kinds=[kind])]


def line(process: MailWatchProcess, name: str) -> str:
    """The public key of a process: ledger.pub or witness.pub."""
    return (process.data_dir / "keys" / name).read_text().strip()


def test_two_processes_cosign_each_other(tmp_path: Path) -> None:
    ports = {name: free_port() for name in "ab"}
    both = {}
    for name, port in ports.items():
        (tmp_path / name).mkdir()
        both[name] = MailWatchProcess(
            tmp_path / name, [SILENT | {"name": "lab"}], witness={"listen": f"127.0.0.1:{port}"}
        )
        with both[name].running():
            pass
    for name, other in (("a", "b"), ("b", "a")):
        both[name].settings["witness"]["logs"] = [line(both[other], "ledger.pub")]
        url, key = f"http://127.0.0.1:{ports[other]}/", line(both[other], "witness.pub")
        both[name].settings["witnesses"] = [{"url": url, "key": key}]
        both[name].write_config()
    with both["a"].running(), both["b"].running():
        # It asked before the other one was there, and would ask again after a minute.
        both["a"].stop()
        both["a"].start()
        for process in both.values():
            process.wait_until(lambda it=process: "cosignature" in str(entries(it, "witness")), "cosigned")  # type: ignore[misc]
        assert "mailwatch-witness/" in both["a"].get("/ledger")
    for process in both.values():
        assert process.command("ledger", "audit").returncode == 0


class Vantage:
    """A MailWatch in a network of its own, which reaches the others through a switch."""

    def __init__(self, folder: Path, number: int, switch: Namespace, token: str) -> None:
        self.space, self.address = Namespace(f"mww{number}-{token}"), f"10.78.0.{number}"
        link, port = f"mwl{number}{token}"[:15], f"mwp{number}{token}"[:15]
        command(
            "ip", "link", "add", link, "netns", self.space.name, "type", "veth", "peer", port, "netns", switch.name
        )
        command("ip", "-n", switch.name, "link", "set", port, "master", "br0", "up")
        command("ip", "-n", self.space.name, "address", "add", f"{self.address}/24", "dev", link)
        command("ip", "-n", self.space.name, "link", "set", link, "up")
        folder.mkdir()
        (folder / "secret").write_text("x\n")
        (folder / "secret").chmod(0o600)
        login = {"username": "a@example.org", "password_file": str(folder / "secret")}
        self.process = MailWatchProcess(
            folder,
            [SILENT | {"name": "lab", "login": login}],
            detection={"open_after": 1, "close_after": 1},
            witness={"listen": f"{self.address}:{PORT}"},
        )
        self.process.prefix = self.space.prefix

    def run(self, work: Callable[[], Any]) -> Any:
        """Do it in this network: the pages answer only there."""
        return self.space.run(work)

    def wait(self, holds: Callable[[], Any], what: str) -> Any:
        """Wait until something holds here."""
        return self.run(lambda: self.process.wait_until(holds, what))

    def start(self) -> None:
        self.run(self.process.start)

    def stop(self) -> None:
        self.run(self.process.stop)

    def reload(self) -> None:
        self.process.signal(signal.SIGHUP)

    def know(self, others: list[Vantage], *, witnesses: bool = True) -> None:
        """Be a witness of the others, and use them as witnesses."""
        settings = self.process.settings
        settings["witness"]["logs"] = [line(other.process, "ledger.pub") for other in others]
        settings["witnesses"] = [
            {"url": f"http://{other.address}:{PORT}/", "key": line(other.process, "witness.pub")}
            for other in others
            if witnesses
        ]
        self.process.write_config()

    def cosigned_by(self, other: Vantage) -> int:
        """The size that the other cosigned last, 0 for none."""
        key = line(other.process, "witness.pub")
        own = [each for each in entries(self.process, "witness") if each["witness"] == key]
        return max((each["checkpoint"] for each in own if "cosignature" in each), default=0)

    def conflicts(self) -> float:
        """How many witnesses have seen another history."""
        found = [
            row
            for row in self.process.get("/metrics").splitlines()
            if row.startswith("mailwatch_witness_conflict{")
        ]
        return sum(float(row.rpartition(" ")[2]) for row in found)

    def statements_of(self, other: Vantage) -> list[RegisterStatement]:
        key = line(other.process, "witness.pub")
        return [
            read_statement(each["statement"], parse_verifier_key(key))
            for each in entries(self.process, "register")
            if each["witness"] == key
        ]


@pytest.fixture
def three(tmp_path: Path) -> Iterator[list[Vantage]]:
    token = secrets.token_hex(3)
    with contextlib.ExitStack() as undo:
        switch = Namespace(f"mws-{token}")
        undo.callback(switch.close)
        command("ip", "-n", switch.name, "link", "add", "br0", "type", "bridge")
        command("ip", "-n", switch.name, "link", "set", "br0", "up")
        made = []
        for number in (1, 2, 3):
            one = Vantage(tmp_path / str(number), number, switch, token)
            undo.callback(one.space.close)
            undo.callback(one.stop)
            made.append(one)
            # A first start, which makes its keys.
            one.start()
            one.stop()
        for one in made:
            one.know([other for other in made if other is not one], witnesses=False)
            one.start()
        for one in made:
            one.know([other for other in made if other is not one])
            one.reload()
        for one in made:
            for other in made:
                if other is not one:
                    one.wait(lambda a=one, b=other: a.cosigned_by(b), "cosigned by each other one")  # type: ignore[misc]
        yield made


@pytest.mark.nightly
def test_of_three_one_forks(three: list[Vantage], tmp_path: Path) -> None:
    """An older copy of the whole data_dir goes on: both others have seen more, and say so."""
    forking, *others = three
    forking.stop()
    shutil.copytree(forking.process.data_dir, tmp_path / "copy")
    with contextlib.closing(Reader.open(forking.process.data_dir)) as reader:
        signed = reader.last_checkpoint()
    assert signed is not None
    forking.start()
    forking.stop()
    forking.start()
    forking.wait(lambda: min(map(forking.cosigned_by, others)) > signed.size, "cosigned further")
    forking.stop()
    shutil.rmtree(forking.process.data_dir)
    shutil.copytree(tmp_path / "copy", forking.process.data_dir)
    forking.start()
    forking.wait(lambda: forking.conflicts() == 2, "two alarms")
    refused = [each for each in entries(forking.process, "witness") if "refused" in each]
    assert {each["witness"] for each in refused} == {line(other.process, "witness.pub") for other in others}
    assert "has seen another history" in forking.run(lambda: forking.process.get("/ledger"))
    # The others witness each other as before.
    assert all(other.run(other.conflicts) == 0 for other in others)


@pytest.mark.nightly
def test_of_three_one_begins_anew(three: list[Vantage]) -> None:
    """With another key for the same mailbox: once the others know that key, they name the first one too."""
    anew, one, two = three
    first = line(anew.process, "ledger.pub").partition("+")[0]
    anew.wait(lambda: anew.statements_of(one), "registered")
    anew.stop()
    shutil.rmtree(anew.process.data_dir)
    anew.start()
    anew.wait(lambda: "did not cosign: HTTP 404" in anew.process.log.read_text(), "refused")
    assert entries(anew.process, "witness") == []
    keys = [line(anew.process, "ledger.pub"), line(two.process, "ledger.pub")]
    one.process.settings["witness"]["logs"] = keys
    one.process.write_config()
    before = one.process.log.read_text().count("config reloaded")
    one.reload()
    one.wait(lambda: one.process.log.read_text().count("config reloaded") > before, "reloaded")
    # A witness that refused is asked again at the next start.
    anew.stop()
    anew.start()
    stated = anew.wait(lambda: anew.statements_of(one), "registered again")[-1]
    assert first in stated.others
    assert stated.ledger == line(anew.process, "ledger.pub").partition("+")[0]


@pytest.mark.nightly
def test_of_three_one_dies_and_one_lies(three: list[Vantage], tmp_path: Path) -> None:
    """The living and honest ones go on, and no observation is late."""
    dead, one, two = three
    dead.run(dead.process.kill)
    before = one.cosigned_by(two)
    for _ in range(2):
        one.stop()
        one.start()
    one.wait(lambda: one.cosigned_by(two) > before, "cosigned by the living one")
    one.wait(lambda: "did not cosign" in one.process.log.read_text(), "a line about the dead one")
    lies = tmp_path / "lies.py"
    lies.write_text(LIAR)
    words = [
        sys.executable,
        str(lies),
        dead.address,
        str(PORT),
        line(dead.process, "witness.pub").partition("+")[0],
    ]

    liar = dead.run(lambda: subprocess.Popen(words, stdout=subprocess.PIPE))
    try:
        assert liar.stdout.readline() == b"lying\n"
        count = one.run(lambda: one.process.count("lab", "down"))
        one.stop()
        one.start()
        one.wait(lambda: "is not a cosignature" in one.process.log.read_text(), "a line about the liar")
        one.wait(lambda: one.process.count("lab", "down") >= count + 3, "probing on")
        assert one.run(one.conflicts) == 0
    finally:
        liar.kill()
        liar.communicate()


LIAR = """
import http.server, sys

class Liar(http.server.BaseHTTPRequestHandler):
    def do_POST(self):
        body = ("\\u2014 " + sys.argv[3] + " AAAA\\n").encode()
        self.send_response(200)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

server = http.server.HTTPServer((sys.argv[1], int(sys.argv[2])), Liar)
print("lying", flush=True)
server.serve_forever()
"""
