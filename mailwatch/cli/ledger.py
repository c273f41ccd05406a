"""mailwatch ledger audit: recomputes the whole ledger and says whether it is as it was written."""

from __future__ import annotations

import argparse
import json
import sys

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from mailwatch.cli.opening import open_config, open_reader, options
from mailwatch.replay import audit_maintenance, audit_outages, rule_book
from mailwatch.store import Finding, Reader, Tokens, audit, audit_tokens
from mailwatch.store.keys import Keys, load_or_make


def add(verb: argparse.ArgumentParser) -> None:
    """Say what the verb takes."""
    actions = verb.add_subparsers(required=True, metavar="audit")
    action = actions.add_parser("audit", help="recompute hashes, signatures and outages; exit 1 if one differs")
    options(action)
    action.set_defaults(run=_audit)


def _audit(args: argparse.Namespace) -> int:
    config = open_config(args)
    reader = open_reader(config)
    keys = load_or_make(config.data_dir)
    size, signed = reader.size(), reader.last_checkpoint()
    findings = _entries(reader, keys, size)
    targets = sorted({entry.target for entry in reader.entries(kinds=["outage"]) if entry.target})
    for target in targets:
        findings += audit_outages(reader, rule_book(reader), target)
    tokens, more = audit_tokens(reader, Tokens(config.data_dir))
    findings += more
    findings += audit_maintenance(reader)
    reader.close()
    plain = {
        "valid": not findings,
        "origin": keys.origin,
        "entries": size,
        "checkpointed": signed.size if signed else 0,
        "tokens": tokens,
        "findings": [{"index": finding.index, "what": finding.what} for finding in findings],
    }
    if args.json:
        print(json.dumps(plain, indent=2, ensure_ascii=False))
        return 1 if findings else 0
    for finding in findings:
        where = "ledger" if finding.index is None else f"entry {finding.index}"
        print(f"{where}: {finding.what}")
    verdict = f"{len(findings)} findings" if findings else "valid: every hash, signature and outage fits"
    print(
        f"{keys.origin}: {size} entries, {plain['checkpointed']} under the last checkpoint, "
        f"{tokens} timestamp tokens; {verdict}"
    )
    return 1 if findings else 0


def _entries(reader: Reader, keys: Keys, size: int) -> list[Finding]:
    columns = (TextColumn("auditing"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True, disable=not sys.stderr.isatty()) as bar:
        task = bar.add_task("audit", total=size)
        return audit(reader, keys.public, keys.secret, lambda done: bar.update(task, completed=done))
