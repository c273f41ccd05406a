"""`mailwatch` as a process of its own, forked from one that has loaded it.

What starting Python costs, a second or two of processor time for each of some thousand commands, is paid once a
worker. Arguments, environment, folder, streams, signals, exit status and the end of the process are as if it had
been started; where the start itself matters (LD_PRELOAD, `ip netns exec`) a test starts Python.
"""

from __future__ import annotations

import atexit
import contextlib
import ctypes
import fcntl
import functools
import gc
import importlib
import json
import os
import pkgutil
import resource
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import termios
import threading
import time
import traceback
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NoReturn

from tests.helpers.marks import starting
from tests.helpers.paths import ROOT
from tests.helpers.patience import PATIENCE

MAX_REQUEST = 1 << 20
_CLONE_NEWNET = 0x40000000


class Program:
    """A running `mailwatch`, with what the tests use of subprocess.Popen."""

    MARK = "e2e"

    def __init__(
        self,
        *words: str,
        streams: tuple[int, int, int],
        cwd: Path | None = None,
        env: Mapping[str, str] | None = None,
        terminal: bool = False,
        surroundings: Mapping[str, Any] | None = None,
    ) -> None:
        """Start it with the three file descriptors as its streams.

        With `terminal` the first is made its controlling terminal. For `surroundings` see `_surround`.
        """
        starting(self.MARK)
        self.args = ("mailwatch", *words)
        self.returncode: int | None = None
        request = {
            "words": words,
            "cwd": str(cwd or Path.cwd()),
            "env": dict(os.environ if env is None else env),
            "terminal": terminal,
            "network": _network(),
            "thread": f"/proc/{os.getpid()}/task/{threading.get_native_id()}/ns/net",
            "surroundings": dict(surroundings or {}),
        }
        self._connection = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._connection.connect(_server())
        socket.send_fds(self._connection, [json.dumps(request).encode("utf-8", "surrogateescape")], list(streams))
        self.pid = int(self._connection.recv(64))

    def wait(self, timeout: float | None = None) -> int:
        """Return the exit status, negative for a signal. Raises subprocess.TimeoutExpired."""
        if self.returncode is None:
            self._connection.settimeout(timeout)
            try:
                answer = self._connection.recv(64)
            except (TimeoutError, BlockingIOError):
                raise subprocess.TimeoutExpired(self.args, timeout or 0) from None
            self.returncode = int(answer or b"-9")
            self._connection.close()
        return self.returncode

    def poll(self) -> int | None:
        """Return the exit status, None while it runs."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            return self.wait(0)
        return None

    def send_signal(self, number: int) -> None:
        """Send a signal to it while it runs."""
        if self.poll() is None:
            # It may have ended just now.
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, number)

    def terminate(self) -> None:
        """SIGTERM."""
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        """SIGKILL."""
        self.send_signal(signal.SIGKILL)

    def __del__(self) -> None:
        """Leave nothing behind that runs, such as a start that a test gave up."""
        if hasattr(self, "_connection"):
            self.kill()
            self._connection.close()


def mailwatch(
    *words: object,
    cwd: Path | None = None,
    env: Mapping[str, str] | None = None,
    given: str | None = None,
    timeout: float = PATIENCE,
) -> subprocess.CompletedProcess[str]:
    """Run a command to its end, with `given` on its stdin. Raises subprocess.TimeoutExpired."""
    with tempfile.TemporaryFile() as stdin, tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        stdin.write((given or "").encode())
        stdin.seek(0)
        streams = stdin.fileno(), out.fileno(), err.fileno()
        program = Program(*map(str, words), streams=streams, cwd=cwd, env=env)
        try:
            status = program.wait(timeout)
        finally:
            program.kill()
        messages = []
        for stream in (out, err):
            stream.seek(0)
            messages.append(stream.read().decode())
        return subprocess.CompletedProcess(program.args, status, *messages)


def _network() -> str:
    """What the network namespace of this thread is called (helpers/netns.py), "" where there are none."""
    own = Path("/proc/thread-self/ns/net")
    return str(own.readlink()) if own.exists() else ""


@functools.cache
def _server() -> str:
    """Start the process that others are forked from, once a worker; return the name of its socket."""
    folder = tempfile.mkdtemp(prefix="mailwatch-program-")
    path = f"{folder}/socket"
    listening = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    listening.bind(path)
    listening.listen(64)
    # Its stdin is a pipe of ours: when we are gone, however we ended, it ends.
    server = subprocess.Popen(
        [sys.executable, "-m", "tests.helpers.command", str(listening.fileno())],
        pass_fds=[listening.fileno()],
        stdin=subprocess.PIPE,
        cwd=ROOT,
    )
    listening.close()

    def end() -> None:
        server.kill()
        server.wait()
        shutil.rmtree(folder)

    atexit.register(end)
    return path


def _load() -> None:
    """Import all that a command may need."""
    import mailwatch

    for module in pkgutil.walk_packages(mailwatch.__path__, "mailwatch."):
        if "migrations" not in module.name and "__main__" not in module.name and ".enclosed" not in module.name:
            importlib.import_module(module.name)


def _serve(listening: socket.socket) -> dict[str, Any]:
    """Fork a process for each request; return in the child, with what was asked for."""
    # Ended children of this one, the keepers below, need no wait.
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    while True:
        connection, _ = listening.accept()
        request, streams, _, _ = socket.recv_fds(connection, MAX_REQUEST, 3)
        if request and os.fork() == 0:
            listening.close()
            # Before there is a child: one that ended while they are ignored could not be waited for.
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            if (pid := os.fork()) == 0:
                connection.close()
                _settle(streams)
                return dict(json.loads(request.decode("utf-8", "surrogateescape")))
            _keep(connection, pid, streams)
        connection.close()
        for stream in streams:
            os.close(stream)


def _keep(connection: socket.socket, pid: int, streams: list[int]) -> NoReturn:
    """Report how the program ended."""
    for stream in (*streams, 0, 1, 2):
        os.close(stream)
    with contextlib.suppress(OSError):
        connection.send(str(pid).encode())
    _, status = os.waitpid(pid, 0)
    with contextlib.suppress(OSError):
        connection.send(str(os.waitstatus_to_exitcode(status)).encode())
    os._exit(0)


def _settle(streams: list[int]) -> None:
    # Who runs the tests in the background has Ctrl-C ignored, and a program inherits that.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    for number, stream in enumerate(streams):
        os.dup2(stream, number)
        os.close(stream)


def enter_network(file: str) -> None:
    """Enter a network namespace, for this thread and what it starts (setns(2)). Raises OSError."""
    with open(file) as namespace:  # noqa: PTH123
        if ctypes.CDLL(None, use_errno=True).setns(namespace.fileno(), _CLONE_NEWNET):
            raise OSError(ctypes.get_errno(), "setns")


# ruff: noqa: SIM115 - the streams of the program are open to its end
def _become(request: dict[str, Any]) -> None:
    """Take over arguments, environment, folder and streams."""
    os.environ.clear()
    os.environ.update(request["env"])
    time.tzset()
    os.chdir(request["cwd"])
    # Whichever thread started the server: it is in the network of that one.
    if request["network"] != _network():
        enter_network(request["thread"])
    if request["terminal"]:
        os.setsid()
        fcntl.ioctl(0, termios.TIOCSCTTY, 0)
    sys.argv = ["mailwatch", *request["words"]]
    line = os.isatty(1)
    sys.stdin = sys.__stdin__ = open(0, encoding="utf-8", closefd=False)  # type: ignore[misc]
    sys.stdout = sys.__stdout__ = open(1, "w", 1 if line else -1, "utf-8", closefd=False)  # type: ignore[misc]
    sys.stderr = sys.__stderr__ = open(2, "w", 1, "utf-8", "backslashreplace", closefd=False)  # type: ignore[misc]


def _surround(wanted: dict[str, Any]) -> None:
    """Make what a command meets hostile.

    `limits` by their names in resource without RLIMIT_, `umask`, `closed` streams, `encoding` of stdout, `user`: a
    number, `gone`: the current folder is not there any more.
    """
    if "umask" in wanted:
        os.umask(wanted["umask"])
    if wanted.get("gone"):
        os.chdir(gone := tempfile.mkdtemp(prefix="mailwatch-gone-"))
        Path(gone).rmdir()
    if "encoding" in wanted:
        sys.stdout = open(1, "w", encoding=wanted["encoding"], closefd=False)
    for number in wanted.get("closed", ()):
        os.close(number)
        setattr(sys, ("stdin", "stdout", "stderr")[number], None)
    if "user" in wanted:
        os.setgroups([])
        os.setresuid(wanted["user"], wanted["user"], wanted["user"])
    for name, most in wanted.get("limits", {}).items():
        resource.setrlimit(getattr(resource, f"RLIMIT_{name}"), (most, most))


def _status_of(main: Callable[[], int]) -> int:
    """Run it; return its exit status, as Python would give it."""
    try:
        return main()
    except SystemExit as error:
        if isinstance(error.code, str):
            sys.stderr.write(f"{error.code}\n")
        return error.code if isinstance(error.code, int) else bool(error.code)
    except BaseException:
        traceback.print_exc()
        return 1


def _end(status: int) -> NoReturn:
    """End as Python does, but for taking apart all modules: that would cost more than most commands."""
    threading._shutdown()  # type: ignore[attr-defined]
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError):
            stream.flush()
    os._exit(status)


if __name__ == "__main__":
    from mailwatch.__main__ import main

    _load()
    # What is loaded stays: its pages are shared, and nobody goes through it at the end.
    gc.freeze()
    _become(asked := _serve(socket.socket(fileno=int(sys.argv[1]))))
    _surround(asked["surroundings"])
    _end(_status_of(main))
