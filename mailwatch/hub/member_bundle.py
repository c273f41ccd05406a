"""Makes the bundle of a member out of the ledger that it pushed: its entries and checkpoints, and the hub's word.

The hub has no member's key. Nothing that only an owner can say is in it: no report of its own, no signature of a
PDF, no claim, no declaration. A payload that was withheld is not there; its hash is.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import cast

from mailwatch.evidence.joint.quorum import plain_provider
from mailwatch.evidence.ledger_range import EvidenceError
from mailwatch.evidence.period_case import ReportTarget, find_period_evidence, write_period_bundle
from mailwatch.evidence.rendering import Rendering, outside_facts
from mailwatch.evidence.stated import MakerJson, ServiceJson
from mailwatch.ledger.cosignature import parse_verifier_key
from mailwatch.model import TargetSettings
from mailwatch.store import Reader, StoreError, Tokens, queries
from mailwatch.store.hub_register import HubMember
from mailwatch.store.keys import EvidenceKeys, Keys, PushedKeys
from mailwatch.store.member_ledger import member_place
from mailwatch.store.member_reader import MemberReader
from mailwatch.store.place import Place
from mailwatch.times import Window, rfc3339

NOTHING_PUSHED = "it has pushed nothing yet"
NOTHING_SHOWN = "it sends no observation"
OTHER_CHANNELS = "it does not observe this, as far as it sends what it observes"
NO_EVIDENCE = "nothing of it is on record and signed in this time"
NOT_READABLE = "its ledger here cannot be read"


class AbsentError(Exception):
    """A member has no part in the evidence. The message may be published; `detail` may name its targets."""

    def __init__(self, reason: str, detail: str = "") -> None:
        super().__init__(reason)
        self.detail = detail or reason


@dataclass(frozen=True, slots=True)
class Asked:
    """What evidence is about: a window of time, and channels, "" for all of them."""

    window: Window
    provider: str = ""
    kind: str = ""
    target: str = ""

    def wants(self, name: str, settings: TargetSettings) -> bool:
        """Return whether it is about a target."""
        return (
            self.target in ("", name)
            and self.kind in ("", settings.kind.value)
            and (not self.provider or plain_provider(self.provider) == plain_provider(settings.provider))
        )


@dataclass(frozen=True, slots=True)
class Contribution:
    """A ledger that evidence may be made of: who it is, its reader, its tokens, and the keys for its bundle."""

    name: str
    vantage_point: str
    reader: Reader
    tokens: Tokens
    keys: EvidenceKeys
    maker: MakerJson | None = None
    """None: its owner makes it."""


@contextlib.contextmanager
def pushed_by(hub: Place, keys: Keys, vantage_point: str, member: HubMember) -> Iterator[Contribution]:
    """Open what a member pushed. `keys`, `vantage_point`: of the hub. Raises AbsentError."""
    place = member_place(hub, member.origin)
    public = parse_verifier_key(member.key).public
    pushed = None if member.pushed_at is None else rfc3339(member.pushed_at)
    maker = MakerJson(ledger=keys.origin, vantage_point=vantage_point, member=member.name, pushed=pushed)
    with contextlib.ExitStack() as stack:
        try:
            reader = stack.enter_context(contextlib.closing(MemberReader.open(place)))
        except FileNotFoundError:
            raise AbsentError(NOTHING_PUSHED) from None
        except (StoreError, OSError) as error:
            raise AbsentError(NOT_READABLE, f"{NOT_READABLE}: {error}") from None
        tokens = stack.enter_context(contextlib.closing(Tokens(place)))
        yield Contribution(
            member.name, member.vantage_point, reader, tokens, PushedKeys(public, keys.private), maker
        )


def write_contribution(path: Path, one: Contribution, asked: Asked, how: Rendering) -> None:
    """Write the bundle of a ledger about what is asked, without a report of its own. Raises AbsentError."""
    try:
        targets = _targets(one.reader, asked)
        case = find_period_evidence(one.reader, one.tokens, one.keys, asked.window, targets, one.vantage_point)
        case.statement["report"] = how.as_json(outside_facts(one.reader, case.range))
        if one.maker is not None:
            case.statement["maker"] = one.maker
        with path.open("xb") as out:
            write_period_bundle(out, one.reader, one.keys, case, how.language, [])
    except EvidenceError as error:
        raise AbsentError(NO_EVIDENCE, str(error)) from None
    except StoreError as error:
        raise AbsentError(NOT_READABLE, f"{NOT_READABLE}: {error}") from None


def _targets(reader: Reader, asked: Asked) -> Sequence[ReportTarget]:
    """Return the targets that are asked for, as they were watched then. Raises AbsentError if there are none."""
    found, is_shown = list[ReportTarget](), False
    for name in reader.targets():
        is_shown = True
        change = queries.recorded_change_at(reader, name, asked.window[1])
        if change is not None and asked.wants(name, change.fact.settings):
            settings = change.fact.settings
            found.append(ReportTarget(name, settings.provider, settings.kind.value, _service(settings)))
    if not found:
        raise AbsentError(OTHER_CHANNELS if is_shown else NOTHING_SHOWN)
    return found


def _service(settings: TargetSettings) -> ServiceJson:
    """Return how a target was watched, as it is on record."""
    recorded: dict[str, object] = {
        "kind": settings.kind.value,
        "provider": settings.provider,
        "host": settings.host,
        "port": settings.port,
        "tls": settings.tls.value,
        "interval": f"{settings.interval}ms",
        "timeout": f"{settings.timeout}ms",
    }
    shown = {key: value for key, value in recorded.items() if value}
    return cast(ServiceJson, shown | {"with_login": bool(settings.login)})
