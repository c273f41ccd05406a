"""Faults of the handshake and of certificates, which all kinds that speak TLS share."""

from __future__ import annotations

import contextlib
import datetime
import functools
import ssl
import tempfile
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import replace
from pathlib import Path

import trustme

from mailwatch.model import TlsMode
from mailwatch.settings import Target
from tests.helpers.faults.fault import SHORT_TIMEOUT_SECONDS, Place
from tests.helpers.scripted_server import SILENCE, Step, scripted_server

Issue = Callable[[trustme.CA], trustme.LeafCert]


@functools.cache
def authority() -> trustme.CA:
    """The authority that targets trust."""
    return trustme.CA()


def served(leaf: trustme.LeafCert) -> ssl.SSLContext:
    """A server's context with that certificate."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    leaf.configure_cert(context)
    return context


def good(ca: trustme.CA) -> trustme.LeafCert:
    """A certificate as it should be."""
    return ca.issue_cert("127.0.0.1", "localhost")


def expired(ca: trustme.CA) -> trustme.LeafCert:
    """One that ended in 2020."""
    begin, end = (datetime.datetime(year, 1, 1, tzinfo=datetime.UTC) for year in (2019, 2020))
    return ca.issue_cert("127.0.0.1", not_before=begin, not_after=end)


def of_another(ca: trustme.CA) -> trustme.LeafCert:
    """One for another name."""
    return ca.issue_cert("other.example")


def self_made(_: trustme.CA) -> trustme.LeafCert:
    """One by an unknown authority."""
    return trustme.CA().issue_cert("127.0.0.1")


@contextlib.contextmanager
def trusted() -> Iterator[Path]:
    """A file with the authority's certificate."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "ca.pem"
        authority().cert_pem.write_to_path(str(path))
        yield path


def secured(*script: Step, issue: Issue = good, tls: TlsMode = TlsMode.IMPLICIT) -> Place:
    """A server that plays the script, in which `ssl.SSLContext` is where TLS begins; at once if it has none."""

    @contextlib.asynccontextmanager
    async def place(target: Target) -> AsyncIterator[Target]:
        context = served(issue(authority()))
        steps = [context if step is TLS else step for step in script]
        steps = steps if TLS in script else [context, *steps]
        with trusted() as ca_file:
            async with scripted_server(steps) as port:
                timeout = SHORT_TIMEOUT_SECONDS if script == (SILENCE,) else target.timeout
                yield replace(target, port=port, tls=tls, ca_file=ca_file, timeout=timeout)

    return place


TLS: Step = "TLS begins"
"""Stands for the context in a script of `secured`."""
