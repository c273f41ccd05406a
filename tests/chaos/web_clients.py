"""Web clients that send half a request, pipeline without reading, or read a byte now and then: hundreds at once.

Health checks are answered all the while, probes go on, and memory does not grow with what nobody reads.
"""

from __future__ import annotations

import contextlib
import http.client
import resource
import selectors
import socket
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

from tests.chaos.figures import Figures, Scale
from tests.chaos.lab import Lab
from tests.chaos.promises import (
    TIMEOUT_SECONDS,
    TRACEBACK,
    alive,
    downs,
    force_stop,
    log_since,
    on_record,
    ready,
    size,
    starts,
    stops,
    wait_for,
)
from tests.helpers.process import MailWatchProcess

CLIENTS = 600
"""More than MailWatch serves at once."""
AT_A_TIME = 20
"""Of them that come, or come again, in a tenth of a second: more would measure this machine, not MailWatch."""
CROWD_SECONDS = 20.0
"""Seconds for which they stay."""
GROWN = 200.0
"""Megabytes by which memory may grow with so many connections, each with a buffer of the kernel's size at most."""
REQUEST = b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n"
NextBytes = Callable[[socket.socket], bytes]
"""Returns what to send next whenever the socket takes something, b"" for no more."""

CROWDS: dict[str, NextBytes] = {
    "half a request line": lambda _: b"",
    "headers without end": lambda _: b"X-Slow: 1\r\n",
    "a body that never comes": lambda _: b"",
    "pipelining, never reading": lambda _: REQUEST * 50,
    "reading a byte now and then": lambda sock: _read_one_byte(sock),
}
FIRST = {
    "half a request line": b"GET /api/v1/out",
    "headers without end": b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\n",
    "a body that never comes": b"POST /login HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 100000\r\n\r\n",
    "pipelining, never reading": REQUEST,
    "reading a byte now and then": b"GET /api/v1/observations?limit=10000 HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n",
}


def run(lab: Lab, figures: Figures, scale: Scale) -> None:
    """Each crowd, from several addresses of loopback; the health checks come from another one."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, max(soft, 4096)), hard))
    with lab.place("web clients") as folder:
        process = lab.install(folder / "one")
        assert starts(process), log_since(process)[-300:]
        wait_for(lambda: size(process) > 12)
        try:
            for done, name in enumerate(CROWDS, 1):
                one(figures, process, name, CLIENTS, CROWD_SECONDS)
                figures.progress(done, len(CROWDS))
            _ends(figures, process)
        finally:
            force_stop(process)


def one(figures: Figures, process: MailWatchProcess, name: str, clients: int, seconds: float) -> None:
    """Let one crowd in, and ask after the health meanwhile."""
    memory, before = _memory(process), size(process)
    with _crowd(process, name, clients):
        figures.count("crowds")
        deadline, answered, asked = time.monotonic() + seconds, 0, 0
        while time.monotonic() < deadline and alive(process):
            asked += 1
            began = time.monotonic()
            answered += _healthy(process.port)
            figures.at_most("longest health check", time.monotonic() - began)
            figures.at_most("memory grown by", _memory(process) - memory, "MB")
            time.sleep(0.3)
        figures.count("health checks asked", asked)
        figures.count("health checks answered", answered)
        figures.promise(answered == asked, f"{name}: {asked - answered} of {asked} health checks are not answered")
        figures.promise(_memory(process) - memory < GROWN, f"{name}: grown by {_memory(process) - memory:.0f} MB")
    figures.promise(wait_for(lambda: ready(process)), f"{name}: not ready when they are gone")
    more = wait_for(lambda: size(process) > before + 3)
    figures.promise(more, f"{name}: nothing was put on record meanwhile")


def _healthy(port: int) -> bool:
    """Whether one health check is answered, however long a busy machine takes for it."""
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/healthz", timeout=TIMEOUT_SECONDS) as answer:
            return bool(answer.read() == b"ok\n")
    except (OSError, http.client.HTTPException):
        return False


def _ends(figures: Figures, process: MailWatchProcess) -> None:
    status, stop_seconds = stops(process)
    figures.at_most("longest stop", stop_seconds)
    figures.promise(status == 0, f"SIGTERM: status {status}")
    down = downs(on_record(process.data_dir))
    figures.promise(not down, f"{len(down)} observations are down: {down[:2]}")
    figures.promise(TRACEBACK not in log_since(process), log_since(process)[-300:])


@contextlib.contextmanager
def _crowd(process: MailWatchProcess, name: str, clients: int) -> Iterator[None]:
    """Keep so many clients connected; who is hung up on comes again, some 200 a second."""
    ended = threading.Event()
    thread = threading.Thread(target=_keep_connecting, args=(process.port, name, clients, ended))
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


def _keep_connecting(port: int, name: str, clients: int, ended: threading.Event) -> None:
    with selectors.DefaultSelector() as waiting:
        number = 0
        while not ended.is_set():
            for _ in range(min(AT_A_TIME, clients - len(waiting.get_map()))):
                number += 1
                if not _come(waiting, port, FIRST[name], f"127.0.0.{2 + number % 50}"):
                    break
            for key, events in waiting.select(0.1):
                sock = key.fileobj
                assert isinstance(sock, socket.socket)
                if not _go_on(sock, events, CROWDS[name]):
                    waiting.unregister(sock)
                    sock.close()
            ended.wait(0.1)
        for key in list(waiting.get_map().values()):
            assert isinstance(key.fileobj, socket.socket)
            key.fileobj.close()


def _come(waiting: selectors.BaseSelector, port: int, first: bytes, address: str) -> bool:
    sock = socket.socket()
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        sock.settimeout(2)
        sock.bind((address, 0))
        sock.connect(("127.0.0.1", port))
        sock.sendall(first)
        sock.setblocking(False)
    except OSError:
        sock.close()
        return False
    # Readable also means: hung up. What comes is not read, but for that.
    waiting.register(sock, selectors.EVENT_WRITE)
    return True


def _go_on(sock: socket.socket, events: int, rude: NextBytes) -> bool:
    """Send the next rudeness; False when the other side has hung up."""
    try:
        if (more := rude(sock)) and events & selectors.EVENT_WRITE:
            sock.send(more)
        return sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) == 0 and not _hung_up(sock)
    except BlockingIOError:
        return True
    except OSError:
        return False


def _hung_up(sock: socket.socket) -> bool:
    try:
        return sock.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT) == b""
    except BlockingIOError:
        return False


def _read_one_byte(sock: socket.socket) -> bytes:
    with contextlib.suppress(BlockingIOError):
        sock.recv(1, socket.MSG_DONTWAIT)
    return b""


def _memory(process: MailWatchProcess) -> float:
    """Resident memory in megabytes."""
    with contextlib.suppress(OSError, AssertionError):
        pages = int(Path(f"/proc/{process.pid}/statm").read_text().split()[1])
        return pages * resource.getpagesize() / 1e6
    return 0.0
