"""mailwatch ledger audit: recomputes the whole ledger and reports whether it is as it was written."""

from __future__ import annotations

import argparse
import contextlib
import json
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from mailwatch.cli.common import add_options, open_config, open_reader
from mailwatch.config import Config
from mailwatch.store import (
    Finding,
    Reader,
    StoreDamagedError,
    Tokens,
    audit,
    audit_database,
    audit_signed,
    audit_tokens,
    load_keys,
)
from mailwatch.store.keys import Keys
from mailwatch.store.replay import audit_maintenance, audit_outages, rule_book


def add(verb: argparse.ArgumentParser) -> None:
    """Add the arguments."""
    actions = verb.add_subparsers(required=True, metavar="audit")
    action = actions.add_parser(
        "audit", help="recompute all hashes, signatures and outages; exit 1 if one differs"
    )
    add_options(action)
    action.set_defaults(run=_audit)


def _audit(args: argparse.Namespace) -> int:
    config = open_config(args)
    with open_reader(config) as reader:
        return _print_result(args, *_audited(config, reader))


class _Audit:
    """The findings, part by part. A part that a damaged database cannot supply is a finding; the audit goes on."""

    def __init__(self) -> None:
        self.findings: list[Finding] = []
        self.pending: list[Finding] = []

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
    """The ledger audited and its size."""

    origin: str
    entries: int
    checkpointed: int
    tokens: int


def _audited(config: Config, reader: Reader) -> tuple[_Ledger, _Audit]:
    keys = load_keys(config.data_dir)
    done, size, signed, tokens = _Audit(), 0, None, 0
    with done.part("the size of the ledger"):
        signed, size = reader.last_checkpoint(), reader.size()
    done.add(_entries(reader, keys, size))
    done.add(audit_signed(config.data_dir, keys, size))
    with done.part("outages"):
        for target in reader.targets():
            with done.part(f"the outages of {target}"):
                done.add(audit_outages(reader, rule_book(reader), target, size))
    with done.part("timestamp tokens"):
        tokens, more = audit_tokens(reader, Tokens(config.data_dir))
        done.add(more)
    with done.part("announced maintenance"):
        done.add(audit_maintenance(reader))
    done.add(audit_database(reader))
    return _Ledger(keys.origin, size, signed.size if signed else 0, tokens), done


def _print_result(args: argparse.Namespace, ledger: _Ledger, done: _Audit) -> int:
    if args.json:
        plain = {
            "valid": not done.findings,
            **asdict(ledger),
            "findings": [{"index": finding.index, "what": finding.what} for finding in done.findings],
            "pending": [{"index": finding.index, "what": finding.what} for finding in done.pending],
        }
        print(json.dumps(plain, indent=2, ensure_ascii=False))
        return 1 if done.findings else 0
    for finding in (*done.findings, *done.pending):
        where = "ledger" if finding.index is None else f"entry {finding.index}"
        print(f"{where}: {finding.what}")
    count = len(done.findings)
    conclusion = (
        f"{count} finding{'s' * (count != 1)}"
        if done.findings
        else "valid: all hashes, signatures and outages are correct"
    )
    if done.pending:
        conclusion += f"; the next start records {len(done.pending)} outage(s)"
    print(
        f"{ledger.origin}: {ledger.entries} entries, {ledger.checkpointed} under the last checkpoint, "
        f"{ledger.tokens} timestamp tokens; {conclusion}"
    )
    return 1 if done.findings else 0


def _entries(reader: Reader, keys: Keys, size: int) -> list[Finding]:
    columns = (TextColumn("auditing"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True, disable=not sys.stderr.isatty()) as bar:
        task = bar.add_task("audit", total=size)
        return audit(reader, keys.public, keys.secret, lambda done: bar.update(task, completed=done))
