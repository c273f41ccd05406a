"""The sections of config.yaml for hubs: the one to which this ledger is pushed, and a hub of one's own."""

from __future__ import annotations

from typing import Annotated, Literal
from urllib.parse import urlsplit

from pydantic import BeforeValidator, Field

from mailwatch.config.errors import FieldError
from mailwatch.config.schema_witness import LogKey
from mailwatch.config.types import Endpoint, Seconds, Section, checked_by, split_endpoint
from mailwatch.net import is_near, page_problem

MAX_SENT_TARGETS = 10_000


def _url_problem(url: str) -> str:
    wrong = page_problem(url, "is not the address of a hub", "https://hub.example.org", schemes=("http", "https"))
    if not wrong and url.startswith("http://") and not is_near(urlsplit(url).hostname or ""):
        # What is pushed is signed, but not encrypted.
        return "would send observations unencrypted over the internet; write https"
    return wrong


def _send(value: object) -> object:
    if value in ("all", "checkpoints"):
        return value
    names = value if isinstance(value, list | tuple) else ()
    if 0 < len(names) <= MAX_SENT_TARGETS and all(isinstance(one, str) and one for one in names):
        if len(set(names)) != len(names):
            raise FieldError("names a target twice; keep one")
        return tuple(names)
    raise FieldError("must be all, checkpoints, or a list of targets")


class HubSection(Section):
    """A hub to which this vantage point pushes its ledger (docs/how-to/hub.md). `mailwatch join` prints it."""

    url: Annotated[str, Field(max_length=2000), checked_by(_url_problem)]
    """Its address. https, or http within one's own network: what is pushed is signed, but not encrypted."""
    key: LogKey
    """The key of its ledger, the line in its keys/ledger.pub."""
    send: Annotated[Literal["all", "checkpoints"] | tuple[str, ...], BeforeValidator(_send)]
    """What leaves this machine: all, the targets in a list, or only checkpoints, which hold no observation."""
    every: Seconds = 30.0
    """How long new entries may wait at most."""


class HubServerSection(Section):
    """A hub of one's own, to which others push. It cosigns with keys/witness.pub in the data_dir."""

    listen: Endpoint = "127.0.0.1:9744"
    """The address that the vantage points reach, or a reverse proxy; the default only serves this machine."""

    @property
    def endpoint(self) -> tuple[str, int]:
        """The host and port to listen on."""
        return split_endpoint(self.listen)
