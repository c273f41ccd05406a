"""Checks each timestamp token of a bundle: over its checkpoint, named by its entry, signed by whom.

And the times that the entries give themselves: between the tokens around them they must lie.

Whom the verifier believes: what was named with --trust, else the system's authorities.
"""

from __future__ import annotations

import ssl
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from mailwatch.certificates import UnreadableCertificate, read_pem, readable
from mailwatch.evidence.verify.archive import Refused

if TYPE_CHECKING:
    from cryptography import x509
import hashlib
from collections.abc import Callable, Collection, Mapping
from itertools import accumulate, pairwise
from typing import Any

from mailwatch.analysis.elapsed import Moment, TokenReading, clock_error
from mailwatch.evidence.verify.entries import NEVER, Named, Walk
from mailwatch.ledger.timestamp import TOLERANCE, Anchors, TimestampError, Token, check, verify
from mailwatch.times import Millis, parse_rfc3339, rfc3339


@dataclass(slots=True)
class Trust:
    """What is trusted beforehand: keys of ledgers in their one-line form, and authorities' certificates."""

    keys: set[str] = field(default_factory=set)
    certificates: list[x509.Certificate] = field(default_factory=list)

    @classmethod
    def read(cls, paths: Sequence[Path]) -> Trust:
        """Read --trust files: PEM certificates, or a line as in keys/ledger.pub. Raises ValueError, OSError."""
        trust = cls()
        for path in paths:
            raw = path.read_bytes()
            if b"-----BEGIN CERTIFICATE-----" in raw:
                try:
                    trust.certificates += read_pem(raw)
                except UnreadableCertificate as error:
                    raise ValueError(f"{path}: certificate cannot be read: {error}") from None
            elif raw.count(b"+") >= 2:
                trust.keys |= {line.strip() for line in raw.decode().splitlines() if line.strip()}
            else:
                raise ValueError(f"{path} holds neither PEM certificates nor a ledger's key")
        return trust


def certificates(raw: bytes, name: str) -> list[x509.Certificate]:
    """Read PEM certificates of a bundle. Raises Refused."""
    try:
        return read_pem(raw)
    except UnreadableCertificate as error:
        raise Refused(f"{name} holds no certificates: {error}") from None


def system() -> list[x509.Certificate]:
    """Return the authorities that this machine trusts."""
    raw = ssl.create_default_context().get_ca_certs(binary_form=True)
    return readable(raw)


LATE: Millis = 60_000
"""How long after its end a look may be on record: the guard is asked, routes are traced, the disk is slow."""
DRIFT = 1_000
"""One thousandth: far more than the oscillator of a computer is off, or than NTP slews a clock."""
UNSTATED: Millis = 600_000
"""A clock error up to here need not be stated: ten minutes."""


@dataclass(frozen=True, slots=True)
class Stamp:
    """A token that fits: the entry that names it, the size it is over, its time, and on whose word it rests."""

    entry: int
    checkpoint: int
    time: Millis
    authority: str
    trusted: bool
    off: Millis
    """How far our own clock was off then, as far as the entry tells."""
    boot: str = ""
    clock: Millis = 0
    """The reading of the entry that names it: the clock that nobody can set, a moment after the token was made."""


@dataclass(frozen=True, slots=True)
class Trusted:
    """Where a chain may end; `enclosed`: also in what the bundle itself holds, unless that is None."""

    anchors: Anchors
    enclosed: Anchors | None


def stamps(
    listed: Any,
    files: Collection[str],
    read: Callable[[str], bytes],
    notes: Mapping[int, str],
    named: Mapping[str, Named],
    trusted: Trusted,
) -> list[Stamp]:
    """Check every token. `read` gives the file of a name; `named` is what entries say of them.

    Raises Refused at the first that does not fit.
    """
    if not isinstance(listed, list) or not all(isinstance(one, dict) for one in listed):
        raise Refused("proof.json: tokens is not a list of objects")
    found, seen = [], set()
    for one in listed:
        name, size, index = one.get("file"), one.get("checkpoint"), one.get("entry")
        if not isinstance(name, str) or not isinstance(size, int) or not isinstance(index, int):
            raise Refused("proof.json: a token without file, checkpoint and entry")
        if name not in files or size not in notes:
            raise Refused(f"{name[:80]}: the file or its checkpoint {str(size)[:20]} is missing")
        if name in seen:
            raise Refused(f"proof.json names {name} twice")
        seen.add(name)
        reply = read(name)
        digest = hashlib.sha256(reply).hexdigest()
        if name != f"tokens/{digest}.tsr":
            raise Refused(f"{name} is not the reply that it is named after")
        entry = named.get(digest)
        if entry is not None and (entry.index, entry.checkpoint) != (index, size):
            raise Refused(f"{name}: entry {entry.index} names it for checkpoint {str(entry.checkpoint)[:20]}")
        found.append(_stamp(name, reply, notes[size], size, entry, trusted))
    if spare := set(files) - seen:
        raise Refused(f"{min(spare)} is not named in proof.json")
    return found


def _stamp(name: str, reply: bytes, note: str, size: int, entry: Named | None, trusted: Trusted) -> Stamp:
    try:
        token = check(reply, note)
    except TimestampError as error:
        raise Refused(f"{name}: {error}") from None
    if entry is not None and entry.time != token.time:
        raise Refused(f"{name}: entry {entry.index} tells another time than the token")
    known = _known(name, reply, note, token, trusted)
    off = _off(entry, token.time)
    if entry is None:
        return Stamp(-1, size, token.time, token.authority, known, off)
    return Stamp(entry.index, size, token.time, token.authority, known, off, entry.boot, entry.clock)


def _known(name: str, reply: bytes, note: str, token: Token, trusted: Trusted) -> bool:
    """Whether the signature leads to whom we trust; False where only to what is enclosed. Raises Refused."""
    try:
        verify(reply, note, trusted.anchors, token)
        return True
    except TimestampError as error:
        reason = str(error)
    if trusted.enclosed is None:
        raise Refused(f"{name} by {token.authority or 'nobody named'}: {reason}; --trust may be repeated")
    try:
        verify(reply, note, trusted.enclosed, token)
    except TimestampError:
        raise Refused(f"{name}: {reason}; give the authority's certificate with --trust") from None
    return False


def _off(entry: Named | None, time: Millis) -> Millis:
    if entry is None or not isinstance(entry.asked, int) or not isinstance(entry.answered, int):
        return 0
    return max(0, entry.asked - time, time - entry.answered)


def outside_times(found: Sequence[Stamp], first: int, last: int) -> dict[str, str | None]:
    """Compute between which outside times the entries `first` to `last` were written."""
    before = [stamp.time for stamp in found if 0 <= stamp.entry <= first]
    after = [stamp.time for stamp in found if stamp.checkpoint > last]
    return {
        "not_before": rfc3339(max(before)) if before else None,
        "not_after": rfc3339(min(after)) if after else None,
    }


def fitting(found: Sequence[Stamp], walk: Walk) -> str:
    """Compare the times that entries give themselves with each other and the tokens; return how well they fit.

    What is on record of our clock is allowed for: how far it was off at each token, by how much it was set, and
    how long the machine slept, since a look may go on record only afterwards.
    Raises Refused when an entry claims to be older, or younger, than a token shows it to be.
    """
    off, stirred, spans = max((stamp.off for stamp in found), default=0), walk.stirred, walk.spans
    allowed = LATE + off + stirred
    _paced(found, walk)
    if walk.overlap > allowed:
        raise Refused(f"a look is said to begin {walk.overlap} ms before the one before it had ended")
    if not found:
        return "no outside time to compare the clock with"
    latest = dict(zip((span.end for span in spans), accumulate((span.latest for span in spans), max), strict=True))
    earliest = dict(
        zip(
            (span.begin for span in reversed(spans)),
            accumulate((span.earliest for span in reversed(spans)), min),
            strict=True,
        )
    )
    for stamp in found:
        last = latest.get(stamp.checkpoint, -NEVER)
        # The entry that names a token may lie behind the range: then none follows it here.
        first = earliest.get(stamp.entry + 1, NEVER) if stamp.entry >= 0 else NEVER
        if last > stamp.time + allowed:
            raise Refused(f"{_told(stamp)} is over entries that are dated later, {_date(last)}")
        if first < stamp.time - allowed:
            raise Refused(f"{_told(stamp)} stands before entries that are dated earlier, {_date(first)}")
    words = f"what entries say of their own time fits the tokens, at which our clock was off by at most {off} ms"
    return words + (f"; it was set, or MailWatch stood still, for {stirred} ms in all" if stirred else "")


def _paced(found: Sequence[Stamp], walk: Walk) -> None:
    """The clock that nobody can set must go as the authorities' clocks do. Raises Refused.

    A token was made after the last entry under its checkpoint was written, and before the entry that names it.
    """
    read = {span.end: (span.boot, span.clock) for span in walk.spans}
    ordered = sorted(found, key=lambda stamp: stamp.checkpoint)
    for first, later in pairwise(ordered):
        boot, clock = read.get(later.checkpoint, ("", 0))
        passed = later.time - first.time
        if boot and boot == first.boot and clock - first.clock > passed + TOLERANCE + max(0, passed) // DRIFT:
            raise Refused(
                f"the clock that nobody can set went on by {clock - first.clock} ms between the tokens of "
                f"{rfc3339(first.time)} and {rfc3339(later.time)}, which are {passed} ms apart"
            )
        boot, clock = read.get(first.checkpoint, ("", 0))
        if boot and boot == later.boot and passed > later.clock - clock + TOLERANCE + max(0, passed) // DRIFT:
            raise Refused(
                f"the clock that nobody can set went on by {later.clock - clock} ms between the tokens of "
                f"{rfc3339(first.time)} and {rfc3339(later.time)}, which are {passed} ms apart"
            )


def bounded(outage: Mapping[str, Any], found: Sequence[Stamp], off: Millis) -> None:
    """Hold an outage as it is stated against the tokens on both sides of it. Raises Refused.

    `off` is the clock error that is stated, in milliseconds. What lies between two tokens is no longer than they
    are apart, and neither the first nor the last failure lies outside of them.
    """
    where = outage["ledger"]
    before = [stamp for stamp in found if 0 <= stamp.entry <= where["first"]]
    after = [stamp for stamp in found if stamp.checkpoint > where["last"]]
    start = max((stamp.time for stamp in before), default=None)
    end = min((stamp.time for stamp in after), default=None)
    bad, last = parse_rfc3339(outage["first_bad"]), parse_rfc3339(outage["last_bad"])
    least = round(outage["duration"]["min"] * 1000)
    allowed = LATE + off
    clock = outage.get("clock") or {}
    if clock.get("wall"):
        # An old record has only the wall clock, which was set within: what was written after that is dated by
        # that.
        allowed += round(clock["stepped"] * 1000)
    if start is not None and end is not None and least > max(0, end - start) + TOLERANCE:
        raise Refused(
            f"the minimum of outage {outage['id'][:20]}, {least} ms, is longer than the tokens around it allow: "
            f"{rfc3339(start)} and {rfc3339(end)} are {end - start} ms apart"
        )
    if start is not None and bad < start - allowed:
        raise Refused(
            f"the first failure of outage {outage['id'][:20]} is dated {_date(bad)}, before the token of "
            f"{rfc3339(start)}, after which it is on record"
        )
    if end is not None and last > end + allowed:
        raise Refused(
            f"the last failure of outage {outage['id'][:20]} is dated {_date(last)}, after the token of "
            f"{rfc3339(end)}, before which it is on record"
        )


def stated_error(
    stated: Mapping[str, Any], found: Sequence[Stamp], walk: Walk, anchors: Sequence[Moment | None]
) -> Millis:
    """Return by how many milliseconds the wall clock of the times was off by the tokens, as far as that is stated.

    `anchors` is a moment of each outage as it is shown: what the wall clock showed at another time is not stated
    there.

    An error of more than ten minutes that is not stated, or stated as less, is refused: whoever reads the times
    would take them for right. Raises Refused.
    """
    asked = max((stamp.off for stamp in found), default=0)
    read = {span.end: (span.boot, span.clock) for span in walk.spans}
    readings = []
    for stamp in found:
        boot, clock = read.get(stamp.checkpoint, ("", 0))
        # The entry that names the last token may lie behind the range.
        named = stamp.clock if stamp.boot and stamp.boot == (boot or stamp.boot) else None
        readings.append(TokenReading(stamp.time, boot or stamp.boot, clock if boot else None, named))
    errors = [clock_error(anchor, readings) for anchor in anchors]
    off = max((asked if error is None else error for error in errors), default=asked)
    said = stated.get("clock_error", 0)
    if isinstance(said, bool) or not isinstance(said, int | float) or not 0 <= said < 1e12:
        raise Refused("the stated clock error is no number of seconds")
    if off > UNSTATED and off > round(said * 1000) + TOLERANCE:
        raise Refused(f"by its tokens the clock was off by {off} ms, of which {said:g} s are stated")
    return off


def _told(stamp: Stamp) -> str:
    return f"the token of {rfc3339(stamp.time)}"


def _date(at: Millis) -> str:
    try:
        return rfc3339(at)
    except (OverflowError, ValueError, OSError):
        return f"{at} ms"


def words(found: Sequence[Stamp]) -> str:
    """Say whose tokens they are, of which times, and on whose word they rest."""
    if not found:
        return "none: no outside time bounds the entries"
    doubtful = [stamp for stamp in found if not stamp.trusted]
    said = f"{len(found)} by {_names(found)}, each over its checkpoint"
    said += f", from {rfc3339(min(one.time for one in found))} to {rfc3339(max(one.time for one in found))}"
    if doubtful:
        said += f"; {len(doubtful)} by {_names(doubtful)} lead only to certificates in the bundle itself: "
        said += "compare those with the authority's"
    return said


def _names(found: Sequence[Stamp]) -> str:
    return ", ".join(sorted({stamp.authority or "nobody named" for stamp in found}))
