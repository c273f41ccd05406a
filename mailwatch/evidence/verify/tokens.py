"""Verifies each timestamp token of a bundle: it covers its checkpoint, its entry names it, a trusted authority
signed it.

Also verifies the entries' own times: they must lie between the tokens around them. The verifier trusts the
certificates given with --trust, else the system's authorities.
"""

from __future__ import annotations

import ssl
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from mailwatch.certificates import CertificateError, parse_pem, parse_readable
from mailwatch.evidence.verify.archive import VerificationError

if TYPE_CHECKING:
    from cryptography import x509
import hashlib
from collections.abc import Callable, Collection, Mapping
from itertools import accumulate, pairwise
from typing import Any

from mailwatch.analysis.elapsed import Moment, TokenReading, clock_error
from mailwatch.analysis.outage_record import OutageRecord
from mailwatch.evidence.verify.entries import NEVER_MS, LedgerScan, TokenEntry
from mailwatch.ledger.timestamp import (
    TOKEN_TOLERANCE_MS,
    TimestampError,
    Token,
    TrustAnchors,
    check_reply,
    verify_reply,
)
from mailwatch.times import Millis, rfc3339


@dataclass(slots=True)
class Trust:
    """The trust anchors: keys of ledgers and of witnesses as one line each, and authorities' certificates."""

    keys: set[str] = field(default_factory=set)
    certificates: list[x509.Certificate] = field(default_factory=list)
    witnesses: set[str] = field(default_factory=set)

    @classmethod
    def read(cls, paths: Sequence[Path]) -> Trust:
        """Read --trust files: PEM certificates, or ledger keys as in keys/ledger.pub. Raises ValueError,
        OSError.
        """
        trust = cls()
        for path in paths:
            raw = path.read_bytes()
            if b"-----BEGIN CERTIFICATE-----" in raw:
                try:
                    trust.certificates += parse_pem(raw)
                except CertificateError as error:
                    raise ValueError(f"{path}: certificate cannot be read: {error}") from None
            elif raw.count(b"+") >= 2:
                trust.keys |= {line.strip() for line in raw.decode().splitlines() if line.strip()}
            else:
                raise ValueError(f"{path} contains neither PEM certificates nor the key of a ledger")
        return trust


def certificates(raw: bytes, name: str) -> list[x509.Certificate]:
    """Parse PEM certificates of a bundle. Raises VerificationError."""
    try:
        return parse_pem(raw)
    except CertificateError as error:
        raise VerificationError(f"{name} holds no certificates: {error}") from None


def system_authorities() -> list[x509.Certificate]:
    """Return the certificates of the authorities that this machine trusts."""
    raw = ssl.create_default_context().get_ca_certs(binary_form=True)
    return parse_readable(raw)


LATE_MS: Millis = 60_000
"""Milliseconds after its end within which an observation is recorded: the guard checks, routes are traced, disks
are slow.
"""
MAX_DRIFT_PARTS = 1_000
"""A drift of one part in this number is allowed: far more than a computer's oscillator drifts or NTP slews."""
MAX_UNSTATED_MS: Millis = 600_000
"""Largest clock error that need not be stated: ten minutes."""


@dataclass(frozen=True, slots=True)
class VerifiedToken:
    """A verified token: the index of the entry that names it, the size of its checkpoint, its time and
    authority.
    """

    entry: int
    checkpoint: int
    time: Millis
    authority: str
    trusted: bool
    clock_error: Millis
    """The error of our own clock then, as far as the entry proves it."""
    boot: str = ""
    clock: Millis = 0
    """Steady-clock reading of the entry that names the token, just after the token was made."""
    issuer: str = ""
    """Name of the issuer of the certificate that `authority` is the name in."""


@dataclass(frozen=True, slots=True)
class TokenTrust:
    """Where a certificate chain may end. `enclosed`: the bundle's own certificates, None if not acceptable."""

    anchors: TrustAnchors
    enclosed: TrustAnchors | None


def verify_tokens(
    listed: object,
    files: Collection[str],
    read: Callable[[str], bytes],
    notes: Mapping[int, str],
    named: Mapping[str, TokenEntry],
    trusted: TokenTrust,
) -> list[VerifiedToken]:
    """Verify every token. `read` returns a file by name. `named`: the entries about tokens. Raises
    VerificationError at the first invalid token.
    """
    if not isinstance(listed, list) or not all(isinstance(one, dict) for one in listed):
        raise VerificationError("proof.json: tokens is not a list of objects")
    found, seen = [], set()
    for one in listed:
        name, size, index = one.get("file"), one.get("checkpoint"), one.get("entry")
        if not isinstance(name, str) or not isinstance(size, int) or not isinstance(index, int):
            raise VerificationError("proof.json: a token without file, checkpoint and entry")
        if name not in files or size not in notes:
            raise VerificationError(f"{name[:80]}: the file or its checkpoint {str(size)[:20]} is missing")
        if name in seen:
            raise VerificationError(f"proof.json names {name} twice")
        seen.add(name)
        reply = read(name)
        digest = hashlib.sha256(reply).hexdigest()
        if name != f"tokens/{digest}.tsr":
            raise VerificationError(f"{name} is not the reply that it is named after")
        entry = named.get(digest)
        if entry is not None and (entry.index, entry.checkpoint) != (index, size):
            raise VerificationError(
                f"{name}: entry {entry.index} names it for checkpoint {str(entry.checkpoint)[:20]}"
            )
        found.append(_verify_token(name, reply, notes[size], size, entry, trusted))
    if unnamed := set(files) - seen:
        raise VerificationError(f"{min(unnamed)} is not named in proof.json")
    return found


def _verify_token(
    name: str, reply: bytes, note: str, size: int, entry: TokenEntry | None, trusted: TokenTrust
) -> VerifiedToken:
    try:
        token = check_reply(reply, note)
    except TimestampError as error:
        raise VerificationError(f"{name}: {error}") from None
    if entry is not None and entry.time != token.time:
        raise VerificationError(f"{name}: entry {entry.index} states another time than the token")
    known = _is_trusted(name, reply, note, token, trusted)
    off = _clock_error(entry, token.time)
    if entry is None:
        return VerifiedToken(-1, size, token.time, token.authority, known, off, issuer=token.issuer)
    return VerifiedToken(
        entry.index, size, token.time, token.authority, known, off, entry.boot, entry.clock, token.issuer
    )


def _is_trusted(name: str, reply: bytes, note: str, token: Token, trusted: TokenTrust) -> bool:
    """Return whether the signature chains to a trusted anchor; False if only to an enclosed one. Raises
    VerificationError.
    """
    try:
        verify_reply(reply, note, trusted.anchors, token)
        return True
    except TimestampError as error:
        reason = str(error)
    if trusted.enclosed is None:
        raise VerificationError(
            f"{name} by {token.authority or 'an unnamed authority'}: {reason}; --trust may be repeated"
        )
    try:
        verify_reply(reply, note, trusted.enclosed, token)
    except TimestampError:
        raise VerificationError(f"{name}: {reason}; give the certificate of the authority with --trust") from None
    return False


def _clock_error(entry: TokenEntry | None, time: Millis) -> Millis:
    if entry is None or not isinstance(entry.asked, int) or not isinstance(entry.answered, int):
        return 0
    return max(0, entry.asked - time, time - entry.answered)


def outside_times(tokens: Sequence[VerifiedToken], first: int, last: int) -> dict[str, str | None]:
    """Return the outside times that bound the writing of entries `first` to `last`."""
    before = [token.time for token in tokens if 0 <= token.entry <= first]
    after = [token.time for token in tokens if token.checkpoint > last]
    return {
        "not_before": rfc3339(max(before)) if before else None,
        "not_after": rfc3339(min(after)) if after else None,
    }


def check_entry_times(tokens: Sequence[VerifiedToken], scan: LedgerScan) -> str:
    """Compare the entries' own times with each other and the tokens; return the result in words.

    It allows for the recorded facts about our clock: its error at each token, its steps, and the time the machine
    slept, since an observation may be recorded only afterwards. Raises VerificationError if an entry claims to be
    older or younger than a token proves.
    """
    off, disturbance, spans = (
        max((token.clock_error for token in tokens), default=0),
        scan.clock_disturbance,
        scan.spans,
    )
    allowed = LATE_MS + off + disturbance
    _check_clock_pace(tokens, scan)
    if scan.overlap > allowed:
        raise VerificationError(f"an observation begins {scan.overlap} ms before the previous one had ended")
    if not tokens:
        return "no external time to compare the clock with"
    latest = dict(zip((span.end for span in spans), accumulate((span.latest for span in spans), max), strict=True))
    earliest = dict(
        zip(
            (span.begin for span in reversed(spans)),
            accumulate((span.earliest for span in reversed(spans)), min),
            strict=True,
        )
    )
    for token in tokens:
        last = latest.get(token.checkpoint, -NEVER_MS)
        # The entry that names a token may be after the range: then no entry follows it here.
        first = earliest.get(token.entry + 1, NEVER_MS) if token.entry >= 0 else NEVER_MS
        if last > token.time + allowed:
            raise VerificationError(f"{_token_text(token)} is over entries that are dated later, {_date(last)}")
        if first < token.time - allowed:
            raise VerificationError(
                f"{_token_text(token)} stands before entries that are dated earlier, {_date(first)}"
            )
    words = f"the times of the entries match the tokens; our clock was off by at most {off} ms"
    return words + (
        f"; it was set, or MailWatch was stopped, for {disturbance} ms in total" if disturbance else ""
    )


def _check_clock_pace(tokens: Sequence[VerifiedToken], scan: LedgerScan) -> None:
    """Check that the steady clock ran at the pace of the authorities' clocks. Raises VerificationError.

    A token was made after the last entry under its checkpoint and before the entry that names it.
    """
    read = {span.end: (span.boot, span.clock) for span in scan.spans}
    ordered = sorted(tokens, key=lambda stamp: stamp.checkpoint)
    for first, later in pairwise(ordered):
        boot, clock = read.get(later.checkpoint, ("", 0))
        passed = later.time - first.time
        if (
            boot
            and boot == first.boot
            and clock - first.clock > passed + TOKEN_TOLERANCE_MS + max(0, passed) // MAX_DRIFT_PARTS
        ):
            raise VerificationError(
                f"the clock that nobody can set advanced by {clock - first.clock} ms between the tokens of "
                f"{rfc3339(first.time)} and {rfc3339(later.time)}, which are {passed} ms apart"
            )
        boot, clock = read.get(first.checkpoint, ("", 0))
        if (
            boot
            and boot == later.boot
            and passed > later.clock - clock + TOKEN_TOLERANCE_MS + max(0, passed) // MAX_DRIFT_PARTS
        ):
            raise VerificationError(
                f"the clock that nobody can set advanced by {later.clock - clock} ms between the tokens of "
                f"{rfc3339(first.time)} and {rfc3339(later.time)}, which are {passed} ms apart"
            )


def check_outage_bounds(outage: OutageRecord, tokens: Sequence[VerifiedToken], clock_error: Millis) -> None:
    """Compare an outage with the tokens on both sides of it. Raises VerificationError.

    `clock_error`: the clock error by the tokens, in milliseconds. The outage must not be longer than the time
    between the two tokens, and neither its first nor its last failure may lie outside them.
    """
    before = [token for token in tokens if 0 <= token.entry <= outage.first_index]
    after = [token for token in tokens if token.checkpoint > outage.last_index]
    start = max((token.time for token in before), default=None)
    end = min((token.time for token in after), default=None)
    bad, last, least = outage.first_bad, outage.last_bad, outage.durations.least
    allowed = LATE_MS + clock_error
    if outage.clock is not None and outage.clock.is_wall:
        # An old record has only the wall clock, which was set during the outage; later entries are dated by the
        # new time.
        allowed += outage.clock.stepped
    if start is not None and end is not None and least > max(0, end - start) + TOKEN_TOLERANCE_MS:
        raise VerificationError(
            f"the minimum of outage {outage.id}, {least} ms, is longer than the tokens around it allow: "
            f"{rfc3339(start)} and {rfc3339(end)} are {end - start} ms apart"
        )
    if start is not None and bad < start - allowed:
        raise VerificationError(
            f"the first failure of outage {outage.id} is dated {_date(bad)}, before the token of "
            f"{rfc3339(start)}, after which it is on record"
        )
    if end is not None and last > end + allowed:
        raise VerificationError(
            f"the last failure of outage {outage.id} is dated {_date(last)}, after the token of "
            f"{rfc3339(end)}, before which it is on record"
        )


def stated_error(
    stated: Mapping[str, Any], tokens: Sequence[VerifiedToken], scan: LedgerScan, anchors: Sequence[Moment | None]
) -> Millis:
    """Return the wall clock's error in milliseconds, by the tokens, after comparing it with the stated error.

    `anchors`: a moment of each outage as displayed; errors of the wall clock at other times are not part of it.

    An error of more than ten minutes that is not stated, or understated, is rejected, since a reader would take
    the times for right. Raises VerificationError.
    """
    asked = max((token.clock_error for token in tokens), default=0)
    read = {span.end: (span.boot, span.clock) for span in scan.spans}
    readings = []
    for token in tokens:
        boot, clock = read.get(token.checkpoint, ("", 0))
        # The entry that names the last token may be after the range.
        named = token.clock if token.boot and token.boot == (boot or token.boot) else None
        readings.append(TokenReading(token.time, boot or token.boot, clock if boot else None, named))
    errors = [clock_error(anchor, readings) for anchor in anchors]
    off = max((asked if error is None else error for error in errors), default=asked)
    stated_seconds = stated.get("clock_error", 0)
    if (
        isinstance(stated_seconds, bool)
        or not isinstance(stated_seconds, int | float)
        or not 0 <= stated_seconds < 1e12
    ):
        raise VerificationError("the stated clock error is not a number of seconds")
    if off > MAX_UNSTATED_MS and off > round(stated_seconds * 1000) + TOKEN_TOLERANCE_MS:
        raise VerificationError(
            f"by its tokens the clock was off by {off} ms, of which {stated_seconds:g} s are stated"
        )
    return off


def _token_text(token: VerifiedToken) -> str:
    return f"the token of {rfc3339(token.time)}"


def _date(at: Millis) -> str:
    try:
        return rfc3339(at)
    except (OverflowError, ValueError, OSError):
        return f"{at} ms"


def tokens_text(tokens: Sequence[VerifiedToken]) -> str:
    """Return the number of tokens, their authorities and times, and whether they are trusted, in words."""
    if not tokens:
        return "none: no external time bounds the entries"
    doubtful = [token for token in tokens if not token.trusted]
    sentence = f"{len(tokens)} by {_names(tokens)}, each over its checkpoint"
    sentence += f", from {rfc3339(min(one.time for one in tokens))} to {rfc3339(max(one.time for one in tokens))}"
    if doubtful:
        sentence += f"; {len(doubtful)} by {_names(doubtful)} lead only to certificates in the bundle itself: "
        sentence += "compare those with the authority's"
    return sentence


def _names(tokens: Sequence[VerifiedToken]) -> str:
    return ", ".join(sorted({_name(token) for token in tokens}))


def _name(token: VerifiedToken) -> str:
    if not token.authority:
        return "an unnamed authority"
    return f"{token.authority} (issued by {token.issuer})" if token.issuer else token.authority


def authorities_of(tokens: Sequence[VerifiedToken]) -> list[dict[str, str]]:
    """Return who signed the tokens, each once, as a statement lists them."""
    known = sorted({(token.authority, token.issuer) for token in tokens})
    return [{"signer": signer, "issuer": issuer} for signer, issuer in known]
