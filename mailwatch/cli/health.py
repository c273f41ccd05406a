"""mailwatch health: is the monitor on this machine alive? Run often by health checks, so it imports almost
nothing.
"""

from __future__ import annotations

import argparse
import os
import socket
import time
from pathlib import Path

from mailwatch.cli.errors import print_error
from mailwatch.errors import UsageError

TIMEOUT_SECONDS = 3.0
"""Seconds for the whole check."""
MAX_REPLY_BYTES = 1 << 16
"""Most bytes of the answer."""
LISTEN_VARIABLE = "MAILWATCH_LISTEN"
_WILDCARDS = {"0.0.0.0": ("127.0.0.1",), "::": ("::1", "127.0.0.1")}  # noqa: S104 - the address to ask, where that is served


def add(verb: argparse.ArgumentParser) -> None:
    """Add the arguments."""
    verb.epilog = "Exit status: 0 alive, 1 not."
    # As in cli/common.py, which would import the whole config package.
    verb.add_argument(
        "--config", type=Path, metavar="FILE", default=argparse.SUPPRESS, help="path of the config file"
    )
    verb.add_argument(
        "--ready", action="store_true", help="also ask whether it probes and records; prints why not"
    )
    verb.set_defaults(run=_run)


def _run(args: argparse.Namespace) -> int:
    listen = os.environ.get(LISTEN_VARIABLE) or _configured(args)
    host, colon, port = listen.rpartition(":")
    if not (colon and host and port.isdecimal() and 0 < int(port) < 65536):
        raise UsageError(f"{listen!r} of {LISTEN_VARIABLE} or web.listen is not HOST:PORT")
    status, answer = _get(host.strip("[]"), int(port), "/readyz" if args.ready else "/healthz")
    if status != 200:
        print_error(f"mailwatch health: {answer}")
    return 0 if status == 200 else 1


def _configured(args: argparse.Namespace) -> str:
    """Return `web.listen` from the config. Raises ConfigError."""
    from mailwatch.cli.common import open_config

    return open_config(args).web.listen


def _get(host: str, port: int, path: str) -> tuple[int, str]:
    """Send a GET. Return the status and the body; without an answer, 0 and the reason."""
    why, until = "", time.monotonic() + TIMEOUT_SECONDS
    for address in _WILDCARDS.get(host, (host,)):
        try:
            with socket.create_connection((address, port), max(0.1, until - time.monotonic())) as connection:
                connection.sendall(f"GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n".encode())
                return _parse_reply(_answer(connection, until))
        except OSError as error:
            why = f"no answer from {address}, port {port}: {error.strerror or error}"
    return 0, why


def _answer(connection: socket.socket, until: float) -> bytes:
    """Read until the answer ends, MAX_REPLY_BYTES is reached, or the time `until` passes."""
    answer = b""
    while len(answer) < MAX_REPLY_BYTES:
        connection.settimeout(max(0.01, until - time.monotonic()))
        part = connection.recv(MAX_REPLY_BYTES - len(answer))
        if not part:
            break
        answer += part
    return answer


def _parse_reply(answer: bytes) -> tuple[int, str]:
    head, _, body = answer.decode("utf-8", "replace").partition("\r\n\r\n")
    words = head.split(" ", 2)
    if len(words) < 2 or not words[0].startswith("HTTP/1.") or not words[1].isdecimal():
        return 0, "the program that answers there is not MailWatch"
    return int(words[1]), body.strip() or head.splitlines()[0]
