"""A proxy on the loopback address that can lose a connection at a chosen byte, as a network does."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Iterator

from tests.servers.program import HOST


class SeveringProxy:
    """Forwards connections to a port. `port`: where it listens.

    `sever_answers_after`: once so many more bytes of requests were forwarded whole, answers are dropped and the
    connection is reset. `hold_requests_after`: after so many more bytes nothing is forwarded, and nothing closed.
    """

    def __init__(self, behind: int) -> None:
        self._behind = behind
        self._listening = socket.create_server((HOST, 0))
        self.port: int = self._listening.getsockname()[1]
        self._lock = threading.Lock()
        self._pairs: list[tuple[socket.socket, socket.socket]] = []
        self._severing: int | None = None
        self._holding: int | None = None
        self.severed = threading.Event()
        """Set once it has lost a connection, or holds one."""
        self._going = threading.Event()
        self._going.set()
        threading.Thread(target=self._accept, daemon=True).start()

    def sever_answers_after(self, requests: int = 0) -> None:
        """Lose the next connection that asks something, after its request was forwarded: no answer comes."""
        self.severed.clear()
        self._severing = requests

    def forget_severing(self) -> None:
        """Lose no connection, if none was lost yet."""
        self._severing = None

    def hold_requests_after(self, requests: int) -> None:
        """Stop forwarding after so many bytes of requests, until `resume`."""
        self.severed.clear()
        self._going.clear()
        self._holding = requests

    def resume(self) -> None:
        """Forward again what was held."""
        self._holding = None
        self._going.set()

    def close(self) -> None:
        """Close all."""
        self.resume()
        # Only a shutdown wakes the thread that waits in accept().
        _close(self._listening)
        with self._lock:
            for pair in self._pairs:
                _close(*pair)

    @contextlib.contextmanager
    def running(self) -> Iterator[SeveringProxy]:
        """Closed at the end."""
        try:
            yield self
        finally:
            self.close()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = self._listening.accept()
                try:
                    server = socket.create_connection((HOST, self._behind))
                except OSError:
                    client.close()
                    continue
                with self._lock:
                    self._pairs.append((client, server))
                threading.Thread(target=self._requests, args=(client, server), daemon=True).start()
                threading.Thread(target=self._answers, args=(client, server), daemon=True).start()

    def _requests(self, client: socket.socket, server: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := client.recv(65536):
                if self._holding is not None:
                    first, data = data[: self._holding], data[self._holding :]
                    self._holding -= len(first)
                    server.sendall(first)
                    if data:
                        self.severed.set()
                        self._going.wait()
                if self._severing is not None:
                    self._severing -= len(data)
                server.sendall(data)
        _close(client, server)

    def _answers(self, client: socket.socket, server: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := server.recv(65536):
                if self._severing is not None and self._severing <= 0:
                    self._severing = None
                    self.severed.set()
                    break
                client.sendall(data)
        _close(client, server)


def _close(*sockets: socket.socket) -> None:
    for one in sockets:
        with contextlib.suppress(OSError):
            one.shutdown(socket.SHUT_RDWR)
        one.close()
