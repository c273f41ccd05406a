"""The controls that the guard asks, and how a control proves its identity.

A completed connection alone is no proof: the gateway of a hotel or a train accepts it in the control's place. So a
control whose name is known must present the certificate of that name in a handshake.
"""

from __future__ import annotations

import asyncio
import logging
import socket
import ssl
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from mailwatch.guard.control_dates import ControlTime, read_control_time, without_dates
from mailwatch.guard.shared_check import reason_of
from mailwatch.model import ControlState
from mailwatch.net import plain_host

IPV4, IPV6 = 4, 6
FAMILIES = (IPV4, IPV6)

OPERATORS: dict[str, frozenset[str]] = {
    "one.one.one.one": frozenset({"1.1.1.1", "1.0.0.1", "2606:4700:4700::1111", "2606:4700:4700::1001"}),
    "dns.quad9.net": frozenset({"9.9.9.9", "149.112.112.112", "2620:fe::fe", "2620:fe::9"}),
    "dns.google": frozenset({"8.8.8.8", "8.8.4.4", "2001:4860:4860::8888", "2001:4860:4860::8844"}),
}
"""Public name servers of several operators: their names and known addresses."""
_NAMES = {address: name for name, addresses in OPERATORS.items() for address in addresses}
_TLS_PORTS = (443, 853)


@dataclass(frozen=True, slots=True)
class Control:
    """An endpoint to connect to. With a `name`, only its certificate counts (`ca_file`: trust this alone).

    The operators known by their addresses are asked for their certificates without configuration.
    """

    host: str
    port: int
    name: str = ""
    ca_file: Path | None = None

    @property
    def label(self) -> str:
        """The control as "host:port", with an IPv6 address in brackets."""
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    @property
    def certified(self) -> str:
        """The name whose certificate is required, "" if a connection is enough."""
        if self.name:
            return self.name
        if self.ca_file is not None:
            return self.host
        return _NAMES.get(plain_host(self.host), "") if self.port in _TLS_PORTS else ""


logger = logging.getLogger(__name__)
_NO_DEADLINE_SECONDS = 3600.0
"""Seconds for a handshake, longer than any deadline of a caller."""


class Reachability:
    """Connects to controls; creates each TLS context once."""

    def __init__(self) -> None:
        self._contexts: dict[tuple[Path | None, bool], ssl.SSLContext] = {}
        self._logged: set[Path | None] = set()

    async def control_time(self, control: Control, addresses: Sequence[str], timeout: float) -> ControlTime | None:
        """Return the time by a control that has a certificate, None if it cannot be had.

        The caller sets the deadline; an answer beyond the certificate may take `timeout` seconds of it.
        """
        context = self._context(control.ca_file, timeless=True)
        if context is None:
            return None
        for address in addresses:
            try:
                sock = await _connect(address, control.port)
            except OSError:
                continue
            try:
                return await read_control_time(sock, context, control.certified, timeout)
            except (OSError, ValueError):
                # ValueError: the dates of the certificate cannot be read.
                continue
            finally:
                sock.close()
        return None

    async def reach(self, control: Control, address: str) -> str:
        """Return "ok", or why the control could not be reached at `address`. Has no deadline."""
        context = self._context(control.ca_file) if control.certified else None
        if control.certified and context is None:
            return ControlState.MONITOR
        try:
            sock = await _connect(address, control.port)
        except OSError as error:
            return reason_of(error)
        if context is None:
            sock.close()
            return ControlState.OK
        try:
            return await _handshake(sock, context, control.certified)
        except OSError as error:
            return reason_of(error)
        finally:
            sock.close()

    def _context(self, ca_file: Path | None, *, timeless: bool = False) -> ssl.SSLContext | None:
        """Return the context that trusts `ca_file` or the system's authorities, None if it cannot be made.

        A `timeless` context ignores dates.
        """
        context = self._contexts.get((ca_file, timeless))
        if context is None:
            try:
                context = without_dates(_make_context(ca_file)) if timeless else _make_context(ca_file)
                self._contexts[ca_file, timeless] = context
            except (OSError, ValueError) as error:
                if ca_file not in self._logged:
                    logger.error("guard: certificates cannot be verified: %s", error)
                self._logged.add(ca_file)
        return context


def _make_context(ca_file: Path | None) -> ssl.SSLContext:
    """Make a context. Raises OSError if it trusts no authority: every server would seem an impostor."""
    context = ssl.create_default_context(cafile=ca_file)
    paths = ssl.get_default_verify_paths()
    folder = paths.capath if ca_file is None else None
    # OpenSSL reads a folder only on demand, so its certificates are not counted.
    if not context.cert_store_stats()["x509_ca"] and not (folder and any(Path(folder).iterdir())):
        raise OSError(f"no authority is trusted in {ca_file or 'this system; install ca-certificates'}")
    return context


async def _connect(address: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    sock = socket.socket(family, socket.SOCK_STREAM)
    try:
        sock.setblocking(False)
        await asyncio.get_running_loop().sock_connect(sock, (address, port))
    except BaseException:
        sock.close()
        raise
    return sock


async def _handshake(sock: socket.socket, context: ssl.SSLContext, name: str) -> str:
    transport, _ = await asyncio.get_running_loop().create_connection(
        asyncio.Protocol, sock=sock, ssl=context, server_hostname=name, ssl_handshake_timeout=_NO_DEADLINE_SECONDS
    )
    try:
        connection = transport.get_extra_info("ssl_object")
        # If the peer disconnects during the handshake, the loop may return a connection without TLS.
        return ControlState.OK if connection is not None and connection.version() else ControlState.DISCONNECTED
    finally:
        transport.abort()
        # The loop closes the socket in its next iteration.
        await asyncio.sleep(0)
