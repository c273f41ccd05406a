"""Servers whose paths are compiled in and whose packages conflict: each runs in a root folder of its own (chroot).

tests/install_servers.sh unpacks the packages into build/servers/; every server of a test gets a copy, in which it
finds its own configuration, users and spool where it expects them.
"""

from __future__ import annotations

import os
import secrets
import shlex
import stat
import subprocess
from collections.abc import Sequence
from pathlib import Path

from tests.helpers.paths import ROOT
from tests.servers.certificates import Certificate
from tests.servers.program import Program

ROOTS = ROOT / "build" / "servers"
DEVICES = {"null": (1, 3), "zero": (1, 5), "random": (1, 8), "urandom": (1, 9)}
CHROOT = "/usr/sbin/chroot"
ALICE, BOB = "a@example.org", "b@example.org"


class Rooted(Program):
    """A server in a copy of build/servers/`name`. `accounts` are the system users that it wants; needs root.

    `passwords` are those of its mail users. What the server says to standard output and error is its log.
    """

    def __init__(self, directory: Path, name: str, ports: dict[int, bool], *accounts: str) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        self.root = directory / "root"
        self.passwords = {user: secrets.token_urlsafe(12) for user in (ALICE, BOB)}
        subprocess.run(["cp", "-a", str(ROOTS / name), str(self.root)], check=True)
        self.root.chmod(0o755)
        for folder in ("dev", "etc", "tmp", "run", "srv", "root", "var/run", "var/empty", "home"):
            (self.root / folder).mkdir(parents=True, exist_ok=True)
        for device, (major, minor) in DEVICES.items():
            node = self.root / "dev" / device
            os.mknod(node, 0o666 | stat.S_IFCHR, os.makedev(major, minor))
            node.chmod(0o666)
        (self.root / "tmp").chmod(0o1777)
        self.ids = {"root": 0, "mail": 8, "nobody": 65534} | {
            account: 800 + number for number, account in enumerate(accounts)
        }
        lines = [f"{account}:x:{number}" for account, number in self.ids.items()]
        self.write(
            "etc/passwd", "".join(f"{line}:{line.rpartition(':')[2]}::/var/empty:/bin/sh\n" for line in lines)
        )
        self.write("etc/group", "".join(f"{line}:\n" for line in lines))
        self.write("etc/hosts", "127.0.0.1 localhost\n")
        self.write("etc/services", "imap 143/tcp\npop3 110/tcp\nsmtp 25/tcp\n")
        super().__init__(directory, ("sh", "-c", ""), ports)
        self.log = self._output

    def write(self, path: str, text: str | bytes, *, owner: str = "root", mode: int = 0o644) -> Path:
        """Write a file in the server's root."""
        file = self.root / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(text.encode() if isinstance(text, str) else text)
        file.chmod(mode)
        self.own(file, owner)
        return file

    def own(self, path: Path, owner: str) -> None:
        """Give a file to a user of the root."""
        os.chown(path, self.ids[owner], self.ids[owner])

    def owned_folder(self, path: str, owner: str, mode: int = 0o755) -> Path:
        """Make a folder in the root, and give it to a user of it."""
        folder = self.root / path
        folder.mkdir(parents=True, exist_ok=True)
        folder.chmod(mode)
        self.own(folder, owner)
        return folder

    def certificate(self, certificate: Certificate, path: str, owner: str = "root") -> None:
        """Write a certificate with its chain and its key into one file, as most of these servers want it."""
        self.write(path, certificate.key.read_bytes() + certificate.chain.read_bytes(), owner=owner, mode=0o600)

    def runs(
        self,
        *commands: Sequence[str],
        settings: dict[str, str] | None = None,
        only: dict[int, dict[str, str]] | None = None,
    ) -> None:
        """What is started: programs in the root, all in the foreground; `only` are further settings of some."""
        script = ""
        for number, command in enumerate(commands):
            variables = {"PATH": "/usr/sbin:/usr/bin"} | (settings or {}) | (only or {}).get(number, {})
            enter = ["env", "-i", *(f"{key}={value}" for key, value in variables.items()), CHROOT, str(self.root)]
            script += f"{shlex.join([*enter, *command])} &\n"
        self._command = ("sh", "-c", script + "wait")

    def inside(self, *command: str, said: str = "") -> str:
        """Run a program in the root, give it `said`, and return what it says."""
        done = subprocess.run(
            [CHROOT, str(self.root), *command], input=said, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, f"{command}: {done.stderr or done.stdout}"
        return done.stdout


def crypted(password: str) -> str:
    """Return the password as crypt(3) with SHA-512 has it."""
    done = subprocess.run(["openssl", "passwd", "-6", "-stdin"], input=password, capture_output=True, text=True)
    return done.stdout.strip()
