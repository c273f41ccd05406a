"""The shapes of outage.json and period.json, as evidence makes them and as a bundle claims to have them.

Of a bundle that is being checked they say what its makers claim: any key may be absent or of another type, and the
claim that trips over it does not hold.
"""

from __future__ import annotations

from typing import NotRequired, TypedDict, final

from mailwatch.analysis.public_json import EntriesJson, OutageJson, SharesJson
from mailwatch.analysis.replay import StatedInterval
from mailwatch.ledger.settings_payloads import RulesPayload
from mailwatch.ledger.succession import ChainJson


class RangeJson(TypedDict):
    """The entries of the bundle: the first, and the one after the last."""

    first: int
    end: int


class OutsideTimesJson(TypedDict):
    """Between which times of others the record was written (RFC 3339), null on a side without a token."""

    not_before: str | None
    not_after: str | None


class AuthorityJson(TypedDict):
    """Who signed tokens: the names in the signer's certificate, "" where the token has none."""

    signer: str
    issuer: str


class ServiceJson(TypedDict, total=False):
    """How a target was watched: as recorded, else as in the config. Durations have a unit."""

    kind: str
    provider: str
    host: str
    port: int
    tls: str
    interval: str
    timeout: str
    url: str
    with_login: bool


WindowJson = TypedDict("WindowJson", {"from": str, "to": str})
"""A window of time, its end not included (RFC 3339)."""


class ReportJson(TypedDict):
    """How report.pdf was made: rendering.py. `machine`: the kind of processor. `window`: that of a period as asked
    for, before it was cut.

    `program`: the last entry about the program before the range, where the range has none. `doubted`: SHA-256 of
    tokens named by entries outside the range, whose authority was not trusted.
    """

    language: str
    timezone: str
    place: str
    typst: str
    mailwatch: str
    machine: str
    window: NotRequired[WindowJson]
    program: NotRequired[dict[str, str]]
    doubted: NotRequired[list[str]]


class WitnessStatementJson(TypedDict):
    """What a witness states about the mailbox of these targets: its key, and the signed note."""

    key: str
    targets: list[str]
    statement: str


class DkimKeyJson(TypedDict):
    """A key by which a DKIM signature of a message is valid: its TXT record, as looked up `at` (RFC 3339)."""

    domain: str
    selector: str
    key: str
    at: str


class DeclarationJson(TypedDict):
    """An enclosed declaration: its file, the proof (hashes in hex) from its size to the range, and the keys of its
    DKIM signatures that were looked up when it was kept.
    """

    file: str
    proof: list[str]
    keys: NotRequired[list[DkimKeyJson]]


MAKER_KEY = "keys/maker.pub"
"""The key of who made a bundle, where that is not the ledger's owner."""


class MakerJson(TypedDict):
    """Who made a bundle of another owner's ledger: a hub to which it was pushed. All but the entries is its word.

    `ledger`: of the hub. `member`: the hub's name for the vantage point. `pushed`: when its last push was taken
    (RFC 3339).
    """

    ledger: str
    vantage_point: str
    member: str
    pushed: str | None


class Statement(TypedDict):
    """What both say. `clock_error` is in seconds, and stated where it matters."""

    format: str
    made_by: str
    ledger: str
    as_of: str
    rules: RulesPayload
    range: RangeJson
    outside_times: OutsideTimesJson
    authorities: NotRequired[list[AuthorityJson]]
    clock_error: NotRequired[float]
    report: NotRequired[ReportJson]
    chain: NotRequired[list[ChainJson]]
    witnesses: NotRequired[list[WitnessStatementJson]]
    own_witness: NotRequired[str]
    declarations: NotRequired[list[DeclarationJson]]


class UserNameJson(TypedDict):
    """A login name, and the key (hex) that shows it to be the one on record (ledger/entry.py)."""

    name: str
    key: str


@final
class OutageStatement(Statement):
    """What outage.json says.

    `rules`: those in force at the outage's latest entry. `rules_before`: those in force at the beginning of the
    range, if others; each `node` entry in the range states those in force from there on.
    """

    outage: OutageJson
    replies: list[str]
    first_detail: str
    rules_before: NotRequired[RulesPayload]
    service: ServiceJson | None
    user_name: NotRequired[UserNameJson]
    claim: NotRequired[dict[str, object]]


class PeriodTarget(TypedDict):
    """A target of a period. `interval` is the one that its observations suggest, in seconds."""

    target: str
    provider: str
    kind: str
    interval: float
    intervals: NotRequired[list[StatedInterval]]
    service: ServiceJson | None


class StatedDowntime(TypedDict):
    """How long a target was down, in seconds."""

    min: float
    max: float


class TargetAvailability(TypedDict):
    """What was observed of a target in the window; durations in seconds."""

    target: str
    availability: SharesJson
    coverage: float | None
    downtime: StatedDowntime
    observations: dict[str, int]
    unobserved: float
    mttr: float | None
    mtbf: float | None
    maintenance: NotRequired[float]


@final
class PeriodStatement(Statement):
    """What period.json says."""

    window: WindowJson
    vantage_point: str
    targets: list[PeriodTarget]
    availability: list[TargetAvailability]
    outages: list[OutageJson]
    entries: EntriesJson
    maker: NotRequired[MakerJson]
