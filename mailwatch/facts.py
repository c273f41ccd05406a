"""What stands in the `facts` of attempts and observations: the keys of the record, each absent where unknown.

Times are milliseconds since 1970, UTC; those on the steady clock are named `clock`.
"""

from __future__ import annotations

from typing import TypedDict

from mailwatch.times import Millis


class Handshake(TypedDict, total=False):
    """A TLS handshake, as `TlsFacts` of the model has it."""

    version: str
    cipher: str
    fingerprint: str
    not_after: Millis


class PageHop(TypedDict, total=False):
    """One address on the way to a page.

    `unserved` are the peers that did not connect; `tls` is the handshake, where it differs from the attempt's own.
    """

    url: str
    peer: str
    status: int
    unserved: list[str]
    tls: Handshake


ReceivedHop = TypedDict(
    "ReceivedHop",
    {
        "by": str,
        "from": str,
        "with": str,
        "id": str,
        "address": str,
        "at": Millis,
        "delay_ms": int,
    },
    total=False,
)
"""A Received field of an arrived message (RFC 5321, section 4.4); `delay_ms` is since the hop before."""


class ExpiryFacts(TypedDict, total=False):
    """A certificate that is out of date by our clock, and whose fault that is by evidence of the true time."""

    problem: str
    not_before: Millis
    not_after: Millis
    fault: str
    by: list[str]
    true_time_from: Millis
    true_time_until: Millis


class AttemptFacts(TypedDict, total=False):
    """What an attempt shows besides its phases and replies."""

    words: str
    """"unknown" for a reply that no row of replies.toml fits."""
    owner: str
    """The row that says that the owner has to change something."""
    out_of_date: ExpiryFacts
    certificate: str
    """Why the server's certificate cannot be read."""
    sasl: str
    password_sent: int
    """1 where a password was sent and not answered."""
    end: str
    """Which end of a round trip it is: via or to."""
    exchanger: str
    preference: int
    alias_of: str
    starttls: str
    code: int
    """The reply code that refused, of an exchanger."""
    status: str
    """Its enhanced status code (RFC 3463)."""
    hops: list[PageHop]
    bytes: int
    """The size of a page."""


class MessageFacts(TypedDict, total=False):
    """The message of a round trip, as it was handed in."""

    token: str
    sent_at: Millis
    clock: Millis | None
    boot: str
    accepted_at: Millis
    reply: str
    queue_id: str
    reply_code: int
    status: str


class EarlierMessage(TypedDict, total=False):
    """A message of an earlier round trip that came late, is lost, or came back."""

    token: str
    sent_at: Millis
    seen_at: Millis
    folder: str
    hops: list[ReceivedHop]
    delay_ms: int
    status: str
    diagnostic: str


class DnsAnswer(TypedDict, total=False):
    """One answer of a name server (RFC 1035, section 4.1.1), or why there is none."""

    status: str
    server: str
    servers: list[str]
    chain: list[str]
    addresses: list[str]
    ttl: int


Route = TypedDict(
    "Route",
    {"to": str, "from": str, "hops": list[str], "arrived": bool, "skipped": str, "failed": str},
    total=False,
)
"""The way to a host, router by router, "" for a silent one; or why it is not known."""


class Unasked(TypedDict, total=False):
    """Why a part of a diagnosis is missing."""

    skipped: str
    failed: str


class DiagnosisFacts(TypedDict, total=False):
    """What was asked of the network while a target was down."""

    dns: dict[str, DnsAnswer] | Unasked
    route: Route | Unasked
    clock_error_bound_us: int | None
    skipped: str
    failed: str


class ObservationFacts(TypedDict, total=False):
    """What an observation shows besides its attempts."""

    others: list[dict[str, str]]
    """Further addresses, probed while an outage was open; they decide nothing."""
    exchangers: list[str]
    token_ms: int
    """How long the token endpoint took."""
    token_renewed: int
    """1 where the first token was rejected."""
    diagnosis: DiagnosisFacts
    out_of_date: ExpiryFacts
    # A round trip, and what it found of earlier ones:
    stage: str
    message: MessageFacts
    latency_ms: int
    folder: str
    mailbox: str
    headers: str
    hops: list[ReceivedHop]
    dkim: list[dict[str, str]]
    stored_at: Millis
    clock_skew_ms: int
    delayed: dict[str, str]
    bounce: dict[str, str]
    late: list[EarlierMessage]
    stray: list[EarlierMessage]
    bounced: list[EarlierMessage]
    lost: list[EarlierMessage]
    cleaned: list[str]
    """The tokens of messages that were deleted."""
    left: str
    """Why a message could not be deleted."""
    untidied: str
    """Why the mailbox could not be searched."""
