"""Resolves a host name, connects to one address, and starts TLS."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
import socket
import ssl
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from mailwatch.kinds import KINDS
from mailwatch.model import Phase, TlsFacts, TlsMode
from mailwatch.probes import cleartext
from mailwatch.probes.certificates import CapturingTls, CertificateText, TlsFactsCache
from mailwatch.probes.recorder import Recorder
from mailwatch.settings import Login, Target

P = TypeVar("P", bound=asyncio.BaseProtocol)
CloseCallback = Callable[[], Awaitable[None]]
"""Closes the session of a probe that succeeded."""
Lookup = Callable[[str, int, float], Awaitable[tuple["Address", ...]]]
"""A function from host, port and timeout in seconds to addresses."""
MAX_LOOKUP_HANDLES = 4
"""File handles that a lookup may have open at a time: its files, and a socket for each name server."""


class MonitorError(Exception):
    """The probe failed for a reason that is not the server's."""


class Address(NamedTuple):
    """One address of a host. `sockaddr` is the socket module's form of it."""

    family: int
    sockaddr: tuple[Any, ...]

    @property
    def host(self) -> str:
        """The address without the port."""
        return str(self.sockaddr[0])

    @property
    def peer(self) -> str:
        """The address as "address:port", with an IPv6 address in brackets."""
        port = self.sockaddr[1]
        return f"[{self.host}]:{port}" if ":" in self.host else f"{self.host}:{port}"


class TlsContexts:
    """TLS contexts, one for each `ca_file`, and parsed certificates. Created once, shared by all probes."""

    def __init__(self) -> None:
        self._contexts: dict[Path | None, ssl.SSLContext] = {}
        self._unverified: ssl.SSLContext | None = None
        self._certificates = TlsFactsCache()

    def get(self, target: Target) -> ssl.SSLContext:
        """Return the context that trusts the target's `ca_file` or the system's authorities. Raises
        MonitorError.
        """
        if not KINDS[target.kind].verifies_certificate:
            return self._opportunistic()
        context = self._contexts.get(target.ca_file)
        if context is None:
            try:
                context = ssl.create_default_context(cafile=target.ca_file)
            except (OSError, ValueError) as error:
                raise MonitorError(f"cannot load the certificates of {target.ca_file}: {error}") from error
            context.sslobject_class = CapturingTls
            self._contexts[target.ca_file] = context
        return context

    def _opportunistic(self) -> ssl.SSLContext:
        if self._unverified is None:
            self._unverified = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
            self._unverified.check_hostname = False
            self._unverified.verify_mode = ssl.CERT_NONE
        return self._unverified

    def facts(self, connection: ssl.SSLObject) -> tuple[TlsFacts, str]:
        """Return the facts of a finished handshake, and why its certificate cannot be read, "" if it can."""
        return self._certificates.facts(connection)

    def learn_certificate(self, fingerprint: str, text: CertificateText) -> None:
        """Keep what a certificate says that another node met."""
        self._certificates.learn(fingerprint, text)

    def certificate(self, fingerprint: str) -> CertificateText | None:
        """Return what a certificate says that a probe met lately; None for another."""
        return self._certificates.text(fingerprint)


async def resolve(host: str, port: int, timeout: float) -> tuple[Address, ...]:
    """Return all addresses of `host`, A and AAAA, in the order in which a mail program tries them."""
    if address := literal_address(host, port):
        return (address,)
    began = False

    def lookup() -> list[Address]:
        nonlocal began
        began = True
        try:
            found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, proto=socket.IPPROTO_TCP)
        except socket.gaierror as error:
            # A resolver that can open neither /etc/hosts nor a socket also answers that the name is unknown.
            if not _has_free_handles():
                raise MonitorError("no file handle was left to look up the name") from error
            raise
        return [Address(family, sockaddr) for family, _, _, _, sockaddr in found]

    # Not loop.getaddrinfo: a silent name server (a failure of provider or line) must be distinguished from a
    # lookup that never began because all our threads were busy.
    try:
        async with asyncio.timeout(timeout):
            found = await asyncio.get_running_loop().run_in_executor(None, lookup)
    except TimeoutError as error:
        if not began:
            raise MonitorError("no thread was free to resolve the name") from error
        raise
    return tuple(dict.fromkeys(found))


def _has_free_handles() -> bool:
    """Return whether as many file handles are free as a lookup needs at a time."""
    with contextlib.ExitStack() as opened:
        try:
            for _ in range(MAX_LOOKUP_HANDLES):
                opened.callback(os.close, os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC))
        except OSError:
            return False
    return True


def interleave_families(addresses: Iterable[Address]) -> tuple[Address, ...]:
    """Alternate the address families, beginning with that of the first address (RFC 8305, section 4).

    A name with many addresses of a family that does not work from here is then still reached over the other.
    """
    left = list(dict.fromkeys(addresses))
    first = [address for address in left if address.family == left[0].family]
    other = [address for address in left if address.family != left[0].family]
    pairs = itertools.zip_longest(first, other)
    return tuple(address for pair in pairs for address in pair if address is not None)


def literal_address(host: str, port: int) -> Address | None:
    """Return the address if `host` is one, None if it is a name."""
    for family, rest in ((socket.AF_INET, ()), (socket.AF_INET6, (0, 0))):
        try:
            socket.inet_pton(family, host)
        except (OSError, ValueError):
            continue
        return Address(family, (host, port, *rest))
    return None


@dataclass(slots=True)
class ProbeContext:
    """One connection to one address, for one probe of a target. `lookup` resolves hosts that it redirects to."""

    target: Target
    address: Address
    login: Login | None
    recorder: Recorder
    contexts: TlsContexts
    transport: asyncio.Transport | None = None
    lookup: Lookup = resolve

    async def open(self, factory: Callable[[], P]) -> P:
        """Connect, and start TLS if it is implicit."""
        loop = asyncio.get_running_loop()
        implicit = self.target.tls is TlsMode.IMPLICIT
        context = self.contexts.get(self.target) if implicit else None
        with self.recorder.phase(Phase.CONNECT):
            sock = await _connect(loop, self.address)
            if context is None:
                self.transport, protocol = await loop.create_connection(factory, sock=sock)
                return protocol
        with self.recorder.phase(Phase.TLS), contextlib.closing(_duplicate_socket(sock)) as twin:
            try:
                self.transport, protocol = await loop.create_connection(
                    factory,
                    sock=sock,
                    ssl=context,
                    server_hostname=self._server_name(),
                    ssl_handshake_timeout=self._no_handshake_timeout(),
                )
                self._note_tls()
            except OSError as error:
                await cleartext.read_rest(error, twin)
                raise
        return protocol

    async def upgrade(self, protocol: asyncio.BaseProtocol) -> asyncio.Transport:
        """Start TLS on the open connection (STARTTLS), within the caller's phase."""
        if self.transport is None or self.transport.is_closing():
            raise ConnectionResetError("connection lost before the handshake")
        upgraded = await asyncio.get_running_loop().start_tls(
            self.transport,
            protocol,
            self.contexts.get(self.target),
            server_hostname=self._server_name(),
            ssl_handshake_timeout=self._no_handshake_timeout(),
        )
        if upgraded is None:
            raise ConnectionResetError("connection lost in the handshake")
        self.transport = upgraded
        self._note_tls()
        return upgraded

    def close(self) -> None:
        """Abort the connection: a peer that does not answer the close must not cost time."""
        if self.transport is not None:
            self.transport.abort()

    def _server_name(self) -> str:
        return self.target.host.rstrip(".")

    def _no_handshake_timeout(self) -> float:
        """Return a timeout later than the attempt's own deadline, which alone counts."""
        return self.target.timeout + 60.0

    def _note_tls(self) -> None:
        connection = self.transport.get_extra_info("ssl_object") if self.transport else None
        # If the peer disconnects during the handshake, the loop may return a connection without TLS.
        if connection is None or connection.version() is None:
            raise ConnectionResetError("connection lost in the handshake")
        self.recorder.tls, unreadable = self.contexts.facts(connection)
        if unreadable:
            self.recorder.facts["certificate"] = f"cannot be read: {unreadable}"


def _duplicate_socket(sock: socket.socket) -> socket.socket:
    """Duplicate a socket, to read the remaining data after the loop has closed its own handle."""
    try:
        return sock.dup()
    except OSError:
        sock.close()
        raise


async def _connect(loop: asyncio.AbstractEventLoop, address: Address) -> socket.socket:
    sock = socket.socket(address.family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    try:
        sock.setblocking(False)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        await loop.sock_connect(sock, address.sockaddr)
    except BaseException:
        sock.close()
        raise
    return sock
