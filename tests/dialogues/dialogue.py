"""What a dialogue is: what a server said that its user reported, and what MailWatch has to say of it."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum, auto

from mailwatch.model import Cause, Kind, Outcome, Phase


class Then(Enum):
    """What the server does after it has said its words."""

    GO_ON = auto()
    CLOSE = auto()
    SILENCE = auto()


@dataclass(frozen=True, slots=True)
class Step:
    """What the server says to a command; "CONNECT" is the connection itself.

    Several steps for one command are its answers one after another, and the last of them stays. Each line of a
    text ends with CR LF on the wire, and {tag} is the tag of the command (IMAP); bytes go out as they are.
    """

    to: str
    says: str | bytes
    then: Then = Then.GO_ON


@dataclass(frozen=True, slots=True)
class Right:
    """The right verdict. All causes that can be defended are allowed; the outcome never varies."""

    outcome: Outcome
    causes: frozenset[Cause | None]
    phases: frozenset[Phase | None]


@dataclass(frozen=True, slots=True)
class Dialogue:
    """A server that differs from a healthy one by its steps only.

    `source` names the public report; its words are retold and shortened, its names and addresses replaced. `why`
    is the reason of the verdict. `timeout` is in seconds. `pieces` cuts all that the server says into packets of
    so many bytes; 0 leaves it whole.
    """

    name: str
    kind: Kind
    steps: tuple[Step, ...]
    right: Right
    source: str
    why: str
    timeout: int = 20
    pieces: int = 0


UP = Right(Outcome.UP, frozenset({None}), frozenset({None}))


def not_up(at: Phase, *causes: Cause) -> Right:
    """Return the verdict that one of `causes` stopped the probe in the phase `at`; all of one outcome."""
    (outcome,) = {cause.outcome for cause in causes}
    return Right(outcome, frozenset(causes), frozenset({at}))
