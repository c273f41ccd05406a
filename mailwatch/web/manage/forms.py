"""Reads the bodies of forms: bounded in bytes, time and fields, and only from our own pages."""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Mapping
from urllib.parse import parse_qs, urlsplit

from pydantic import SecretStr
from starlette.requests import Request

MAX_BYTES = 32 * 1024
MAX_FIELDS = 60
MAX_CHARS = 2000
"""Most characters of a field; what is longer is cut there, and then fails its check."""
SECONDS = 10.0
"""Seconds for a form to arrive."""


class FormError(Exception):
    """A form cannot be read. `status` is that of the answer."""

    def __init__(self, status: int, what: str) -> None:
        super().__init__(what)
        self.status = status


class Form:
    """The fields of a form."""

    def __init__(self, fields: Mapping[str, list[str]]) -> None:
        self._fields = fields

    def text(self, name: str) -> str:
        """Return a field as text without blanks around it, "" without it."""
        return self._first(name).strip()

    def secret(self, name: str) -> SecretStr:
        """Return a field that no page may repeat, as it was typed."""
        return SecretStr(self._first(name))

    def ticked(self, name: str) -> bool:
        """Return whether a box is ticked."""
        return bool(self._first(name))

    def _first(self, name: str) -> str:
        return self._fields.get(name, [""])[0][:MAX_CHARS]


async def read_form(request: Request) -> Form:
    """Read a form of one of our own pages; AccessControl has noted our own names. Raises FormError."""
    if not is_from_our_page(request, getattr(request.state, "hosts", ())):
        raise FormError(403, "other sites may not send forms here")
    if request.headers.get("content-type", "").partition(";")[0].strip() != "application/x-www-form-urlencoded":
        raise FormError(415, "this is not a form")
    body = b""
    try:
        async with asyncio.timeout(SECONDS):
            async for part in request.stream():
                body += part
                if len(body) > MAX_BYTES:
                    raise FormError(413, "too much for a form")
    except TimeoutError:
        raise FormError(408, "the form did not come") from None
    try:
        return Form(parse_qs(body.decode("utf-8", "replace"), keep_blank_values=True, max_num_fields=MAX_FIELDS))
    except ValueError:
        raise FormError(400, "too many fields for a form") from None


def is_from_our_page(request: Request, hosts: Collection[str] = ()) -> bool:
    """Return whether a request can come from one of our own pages: browsers declare where it comes from.

    Our pages have the referrer policy `no-referrer`, with which a browser writes `Origin: null`.
    """
    if request.headers.get("sec-fetch-site", "same-origin") not in ("same-origin", "none"):
        return False
    origin = request.headers.get("origin", "null")
    if origin == "null":
        return True
    try:
        host = urlsplit(origin).netloc.casefold()
    except ValueError:
        return False
    return host == request.headers.get("host", "").casefold() or host.partition(":")[0] in hosts
