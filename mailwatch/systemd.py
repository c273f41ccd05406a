"""What systemd is told of the state of its service (sd_notify(3)), over the socket that it names, if it does."""

from __future__ import annotations

import contextlib
import os
import socket
import time


def notify(*lines: str) -> None:
    """Tell it. A socket that is full or gone is passed over: nothing must wait for it."""
    address = os.environ.get("NOTIFY_SOCKET", "")
    if not address:
        return
    if address.startswith("@"):
        address = "\0" + address[1:]
    with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
        sender.setblocking(False)
        sender.sendto("\n".join(lines).encode(), address)


def starting(status: str, seconds: float) -> None:
    """Ask for so many seconds more, from now on, to become ready."""
    notify(f"STATUS={status}", f"EXTEND_TIMEOUT_USEC={seconds * 1_000_000:.0f}")


def reloading() -> None:
    """A reload has begun; `ready` ends it."""
    notify("RELOADING=1", f"MONOTONIC_USEC={time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000}")


def ready(status: str) -> None:
    """The start, or a reload, is over."""
    notify("READY=1", f"STATUS={status}")


def stopping() -> None:
    """The end has begun."""
    notify("STOPPING=1", "STATUS=ending")


def alive() -> None:
    """Keep its watchdog quiet."""
    notify("WATCHDOG=1")


def patience() -> float | None:
    """Return after how many seconds without `alive` it ends us (WatchdogSec=); None if never."""
    whom, text = os.environ.get("WATCHDOG_PID", ""), os.environ.get("WATCHDOG_USEC", "")
    if not text.isdecimal() or int(text) == 0 or whom not in ("", str(os.getpid())):
        return None
    return int(text) / 1_000_000
