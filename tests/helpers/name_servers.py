"""Resolvers of a real dnsmasq that knows what a test gives it."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from dns.asyncresolver import Resolver

from tests.helpers.requirements import need_root
from tests.servers import DNSMASQ, Dnsmasq, server_folder


@contextlib.contextmanager
def dnsmasq_resolver(*records: str) -> Iterator[Resolver]:
    """Give a resolver of a dnsmasq with these lines of dnsmasq.conf(5); skip the test without one."""
    need_root(str(DNSMASQ))
    with server_folder() as folder, Dnsmasq(folder, *records).running() as server:
        yield server.resolver
