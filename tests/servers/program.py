"""Starting a server, waiting until it serves, and leaving no process of it behind."""

from __future__ import annotations

import contextlib
import fcntl
import functools
import itertools
import os
import signal
import socket
import ssl
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Self

from tests.helpers.marks import starting
from tests.helpers.paths import MEMORY
from tests.helpers.patience import PATIENCE, tries

HOST = "127.0.0.1"


@contextlib.contextmanager
def server_folder() -> Iterator[Path]:
    """A folder that the servers' own users may enter, which pytest's folders do not allow.

    Its path is short, since a Unix socket's may have no more than 107 bytes (unix(7)).
    """
    with tempfile.TemporaryDirectory(prefix="mailwatch-", dir=MEMORY, ignore_cleanup_errors=True) as name:
        Path(name).chmod(0o755)
        yield Path(name)


RESERVED = Path(tempfile.gettempdir()) / "mailwatch-test-ports"
"""Who may use which ports: a lock for each block of them, held while a process lives."""
FIRST_PORT, BLOCK, BLOCKS = 20_000, 500, 25
"""Below the ports that the system gives to connections (32768 and above, ip(7))."""


@functools.cache
def _ports() -> Iterator[int]:
    """The ports of this process: no other run or worker on this machine has one of them, whenever it takes it."""
    RESERVED.mkdir(exist_ok=True)
    for number in sorted(range(BLOCKS), key=lambda number: (number - os.getpid()) % BLOCKS):
        file = os.open(RESERVED / str(number), os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o666)
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(file)
            continue
        first = FIRST_PORT + number * BLOCK
        return itertools.cycle(range(first, first + BLOCK))
    raise AssertionError(f"all {BLOCKS} blocks of ports are taken by other runs of the tests: {RESERVED}")


def free_port() -> int:
    """A port of the loopback address that nobody listens on, and that none but this process takes."""
    for port in _ports():
        with contextlib.suppress(OSError), socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind((HOST, port))
            return port
    raise AssertionError("never reached")


def is_open(port: int) -> bool:
    """Whether someone accepts connections on the port."""
    with contextlib.suppress(OSError), socket.create_connection((HOST, port), timeout=1):
        return True
    return False


def greets(port: int, tls: bool) -> bool:
    """Whether a server says its greeting there, after a handshake if `tls`; the certificate does not matter."""
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    with contextlib.suppress(OSError), socket.create_connection((HOST, port), timeout=5) as plain:
        if not tls:
            return bool(plain.recv(1))
        with context.wrap_socket(plain) as secured:
            return bool(secured.recv(1))
    return False


def session_members(session: int) -> list[int]:
    """The living processes of a session. Zombies do not count: nobody may be there to bury orphans."""
    members = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            # proc(5): the name stands in parentheses; state is the first field after it, session the fourth.
            fields = stat.read_text(errors="replace").rpartition(")")[2].split()
            if fields[0] not in "ZX" and int(fields[3]) == session:
                members.append(int(stat.parent.name))
    return members


class Program:
    """A server in the foreground, with all its children in one session of its own.

    `ports` says of each port whether TLS comes first there.
    """

    def __init__(self, directory: Path, command: tuple[str, ...], ports: dict[int, bool]) -> None:
        self.directory = directory
        self.log = directory / "log"
        self._output = directory / "output"
        self._command = command
        self._ports = ports
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        """The master process, of a server that runs."""
        assert self._process is not None, f"{self._command[0]} does not run"
        return self._process.pid

    MARK = "servers"

    def start(self) -> None:
        """Start it and return once it greets on every port."""
        starting(self.MARK)
        assert self._process is None, f"{self._command[0]} runs already"
        with self._output.open("ab") as output:
            self._process = subprocess.Popen(
                self._command,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )
        try:
            self._wait_until_serving(self._process)
        except BaseException:
            self.stop()
            raise

    def _wait_until_serving(self, process: subprocess.Popen[bytes]) -> None:
        # An open port is not enough: a child that is killed while it starts takes Dovecot 6 s to stop.
        for _ in tries():
            if self._serving():
                return
            if process.poll() is not None:
                break
        words = self._output.read_text(errors="replace") + self.log_since(0)
        raise AssertionError(f"{self._command[0]} does not start:\n{words}")

    def _serving(self) -> bool:
        return all(self._serves(port, tls) for port, tls in self._ports.items())

    def _serves(self, port: int, tls: bool) -> bool:
        return greets(port, tls)

    def stop(self) -> None:
        """Stop it and return once its ports are closed and no process is left. Twice does no harm."""
        process, self._process = self._process, None
        if process is None:
            return
        # All of them at once: Dovecot's master alone would wait a second for its children.
        for pid in session_members(process.pid):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGTERM)
                # One that a test has stopped ends only when it goes on.
                os.kill(pid, signal.SIGCONT)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(PATIENCE)
        deadline = time.monotonic() + PATIENCE
        # The whole session, since a child that outlives its master would keep the ports.
        while left := session_members(process.pid):
            for pid in left:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            assert time.monotonic() < deadline, f"{self._command[0]} does not stop: {left}"
            time.sleep(0.01)
        process.wait(PATIENCE)
        assert not any(is_open(port) for port in self._ports), f"{self._command[0]} left a port open"

    @contextlib.contextmanager
    def running(self) -> Iterator[Self]:
        """Started, and stopped in any case; in between it may be stopped and started at will."""
        self.start()
        try:
            yield self
        finally:
            self.stop()

    def restart(self) -> None:
        """Stop and start again, with the configuration as it is now."""
        self.stop()
        self.start()

    @property
    def log_size(self) -> int:
        """How many bytes were logged so far, for `log_since`."""
        return self.log.stat().st_size if self.log.exists() else 0

    def log_since(self, mark: int) -> str:
        """What was logged after the first `mark` bytes."""
        return self.log.read_bytes()[mark:].decode(errors="replace") if self.log.exists() else ""

    def log_until(self, words: str, mark: int) -> str:
        """What was logged after the first `mark` bytes, once `words` are among it."""
        for _ in tries():
            if words in (result := self.log_since(mark)):
                return result
        raise AssertionError(f"{self._command[0]} never logged {words!r}:\n{self.log_since(mark)}")
