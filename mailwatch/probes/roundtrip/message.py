"""The message of a round trip: its text, its token, and the messages still under way. Pure.

A message is under way when it was accepted and has not arrived yet; the ledger has all that is known of it.
"""

from __future__ import annotations

import hashlib
import hmac
import quopri
import re
import secrets
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from email.utils import format_datetime

from mailwatch import monotonic
from mailwatch.facts import ObservationFacts
from mailwatch.ledger.declaration import framed
from mailwatch.model import Observation
from mailwatch.times import Millis

TOKEN_PREFIX = "mailwatch."  # noqa: S105
"""The prefix of the Message-ID and of the token header; mailboxes are searched for it."""
TOKEN_FIELD = "X-MailWatch-Token"  # noqa: S105 (the name of a field)
SEAL_FIELD = "X-MailWatch-Seal"
_TOKEN = re.compile(r"mailwatch\.([0-9a-f]{32})\b")
_SEAL = re.compile(r"\s*(\d{1,16}) ([0-9a-f]{64})\s*")

_BODY = """\
Questo messaggio è stato inviato da MailWatch, un programma che controlla se questa casella funziona.
Serve a misurare quanto impiega un messaggio ad arrivare. MailWatch lo cancella da sé;
se è rimasto qui, può essere cancellato senza alcun danno.

This message was sent by MailWatch, a program that checks whether this mailbox works.
It measures how long a message takes to arrive. MailWatch deletes it by itself;
if it was left here, it can be deleted without harm.
"""


@dataclass(frozen=True, slots=True)
class MessageToken:
    """The identity of one of our messages: 128 random bits in hex, and when it was created.

    `clock` is the time of creation on the steady clock, in the boot `boot`; None if unknown.
    """

    token: str
    sent_at: Millis
    clock: Millis | None = field(default=None, compare=False)
    boot: str = field(default="", compare=False)

    def age(self, at: Millis) -> Millis:
        """Return the message's age at the wall time `at`, which must be the current time."""
        if self.clock is None or self.boot != monotonic.origin().boot:
            return at - self.sent_at
        return monotonic.milliseconds() - self.clock

    @property
    def search_text(self) -> str:
        """The text to search a mailbox for."""
        return TOKEN_PREFIX + self.token


def new_token(at: Millis) -> MessageToken:
    """Create the token of a new message."""
    return MessageToken(secrets.token_hex(16), at, monotonic.milliseconds(), monotonic.origin().boot)


class MessageSigner:
    """Seals the messages of one target with HMAC-SHA256, and recognises them.

    Only messages with our seal are ever deleted: it cannot be forged. Each target has its own seal, so that two
    targets with one mailbox do not touch each other's messages.
    """

    def __init__(self, secret: bytes, target: str) -> None:
        self._key = hmac.digest(secret, b"round trip\0" + target.encode(), hashlib.sha256)

    def sign(self, token: MessageToken) -> str:
        """Return the value of the seal's header field."""
        digest = hmac.new(self._key, f"{token.token} {token.sent_at}".encode(), hashlib.sha256).hexdigest()
        return f"{token.sent_at} {digest}"

    def recognise(self, fields: Mapping[str, str]) -> MessageToken | None:
        """Return the token of a message with these header fields (lower-case names); None if it is not ours."""
        token = _TOKEN.search(fields.get(TOKEN_FIELD.lower(), "")) or _TOKEN.search(fields.get("message-id", ""))
        sealed = _SEAL.fullmatch(fields.get(SEAL_FIELD.lower(), ""))
        if token is None or sealed is None:
            return None
        message_token = MessageToken(token[1], int(sealed[1]))
        return (
            message_token
            if hmac.compare_digest(self.sign(message_token), f"{message_token.sent_at} {sealed[2]}")
            else None
        )


_CHECKPOINT = """
Lo stato firmato del registro delle osservazioni, che così è sotto la firma di chi trasporta il messaggio:
The signed state of the record of observations, which is thus under the signature of who carries the message:

"""


def compose(token: MessageToken, seal: str, sender: str, recipient: str, checkpoint: str = "") -> bytes:
    """Return the message (RFC 5322), marked as automatically generated (RFC 3834, section 5).

    `checkpoint`: the note of the ledger's newest one. It stands in the body, which each DKIM signature covers;
    most providers sign no header field that they do not know.
    """
    # An address literal, for example, is no valid right side of a Message-ID.
    domain = re.sub(r"[^A-Za-z0-9.-]", "", sender.rpartition("@")[2]) or "mailwatch.invalid"
    head = {
        "From": f"MailWatch <{sender}>",
        "To": f"<{recipient}>",
        "Subject": f"MailWatch {token.token[:8]}",
        "Date": format_datetime(datetime.fromtimestamp(token.sent_at / 1000, UTC)),
        "Message-ID": f"<{token.search_text}@{domain}>",
        TOKEN_FIELD: token.search_text,
        SEAL_FIELD: seal,
        "Auto-Submitted": "auto-generated",
        "MIME-Version": "1.0",
        "Content-Type": "text/plain; charset=utf-8",
        "Content-Transfer-Encoding": "quoted-printable",
    }
    body = quopri.encodestring((_BODY + (_CHECKPOINT + framed(checkpoint) if checkpoint else "")).encode())
    text = "".join(f"{name}: {value}\n" for name, value in head.items()).encode("utf-8", "surrogateescape")
    return (text + b"\n" + body).replace(b"\n", b"\r\n")


LOST_AFTER_MS: Millis = 7 * 24 * 3_600_000
"""Milliseconds after which a message is lost: queues give up within five days (RFC 5321, section 4.5.4.1)."""
ON_THE_WAY = frozenset({"queued", "missing", "login", "unsure"})
"""The stages after which a message may still arrive."""


@dataclass(frozen=True, slots=True)
class Outstanding:
    """The messages of earlier probes.

    `sent` are under way, oldest first; `recorded` are on record as arrived, and may still be in the mailbox.
    """

    sent: dict[str, MessageToken] = field(default_factory=dict)
    recorded: frozenset[str] = frozenset()

    @classmethod
    def restore(cls, observations: Iterable[Observation]) -> Outstanding:
        """Restore the messages from the recorded observations, oldest first."""
        found = cls()
        for observation in observations:
            found = found.after(observation)
        return found

    def after(self, observation: Observation) -> Outstanding:
        """Return the messages after one more observation."""
        facts: ObservationFacts = observation.facts or {}
        final = (*facts.get("late", ()), *facts.get("lost", ()), *facts.get("bounced", ()))
        ended = {entry["token"] for entry in final}
        sent = {token: message_token for token, message_token in self.sent.items() if token not in ended}
        message = facts.get("message")
        if message and facts.get("stage") in ON_THE_WAY:
            clock = message.get("clock"), message.get("boot", "")
            sent[message["token"]] = MessageToken(message["token"], message["sent_at"], *clock)
        recorded = self.recorded | {entry["token"] for entry in facts.get("late", ())}
        if "left" in facts:
            recorded |= {entry["token"] for entry in facts.get("stray", ())}
            recorded |= {message["token"]} if message and facts.get("stage") == "served" else set()
        return Outstanding(sent, recorded - set(facts.get("cleaned", ())))

    def overdue(self, at: Millis) -> list[MessageToken]:
        """Return the messages that count as lost at `at`."""
        return [token for token in self.sent.values() if token.age(at) > LOST_AFTER_MS]
