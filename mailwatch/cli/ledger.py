"""mailwatch ledger audit: recomputes the whole ledger and reports whether it is as it was written.

mailwatch ledger compact: writes the file of the ledger anew without its free pages.

mailwatch ledger successor: begins a new ledger, with a new key, that names the lost one. `mailwatch run
--successor` does the same before it starts, and nothing if no ledger is lost, as after a restart of the service.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, TypedDict

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from mailwatch.cli.common import add_options, open_config, open_reader
from mailwatch.cli.errors import print_error
from mailwatch.cli.language import tr, translated
from mailwatch.config import Config
from mailwatch.ledger.entry import target_id
from mailwatch.store import (
    Finding,
    Reader,
    StoreDamagedError,
    Succession,
    Tokens,
    audit,
    audit_cosignatures,
    audit_database,
    audit_signed,
    audit_tokens,
    begin_successor,
    load_keys,
)
from mailwatch.store.announcements import read_announcements
from mailwatch.store.availability_history import Subject, audit_history
from mailwatch.store.compact import CompactStep, compact
from mailwatch.store.hub_register import HubRegister
from mailwatch.store.kept_audit import audit_damaged_states, audit_kept_symptoms
from mailwatch.store.keys import Keys
from mailwatch.store.place import Place, configured_place
from mailwatch.store.postgres import PostgresPlace
from mailwatch.store.postgres_roles import prepare_tables
from mailwatch.store.pruning import pruned_entries
from mailwatch.store.replay import (
    audit_maintenance,
    audit_outage_index,
    audit_outages,
    rule_book,
)

if TYPE_CHECKING:
    from mailwatch.hub.member_audit import AuditedMember


def add(verb: argparse.ArgumentParser) -> None:
    """Add the arguments."""
    actions = verb.add_subparsers(required=True, metavar="audit|compact|successor|prepare")
    action = actions.add_parser(
        "audit", help="recompute all hashes, signatures and outages; exit 1 if one differs"
    )
    add_options(action)
    action.set_defaults(run=_audit)
    action = actions.add_parser(
        "compact", help="give the free pages of the ledger's file back to the disk; MailWatch must not run"
    )
    add_options(action)
    action.set_defaults(run=_compact)
    action = actions.add_parser(
        "successor", help="begin a new ledger, with a new key, that names the lost one; MailWatch must not run"
    )
    action.add_argument(
        "--older",
        action="store_true",
        help="the database is a restored backup, and more was signed after that backup",
    )
    add_options(action)
    action.set_defaults(run=_successor)
    action = actions.add_parser(
        "prepare", help="make or update the tables in PostgreSQL, as their owner, for the role in the config"
    )
    action.add_argument(
        "--owner", required=True, metavar="URL", help="address of the database with the owner's name, no password"
    )
    add_options(action, json=False)
    action.set_defaults(run=_prepare)


def _audit(args: argparse.Namespace) -> int:
    config = open_config(args)
    with open_reader(config) as reader:
        return _print_result(args, *_audited(config, reader))


def _compact(args: argparse.Namespace) -> int:
    config = open_config(args)
    if config.database is not None:
        print_error(
            "mailwatch: PostgreSQL uses free pages again by itself (autovacuum); there is nothing to compact"
        )
        return 2
    done = compact(config.data_dir, _print_step)
    if args.json:
        print(json.dumps(asdict(done), indent=2, ensure_ascii=False))
    else:
        print(
            tr(
                "{origin}: {entries} entries; the file had {before} MB and has {after} MB now",
                origin=done.origin,
                entries=done.entries,
                before=f"{done.before / 1e6:.1f}",
                after=f"{done.after / 1e6:.1f}",
            )
        )
    return 0


def _print_step(step: CompactStep) -> None:
    if sys.stderr.isatty() and step is not CompactStep.DONE:
        print_error(tr(step.value))


def _successor(args: argparse.Namespace) -> int:
    done = begin_successor(configured_place(open_config(args)), older=args.older)
    if args.json:
        print(json.dumps({**asdict(done), "archive": str(done.archive)}, indent=2, ensure_ascii=False))
    else:
        print(translated(succession_text(done)))
    return 0


def _prepare(args: argparse.Namespace) -> int:
    config = open_config(args)
    if config.database is None:
        print_error(
            "mailwatch: the config names no database, and SQLite needs no preparation; write `database:` into it "
            "first"
        )
        return 2
    place = configured_place(config)
    assert isinstance(place, PostgresPlace)
    prepare_tables(PostgresPlace(config.data_dir, args.owner), place.user)
    print(tr("{database}: the tables are prepared for the role {role}", database=place, role=place.user))
    return 0


def succession_text(done: Succession) -> str:
    """Return a completed succession in words."""
    if done.predecessor:
        named = f"{done.origin} is the successor of {done.predecessor}"
    else:
        named = f"{done.origin} is the successor of a ledger whose name is lost"
    return f"{named}; what is left of that one is kept in {done.archive}"


class MemberAuditJson(TypedDict):
    """A member of a hub in the output of `mailwatch ledger audit --json`."""

    name: str
    ledger: str
    entries: int
    findings: list[FindingJson]


class FindingJson(TypedDict):
    """A finding. `index`: of the entry, None for the ledger as a whole."""

    index: int | None
    what: str


class _Audit:
    """The findings, part by part. A part that a damaged database cannot supply is a finding; the audit goes on."""

    def __init__(self) -> None:
        self.members: list[AuditedMember] = []
        self.findings: list[Finding] = []
        self.pending: list[Finding] = []

    @property
    def is_valid(self) -> bool:
        """Whether nothing was found, in this ledger and in those of members."""
        return not self.findings and not any(one.findings for one in self.members)

    @contextlib.contextmanager
    def part(self, what: str) -> Iterator[None]:
        """Run one part of the audit. Records StoreDamagedError as a finding."""
        try:
            yield
        except StoreDamagedError as error:
            self.add([Finding(None, f"{what}: {error.public_reason}")])

    def add(self, found: list[Finding]) -> None:
        """Add findings, each once."""
        for one in found:
            same = self.pending if one.pending else self.findings
            if one not in same:
                same.append(one)


@dataclass(frozen=True, slots=True)
class _Ledger:
    """The ledger audited and its size. `cosignatures`: of witnesses. `pruned`: entries that cannot be checked."""

    origin: str
    entries: int
    checkpointed: int
    tokens: int
    cosignatures: int
    pruned: int


def _audited(config: Config, reader: Reader) -> tuple[_Ledger, _Audit]:
    keys = load_keys(config.data_dir)
    done, size, signed, tokens, cosignatures, pruned = _Audit(), 0, None, 0, 0, 0
    with done.part("the size of the ledger"):
        signed, size, pruned = reader.last_checkpoint(), reader.size(), pruned_entries(reader)
    done.add(_entries(reader, keys, size))
    done.add(audit_signed(config.data_dir, keys, size))
    with done.part("outages"):
        for target in reader.targets():
            with done.part(f"the outages of {target}"):
                done.add(audit_outages(reader, rule_book(reader), target, size))
        done.add(audit_outage_index(reader))
        done.add(audit_damaged_states(reader))
        done.add(list(audit_kept_symptoms(reader)))
    with done.part("availability"):
        announced = read_announcements(reader)
        for target in reader.targets():
            done.add(audit_history(reader, Subject(target, target_id(keys.secret, target), announced), size))
    with done.part("timestamp tokens"):
        tokens, more = audit_tokens(reader, Tokens(configured_place(config)))
        done.add(more)
    with done.part("cosignatures of witnesses"):
        cosignatures, more = audit_cosignatures(reader)
        done.add(more)
    with done.part("confirmed outages"):
        from mailwatch.hub.quorum import audit_decisions  # Only a hub has any.

        done.add(list(audit_decisions(reader, keys.origin, configured_place(config))))
    with done.part("announced maintenance"):
        done.add(audit_maintenance(reader))
    done.add(audit_database(reader))
    with done.part("the members of this hub"):
        done.members += _members(configured_place(config), reader)
    return _Ledger(keys.origin, size, signed.size if signed else 0, tokens, cosignatures, pruned), done


def _members(place: Place, own: Reader) -> list[AuditedMember]:
    """Audit the ledgers of a hub's members. Raises StoreDamagedError."""
    from mailwatch.hub.member_audit import audit_members  # Only a hub has any.

    with contextlib.closing(HubRegister(place, read_only=True)) as register:
        return list(audit_members(place, own, register.members() if register.exists() else []))


def _print_members(members: Sequence[AuditedMember]) -> None:
    for one in members:
        for finding in one.findings:
            where = tr("ledger") if finding.index is None else tr("entry {index}", index=finding.index)
            print(f"{one.member.name}: {where}: {translated(finding.what)}")
        if not one.findings:
            form = "{name}: {entries} entries, as their owner signed them"
            print(tr(form, name=one.member.name, entries=one.entries))


def _print_result(args: argparse.Namespace, ledger: _Ledger, done: _Audit) -> int:
    if args.json:
        plain = {
            "valid": done.is_valid,
            **asdict(ledger),
            "findings": _findings_json(done.findings),
            "pending": _findings_json(done.pending),
            "members": [_member_json(one) for one in done.members],
        }
        print(json.dumps(plain, indent=2, ensure_ascii=False))
        return 0 if done.is_valid else 1
    for finding in (*done.findings, *done.pending):
        where = tr("ledger") if finding.index is None else tr("entry {index}", index=finding.index)
        print(f"{where}: {translated(finding.what)}")
    count = len(done.findings)
    sizes = tr(
        "{origin}: {entries} entries, {checkpointed} under the last checkpoint, {tokens} timestamp tokens",
        **asdict(ledger),
    )
    if not done.findings:
        conclusion = tr("valid: all hashes, signatures and outages are correct")
    else:
        conclusion = tr("1 finding") if count == 1 else tr("{count} findings", count=count)
    if done.pending:
        conclusion += f"; {tr('the next start records {count} outage(s)', count=len(done.pending))}"
    if ledger.pruned:
        unchecked = "of {pruned} pruned entries only the roots are left, which the signatures cover"
        conclusion += f"; {tr(unchecked, pruned=ledger.pruned)}"
    print(f"{sizes}; {conclusion}")
    _print_members(done.members)
    return 0 if done.is_valid else 1


def _findings_json(found: Iterable[Finding]) -> list[FindingJson]:
    return [{"index": finding.index, "what": finding.what} for finding in found]


def _member_json(one: AuditedMember) -> MemberAuditJson:
    member = one.member
    findings = _findings_json(one.findings)
    return {"name": member.name, "ledger": member.origin, "entries": one.entries, "findings": findings}


def _entries(reader: Reader, keys: Keys, size: int) -> list[Finding]:
    columns = (TextColumn(tr("auditing")), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True, disable=not sys.stderr.isatty()) as bar:
        task = bar.add_task("audit", total=size)
        return audit(reader, keys.public, keys.secret, lambda done: bar.update(task, completed=done))
