"""The connections of a database that are open, for another thread to break."""

from __future__ import annotations

import contextlib
import os
import socket
import threading
import weakref
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import psycopg


class Connections:
    """Connections of psycopg; those that are closed are forgotten. For any thread."""

    def __init__(self) -> None:
        self._known: weakref.WeakSet[psycopg.Connection[Any]] = weakref.WeakSet()
        self._lock = threading.Lock()

    def add(self, connection: psycopg.Connection[Any]) -> None:
        """Note a connection that was opened."""
        with self._lock:
            self._known.add(connection)

    def cut(self) -> None:
        """Break all connections, so that who waits for the database fails."""
        with self._lock:
            known = list(self._known)
        for connection in known:
            # The thread that waits on it sees the end of the connection, and closes it.
            with contextlib.suppress(OSError, ValueError, psycopg_error()), _socket_of(connection) as sock:
                sock.shutdown(socket.SHUT_RDWR)


def _socket_of(connection: psycopg.Connection[Any]) -> socket.socket:
    """Return another handle of a connection's socket. Raises OSError, psycopg.Error for one that is closed."""
    return socket.socket(fileno=os.dup(connection.fileno()))


def psycopg_error() -> type[Exception]:
    """Return the base of psycopg's errors."""
    import psycopg

    return psycopg.Error
