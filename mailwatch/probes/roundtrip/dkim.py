"""Checks whether a message arrived as signed (DKIM, RFC 6376); results are those of RFC 8601, section 2.7.1."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable

import dkim
import dns.asyncresolver
import dns.exception
import dns.name
import dns.resolver
from dkim.util import InvalidTagValueList, parse_tag_value

MAX_SIGNATURES = 4
LOOKUP_SECONDS = 5.0
"""Seconds that the lookup of a key may take."""
KeyLookup = Callable[[str], Awaitable[bytes | None]]
"""A function from the name of a key's TXT record to its text, None if there is none. Raises TimeoutError."""

_silent = logging.getLogger(f"{__name__}.library")
_silent.addHandler(logging.NullHandler())
_silent.propagate = False


async def check_signatures(message: bytes, keys: KeyLookup | None = None) -> list[dict[str, str]]:
    """Check each signature of the message: {"result", "domain", "selector", "why"}.

    pass, fail, neutral (out of date by our clock), permerror (no key, or an invalid one), temperror (no answer of
    the name server); one "none" for a message without a signature.
    """
    return [fact for fact, _ in await check_with_keys(message, keys)]


async def check_with_keys(message: bytes, keys: KeyLookup | None = None) -> list[tuple[dict[str, str], bytes]]:
    """Check each signature, as `check_signatures` does; return the TXT record of its key too, b"" without one."""
    lookup = keys or lookup_txt
    found = []
    try:
        fields = _signature_fields(message)
    except Exception:
        # Untrusted: the library raises IndexError for a message that begins within a field.
        return [({"result": "permerror", "why": "the header of the message cannot be read"}, b"")]
    for number, field in enumerate(fields[:MAX_SIGNATURES]):
        found.append(await _checked(message, number, field, lookup))
    return found or [({"result": "none"}, b"")]


async def lookup_txt(name: str, resolver: dns.asyncresolver.Resolver | None = None) -> bytes | None:
    """Look up a TXT record with the system's name server. Raises TimeoutError."""
    try:
        asked = resolver or dns.asyncresolver.Resolver()
        answer = await asked.resolve(name, "TXT", lifetime=LOOKUP_SECONDS, search=False)
    except (dns.resolver.NXDOMAIN, dns.resolver.NoAnswer, dns.name.LabelTooLong, dns.name.EmptyLabel):
        return None
    except (dns.exception.DNSException, OSError) as error:
        raise TimeoutError(str(error)) from error
    return b"".join(answer[0].strings)


def _signature_fields(message: bytes) -> list[bytes]:
    try:
        headers, _ = dkim.rfc822_parse(message)
    except dkim.MessageFormatError:
        return []
    return [value for name, value in headers if name.lower() == b"dkim-signature"]


async def _checked(message: bytes, number: int, field: bytes, lookup: KeyLookup) -> tuple[dict[str, str], bytes]:
    try:
        tags = parse_tag_value(field)
        domain, selector = tags[b"d"].decode("ascii"), tags[b"s"].decode("ascii")
    except (InvalidTagValueList, KeyError, UnicodeDecodeError):
        return {"result": "permerror", "why": "the signature field cannot be read"}, b""
    fact = {"domain": domain[:255], "selector": selector[:255]}
    try:
        async with asyncio.timeout(LOOKUP_SECONDS):
            key = await lookup(f"{selector}._domainkey.{domain}.")
    except TimeoutError:
        return fact | {"result": "temperror", "why": "the name server did not return the key"}, b""
    if key is None:
        return fact | {"result": "permerror", "why": "there is no key of that name"}, b""
    # In a thread: a hostile server can keep the library busy.
    result, why = await asyncio.to_thread(_verified, message, number, key)
    return fact | {"result": result} | ({"why": why[:200]} if why else {}), key


def _verified(message: bytes, number: int, key: bytes) -> tuple[str, str]:
    try:
        checked = dkim.DKIM(message, logger=_silent, minkey=512)
        good = checked.verify(idx=number, dnsfunc=lambda _name, timeout=0: key)
    except dkim.ValidationError as error:
        # The dates are compared with our clock, which may be wrong, so they prove nothing (RFC 6376, section 3.5).
        dated = str(error).startswith(("t= value is in the future", "x= value is past"))
        return ("neutral" if dated else "fail"), str(error)
    except Exception as error:
        return "permerror", f"{type(error).__name__}: {error}"
    if good:
        return "pass", ""
    # The library gives no reason; it has no key size if it could not read the key.
    return ("fail", "the signature does not match") if checked.keysize else ("permerror", "the key is not valid")
