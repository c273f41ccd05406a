"""Caveats: what a reader of a valid bundle must know before believing it, by name.

They follow from the entries of the bundle and from the catalogue that ships, never from what the operator says of
them. The report prints them on its first page, `mailwatch verify` after its claims, both from the same code: the
operator holds the key, but does not choose which of them appear.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol, cast

from mailwatch.ledger.earlier_entry import EarlierEntry
from mailwatch.ledger.settings_payloads import rules_from
from mailwatch.model import ControlState, Kind, Outcome, Rules
from mailwatch.net import is_near, is_outside, peer_host
from mailwatch.times import Millis, overlap_length, parse_rfc3339

CODES = (
    "other_server",
    "local_server",
    "unknown_provider",
    "own_ca",
    "guard_off",
    "no_controls",
    "local_controls",
    "clock_off",
    "clock_off_witness",
    "clock_set",
    "rules_beyond",
    "last_good",
    "untrusted_tokens",
    "no_tokens",
    "not_ours_rule",
    "not_ours_maintenance",
    "other_targets",
)
"""The codes of all caveats, in the order in which they are printed."""
NOTES = frozenset({"unknown_provider", "no_tokens", "not_ours_maintenance", "other_targets"})
"""Those that an honest owner often has: the report states them where they belong, and not in red on page one."""
UP, DOWN = Outcome.UP.value, Outcome.DOWN.value
MAX_RULE_COUNT = 10
"""Largest `open_after` and `close_after` that the config accepts."""
MAX_CLOCK_ERROR_MS: Millis = 600_000
"""Error or steps of the wall clock that need no caveat: ten minutes."""
MAINTENANCE_TOLERANCE_MS: Millis = 60_000
MAX_NAMED = 4
"""Hosts, addresses or controls that one caveat names."""
MAX_PEERS = 1000
_MAILBOX = re.compile(r"[^@\s]{1,255}@([^@\s/]{1,255})(?:/.*)?")


@dataclass(frozen=True, slots=True)
class Caveat:
    """A caveat. `figures`: what its text names; `ms` is milliseconds, times are RFC 3339."""

    code: str
    figures: Mapping[str, str | int] = field(default_factory=dict)

    @property
    def grave(self) -> bool:
        """Whether it belongs on the first page in red."""
        return self.code not in NOTES


class KnownProvider(NamedTuple):
    """A provider of the catalogue. `hosts` of its servers and mail `domains`, in lower case."""

    name: str
    hosts: frozenset[str]
    domains: frozenset[str]


class Catalogue(Protocol):
    """What the catalogue that ships knows. The verifier does not load the catalogue by itself."""

    def provider(self, word: str) -> KnownProvider | None:
        """Return the provider with that key or name, None if there is none."""

    def provider_of(self, domain: str) -> KnownProvider | None:
        """Return the provider of the mailboxes of a domain, None if there is none."""

    def rule(self, key: str) -> Mapping[str, object] | None:
        """Return the promise with that key as in outage.json, None if there is none."""


class GoodStretch(Protocol):
    """Good observations of one target: their indexes and times, and the addresses of all their attempts."""

    @property
    def indices(self) -> Sequence[int]: ...
    @property
    def times(self) -> Sequence[Millis]: ...
    @property
    def peers(self) -> frozenset[str]: ...


def is_local_control(label: str) -> bool:
    """Return whether a control (as "host:port") is on this machine or in its own network, so that its answer says
    nothing of the line.
    """
    host, _, port = label.partition(" ")[0].rpartition(":")
    if not port.isdigit():
        # A name that resolves ("dns:..."), or a target of another provider, which counts only from outside.
        return label.startswith("dns:")
    return is_near(host.strip("[]"))


def answering_controls(controls: Mapping[str, str]) -> tuple[list[str], list[str]]:
    """Return the controls that answered: those of other operators, and those of our own network."""
    answered = sorted(label for label, reason in controls.items() if reason == ControlState.OK)
    ours = [label for label in answered if is_local_control(label)]
    return [label for label in answered if label not in ours], [one for one in ours if not one.startswith("dns:")]


@dataclass(slots=True)
class CaveatFacts:
    """The facts behind the caveats, entry by entry.

    `first`, `last`: the entries of the outage, or of the range of a period. Servers and rules are those in force
    from `first` on.
    """

    first: int = 0
    last: int = -1
    failed: int = 0
    unasked: int = 0
    """Failed observations without an answer of the guard."""
    others: int = 0
    """Failed observations at which another operator's control answered."""
    only_local: int = 0
    """Failed observations at which only controls of our own network answered."""
    local_controls: set[str] = field(default_factory=set)
    servers: dict[str, set[tuple[str, str, bool]]] = field(default_factory=dict)
    """Kind, host and whether a certificate file of the owner decides, by target."""
    peers: set[tuple[str, str]] = field(default_factory=set)
    """Targets and the addresses that were observed, with their ports."""
    rules: set[Rules] = field(default_factory=set)
    known_rules: bool = False
    """Whether a start or reload up to `first` says which were in force there."""
    stepped: Millis = 0
    """By how much the wall clock was set in all, up to the entry `last`."""
    good_after: dict[str, int] = field(default_factory=dict)
    """Up observations after the latest down observation, by target."""
    latest: dict[str, str] = field(default_factory=dict)
    """Outcome of the latest observation, by target."""
    announced: list[tuple[Millis, Sequence[Mapping[str, Any]]]] = field(default_factory=list)
    """Maintenance rules of each start or reload, with the time from which they count."""
    distrusted: set[str] = field(default_factory=set)
    """SHA-256 of the tokens whose entry says that their certificates led to no trusted authority."""
    opaque: dict[str, str] = field(default_factory=dict)
    """Opaque ids of the targets by their names."""
    hidden: int = 0
    """Entries of other targets, which are in the bundle without their content."""
    hidden_targets: set[str] = field(default_factory=set)
    _time: Millis = 0

    @classmethod
    def of_statement(cls, stated: Mapping[str, Any]) -> CaveatFacts:
        """Return the empty facts for outage.json or period.json, which may be malformed: then nothing counts."""
        try:
            if "outage" in stated:
                where = stated["outage"]["ledger"]
                return cls(int(where["first"]), int(where["last"]))
            return cls(int(stated["range"]["first"]), int(stated["range"]["end"]) - 1)
        except (KeyError, TypeError, ValueError, AttributeError, OverflowError):
            return cls()

    def feed(self, index: int, kind: str, time: Millis, target: str, payload: Mapping[str, Any]) -> None:
        """Process an entry with its payload. What cannot be read is left to the claims."""
        try:
            if kind == "observation":
                # Nearly all entries.
                self._add_observation(index, target, payload)
                return
            match kind:
                case "watch" if payload["event"] == "end":
                    self._add_server(index, target, None)
                case "watch":
                    self._add_server(index, target, payload["settings"])
                case "outage" if "watch" in payload and self.first <= payload["ledger"]["first"] <= self.last:
                    # What the outage's own entries say was watched: the range may begin after the target's entry.
                    self._add_server(self.first + 1, target, payload["watch"])
                case "node":
                    self._add_node(index, time, payload)
                case "token" if payload.get("distrust"):
                    self.distrusted.add(str(payload["reply"]))
                case "clock" if payload["event"] == "step" and index <= self.last:
                    self.stepped += abs(int(payload["milliseconds"]))
        except (KeyError, TypeError, ValueError, AttributeError, OverflowError):
            return
        finally:
            self._time = time

    def feed_stretch(self, target: str, stretch: GoodStretch) -> None:
        """Process good observations of a target that follow each other; all are from `first` to `last`."""
        self.latest[target] = UP
        self.good_after[target] = self.good_after.get(target, 0) + len(stretch.indices)
        for peer in sorted(stretch.peers):
            if (target, peer) not in self.peers and len(self.peers) < MAX_PEERS:
                self.peers.add((target, peer))
        self._time = stretch.times[-1]

    def feed_announcement(self, entry: EarlierEntry) -> None:
        """Process the start or reload before the range, for the maintenance that it announced."""
        self.announced.append((entry.time, entry.payload.get("maintenance", {}).get("rules", ())))

    def feed_hidden(self, target: str, count: int = 1) -> None:
        """Process entries of another target, by its name or opaque id."""
        self.hidden += count
        self.hidden_targets.add(target)

    def _add_observation(self, index: int, target: str, payload: Mapping[str, Any]) -> None:
        self.latest[target] = outcome = payload["outcome"]
        if outcome == UP:
            self.good_after[target] = self.good_after.get(target, 0) + 1
        elif outcome == DOWN:
            self.good_after[target] = 0
        if not self.first <= index <= self.last:
            return
        for attempt in payload["attempts"]:
            peer = attempt["peer"]
            if peer and (target, peer) not in self.peers and len(self.peers) < MAX_PEERS:
                self.peers.add((target, peer))
        if outcome == DOWN:
            self._add_failure(payload.get("guard"))

    def _add_failure(self, guard: Mapping[str, Any] | None) -> None:
        self.failed += 1
        if guard is None:
            self.unasked += 1
            return
        others, ours = answering_controls(guard["controls"]) if guard["online"] else ([], [])
        if others:
            self.others += 1
        elif ours:
            self.only_local += 1
            if len(self.local_controls) < MAX_PEERS:
                self.local_controls.update(ours[:MAX_NAMED])

    def _add_server(self, index: int, target: str, settings: Mapping[str, Any] | None) -> None:
        if index > self.last:
            return
        found = self.servers.setdefault(target, set())
        if index <= self.first:
            found.clear()
        if settings is not None and len(found) < MAX_PEERS:
            found.add((str(settings["kind"]), str(settings["host"]), settings["own_ca"] is True))

    def _add_node(self, index: int, time: Millis, payload: Mapping[str, Any]) -> None:
        if "rules" in payload and index <= self.last:
            if index <= self.first:
                self.rules.clear()
                self.known_rules = True
            self.rules.add(rules_from(payload["rules"]))
        if len(self.announced) < MAX_PEERS:
            self.announced.append((max(time, self._time), payload.get("maintenance", {}).get("rules", ())))


@dataclass(frozen=True, slots=True)
class TokenDoubt:
    """The tokens of a bundle: how many, and the authorities whose certificates lead to no trusted one."""

    count: int
    untrusted: Sequence[str] = ()


def caveats(
    stated: Mapping[str, Any], facts: CaveatFacts, tokens: TokenDoubt, catalogue: Catalogue | None
) -> tuple[Caveat, ...]:
    """Return the caveats of a statement that the claims found valid, in the order of CODES.

    Without a catalogue the servers and the rule of the claim are not compared.
    """
    found = [
        *([] if catalogue is None else _server_caveats(stated, facts, catalogue)),
        *_address_caveats(facts),
        *_ca_caveats(facts),
        *_guard_caveats(facts),
        *_clock_caveats(stated, facts, tokens),
        *_rule_caveats(stated, facts),
        *_token_caveats(tokens),
        *([] if catalogue is None else _claim_caveats(stated, catalogue)),
        *_maintenance_caveats(stated, facts),
    ]
    if facts.hidden:
        found.append(Caveat("other_targets", {"entries": facts.hidden, "targets": len(facts.hidden_targets)}))
    return tuple(sorted(found, key=lambda one: CODES.index(one.code)))


def _server_caveats(stated: Mapping[str, Any], facts: CaveatFacts, catalogue: Catalogue) -> Iterable[Caveat]:
    others, unknown = set[tuple[str, str]](), set[tuple[str, str]]()
    disclosed = stated.get("user_name")
    mailbox = str(disclosed.get("name", "")) if isinstance(disclosed, dict) else ""
    for target, provider, kind, host in _watched(stated, facts):
        # Of a provider under another word: a reader of libero.it in the target's or the mailbox's name thinks of
        # Libero.
        domains = _domain_of(target), _domain_of(mailbox)
        known = catalogue.provider(provider) or next(filter(None, map(catalogue.provider_of, domains)), None)
        if known is None:
            unknown.add((provider, host))
        elif not _serves(known, kind, host):
            (unknown if kind == Kind.WEBMAIL else others).add((known.name, host))
    for code, pairs in (("other_server", others), ("unknown_provider", unknown)):
        if pairs:
            yield Caveat(
                code, {"provider": _named(one for one, _ in pairs), "host": _named(one for _, one in pairs)}
            )


def _address_caveats(facts: CaveatFacts) -> Iterable[Caveat]:
    observed = {(target, peer_host(peer)) for target, peer in facts.peers}
    near = {(target, peer) for target, peer in observed if not is_outside(peer)}
    if near:
        # Of several targets it matters whose it was.
        several = len({target for target, _ in observed}) > 1
        yield Caveat(
            "local_server", {"address": _named(f"{peer} ({target})" if several else peer for target, peer in near)}
        )


def _domain_of(target: str) -> str:
    """Return the domain of a mailbox that a target is named after, "" if it is named otherwise."""
    found = _MAILBOX.fullmatch(target)
    return "" if found is None else found[1].casefold()


def _watched(stated: Mapping[str, Any], facts: CaveatFacts) -> Iterable[tuple[str, str, str, str]]:
    """Yield target, provider as stated, kind and host of all that was watched: as recorded, else as stated."""
    one = stated.get("outage")
    listed = stated["targets"] if one is None else [{**one, "service": stated.get("service")}]
    for target in listed:
        servers = {(kind, host) for kind, host, _ in facts.servers.get(target["target"], ()) if host}
        service = target.get("service")
        if not servers and isinstance(service, dict) and isinstance(service.get("host"), str):
            servers = {(str(target["kind"]), service["host"])}
        for kind, host in sorted(servers):
            yield target["target"], str(target["provider"]), kind, host


def _serves(known: KnownProvider, kind: str, host: str) -> bool:
    name = host.casefold().rstrip(".")
    if kind == Kind.MX:
        return name in known.domains
    if kind == Kind.WEBMAIL:
        return any(name == one or name.endswith(f".{one}") for one in known.domains | known.hosts)
    return name in known.hosts


def _ca_caveats(facts: CaveatFacts) -> Iterable[Caveat]:
    hosts = {host for servers in facts.servers.values() for _, host, own in servers if own}
    if hosts:
        yield Caveat("own_ca", {"host": _named(hosts)})


def _guard_caveats(facts: CaveatFacts) -> Iterable[Caveat]:
    if facts.only_local:
        named = _named(facts.local_controls)
        yield Caveat("local_controls", {"n": facts.only_local, "all": facts.failed, "controls": named})
    elif facts.failed and not facts.others:
        off = facts.unasked == facts.failed
        yield Caveat("guard_off" if off else "no_controls", {"all": facts.failed})


def _clock_caveats(stated: Mapping[str, Any], facts: CaveatFacts, tokens: TokenDoubt) -> Iterable[Caveat]:
    error = round(stated.get("clock_error", 0) * 1000)
    if error > MAX_CLOCK_ERROR_MS and not tokens.count:
        yield Caveat("clock_off_witness", {"ms": error})
    elif error > MAX_CLOCK_ERROR_MS:
        times = {key: str(at) for key, at in stated["outside_times"].items() if at is not None}
        yield Caveat("clock_off", {"ms": error, **times})
    if facts.stepped > MAX_CLOCK_ERROR_MS:
        yield Caveat("clock_set", {"ms": facts.stepped})


def _rule_caveats(stated: Mapping[str, Any], facts: CaveatFacts) -> Iterable[Caveat]:
    keys = ("rules",) if facts.known_rules else ("rules", "rules_before")
    rules = facts.rules | {rules_from(stated[key]) for key in keys if key in stated}
    most = max((max(one.open_after, one.close_after), one.open_after, one.close_after) for one in rules)
    if most[0] > MAX_RULE_COUNT:
        yield Caveat("rules_beyond", {"open": most[1], "close": most[2]})
    outage = stated.get("outage")
    if outage is not None and outage["state"] == "open" and facts.latest.get(outage["target"]) == UP:
        figures = {"n": facts.good_after[outage["target"]], "close": stated["rules"]["close_after"]}
        yield Caveat("last_good", figures)


def _token_caveats(tokens: TokenDoubt) -> Iterable[Caveat]:
    if not tokens.count:
        yield Caveat("no_tokens")
    if tokens.untrusted:
        yield Caveat("untrusted_tokens", {"n": len(tokens.untrusted), "names": _named(set(tokens.untrusted))})


def _claim_caveats(stated: Mapping[str, Any], catalogue: Catalogue) -> Iterable[Caveat]:
    claim = cast(Mapping[str, Any], stated.get("claim") or {})
    rule = claim.get("rule")
    if rule is None:
        return
    ours = catalogue.rule(rule["key"])
    if ours is None or {"key": rule["key"], **ours} != rule:
        yield Caveat("not_ours_rule", {"rule": str(rule["name"])})


def _maintenance_caveats(stated: Mapping[str, Any], facts: CaveatFacts) -> Iterable[Caveat]:
    """Yield that the maintenance stated of an outage is not what the starts and reloads of the range announce."""
    outage = stated.get("outage")
    if outage is None:
        return
    stated_ms = round(outage.get("maintenance", 0) * 1000)
    announced = _announced_maintenance(outage, facts)
    if announced is None or abs(announced - stated_ms) > MAINTENANCE_TOLERANCE_MS:
        yield Caveat("not_ours_maintenance", {"ms": stated_ms, "ledger_ms": announced or 0})


def _announced_maintenance(outage: Mapping[str, Any], facts: CaveatFacts) -> Millis | None:
    """Return how much of the outage was announced maintenance by the range; None if its rules cannot be read."""
    if not any(rules for _, rules in facts.announced):
        return 0
    from mailwatch.analysis.maintenance import Announcement, Announcements, MaintenanceRule

    try:
        listed = Announcements(
            tuple(
                Announcement(at, tuple(MaintenanceRule.from_payload(dict(rule)) for rule in rules))
                for at, rules in facts.announced
            )
        )
        begin, end = parse_rfc3339(outage["first_bad"]), parse_rfc3339(outage["last_bad"])
        windows = listed.windows_of(facts.opaque.get(outage["target"], ""), begin, end)
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError):
        return None
    return overlap_length(windows, begin, end)


def _named(names: Iterable[str]) -> str:
    """Return names as a list in words, shortened; they may be anything."""
    listed = sorted({name[:80] or "–" for name in names})
    return ", ".join(listed[:MAX_NAMED]) + (", …" if len(listed) > MAX_NAMED else "")
