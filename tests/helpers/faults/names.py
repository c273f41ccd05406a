"""A name server that answers as a test wants: rightly, with an error, or never."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Any

import dns.message
import dns.rcode
import dns.rdatatype
import dns.rrset

Records = Sequence[str]
"""What follows the type in a zone file, such as "10 mx1.example.org."."""
Zone = Mapping[str, Records | dns.rcode.Rcode | None]
"""From "NAME TYPE" to records, an error, or None for silence; a name that is not listed is gone."""


@contextlib.asynccontextmanager
async def name_server(zone: Zone, *, port: int = 0, host: str = "127.0.0.1") -> AsyncIterator[int]:
    """Answer by UDP and give the port."""
    transport, _ = await asyncio.get_running_loop().create_datagram_endpoint(
        lambda: _Answers(zone), local_addr=(host, port)
    )
    try:
        yield transport.get_extra_info("sockname")[1]
    finally:
        transport.abort()
        await asyncio.sleep(0)


class _Answers(asyncio.DatagramProtocol):
    def __init__(self, zone: Zone) -> None:
        self._zone = zone

    def connection_made(self, transport: Any) -> None:
        self._transport = transport

    def datagram_received(self, data: bytes, client: Any) -> None:
        query = dns.message.from_wire(data)
        answer = dns.message.make_response(query, recursion_available=True)
        if self._fill(answer):
            self._transport.sendto(answer.to_wire(want_shuffle=False), client)

    def _fill(self, answer: dns.message.Message) -> bool:
        """Put in what the zone has; False for silence."""
        (question,) = answer.question
        name, kind = question.name, dns.rdatatype.to_text(question.rdtype)
        for _ in range(8):
            reply = self._zone.get(f"{name.to_text(omit_final_dot=True)} {kind}", ())
            alias = self._zone.get(f"{name.to_text(omit_final_dot=True)} CNAME")
            if reply is None:
                return False
            if isinstance(reply, dns.rcode.Rcode):
                answer.set_rcode(reply)
                return True
            if isinstance(alias, Sequence):
                answer.answer.append(dns.rrset.from_text(name, 60, "IN", "CNAME", *alias))
                name = answer.answer[-1][0].target
                continue
            if reply:
                answer.answer.append(dns.rrset.from_text(name, 60, "IN", kind, *reply))
            elif not any(known.startswith(f"{name.to_text(omit_final_dot=True)} ") for known in self._zone):
                answer.set_rcode(dns.rcode.NXDOMAIN)
            return True
        return True
